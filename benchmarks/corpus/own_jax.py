"""Wrong rules that are written in JAX's own ways: custom_jvp, scan, second derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.corpus.case import Case

__all__ = ["JAX"]

RNG = np.random.default_rng(8)
X = RNG.standard_normal((4, 5))
V = RNG.standard_normal(7)

Build = Callable[[bool], Any]  # is_wrong -> target


def both(name: str, slice: str, source: str, build: Build, *inputs: Any) -> tuple[Case, Case]:
    def made(is_wrong: bool) -> Case:
        return Case(
            name=name,
            slice=slice,
            framework="jax",
            source=source,
            is_wrong=is_wrong,
            make=lambda dtype: (build(is_wrong), tuple(x.astype(dtype) for x in inputs)),
        )

    return made(True), made(False)


def _jvp(factor: float) -> Build:
    def build(is_wrong: bool) -> Any:
        @jax.custom_jvp
        def f(x: Any) -> Any:
            return jnp.sin(x)

        @f.defjvp
        def rule(primals: Any, tangents: Any) -> Any:
            (x,), (t,) = primals, tangents
            return jnp.sin(x), (factor if is_wrong else 1.0) * jnp.cos(x) * t

        return f

    return build


def _scanned(is_wrong: bool) -> Any:
    @jax.custom_vjp
    def step(h: Any, x: Any) -> Any:
        return jnp.tanh(0.9 * h + x)

    def back(kept: Any, u: Any) -> Any:
        h, x = kept
        d = u * (1 - jnp.tanh(0.9 * h + x) ** 2)
        return (d if is_wrong else 0.9 * d), d

    step.defvjp(lambda h, x: (step(h, x), (h, x)), back)

    def run(x: Any) -> Any:
        def body(h: Any, x_t: Any) -> Any:
            h = step(h, x_t)
            return h, h

        return jax.lax.scan(body, x[0] * 0, x)[1]

    return jax.jit(run)


def _double(factor: float) -> Build:
    def build(is_wrong: bool) -> Any:
        @jax.custom_vjp
        def slope(u: Any, x: Any) -> Any:
            return u * jnp.cos(x)

        def back(kept: Any, w: Any) -> Any:
            u, x = kept
            return w * jnp.cos(x), -(factor if is_wrong else 1.0) * w * u * jnp.sin(x)

        slope.defvjp(lambda u, x: (u * jnp.cos(x), (u, x)), back)

        @jax.custom_vjp
        def f(x: Any) -> Any:
            return jnp.sin(x)

        f.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (slope(u, x),))
        return f

    return build


def _stopped(is_wrong: bool) -> Any:
    def f(x: Any) -> Any:
        peak = x.max(-1, keepdims=True)
        peak = jax.lax.stop_gradient(peak) if is_wrong else peak
        return (x - peak) * 2

    return f


def _where_nan(is_wrong: bool) -> Any:
    def f(x: Any) -> Any:
        safe = x if is_wrong else jnp.where(x > 0, x, 1.0)
        return jnp.where(x > 0, jnp.sqrt(safe), 0.0)

    return f


def _one_leaf_of_a_tree(is_wrong: bool) -> Any:
    @jax.custom_vjp
    def f(w: Any, b: Any, x: Any) -> Any:
        return jnp.tanh(x @ w + b)

    def back(kept: Any, u: Any) -> Any:
        w, b, x = kept
        d = u * (1 - jnp.tanh(x @ w + b) ** 2)
        return x.T @ d, (d.mean(0) if is_wrong else d.sum(0)), d @ w.T

    f.defvjp(lambda w, b, x: (f(w, b, x), (w, b, x)), back)
    return f


JAX: tuple[Case, ...] = (
    *both("tangent doubled", "gross", "FP16", _jvp(2.0), X),
    *both("tangent negated", "gross", "FP16", _jvp(-1.0), X),
    *both("tangent 0.3 % off", "subtle 1e-3", "FP17", _jvp(1.003), X),
    *both("carry without its gain", "recurrent", "P140", _scanned, RNG.standard_normal((9, 3))),
    *both("second derivative doubled", "second order", "P51", _double(2.0), V),
    *both("second derivative 1 % off", "second order", "P51", _double(1.01), V),
    *both("second derivative zero", "second order", "P51", _double(0.0), V),
    *both("maximum stopped", "gross", "P130", _stopped, X),
    *both(
        "infinite branch of a where", "kinks", "P34", _where_nan, np.array([-1.0, -0.3, 2.0, 0.5])
    ),
    *both(
        "bias of a tree by the mean",
        "gross",
        "P116",
        _one_leaf_of_a_tree,
        RNG.standard_normal((5, 3)),
        RNG.standard_normal(3),
        X,
    ),
)
