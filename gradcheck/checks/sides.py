"""The sides of a kink: a gradient that is that of one side is right, if it is right there.

A limit of gradients is a subgradient (Clarke, Optimization and Nonsmooth Analysis, 1983, theorem
2.5.1), and need not look like one along a line: through three equal numbers, or through the zeros
of several rectifiers whose weights differ in sign.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.here import at_point
from gradcheck.errors import maybe_out_of_domain
from gradcheck.probes import BESIDE, nudged
from gradcheck.problem import Array, Arrays, Problem, norm
from gradcheck.results import Finding, Reason, Verdict
from gradcheck.settings import Settings

__all__ = ["right_on_one_side"]

# How many sides are looked at. Where three numbers are equal there are six; of n rectifiers at
# zero there are 2ⁿ, but entries that show another gradient are turned, so often from each start.
SIDES, TURNS = 48, 4

# How near, in sizes of the leaf, and how nearly the gradient must be that at the kink: closer than
# any tolerance. What a narrow dtype cannot tell from the point is looked at farther away, and
# must be the same there but for rounding.
NEAR, SAME, SAME_NARROW = 2.0**-30, 1e-7, 1e-9


def right_on_one_side(
    answers: Answers,
    open_: Collection[str],
    kinked: Collection[str],
    settings: Settings,
    rng: np.random.Generator,
) -> dict[str, Finding]:
    """The passes, by leaf, of those that are `open_`, on a side that has the gradient of the point.

    Of all that are `kinked` it must be the same side.
    """
    problem = answers.problem
    one = {k for k, leaf in enumerate(problem.leaves) if leaf.path in (*open_, *kinked)}
    signs = _side(answers, one, rng)
    if signs is not None:
        with maybe_out_of_domain():
            point = nudged(rng, problem.leaves, problem.point, signs)
            found, _ = at_point(answers.of(replace(problem, point=point)), settings, rng)
            message = "the point lies on a kink, and the gradient is that of one side"
            return {
                f.leaf: replace(f, message=message, reason=Reason.KINK)
                for f in found
                if f.leaf in open_ and f.verdict is Verdict.PASS
            }
    return {}


def _side(answers: Answers, one: Collection[int], rng: np.random.Generator) -> Arrays | None:
    """The signs of a side on which the gradients of the leaves that are on `one` are those here."""
    looks = 0
    for signs in _starts(answers.problem, one, rng):
        for _ in range(TURNS):
            if looks == SIDES:
                return None
            looks += 1
            others = _others(answers, signs, rng)
            if not any(np.any(others[k]) for k in one):
                return signs
            turned = tuple(np.where(o, -s, s) for o, s in zip(others, signs, strict=True))
            if all(map(np.array_equal, turned, signs)):
                break
            signs = turned
    return None


def _starts(
    problem: Problem, one: Collection[int], rng: np.random.Generator
) -> Iterator[tuple[Array, ...]]:
    """Sides to begin with: a leaf moved down, or up, alone or with the others; then any."""
    for moved in (*((k,) for k in sorted(one)), range(len(problem.leaves))):
        for sign in (-1.0, 1.0):
            yield tuple(np.full(x.shape, sign * (k in moved)) for k, x in enumerate(problem.point))
    while True:
        yield tuple(rng.choice([-1.0, 1.0], x.shape) for x in problem.point)


def _others(answers: Answers, signs: Arrays, rng: np.random.Generator) -> Arrays:
    """The entries of each leaf whose gradient is another on that side; all, if it refuses."""
    problem = answers.problem
    near, same = (BESIDE, SAME_NARROW) if problem.is_narrow else (NEAR, SAME)
    with maybe_out_of_domain():
        point = nudged(rng, problem.leaves, problem.point, signs, near)
        there = answers.of(replace(problem, point=point)).gradients(0)
        pairs = zip(answers.gradients(0), there, strict=True)
        return tuple(np.abs(g - h) > same * norm(g) for g, h in pairs)
    return tuple(np.ones(x.shape, bool) for x in problem.point)
