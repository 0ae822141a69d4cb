"""Is the VJP the derivative of the value? Asked along random directions of all leaves.

Detect by significance, judge by size: a mismatch of more than ten error bars is real, however
small; it is located, and the leaf fails when what is wrong is off by more than the tolerance of
its own size.

One direction that moves all leaves settles most checks; a leaf about which it says too little, or
any in case of doubt, is asked alone. What is asked is the target in float64 where it can be run in
it; its gradient in its own dtype is then compared with that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import aligned, along, closer, epsilon_of, finer, line_of, sharper
from gradcheck.checks.doubts import (
    confirmed,
    equally_noisy,
    folded,
    is_clear,
    measured,
    rippled,
    unrested,
)
from gradcheck.checks.edges import movable
from gradcheck.checks.entrywise import narrowest
from gradcheck.checks.hidden import hidden, is_suspect, through_what_moves
from gradcheck.checks.judgement import judge
from gradcheck.checks.question import Question
from gradcheck.diagnose import ADVICE
from gradcheck.errors import maybe_out_of_domain
from gradcheck.evidence import Probe, entries_of
from gradcheck.finite import finite_part, is_finite
from gradcheck.oracles import ladder
from gradcheck.probes import Beside, among, direction, nudged, scale
from gradcheck.problem import Array, Problem, is_same, is_same_entrywise
from gradcheck.results import Finding, Verdict, worst
from gradcheck.rounding import rounded
from gradcheck.settings import RIPPLE, Settings

__all__ = ["check_vjp"]


# A direction is enough when an error of the size of the tolerance hides from it with a probability
# of 1e-3, its resolution over the tolerance: one of a percent, in float64, with 1e-7. It is looked
# at through two cotangents, as a rule may keep the first that it was given.
HIDING, COTANGENTS = 1e-3, 2


class Kink(Enum):
    """Where the gradient lies that is given at a kink: among the subgradients, or not."""

    INSIDE = auto()
    OUTSIDE = auto()


Kinks = Mapping[str, Kink]  # leaf -> the kink along it


def check_vjp(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf that `settings` ask for.

    Raises whatever the target raises.
    """
    if not is_finite(answers):
        return _in_part(answers, settings, rng)
    findings, kinked = _at_point(answers, settings, rng)
    if kinked:
        problem = answers.problem
        moved = replace(problem, point=nudged(rng, problem.leaves, problem.point))
        with maybe_out_of_domain():
            beside, _ = _at_point(answers.of(moved), settings, rng)
            findings = tuple(
                _joined(here, there, kinked.get(here.leaf), problem)
                for here, there in zip(findings, beside, strict=True)
            )
    elif all(finding.verdict is Verdict.PASS for finding in findings):
        findings = _off_zero(findings, answers, settings, rng)
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
        beside, _ = _at_point(answers.of(moved), settings, rng)
        names = ", ".join(problem.leaves[k].path for k in sorted(zeros))
        where = f"at the point nothing is wrong; it is once {names}, of zeros, is moved: "
        return tuple(
            replace(there, message=where + there.message) if there.verdict is Verdict.FAIL else here
            for here, there in zip(findings, beside, strict=True)
        )
    return findings


