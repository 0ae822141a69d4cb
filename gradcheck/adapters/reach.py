"""What a plain function finds by itself: nobody handed it over, and so nobody checks it."""

import inspect
from collections.abc import Iterable
from types import FunctionType
from typing import Any

from gradcheck.problem import owner

__all__ = ["unchecked", "within_reach"]


def within_reach(target: Any) -> dict[str, Any]:
    """Return, by name, what a plain function finds: globals that it names, variables around it."""
    function = inspect.unwrap(owner(target))
    if not isinstance(function, FunctionType):
        return {}
    code = function.__code__
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    found = {name: function.__globals__.get(name) for name in code.co_names}
    return found | {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}


def unchecked(names: Iterable[str]) -> list[str]:
    """Return what is to be said of trainable things of those names, which a function finds."""
    return [
        f"parameters of {name}, which the target finds by itself: hand over the module, or pass "
        "them as inputs"
        for name in names
    ]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # assigned to later
        return False
