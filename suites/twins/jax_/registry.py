"""The one door to the JAX twins."""

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import jax

from gradcheck.suites.twins.missing import NoTwin

__all__ = ["Outputs", "Params", "apply"]

Params = Mapping[str, Any]  # name -> array, nested like the reference layer's parameters
Outputs = tuple[jax.Array, ...]


@singledispatch
def apply(layer: object, params: Params, *inputs: jax.Array) -> Outputs:
    """Return the outputs of the JAX twin of the reference layer `layer`."""
    raise NoTwin(layer, "jax")
