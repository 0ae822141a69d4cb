"""A problem seen through some of its leaves and outputs, or through a slice of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradcheck.problem import Array, Arrays, Leaf, Problem

__all__ = ["Part", "seen", "step"]

Index = tuple[slice | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One array of a problem, or a slice of it."""

    position: int
    index: Index = ()  # () is all of it

    def of(self, array: Array) -> Array:
        return array[self.index]

    def within(self, whole: Array, part: Array) -> Array:
        """`whole` with this part of it replaced."""
        changed = whole.copy()
        changed[self.index] = part
        return changed


def step(position: int, axis: int, time: int) -> Part:
    """Return the part of an array at one time, along its axis of time."""
    return Part(position=position, index=(slice(None),) * axis + (time,))


def seen(problem: Problem, leaves: Sequence[Part], outputs: Sequence[Part]) -> Problem:
    """Return `problem` as a function of the parts `leaves` alone, with the parts `outputs`.

    What is not among the leaves stays at the point; what is not among the outputs has a cotangent
    of zero. Value and VJP are all that is left of it.
    """

    def filled(point: Arrays) -> Arrays:
        arrays = list(problem.point)
        for part, array in zip(leaves, point, strict=True):
            arrays[part.position] = part.within(arrays[part.position], array)
        return tuple(arrays)

    def value(point: Arrays) -> Arrays:
        values = problem.value(filled(point))
        return tuple(part.of(values[part.position]) for part in outputs)

    def vjp(point: Arrays, cotangents: Arrays) -> Arrays:
        us = [np.zeros(output.shape, _dtype(output)) for output in problem.outputs]
        for part, u in zip(outputs, cotangents, strict=True):
            us[part.position] = part.within(us[part.position], u)
        gradients = problem.vjp(filled(point), tuple(us))
        return tuple(part.of(gradients[part.position]) for part in leaves)

    def in_float64() -> Problem:
        assert problem.in_float64 is not None
        wide = problem.in_float64()
        pairs = zip(wide.leaves, problem.point, strict=True)
        moved = tuple(leaf.rounded(x) for leaf, x in pairs)
        return seen(replace(wide, point=moved), leaves, outputs)

    return Problem(
        name=problem.name,
        target=problem.target,
        framework=problem.framework,
        leaves=tuple(_named(problem.leaves[p.position], p) for p in leaves),
        outputs=tuple(_named(problem.outputs[p.position], p) for p in outputs),
        point=tuple(p.of(problem.point[p.position]) for p in leaves),
        value=value,
        vjp=vjp,
        in_float64=problem.in_float64 and in_float64,
    )


def _named(leaf: Leaf, part: Part) -> Leaf:
    if not part.index:
        return leaf
    shape = np.empty(leaf.shape, bool)[part.index].shape
    words = [":" if isinstance(at, slice) else str(at) for at in part.index]
    return replace(leaf, path=f"{leaf.path}[{', '.join(words)}]", shape=shape)


def _dtype(leaf: Leaf) -> str:
    """The dtype in which the engine holds the leaf."""
    return {"bfloat16": "float32", "float16": "float32"}.get(leaf.dtype, leaf.dtype)
