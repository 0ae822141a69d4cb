"""How the weights of one layer are made of those of another: small linear maps, written down.

A name stands for an array, a number and an array for themselves; the functions here put them
together, and nest: `transposed(joined("w_i", "w_f", "w_g", "w_o"))`. A map is applied to values;
its adjoint, which takes gradients the other way, is derived from it and never written.

Every map but a sum only moves entries. Applied to the numbers of the entries it tells where each
one went, and the adjoint puts it back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcheck.errors import InputError

__all__ = [
    "Arranged",
    "Expression",
    "Pull",
    "Summed",
    "adjoint",
    "block",
    "evaluated",
    "is_expression",
    "is_number",
    "joined",
    "names",
    "part",
    "renamed",
    "reordered",
    "scaled",
    "shaped",
    "spelled",
    "summed",
    "transposed",
    "with_axis",
    "without_axis",
]

Array = NDArray[Any]  # as in `problem`, which stands beside this module
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """The entries of `parts` in another order or shape; `arrange` never computes with them."""

    text: str  # how it was written, {} for each part
    parts: "tuple[Expression, ...]"
    arrange: Callable[[Sequence[Array]], Array]

    def __repr__(self) -> str:
        return spelled(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summed:
    """Σ factor * part: of one shape, but for numbers."""

    parts: "tuple[Expression, ...]"
    factors: tuple[float, ...]

    def __repr__(self) -> str:
        return spelled(self)


Expression = str | float | Array | Arranged | Summed


def transposed(x: Expression, *axes: int) -> Arranged:
    """Return `x` with its axes in this order; reversed when none is given."""
    text = f"transposed({', '.join(['{}', *map(str, axes)])})"
    return _arranged(text, lambda a: np.transpose(a, axes or None), x)


def joined(*xs: Expression, axis: int = 0) -> Arranged:
    """Return the `xs` one after the other along `axis`: matrices of gates as one matrix."""
    text = f"joined({', '.join(['{}'] * len(xs))}{f', axis={axis}' if axis else ''})"
    return Arranged(text=text, parts=xs, arrange=lambda parts: np.concatenate(parts, axis))


def part(x: Expression, start: int, stop: int | None, axis: int = 0) -> Arranged:
    """Return the slice from `start` to `stop` along `axis`; None is the end."""

    def cut(a: Array) -> Array:
        return np.moveaxis(np.moveaxis(a, axis, 0)[start:stop], 0, axis)

    return _arranged(f"part({{}}, {start}, {stop}, axis={axis})", cut, x)


def block(x: Expression, k: int, of: int, axis: int = 0) -> Arranged:
    """Return block `k` of `of` equal ones along `axis`: one gate of a packed matrix."""
    text = f"block({{}}, {k}, of={of}, axis={axis})"
    return _arranged(text, lambda a: _blocks(a, of, axis)[k], x)


def reordered(x: Expression, order: str, wanted: str, axis: int = 0) -> Arranged:
    """Return `x`, equal blocks along `axis` that one letter each names, in the `wanted` order.

    `reordered("kernel", "ifog", "ifgo")`: from the order of the gates i, f, o, g to PyTorch's.

    Raises:
        InputError: the two do not have the same letters, each once.
    """
    if sorted(order) != sorted(wanted) or len(set(order)) != len(order):
        raise InputError(
            f"expected order and wanted to be the same letters, each once; "
            f"got {order!r} and {wanted!r}"
        )

    def arrange(a: Array) -> Array:
        blocks = _blocks(a, len(order), axis)
        return np.concatenate([blocks[order.index(gate)] for gate in wanted], axis)

    suffix = f", axis={axis}" if axis else ""
    return _arranged(f"reordered({{}}, {order!r}, {wanted!r}{suffix})", arrange, x)


def shaped(x: Expression, *shape: int) -> Arranged:
    """Return `x` in another shape, rows first; one size may be -1."""
    text = f"shaped({{}}, {', '.join(map(str, shape))})"
    return _arranged(text, lambda a: a.reshape(shape), x)


def with_axis(x: Expression, axis: int = 0) -> Arranged:
    """Return `x` with one more axis of size one: a single step in time, a batch of one."""
    return _arranged(f"with_axis({{}}, {axis})", lambda a: np.expand_dims(a, axis), x)


def without_axis(x: Expression, axis: int = 0) -> Arranged:
    """Return `x` without an axis of size one."""
    return _arranged(f"without_axis({{}}, {axis})", lambda a: np.squeeze(a, axis), x)


def summed(*xs: Expression) -> Summed:
    """Return Σ x: two biases as one, or `summed("scale", 1.0)` for a gain stored as γ - 1."""
    return Summed(parts=xs, factors=(1.0,) * len(xs))


def scaled(x: Expression, factor: float) -> Summed:
    """Return factor * x: -1 for a gate that another convention takes the other way round."""
    return Summed(parts=(x,), factors=(factor,))


def _blocks(a: Array, count: int, axis: int) -> list[Array]:
    """Return equal blocks.

    Raises:
        ValueError: there are none; the message says along which axis there are.
    """
    if a.shape[axis] % count == 0:
        return np.split(a, count, axis)
    others = [k for k, size in enumerate(a.shape) if size % count == 0]
    hint = f"; axis={others[0]} does" if others else ""
    raise ValueError(f"axis={axis} does not fall into {count} equal blocks{hint}")


def _arranged(text: str, arrange: Callable[[Array], Array], x: Expression) -> Arranged:
    return Arranged(text=text, parts=(x,), arrange=lambda parts: arrange(parts[0]))


def is_number(expression: object) -> bool:
    return isinstance(expression, Real) and not isinstance(expression, np.ndarray)


def is_expression(given: object) -> bool:
    return is_number(given) or isinstance(given, (str, np.ndarray, Arranged, Summed))


def spelled(expression: Expression) -> str:
    """Return `expression` as it would be typed."""
    if isinstance(expression, np.ndarray):
        return f"an array of shape {expression.shape}"
    if isinstance(expression, Arranged):
        return expression.text.format(*map(spelled, expression.parts))
    if not isinstance(expression, Summed):
        return repr(expression)
    if len(expression.parts) == 1 and expression.factors != (1.0,):
        return f"scaled({spelled(expression.parts[0])}, {expression.factors[0]:g})"
    return f"summed({', '.join(map(spelled, expression.parts))})"


def names(expression: Expression) -> Iterator[str]:
    """Yield every name in `expression`, from left to right."""
    if isinstance(expression, str):
        yield expression
    elif isinstance(expression, (Arranged, Summed)):
        for inner in expression.parts:
            yield from names(inner)


def renamed(expression: Expression, name: Callable[[str], str]) -> Expression:
    """Return `expression` with another name for each of its names."""
    if isinstance(expression, str):
        return name(expression)
    if isinstance(expression, (Arranged, Summed)):
        return replace(expression, parts=tuple(renamed(x, name) for x in expression.parts))
    return expression


def evaluated(expression: Expression, arrays: Mapping[str, Array]) -> Array:
    """Return the value of `expression` where its names stand for `arrays`.

    Raises:
        InputError: their shapes do not allow it.
    """
    if isinstance(expression, str):
        return arrays[expression]
    if isinstance(expression, (Arranged, Summed)):
        return _put_together(expression, [evaluated(x, arrays) for x in expression.parts])
    return np.asarray(expression)


Pull = Callable[[Array], list[tuple[str, Array]]]


def adjoint(expression: Expression, shapes: Mapping[str, Shape]) -> tuple[Shape, Pull]:
    """Return the shape of `expression`, and the map from its cotangent to those of its names.

    A name that comes twice is there twice: the sum of both is its cotangent.
    """
    if isinstance(expression, str):
        return shapes[expression], lambda u: [(expression, u)]
    if not isinstance(expression, (Arranged, Summed)):
        return np.shape(expression), lambda u: []
    below = [adjoint(x, shapes) for x in expression.parts]
    if isinstance(expression, Summed):
        zeros = [np.zeros(shape) for shape, _ in below]
        pairs = [
            (factor, pull)
            for factor, (_, pull), x in zip(
                expression.factors, below, expression.parts, strict=True
            )
            if not is_number(x)
        ]
        return _put_together(expression, zeros).shape, lambda u: [
            pair for factor, pull in pairs for pair in pull(factor * u)
        ]
    sizes = [prod(shape) for shape, _ in below]
    ends = np.cumsum(sizes)
    numbered = [
        np.arange(end - size, end).reshape(shape)
        for end, size, (shape, _) in zip(ends, sizes, below, strict=True)
    ]
    places = _put_together(expression, numbered)

    def pulled(u: Array) -> list[tuple[str, Array]]:
        flat = np.zeros(sum(sizes), u.dtype)
        flat[places] = u  # each entry came from one place
        parts = zip(np.split(flat, ends[:-1]), below, strict=True)
        return [pair for piece, (shape, pull) in parts for pair in pull(piece.reshape(shape))]

    return places.shape, pulled


def _put_together(expression: Arranged | Summed, parts: list[Array]) -> Array:
    shapes = [array.shape for array in parts]
    if isinstance(expression, Summed):
        full = {s for s, x in zip(shapes, expression.parts, strict=True) if not is_number(x)}
        if len(full) > 1:
            raise InputError(f"{spelled(expression)} adds arrays of shapes {shapes}")
        terms = (c * a for c, a in zip(expression.factors, parts, strict=True))
        return np.asarray(sum(terms))
    try:
        return expression.arrange(parts)
    except (ValueError, IndexError) as error:  # NumPy's, of shapes that do not suit
        raise InputError(
            f"{spelled(expression)} cannot be made of arrays of shapes {shapes}: {error}"
        ) from error
