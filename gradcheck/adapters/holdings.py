"""What a target keeps between calls: arrays that its code can reach, and were not there before.

Reached are the cells of closures, the globals that its code names, the attributes of its classes
and of what it is a method of, and containers among those.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

__all__ = ["Inventory", "has_kept", "inventory"]

MOST = 400  # objects: enough for a module of layers and the helpers that they call

FOREIGN = frozenset({"jax", "jaxlib", "numpy", "torch"})  # what they hold is none of the target's

# The identity of a holder -> it, and what it held.
Inventory = Mapping[int, tuple[Any, tuple[Any, ...]]]


def inventory(target: Any) -> Inventory:
    """Return what every object holds that the code of `target` can reach."""
    found: dict[int, tuple[Any, tuple[Any, ...]]] = {}
    ahead = deque([target])
    while ahead and len(found) < MOST:
        value = ahead.popleft()
        if id(value) in found or _is_plain(value):
            continue
        held = _held(value)
        found[id(value)] = value, held
        ahead.extend(held)
    return found


def has_kept(before: Inventory, after: Inventory) -> bool:
    """Whether a holder of both inventories holds numbers, or containers, that it did not before."""
    for key, (_, held) in after.items():
        if key in before:
            known = {id(value) for value in before[key][1]}
            if any(id(value) not in known and _may_be_made(value) for value in held):
                return True
    return False


def _may_be_made(value: Any) -> bool:
    """Whether a call may have made it of its arguments; a counter says nothing of them."""
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    return is_array or isinstance(value, float | complex | dict | list | tuple | set)


def _is_plain(value: Any) -> bool:
    """Whether there is nothing to find in it: a number, an array, a module, a framework's own."""
    if value is None or isinstance(value, int | float | complex | str | bytes | ModuleType):
        return True
    own = value if isinstance(value, type) else type(value)
    is_foreign = own.__module__.split(".")[0] in FOREIGN
    return is_foreign and not (callable(value) and hasattr(value, "__wrapped__"))


def _held(value: Any) -> tuple[Any, ...]:
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        names = _names(value.__code__)
        own = [value.__globals__[name] for name in sorted(names & value.__globals__.keys())]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return (*cells, *own, *defaults, *vars(value).values())
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, staticmethod | classmethod):
        return (value.__func__,)
    if isinstance(value, partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, dict):
        return tuple(value.values())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return tuple(value)
    if is_dataclass(value) and not isinstance(value, type):
        return tuple(getattr(value, field.name, None) for field in fields(value))
    of_class = () if isinstance(value, type) else (type(value),)
    return (*of_class, *getattr(value, "__dict__", {}).values())


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names(code: CodeType) -> set[str]:
    """The names in code, and in that of the functions which it defines."""
    inner = (_names(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*inner)
