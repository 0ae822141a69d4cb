"""A part of a target: a submodule, a custom function, a custom rule inside."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

__all__ = ["CALLS", "Call", "Part"]

CALLS = 8  # of one part that are kept, of the first and of the last: a loop may run for long


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a part was given when the target ran, and what came back to it."""

    inputs: tuple[Any, ...]
    cotangents: tuple[Any, ...] = ()  # of the floating outputs; None where nothing came back


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something inside a target that is one itself."""

    path: str  # "layers.3", "layers.3.MyFunction", "scan/my_rule"
    name: str  # "Linear", "MyFunction", "my_rule"
    kind: str  # "module", "autograd.Function", "custom_op", "custom_vjp", "custom_jvp"
    target: Any
    place: Hashable  # where it is in the target, to the adapter
    same: Hashable  # equal for the parts that are one piece of code, in several places
    calls: tuple[Call, ...]
    within: frozenset[str] = frozenset()  # the paths of the parts that ran around it
    wrt: tuple[str, ...] = ()  # the leaves that the target differentiates; all when empty
    # The sum of the products of its outputs with the cotangents of a call, where any came back.
    paired: Callable[[Call], Any | None] = lambda call: None
