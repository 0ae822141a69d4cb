"""Each leaf's gradient against differences at one point: all leaves at once, or one by one.

One direction that moves all leaves settles most of them; a leaf about which it says too little, or
any in case of doubt, is moved alone, and some of its entries where others would hide them or break
the value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import aligned, closer, epsilon_of, finer, line_of, sharper
from gradcheck.checks.doubts import (
    confirmed,
    equally_noisy,
    folded,
    is_clear,
    leaping,
    measured,
    rippled,
    unrested,
)
from gradcheck.checks.edges import movable
from gradcheck.checks.entrywise import narrowest
from gradcheck.checks.hidden import hidden, is_nothing, is_suspect, through_what_moves
from gradcheck.checks.iterations import unless_another_jumps
from gradcheck.checks.judgement import judge
from gradcheck.checks.question import Question
from gradcheck.diagnose import ADVICE
from gradcheck.evidence import Probe, entries_of
from gradcheck.oracles import ladder
from gradcheck.probes import Line, among, by_size, direction, known, scale, side_by_side
from gradcheck.problem import Array, Problem, norm
from gradcheck.results import Entry, Finding, Reason, Verdict
from gradcheck.rounding import unrest_of
from gradcheck.settings import RIPPLE, Settings

__all__ = ["Kink", "Kinks", "examined"]

# A direction is enough when an error of the size of the tolerance hides from it with a probability
# of 1e-3, its resolution over the tolerance: one of a percent, in float64, with 1e-7. It is looked
# at through two cotangents, as a rule may keep the first that it was given.
HIDING, COTANGENTS = 1e-3, 2
SHORTEST = 2.0**-100  # from here to its inverse the numbers of a direction are exact in float32


TINIEST = (
    "{} of {} entries of the gradient are below 1e-16 of the whole: they may be what rounding "
    "leaves, and were not compared"
)


class Kink(Enum):
    """Where the gradient lies that is given at a kink: among the subgradients, or not."""

    INSIDE = auto()
    OUTSIDE = auto()


Kinks = Mapping[str, Kink]  # leaf -> the kink along it


def examined(
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
        is_unknown = not np.isfinite(finding.resolution)
        if finding.verdict is Verdict.FAIL or (
            finding.verdict is Verdict.INCONCLUSIVE and is_unknown
        ):
            finding = _by_size(own, finding, answers, problem, settings, rng)
        if finding.verdict is Verdict.INCONCLUSIVE and own.leaf.shape:
            beside = _apart if np.isfinite(finding.resolution) else _within
            finding = beside(own, finding, answers, problem, settings, rng)
        if finding.verdict is Verdict.PASS and settings.probes > 1:  # one is a first look
            gradient = answers.gradients(0)[question.index]
            levels, nothing = hidden(gradient)
            if nothing and not finding.message:
                finding = replace(finding, message=TINIEST.format(nothing, np.prod(leaf.shape)))
            for few in levels:
                seen = through_what_moves(own, answers, few, rng)
                if is_suspect(own, seen, few, rng):
                    found, _ = _alone(own, seen, problem, settings, rng, few)
                    if found.verdict is Verdict.FAIL and not is_nothing(found, gradient):
                        finding = found
                        break
        findings.append(finding)
        if kink is not None:
            kinked[question.leaf.path] = kink
    return unless_another_jumps(findings), kinked


def _joint(
    answers: Answers, questions: Sequence[Question], count: int, rng: np.random.Generator
) -> tuple[Probe, ...]:
    """Probes that move all leaves at once, each by its own size; as many as it takes to `count`."""
    live = [question for question in questions if 0 not in question.leaf.shape]
    probes: list[Probe] = []
    for first in range(0, count, COTANGENTS):
        draws = range(count)[first : first + COTANGENTS]
        lines = _lines(answers, draws, _steps(answers.problem, live, rng))
        finite = [q for q in live if np.isfinite(lines[0].claims[q.index].extent)]
        if not finite:
            return ()
        if len(finite) < len(live):
            live = finite
            lines = _lines(answers, draws, {q.index: lines[0].v[q.index] for q in live})
        epsilon = max(epsilon_of(answers, q.index) for q in live)
        for line in lines:
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


def _steps(
    problem: Problem, questions: Sequence[Question], rng: np.random.Generator
) -> Mapping[int, Array]:
    """A direction of each leaf in question, as large as the leaf."""
    steps = {}
    for q in questions:
        size = scale(problem.point[q.index])
        is_held_short = problem.is_large and SHORTEST < size < 1 / SHORTEST
        steps[q.index] = direction(rng, problem.leaves[q.index], size, is_held_short=is_held_short)
    return steps


def _lines(answers: Answers, draws: Sequence[int], v: Mapping[int, Array]) -> list[Line]:
    """The line along `v` through some cotangents, with what is claimed along it.

    The gradients of the first are kept: those of a large problem are asked for last.
    """
    lines = [line_of(answers, k, v, keeps=False) for k in draws]
    for line in reversed(lines):
        line.claims  # noqa: B018 - asks for them
    return side_by_side(lines)


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
        return _not_finite(question, answers, problem, settings, rng), None
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
    probes = [confirmed(probe) for probe in finer(probes)]
    if any(probe.truth.kink > 0 for probe in probes) and leaf.shape and only is None:
        # What is too large at every kink shows along itself, and rarely along random signs.
        probes.append(aligned(answers, index, direction(rng, leaf)))
    coarse = min(probe.resolution for probe in probes) > question.tolerance
    if coarse and leaf.shape and only is None:
        probes += map(confirmed, finer([aligned(answers, index, direction(rng, leaf))]))
    if coarse or any(probe.is_significant for probe in probes):
        clear = not coarse and all(map(is_clear, probes))
        probes = [unrested(probe, rng) for probe in probes]
        oscillates = False
        if not clear:
            noisy = equally_noisy([measured(probe) for probe in probes])
            probes = [confirmed(probe) for probe in noisy]
            oscillates = any(a is not b for a, b in zip(noisy, probes, strict=True))
        probes = [
            folded(probe) if probe.is_outside(question.tolerance) else probe for probe in probes
        ]
        ripple = 0.0 if oscillates else max(probe.truth.ripple for probe in probes)
        if ripple >= min(RIPPLE.values()):  # seen along one line, it is along all
            probes = [confirmed(rippled(probe, ripple)) for probe in probes]
        if not clear or len(by_size(answers.problem.point[index])) == 1:
            # Else the finest steps are no small ones to some entries, which are moved apart.
            probes = [leaping(probe) for probe in probes]
        coarsest = narrowest(leaf, problem.outputs)
        question = replace(question, tolerance=settings.tolerance(coarsest.digits, ripple))
    kink = None
    if any(probe.truth.kink > 0 for probe in probes):
        outside = any(probe.is_outside(question.tolerance) for probe in probes)
        kink = Kink.OUTSIDE if outside else Kink.INSIDE
    finding = judge(question, probes, rng)
    if finding.reason is Reason.CONTRADICTING:
        kink = Kink.OUTSIDE
    return finding, kink


def _by_size(
    question: Question,
    finding: Finding,
    answers: Answers,
    problem: Problem,
    settings: Settings,
    rng: np.random.Generator,
) -> Finding:
    """The finding of a leaf whose entries differ so much in size that no step suits all of them.

    Those of each order of size are moved without the others: if all are right, so is the leaf.
    """
    masks = by_size(answers.problem.point[question.index])
    if len(masks) == 1 or not np.all(np.isfinite(answers.gradients(0)[question.index])):
        return finding
    found = []
    for mask in masks:
        seen = through_what_moves(question, answers, mask, rng)
        found.append(_alone(question, seen, problem, settings, rng, mask)[0])
        if found[-1].verdict is not Verdict.PASS or found[-1].reason is Reason.VACUOUS:
            return finding
    coarsest = max(found, key=lambda each: each.resolution)
    power = tuple(power for power in coarsest.power if np.isfinite(power.smallest))
    return replace(coarsest, message=BY_SIZE, power=power)


BY_SIZE = "its entries differ so much in size that each order of it was moved without the others"


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


def _apart(
    question: Question,
    finding: Finding,
    answers: Answers,
    problem: Problem,
    settings: Settings,
    rng: np.random.Generator,
) -> Finding:
    """The finding of a leaf that a few of its entries leave open: these and the others apart.

    Of the few the gradient is another an ulp away, as at the border of a branch; or they are zero,
    where the value may bend as it does nowhere else.
    """
    gradient, x = answers.gradients(0)[question.index], answers.problem.point[question.index]
    unrest = unrest_of(answers.problem, question.index, answers.cotangents(0), gradient, rng)
    sizes = np.maximum(np.abs(gradient), norm(gradient) / max(gradient.size, 1) ** 0.5)
    for which, few in ((RESTLESS, unrest > question.tolerance * sizes), (ZERO, x == 0)):
        count = np.count_nonzero(few)
        if not 0 < count <= few.size / 2:
            continue
        found, _ = _alone(question, answers, problem, settings, rng, ~few)
        if found.verdict is not Verdict.PASS or found.reason is Reason.VACUOUS:
            if found.verdict is Verdict.FAIL:
                return found
            continue
        said = f"{count} of {few.size} entries {which}; the gradient of the others is right"
        if which is ZERO:
            left, kink = _alone(question, answers, problem, settings, rng, few)
            if left.verdict is Verdict.FAIL:
                return left
            if left.verdict is Verdict.PASS and kink is None:
                return replace(found, message=f"{count} zeros were moved without the others")
        return replace(finding, message=f"{finding.message} ({said})")
    return finding


RESTLESS, ZERO = "have another gradient an ulp away", "are zero"


def _not_finite(
    question: Question,
    answers: Answers,
    problem: Problem,
    settings: Settings,
    rng: np.random.Generator,
) -> Finding:
    gradients = [answers.gradients(k)[question.index] for k in range(settings.probes)]
    finite, unknown = np.all(np.isfinite(gradients), axis=0), np.full_like(gradients[0], np.nan)
    found = entries_of(~finite, gradients[0], unknown, np.real(unknown))
    if all(_is_steep(entry, question.index, answers) for entry in found):
        return _beside_steep(question, answers, problem, settings, rng, finite)
    read = [_read(entry, question.index, answers) for entry in found[:READ]]
    ends = NEAR_ITS_END * np.finfo(gradients[0].dtype).max
    if not any(abs(entry.wanted) < ends for entry in read) and any(
        np.any(np.abs(g[np.isfinite(g)]) > ends) for g in gradients
    ):
        return question.answer(Verdict.INCONCLUSIVE, OVERFLOWS)
    found = (*read, *found[READ:])
    finding = question.answer(
        Verdict.FAIL, ADVICE["not finite"], entries=found, diagnosis="not finite"
    )
    return replace(finding, mismatch=float("inf"))


# What part of the largest number of a dtype is so large that the gradient overflows with it.
NEAR_ITS_END = 2.0**-20
OVERFLOWS = (
    "the gradient is as large as its dtype ends, and overflows: scale it down, or leave the leaf "
    "out (wrt=) if it stands for a choice, as a mask does"
)

READ, SURE = 3, 1e-3  # entries that are not finite of which is said what they should be; how sure


def _beside_steep(
    question: Question,
    answers: Answers,
    problem: Problem,
    settings: Settings,
    rng: np.random.Generator,
    finite: Array,
) -> Finding:
    """The finding of the entries of a leaf whose gradient is `finite`, beside infinite slopes."""
    message = "the slope is infinite at this point, and so is the gradient: move the point"
    steep = question.answer(Verdict.INCONCLUSIVE, message)
    if not np.any(finite):
        return steep
    held = answers.to(answers.cotangents)
    for k in range(settings.probes):
        held.found[k] = tuple(np.where(np.isfinite(g), g, 0) for g in answers.gradients(k))
    found, _ = _alone(question, held, problem, settings, rng, finite)
    if found.verdict is Verdict.FAIL:
        return replace(found, message=f"beside entries of infinite slope: {found.message}")
    right = "; the gradient of the others is right" if found.verdict is Verdict.PASS else ""
    return replace(steep, message=message + right)


# Where a root or a logarithm begins, the quotients grow by as much, or more, at every step that is
# this much shorter; elsewhere by ever less.
SHORTER, AS_MUCH = (2.0**-10, 2.0**-20, 2.0**-30), 0.8


def _is_steep(entry: Entry, index: int, answers: Answers) -> bool:
    """Whether the value rises infinitely fast to one side, as is claimed: the root of zero."""
    if not np.isinf(entry.got):
        return False
    line = _along(entry, index, answers)
    for side in (1.0, -1.0):
        rises = [line.change(side * h * line.unit) / (side * h) for h in SHORTER]
        towards = [rise * np.sign(entry.got) for rise in rises]
        growth = np.diff(towards)
        if towards[-1] > 0 and growth[0] > 0 and growth[1] > AS_MUCH * growth[0]:
            return True
    return False


def _along(entry: Entry, index: int, answers: Answers) -> Line:
    """The line along one entry of which nothing is claimed."""
    x = answers.problem.point[index]
    v = np.zeros_like(x)
    v[entry.index] = 1.0
    unclaimed = tuple(np.zeros_like(gradient) for gradient in answers.gradients(0))
    return replace(line_of(answers, 0, {index: v}, scale(x)), asked=known(unclaimed))


def _read(entry: Entry, index: int, answers: Answers) -> Entry:
    """The entry with what it should be, where differences tell."""
    if np.iscomplexobj(answers.problem.point[index]):
        return entry
    truth = ladder.estimate(_along(entry, index, answers))
    if truth.kink or truth.jump or not truth.error_bar <= SURE * abs(truth.slope):
        return entry
    return replace(entry, wanted=truth.slope, error_bar=truth.error_bar)
