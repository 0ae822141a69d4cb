"""Custom rules for JAX networks, each right or wrong in one way of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import numpy as jnp

Rule = Callable[..., Any]


def by_vjp(name: str, value: Rule, slope: Rule) -> Any:
    """An activation by a reverse rule of its own."""
    value.__name__ = value.__qualname__ = name
    rule: Any = jax.custom_vjp(value)
    rule.defvjp(lambda x: (value(x), x), lambda x, u: (u * slope(x),))
    return rule


def by_jvp(name: str, value: Rule, slope: Rule) -> Any:
    """An activation by a forward rule of its own."""
    value.__name__ = value.__qualname__ = name
    rule: Any = jax.custom_jvp(value)
    rule.defjvp(lambda p, t: (value(*p), t[0] * slope(*p)))
    return rule


def wave(factor: float, by: Any = by_vjp) -> Any:
    return by("wave", lambda x: jnp.sin(x) + x, lambda x: factor * (jnp.cos(x) + 1))


def soft(by: Any = by_vjp) -> Any:
    """One that is right."""
    return by("soft", lambda x: jnp.tanh(x), lambda x: 1 - jnp.tanh(x) ** 2)


def swish(wrong: bool, by: Any = by_jvp) -> Any:
    """Wrong: the term by the product rule is missing."""

    def slope(x: Any) -> Any:
        s = jax.nn.sigmoid(x)
        return s if wrong else s + x * s * (1 - s)

    return by("swish", lambda x: x * jax.nn.sigmoid(x), slope)


def signs(wrong: bool, by: Any = by_vjp) -> Any:
    """Wrong: the sign of one channel, the last."""

    def slope(x: Any) -> Any:
        return (1 - jnp.tanh(x) ** 2) * jnp.ones(x.shape[-1]).at[-1].set(-1 if wrong else 1)

    return by("channel_tanh", lambda x: jnp.tanh(x), slope)


def clipped(wrong: bool) -> Any:
    """Wrong: nothing passes where the value is only near the limit, as some steps are."""

    def slope(x: Any) -> Any:
        return (jnp.abs(x) < (0.5 if wrong else 1.0)).astype(x.dtype)

    return by_vjp("clip", lambda x: jnp.clip(x, -1, 1), slope)


def dense(wrong: str = "") -> Any:
    """x W + b by hand; wrong in the "input" (W untransposed), "weight" or "bias"."""

    @jax.custom_vjp
    def layer(x: Any, w: Any, b: Any) -> Any:
        return x @ w + b

    def backward(saved: Any, u: Any) -> Any:
        x, w = saved
        in_x = u @ (w if wrong == "input" else w.T)
        rows, us = x.reshape(-1, x.shape[-1]), u.reshape(-1, u.shape[-1])
        in_w = rows.T @ us * (1.01 if wrong == "weight" else 1)
        return in_x, in_w, us.mean(0) if wrong == "bias" else us.sum(0)

    layer.defvjp(lambda x, w, b: (layer(x, w, b), (x, w)), backward)
    return layer


def softmax(wrong: bool) -> Any:
    """Wrong: as if the normaliser were a constant."""

    @partial(jax.custom_jvp, nondiff_argnums=(1,))
    def soft_weights(x: Any, axis: int) -> Any:
        return jax.nn.softmax(x, axis)

    @soft_weights.defjvp
    def forward(axis: int, p: Any, t: Any) -> Any:
        y = soft_weights(p[0], axis)
        mean = 0 if wrong else (y * t[0]).sum(axis, keepdims=True)
        return y, y * (t[0] - mean)

    return soft_weights


def normal(wrong: bool) -> Any:
    """Layer normalisation; wrong: the mean takes no part in the derivative."""

    @jax.custom_vjp
    def layer_norm(x: Any, weight: Any) -> Any:
        return _normal(x)[0] * weight

    def _normal(x: Any) -> Any:
        deviation = jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)
        return (x - x.mean(-1, keepdims=True)) / deviation, deviation

    def backward(saved: Any, u: Any) -> Any:
        x, weight = saved
        y, deviation = _normal(x)
        v = u * weight
        mean = 0 if wrong else v.mean(-1, keepdims=True)
        in_x = (v - mean - y * (v * y).mean(-1, keepdims=True)) / deviation
        return in_x, (u * y).reshape(-1, x.shape[-1]).sum(0)

    layer_norm.defvjp(lambda x, w: (layer_norm(x, w), (x, w)), backward)
    return layer_norm


def limited(wrong: bool, largest: float) -> Any:
    """The identity; wrong: what comes back is limited."""

    @jax.custom_vjp
    def limit(x: Any) -> Any:
        return x

    def backward(_: None, u: Any) -> Any:
        return (jnp.clip(u, -largest, largest) if wrong else u,)

    limit.defvjp(lambda x: (x, None), backward)
    return limit


def settled(wrong: bool) -> Any:
    """z = tanh(W z + x) by iteration until it rests; wrong: one step is differentiated."""

    def step(w: Any, x: Any, z: Any) -> Any:
        return jnp.tanh(z @ w + x)

    @jax.custom_vjp
    def fixed_point(w: Any, x: Any) -> Any:
        def moves(carry: Any) -> Any:
            z, before, k = carry
            return (jnp.abs(z - before).max() > 1e-13) & (k < 200)

        start = (step(w, x, jnp.zeros_like(x)), jnp.zeros_like(x), 0)
        return jax.lax.while_loop(moves, lambda c: (step(w, x, c[0]), c[0], c[2] + 1), start)[0]

    def forward(w: Any, x: Any) -> Any:
        z = fixed_point(w, x)
        return z, (w, x, z)

    def backward(saved: Any, u: Any) -> Any:
        w, x, z = saved
        back = jax.vjp(lambda z: step(w, x, z), z)[1]
        v = u if wrong else jax.lax.fori_loop(0, 80, lambda _, v: u + back(v)[0], u)
        return jax.vjp(lambda w, x: step(w, x, z), w, x)[1](v)

    fixed_point.defvjp(forward, backward)
    return fixed_point


def energy(wrong: bool) -> Any:
    """Σ x tanh(x) and its parts, as a dict; wrong: what comes back through the parts is lost."""

    @jax.custom_vjp
    def parts(x: Any) -> Any:
        return {"each": x * jnp.tanh(x), "sum": (x * jnp.tanh(x)).sum()}

    def backward(x: Any, us: Any) -> Any:
        u = us["sum"] + (0 if wrong else us["each"])
        return (u * (jnp.tanh(x) + x * (1 - jnp.tanh(x) ** 2)),)

    parts.defvjp(lambda x: (parts(x), x), backward)
    return parts


def rows(wrong: bool) -> Any:
    """Rows of a table; wrong: of the uses of one row only the last counts."""

    @jax.custom_vjp
    def lookup(table: Any, ids: Any) -> Any:
        return table[ids]

    def backward(saved: Any, u: Any) -> Any:
        table, ids = saved
        zero = jnp.zeros_like(table)
        return (zero.at[ids].set(u) if wrong else zero.at[ids].add(u)), None

    lookup.defvjp(lambda table, ids: (table[ids], (table, ids)), backward)
    return lookup


def doubled(wrong: bool) -> Any:
    """Every row twice, as an image is enlarged; wrong: only the first of two comes back."""

    @jax.custom_vjp
    def enlarged(x: Any) -> Any:
        return jnp.repeat(x, 2, -2)

    def backward(_: None, u: Any) -> Any:
        first, second = u[..., ::2, :], u[..., 1::2, :]
        return (first if wrong else first + second,)

    enlarged.defvjp(lambda x: (enlarged(x), None), backward)
    return enlarged


def coupling(wrong: bool) -> Any:
    """Half of a vector, scaled by the other, and its determinant; wrong: that is not counted."""

    @jax.custom_jvp
    def couple(x: Any, w: Any) -> Any:
        a, b = jnp.split(x, 2, -1)
        scale = jnp.tanh(a @ w)
        return jnp.concatenate([b * jnp.exp(scale), a], -1), scale.sum(-1)

    @couple.defjvp
    def forward(p: Any, t: Any) -> Any:
        ys, (in_y, in_logdet) = jax.jvp(couple.fun, p, t)
        return ys, (in_y, 0 * in_logdet if wrong else in_logdet)

    return couple


def filtered(wrong: bool) -> Any:
    """A spectrum times a filter; wrong: the filter is conjugated, which JAX does not do."""

    @jax.custom_vjp
    def spectral(spectrum: Any, weight: Any) -> Any:
        return spectrum * weight

    def backward(saved: Any, u: Any) -> Any:
        spectrum, weight = saved
        return u * (weight.conj() if wrong else weight), (u * spectrum).sum(0)

    spectral.defvjp(lambda s, w: (spectral(s, w), (s, w)), backward)
    return spectral


def routed(wrong: bool) -> Any:
    """Probabilities of the best two; wrong: what comes back goes to the wrong expert."""

    @jax.custom_vjp
    def best(scores: Any) -> Any:
        return tuple(jax.lax.top_k(scores, 2))

    def backward(saved: Any, us: Any) -> Any:
        chosen, like = saved
        return (jnp.zeros_like(like).at[chosen[::-1] if wrong else chosen].add(us[0]),)

    def forward(scores: Any) -> Any:
        found = best(scores)
        return found, (found[1], scores)

    best.defvjp(forward, backward)
    return best
