"""Is the VJP the derivative of the value? Asked along random directions of all leaves.

Detect by significance, judge by size: a mismatch of more than ten error bars is real, however
small; it is located, and the leaf fails when what is wrong is off by more than the tolerance of
its own size.

What is asked is the target in float64 where it can be run in it; its gradient in its own dtype is
then compared with that. At a kink, at zeros and where something is infinite one point does not
tell all: others beside it are asked, or the part that is finite.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import along
from gradcheck.checks.differences import Kink, Kinks, examined
from gradcheck.checks.question import Question
from gradcheck.checks.ties import unless_untied
from gradcheck.errors import maybe_out_of_domain
from gradcheck.finite import finite_part, is_finite
from gradcheck.probes import among, direction, nudged
from gradcheck.problem import Array, Problem, is_same_entrywise, norm
from gradcheck.results import Finding, Reason, Verdict, worst
from gradcheck.rounding import rounded
from gradcheck.settings import Settings

__all__ = ["at_point", "check_vjp"]


def check_vjp(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf that `settings` ask for.

    Raises whatever the target raises.
    """
    if not is_finite(answers):
        return _in_part(answers, settings, rng)
    findings, kinked = at_point(answers, settings, rng)
    if kinked:
        problem = answers.problem
        moved = replace(problem, point=nudged(rng, problem.leaves, problem.point))
        with maybe_out_of_domain():
            beside, _ = at_point(answers.of(moved), settings, rng)
            findings = tuple(
                _joined(here, there, kinked.get(here.leaf), problem)
                for here, there in zip(findings, beside, strict=True)
            )
        asked = _questions(answers, settings)
        findings = unless_untied(findings, asked, answers.formula or answers, kinked, rng)
    elif all(finding.verdict is Verdict.PASS for finding in findings):
        findings = _off_zero(findings, answers, settings, rng)
    findings = _of_one_side(findings, kinked, answers, settings, rng)
    return tuple(_strong_enough(finding, settings.min_power) for finding in findings)


def _in_part(answers: Answers, settings: Settings, rng: np.random.Generator) -> tuple[Finding, ...]:
    """The findings where point and value are finite; what is right there is not known elsewhere."""
    entries = np.concatenate([np.isfinite(output).ravel() for output in answers.value])
    infinite = np.count_nonzero(~entries)
    part = finite_part(answers)

    def said(finding: Finding, x: Array, lost: int) -> Finding:
        held = np.count_nonzero(~np.isfinite(x))
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
            return replace(finding, message=f"{held} infinite entries of it were not moved")
        return finding

    if infinite == entries.size:
        message = "the value at this point is not finite: there is no derivative to check"
        asked = _questions(answers, settings)
        return tuple(q.answer(Verdict.INCONCLUSIVE, message) for q in asked)
    paths = (leaf.path for leaf in answers.problem.leaves)
    known = dict(zip(paths, zip(answers.problem.point, part.lost, strict=True), strict=True))
    return tuple(said(f, *known[f.leaf]) for f in check_vjp(part.answers, settings, rng))


# How far a leaf of zeros is moved, which has no size: about as much as a parameter is drawn.
OFF = 2.0**-3


