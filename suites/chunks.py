"""The chunk law: a sequence run in two parts, state handed over, is the sequence run at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.layer import Array, Cotangents, Outputs, Params
from gradcheck.reference.recurrent import Recurrent

__all__ = ["Chunked", "halves"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunked:
    """`inner` run over x[:at], then from the state it returned over x[at:].

    Backward runs the chunks in reverse: the cotangent of the state between them is what the later
    chunk gives its initial state. Parameters receive the sum of both.
    """

    inner: Recurrent
    at: int

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return self.inner.parameters(rng, dtype)

    def forward(self, params: Params, x: Array, *states: Array) -> tuple[Outputs, Any]:
        (y1, *between), cache1 = self.inner.forward(params, x[: self.at], *states)
        (y2, *final), cache2 = self.inner.forward(params, x[self.at :], *between)
        return (np.concatenate([y1, y2]), *final), (cache1, cache2)

    def backward(
        self, params: Params, cache: Any, u: Array, *state_us: Array
    ) -> tuple[Params, Cotangents]:
        later, early = u[self.at :], u[: self.at]
        grads2, (x2, *between) = _pull(self.inner, params, cache[1], (later, *state_us))
        grads1, (x1, *states) = _pull(self.inner, params, cache[0], (early, *between))
        total = {name: grads1[name] + grads2[name] for name in grads1}
        return total, (np.concatenate([x1, x2]), *states)


def _pull(
    layer: Recurrent, params: Params, cache: Any, cotangents: tuple[Array, ...]
) -> tuple[Params, tuple[Array, ...]]:
    """The VJP of a layer whose inputs all carry a gradient."""
    grads, inputs = layer.backward(params, cache, *cotangents)
    return grads, tuple(x for x in inputs if x is not None)


def halves(apply: Any, concatenate: Any, layer: Chunked, params: Any, x: Any, states: Any) -> Any:
    """Run a framework's twin of `layer.inner` over both chunks."""
    y1, *between = apply(layer.inner, params, x[: layer.at], *states)
    y2, *final = apply(layer.inner, params, x[layer.at :], *between)
    return (concatenate([y1, y2]), *final)
