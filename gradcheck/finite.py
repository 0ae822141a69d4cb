"""A problem seen where it is finite: what is infinite stays as it is, and counts for nothing.

A mask of -inf is a number to whom it is given, and moving it says nothing; a logarithm of a
negative number is none, and says nothing of the others. Held still are entries of the leaves that
are not finite, or stand for infinity (a mask of -1e30), and those whose gradient is not, if they
move an infinite entry of the value. The cotangent of an entry of the value that is not finite is
zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gradcheck.answers import Answers
from gradcheck.errors import maybe_out_of_domain
from gradcheck.probes import scale
from gradcheck.problem import Array, Arrays, Problem

__all__ = ["Part", "finite_part", "is_finite", "vast"]


def is_finite(answers: Answers) -> bool:
    """Whether point and value are."""
    arrays = (*answers.problem.point, *answers.value)
    return all(bool(np.all(np.isfinite(array))) for array in arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is left of a problem; and of each leaf how many entries stay or have no gradient."""

    answers: Answers
    held: tuple[int, ...]
    lost: tuple[int, ...]


# From where on a number stands for infinity beside others, and how many times it is as large.
VAST = 2.0**40


def vast(answers: Answers) -> Mapping[int, Array]:
    """Which entries stand for infinity, by the position of their leaf.

    They are vast beside others of their leaf, have no gradient, and a part of each is as good.
    """
    problem = answers.problem
    found: dict[int, Array] = {}
    for k, x in enumerate(problem.point):
        if x.size and max(abs(np.min(x)), abs(np.max(x))) >= VAST:
            is_number, sizes = np.isfinite(x), np.abs(x)
            least = np.min(sizes, initial=np.inf, where=is_number)
            is_vast = is_number & (sizes >= VAST * max(1.0, least))
            is_vast &= answers.gradients(0)[k] == 0
            if np.any(is_vast):
                found[k] = is_vast
    if not found:
        return found
    point = list(problem.point)
    for k, few in found.items():
        parts = np.random.default_rng(k).uniform(0.3, 0.9, few.shape)  # no ratio is as it was
        point[k] = problem.leaves[k].rounded(np.where(few, parts * point[k], point[k]))
    with maybe_out_of_domain(), np.errstate(all="ignore"):
        there = problem.value(tuple(point))
        if all(map(partial(np.array_equal, equal_nan=True), there, answers.value)):
            return found
    return {}


def finite_part(answers: Answers, still: Mapping[int, Array]) -> Part:
    """The answers of the problem where it is finite; the rest of it is zero to whom asks.

    So are the entries of the leaves that stand `still`.
    """
    problem = answers.problem
    outputs = tuple(np.isfinite(array) for array in answers.value)
    leaves = tuple(
        np.isfinite(x) & np.logical_not(still.get(k, False)) for k, x in enumerate(problem.point)
    )
    masks = _Masks(point=problem.point, leaves=leaves, outputs=outputs)
    lost: Arrays = tuple(np.zeros(x.shape, bool) for x in problem.point)
    if not all(map(np.all, outputs)):
        with np.errstate(all="ignore"):
            gradients = masks.seen(problem).vjp(masks.point, answers.cotangents(0))
            bad = [kept & ~np.isfinite(g) for kept, g in zip(leaves, gradients, strict=True)]
            lost = tuple(b & (np.any(b) and _reaches(answers, k, b)) for k, b in enumerate(bad))
        masks = replace(
            masks, leaves=tuple(kept & ~bad for kept, bad in zip(leaves, lost, strict=True))
        )
    counts = tuple(int(np.count_nonzero(bad)) for bad in lost)
    held = tuple(int(np.count_nonzero(~kept)) for kept in leaves)
    return Part(answers=answers.of(masks.seen(problem)), held=held, lost=counts)


NEAR = 2.0**-20  # of a leaf's size, or a few of its roundings: what is infinite there may be finite


def _reaches(answers: Answers, index: int, entries: Array) -> bool:
    """Whether some entries of a leaf move what is infinite in the value; of a NaN nobody knows.

    A step off a pole does, and an overflow ends somewhere on the way to zero.
    """
    problem = answers.problem
    if any(bool(np.any(np.isnan(value))) for value in answers.value):
        return True
    leaf, x = problem.leaves[index], problem.point[index]
    unit = scale(np.where(np.isfinite(x), x, 0))
    step = max(NEAR, 4 * leaf.epsilon) * unit
    for there in (x + step, x - step, 0, unit):
        point = list(problem.point)
        point[index] = leaf.rounded(np.where(entries, there, x))
        with maybe_out_of_domain():
            pairs = zip(problem.value(tuple(point)), answers.value, strict=True)
            if all(_is_as_infinite(a, f) for a, f in pairs):
                continue
        return True
    return False


def _is_as_infinite(value: Array, before: Array) -> bool:
    """Whether what was infinite before still is, and of the same sign."""
    there = np.isinf(before)
    return value.shape == before.shape and np.array_equal(value[there], before[there])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Masks:
    """Which entries of leaves and outputs are left; the others stay as they are at `point`."""

    point: Arrays
    leaves: Arrays
    outputs: Arrays

    def seen(self, problem: Problem) -> Problem:
        """Return `problem` with value and VJP of what is left."""

        def value(point: Arrays) -> Arrays:
            return _only(self.outputs, problem.value(self.whole(point)))

        is_whole = all(map(np.all, self.outputs))

        def vjp(point: Arrays, cotangents: Arrays) -> Arrays:
            gradients = problem.vjp(self.whole(point), _only(self.outputs, cotangents))
            if not is_whole:
                return _only(self.leaves, gradients)
            # Of a finite value, a gradient that is not is wrong, even that of a mask.
            pairs = zip(self.leaves, gradients, strict=True)
            return _only(tuple(kept | ~np.isfinite(g) for kept, g in pairs), gradients)

        def in_float64() -> Problem:
            assert problem.in_float64 is not None
            wide = problem.in_float64()
            pairs = zip(wide.leaves, self.point, strict=True)
            return replace(self, point=tuple(x.rounded(p) for x, p in pairs)).seen(wide)

        return Problem(
            name=problem.name,
            target=problem.target,
            framework=problem.framework,
            leaves=problem.leaves,
            outputs=problem.outputs,
            point=_only(self.leaves, self.point),
            value=value,
            vjp=vjp,
            in_float64=problem.in_float64 and in_float64,
            rounds_back=problem.rounds_back,
            is_native=problem.is_native,
            is_random=problem.is_random,
        )

    def whole(self, point: Arrays) -> Arrays:
        triples = zip(self.leaves, point, self.point, strict=True)
        return tuple(np.where(kept, x, own).astype(x.dtype) for kept, x, own in triples)


def _only(masks: Arrays, arrays: Arrays) -> Arrays:
    """The entries that are left; zeros in place of the others, and of all where shapes differ."""
    return tuple(_masked(kept, array) for kept, array in zip(masks, arrays, strict=True))


def _masked(kept: Array, array: Array) -> Array:
    return array if kept.shape != array.shape else np.where(kept, array, 0).astype(array.dtype)
