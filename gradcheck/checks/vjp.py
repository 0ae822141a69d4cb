"""Is the VJP the derivative of the value? Asked along random directions of all leaves.

Detect by significance, judge by size: a mismatch of more than ten error bars is real, however
small; it is located, and the leaf fails when what is wrong is off by more than the tolerance of
its own size.

At a kink, at zeros and where something is infinite one point does not tell all: others beside it
are asked, or the part that is finite; of a target that draws random numbers, others.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.beside import found_at, off_defaults, redrawn
from gradcheck.checks.differences import Kink, Kinks
from gradcheck.checks.here import at_point, questions_of
from gradcheck.checks.sides import right_on_one_side
from gradcheck.checks.ties import unless_untied
from gradcheck.errors import maybe_out_of_domain
from gradcheck.finite import finite_part, is_finite, vast
from gradcheck.probes import nudged
from gradcheck.problem import Array, Problem, is_same_entrywise
from gradcheck.results import Finding, Reason, Verdict, worst
from gradcheck.settings import Settings

__all__ = ["check_vjp"]


def check_vjp(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf that `settings` ask for.

    Raises whatever the target raises.
    """
    still = vast(answers)
    if still or not is_finite(answers):
        return _in_part(answers, still, settings, rng)
    findings, kinked = at_point(answers, settings, rng)
    if kinked:
        problem = answers.problem
        moved = replace(problem, point=nudged(rng, problem.leaves, problem.point))
        beside = found_at(answers.of(moved), settings, rng)
        if beside is not None:
            findings = tuple(
                _joined(here, there, kinked.get(here.leaf), problem)
                for here, there in zip(findings, beside[0], strict=True)
            )
    doubtful = {
        f.leaf for f in findings if f.oracle == "path integral" or f.verdict is Verdict.INCONCLUSIVE
    }
    if tied := kinked.keys() | doubtful:
        asked = questions_of(answers, settings)
        findings = unless_untied(findings, asked, answers.formula or answers, tied, rng)
    findings = _of_one_side(findings, kinked, answers, settings, rng)
    if not kinked and all(finding.verdict is Verdict.PASS for finding in findings):
        findings = off_defaults(findings, answers, settings, rng)
        findings = redrawn(findings, answers, settings, rng)
    findings = _unless_unsteady(findings, answers)
    return tuple(_strong_enough(finding, settings.min_power) for finding in findings)


