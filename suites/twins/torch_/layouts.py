"""The PyTorch twin of a layer whose arrays lie in every second place."""

import torch

from gradcheck import trees
from gradcheck.suites.layouts import Strided
from gradcheck.suites.twins.torch_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def strided(layer: Strided, params: Params, *inputs: torch.Tensor) -> Outputs:
    apart = trees.rebuild(params, lambda _, leaf: _apart(leaf))
    return tuple(_apart(y) for y in apply(layer.inner, apart, *map(_apart, inputs)))


def _apart(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in every second place; backward, the cotangent comes out so too.

    The derivative of `stack` takes its cotangent apart without a copy.
    """
    return torch.stack([tensor, tensor], dim=-1)[..., 0]
