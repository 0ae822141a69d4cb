"""How an array may lie in memory: geometry, in units of elements, for every framework alike.

Every layout has room before, behind and, where it has gaps, between its entries. A framework fills
that room with NaN: a kernel that reads where the strides do not lead gets nothing it could use.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul

__all__ = ["CONJUGATED", "EXPANDED", "Placement", "differs", "placement"]

ROOM = 8  # elements on either side

CONJUGATED = "conjugated lazily"  # a flag on the conjugate's memory; of complex arrays

EXPANDED = "expanded (stride 0)"  # as `sum().backward()` hands out; all entries are one

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the entries of an array lie in a buffer of `length` elements."""

    strides: Shape
    offset: int
    length: int


def differs(layout: str, shape: Shape, dtype: str) -> bool:
    """Return whether an array can lie in `layout` and then lies otherwise than by default."""
    if layout == CONJUGATED:
        return "complex" in dtype and prod(shape) > 0
    return placement(layout, shape) is not None


def placement(layout: str, shape: Shape) -> Placement | None:
    """Return where an array of `shape` lies; None if that is where it would lie anyway."""
    if prod(shape) <= 1:
        return None
    strides = STRIDES[layout](shape)
    if strides is None:
        return None
    reach = [stride * (length - 1) for stride, length in zip(strides, shape, strict=True)]
    before = -sum(r for r in reach if r < 0)
    behind = sum(r for r in reach if r > 0)
    return Placement(strides=strides, offset=ROOM + before, length=before + behind + 1 + 2 * ROOM)


def _contiguous(shape: Shape) -> Shape:
    return tuple(accumulate(reversed(shape[1:]), mul, initial=1))[::-1] if shape else ()


def _sliced(shape: Shape) -> Shape:
    """Every second entry of rows that are one entry longer."""
    return tuple(2 * stride for stride in _contiguous(tuple(length + 1 for length in shape)))


def _transposed(shape: Shape) -> Shape | None:
    is_matrix = sum(length > 1 for length in shape) > 1
    return _contiguous(shape[::-1])[::-1] if is_matrix else None


def _channels_last(shape: Shape) -> Shape | None:
    if len(shape) < 4 or shape[1] == 1 or prod(shape[2:]) == 1:
        return None
    batch, *space, channel = _contiguous((shape[0], *shape[2:], shape[1]))
    return (batch, channel, *space)


def _reversed(shape: Shape) -> Shape:
    return tuple(-stride for stride in _contiguous(shape))


STRIDES: Mapping[str, Callable[[Shape], Shape | None]] = {
    "sliced from a larger buffer": _sliced,
    "transposed": _transposed,
    "channels last": _channels_last,
    "reversed (negative strides)": _reversed,
    EXPANDED: lambda shape: (0,) * len(shape),
}
