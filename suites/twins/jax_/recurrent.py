"""JAX twins of the recurrent networks: jax.lax.scan over time, one step function per cell."""

from functools import partial, singledispatch

import jax
import jax.numpy as jnp

from gradcheck.reference.cells import ElmanCell, GRUCell, LSTMCell
from gradcheck.reference.recurrent import Recurrent
from gradcheck.suites.twins.jax_.registry import Outputs, Params, apply
from gradcheck.suites.twins.missing import NoTwin

__all__: list[str] = []

State = tuple[jax.Array, ...]


@apply.register
def recurrent(layer: Recurrent, params: Params, x: jax.Array, *rest: jax.Array) -> Outputs:
    """Run chunk by chunk, the states detached in between; untruncated, there is one chunk."""
    state, alive = rest, jnp.ones((*x.shape[:2], 1), bool)
    if layer.masked:
        *first, lengths = rest
        state, alive = tuple(first), (jnp.arange(len(x))[:, None] < lengths)[..., None]
    size = layer.truncation or max(len(x), 1)
    ys = []
    for start in range(0, max(len(x), 1), size):  # without a step, one chunk without a step
        chunk = slice(start, start + size)
        if start:
            state = tuple(jax.lax.stop_gradient(s) for s in state)
        y, state = _stack(layer, dict(params), x[chunk], state, alive[chunk])
        ys.append(y)
    return (jnp.concatenate(ys), *state)


# Compiled once for a layer and the shapes; outside of jit, lax.scan compiles at every call.
@partial(jax.jit, static_argnums=0)
def _stack(
    layer: Recurrent, params: Params, x: jax.Array, first: State, alive: jax.Array
) -> tuple[jax.Array, State]:
    y = jnp.where(alive, x, 0)
    last: list[State] = []
    for depth in range(layer.layers):
        sides = []
        for suffix in (f"l{depth}", f"l{depth}_reverse")[: layer.directions]:
            state = tuple(s[len(last)] for s in first)
            h, state = _scan(layer, params, suffix, y, state, alive)
            sides.append(h)
            last.append(state)
        y = jnp.concatenate(sides, axis=-1)
    return y, tuple(jnp.stack(s) for s in zip(*last, strict=True))


def _scan(
    layer: Recurrent, params: Params, suffix: str, x: jax.Array, state: State, alive: jax.Array
) -> tuple[jax.Array, State]:
    weight = params[f"weight_hh_{suffix}"]
    bias = params[f"bias_hh_{suffix}"] if layer.bias else jnp.zeros_like(weight[:, 0])
    a = x @ params[f"weight_ih_{suffix}"].T
    if layer.bias:
        a = a + params[f"bias_ih_{suffix}"]

    def step(state: State, now: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        a, alive = now
        after = _step(layer.cell, a, state, weight, bias)
        state = tuple(jnp.where(alive, s, held) for s, held in zip(after, state, strict=True))
        return state, jnp.where(alive, state[0], 0)

    last, h = jax.lax.scan(step, state, (a, alive), reverse=suffix.endswith("reverse"))
    return h, last


@singledispatch
def _step(cell: object, a: jax.Array, state: State, weight: jax.Array, bias: jax.Array) -> State:
    raise NoTwin(cell, "jax")


@_step.register
def _elman(
    cell: ElmanCell, a: jax.Array, state: State, weight: jax.Array, bias: jax.Array
) -> State:
    nonlinearity = jnp.tanh if cell.nonlinearity == "tanh" else jax.nn.relu
    return (nonlinearity(a + state[0] @ weight.T + bias),)


@_step.register
def _lstm(cell: LSTMCell, a: jax.Array, state: State, weight: jax.Array, bias: jax.Array) -> State:
    h, c = state
    i, f, g, o = jnp.split(a + h @ weight.T + bias, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


@_step.register
def _gru(cell: GRUCell, a: jax.Array, state: State, weight: jax.Array, bias: jax.Array) -> State:
    (h,) = state
    a_r, a_z, a_n = jnp.split(a, 3, axis=-1)
    w_r, w_z, w_n = jnp.split(weight, 3)
    b_r, b_z, b_n = jnp.split(bias, 3)
    r = jax.nn.sigmoid(a_r + h @ w_r.T + b_r)
    z = jax.nn.sigmoid(a_z + h @ w_z.T + b_z)
    product = r * (h @ w_n.T + b_n) if cell.reset == "after" else (r * h) @ w_n.T + b_n
    return ((1 - z) * jnp.tanh(a_n + product) + z * h,)
