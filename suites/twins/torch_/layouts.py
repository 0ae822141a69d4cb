"""The PyTorch twin of a layer whose arrays lie in every second place."""

import torch

from gradcheck import trees
from gradcheck.reference.normalization import BatchNorm
from gradcheck.suites.layouts import Strided
from gradcheck.suites.networks import parts
from gradcheck.suites.twins.torch_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def strided(layer: Strided, params: Params, *inputs: torch.Tensor) -> Outputs:
    # PyTorch 2.13 on CPU: the backward of batch_norm reads a strided weight as if it were
    # contiguous when x and its cotangent are, and returns a wrong x̄.
    normalized = any(isinstance(part, BatchNorm) for part in parts(layer))
    apart = params if normalized else trees.rebuild(params, lambda _, leaf: _apart(leaf))
    return tuple(_apart(y) for y in apply(layer.inner, apart, *map(_apart, inputs)))


def _apart(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in every second place; backward, the cotangent comes out so too.

    The derivative of `stack` takes its cotangent apart without a copy.
    """
    return torch.stack([tensor, tensor], dim=-1)[..., 0]
