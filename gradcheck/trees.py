"""Nested containers of arrays: their leaves, and the path of each.

Dicts, lists, tuples, named tuples and dataclasses are walked; anything else is a leaf. JAX targets
do not come here: JAX's own tree knows which classes its users registered.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["Keywords", "called", "leaves", "rebuild"]


class Keywords(dict[str, Any]):
    """The keyword arguments of a call, last among its arguments: `input.mask`."""


def called(target: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Return what `target` does; `Keywords` at the end are its keyword arguments."""
    if arguments and isinstance(arguments[-1], Keywords):
        return target(*arguments[:-1], **arguments[-1])
    return target(*arguments)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, leaf) in a fixed order; `None` is a leaf and a path reads like Python."""
    children = _children(tree)
    if children is None:
        yield path, tree
        return
    for step, child in children:
        yield from leaves(child, path + step)


def rebuild(tree: Any, replace: Callable[[str, Any], Any], path: str = "") -> Any:
    """Return a tree of the same shape whose leaves are `replace(path, leaf)`."""
    children = _children(tree)
    if children is None:
        return replace(path, tree)
    new = [rebuild(child, replace, path + step) for step, child in children]
    if isinstance(tree, dict):
        return (
            type(tree)(zip(tree, new, strict=True))
            if type(tree) in (dict, Keywords)
            else dict(zip(tree, new, strict=True))
        )
    if is_dataclass(tree):
        return _copied(tree, new)
    return type(tree)(*new) if hasattr(tree, "_fields") else type(tree)(new)


def _children(tree: Any) -> list[tuple[str, Any]] | None:
    """The (step, child) pairs of a container, or None for a leaf."""
    if isinstance(tree, Keywords):
        return [(f".{name}", child) for name, child in tree.items()]
    if isinstance(tree, dict):
        return [(f"[{key!r}]", child) for key, child in tree.items()]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return [(f".{name}", getattr(tree, name)) for name in tree._fields]
    if type(tree) in (list, tuple) or _is_sequence(tree):
        return [
            ("" if isinstance(child, Keywords) else f"[{index}]", child)
            for index, child in enumerate(tree)
        ]
    if is_dataclass(tree) and not isinstance(tree, type):
        return [(f".{field.name}", getattr(tree, field.name)) for field in fields(tree)]
    return None


def _is_sequence(tree: Any) -> bool:
    """Whether it is a C record that is a tuple too, as what `torch.max(x, 0)` returns."""
    return isinstance(tree, tuple) and hasattr(tree, "n_sequence_fields")


def _copied(record: Any, values: list[Any]) -> Any:
    """A copy of a dataclass with other field values; `__init__` and its checks do not run."""
    copy = object.__new__(type(record))
    for field, value in zip(fields(record), values, strict=True):
        object.__setattr__(copy, field.name, value)
    return copy
