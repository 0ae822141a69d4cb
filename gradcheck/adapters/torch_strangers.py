"""Trainable tensors that nobody handed over: a function finds them, or a module did not register.

What no leaf stands for is not checked, and must be said. An optimiser finds it as little.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from gradcheck import trees
from gradcheck.adapters.reach import unchecked, within_reach
from gradcheck.adapters.torch_graphs import graph_of
from gradcheck.adapters.torch_modules import attributes, module_of

__all__ = ["out_of_reach", "said_of", "strangers"]


def strangers(outputs: Sequence[torch.Tensor], known: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors that the graph of `outputs` adds a gradient to, but for those `known`."""
    ids = set(map(id, known))
    ends = (getattr(node, "variable", None) for node in graph_of(outputs))
    return [end for end in ends if end is not None and id(end) not in ids]


def out_of_reach(target: Any) -> list[str]:
    """Return the names of trainable modules and tensors that a plain function finds by itself."""
    return [name for name, value in within_reach(target).items() if _is_trainable(value)]


def said_of(
    target: Any, found: Collection[torch.Tensor], leaves: Collection[torch.Tensor]
) -> list[str]:
    """Return what to say of the trainable things that `target` names, and of those `found`."""
    module = module_of(target)
    if module is not None:
        return [_unregistered(tensor, module, leaves) for tensor in found]
    near, named = within_reach(target), out_of_reach(target)
    ids = {id(tensor) for name in named for _, tensor in _tensors(near[name], name)}
    lost = [tensor for tensor in found if id(tensor) not in ids]
    if not lost:  # what else it finds may be as large as a data set
        return unchecked(named)
    places = dict(pair for name, value in near.items() for pair in _places(value, name))
    said = unchecked([*named, *(places[id(x)] for x in lost if id(x) in places)])
    unplaced = [_described(x) for x in lost if id(x) not in places]
    return [*said, *(f"{x}, trainable, which the target finds by itself" for x in unplaced)]


def _unregistered(
    tensor: torch.Tensor, module: torch.nn.Module, leaves: Collection[torch.Tensor]
) -> str:
    if any(tensor is leaf for leaf in leaves):
        return "what was made of a parameter before the call, and is kept"
    own = {id(each): name for name, each in module.named_parameters()}
    if id(tensor) in own:
        return f"{own[id(tensor)]}, made by the first call: call the module once before the check"
    buffers = {id(buffer): name for name, buffer in module.named_buffers()}
    places = dict(pair for name, value in attributes(module) for pair in _places(value, name))
    name, kind = (buffers | places).get(id(tensor)), type(module).__name__
    if name is None:
        return f"{_described(tensor)}, trainable, which {kind} makes or finds by itself"
    return (
        f"{name}, which is trainable and no registered parameter of {kind}: an optimiser does not "
        "find it either"
    )


def _described(tensor: torch.Tensor) -> str:
    return f"a tensor of shape {tuple(tensor.shape)}"


def _places(value: Any, name: str) -> Iterator[tuple[int, str]]:
    return ((id(tensor), path) for path, tensor in _tensors(value, name))


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield by name the tensors that a value is or holds, in containers and modules."""
    with suppress(RecursionError):  # a list in itself
        for path, leaf in trees.leaves(value, name):
            if isinstance(leaf, torch.nn.Module):
                yield from ((f"{path}.{own}", x) for own, x in leaf.named_parameters())
            elif isinstance(leaf, torch.Tensor):
                yield path, leaf


def _is_trainable(value: Any) -> bool:
    if isinstance(value, torch.nn.Module):
        return any(parameter.requires_grad for parameter in value.parameters())
    return isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf
