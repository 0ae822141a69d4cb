"""Modules run at other parameters and buffers than their own, and given back as they were."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch

from gradcheck.problem import owner

__all__ = ["attributes_kept", "held", "module_of", "out_of_reach", "put"]


def module_of(target: Any) -> torch.nn.Module | None:
    """Return the module that a target is, or is a bound method or partial application of."""
    found = owner(target)
    return found if isinstance(found, torch.nn.Module) else None


def held(target: Any) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of the module that a target is, by name."""
    module = module_of(target)
    return {} if module is None else dict([*module.named_parameters(), *module.named_buffers()])


@contextmanager
def put(module: torch.nn.Module, tensors: Mapping[torch.Tensor, torch.Tensor]) -> Iterator[None]:
    """Put other tensors in the place of a module's own, wherever it holds them.

    One that is shared is replaced in every place. PyTorch's `functional_call` does the same at
    several times the cost of a small layer.
    """
    swapped = [
        (table, name, own)
        for part in module.modules()
        for table in (part._parameters, part._buffers)
        for name, own in table.items()
        if own in tensors
    ]
    for table, name, own in swapped:
        table[name] = tensors[own]  # type: ignore[assignment, index]
    try:
        yield
    finally:
        for table, name, own in swapped:
            table[name] = own  # type: ignore[assignment]


@contextmanager
def attributes_kept(module: torch.nn.Module) -> Iterator[None]:
    """Undo what a forward pass stores on its module: a hidden state, a counter, a history."""
    tables = [
        table
        for part in module.modules()
        for table in (part.__dict__, part._parameters, part._buffers)
    ]
    kept = [dict(table) for table in tables]
    lists = [value for table in kept for value in table.values() if isinstance(value, list)]
    contents = [list(value) for value in lists]
    try:
        yield
    finally:
        for table, content in zip(tables, kept, strict=True):
            table.clear()
            table.update(content)
        for value, items in zip(lists, contents, strict=True):
            value[:] = items


def out_of_reach(target: Any) -> list[str]:
    """Return the names of trainable modules and tensors that a plain function finds by itself."""
    function = owner(target)
    if not isinstance(function, FunctionType):
        return []
    code = function.__code__
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    found = {name: function.__globals__.get(name) for name in code.co_names}
    found |= {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    return [name for name, value in found.items() if _is_trainable(value)]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # assigned to later
        return False


def _is_trainable(value: Any) -> bool:
    if isinstance(value, torch.nn.Module):
        return any(parameter.requires_grad for parameter in value.parameters())
    return isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf
