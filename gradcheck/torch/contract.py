"""What PyTorch asks of a derivative besides being right.

The same gradients when it runs twice; shapes, dtypes and layouts of its inputs; zero, or nothing,
for cotangents that are zero or not there; tangents that may be left out or come as a batch. Asked
on the caller's own tensors, without the engine.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.autograd.gradcheck import GradcheckError

from gradcheck.adapters.torch_packed import COMPRESSED, SPARSE
from gradcheck.dropin import warn
from gradcheck.settings import Settings
from gradcheck.torch.calls import (
    MKLDNN,
    Call,
    chosen,
    connected,
    cotangents_of,
    dense,
    form_of,
    is_floating,
    leaves_of,
    tensors_of,
    tupled,
)

__all__ = [
    "Options",
    "check_backward",
    "check_batched_forward",
    "check_beside",
    "check_inputs",
    "check_outputs",
    "check_tangents",
    "check_undefined",
    "check_undefined_tangents",
    "check_unspecified",
    "check_zero_cotangents",
    "require",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller asked for."""

    settings: Settings
    eps: float
    atol: float | None
    nondet_tol: float
    undefined: bool
    dtypes: bool
    batched: bool
    batched_forward: bool
    forward: bool
    backward: bool
    masked: bool


def check_inputs(inputs: tuple[Any, ...]) -> None:
    """Refuse what PyTorch refuses.

    Raises:
        ValueError: no input requires a gradient.
        RuntimeError: entries of an input share memory.
    """
    found = False
    for index, tensor in enumerate(inputs):
        if not isinstance(tensor, torch.Tensor) or not tensor.requires_grad:
            continue
        if tensor.dtype not in (torch.float64, torch.complex128):
            warn(
                f"Input #{index} requires gradient and is not a double precision floating point "
                f"or complex. Errors below what {tensor.dtype} can show may stay unseen."
            )
        content = tensor
        if tensor.layout is torch.sparse_coo:
            content = tensor._values()
        elif tensor.layout in COMPRESSED:
            content = tensor.values()
        pairs = () if tensor.layout == MKLDNN else zip(content.stride(), content.shape, strict=True)
        if any(stride == 0 and size > 1 for stride, size in pairs):
            raise RuntimeError(
                f"The {index}th input has a dimension with stride 0: several of its entries are "
                "one number in memory, and have no gradients of their own. Call .contiguous() on "
                "it first."
            )
        found = True
    if not found and not any(leaves_of(inputs)):
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them "
            "have requires_grad=True."
        )


def check_outputs(outputs: Sequence[torch.Tensor]) -> None:
    kinds = {output.layout for output in outputs}
    if kinds & set(SPARSE):
        raise ValueError(
            "Sparse output is not supported at gradcheck yet. "
            "Call to_dense(masked_grad=...) on it in the function."
        )
    if MKLDNN in kinds:
        raise ValueError(
            "MKLDNN output is not supported at gradcheck yet. "
            "Call to_dense() on it in the function."
        )


def check_beside(call: Call, value: Any, eps: float) -> None:
    """Refuse a function whose outputs have other shapes or dtypes a small step away.

    Raises:
        AssertionError: as PyTorch does.
    """
    first = tensors_of(value)
    for step in (eps, -eps):
        try:
            with torch.no_grad():
                forms = [form_of(leaf, call.masked) for leaf in call.leaves()]
                moved = [f.restore(f.dense + step) for f in forms]
            # Recorded as at the point: what is returned may go by that.
            found = tensors_of(call.replaced([tensor.requires_grad_() for tensor in moved]))
        except Exception:  # the step leaves the domain: the engine knows what to make of that
            continue
        for what in ("shape", "dtype"):
            require(
                [getattr(o, what) for o in found] == [getattr(o, what) for o in first],
                f"Expected the function to return outputs with the same {what} when inputs are "
                f"perturbed, here by {step:.0e}",
            )


def check_backward(call: Call, outputs: Sequence[torch.Tensor], options: Options) -> None:
    """The caller's own graph, run twice: the same gradients, of the right dtype and size."""
    leaves = call.leaves()
    for output in outputs:
        # Absolute values that add up to one: no gradient moves by more than an entry of J does.
        (u,) = cotangents_of([output])
        u = u.detach() * 2.0 ** -max(output.numel(), 1).bit_length()
        once, again = (
            torch.autograd.grad(output, leaves, u, retain_graph=True, allow_unused=True)
            for _ in range(2)
        )
        for leaf, a, b in zip(leaves, once, again, strict=True):
            if a is None or b is None:
                continue
            if options.dtypes and a.dtype != leaf.dtype:
                raise GradcheckError(
                    f"Gradient has dtype mismatch: {a.dtype} for an input of {leaf.dtype}"
                )
            if a.shape != leaf.shape:
                raise GradcheckError(
                    f"Analytical gradient has incorrect size: {tuple(a.shape)} for an input of "
                    f"{tuple(leaf.shape)}"
                )
            if a.layout is not torch.strided:
                _check_layout(a, leaf)
            spread = _largest(dense(a) - dense(b))
            if spread > options.nondet_tol:
                raise GradcheckError(
                    "Backward is not reentrant, i.e., two runs with the same input and "
                    f"grad_output differ, by {spread:.1e}; nondet_tol is {options.nondet_tol}. "
                    "If the operation is not deterministic on purpose, pass nondet_tol."
                )


