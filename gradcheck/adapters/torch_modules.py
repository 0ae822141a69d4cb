"""Modules run at other parameters and buffers than their own, and given back as they were."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch

from gradcheck.problem import owner

__all__ = ["Rooms", "held", "module_of", "out_of_reach", "rooms_of"]


def module_of(target: Any) -> torch.nn.Module | None:
    """Return the module that a target is, or is a bound method or partial application of."""
    found = owner(target)
    return found if isinstance(found, torch.nn.Module) else None


def held(target: Any) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of the module that a target is, by name."""
    module = module_of(target)
    return {} if module is None else dict([*module.named_parameters(), *module.named_buffers()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Where a module and its parts hold tensors and attributes: looked up once for many runs."""

    tensors: Mapping[str, torch.Tensor]  # parameters and buffers by name, shared ones once
    slots: Sequence[tuple[dict[str, Any], str, torch.Tensor]]  # every place that holds one
    tables: Sequence[dict[str, Any]]  # all that is held

    @contextmanager
    def put(self, others: Mapping[torch.Tensor, torch.Tensor]) -> Iterator[None]:
        """Put other tensors in the place of the module's own, wherever it holds them.

        One that is shared is replaced in every place. PyTorch's `functional_call` does the same at
        several times the cost of a small layer.
        """
        swapped = [slot for slot in self.slots if slot[2] in others]
        for table, name, own in swapped:
            table[name] = others[own]
        try:
            yield
        finally:
            for table, name, own in swapped:
                table[name] = own

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Undo what a forward pass stores on its module: a hidden state, a counter, a history."""
        kept = [dict(table) for table in self.tables]
        lists = [value for table in kept for value in table.values() if isinstance(value, list)]
        contents = [list(value) for value in lists]
        try:
            yield
        finally:
            for table, content in zip(self.tables, kept, strict=True):
                table.clear()
                table.update(content)
            for value, items in zip(lists, contents, strict=True):
                value[:] = items


def rooms_of(module: torch.nn.Module) -> Rooms:
    """Return where `module` holds what it holds."""
    parts = list(module.modules())
    holders: list[Any] = [table for part in parts for table in (part._parameters, part._buffers)]
    return Rooms(
        tensors=held(module),
        slots=[
            (table, name, own)
            for table in holders
            for name, own in table.items()
            if own is not None
        ],
        tables=[*map(vars, parts), *holders],
    )


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
