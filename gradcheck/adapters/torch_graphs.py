"""What can be read off an autograd graph."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

__all__ = ["graph_of", "is_native", "raises_when_differentiated", "rejects"]

# A rule of PyTorch has a number; that of a custom Function is called after its class.
NATIVE = re.compile(r"\w+Backward\d+|torch::autograd::(AccumulateGrad|CopySlices|CopyBackwards)")


def is_native(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether every node of their graph is one of PyTorch's own."""
    return all(NATIVE.fullmatch(node.name()) for node in graph_of(tensors))


def rejects(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether a node of their graph is the implicit derivative of a sampler by rejection."""
    return any(node.name() in REJECTING for node in graph_of(tensors))


# Gamma, of which Beta, Dirichlet and Student's t are made.
REJECTING = ("StandardGammaBackward0", "_DirichletBackward")


def raises_when_differentiated(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether a node that only raises lies in their graph: `grad` walks around it in silence."""
    return any(node.name() == "torch::autograd::Error" for node in graph_of(tensors))


def graph_of(tensors: Sequence[torch.Tensor]) -> Iterator[Any]:
    """Yield the nodes of the graph that `tensors` come from."""
    seen, ahead = set(), [tensor.grad_fn for tensor in tensors]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        yield node
        seen.add(node)
        ahead += [below for below, _ in node.next_functions]
