"""`torch.autograd.gradcheck` and `gradgradcheck`, answered by this package's engine.

    from gradcheck.torch import gradcheck, gradgradcheck

Signatures, return values and exceptions are PyTorch's. What differs is how a gradient is judged:
against a measured error bar instead of `allclose`, in whatever dtype the inputs have.

- `eps` and `fast_mode` are accepted and mean nothing: steps are chosen from the data, and every
  check costs a few evaluations.
- `rtol` left alone is this package's default (1e-6 in float64), passed it is honoured. `atol` left
  alone is zero; passed it excuses what is wrong by no more than `atol + rtol |entry|` in every
  entry of the Jacobian.
- What the engine can neither confirm nor refute gives True and an `InconclusiveWarning`.
- A message begins as PyTorch's does and ends with the result's own text.
- As in PyTorch, only outputs that require a gradient are checked.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.autograd.gradcheck import GradcheckError

from gradcheck import trees
from gradcheck.adapters import problem_of
from gradcheck.dropin import InconclusiveWarning, asked, bad, warn_if_inconclusive
from gradcheck.errors import InputError
from gradcheck.problem import Problem
from gradcheck.results import CheckResult, Verdict
from gradcheck.settings import Settings

__all__ = ["GradcheckError", "InconclusiveWarning", "gradcheck", "gradgradcheck"]

# PyTorch's defaults, in its signature. That one was left alone is told by identity: the same
# number from elsewhere is another object.
ATOL, RTOL = float("1e-5"), float("1e-3")

SPARSE_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
SPARSE = (torch.sparse_coo, *SPARSE_COMPRESSED)
MKLDNN = torch._mkldnn  # type: ignore[attr-defined]


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = ATOL,
    rtol: float = RTOL,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Return whether the gradients of `func` at `inputs` are right.

    Arguments are those of `torch.autograd.gradcheck`; the module says what became of `eps`,
    `atol`, `rtol` and `fast_mode`.

    Raises:
        GradcheckError: something is wrong, and `raise_exception` is set.
        ValueError, RuntimeError, AssertionError: what cannot be checked, as PyTorch has it.
    """
    _require(
        check_forward_ad or check_backward_ad,
        "Expected at least one of check_forward_ad or check_backward_ad to be True",
    )
    _require(
        check_backward_ad or not check_batched_grad,
        "Setting check_batched_grad=True requires check_backward_ad to be True",
    )
    _require(
        check_forward_ad or not check_batched_forward_grad,
        "Setting check_batched_forward_grad=True requires check_forward_ad to be True",
    )
    options = Options(
        settings=Settings(rtol=None if rtol is RTOL or rtol <= 0 else rtol),
        eps=eps,
        atol=None if atol is ATOL else atol,
        nondet_tol=nondet_tol,
        undefined=check_undefined_grad,
        dtypes=check_grad_dtypes,
        batched=check_batched_grad,
        batched_forward=check_batched_forward_grad,
        forward=check_forward_ad,
        backward=check_backward_ad,
        masked=bool(masked),
    )
    try:
        results = _checked(Call(func=func, inputs=_tupled(inputs), masked=bool(masked)), options)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    for result in results:
        warn_if_inconclusive(result)
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = ATOL,
    rtol: float = RTOL,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """Return whether the second derivatives of `func` are right.

    The gradient of `func` is a function of `inputs` and `grad_outputs`; it is what `gradcheck` is
    asked of. Arguments are those of `torch.autograd.gradgradcheck`.

    Raises:
        GradcheckError: something is wrong, and `raise_exception` is set.
        ValueError, RuntimeError, AssertionError: what cannot be checked, as PyTorch has it.
    """
    _require(
        check_fwd_over_rev or check_rev_over_rev,
        "Expected at least one of check_fwd_over_rev or check_rev_over_rev to be True",
    )
    _require(
        check_rev_over_rev or not check_undefined_grad,
        "Setting check_undefined_grad=True requires check_rev_over_rev to be True",
    )
    _require(
        check_rev_over_rev or not check_batched_grad,
        "Setting check_batched_grad=True requires check_rev_over_rev to be True",
    )
    tupled = _tupled(inputs)
    if grad_outputs is None:
        us = _cotangents(_connected(func(*tupled)), strided=not gen_non_contig_grad_outputs)
    else:
        us = _tupled(grad_outputs)
    return gradcheck(
        Gradient(func=func, inputs=tupled, grad_outputs=us),
        (*tupled, *us),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev,
        fast_mode=fast_mode,
        masked=masked,
    )


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


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The gradients of `func` in its inputs, as a function of inputs and grad_outputs."""

    func: Callable[..., Any]
    inputs: tuple[Any, ...]
    grad_outputs: tuple[Any, ...]

    def __call__(self, *arguments: Any) -> tuple[torch.Tensor, ...]:
        count = len(self.inputs)
        with torch.enable_grad():
            xs = [_like(x, given) for x, given in zip(self.inputs, arguments[:count], strict=True)]
            us = [
                _like(u, given)
                for u, given in zip(self.grad_outputs, arguments[count:], strict=True)
            ]
            outputs = _connected(self.func(*xs))
            leaves = [x for _, x in _leaves(tuple(xs))]
            found = torch.autograd.grad(outputs, leaves, us, create_graph=True, allow_unused=True)
        return tuple(gradient for gradient in found if gradient is not None)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A function at its inputs: as the caller gave them, and as the engine's leaves."""

    func: Callable[..., Any]
    inputs: tuple[Any, ...]
    masked: bool

    def run(self) -> Any:
        return self.func(*self.inputs)

    def leaves(self) -> list[torch.Tensor]:
        """The inputs that require a gradient."""
        return [tensor for _, tensor in _leaves(self.inputs)]

    def replaced(self, leaves: Sequence[torch.Tensor]) -> Any:
        """The value with other tensors in the place of the leaves."""
        paths = [path for path, _ in _leaves(self.inputs)]
        moved = dict(zip(paths, leaves, strict=True))
        return self.func(*trees.rebuild(self.inputs, lambda path, old: moved.get(path, old)))

    def problem(self, pick: Callable[[Any], tuple[torch.Tensor, ...]]) -> Problem:
        """The engine's problem: dense leaves in, the outputs that `pick` chooses out.

        Raises:
            InputError: there is no output to speak of.
        """
        forms = [_form(tensor, self.masked) for tensor in self.leaves()]

        def target(*dense: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.enable_grad():
                restored = [form.restore(_armed(x)) for form, x in zip(forms, dense, strict=True)]
                return pick(self.replaced(restored))

        name = str(getattr(self.func, "__name__", type(self.func).__name__))
        return problem_of(target, [form.dense for form in forms], name=name)


@dataclass(frozen=True, kw_only=True)
class Form:
    """A leaf as a dense tensor, and the way back to what the caller handed in."""

    dense: torch.Tensor
    restore: Callable[[torch.Tensor], torch.Tensor]


def _checked(call: Call, options: Options) -> list[CheckResult]:
    """The results of all that was asked for, none of them a failure."""
    _check_inputs(call.inputs)
    value = call.run()
    outputs = _connected(value)
    _check_outputs(outputs)
    if not outputs:
        return _without_outputs(call, options)
    _check_beside(call, value, options.eps)
    results = []
    if options.backward:
        _check_backward(call, outputs, options)
        results.append(_asked(call, "vjp", value, options))
        if not options.masked:
            _check_unspecified(call, outputs, value, options)
    if options.forward:
        _check_tangents(call, options)
        results.append(_asked(call, "jvp", value, options))
        if options.undefined:
            _check_undefined_tangents(call)
    if options.batched_forward:
        _check_batched_forward(call)
    if options.backward and options.batched:
        results.append(_check_batched(call, value, options))
    if options.backward:
        _check_zero_cotangents(call, outputs, options.masked)
        if options.undefined:
            _check_undefined(call)
    return results


def _asked(call: Call, check: str, value: Any, options: Options) -> CheckResult:
    """The engine's result, if it is no failure.

    Raises:
        GradcheckError: it is one; the message names output and input as PyTorch numbers them.
        RuntimeError: the function raised beside its inputs.
    """
    problem = call.problem(lambda found: _chosen(found, value))
    result = asked(problem, check, options.settings, options.atol)
    if result.verdict is Verdict.ERROR:
        raise RuntimeError(str(result))
    if bad(result):
        raise GradcheckError(_mismatch(call, check, value, options, problem, result))
    return result


def _mismatch(
    call: Call, check: str, value: Any, options: Options, problem: Problem, result: CheckResult
) -> str:
    """What PyTorch would call the failure, and what it is.

    All outputs are checked at once; which one is wrong is asked after a failure, of each alone,
    and of its imaginary and real part.
    """
    paths = [leaf.path for leaf in problem.leaves]
    several = problem.outputs
    part, output, shown = "", 0, result
    if len(several) > 1 or any("complex" in leaf.dtype for leaf in several):
        for k, part_, select in _parts(several):
            alone = call.problem(
                lambda found, k=k, select=select: (select(_chosen(found, value)[k]),)  # type: ignore[misc]
            )
            found = asked(alone, check, options.settings, options.atol)
            if bad(found):
                part, output, shown = part_, k, found
                break
    finding = bad(shown)
    assert finding is not None
    position = paths.index(finding.leaf) if finding.leaf in paths else 0
    if check == "jvp":
        part = "imaginary" if "complex" in problem.leaves[position].dtype else ""
    words = "inputs" if check == "jvp" else "outputs"
    prefix = f"While considering the {part} part of complex {words} only, " if part else ""
    mode = "computed with forward mode " if check == "jvp" else ""
    numbers = [(entry.wanted, entry.got) for entry in finding.entries]
    return (
        f"{prefix}Jacobian {mode}mismatch for output {output} with respect to input {position},\n"
        f"numerical:{[wanted for wanted, _ in numbers]}\nanalytical:{[got for _, got in numbers]}\n"
        f"(of the gradient for random grad_outputs, where it is wrong)\n{shown}"
    )


def _parts(
    outputs: Sequence[Any],
) -> Iterator[tuple[int, str, Callable[[torch.Tensor], torch.Tensor]]]:
    """(output, part, how to take it), the imaginary part of a complex one first."""
    for k, leaf in enumerate(outputs):
        if "complex" in leaf.dtype:
            yield k, "imaginary", torch.imag
            yield k, "real", torch.real
        else:
            yield k, "", lambda tensor: tensor


def _without_outputs(call: Call, options: Options) -> list[CheckResult]:
    """No output is differentiable: none may depend on an input either."""
    try:
        problem = call.problem(lambda found: tuple(o for o in _tensors(found) if _floating(o)))
    except InputError:  # nor is one floating
        return []
    result = asked(problem, "vjp", options.settings, None)
    if bad(result):
        raise GradcheckError(f"Numerical gradient for function expected to be zero\n{result}")
    return [result]


def _check_beside(call: Call, value: Any, eps: float) -> None:
    """Refuse a function whose outputs have other shapes or dtypes a small step away.

    Raises:
        AssertionError: as PyTorch does.
    """
    first = _tensors(value)
    for step in (eps, -eps):
        try:
            with torch.no_grad():
                forms = [_form(leaf, call.masked) for leaf in call.leaves()]
                found = _tensors(call.replaced([f.restore(f.dense + step) for f in forms]))
        except Exception:  # the step leaves the domain: the engine knows what to make of that
            continue
        for what in ("shape", "dtype"):
            _require(
                [getattr(o, what) for o in found] == [getattr(o, what) for o in first],
                f"Expected the function to return outputs with the same {what} when inputs are "
                f"perturbed, here by {step:.0e}",
            )


def _check_unspecified(
    call: Call, outputs: Sequence[torch.Tensor], value: Any, options: Options
) -> None:
    """Entries that a sparse input does not specify are zeros, and have gradients, unless masked.

    The engine asked about the tensor with all entries specified; the caller's must agree.
    """
    leaves = call.leaves()
    if not any(leaf.layout in SPARSE for leaf in leaves):
        return
    dense = [form.dense.requires_grad_() for form in (_form(leaf, False) for leaf in leaves)]
    forms = [_form(leaf, False) for leaf in leaves]
    full = [form.restore(x) for form, x in zip(forms, dense, strict=True)]
    us = [u.detach() for u in _cotangents(outputs)]
    own = torch.autograd.grad(outputs, leaves, us, retain_graph=True, allow_unused=True)
    wanted = torch.autograd.grad(
        _chosen(call.replaced(full), value), dense, us, allow_unused=True
    )
    for k, (a, b) in enumerate(zip(own, wanted, strict=True)):
        if a is None or b is None:
            continue
        rtol = options.settings.tolerance(str(b.dtype).removeprefix("torch."))
        scale = float(b.abs().max()) if b.numel() else 0.0
        if not torch.allclose(_dense(a), b, rtol=rtol, atol=options.atol or rtol * scale):
            raise GradcheckError(
                f"Jacobian mismatch for output 0 with respect to input {k},\nnumerical:{b}\n"
                f"analytical:{_dense(a)}\nThe gradient of entries that the sparse input does not "
                "specify is missing; pass masked=True if that is meant."
            )


def _check_backward(call: Call, outputs: Sequence[torch.Tensor], options: Options) -> None:
    """The caller's own graph, run twice: the same gradients, of the right dtype and size."""
    leaves = call.leaves()
    for output in outputs:
        # Absolute values that add up to one: no gradient moves by more than an entry of J does.
        (u,) = _cotangents([output])
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
            spread = _largest(_dense(a) - _dense(b))
            if spread > options.nondet_tol:
                raise GradcheckError(
                    "Backward is not reentrant, i.e., two runs with the same input and "
                    f"grad_output differ, by {spread:.1e}; nondet_tol is {options.nondet_tol}. "
                    "If the operation is not deterministic on purpose, pass nondet_tol."
                )


def _check_zero_cotangents(call: Call, outputs: Sequence[torch.Tensor], masked: bool) -> None:
    """A gradient is linear in the cotangents: none, of the right kind, where all are zero."""
    leaves = call.leaves()
    zeros = [torch.zeros_like(o, memory_format=torch.contiguous_format) for o in outputs]
    found = torch.autograd.grad(outputs, leaves, zeros, retain_graph=True, allow_unused=True)
    for gradient, leaf in zip(found, leaves, strict=True):
        if gradient is None:
            continue
        dense = _dense(gradient)
        if not (torch.allclose(dense, torch.zeros_like(dense)) if masked else dense.eq(0).all()):
            raise GradcheckError(
                "backward not multiplied by grad_output: the gradient is "
                f"{_largest(dense):.1e} where grad_output is zero"
            )
        for what, word in (("dtype", "type"), ("device", "device"), ("shape", "size")):
            if getattr(dense, what) != getattr(leaf, what):
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
    def backward(ctx: Any, u: torch.Tensor) -> None:  # type: ignore[override]
        return None


def _check_undefined(call: Call) -> None:
    """A gradient that is not there counts as zero: for all outputs, and for each alone."""
    count = len(_connected(call.run()))
    sets = [set(range(count)), *({k} for k in range(count) if count > 1)]
    leaves = call.leaves()
    for missing in sets:
        outputs = [
            Undefined.apply(o) if k in missing else o  # type: ignore[no-untyped-call]
            for k, o in enumerate(_connected(call.run()))
        ]
        zeros = [torch.zeros_like(o, memory_format=torch.contiguous_format) for o in outputs]
        try:
            found = torch.autograd.grad(outputs, leaves, zeros, allow_unused=True)
        except RuntimeError as error:
            _warn_of_undefined()
            raise GradcheckError(
                "Expected backward function to handle undefined output grads; it raised "
                f"{type(error).__name__}: {error}"
            ) from error
        if any(gradient is not None and not _dense(gradient).eq(0).all() for gradient in found):
            _warn_of_undefined()
            raise GradcheckError(
                "Expected all input grads to be undefined or zero when all output grads are "
                "undefined or zero"
            )


def _warn_of_undefined() -> None:
    warnings.warn(
        "Backwards compatibility: New undefined gradient support checking feature of PyTorch 1.6; "
        "check_undefined_grad=False switches it off",
        stacklevel=4,
    )


def _check_tangents(call: Call, options: Options) -> None:
    """Forward mode on the caller's own inputs: what it refuses, and of what kind its tangents are.

    Raises:
        ValueError: an input is an MKLDNN tensor.
        GradcheckError: a tangent is real where its output is complex, or the other way round.
    """
    leaves = call.leaves()
    if any(leaf.layout == MKLDNN for leaf in leaves):
        raise ValueError("MKLDNN inputs are not support for forward AD gradcheck.")
    tangents = [u.detach() for u in _cotangents(leaves)]
    for primal, tangent in _pushed(call, dict(enumerate(tangents))):
        if options.dtypes and tangent is not None and primal.is_complex() != tangent.is_complex():
            raise GradcheckError("Forward AD gradient has dtype mismatch.")


def _check_undefined_tangents(call: Call) -> None:
    """A tangent of zeros may as well be left out."""
    leaves = call.leaves()
    tangents = [u.detach() for u in _cotangents(leaves)]
    for k, leaf in enumerate(leaves):
        others = {j: tangent for j, tangent in enumerate(tangents) if j != k}
        zeros = _pushed(call, others | {k: torch.zeros_like(leaf)})
        for index, ((_, a), (_, b)) in enumerate(zip(zeros, _pushed(call, others), strict=True)):
            if a is not None and b is not None and not torch.allclose(a, b, equal_nan=True):
                raise GradcheckError(
                    f"Mismatch in tangent values for output with index: {index} when input: {k} "
                    f"has an undefined tangent value. Got: {b} but expected: {a}"
                )


def _pushed(
    call: Call, tangents: Mapping[int, torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """The floating outputs with their tangents, given those of some leaves."""
    with forward_ad.dual_level():
        moved = [
            forward_ad.make_dual(leaf.detach(), tangents[k]) if k in tangents else leaf.detach()  # type: ignore[no-untyped-call]
            for k, leaf in enumerate(call.leaves())
        ]
        outputs = [o for o in _tensors(call.replaced(moved)) if _floating(o)]
        return [tuple(forward_ad.unpack_dual(o)) for o in outputs]  # type: ignore[no-untyped-call, misc]


def _check_batched(call: Call, value: Any, options: Options) -> CheckResult:
    """Pull a batch of grad_outputs back by `vmap`."""
    if any(leaf.layout is not torch.strided for leaf in call.leaves()):
        raise GradcheckError(f"While computing batched gradients, got: sparse inputs\n\n{BATCHED}")
    problem = call.problem(lambda found: _chosen(found, value))
    result = asked(problem, "batched", options.settings, options.atol)
    for said in result.not_checked:
        raise GradcheckError(f"While computing batched gradients, got: {said}\n\n{BATCHED}")
    finding = bad(result)
    if finding is not None:
        paths = [leaf.path for leaf in problem.leaves]
        position = paths.index(finding.leaf) if finding.leaf in paths else 0
        raise GradcheckError(f"For output 0 and input {position}:\n\n{BATCHED}\n\n{result}")
    return result


BATCHED = (
    "gradcheck or gradgradcheck failed while testing batched gradient computation, which "
    "check_batched_grad=True asks for."
)
BATCHED_FORWARD = (
    "gradcheck failed while testing batched gradient computation with forward-mode AD, which "
    "check_batched_forward_grad=True asks for."
)


def _check_batched_forward(call: Call) -> None:
    """Push all directions of one leaf forward as one batch; each alone must give the same."""
    for k, leaf in enumerate(call.leaves()):

        def alone(x: torch.Tensor, k: int = k) -> tuple[torch.Tensor, ...]:
            moved = [x if j == k else other.detach() for j, other in enumerate(call.leaves())]
            return tuple(o for o in _tensors(call.replaced(moved)) if _floating(o))

        try:
            jacobians = torch.autograd.functional.jacobian(
                alone, leaf.detach(), vectorize=True, strategy="forward-mode"
            )
        except RuntimeError as error:
            raise GradcheckError(
                f"While computing batched gradients, got: {error}\n\n{BATCHED_FORWARD}"
            ) from error
        (tangent,) = (u.detach() for u in _cotangents([leaf]))
        pushed = _pushed(call, {k: tangent})
        for index, (jacobian, (primal, wanted)) in enumerate(
            zip(_tupled(jacobians), pushed, strict=True)
        ):
            product = jacobian.reshape(primal.numel(), -1) @ tangent.reshape(-1).to(jacobian.dtype)
            expected = torch.zeros_like(primal) if wanted is None else wanted
            if not torch.allclose(product.reshape(primal.shape), expected.to(product.dtype)):
                raise GradcheckError(
                    f"For output {index} and input {k}:\n\n{BATCHED_FORWARD}\n\n"
                    f"Got:\n{product}\n\nExpected:\n{expected}"
                )


def _check_inputs(inputs: tuple[Any, ...]) -> None:
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
            warnings.warn(
                f"Input #{index} requires gradient and is not a double precision floating point "
                f"or complex. Errors below what {tensor.dtype} can show may stay unseen.",
                stacklevel=4,
            )
        content = tensor
        if tensor.layout is torch.sparse_coo:
            content = tensor._values()
        elif tensor.layout in SPARSE_COMPRESSED:
            content = tensor.values()
        pairs = () if tensor.layout == MKLDNN else zip(content.stride(), content.shape, strict=True)
        if any(stride == 0 and size > 1 for stride, size in pairs):
            raise RuntimeError(
                f"The {index}th input has a dimension with stride 0: several of its entries are "
                "one number in memory, and have no gradients of their own. Call .contiguous() on "
                "it first."
            )
        found = True
    if not found and not any(_leaves(inputs)):
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them "
            "have requires_grad=True."
        )


def _check_outputs(outputs: Sequence[torch.Tensor]) -> None:
    kinds = {output.layout for output in outputs}
    if kinds & set(SPARSE):
        raise ValueError(
            "Sparse output is not supported at gradcheck yet. "
            "Call to_dense(masked_grad=...) on it in the function."
        )
    if MKLDNN in kinds:
        raise ValueError(
            "MKLDNN output is not supported at gradcheck yet. Call to_dense() on it in the function."
        )


def _form(tensor: torch.Tensor, masked: bool) -> Form:
    """How the engine, which knows only dense arrays, sees a leaf.

    A sparse tensor is, to a masked function, its specified entries; to another one, all of them.
    """
    plain = tensor.detach()
    if tensor.layout == MKLDNN:
        return Form(dense=plain.to_dense(), restore=lambda x: x.to_mkldnn())
    if tensor.layout in SPARSE:
        return _form_of_sparse(plain, masked)
    if tensor.is_contiguous():
        return Form(dense=plain, restore=lambda x: x)
    size, stride = tensor.size(), tensor.stride()

    def restore(x: torch.Tensor) -> torch.Tensor:
        empty = torch.empty_strided(size, stride, dtype=x.dtype, device=x.device)
        return empty.copy_(x)

    return Form(dense=plain, restore=restore)


def _form_of_sparse(tensor: torch.Tensor, masked: bool) -> Form:
    layout, size = tensor.layout, tensor.size()
    if not masked:
        blocks = tensor.values().shape[1:3] if layout in SPARSE_COMPRESSED[2:] else None
        ones = (
            torch.ones(size, dtype=torch.int8).to_sparse(tensor.sparse_dim())
            if layout is torch.sparse_coo
            else None
        )

        def full(x: torch.Tensor) -> torch.Tensor:
            if ones is not None:
                values = x.reshape(-1, *size[tensor.sparse_dim() :])
                return torch.sparse_coo_tensor(ones.indices(), values, size, is_coalesced=True)
            return x.to_sparse(layout=layout, blocksize=blocks)

        return Form(dense=tensor.to_dense(), restore=full)
    if layout is torch.sparse_coo:
        indices = tensor._indices()
        return Form(
            dense=tensor._values(),
            restore=lambda values: torch.sparse_coo_tensor(
                indices, values, size, is_coalesced=tensor.is_coalesced()
            ),
        )
    rows = layout in (torch.sparse_csr, torch.sparse_bsr)
    compressed = tensor.crow_indices() if rows else tensor.ccol_indices()
    plain = tensor.col_indices() if rows else tensor.row_indices()
    return Form(
        dense=tensor.values(),
        restore=lambda values: torch.sparse_compressed_tensor(
            compressed, plain, values, size, layout=layout
        ),
    )


def _armed(x: torch.Tensor) -> torch.Tensor:
    """The tensor, requiring a gradient as the caller's does; not in forward mode, as in PyTorch."""
    is_dual = forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
    return x if is_dual else _requiring(x)


def _requiring(x: torch.Tensor) -> torch.Tensor:
    """The tensor, requiring a gradient: `x` itself, or another view of it that does."""
    if x.requires_grad:
        return x
    with torch.no_grad():  # unlike detach, a view keeps the tangent of forward mode
        return x.view_as(x).requires_grad_()


def _like(own: Any, given: Any) -> Any:
    """An argument that requires a gradient where the caller's own does."""
    needs = isinstance(own, torch.Tensor) and own.requires_grad
    return _requiring(given) if needs else given


def _cotangents(
    outputs: Sequence[torch.Tensor], *, strided: bool = True
) -> tuple[torch.Tensor, ...]:
    """Random tensors between -1 and 1 like `outputs`, from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for output in outputs:
        dtype = output.dtype if _floating(output) else torch.float64
        shape = (*output.shape, 2) if output.dim() and not strided else output.shape
        real = torch.complex128 if dtype.is_complex else torch.float64
        draw = torch.rand(shape, generator=generator, dtype=real, device="cpu")
        draw = 2 * draw - (1 + 1j if dtype.is_complex else 1)
        draw = draw.to(dtype=dtype, device=output.device)
        found.append((draw if draw.dim() == output.dim() else draw[..., 0]).requires_grad_())
    return tuple(found)


def _leaves(inputs: tuple[Any, ...]) -> list[tuple[str, torch.Tensor]]:
    return [
        (path, leaf)
        for path, leaf in trees.leaves(inputs)
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad
    ]


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for _, leaf in trees.leaves(value) if isinstance(leaf, torch.Tensor)]


def _connected(value: Any) -> tuple[torch.Tensor, ...]:
    """The outputs that require a gradient."""
    return tuple(tensor for tensor in _tensors(value) if tensor.requires_grad)


def _chosen(value: Any, first: Any) -> tuple[torch.Tensor, ...]:
    """The outputs in `value` at the places where those of the `first` call require a gradient."""
    pairs = zip(_tensors(value), _tensors(first), strict=True)
    return tuple(tensor for tensor, original in pairs if original.requires_grad)


def _floating(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def _tupled(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise AssertionError(message)
