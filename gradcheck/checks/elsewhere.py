"""Does a gradient follow where its arguments move?

A rule that keeps what it made of its first arguments, a transposed weight, say, is right at the
point that it was asked first. Elsewhere its gradient stays what it was, to the last bit, where the
slope of the value does not. So the rise to another point must be what the gradients at both ends
say; in doubt, what stays is compared with differences there. A rule that is right on its domain
alone, for targets that sum to one or a matrix that is orthogonal, is another matter: it follows.

What is made of both, of the first call and of this one, follows too, and is wrong. Of a target
whose code holds on to arrays that it did not hold before, the gradient is held to differences at
other points.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import epsilon_of, line_of
from gradcheck.checks.here import at_point
from gradcheck.checks.vjp import check_vjp
from gradcheck.errors import maybe_out_of_domain
from gradcheck.evidence import Probe
from gradcheck.finite import is_finite
from gradcheck.oracles import ladder
from gradcheck.probes import Line, direction, known
from gradcheck.problem import EPSILON, Array, Arrays, Problem
from gradcheck.results import Finding, Verdict
from gradcheck.settings import Settings

__all__ = ["kept_elsewhere"]

# How far the point is moved to look at the gradient once more, relative to each entry: what is
# sorted, positive or below one mostly stays so.
FARTHER = 2.0**-6


def kept_elsewhere(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> Iterator[Finding]:
    """Leaves whose gradient is right at the point and does not follow to another: failures.

    Or no more than doubts, if the target holds on to nothing that is in reach.
    """
    own, answers = answers.problem, answers.in_float64 or answers
    problem = answers.problem
    if problem.epsilon > EPSILON["float32"]:  # differences of half precision say little
        return
    steps = _steps(problem, settings, rng)
    if not steps:
        return
    strays, found, first = False, [], own.held().keys() - own.held_before.keys()
    with maybe_out_of_domain():
        strays = _strays(answers, steps)
        if strays and _is_wrong_here(answers, steps, settings):
            return
    held = own.held().keys()
    if strays:
        found = list(_kept_to_the_last_bit(answers, steps, settings, rng, is_holding=bool(held)))
    # What is there after a call at another point, too, was not made anew by it.
    if not found and first & held:
        found = list(_wrong_elsewhere(answers, steps, settings, rng))
    yield from found


# Said of a leaf, where another moves.
FIRST = (
    "where {} moves it stays what it was, and the slope of the value does not: it keeps what it "
    "made of its first arguments"
)
MATCHED = "does not follow {}: made of what is to match it, or kept out of sight"


def _kept_to_the_last_bit(
    answers: Answers,
    steps: Mapping[int, Array],
    settings: Settings,
    rng: np.random.Generator,
    *,
    is_holding: bool,
) -> Iterator[Finding]:
    problem = answers.problem
    verdict = Verdict.FAIL if is_holding else Verdict.INCONCLUSIVE
    here: set[str] | None = None
    for k, step in steps.items():
        way = _way(answers, {k: step})
        there = answers.of(replace(problem, point=way.filled(way.moved(1.0))))
        wrong: tuple[Finding, ...] = ()
        kept: list[int] = []
        with maybe_out_of_domain():
            kept = _kept(answers, there)
            own = {j: steps[j] for j in kept if j in steps}
            if own and is_finite(there) and _contradicted(there, own):
                wrong = _failures(there, settings, rng)
        paths = {problem.leaves[j].path for j in kept}
        wrong = tuple(finding for finding in wrong if finding.leaf in paths)
        if wrong and here is None:
            here = _wrong_here(answers, settings, rng)
        for finding in wrong:
            if here is not None and finding.leaf not in here:
                said = (FIRST if is_holding else MATCHED).format(problem.leaves[k].path)
                message = f"{said}; {finding.message}"
                yield replace(finding, check="state", verdict=verdict, message=message)


LATER = "at another point the gradient is wrong: it keeps what it made of its first call"


def _wrong_elsewhere(
    answers: Answers, steps: Mapping[int, Array], settings: Settings, rng: np.random.Generator
) -> Iterator[Finding]:
    """Failures at another point of leaves whose gradient is right at the point.

    The same numbers in reverse order sum to one or are orthogonal if they were so; their mirror
    image is sorted; others are of the same signs, and have another sum. The first of them counts
    at which anything is wrong; a target may refuse any.
    """
    problem = answers.problem
    for turn in (np.flip, _mirrored, _varied(rng)):
        turned = enumerate(problem.point)
        point = tuple(np.array(turn(x), dtype=x.dtype) if k in steps else x for k, x in turned)
        there = answers.of(replace(problem, point=point))
        wrong: tuple[Finding, ...] = ()
        with maybe_out_of_domain():
            if is_finite(there) and _contradicted(there, _short(problem, steps)):
                wrong = _failures(there, settings, rng)
        if wrong:
            here = _wrong_here(answers, settings, rng)
            for finding in wrong:
                if finding.leaf not in here:
                    yield replace(finding, check="state", message=f"{LATER}; {finding.message}")
            return


def _varied(rng: np.random.Generator) -> Callable[[Array], Array]:
    return lambda x: x * (1 + rng.uniform(-VARIED, VARIED, x.shape))


VARIED = 0.25  # of each number


def _mirrored(x: Array) -> Array:
    """The numbers between the same ends, in the same order of size if they were sorted."""
    return -np.flip(x) if np.iscomplexobj(x) else np.max(x) + np.min(x) - np.flip(x)


def _short(problem: Problem, steps: Mapping[int, Array]) -> Mapping[int, Array]:
    """Steps so short that they hardly ever lead over a kink, where digits are enough for that."""
    part = SHORT if problem.epsilon <= EPSILON["float64"] else 1.0
    return {k: part * step for k, step in steps.items()}


SHORT = 2.0**-10


def _steps(problem: Problem, settings: Settings, rng: np.random.Generator) -> Mapping[int, Array]:
    """How far each leaf moves that is asked about; labels and masks are no numbers to be moved."""
    steps = {}
    for k, (leaf, x) in enumerate(zip(problem.leaves, problem.point, strict=True)):
        if settings.wants(leaf.path) and x.size and not (np.any(x) and np.all(x == np.round(x))):
            sizes = np.abs(x) if np.any(x) else 1.0
            steps[k] = FARTHER * sizes * direction(rng, leaf)
    return steps


def _way(answers: Answers, steps: Mapping[int, Array], gradients: Arrays | None = None) -> Line:
    """The line from the point, one of which is where the steps lead to."""
    return Line(
        problem=answers.problem,
        v=steps,
        u=answers.cotangents(0),
        asked=known(answers.gradients(0) if gradients is None else gradients),
        centre=answers.value,
    )


# What a rise may differ by from the mean of the slopes at both ends, and not be asked about. What
# was kept of the first point is off by half of `FARTHER`, 8e-3; what bends on the scale of the leaf
# by 2e-5.
STRAY = 1e-4


def _strays(answers: Answers, steps: Mapping[int, Array]) -> bool:
    """Whether the gradients at both ends of a short way leave a doubt about the rise along it."""
    way = _way(answers, steps)
    with np.errstate(all="ignore"):
        value, gradients = way.problem.value_and_vjp(way.filled(way.moved(1.0)), way.u)
        both = zip(way.gradients, gradients, strict=True)
        mean = _way(answers, steps, tuple((g + h) / 2 for g, h in both))
        return abs(mean.rise(value, mean.centre) - mean.slope) > STRAY * mean.size


def _is_wrong_here(answers: Answers, steps: Mapping[int, Array], settings: Settings) -> bool:
    """Whether the gradient contradicts differences at the point itself, on the way to another."""
    line = line_of(answers, 0, steps, 1 / FARTHER)
    truth, index = ladder.estimate(line, enough=0.0), next(iter(steps))
    epsilon = epsilon_of(answers, index)
    probe = Probe(index=index, epsilon=epsilon, line=line, truth=truth)
    tolerance = settings.tolerance(answers.problem.leaves[index].digits)
    return probe.is_significant and probe.mismatch > tolerance


def _kept(answers: Answers, there: Answers) -> list[int]:
    """The leaves whose gradient is the same to the last bit, and is one."""
    pairs = enumerate(zip(answers.gradients(0), there.gradients(0), strict=True))
    return [k for k, (g, h) in pairs if np.any(g) and np.array_equal(g, h)]


def _contradicted(answers: Answers, steps: Mapping[int, Array]) -> bool:
    """Whether the gradient is not what one central difference says; a first look."""
    way = _way(answers, steps)
    with np.errstate(all="ignore"):
        rise = way.rise(way.at(1.0), way.at(-1.0)) / 2
        return abs(rise - way.slope) > STRAY * way.size


def _wrong_here(answers: Answers, settings: Settings, rng: np.random.Generator) -> set[str]:
    """The leaves that the check "vjp" finds wrong at the point, or beside it at a kink."""
    found = check_vjp(answers, settings, rng)
    return {finding.leaf for finding in found if finding.verdict is Verdict.FAIL}


def _failures(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    found, _ = at_point(answers, settings, rng)
    return tuple(finding for finding in found if finding.verdict is Verdict.FAIL)
