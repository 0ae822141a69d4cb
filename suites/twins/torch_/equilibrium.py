"""PyTorch twins of networks that settle: an autograd Function that differentiates implicitly.

PyTorch has no fixed-point solver of its own. The Function here is the usual construction, and
shares no line with the reference: Jacobian products come from `torch.func.vjp`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from gradcheck.reference.fixed_point import (
    Damped,
    FixedPoint,
    NotSettled,
    TanhTransition,
    Unrolled,
    rounding_floor,
)
from gradcheck.suites.twins.torch_.registry import Outputs, Params, apply

__all__: list[str] = []

Step = Callable[..., torch.Tensor]  # (z, *leaves) -> the next z
Solver = Callable[[Step, torch.Tensor], torch.Tensor]  # (z -> next z, start) -> z at rest


@apply.register
def tanh_transition(
    layer: TanhTransition, params: Params, z: torch.Tensor, x: torch.Tensor
) -> Outputs:
    drive = F.linear(x, params["input_weight"], params["bias"])
    return (torch.tanh(F.linear(z, params["recurrent_weight"]) + drive),)


@apply.register
def damped(layer: Damped, params: Params, z: torch.Tensor, x: torch.Tensor) -> Outputs:
    (fresh,) = apply(layer.transition, params, z, x)
    return (torch.lerp(z, fresh, layer.rate),)


@apply.register
def unrolled(layer: Unrolled, params: Params, x: torch.Tensor) -> Outputs:
    z = x.new_zeros(layer.transition.state_shape(tuple(x.shape)))
    for _ in range(layer.steps):
        (z,) = apply(layer.transition, params, z, x)
    return (z,)


@apply.register
def fixed_point(layer: FixedPoint, params: Params, x: torch.Tensor) -> Outputs:
    def step(z: torch.Tensor, x: torch.Tensor, *leaves: torch.Tensor) -> torch.Tensor:
        return apply(layer.transition, _nested(params, iter(leaves)), z, x)[0]

    settle = partial(_relax, tolerance=layer.tolerance, limit=layer.limit)
    settle_adjoint = partial(_relax, tolerance=layer.adjoint_tolerance, limit=layer.adjoint_limit)
    start = x.new_zeros(layer.transition.state_shape(tuple(x.shape)))
    return (_equilibrium(step, settle, settle_adjoint, start, x, *_leaves(params)),)


class _Equilibrium(torch.autograd.Function):
    """z = step(z, *leaves), differentiable in the leaves, to any order.

    The adjoint w = Jᵀ w + u is an equilibrium itself, and is found by this same Function: that
    is what makes second derivatives right.
    """

    @staticmethod
    def forward(
        step: Step,
        settle: Solver,
        settle_adjoint: Solver,
        start: torch.Tensor,
        *leaves: torch.Tensor,
    ) -> torch.Tensor:
        return settle(lambda z: step(z, *leaves), start)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        step, _, settle_adjoint, _, *leaves = inputs
        ctx.step, ctx.settle = step, settle_adjoint
        ctx.save_for_backward(output, *leaves)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        z, *leaves = ctx.saved_tensors

        def adjoint(
            w: torch.Tensor, u: torch.Tensor, z: torch.Tensor, *leaves: torch.Tensor
        ) -> torch.Tensor:
            (pulled,) = _pullback(lambda z: ctx.step(z, *leaves), z)(w)
            return pulled + u

        start = torch.zeros_like(u)
        w = _equilibrium(adjoint, ctx.settle, ctx.settle, start, u, z, *leaves)
        pull = _pullback(lambda *leaves: ctx.step(z, *leaves), *leaves)
        return (None, None, None, None, *pull(w))


_equilibrium: Callable[..., torch.Tensor] = _Equilibrium.apply


def _relax(step: Step, z: torch.Tensor, *, tolerance: float | None, limit: int) -> torch.Tensor:
    """Return z ← step(z) at rest; `FixedPoint` says when that is."""
    allowed = rounding_floor(torch.finfo(z.dtype).eps) if tolerance is None else tolerance
    residual = torch.inf
    for spent in range(1, limit + 1):
        fresh = step(z)
        before, residual = residual, float(torch.linalg.vector_norm(fresh - z))
        z = fresh
        low = residual <= allowed * float(torch.linalg.vector_norm(z))
        falls = 0 < residual < before and tolerance is None and spent < limit
        if low and not falls:
            return z
    raise NotSettled(
        f"the PyTorch twin did not settle in {limit} steps; its last residual is {residual:.3g}"
    )


def _pullback(
    f: Callable[..., torch.Tensor], *at: torch.Tensor
) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    return torch.func.vjp(f, *at)[1]


def _leaves(params: Params) -> Iterator[torch.Tensor]:
    for value in params.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield value


def _nested(params: Params, leaves: Iterator[torch.Tensor]) -> dict[str, Any]:
    """Return `leaves`, named and nested as in `params`."""
    return {
        name: _nested(value, leaves) if isinstance(value, Mapping) else next(leaves)
        for name, value in params.items()
    }
