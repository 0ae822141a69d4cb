"""A part of a target: a submodule, a custom function, a custom rule inside."""

from dataclasses import dataclass
from typing import Any

__all__ = ["Part"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something inside a target that is one itself, with what it was given when the target ran."""

    path: str  # "layers.3", "layers.3.MyFunction", "scan.my_rule"
    kind: str  # "module", "autograd.Function", "custom_vjp", "custom_jvp"
    target: Any
    inputs: tuple[Any, ...]