def check_unspecified(
    call: Call, outputs: Sequence[torch.Tensor], value: Any, options: Options
) -> None:
    """Entries that a sparse input does not specify are zeros, and have gradients, unless masked.

    The engine asked about the tensor with all entries specified; the caller's must agree.
    """
    leaves = call.leaves()
    if not any(leaf.layout in SPARSE for leaf in leaves):
        return
    forms = [form_of(leaf, False) for leaf in leaves]
    entries = [form.dense.clone().requires_grad_() for form in forms]
    full = [form.restore(x) for form, x in zip(forms, entries, strict=True)]
    us = [u.detach() for u in cotangents_of(outputs)]
    own = torch.autograd.grad(outputs, leaves, us, retain_graph=True, allow_unused=True)
    wanted = torch.autograd.grad(chosen(call.replaced(full), value), entries, us, allow_unused=True)
    for k, (a, b) in enumerate(zip(own, wanted, strict=True)):
        if a is None or b is None:
            continue
        rtol = options.settings.tolerance(str(b.dtype).removeprefix("torch."))
        scale = float(b.abs().max()) if b.numel() else 0.0
        if not torch.allclose(dense(a), b, rtol=rtol, atol=options.atol or rtol * scale):
            raise GradcheckError(
                f"Jacobian mismatch for output 0 with respect to input {k},\nnumerical:{b}\n"
                f"analytical:{dense(a)}\nThe gradient of entries that the sparse input does not "
                "specify is missing; pass masked=True if that is meant."
            )


def check_zero_cotangents(call: Call, outputs: Sequence[torch.Tensor], masked: bool) -> None:
    """A gradient is linear in the cotangents: none, of the right kind, where all are zero."""
    leaves = call.leaves()
    zeros = [torch.zeros_like(o, memory_format=torch.contiguous_format) for o in outputs]
    found = torch.autograd.grad(outputs, leaves, zeros, retain_graph=True, allow_unused=True)
    for gradient, leaf in zip(found, leaves, strict=True):
        if gradient is None:
            continue
        values = dense(gradient)
        if not (torch.allclose(values, torch.zeros_like(values)) if masked else values.eq(0).all()):
            raise GradcheckError(
                "backward not multiplied by grad_output: the gradient is "
                f"{_largest(values):.1e} where grad_output is zero"
            )
        own = dense(leaf)
        for what, word in (("dtype", "type"), ("device", "device"), ("shape", "size")):
            if getattr(values, what) != getattr(own, what):
                raise GradcheckError(f"grad is incorrect {word}")


def _check_layout(gradient: torch.Tensor, leaf: torch.Tensor) -> None:
    if gradient.layout is not leaf.layout:
        raise GradcheckError(f"grad is incorrect layout ({gradient.layout} is not {leaf.layout})")
    if gradient.layout not in SPARSE:
        return
    kind = str(gradient.layout).removeprefix("torch.").replace("_coo", "")
    for what in ("sparse_dim", "dense_dim"):
        got, wanted = getattr(gradient, what)(), getattr(leaf, what)()
        if got != wanted:
            raise GradcheckError(
                f"grad is {kind} tensor, but has incorrect {what} {got}, expected {wanted}"
            )


