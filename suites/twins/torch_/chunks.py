"""The PyTorch twin of a sequence run in two chunks."""

import torch

from gradcheck.suites.chunks import Chunked, halves
from gradcheck.suites.twins.torch_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def chunked(layer: Chunked, params: Params, x: torch.Tensor, *states: torch.Tensor) -> Outputs:
    outputs: Outputs = halves(apply, torch.cat, layer, params, x, states)
    return outputs
