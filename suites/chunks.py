"""The chunk law: a sequence run in two parts, the state handed over, is the sequence run at once."""

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
        grads2, (x2, *between) = self.inner.backward(params, cache[1], u[self.at :], *state_us)
        grads1, (x1, *states) = self.inner.backward(params, cache[0], u[: self.at], *between)
        total = {name: grads1[name] + grads2[name] for name in grads1}
        assert x1 is not None  # x always carries a gradient
        assert x2 is not None
        return total, (np.concatenate([x1, x2]), *states)


def halves(apply: Any, concatenate: Any, layer: Chunked, params: Any, x: Any, states: Any) -> Any:
    """Run a framework's twin of `layer.inner` over both chunks."""
    y1, *between = apply(layer.inner, params, x[: layer.at], *states)
    y2, *final = apply(layer.inner, params, x[layer.at :], *between)
    return (concatenate([y1, y2]), *final)