class Undefined(torch.autograd.Function):
    """The identity, whose backward gives no gradient at all."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> None:
        return None


UNDEFINED = (
    "Backwards compatibility: New undefined gradient support checking feature of PyTorch 1.6; "
    "check_undefined_grad=False switches it off"
)


def check_undefined(call: Call) -> None:
    """A gradient that is not there counts as zero: for all outputs, and for each alone."""
    count = len(connected(call.run()))
    sets = [set(range(count)), *({k} for k in range(count) if count > 1)]
    leaves = call.leaves()
    for missing in sets:
        outputs = [
            Undefined.apply(o) if k in missing else o  # type: ignore[no-untyped-call]
            for k, o in enumerate(connected(call.run()))
        ]
        zeros = [torch.zeros_like(o, memory_format=torch.contiguous_format) for o in outputs]
        try:
            found = torch.autograd.grad(outputs, leaves, zeros, allow_unused=True)
        except RuntimeError as error:
            warn(UNDEFINED)
            raise GradcheckError(
                "Expected backward function to handle undefined output grads; it raised "
                f"{type(error).__name__}: {error}"
            ) from error
        if any(gradient is not None and not dense(gradient).eq(0).all() for gradient in found):
            warn(UNDEFINED)
            raise GradcheckError(
                "Expected all input grads to be undefined or zero when all output grads are "
                "undefined or zero"
            )


def check_tangents(call: Call, options: Options) -> None:
    """Forward mode on the caller's own inputs: what it refuses, and of what kind its tangents are.

    Raises:
        ValueError: an input is an MKLDNN tensor.
        GradcheckError: a tangent is real where its output is complex, or the other way round.
    """
    leaves = call.leaves()
    if any(leaf.layout == MKLDNN for leaf in leaves):
        raise ValueError("MKLDNN inputs are not support for forward AD gradcheck.")
    tangents = [u.detach() for u in cotangents_of(leaves)]
    for primal, tangent in pushed(call, dict(enumerate(tangents))):
        if options.dtypes and tangent is not None and primal.is_complex() != tangent.is_complex():
            raise GradcheckError("Forward AD gradient has dtype mismatch.")


def check_undefined_tangents(call: Call) -> None:
    """A tangent of zeros may as well be left out."""
    leaves = call.leaves()
    tangents = [u.detach() for u in cotangents_of(leaves)]
    for k, leaf in enumerate(leaves):
        others = {j: tangent for j, tangent in enumerate(tangents) if j != k}
        zeros = pushed(call, others | {k: torch.zeros_like(leaf)})
        for index, ((_, a), (_, b)) in enumerate(zip(zeros, pushed(call, others), strict=True)):
            if a is not None and b is not None and not torch.allclose(a, b, equal_nan=True):
                raise GradcheckError(
                    f"Mismatch in tangent values for output with index: {index} when input: {k} "
                    f"has an undefined tangent value. Got: {b} but expected: {a}"
                )


def pushed(
    call: Call, tangents: Mapping[int, torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """The floating outputs with their tangents, given those of some leaves."""
    with forward_ad.dual_level(), warnings.catch_warnings():
        # PyTorch's own, when it loads the forward rules of some operators.
        warnings.simplefilter("ignore", DeprecationWarning)
        moved = [
            forward_ad.make_dual(leaf.detach(), tangents[k]) if k in tangents else leaf.detach()  # type: ignore[no-untyped-call]
            for k, leaf in enumerate(call.leaves())
        ]
        outputs = [o for o in tensors_of(call.replaced(moved)) if is_floating(o)]
        return [tuple(forward_ad.unpack_dual(o)) for o in outputs]  # type: ignore[no-untyped-call]


BATCHED_FORWARD = (
    "gradcheck failed while testing batched gradient computation with forward-mode AD, which "
    "check_batched_forward_grad=True asks for."
)


def check_batched_forward(call: Call) -> None:
    """Push all directions of one leaf forward as one batch; each alone must give the same."""
    for k, leaf in enumerate(call.leaves()):

        def alone(x: torch.Tensor, k: int = k) -> tuple[torch.Tensor, ...]:
            moved = [x if j == k else other.detach() for j, other in enumerate(call.leaves())]
            return tuple(o for o in tensors_of(call.replaced(moved)) if is_floating(o))

        try:
            jacobians = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
                alone, leaf.detach(), vectorize=True, strategy="forward-mode"
            )
        except RuntimeError as error:
            raise GradcheckError(
                f"While computing batched gradients, got: {error}\n\n{BATCHED_FORWARD}"
            ) from error
        (tangent,) = (u.detach() for u in cotangents_of([leaf]))
        outputs = pushed(call, {k: tangent})
        for index, (jacobian, (primal, wanted)) in enumerate(
            zip(tupled(jacobians), outputs, strict=True)
        ):
            product = jacobian.reshape(primal.numel(), -1) @ tangent.reshape(-1).to(jacobian.dtype)
            expected = torch.zeros_like(primal) if wanted is None else wanted
            if not torch.allclose(product.reshape(primal.shape), expected.to(product.dtype)):
                raise GradcheckError(
                    f"For output {index} and input {k}:\n\n{BATCHED_FORWARD}\n\n"
                    f"Got:\n{product}\n\nExpected:\n{expected}"
                )


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def require(fact: bool, message: str) -> None:
    if not fact:
        raise AssertionError(message)
