"""Cotangents that add up to another one, whose gradients must add up likewise."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from gradcheck.answers import Answers
from gradcheck.problem import Array, Arrays, Problem, blocks, widened

__all__ = ["Pose", "Sum", "large", "ones", "zeros"]

# How large a cotangent may be in float64 of a target in float16, which ends at 65504.
WITHIN = 2.0**5

# Below this nothing overflows in float32 or bfloat16, with room for what is summed on the way.
ENDS = 2.0**100

Pose = Callable[[float], "Sum"]  # how many times a usual cotangent another is, or as much less


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Weighted cotangents that add up to another one, and what their gradients add up to."""

    complaint: str
    got: Arrays  # the gradients of the whole
    expected: Arrays  # the sum of those of the parts
    size: Arrays  # of each entry of that, if nothing in it cancelled
    first: Callable[[], Arrays]  # asks for the gradients of the first part
    weight: float  # of that part
    factor: float  # how many times a usual cotangent that part is, if it is small; else the whole

    @property
    def is_small(self) -> bool:
        """Whether the first of the parts is one of a small cotangent; else the whole is large."""
        return self.weight > 1


def zeros(answers: Answers) -> Sum | None:
    """Nothing, made of a cotangent less itself; None if nothing comes of it, as it must."""
    problem, gradients = answers.problem, answers.gradients(0)
    got = problem.vjp(problem.point, tuple(np.zeros_like(u) for u in answers.cotangents(0)))
    if not any(map(np.any, got)):
        return None
    expected, size = _added([(1.0, gradients), (-1.0, gradients)])
    return Sum(
        complaint="the gradient of a zero cotangent is not zero",
        got=got,
        expected=expected,
        size=size,
        first=lambda: gradients,
        weight=1.0,
        factor=1.0,
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
    summed = problem.vjp(problem.point, tuple(factor * z for z in both))
    largest = max(float(np.max(np.abs(g), initial=0.0)) for g in (*of_u, *of_w))
    # Inside of what has the digits of bfloat16 there may be float16, which ends at 65504.
    ends = not factor * largest < ENDS or "bfloat16" in digits
    if factor > 1 and ends and not all(np.all(np.isfinite(g)) for g in summed):  # it overflows
        factor, summed = 1.0, problem.vjp(problem.point, both)
    expected, size = _added([(1.0, of_u), (-2.0, of_w)])
    return Sum(
        complaint="the gradient is not linear in the cotangent",
        got=tuple(4.0 / factor * widened(g) for g in summed),
        expected=expected,
        size=size,
        first=lambda: of_u,
        weight=1.0,
        factor=factor / 4.0,
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
    asked = partial(problem.vjp, problem.point)
    got = asked(every)
    expected, size = _added((weight, asked(z)) for weight, z in ((times, small), (1.0, rest)))
    return Sum(
        complaint="the gradient of a cotangent of ones is not the sum of those of its parts",
        got=tuple(map(widened, got)),
        expected=expected,
        size=size,
        first=lambda: asked(small),
        weight=times,
        factor=1 / times,
    )


def _added(terms: Iterable[tuple[float, Arrays]]) -> tuple[Arrays, Arrays]:
    """The sum of weighted gradients and that of their sizes, asked for one after the other."""
    total: Arrays = ()
    size: Arrays = ()
    with np.errstate(invalid="ignore"):  # infinities are said
        for weight, gradients in terms:
            if not total:
                total = tuple(np.zeros(g.shape, np.result_type(g, np.float64)) for g in gradients)
                size = tuple(np.zeros(g.shape) for g in gradients)
            for whole in zip(total, size, gradients, strict=True):
                for sum_, size_, g in blocks(*whole):
                    term = weight * widened(g)
                    sum_ += term
                    size_ += np.abs(term)
            del gradients  # before the next ones are made
    return total, size


def _some(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Which entries are kept: about half of those of half of the examples; of a loss, all of it."""
    kept = np.asarray(rng.random(shape) < 0.5)
    if kept.ndim:
        order = rng.permutation(len(kept))
        kept[order[: len(kept) // 2]] = False
        kept[order[-1:]] |= not np.any(kept)
        return kept
    return np.ones_like(kept)
