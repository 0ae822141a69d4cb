"""Layers made of layers: the chain rule, and the sum rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.layer import Array, Cache, Cotangents, Layer, Outputs, Params

__all__ = ["Residual", "Sequential"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """y = f_n(··· f_2(f_1(x))):  the cotangents go back through the layers in reverse.

    One array travels along the chain. If a layer has several outputs, such as a recurrent layer
    with its last state, the first goes on and the others end there, with cotangent zero; those of
    the last layer are the outputs of the chain. A layer that needs several inputs cannot be a
    link. Without layers, y = x.

    Parameters: {"0": those of the first layer, "1": those of the second, ...}.
    """

    layers: tuple[Layer, ...]

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return {str(i): layer.parameters(rng, dtype) for i, layer in enumerate(self.layers)}

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Sequence[Cache]]:
        caches: list[Cache] = []
        outputs: Outputs = (x,)
        for i, layer in enumerate(self.layers):
            ends = outputs[1:]
            outputs, cache = layer.forward(params[str(i)], outputs[0])
            caches.append((cache, ends))
        return outputs, caches

    def backward(
        self, params: Params, caches: Sequence[Cache], *cotangents: Array
    ) -> tuple[Params, Cotangents]:
        grads = {}
        bars: Cotangents = cotangents
        for i, layer in reversed(tuple(enumerate(self.layers))):
            cache, ends = caches[i]
            grads[str(i)], (x_bar,) = layer.backward(params[str(i)], cache, *bars)
            bars = (x_bar, *(np.zeros_like(end) for end in ends))
        return dict(reversed(grads.items())), bars


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """y = x + f(x);  x̄ = u + f̄(u), with f̄ the VJP of the inner layer.

    The inner layer must keep the shape of x. If it has several outputs, x is added to the first.

    Parameters: {"inner": those of the inner layer}.

    Sources:
        He, Zhang, Ren and Sun, Deep residual learning, arXiv:1512.03385 (2015), eq. 1.
    """

    inner: Layer

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return {"inner": self.inner.parameters(rng, dtype)}

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Cache]:
        (f, *others), cache = self.inner.forward(params["inner"], x)
        if f.shape != x.shape:
            raise ValueError(
                f"Residual: expected {type(self.inner).__name__} to keep the shape {x.shape} of "
                f"its input; got {f.shape}. Give it as many outputs as inputs."
            )
        return (x + f, *others), cache

    def backward(
        self, params: Params, cache: Cache, u: Array, *others: Array
    ) -> tuple[Params, Cotangents]:
        grads, (x_bar,) = self.inner.backward(params["inner"], cache, u, *others)
        return {"inner": grads}, (u + x_bar,)
