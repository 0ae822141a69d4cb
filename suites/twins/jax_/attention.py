"""JAX twins of attention."""

import math

import jax
from jax import numpy as jnp

from gradcheck.reference.attention import MultiHeadAttention, ScaledDotProductAttention
from gradcheck.suites.twins.jax_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def scaled_dot_product_attention(
    layer: ScaledDotProductAttention, params: Params, *inputs: jax.Array
) -> Outputs:
    q, k, v, *given = inputs
    return (_attend(q, k, v, _allowed(q, k, layer.causal, *given)),)


@apply.register
def multi_head_attention(layer: MultiHeadAttention, params: Params, *inputs: jax.Array) -> Outputs:
    """JAX has the heads; the projections around them are written here, for it has no module."""
    query, key, value, *padding = inputs
    weights = jnp.split(params["in_proj_weight"], 3)
    biases = jnp.split(params["in_proj_bias"], 3) if layer.bias else 3 * [jnp.zeros(())]
    q, k, v = (
        _split(x @ w.T + b.astype(x.dtype), layer.heads)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    mask = (~ignored[:, None, None, :] for ignored in padding)
    context = _attend(q, k, v, _allowed(q, k, layer.causal, *mask))
    y = context.swapaxes(1, 2).reshape(query.shape) @ params["out_proj.weight"].T
    return (y + params["out_proj.bias"] if layer.bias else y,)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array) -> jax.Array:
    """Return the attention of each query; zero for a query that may attend to nothing.

    For such a query JAX would return the mean of all values, so it attends to all and is then
    set to zero. `jax.nn.dot_product_attention` (0.10) rounds its softmax to float32 whatever
    its inputs are, 1e-7 of noise that a check in float64 would report, and wants values as wide
    as keys: in these two cases the softmax is `jax.nn.softmax`.
    """
    somewhere = allowed.any(axis=-1, keepdims=True)
    allowed = allowed | ~somewhere
    exact = q.dtype == jnp.float64 or q.shape[-1] != v.shape[-1]
    attention = _by_softmax if exact else _by_dot_product_attention
    return jnp.where(somewhere, attention(q, k, v, allowed), 0.0)


def _by_softmax(q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array) -> jax.Array:
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    return jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), axis=-1) @ v


def _by_dot_product_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array
) -> jax.Array:
    """JAX wants (batch, time, heads, features): all leading axes become the batch."""
    rows = math.prod(q.shape[:-2])
    query, key, value = (x.reshape(rows, *x.shape[-2:])[:, :, None] for x in (q, k, v))
    mask = allowed.reshape(rows, 1, *allowed.shape[-2:])
    y: jax.Array = jax.nn.dot_product_attention(query, key, value, mask=mask)
    return y.reshape(q.shape)


def _allowed(q: jax.Array, k: jax.Array, causal: bool, *mask: jax.Array) -> jax.Array:
    """True where a query may attend to a key, for every query of every leading axis."""
    shape = (*q.shape[:-1], k.shape[-2])
    past = jnp.ones(shape[-2:], bool)
    past = jnp.tril(past) if causal else past
    return jnp.broadcast_to(past & mask[0] if mask else past, shape)


def _split(x: jax.Array, heads: int) -> jax.Array:
    """(batch, time, features) to (batch, heads, time, features / heads)."""
    batch, time, features = x.shape
    return x.reshape(batch, time, heads, features // heads).swapaxes(1, 2)
