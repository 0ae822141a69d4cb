"""The one door to the PyTorch twins."""

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import torch

from gradcheck.suites.twins.missing import NoTwin

__all__ = ["Outputs", "Params", "apply"]

Params = Mapping[str, Any]  # name -> tensor, nested like the reference layer's parameters
Outputs = tuple[torch.Tensor, ...]


@singledispatch
def apply(layer: object, params: Params, *inputs: torch.Tensor) -> Outputs:
    """Return the outputs of the PyTorch twin of the reference layer `layer`."""
    raise NoTwin(layer, "torch")
