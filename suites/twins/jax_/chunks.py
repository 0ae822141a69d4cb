"""The JAX twin of a sequence run in two chunks."""

import jax

from gradcheck.suites.chunks import Chunked, halves
from gradcheck.suites.twins.jax_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def chunked(layer: Chunked, params: Params, x: jax.Array, *states: jax.Array) -> Outputs:
    outputs: Outputs = halves(apply, jax.numpy.concatenate, layer, params, x, states)
    return outputs
