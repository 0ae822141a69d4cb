"""`torch.autograd.gradcheck` and `gradgradcheck`, answered by this package's engine.

    from gradcheck.torch import gradcheck, gradgradcheck

Signatures, return values and exceptions are PyTorch's. What differs is how a gradient is judged:
against a measured error bar instead of `allclose`, in whatever dtype the inputs have.

- `fast_mode` is accepted and means nothing: every check costs a few evaluations. `eps` is only how
  far away outputs must still have the same shapes; steps of differences come from the data.
- `rtol` left alone is this package's default (1e-6 in float64), passed it is honoured. `atol` left
  alone is zero; passed it excuses what is wrong by no more than `atol + rtol |entry|` in every
  entry of the Jacobian.
- What the engine can neither confirm nor refute gives True and an `InconclusiveWarning`.
- A message begins as PyTorch's does and ends with the result's own text.
- As in PyTorch, only outputs that require a gradient are checked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.gradcheck import GradcheckError

from gradcheck.dropin import InconclusiveWarning, asked, bad, warn_if_inconclusive
from gradcheck.errors import InputError
from gradcheck.problem import Problem
from gradcheck.results import CheckResult, Verdict
from gradcheck.settings import Settings
from gradcheck.torch.calls import (
    Call,
    armed_like,
    chosen,
    connected,
    cotangents_of,
    is_floating,
    leaves_of,
    returned,
    tensors_of,
    tupled,
)
from gradcheck.torch.contract import (
    Options,
    check_backward,
    check_batched_forward,
    check_beside,
    check_inputs,
    check_outputs,
    check_tangents,
    check_undefined,
    check_undefined_tangents,
    check_unspecified,
    check_zero_cotangents,
    require,
)

__all__ = ["GradcheckError", "InconclusiveWarning", "gradcheck", "gradgradcheck"]

# PyTorch's defaults, in its signature. That one was left alone is told by identity: the same
# number from elsewhere is another object.
ATOL, RTOL = float("1e-5"), float("1e-3")


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
    require(
        check_forward_ad or check_backward_ad,
        "Expected at least one of check_forward_ad or check_backward_ad to be True",
    )
    require(
        check_backward_ad or not check_batched_grad,
        "Setting check_batched_grad=True requires check_backward_ad to be True",
    )
    require(
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
        results = _checked(Call(func=func, inputs=tupled(inputs), masked=bool(masked)), options)
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
    require(
        check_fwd_over_rev or check_rev_over_rev,
        "Expected at least one of check_fwd_over_rev or check_rev_over_rev to be True",
    )
    require(
        check_rev_over_rev or not check_undefined_grad,
        "Setting check_undefined_grad=True requires check_rev_over_rev to be True",
    )
    require(
        check_rev_over_rev or not check_batched_grad,
        "Setting check_batched_grad=True requires check_rev_over_rev to be True",
    )
    own = tupled(inputs)
    if grad_outputs is None:
        us = cotangents_of(
            connected(returned(func, func(*own))), strided=not gen_non_contig_grad_outputs
        )
    else:
        us = tupled(grad_outputs)
    return gradcheck(
        Gradient(func=func, inputs=own, grad_outputs=us),
        (*own, *us),
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


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The gradients of `func` in its inputs, as a function of inputs and grad_outputs."""

    func: Callable[..., Any]
    inputs: tuple[Any, ...]
    grad_outputs: tuple[Any, ...]

    def __call__(self, *arguments: Any) -> tuple[torch.Tensor, ...]:
        count = len(self.inputs)
        with torch.enable_grad():
            xs = [
                armed_like(x, given)
                for x, given in zip(self.inputs, arguments[:count], strict=True)
            ]
            us = [
                armed_like(u, given)
                for u, given in zip(self.grad_outputs, arguments[count:], strict=True)
            ]
            outputs = connected(self.func(*xs))
            leaves = [x for _, x in leaves_of(tuple(xs))]
            found = torch.autograd.grad(outputs, leaves, us, create_graph=True, allow_unused=True)
        return tuple(gradient for gradient in found if gradient is not None)


def _checked(call: Call, options: Options) -> list[CheckResult]:
    """The results of all that was asked for, none of them a failure."""
    check_inputs(call.inputs)
    value = returned(call.func, call.run())
    outputs = connected(value)
    check_outputs(outputs)
    if not outputs:
        return _without_outputs(call, options)
    check_beside(call, value, options.eps)
    results = []
    if options.backward:
        check_backward(call, outputs, options)
        results.append(_asked(call, "vjp", value, options))
        if not options.masked:
            check_unspecified(call, outputs, value, options)
    if options.forward:
        check_tangents(call, options)
        results.append(_asked(call, "jvp", value, options))
        if options.undefined:
            check_undefined_tangents(call)
    if options.batched_forward:
        check_batched_forward(call)
    if options.backward and options.batched:
        results.append(_check_batched(call, value, options))
    if options.backward:
        check_zero_cotangents(call, outputs, options.masked)
        if options.undefined:
            check_undefined(call)
    return results


def _asked(call: Call, check: str, value: Any, options: Options) -> CheckResult:
    """The engine's result, if it is no failure.

    Raises:
        GradcheckError: it is one; the message names output and input as PyTorch numbers them.
        RuntimeError: the function raised beside its inputs.
        NotImplementedError: it has no derivative of this kind.
    """
    problem = call.problem(lambda found: chosen(found, value))
    result = asked(problem, check, options.settings, options.atol)
    if result.verdict is Verdict.ERROR:
        raise RuntimeError(str(result))
    if not result.findings:
        raise NotImplementedError(" ".join(result.not_checked))
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
                lambda found, k=k, select=select: (select(chosen(found, value)[k]),)  # type: ignore[misc]
            )
            found = asked(alone, check, options.settings, options.atol)
            if bad(found):
                part, output, shown = part_, k, found
                break
    finding = bad(shown)
    assert finding is not None
    position = paths.index(finding.leaf) if finding.leaf in paths else 0
    is_forward = (
        check == "jvp"
    )  # whose complex parts PyTorch takes of inputs; here they go together
    mode = "computed with forward mode " if is_forward else ""
    named = bool(part) and not is_forward
    prefix = f"While considering the {part} part of complex outputs only, " if named else ""
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
        problem = call.problem(lambda found: tuple(o for o in tensors_of(found) if is_floating(o)))
    except InputError:  # nor is one floating
        return []
    result = asked(problem, "vjp", options.settings, None)
    if bad(result):
        raise GradcheckError(f"Numerical gradient for function expected to be zero\n{result}")
    return [result]


def _check_batched(call: Call, value: Any, options: Options) -> CheckResult:
    """Pull a batch of grad_outputs back by `vmap`."""
    if any(leaf.layout is not torch.strided for leaf in call.leaves()):
        raise GradcheckError(f"While computing batched gradients, got: sparse inputs\n\n{BATCHED}")
    problem = call.problem(lambda found: chosen(found, value))
    result = asked(problem, "batched", options.settings, None)
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
