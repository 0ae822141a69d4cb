"""What a plain function finds by itself: nobody handed it over, and so nobody checks it."""

import inspect
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from types import CodeType, FunctionType
from typing import Any

from gradcheck.problem import owner

__all__ = ["codes", "enclosed", "unchecked", "within_reach"]


def within_reach(target: Any) -> dict[str, Any]:
    """Return, by name, what a plain function finds: globals that it names, variables around it."""
    function = inspect.unwrap(owner(target))
    if not isinstance(function, FunctionType):
        return {}
    found = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    return found | enclosed(function)


def enclosed(function: FunctionType) -> dict[str, Any]:
    """Return the variables around a function by name, but for those that are not assigned yet."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def codes(code: CodeType) -> list[CodeType]:
    """Return a function's code, and that of the functions which it defines."""
    inner = (codes(part) for part in code.co_consts if isinstance(part, CodeType))
    return [code, *chain.from_iterable(inner)]


def unchecked(names: Iterable[str]) -> list[str]:
    """Return what is to be said of trainable things of those names, which a function finds."""
    return [
        f"parameters of {name}, which the target finds by itself: hand over the module, or pass "
        "them as inputs"
        for name in names
    ]