def _at_point(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[tuple[Finding, ...], Kinks]:
    """The findings at the problem's point, and the leaves along which it lies on a kink."""
    problem, questions = answers.problem, _questions(answers, settings)
    if (formula := answers.in_float64) is None:
        return _examined(questions, answers, problem, settings, rng)
    # Differences are taken in float64 where the target can be run in it: without noise, almost.
    if is_same(problem, answers.value, formula.value):
        findings, kinked = _examined(questions, formula, problem, settings, rng)
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
            chosen, _ = _examined(accused, _as_claimed(answers, formula), problem, settings, rng)
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
            alone, _ = _examined(own, answers, problem, settings, rng)
            said = {f.leaf: replace(f, message=f.message or ANOTHER) for f in alone}
            judged = [said.get(finding.leaf, finding) for finding in judged]
        return tuple(judged), kinked
    findings, kinked = _examined(questions, answers, problem, settings, rng)
    if any(finding.verdict is not Verdict.PASS for finding in findings):
        others, _ = _examined(questions, formula, problem, settings, rng)
        findings = tuple(
            _second_opinion(q, finding, other, answers, formula, rng)
            for q, finding, other in zip(questions, findings, others, strict=True)
        )
    return findings, kinked


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


def _examined(
    questions: Sequence[Question],
    answers: Answers,
    problem: Problem,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[tuple[Finding, ...], Kinks]:
    """The findings about answers, and the leaves along which their point lies on a kink."""
    findings: list[Finding] = []
    kinked: dict[str, Kink] = {}
    joint = _joint(answers, questions, settings.probes, rng)
    for question in questions:
        leaf = answers.problem.leaves[question.index]
        own = replace(question, oracle=f"finite differences, {leaf.dtype}")
        finding, kink = _settled(own, joint) or _alone(own, answers, problem, settings, rng)
        if finding.verdict is Verdict.INCONCLUSIVE and not np.isfinite(finding.resolution):
            finding = _within(own, finding, answers, problem, settings, rng)
        if finding.verdict is Verdict.PASS and settings.probes > 1:  # one is a first look
            for few in hidden(answers.gradients(0)[question.index]):
                seen = through_what_moves(own, answers, few, rng)
                if is_suspect(own, seen, few, rng):
                    found, _ = _alone(own, seen, problem, settings, rng, few)
                    finding = found if found.verdict is Verdict.FAIL else finding
                    break
        findings.append(finding)
        if kink is not None:
            kinked[question.leaf.path] = kink
    return tuple(findings), kinked


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


def _joint(
    answers: Answers, questions: Sequence[Question], count: int, rng: np.random.Generator
) -> tuple[Probe, ...]:
    """Probes that move all leaves at once, each by its own size; as many as it takes to `count`."""
    live = [
        question
        for question in questions
        if 0 not in question.leaf.shape
        and np.all(np.isfinite(answers.gradients(0)[question.index]))
    ]
    if not live:
        return ()
    leaves, point = answers.problem.leaves, answers.problem.point
    epsilon = max(epsilon_of(answers, q.index) for q in live)
    probes: list[Probe] = []
    for first in range(0, count, COTANGENTS):
        draws = range(count)[first : first + COTANGENTS]
        for k in draws:  # before anything else of that size is made
            answers.gradients(k)
        v = {q.index: direction(rng, leaves[q.index], scale(point[q.index])) for q in live}
        beside = Beside()
        beside.lines = [replace(line_of(answers, k, v), beside=beside) for k in draws]
        for line in beside.lines:
            truth = ladder.estimate(line)
            probes.append(Probe(index=live[0].index, epsilon=epsilon, line=line, truth=truth))
            if probes[-1].is_significant or not probes[-1].is_smooth:
                return tuple(probes)
        probes[first:] = closer(probes[first:])
        if any(probe.is_significant for probe in probes):
            break
        if all(
            min(replace(p, index=q.index).resolution for p in probes) <= HIDING * q.tolerance
            for q in live
        ):
            break
    return tuple(probes)


def _settled(question: Question, joint: Sequence[Probe]) -> tuple[Finding, None] | None:
    """The finding of a leaf about which probes of all leaves say enough, or None."""
    if not joint or question.index not in joint[0].line.v:
        return None
    if any(probe.is_significant or not probe.is_smooth for probe in joint):
        return None
    views = [replace(probe, index=question.index) for probe in joint]
    if not all(probe.size for probe in views):  # it may be that nothing depends on it
        return None
    best = min(views, key=lambda probe: probe.resolution)
    if not best.resolution <= question.tolerance:
        return None
    return question.passed("", views), None


def _alone(
    question: Question,
    answers: Answers,
    problem: Problem,
    settings: Settings,
    rng: np.random.Generator,
    only: Array | None = None,
) -> tuple[Finding, Kink | None]:
    """The finding of one leaf, moved alone, and the kink along it that the point lies on.

    Moved are all entries, or `only` some of them.
    """
    index, leaf = question.index, question.leaf
    own = [answers.gradients(k)[index] for k in range(settings.probes)]
    if 0 in leaf.shape:
        return question.answer(Verdict.PASS, "the leaf is empty"), None
    if not all(np.all(np.isfinite(gradient)) for gradient in own):
        return _not_finite(question, own), None
    probes: list[Probe] = []
    # At a kink every second direction says nothing of a gradient that is none of its subgradients.
    while len(probes) < settings.probes * (1 + any(probe.truth.kink > 0 for probe in probes)):
        k = len(probes) % settings.probes
        x = answers.problem.point[index]
        v = direction(rng, leaf) if only is None else among(rng, leaf, x, only)
        probes.append(sharper(answers, k, index, v, question.tolerance))
    probes = [closer([probe])[0] for probe in probes]
    if all(probe.is_smooth and probe.is_vacuous for probe in probes):
        return judge(question, probes, rng), None
    probes = [confirmed(finer(probe)) for probe in probes]
    if any(probe.truth.kink > 0 for probe in probes) and leaf.shape and only is None:
        # What is too large at every kink shows along itself, and rarely along random signs.
        probes.append(aligned(answers, index, direction(rng, leaf)))
    coarse = min(probe.resolution for probe in probes) > question.tolerance
    if coarse and leaf.shape and only is None:
        probes.append(finer(aligned(answers, index, direction(rng, leaf))))
    if coarse or any(probe.is_significant for probe in probes):
        clear = not coarse and all(map(is_clear, probes))
        probes = [unrested(probe, rng) for probe in probes]
        if not clear:
            probes = equally_noisy([measured(probe) for probe in probes])
        probes = [
            folded(probe) if probe.is_outside(question.tolerance) else probe for probe in probes
        ]
        ripple = max(probe.truth.ripple for probe in probes)
        if ripple >= min(RIPPLE.values()):  # seen along one line, it is along all
            probes = [rippled(probe, ripple) for probe in probes]
        coarsest = narrowest(leaf, problem.outputs)
        question = replace(question, tolerance=settings.tolerance(coarsest.digits, ripple))
    kink = None
    if any(probe.truth.kink > 0 for probe in probes):
        outside = any(probe.is_outside(question.tolerance) for probe in probes)
        kink = Kink.OUTSIDE if outside else Kink.INSIDE
    return judge(question, probes, rng), kink


def _within(
    question: Question,
    finding: Finding,
    answers: Answers,
    problem: Problem,
    settings: Settings,
    rng: np.random.Generator,
) -> Finding:
    """The finding of a leaf some entries of which have no derivative: of the others."""
    within = movable(answers, question.index, question.leaf, rng)
    held = within.size - np.count_nonzero(within)
    if not 0 < held < within.size:
        return finding
    found, _ = _alone(question, answers, problem, settings, rng, within)
    if found.verdict is not Verdict.PASS:
        return found
    message = (
        f"{held} of {within.size} entries lie where the value jumps or its domain ends: move them; "
        "the gradient of the others is right"
    )
    return replace(finding, message=message)


def _not_finite(question: Question, gradients: Sequence[Array]) -> Finding:
    unknown = np.full_like(gradients[0], np.nan)
    found = entries_of(
        ~np.all(np.isfinite(gradients), axis=0), gradients[0], unknown, np.real(unknown)
    )
    finding = question.answer(
        Verdict.FAIL, ADVICE["not finite"], entries=found, diagnosis="not finite"
    )
    return replace(finding, mismatch=float("inf"))


def _joined(here: Finding, beside: Finding, kink: Kink | None, problem: Problem) -> Finding:
    """One finding for a leaf that was checked at a kink and beside it.

    At a kink the differences leave an interval, blurred by the smallest step. A gradient inside
    it that is right beside the kink is right; one outside may be a convention, unless it is wrong
    beside the kink too, and is one if nobody but the framework has a say in it.
    """
    if here.verdict is Verdict.INCONCLUSIVE and beside.verdict is Verdict.PASS:
        if kink is Kink.INSIDE and here.mismatch <= here.resolution:
            message = "the point lies on a kink or next to one; checked beside it"
            return replace(beside, message=message, mismatch=max(here.mismatch, beside.mismatch))
        if kink is Kink.OUTSIDE and problem.is_native is not None and problem.is_native():
            message = (
                "the point lies on a kink inside, where the framework chooses what is no "
                "subgradient of the whole; right beside it"
            )
            return replace(beside, message=message)
    verdict = worst((here.verdict, beside.verdict))
    if here.verdict is verdict:
        return replace(here, resolution=min(here.resolution, beside.resolution))
    return replace(beside, message=f"beside a kink: {beside.message}")


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
