"""JAX twins of networks that settle: `jax.lax.custom_root`, and the same by `jax.custom_vjp`.

A jitted loop cannot raise: where the reference raises NotSettled, these twins return NaN.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gradcheck.reference.fixed_point import (
    Damped,
    FixedPoint,
    TanhTransition,
    Unrolled,
    rounding_floor,
)
from gradcheck.suites.twins.jax_.registry import Outputs, Params, apply

__all__ = ["by_custom_root", "by_custom_vjp"]

Path = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # z, residual before, residual, steps


@apply.register
def tanh_transition(layer: TanhTransition, params: Params, z: jax.Array, x: jax.Array) -> Outputs:
    drive = x @ params["input_weight"].T + params["bias"]
    return (jnp.tanh(z @ params["recurrent_weight"].T + drive),)


@apply.register
def damped(layer: Damped, params: Params, z: jax.Array, x: jax.Array) -> Outputs:
    (fresh,) = apply(layer.transition, params, z, x)
    return (z + layer.rate * (fresh - z),)


@apply.register
def unrolled(layer: Unrolled, params: Params, x: jax.Array) -> Outputs:
    def step(z: jax.Array, _: None) -> tuple[jax.Array, None]:
        return apply(layer.transition, params, z, x)[0], None

    start = jnp.zeros(layer.transition.state_shape(x.shape), x.dtype)
    return (jax.lax.scan(step, start, length=layer.steps)[0],)


@apply.register
def by_custom_root(layer: FixedPoint, params: Params, x: jax.Array) -> Outputs:
    """Return the root of F(z, x) - z; JAX differentiates it by the implicit function theorem.

    The tangent t solves (J - I) t = y, relaxed as t ← J t - y. `custom_linear_solve` tells JAX
    that the transposed system, which is the adjoint, is solved in the same way.
    """

    def excess(z: jax.Array) -> jax.Array:
        return apply(layer.transition, params, z, x)[0] - z

    def solve(excess: Callable[..., Any], start: jax.Array) -> jax.Array:
        return _relax(lambda z: excess(z) + z, start, layer.tolerance, layer.limit)

    def solve_linear(matvec: Callable[..., Any], y: jax.Array) -> jax.Array:
        return _relax(
            lambda t: matvec(t) + t - y,
            jnp.zeros_like(y),
            layer.adjoint_tolerance,
            layer.adjoint_limit,
        )

    def solve_tangent(matvec: Callable[..., Any], y: jax.Array) -> Any:
        return jax.lax.custom_linear_solve(
            matvec, y, solve=solve_linear, transpose_solve=solve_linear
        )

    start = jnp.zeros(layer.transition.state_shape(x.shape), x.dtype)
    return (jax.lax.custom_root(excess, start, solve, solve_tangent),)


def by_custom_vjp(layer: FixedPoint, params: Params, x: jax.Array) -> Outputs:
    """Return the fixed point with its VJP written out: relax the adjoint, then one VJP of F.

    To first order only: the loop that finds the adjoint has no derivative of its own.
    """
    return (_rest(layer, params, x),)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rest(layer: FixedPoint, params: Params, x: jax.Array) -> jax.Array:
    start = jnp.zeros(layer.transition.state_shape(x.shape), x.dtype)
    return _relax(
        lambda z: apply(layer.transition, params, z, x)[0], start, layer.tolerance, layer.limit
    )


def _rest_forward(layer: FixedPoint, params: Params, x: jax.Array) -> tuple[jax.Array, Any]:
    z = _rest(layer, params, x)
    return z, (params, z, x)


def _rest_backward(layer: FixedPoint, saved: Any, u: jax.Array) -> Any:
    _, pull = jax.vjp(lambda params, z, x: apply(layer.transition, params, z, x)[0], *saved)
    w = _relax(
        lambda w: pull(w)[1] + u, jnp.zeros_like(u), layer.adjoint_tolerance, layer.adjoint_limit
    )
    grads, _, x_bar = pull(w)
    return grads, x_bar


_rest.defvjp(_rest_forward, _rest_backward)


def _relax(
    step: Callable[[jax.Array], jax.Array], start: jax.Array, tolerance: float | None, limit: int
) -> jax.Array:
    """Return z ← step(z) at rest, or NaN; `FixedPoint` says when it rests."""
    eps = float(jnp.finfo(start.dtype).eps)  # type: ignore[no-untyped-call]
    allowed = rounding_floor(eps) if tolerance is None else tolerance

    def rests(z: jax.Array, residual: jax.Array) -> jax.Array:
        return jnp.less_equal(residual, allowed * jnp.linalg.norm(z))

    def moves(carry: Path) -> jax.Array:
        z, before, residual, spent = carry
        falls = (residual > 0) & (residual < before) & (tolerance is None)
        return jnp.logical_and(~rests(z, residual) | falls, spent < limit)

    def move(carry: Path) -> Path:
        z, _, residual, spent = carry
        fresh = step(z)
        return fresh, residual, jnp.linalg.norm(fresh - z), spent + 1

    endless = jnp.asarray(jnp.inf, start.dtype)
    z, _, residual, _ = jax.lax.while_loop(moves, move, (start, endless, endless, jnp.int32(0)))
    return jnp.where(rests(z, residual), z, jnp.nan)
