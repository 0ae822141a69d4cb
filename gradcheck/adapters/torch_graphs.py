"""What can be read off an autograd graph."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

__all__ = ["graph_of", "is_native", "raises_when_differentiated", "rejecting"]

# A rule of PyTorch has a number; that of a custom Function is called after its class.
NATIVE = re.compile(r"\w+Backward\d+|torch::autograd::(AccumulateGrad|CopySlices|CopyBackwards)")


def is_native(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether every node of their graph is one of PyTorch's own."""
    return all(NATIVE.fullmatch(node.name()) for node in graph_of(tensors))


def rejecting(tensors: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> frozenset[int]:
    """The positions of the leaves that a sampler by rejection in their graph draws from."""
    drawn = [node for node in graph_of(tensors) if node.name() in REJECTING]
    under = {id(getattr(node, "variable", None)) for node in _below(drawn)}
    return frozenset(k for k, leaf in enumerate(leaves) if id(leaf) in under)


# Gamma, of which Beta, Dirichlet and Student's t are made.
REJECTING = ("StandardGammaBackward0", "_DirichletBackward")


def raises_when_differentiated(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether a node that only raises lies in their graph: `grad` walks around it in silence."""
    return any(node.name() == "torch::autograd::Error" for node in graph_of(tensors))


def graph_of(tensors: Sequence[torch.Tensor]) -> Iterator[Any]:
    """Yield the nodes of the graph that `tensors` come from."""
    return _below([tensor.grad_fn for tensor in tensors])


def _below(nodes: Sequence[Any]) -> Iterator[Any]:
    """Yield nodes and all that they lead back to, each once."""
    seen, ahead = set(), list(nodes)
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        yield node
        seen.add(node)
        ahead += [below for below, _ in node.next_functions]