def _in_part(
    answers: Answers, still: Mapping[int, Array], settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """The findings where point and value are finite; what is right there is not known elsewhere."""
    entries = np.concatenate([np.isfinite(output).ravel() for output in answers.value])
    infinite = np.count_nonzero(~entries)
    part = finite_part(answers, still)

    def said(finding: Finding, x: Array, held: int, lost: int) -> Finding:
        if infinite and finding.verdict is Verdict.PASS and not lost and is_constant:
            message = f"{infinite} of {entries.size} entries of the value are infinite, and stay so"
            return replace(finding, message=finding.message or message)
        if infinite and finding.verdict is Verdict.PASS:
            right = "the gradient of the others is right"
            if held + lost == x.size:
                right = "no entry of this leaf has a gradient that could be compared"
            elif lost:
                right += f", but for {lost} entries of it that are not finite either"
            message = (
                f"the value at this point is not finite in {infinite} of {entries.size} entries: "
                f"move it to check those; {right}"
            )
            return replace(finding, verdict=Verdict.INCONCLUSIVE, message=message, power=())
        if held and finding.verdict is Verdict.PASS and not finding.message:
            kind = "infinite" if np.count_nonzero(~np.isfinite(x)) else "vast"
            return replace(finding, message=f"{held} {kind} entries of it were not moved")
        return finding

    if infinite == entries.size:
        message = "the value at this point is not finite: there is no derivative to check"
        asked = questions_of(answers, settings)
        return tuple(q.answer(Verdict.INCONCLUSIVE, message) for q in asked)
    is_constant = infinite > 0 and _stays_infinite(answers, rng)
    paths = (leaf.path for leaf in answers.problem.leaves)
    counts = zip(answers.problem.point, part.held, part.lost, strict=True)
    known = dict(zip(paths, counts, strict=True))
    return tuple(said(f, *known[f.leaf]) for f in check_vjp(part.answers, settings, rng))


def _stays_infinite(answers: Answers, rng: np.random.Generator) -> bool:
    """Whether what is infinite of the value is so beside the point: a mask, a log of nothing."""
    problem = answers.problem
    for _ in range(2):
        with maybe_out_of_domain(), np.errstate(all="ignore"):
            there = problem.value(nudged(rng, problem.leaves, problem.point))
            pairs = zip(answers.value, there, strict=True)
            if all(np.array_equal(f[~np.isfinite(f)], g[~np.isfinite(f)]) for f, g in pairs):
                continue
        return False
    return True


def _joined(here: Finding, beside: Finding, kink: Kink | None, problem: Problem) -> Finding:
    """One finding for a leaf that was checked at a kink and beside it.

    At a kink the differences leave an interval, blurred by the smallest step. A gradient inside
    it that is right beside the kink is right; one outside may be a convention, unless it is wrong
    beside the kink too, and is one if nobody but the framework has a say in it.
    """
    if here.verdict is Verdict.INCONCLUSIVE and beside.verdict is Verdict.PASS:
        if kink is Kink.INSIDE and here.mismatch <= here.resolution:
            message = "the point lies on a kink or next to one; checked beside it"
            most = max(here.mismatch, beside.mismatch)
            return replace(beside, message=message, mismatch=most, reason=Reason.KINK)
        if kink is Kink.OUTSIDE and not problem.has_rules_of_its_own():
            message = (
                "the point lies on a kink inside, where the framework chooses what is no "
                "subgradient of the whole; right beside it"
            )
            return replace(beside, message=message, reason=Reason.KINK)
    verdict = worst((here.verdict, beside.verdict))
    if here.verdict is verdict:
        return replace(here, resolution=min(here.resolution, beside.resolution))
    return replace(beside, message=f"beside a kink: {beside.message}")


def _of_one_side(
    findings: tuple[Finding, ...],
    kinked: Kinks,
    answers: Answers,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[Finding, ...]:
    """The findings; passes, where the gradient at a kink is that of one side, and right there."""
    problem = answers.problem
    points = dict(zip((leaf.path for leaf in problem.leaves), problem.point, strict=True))

    def may_be(finding: Finding) -> bool:
        if finding.verdict is Verdict.PASS:  # nor are its numbers sorted
            return False
        x = points[finding.leaf]
        is_tied = finding.leaf in kinked or len(np.unique(x)) < x.size
        if finding.verdict is Verdict.FAIL:
            return is_tied and answers.formula is None  # else a dtype may be to blame
        is_kink = finding.reason in (Reason.KINK, Reason.CONTRADICTING)
        return finding.verdict is Verdict.INCONCLUSIVE and (is_kink or is_tied)

    left = {finding.leaf for finding in findings if may_be(finding)}
    found = right_on_one_side(answers, left, kinked.keys(), settings, rng) if left else {}
    return tuple(found.get(finding.leaf, finding) for finding in findings)


REPEATS = 4  # how often a value is asked again before what is wrong or open is believed


def _unless_unsteady(findings: tuple[Finding, ...], answers: Answers) -> tuple[Finding, ...]:
    """The findings; what is wrong or open says so, where one point has two values.

    Or where the value is drawn by rejection: what is differentiated is the quantile of what is
    drawn (Figurnov, Mohamed, Mnih, Implicit reparameterization gradients, 2018), not the draw.
    """
    problem = answers.problem
    if all(finding.verdict is Verdict.PASS for finding in findings):
        return findings
    drawn = {problem.leaves[k].path for k in problem.rejecting()}
    if drawn:
        return tuple(
            replace(f, verdict=Verdict.INCONCLUSIVE, message=DRAWN, entries=(), diagnosis=None)
            if f.verdict is Verdict.FAIL and f.leaf in drawn
            else f
            for f in findings
        )
    values = (problem.value(problem.point) for _ in range(REPEATS))
    if all(is_same_entrywise(problem, value, answers.value) for value in values):
        return findings
    return tuple(
        finding
        if finding.verdict is Verdict.PASS
        else replace(finding, message=UNSTEADY, diagnosis=None)
        for finding in findings
    )


DRAWN = (
    "it draws by rejection (gamma, beta, Dirichlet, Student's t), of which the gradient is that of "
    "the distribution: with the same random numbers the value is no function that has it. Compare "
    "means of many draws, or check what is done with a draw that is given"
)

UNSTEADY = (
    "at one point the target gives two values, so that no difference of them means anything: a "
    "state hidden between calls, or randomness that no seed governs"
)


def _strong_enough(finding: Finding, wanted: float | None) -> Finding:
    """The finding, or a failure where a pass was proved to miss more than it may."""
    if wanted is None or finding.verdict is not Verdict.PASS or not finding.power:
        return finding
    weakest = max(finding.power, key=lambda power: power.smallest)
    if weakest.smallest <= wanted:
        return finding
    message = (
        f"no error was found, but the check is too weak: one of {weakest.smallest:.0e} in a "
        f"{weakest.fault} is the smallest that it would have seen, and min_power asks for "
        f"{wanted:.0e}"
    )
    return replace(finding, verdict=Verdict.FAIL, message=message)
