"""Weights at which a memory is neither lost nor explodes, so that long lags can be seen.

At small weights what reaches step t from t - 32 is the product of 32 small gains: 1e-32 of the
rest, where no error shows and a test of the long lags is vacuous. One leaf is scaled, or shifted
(the bias of a forget gate), until a step's gain is near one. The gain is that of the values, by a
difference: nothing the target claims about itself decides where it is looked at.

Sources:
    Hochreiter, The vanishing gradient problem, Int. J. Uncertainty Fuzziness 6 (1998), section 3.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import exp, inf, isfinite, log

import numpy as np

from gradcheck.probes import direction, scale
from gradcheck.problem import Array, Problem, norm
from gradcheck.recurrent.slices import step

__all__ = ["Gained", "Place", "gain", "normalised"]

FACTORS = tuple(4.0**k for k in range(1, 11))  # up to a million
HALVINGS = 6  # of a factor of four: down to 2 %
SHIFTS = (2.0, 4.0, -2.0, -4.0)  # of a gate: a sigmoid is at 0.98 at four

ENOUGH = 0.1  # |log| of a gain: over thirty steps between 1/20 and 20
STEP = 2.0**-13  # of the first step's size, as the finest of the screen

# A value this many times as large as before is one that explodes, not one that remembers.
EXPLODES = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a disturbance goes in and comes out."""

    x: int  # the leaf that is the sequence
    axis: int  # of its time
    output: int
    to: int  # the axis of time of the output
    size: float  # of the output at the given weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Gained:
    """The problem at other weights, and how it differs."""

    problem: Problem
    how: str
    gain: float

    @property
    def distance(self) -> float:
        """How far the gain is from one."""
        return abs(log(self.gain)) if 0 < self.gain < inf else inf


def gain(problem: Problem, rng: np.random.Generator, place: Place) -> float:
    """Return by how much a disturbance of the first step grows at every step.

    The geometric mean over the later half of the sequence; 0 where nothing of it is left, infinite
    where values are not finite or have exploded.
    """
    first = step(place.x, place.axis, 0)
    x = problem.point[place.x]
    along = first.of(direction(rng, problem.leaves[place.x]))
    h = STEP * scale(first.of(x))

    def moved(t: float) -> Array:
        point = list(problem.point)
        point[place.x] = first.within(x, first.of(x) + t * along)
        with np.errstate(all="ignore"):  # infinity says so
            return problem.value(tuple(point))[place.output]

    ahead, behind = moved(h), moved(-h)
    with np.errstate(all="ignore"):
        change = np.moveaxis(ahead - behind, place.to, 0)
    size = norm(ahead)
    if not (isfinite(size) and size <= EXPLODES * place.size and np.all(np.isfinite(change))):
        return inf
    half = len(change) // 2
    early, late = norm(change[half]), norm(change[-1])
    if not early or not late or len(change) - 1 <= half:
        return 0.0
    return exp(log(late / early) / (len(change) - 1 - half))


def normalised(problem: Problem, rng: np.random.Generator, place: Place) -> Gained | None:
    """Return the problem where the gain is nearest to one; None if that is where it is."""
    seed = rng.integers(2**32)

    def gained(how: str, k: int, array: Array) -> Gained:
        point = list(problem.point)
        point[k] = problem.leaves[k].rounded(array.astype(point[k].dtype))
        at = replace(problem, point=tuple(point))
        return Gained(problem=at, how=how, gain=gain(at, np.random.default_rng(seed), place))

    here = gained("", place.x, problem.point[place.x])
    best = here
    for found in _tried(problem, here, gained, last=place.x):
        best = min(best, found, key=lambda g: g.distance)
        if best.distance < ENOUGH:
            break
    return None if best is here else best


def _tried(
    problem: Problem, here: Gained, gained: Callable[[str, int, Array], Gained], *, last: int
) -> Iterator[Gained]:
    """Yield what each leaf scaled, then shifted, makes of the gain; the leaf `last` at last."""
    order = sorted(range(len(problem.leaves)), key=lambda k: k == last)

    def scaled(k: int, factor: float) -> Gained:
        how = f"{problem.leaves[k].path} × {factor:.3g}"
        return gained(how, k, problem.point[k] * factor)

    for k in order:
        if not np.any(problem.point[k]):
            continue
        below = 1.0
        for above in FACTORS:
            found = scaled(k, above)
            yield found
            if found.gain > 1:
                yield from _between(lambda factor, k=k: scaled(k, factor), below, above)  # type: ignore[misc]
                break
            below = above
    for shift in SHIFTS:
        for k in order:
            yield gained(f"{problem.leaves[k].path} {shift:+g}", k, problem.point[k] + shift)


def _between(scaled: Callable[[float], Gained], below: float, above: float) -> Iterator[Gained]:
    """Yield what factors between one that is too small and one that is too large make of it."""
    for _ in range(HALVINGS):
        middle = (below * above) ** 0.5
        found = scaled(middle)
        yield found
        below, above = (below, middle) if found.gain > 1 else (middle, above)