def _off_zero(
    findings: tuple[Finding, ...], answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """The findings; failures, where the gradient is wrong once leaves of zeros are moved.

    A gate, a low-rank update or a branch that starts at zero multiplies what is wrong by it.
    """
    problem = answers.problem
    zeros = {k for k, x in enumerate(problem.point) if x.size and not np.any(x)}
    if not zeros or len(problem.leaves) < 2 or settings.probes < 2:
        return findings
    moved = replace(
        problem,
        point=tuple(
            leaf.rounded(direction(rng, leaf, OFF)) if k in zeros else x
            for k, (leaf, x) in enumerate(zip(problem.leaves, problem.point, strict=True))
        ),
    )
    with maybe_out_of_domain():
        beside, _ = at_point(answers.of(moved), settings, rng)
        names = ", ".join(problem.leaves[k].path for k in sorted(zeros))
        where = f"at the point nothing is wrong; it is once {names}, of zeros, is moved: "
        return tuple(
            replace(there, message=where + there.message) if there.verdict is Verdict.FAIL else here
            for here, there in zip(findings, beside, strict=True)
        )
    return findings


def at_point(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[tuple[Finding, ...], Kinks]:
    """The findings at the problem's point, and the leaves along which it lies on a kink."""
    problem, questions = answers.problem, _questions(answers, settings)
    if answers.formula is not None:
        return _of_formula(questions, answers, answers.formula, settings, rng)
    findings, kinked = examined(questions, answers, problem, settings, rng)
    another = answers.in_float64
    if another is not None and any(f.verdict is not Verdict.PASS for f in findings):
        others, _ = examined(questions, another, problem, settings, rng)
        findings = tuple(
            _second_opinion(q, finding, other, answers, another, rng)
            for q, finding, other in zip(questions, findings, others, strict=True)
        )
    return findings, kinked


def _of_formula(
    questions: Sequence[Question],
    answers: Answers,
    formula: Answers,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[tuple[Finding, ...], Kinks]:
    """The same of a narrow target: differences are taken in float64, where they are sharp.

    Its own gradient is then held to that of float64, rounded.
    """
    problem = answers.problem
    findings, kinked = examined(questions, formula, problem, settings, rng)
    judged = [
        _narrowed(q, finding, answers, formula, rng)
        for q, finding in zip(questions, findings, strict=True)
    ]
    accused = [
        q
        for q, finding in zip(questions, judged, strict=True)
        if finding.verdict is Verdict.FAIL and q.leaf.path in kinked
    ]
    if accused:
        # At a tie a narrow rule may choose another than the wide one: its own subgradient.
        chosen, _ = examined(accused, _as_claimed(answers, formula), problem, settings, rng)
        right = {f.leaf: f for f in chosen if f.verdict is not Verdict.FAIL}
        judged = [right.get(finding.leaf, finding) for finding in judged]
    own = [
        q
        for q, finding, wide in zip(questions, judged, findings, strict=True)
        if finding.verdict is Verdict.FAIL
        and wide.verdict is Verdict.PASS
        and _is_another(q, answers, formula, rng)
    ]
    if own:
        alone, _ = examined(own, answers, problem, settings, rng)
        said = {f.leaf: replace(f, message=f.message or ANOTHER) for f in alone}
        judged = [said.get(finding.leaf, finding) for finding in judged]
    return tuple(judged), kinked


def _questions(answers: Answers, settings: Settings) -> list[Question]:
    """One for each leaf that is asked for."""
    return [
        Question(
            index=k,
            leaf=leaf,
            tolerance=settings.tolerance(leaf.digits),
            oracle=f"finite differences, {leaf.dtype}",
        )
        for k, leaf in enumerate(answers.problem.leaves)
        if settings.wants(leaf.path)
    ]


def _narrowed(
    question: Question,
    finding: Finding,
    narrow: Answers,
    formula: Answers,
    rng: np.random.Generator,
) -> Finding:
    """What was found in float64, or a failure if the narrow gradient is not that, rounded."""
    if finding.verdict is not Verdict.PASS or 0 in question.leaf.shape:
        return finding
    asked = sorted(formula.found)
    claims, truths = ([c.gradients(k)[question.index] for k in asked] for c in (narrow, formula))
    draws = [narrow.cotangents(k) for k in asked]
    pair = narrow.problem, formula.problem
    judged = rounded(finding, *pair, question.index, draws, claims, truths, rng)
    if judged.verdict is Verdict.FAIL and not is_same_entrywise(
        narrow.problem, narrow.value, formula.value
    ):
        message = (
            f"right in float64; in {question.leaf.digits} some entries of the value are others, as "
            "where a choice is made by rounded numbers, or other random numbers are drawn"
        )
        return replace(judged, verdict=Verdict.INCONCLUSIVE, message=message, entries=())
    return judged


ANOTHER = "in float64 the target is another function here: an epsilon goes by the dtype, maybe"


def _is_another(
    question: Question, narrow: Answers, formula: Answers, rng: np.random.Generator
) -> bool:
    """Whether the narrow value has the gradient that is claimed of it, and not that of float64.

    Asked along the entries in which the two gradients differ: differences of the narrow value
    must agree with the one and contradict the other.
    """
    index, leaf = question.index, question.leaf
    for k in sorted(formula.found):
        claim, truth = narrow.gradients(k)[index], formula.gradients(k)[index]
        largest = np.maximum(np.abs(claim), np.abs(truth))
        differs = np.abs(claim - truth) > question.tolerance * largest
        if not np.all(np.isfinite(claim)) or not np.any(differs):
            continue
        v = among(rng, leaf, narrow.problem.point[index], differs)
        own = along(narrow, k, index, v, careful=True)
        wide = replace(own, line=replace(own.line, gradients=formula.gradients(k)))
        return own.is_smooth and not own.is_significant and wide.is_significant
    return False


def _as_claimed(narrow: Answers, formula: Answers) -> Answers:
    """The values of `formula`, with the gradients that the narrow target gave."""
    chosen = formula.of(formula.problem)
    chosen.found.update(
        (k, tuple(a.astype(b.dtype) for a, b in zip(gradients, formula.found[k], strict=True)))
        for k, gradients in narrow.found.items()
        if k in formula.found
    )
    return chosen


def _second_opinion(
    question: Question,
    here: Finding,
    wide: Finding,
    narrow: Answers,
    formula: Answers,
    rng: np.random.Generator,
) -> Finding:
    """What was found in the narrow dtype, unless float64 explains it as rounding of the value.

    (x + 1e8) - 1e8 stands still in float32, and its gradient is one. The rule is right if it is
    so in float64 and gives the same gradient in both.
    """
    if here.verdict is Verdict.PASS or wide.verdict is not Verdict.PASS:
        return here
    if _narrowed(question, wide, narrow, formula, rng).verdict is not Verdict.PASS:
        return here
    message = f"right in float64; of the value in {question.leaf.digits} only rounding is left"
    return replace(wide, message=message)


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


# How many sides of a kink are looked at: where three numbers are equal there are six. What is
# linear on a side has the same gradient at the kink, but for rounding.
SIDES, SAME = 24, 1e-9


def _of_one_side(
    findings: tuple[Finding, ...],
    kinked: Kinks,
    answers: Answers,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[Finding, ...]:
    """The findings; passes, where the gradient at a kink is that of one side, and is right there.

    A limit of gradients is a subgradient (Clarke, Optimization and Nonsmooth Analysis, 1983,
    theorem 2.5.1), and along a line through three equal numbers it may not look like one.
    """
    problem = answers.problem
    found = {finding.leaf: finding for finding in findings}
    points = dict(zip((leaf.path for leaf in problem.leaves), problem.point, strict=True))

    def may_be(finding: Finding) -> bool:
        if finding.verdict is Verdict.FAIL:
            x = points[finding.leaf]
            is_tied = finding.leaf in kinked or len(np.unique(x)) < x.size
            return is_tied and answers.formula is None  # else a dtype may be to blame
        is_open = finding.verdict is Verdict.INCONCLUSIVE
        return is_open and finding.reason in (Reason.KINK, Reason.CONTRADICTING)

    left = {finding.leaf for finding in findings if may_be(finding)}
    for _ in range(SIDES if left else 0):
        with maybe_out_of_domain():
            moved = replace(problem, point=nudged(rng, problem.leaves, problem.point))
            there = answers.of(moved)
            pairs = zip(problem.leaves, answers.gradients(0), there.gradients(0), strict=True)
            alike = {leaf.path for leaf, g, h in pairs if norm(g - h) <= SAME * norm(g)}
            # Of two leaves that meet in a kink, it must be the same side.
            beside = at_point(there, settings, rng)[0] if alike >= left | kinked.keys() else ()
            message = "the point lies on a kink, and the gradient is that of one side"
            found |= {
                f.leaf: replace(f, message=message, reason=Reason.KINK)
                for f in beside
                if f.leaf in left and f.verdict is Verdict.PASS
            }
            if beside:  # with the same gradient it is right there, or wrong
                break
    return tuple(found[finding.leaf] for finding in findings)


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
