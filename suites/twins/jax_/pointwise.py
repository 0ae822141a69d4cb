"""JAX twins of the layers that act on each row or each element."""

import jax

from gradcheck.reference.dense import Dense
from gradcheck.suites.twins.jax_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def dense(layer: Dense, params: Params, x: jax.Array) -> Outputs:
    y = x @ params["weight"].T
    return (y + params["bias"] if layer.bias else y,)
