"""Is a gradient that is right at the point right at another, asked after it?

A rule that keeps what it made of its first arguments, a transposed weight, say, is right at the
point that it was asked first. So the rise to another point must be what the gradients at both ends
say; in doubt, the gradient there is compared with differences.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import epsilon_of, line_of
from gradcheck.checks.vjp import at_point
from gradcheck.errors import maybe_out_of_domain
from gradcheck.evidence import Probe
from gradcheck.finite import is_finite
from gradcheck.oracles import ladder
from gradcheck.probes import direction
from gradcheck.problem import EPSILON, Arrays, extent, inner, norm
from gradcheck.results import Finding, Verdict
from gradcheck.settings import Settings

__all__ = ["wrong_elsewhere"]

# How far the point is moved to look at the gradient once more, relative to each entry: what is
# sorted, positive or below one mostly stays so.
FARTHER = 2.0**-6

KEPT = (
    "right at the point, and wrong at another that was asked after it: it keeps what it made of "
    "its first arguments, or is right by chance; "
)


def wrong_elsewhere(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> Iterator[Finding]:
    """Failures of leaves whose gradient is right at the point and wrong at another beside it."""
    answers = answers.in_float64 or answers
    problem = answers.problem
    if problem.epsilon > EPSILON["float32"]:  # differences of half precision say little
        return
    moved = tuple(
        leaf.rounded(x * (1 + FARTHER * direction(rng, leaf)))
        for leaf, x in zip(problem.leaves, problem.point, strict=True)
    )
    with maybe_out_of_domain():
        if not _strays(answers, moved) or _is_wrong_here(answers, moved):
            return
    there = answers.of(replace(problem, point=moved))
    wrong: tuple[Finding, ...] = ()
    with maybe_out_of_domain():
        wrong = _failures(there, settings, rng) if is_finite(there) else ()
        if not wrong or _moves_on(there):
            return
    here = {finding.leaf for finding in _failures(answers, settings, rng)}
    for finding in wrong:
        if finding.leaf not in here:
            yield replace(finding, check="state", message=KEPT + finding.message)


# What a rise may differ by from the mean of the slopes at both ends, and not be asked about. What
# was kept of the first point is off by half of `FARTHER`, 8e-3; what bends on the scale of the leaf
# by 2e-5.
STRAY = 1e-4


def _strays(answers: Answers, moved: Arrays) -> bool:
    """Whether the gradients at both ends of a short way leave a doubt about the rise along it."""
    problem, u = answers.problem, answers.cotangents(0)
    with np.errstate(all="ignore"):
        value, gradients = problem.value_and_vjp(moved, u)
        rise = sum(inner(u_, b - a) for u_, a, b in zip(u, answers.value, value, strict=True))
        ways = zip(problem.point, moved, answers.gradients(0), gradients, strict=True)
        parts = [((g + h) / 2, b - a) for a, b, g, h in ways]
        mean = sum(inner(g, v) for g, v in parts)
        size = norm(np.array([extent(g, v) for g, v in parts]))
    return abs(rise - mean) > STRAY * size


def _is_wrong_here(answers: Answers, moved: Arrays) -> bool:
    """Whether the gradient contradicts differences at the point itself, on the way to another."""
    ways = zip(answers.problem.point, moved, strict=True)
    line = line_of(answers, 0, {k: b - a for k, (a, b) in enumerate(ways)}, 1 / FARTHER)
    truth = ladder.estimate(line, rough=True)
    return Probe(index=0, epsilon=epsilon_of(answers, 0), line=line, truth=truth).is_significant


def _moves_on(answers: Answers) -> bool:
    """Whether a call leaves other buffers to the next: a power iteration goes on where it stopped.

    Its gradient is right where it has settled, and nearly so beside that.
    """
    problem = answers.problem
    if problem.audit is None:
        return False
    return problem.audit(problem.point, answers.cotangents(0)).moves_buffers


def _failures(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    found, _ = at_point(answers, settings, rng)
    return tuple(finding for finding in found if finding.verdict is Verdict.FAIL)
