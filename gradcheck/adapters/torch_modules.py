"""Modules run at other parameters and buffers than their own, and given back as they were."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from gradcheck.problem import owner

__all__ = ["Rooms", "attributes", "held", "module_of", "rooms_of"]


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
    attributes: Sequence[dict[str, Any]]  # what is held beside those
    tables: Sequence[dict[str, Any]]  # all that is held, those among it

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

    def waits(self) -> bool:
        """Whether a hook that is still to run has left its handle on the module."""
        held = (value for table in self.attributes for value in table.values())
        return any(isinstance(value, RemovableHandle) and _is_live(value) for value in held)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Undo what a pass stores on its module: a hidden state, a counter, a history."""
        kept = [dict(table) for table in self.tables]
        own = (item for table in self.attributes for item in table.items())
        stores = [value for name, value in own if name not in INTERNAL and _is_store(value)]
        contents = [(store, _content(store)) for store in stores]
        try:
            yield
        finally:
            for table, content in zip(self.tables, kept, strict=True):
                table.clear()
                table.update(content)
            for value, content in contents:
                _refill(value, content)


INTERNAL = frozenset(vars(torch.nn.Module()))  # what every module holds: its tables among them


def attributes(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield, by name, what a module and its parts hold beside parameters, buffers and parts."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in INTERNAL:
                yield f"{prefix}.{name}" if prefix else name, value


def _is_store(value: Any) -> bool:
    """Whether it can be written into, and be filled again; parameters and buffers are swapped."""
    if type(value) is torch.Tensor:
        return value.layout is torch.strided and not value.is_inference()
    if type(value) is np.ndarray:
        return value.flags.writeable
    return isinstance(value, list | dict | set | deque)


def _is_live(handle: RemovableHandle) -> bool:
    hooks = handle.hooks_dict_ref()
    return hooks is not None and handle.id in hooks


def _content(store: Any) -> Any:
    if isinstance(store, torch.Tensor):
        return store.detach().clone()
    if isinstance(store, np.ndarray):
        return store.copy()
    return dict(store) if isinstance(store, dict) else list(store)


def _refill(store: Any, content: Any) -> None:
    if isinstance(store, torch.Tensor):
        if not torch.equal(store, content):
            with torch.no_grad():
                store.copy_(content)
    elif isinstance(store, list | np.ndarray):
        store[:] = content
    else:
        store.clear()
        (store.extend if isinstance(store, deque) else store.update)(content)


def rooms_of(module: torch.nn.Module) -> Rooms:
    """Return where `module` holds what it holds."""
    parts = list(module.modules())
    holders: list[Any] = [table for part in parts for table in (part._parameters, part._buffers)]
    attributes = [*map(vars, parts)]
    return Rooms(
        tensors=held(module),
        slots=[
            (table, name, own)
            for table in holders
            for name, own in table.items()
            if own is not None
        ],
        attributes=attributes,
        tables=[*attributes, *(table for table in holders if isinstance(table, dict))],
    )
