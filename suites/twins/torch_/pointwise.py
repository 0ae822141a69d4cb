"""PyTorch twins of the layers that act on each row or each element."""

import torch
import torch.nn.functional as F

from gradcheck.reference.dense import Dense
from gradcheck.suites.twins.torch_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def dense(layer: Dense, params: Params, x: torch.Tensor) -> Outputs:
    return (F.linear(x, params["weight"], params.get("bias")),)
