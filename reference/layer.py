"""What every layer of the reference is: a frozen record with a forward and a derived backward.

There is no tape. `forward` returns its outputs and a cache of what the derivation needs;
`backward` turns cotangents of the outputs into cotangents of the parameters and of the inputs,
by formulas written out by hand in the docstring of each layer.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Cache", "Cotangents", "Layer", "Outputs", "Params"]

Array = NDArray[Any]
Params = Mapping[str, Any]  # name -> array, or a nested mapping for a composed layer
Outputs = tuple[Array, ...]
Cotangents = tuple[Array | None, ...]  # None: the input carries no gradient (indices, masks)
Cache = Any  # whatever `forward` hands to `backward`; nobody else looks inside


@runtime_checkable
class Layer(Protocol):
    """A differentiable function of parameters and inputs.

    Shapes and hyperparameters are fields of the record; the arrays are arguments. A layer
    computes in the dtype of its arrays and mutates none of them.
    """

    @property
    def parameters(self) -> Callable[[np.random.Generator, Any], Params]:
        """`parameters(rng, dtype)` draws a fresh set of parameters, float64 by default."""

    @property
    def forward(self) -> Callable[..., tuple[Outputs, Cache]]:
        """`forward(params, *inputs)` returns the outputs, always a tuple, and the cache."""

    @property
    def backward(self) -> Callable[..., tuple[Params, Cotangents]]:
        """`backward(params, cache, *cotangents)` returns the VJP: one cotangent for every
        parameter, named as in `params`, and one for every input, None where it has none."""
