"""How an array may lie in memory: geometry, in units of elements, for every framework alike.

Every layout has room before, behind and, where it has gaps, between its entries. A framework fills
that room with NaN: a kernel that reads where the strides do not lead gets nothing it could use.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import prod
from operator import mul

__all__ = ["CONJUGATED", "EXPANSIONS", "SWAPPED", "Placement", "differs", "placement"]

ROOM = 8  # elements on either side

SWAPPED = tuple(f"axes {axis} and {axis + 1} swapped" for axis in range(4))

CONJUGATED = "conjugated lazily"  # a flag on the conjugate's memory; of complex arrays

Shape = tuple[int, ...]

# A layout -> the axes of stride 0, along which all entries must be one: of the cotangents that a
# sum hands out, over everything, over examples or over features.
EXPANSIONS: Mapping[str, Callable[[int], Shape]] = {
    "expanded (stride 0)": lambda ndim: tuple(range(ndim)),
    "expanded along the first axis": lambda ndim: (0,),
    "expanded along the last axis": lambda ndim: (ndim - 1,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the entries of an array lie in a buffer of `length` elements."""

    strides: Shape
    offset: int
    length: int

    @property
    def once(self) -> tuple[slice, ...]:
        """The entries that have memory of their own: along a stride of 0, the first."""
        return tuple(slice(None) if stride else slice(1) for stride in self.strides)


def differs(layout: str, shape: Shape, dtype: str) -> bool:
    """Return whether an array can lie in `layout` and then lies otherwise than by default."""
    if layout == CONJUGATED:
        return "complex" in dtype and prod(shape) > 0
    return placement(layout, shape) is not None


def placement(layout: str, shape: Shape) -> Placement | None:
    """Return where an array of `shape` lies; None if that is where it would lie anyway."""
    if prod(shape) <= 1:
        return None
    strides = _expanded(layout, shape) if layout in EXPANSIONS else STRIDES[layout](shape)
    if strides is None:
        return None
    reach = [stride * (length - 1) for stride, length in zip(strides, shape, strict=True)]
    before = -sum(r for r in reach if r < 0)
    behind = sum(r for r in reach if r > 0)
    return Placement(strides=strides, offset=ROOM + before, length=before + behind + 1 + 2 * ROOM)


def _contiguous(shape: Shape) -> Shape:
    return tuple(accumulate(reversed(shape[1:]), mul, initial=1))[::-1] if shape else ()


def _permuted(shape: Shape, order: Sequence[int]) -> Shape:
    """Contiguous with the axes in that order."""
    strides = dict(zip(order, _contiguous(tuple(shape[axis] for axis in order)), strict=True))
    return tuple(strides[axis] for axis in range(len(shape)))


def _sliced(shape: Shape) -> Shape:
    """Every second entry of rows that are one entry longer."""
    return tuple(2 * stride for stride in _contiguous(tuple(length + 1 for length in shape)))


def _rows(shape: Shape) -> Shape | None:
    """Rows of a wider buffer, as `chunk` along the last axis leaves them."""
    if len(shape) < 2 or prod(shape[:-1]) == 1:
        return None
    return _contiguous((*shape[:-1], shape[-1] + ROOM))


def _swapped(axis: int, shape: Shape) -> Shape | None:
    """Heads before steps, steps before examples; of a matrix this is the transpose."""
    if len(shape) < max(3, axis + 2) or 1 in shape[axis : axis + 2]:
        return None
    order = list(range(len(shape)))
    order[axis : axis + 2] = axis + 1, axis
    return _permuted(shape, order)


def _expanded(layout: str, shape: Shape) -> Shape | None:
    axes = EXPANSIONS[layout](len(shape))
    rest = [1 if axis in axes else length for axis, length in enumerate(shape)]
    if prod(rest) == prod(shape) or (prod(rest) == 1 and len(axes) < len(shape)):
        return None
    strides = _contiguous(tuple(rest))
    return tuple(0 if axis in axes else stride for axis, stride in enumerate(strides))


def _transposed(shape: Shape) -> Shape | None:
    is_matrix = sum(length > 1 for length in shape) > 1
    return _permuted(shape, range(len(shape))[::-1]) if is_matrix else None


def _channels_last(shape: Shape) -> Shape | None:
    if len(shape) < 4 or shape[1] == 1 or prod(shape[2:]) == 1:
        return None
    return _permuted(shape, (0, *range(2, len(shape)), 1))


def _reversed(shape: Shape) -> Shape:
    return tuple(-stride for stride in _contiguous(shape))


STRIDES: Mapping[str, Callable[[Shape], Shape | None]] = {
    "sliced from a larger buffer": _sliced,
    "rows of a wider buffer": _rows,
    "transposed": _transposed,
    **{name: partial(_swapped, axis) for axis, name in enumerate(SWAPPED)},
    "channels last": _channels_last,
    "reversed (negative strides)": _reversed,
}
