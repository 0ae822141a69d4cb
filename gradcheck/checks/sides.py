"""The sides of a kink: a gradient that is that of one side is right, if it is right there.

A limit of gradients is a subgradient (Clarke, Optimization and Nonsmooth Analysis, 1983, theorem
2.5.1), and need not look like one along a line: through three equal numbers, or through the zeros
of several rectifiers whose weights differ in sign.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import line_of
from gradcheck.checks.beside import found_at
from gradcheck.errors import maybe_out_of_domain
from gradcheck.oracles import ladder
from gradcheck.probes import BESIDE, nudged
from gradcheck.problem import Array, Arrays, Problem, norm, widened
from gradcheck.results import Finding, Reason, Verdict
from gradcheck.settings import SIGNIFICANCE, Settings

__all__ = ["right_on_one_side"]

# How many sides are looked at. Where three numbers are equal there are six; of n rectifiers at
# zero there are 2ⁿ, but entries that show another gradient are turned, so often from each start.
SIDES, TURNS = 48, 4

# How near to the point, in parts of how far a side is looked at, and how nearly the gradient must
# be that at the kink: closer than any tolerance. What a narrow dtype cannot tell from the point is
# looked at where the side is, and must be the same there but for rounding.
NEAR, SAME, SAME_NARROW = 2.0**-22, 1e-7, 1e-9


def right_on_one_side(
    answers: Answers,
    open_: Collection[str],
    kinked: Collection[str],
    settings: Settings,
    rng: np.random.Generator,
) -> dict[str, Finding]:
    """The passes, by leaf, of those that are `open_`, on a side that has the gradient of the point.

    Of all that are `kinked` it must be the same side. Into it the value must rise as is claimed: a
    rule with a branch for small numbers is the same near a point that lies on no kink, and wrong.
    """
    problem = answers.problem
    one = {k for k, leaf in enumerate(problem.leaves) if leaf.path in (*open_, *kinked)}
    side = _side(answers, one, rng)
    if side is None or not _rises(answers.formula or answers, side):
        return {}
    found = found_at(answers.of(problem.moved(side)), settings, rng)
    if found is None:
        return {}
    message = "the point lies on a kink, and the gradient is that of one side"
    return {
        f.leaf: replace(f, message=message, reason=Reason.KINK)
        for f in found[0]
        if f.leaf in open_ and f.verdict is Verdict.PASS
    }


def _side(answers: Answers, one: Collection[int], rng: np.random.Generator) -> Arrays | None:
    """A way off the point on which the gradients of the leaves that are on `one` are those here."""
    looks = 0
    for way in _starts(answers.problem, one, rng):
        for _ in range(TURNS):
            if looks == SIDES:
                return None
            looks += 1
            others = _others(answers, way)
            if not any(np.any(others[k]) for k in one):
                return way
            triples = zip(others, way, answers.problem.point, strict=True)
            turned = tuple(_turned(*each) for each in triples)
            if all(map(np.array_equal, turned, way)):
                break
            way = turned
    return None


def _turned(others: Array, way: Array, x: Array) -> Array:
    """The way with some entries turned; none across zero, beyond which it may have no meaning."""
    may_turn = (x == 0) | (np.abs(x) > np.abs(way))
    return np.where(others & may_turn, -way, way)


def _starts(problem: Problem, one: Collection[int], rng: np.random.Generator) -> Iterator[Arrays]:
    """Ways to begin with: a leaf moved down, or up, alone or with the others; then any."""

    def way(signs: Arrays) -> Arrays:
        there = nudged(rng, problem.leaves, problem.point, signs)
        return tuple(widened(y) - widened(x) for x, y in zip(problem.point, there, strict=True))

    for moved in (*((k,) for k in sorted(one)), range(len(problem.leaves))):
        for sign in (-1.0, 1.0):
            yield way(
                tuple(np.full(x.shape, sign * (k in moved)) for k, x in enumerate(problem.point))
            )
    while True:
        yield way(tuple(rng.choice([-1.0, 1.0], x.shape) for x in problem.point))


def _others(answers: Answers, way: Arrays) -> Arrays:
    """The entries of each leaf whose gradient is another on that side; all, if it refuses."""
    problem = answers.problem
    near, same = (1.0, SAME_NARROW) if problem.is_narrow else (NEAR, SAME)
    with maybe_out_of_domain():
        there = answers.of(problem.moved(tuple(near * d for d in way))).gradients(0)
        pairs = zip(answers.gradients(0), there, strict=True)
        return tuple(np.abs(g - h) > same * norm(g) for g, h in pairs)
    return tuple(np.ones(x.shape, bool) for x in problem.point)


def _rises(answers: Answers, way: Arrays) -> bool:
    """Whether the slope of the value along a way, to its side or the other, is what is claimed.

    It must be known: at a jump, or where the value bends too fast, nothing is.
    """
    line = line_of(answers, 0, {k: d / BESIDE for k, d in enumerate(way) if np.any(d)})
    truth = ladder.estimate(line, careful=True)
    ends = truth.slope - truth.kink / 2, truth.slope + truth.kink / 2
    bar = SIGNIFICANCE * truth.error_bar
    if truth.jump or not bar <= KNOWN * max(line.size, *map(abs, ends)):
        return False
    return min(abs(line.slope - end) for end in ends) <= bar + SAME * line.size


KNOWN = 1e-6  # of a slope, the tolerance of float64
