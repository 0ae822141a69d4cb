"""Equal entries, moved together: at a tie a gradient is held to what is smooth there.

Where several numbers are the largest, a derivative gives one of them all, or each its part; any
such gradient is right. Along a direction in which they stay equal the value is smooth, and what a
rule says of it is right or wrong: one that gives all of them all, or none of them anything, is off
by a factor.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import epsilon_of, line_of
from gradcheck.checks.question import Question
from gradcheck.evidence import Probe
from gradcheck.oracles import ladder
from gradcheck.probes import Line, direction, scale
from gradcheck.problem import Array, norm
from gradcheck.results import Finding, Verdict

__all__ = ["unless_untied"]

GROUPS, ALONE = 4, 3  # numbers that come more than once; entries of each that are moved alone


def unless_untied(
    findings: Sequence[Finding],
    questions: Sequence[Question],
    answers: Answers,
    tied: Collection[str],
    rng: np.random.Generator,
) -> tuple[Finding, ...]:
    """The findings; failures where equal entries of `tied` leaves, moved together, show an error.

    Of the framework's own rules at a kink nothing is said: they are conventions.
    """
    asked = {
        question.index: question
        for question, finding in zip(questions, findings, strict=True)
        if finding.leaf in tied
        and finding.verdict is not Verdict.FAIL
        and "complex" not in question.leaf.dtype
    }
    problem = answers.problem
    if not asked or not problem.has_rules_of_its_own():
        return tuple(findings)
    for tie in _ties({k: problem.point[k] for k in asked}):
        if off := _mismatch(tie, asked, answers, rng):
            pairs = zip(questions, findings, strict=True)
            return tuple(_failed(f, off) if q.index in tie else f for q, f in pairs)
    return tuple(findings)


def _ties(leaves: Mapping[int, Array]) -> Iterator[Mapping[int, Array]]:
    """Directions that move equal entries: of the numbers that come most often, and not once."""
    together = np.concatenate([x.ravel() for x in leaves.values()])
    values, counts = np.unique(together[np.isfinite(together)], return_counts=True)
    for k in np.argsort(-counts, kind="stable")[:GROUPS]:
        if counts[k] > 1:
            masks = {index: (x == values[k]).astype(np.float64) for index, x in leaves.items()}
            yield {index: mask for index, mask in masks.items() if np.any(mask)}


def _mismatch(
    tie: Mapping[int, Array],
    asked: Mapping[int, Question],
    answers: Answers,
    rng: np.random.Generator,
) -> float:
    """How far off a claim is along all entries of a tie, where that is smooth; 0 if it is right."""
    line = line_of(answers, 0, tie, min(scale(answers.problem.point[k]) for k in tie))
    if not (_bends(line, rng) or _parts(line, rng)):
        return 0.0
    truth = ladder.estimate(line, careful=True)
    epsilon = max(epsilon_of(answers, k) for k in tie)
    probe = Probe(index=next(iter(tie)), epsilon=epsilon, line=line, truth=truth)
    if not (probe.is_smooth and probe.is_significant):
        return 0.0
    off = probe.excess / max(line.size, abs(truth.slope))
    return off if off > max(asked[k].tolerance for k in tie) else 0.0


def _bends(line: Line, rng: np.random.Generator) -> bool:
    """Whether the value has a kink along some single entry of the first leaf that moves."""
    index, mask = next(iter(line.v.items()))
    for place in rng.permutation(np.argwhere(mask))[:ALONE]:
        alone = np.zeros_like(mask)
        alone[tuple(place)] = 1.0
        if ladder.estimate(line.along({index: alone})).kink > 0:
            return True
    return False


# How far from a tie, in sizes of the leaf, a rule is asked; how nearly it says the same there.
APART, SAME = (2.0**-40, 2.0**-30, 2.0**-20), 1e-3


def _parts(line: Line, rng: np.random.Generator) -> bool:
    """Whether off the tie the claim is at once another, which stays: no rounding does that.

    Of the median of three equal numbers no single one moves the value.
    """
    index, mask = next(iter(line.v.items()))
    leaf, x = line.problem.leaves[index], line.problem.point[index]
    v = direction(rng, leaf, line.unit) * mask
    near, *farther = (
        line.problem.vjp(line.filled({index: leaf.rounded(x + t * v)}), line.u)[index]
        for t in APART
    )
    jump = norm(near - line.gradients[index])
    return jump > 0 and all(norm(other - near) <= SAME * jump for other in farther)


def _failed(finding: Finding, off: float) -> Finding:
    message = (
        "at a tie: equal entries were moved together, along which the value is smooth, and the "
        "gradient of them all is not its slope: give one of them all of it, or each its part"
    )
    return replace(finding, verdict=Verdict.FAIL, mismatch=off, message=message, power=())
