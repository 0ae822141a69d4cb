"""A problem seen through linear maps: its leaves made of other leaves, its outputs put otherwise.

Of f: p -> y one sees g(q) = B f(A q), with A and B as `weights` writes them, at a point q. The VJP
follows: q̄ = Aᵀ p̄,  p̄ the VJP of f at A q with the cotangent Bᵀ u.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np

from gradcheck.errors import InputError
from gradcheck.problem import Array, Arrays, Leaf, Problem
from gradcheck.weights import Expression, Pull, adjoint, evaluated, is_number, spelled

__all__ = ["narrowed", "relaid", "seen", "untouched"]


def seen(
    problem: Problem,
    reads: Mapping[str, Expression],
    outputs: Mapping[str, Expression],
    *,
    leaves: tuple[Leaf, ...],
    point: Arrays,
    constants: Mapping[str, Array],
) -> Problem:
    """Return `problem` as a function of other `leaves`, at their `point`.

    Args:
        reads: for each leaf of `problem`, how it is made of `leaves` and `constants`.
        outputs: path of an output -> how it is made of the outputs of `problem`.

    Raises:
        InputError: what an expression gives has another shape than the leaf that it is for.
    """
    named = {**constants, **{leaf.path: x for leaf, x in zip(leaves, point, strict=True)}}
    for leaf in problem.leaves:
        _require_fit(problem, leaf, reads[leaf.path], evaluated(reads[leaf.path], named).shape)
    inward = _Map(
        expressions=tuple(reads[leaf.path] for leaf in problem.leaves),
        shapes=tuple(leaf.shape for leaf in problem.leaves),
        sources=leaves,
        constants=constants,
    )
    empty = {leaf.path: np.zeros(leaf.shape) for leaf in problem.outputs}
    outward = _Map(
        expressions=tuple(outputs.values()),
        shapes=tuple(evaluated(expression, empty).shape for expression in outputs.values()),
        sources=problem.outputs,
        constants={},
    )

    def into(point: Arrays) -> Arrays:
        pairs = zip(problem.leaves, inward(point), strict=True)
        return tuple(leaf.rounded(x) for leaf, x in pairs)

    def both(point: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        values, gradients = problem.value_and_vjp(into(point), outward.pulled(cotangents))
        return outward(values), inward.pulled(gradients)

    coarsest = max(problem.outputs, key=lambda leaf: leaf.epsilon).dtype
    return Problem(
        name=problem.name,
        target=problem.target,
        framework=problem.framework,
        leaves=leaves,
        outputs=tuple(
            Leaf(path=path, shape=shape, dtype=coarsest)
            for path, shape in zip(outputs, outward.shapes, strict=True)
        ),
        point=point,
        value=lambda point: outward(problem.value(into(point))),
        vjp=lambda point, cotangents: both(point, cotangents)[1],
        both=both,
        notes=problem.notes,
    )


def narrowed(
    problem: Problem,
    *,
    leaves: Collection[str] | None = None,
    outputs: Collection[str] | None = None,
) -> Problem:
    """Return `problem` with only these leaves, the others standing still, and only these outputs.

    None: all of them.
    """
    kept, shown = (
        [k for k, leaf in enumerate(own) if chosen is None or leaf.path in chosen]
        for own, chosen in ((problem.leaves, leaves), (problem.outputs, outputs))
    )

    def whole(point: Arrays) -> Arrays:
        moved = dict(zip(kept, point, strict=True))
        return tuple(moved.get(k, x) for k, x in enumerate(problem.point))

    def both(point: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        given = dict(zip(shown, cotangents, strict=True))
        us = tuple(given.get(k, _zeros(leaf)) for k, leaf in enumerate(problem.outputs))
        values, gradients = problem.value_and_vjp(whole(point), us)
        return tuple(values[k] for k in shown), tuple(gradients[k] for k in kept)

    if len(kept) == len(problem.leaves) and len(shown) == len(problem.outputs):
        return problem
    return Problem(
        name=problem.name,
        target=problem.target,
        framework=problem.framework,
        leaves=tuple(problem.leaves[k] for k in kept),
        outputs=tuple(problem.outputs[k] for k in shown),
        point=tuple(problem.point[k] for k in kept),
        value=lambda point: tuple(problem.value(whole(point))[k] for k in shown),
        vjp=lambda point, cotangents: both(point, cotangents)[1],
        both=both,
        notes=problem.notes,
    )


def untouched(
    leaves: tuple[Leaf, ...], reads: Mapping[str, Expression], constants: Mapping[str, Array]
) -> dict[str, Array]:
    """Return, for each of `leaves` of which nothing in `reads` takes some entry, a mask of those.

    What no expression takes is what no cotangent comes back to.
    """
    shapes = _shapes(leaves, constants)
    missed = {leaf.path: np.ones(leaf.shape, bool) for leaf in leaves}
    for expression in reads.values():
        shape, pull = adjoint(expression, shapes)
        for name, share in pull(np.ones(shape)):
            if name in missed:
                missed[name] = missed[name] & (share == 0)
    return {path: mask for path, mask in missed.items() if np.any(mask)}


@dataclass(frozen=True, kw_only=True)
class _Map:
    """Expressions over named arrays; `sources` move, `constants` stand still."""

    expressions: tuple[Expression, ...]
    shapes: tuple[tuple[int, ...], ...]  # of what they give; a number fills its own
    sources: tuple[Leaf, ...]
    constants: Mapping[str, Array]

    @cached_property
    def pulls(self) -> tuple[Pull, ...]:
        shapes = _shapes(self.sources, self.constants)
        return tuple(adjoint(expression, shapes)[1] for expression in self.expressions)

    def __call__(self, arrays: Arrays) -> Arrays:
        named = dict(self.constants)
        for leaf, array in zip(self.sources, arrays, strict=True):
            named[leaf.path] = array.astype(_wide(leaf), copy=False)  # sums are not rounded
        return tuple(
            np.broadcast_to(evaluated(expression, named), shape).copy()
            for expression, shape in zip(self.expressions, self.shapes, strict=True)
        )

    def pulled(self, cotangents: Arrays) -> Arrays:
        """Return the cotangent of each source."""
        found = {leaf.path: np.zeros(leaf.shape, _wide(leaf)) for leaf in self.sources}
        for pull, u in zip(self.pulls, cotangents, strict=True):
            for name, share in pull(u):
                if name in found:
                    found[name] = found[name] + share
        return tuple(found.values())


def _shapes(leaves: tuple[Leaf, ...], constants: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    shapes = {name: array.shape for name, array in constants.items()}
    return shapes | {leaf.path: leaf.shape for leaf in leaves}


def _wide(leaf: Leaf) -> type[np.generic]:
    return np.complex128 if leaf.dtype.startswith("complex") else np.float64


def _zeros(leaf: Leaf) -> Array:
    return np.zeros(leaf.shape, _wide(leaf))


def _require_fit(
    problem: Problem, leaf: Leaf, expression: Expression, shape: tuple[int, ...]
) -> None:
    if shape == leaf.shape or is_number(expression):
        return
    raise InputError(
        f"expected {leaf.path} of {problem.target} to have shape {leaf.shape}; "
        f"{spelled(expression)} has shape {shape}{relaid(expression, shape, leaf.shape)}"
    )


def relaid(expression: Expression, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Return a hint at what makes `wanted` of the `shape` of `expression`; "" if there is none."""
    text = spelled(expression)
    if len(shape) == len(wanted) and len(shape) <= AXES:
        orders = [
            axes
            for axes in permutations(range(len(shape)))
            if tuple(shape[axis] for axis in axes) == wanted
        ]
        ways = [
            f"transposed({', '.join([text, *(map(str, axes) if len(axes) > 2 else ())])})"
            for axes in orders
        ]
        return f". Is it transposed? {' or '.join(ways[:3])}" if ways else ""
    longer = max(shape, wanted, key=len)
    axis = next((k for k, n in enumerate(longer) if n == 1 and _cut(longer, k) == wanted), None)
    if longer is shape and axis is not None:
        return f". Is an axis of size one too many? without_axis({text}, {axis})"
    axis = next((k for k, n in enumerate(longer) if n == 1 and _cut(longer, k) == shape), None)
    return f". Is an axis missing? with_axis({text}, {axis})" if axis is not None else ""


AXES = 5  # 120 orders are quickly tried; no layer here has more axes


def _cut(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]
