"""The layout law: what an array's strides are changes nothing.

A kernel that reads the storage of its cotangent as if it were contiguous passes every check that
feeds it contiguous ones, and fails in the first network that transposes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gradcheck import trees
from gradcheck.reference.layer import Array, Cotangents, Layer, Outputs, Params

__all__ = ["Strided", "strided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strided:
    """`inner`, given parameters, inputs and cotangents that lie in every second place."""

    inner: Layer

    @property
    def constant_inputs(self) -> tuple[int, ...]:
        constant: tuple[int, ...] = getattr(self.inner, "constant_inputs", ())
        return constant

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return self.inner.parameters(rng, dtype)

    def forward(self, params: Params, *inputs: Array) -> tuple[Outputs, Any]:
        apart = trees.rebuild(params, lambda _, leaf: strided(leaf))
        return self.inner.forward(apart, *map(strided, inputs))

    def backward(self, params: Params, cache: Any, *us: Array) -> tuple[Params, Cotangents]:
        apart = trees.rebuild(params, lambda _, leaf: strided(leaf))
        return self.inner.backward(apart, cache, *map(strided, us))


def strided(array: Array) -> Array:
    """Return the same values, read-only, in every second place of a buffer of NaN (or zeros)."""
    filler = np.nan if np.issubdtype(array.dtype, np.inexact) else 0
    buffer = np.full((*array.shape, 2), filler, array.dtype)
    buffer[..., 0] = array
    view = buffer[..., 0]
    view.flags.writeable = False
    return view
