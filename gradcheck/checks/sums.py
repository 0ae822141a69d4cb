"""Cotangents that add up to another one, whose gradients must add up likewise."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradcheck.answers import Answers
from gradcheck.problem import Array, Arrays, Problem, widened

__all__ = ["Pose", "Sum", "large", "ones", "zeros"]

# How large a cotangent may be in float64 of a target in float16, which ends at 65504.
WITHIN = 2.0**5

# Below this nothing overflows in float32 or bfloat16, with room for what is summed on the way.
ENDS = 2.0**100

Pose = Callable[[float], "Sum"]  # how many times a usual cotangent another is, or as much less


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Weighted cotangents that add up to the first of them, and the gradients of each."""

    complaint: str
    whole: tuple[float, Arrays, Arrays]  # weight, cotangents, gradients
    parts: tuple[tuple[float, Arrays, Arrays], ...]

    def at(self, k: int) -> tuple[Array, Array, Array]:
        """Of the k-th leaf the gradient of the whole, the sum of the parts, the size of both."""
        weight, _, gradients = self.whole
        (factor, _, part), *others = self.parts
        total = factor * widened(part[k])
        size = np.abs(total)
        with np.errstate(invalid="ignore"):  # infinities are said
            for factor, _, part in others:
                term = factor * widened(part[k])
                total += term
                size += np.abs(term)
            return weight * widened(gradients[k]), total, size

    @property
    def is_small(self) -> bool:
        """Whether the first of the parts is one of a small cotangent; else the whole is large."""
        return self.parts[0][0] > 1

    @property
    def factor(self) -> float:
        """How many times a usual cotangent that small or large one is."""
        return 1 / self.parts[0][0] if self.is_small else 1 / self.whole[0]


def zeros(answers: Answers) -> Sum:
    """Nothing, made of a cotangent less itself."""
    u, gradients = answers.cotangents(0), answers.gradients(0)
    nothing = tuple(np.zeros_like(u_) for u_ in u)
    return Sum(
        complaint="the gradient of a zero cotangent is not zero",
        whole=(1.0, nothing, answers.problem.vjp(answers.problem.point, nothing)),
        parts=((1.0, u, gradients), (-1.0, u, gradients)),
    )


def large(answers: Answers, times: float) -> Sum:
    """A large cotangent, made of two: a rule may clip what is large."""
    problem, u, w = answers.problem, answers.cotangents(0), answers.cotangents(1)
    of_u, of_w = answers.gradients(0), answers.gradients(1)
    # A quarter, so that a sum does not overflow where its terms do not.
    both = tuple((u_ - 2 * w_) / 4 for u_, w_ in zip(u, w, strict=True))
    digits = {array.digits for array in (*problem.leaves, *problem.outputs)}
    times = min(times, WITHIN) if "float16" in problem.written_for else times
    factor = 1.0 if "float16" in digits else times
    much = tuple(factor * z for z in both)
    summed = problem.vjp(problem.point, much)
    largest = max(float(np.max(np.abs(g), initial=0.0)) for g in (*of_u, *of_w))
    # Inside of what has the digits of bfloat16 there may be float16, which ends at 65504.
    ends = not factor * largest < ENDS or "bfloat16" in digits
    if factor > 1 and ends and not all(np.all(np.isfinite(g)) for g in summed):  # it overflows
        factor, much, summed = 1.0, both, problem.vjp(problem.point, both)
    return Sum(
        complaint="the gradient is not linear in the cotangent",
        whole=(4.0 / factor, much, summed),
        parts=((1.0, u, of_u), (-2.0, w, of_w)),
    )


def ones(problem: Problem, rng: np.random.Generator, u: Arrays, times: float) -> Sum:
    """Ones, which every loss is pulled back from, made of a small cotangent and the rest.

    A rule may know better what to do with ones, drop what is small, and stumble over zeros: of some
    entries, or of whole examples that are in no loss.
    """
    kept = [_some(rng, u_.shape) for u_ in u]
    part = tuple(np.where(mask, u_, 0).astype(u_.dtype) for mask, u_ in zip(kept, u, strict=True))
    every = tuple(np.ones_like(u_) for u_ in u)
    rest = tuple(one - p for one, p in zip(every, part, strict=True))
    small = tuple(p / times for p in part)
    whole, less, more = (problem.vjp(problem.point, z) for z in (every, small, rest))
    return Sum(
        complaint="the gradient of a cotangent of ones is not the sum of those of its parts",
        whole=(1.0, every, whole),
        parts=((times, small, less), (1.0, rest, more)),
    )


def _some(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Which entries are kept: about half of those of half of the examples; of a loss, all of it."""
    kept = np.asarray(rng.random(shape) < 0.5)
    if kept.ndim:
        order = rng.permutation(len(kept))
        kept[order[: len(kept) // 2]] = False
        kept[order[-1:]] |= not np.any(kept)
        return kept
    return np.ones_like(kept)
