"""Is the VJP the derivative of the value? Asked along random directions of all leaves.

Detect by significance, judge by size: a mismatch of more than ten error bars is real, however
small; it is located, and the leaf fails when what is wrong is off by more than the tolerance of
its own size.

One direction that moves all leaves settles most checks; a leaf about which it says too little, or
any in case of doubt, is asked alone. What is asked is the target in float64 where it can be run in
it; its gradient in its own dtype is then compared with that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.doubts import climbed, equally_noisy, folded, measured, rippled, unrested
from gradcheck.checks.entrywise import narrowest
from gradcheck.checks.judgement import judge
from gradcheck.checks.question import Question
from gradcheck.diagnose import ADVICE
from gradcheck.errors import maybe_out_of_domain
from gradcheck.evidence import Probe, entries_of
from gradcheck.oracles import ladder
from gradcheck.probes import Beside, Line, direction, nudged, relative, scale
from gradcheck.problem import EPSILON, Array, Problem, blocks, is_same, is_same_entrywise, norm
from gradcheck.results import Finding, Verdict, worst
from gradcheck.rounding import rounded
from gradcheck.settings import RIPPLE, SIGNIFICANCE, Settings

__all__ = ["check_vjp"]


# A direction is enough when an error of the size of the tolerance hides from it with a probability
# of 1e-3, its resolution over the tolerance: one of a percent, in float64, with 1e-7. It is looked
# at through two cotangents, as a rule may keep the first that it was given.
HIDING, COTANGENTS = 1e-3, 2


NARROW = 2.0**-10  # the part of a leaf's usual size below which an entry wants steps of its own


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
    problem = answers.problem
    questions = [
        Question(
            index=k,
            leaf=leaf,
            tolerance=settings.tolerance(leaf.digits),
            oracle=f"finite differences, {leaf.dtype}",
        )
        for k, leaf in enumerate(problem.leaves)
        if settings.wants(leaf.path)
    ]
    if not all(np.all(np.isfinite(output)) for output in answers.value):
        message = "the value at this point is not finite: there is no derivative to check"
        return tuple(q.answer(Verdict.INCONCLUSIVE, message) for q in questions), {}
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
        if finding.verdict is Verdict.PASS and settings.probes > 1:  # one is a first look
            for few in _hidden(answers.gradients(0)[question.index]):
                seen = _through_what_moves(own, answers, few, rng)
                if _glance(own, seen, few, rng):
                    closer, _ = _alone(own, seen, problem, settings, rng, few)
                    finding = closer if closer.verdict is Verdict.FAIL else finding
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
        v = np.where(differs, relative(direction(rng, leaf), narrow.problem.point[index]), 0)
        own = _along(narrow, k, index, v, careful=True)
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
    epsilon = max(_epsilon(answers, q.index) for q in live)
    probes: list[Probe] = []
    for first in range(0, count, COTANGENTS):
        draws = range(count)[first : first + COTANGENTS]
        for k in draws:  # before anything else of that size is made
            answers.gradients(k)
        v = {q.index: direction(rng, leaves[q.index], scale(point[q.index])) for q in live}
        beside = Beside()
        beside.lines = [replace(_line(answers, k, v), beside=beside) for k in draws]
        for line in beside.lines:
            truth = ladder.estimate(line)
            probes.append(Probe(index=live[0].index, epsilon=epsilon, line=line, truth=truth))
            if probes[-1].is_significant or not probes[-1].is_smooth:
                return tuple(probes)
        probes[first:] = _closer(probes[first:])
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
    if best.resolution > question.tolerance:
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
        v = direction(rng, leaf)
        if only is not None:
            v = np.where(only, relative(v, answers.problem.point[index]), 0)
        probes.append(_probe(answers, k, index, v, question.tolerance))
    probes = [_finer(closer) for probe in probes for closer in _closer([probe])]
    if any(probe.truth.kink > 0 for probe in probes) and leaf.shape and only is None:
        # What is too large at every kink shows along itself, and rarely along random signs.
        probes.append(_aligned(answers, index, direction(rng, leaf)))
    coarse = min(probe.resolution for probe in probes) > question.tolerance
    if coarse and leaf.shape and only is None:
        probes.append(_finer(_aligned(answers, index, direction(rng, leaf))))
    if coarse or any(probe.is_significant for probe in probes):
        clear = not coarse and all(climbed(probe).is_clear for probe in probes)
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


def _line(answers: Answers, k: int, v: Mapping[int, Array], unit: float = 1.0) -> Line:
    """The line along `v` seen through the k-th cotangent."""
    us = answers.cotangents(k)
    spread = zip(us, answers.value, answers.again, strict=True)
    return Line(
        problem=answers.problem,
        v=v,
        u=us,
        gradients=answers.gradients(k),
        centre=answers.value,
        unit=unit,
        floor=sum(norm(u * (a - b)) for u, a, b in spread),
    )


def _epsilon(answers: Answers, index: int) -> float:
    """Of the narrowest dtype that the gradient of a leaf passes through: it has no more digits."""
    return narrowest(answers.problem.leaves[index], answers.problem.outputs).epsilon


def _along(answers: Answers, k: int, index: int, v: Array, *, careful: bool = False) -> Probe:
    """What the k-th cotangent sees along a direction of one leaf, at steps of the leaf's size."""
    line = _line(answers, k, {index: v}, scale(answers.problem.point[index]))
    truth = ladder.estimate(line, careful=careful)
    return Probe(index=index, epsilon=_epsilon(answers, index), line=line, truth=truth)


def _probe(answers: Answers, k: int, index: int, v: Array, tolerance: float) -> Probe:
    """What is true along `v`; or along a direction that moves each entry by a part of its size."""
    probe = _along(answers, k, index, v)
    if probe.resolution <= tolerance or probe.truth.kink or probe.truth.jump:
        return probe
    other = _along(answers, k, index, relative(v, answers.problem.point[index]))
    return min(probe, other, key=lambda p: p.resolution)


# Below this part of the usual size of a gradient an entry may be wrong by all of itself and not be
# seen among the others; so many of the entries must be for another look.
SMALL, MANY = 1e-5, 1e-2

LEVELS = 4  # from 1e8 to 1e-8 it is three


def _hidden(gradient: Array) -> Iterator[Array]:
    """Which entries are so small that the others hide them, if it is not by chance; and of those.

    So do, among them, the larger ones hide the smaller.
    """
    whole, count = norm(gradient), gradient.size
    for _ in range(LEVELS):
        small = np.zeros(gradient.shape, bool)
        limit = SMALL * whole / max(count, 1) ** 0.5
        for found, part in blocks(small, gradient):
            np.less(np.abs(part), limit, out=found, where=part != 0)
        fewer = int(np.count_nonzero(small))
        if not fewer or fewer < MANY * gradient.size:
            return
        yield small
        whole, count = norm(gradient[small]), fewer


def _through_what_moves(
    question: Question, answers: Answers, few: Array, rng: np.random.Generator
) -> Answers:
    """The answers for cotangents of those outputs that are seen to move with `few` entries.

    Of the others, which may be larger by any factor, rounding may hide as much of the slope.
    """
    index, x = question.index, answers.problem.point[question.index]
    v = np.where(few, relative(direction(rng, question.leaf), x), 0)
    there = _line(answers, 0, {index: v}, scale(x)).at(MOVED * scale(x))
    moves = [a != f for a, f in zip(there, answers.value, strict=True)]
    return answers.to(
        lambda k: tuple(
            np.where(m, u, 0).astype(u.dtype)
            for m, u in zip(moves, answers.cotangents(k), strict=True)
        )
    )


MOVED = 2.0**-7  # a step of the first rung: a value that stands still there is rounded


def _glance(question: Question, answers: Answers, few: Array, rng: np.random.Generator) -> bool:
    """Whether `few` entries, moved together, show that something is wrong."""
    index, x = question.index, answers.problem.point[question.index]
    v = np.where(few, relative(direction(rng, question.leaf), x), 0)
    return _along(answers, 0, index, v).is_significant


# A step far below those of the ladder, and how much closer that then begins. A smaller part of the
# slope is left to curvature, and to the noise of an evaluation that nobody has measured.
CLOSE, CLOSER, SEEN = 2.0**-20, 2.0**-10, 1e-4


def _closer(probes: Sequence[Probe]) -> list[Probe]:
    """The probes, of one direction, at much finer steps where one of those contradicts them.

    The ladder walks down no farther than it must. Of a value that is flat within a thousandth of
    the leaf's size, and straight beyond (a dead zone, the gate of a quantiser), its steps see what
    lies beyond.
    """
    line = probes[0].line
    if any(line.problem.leaves[k].epsilon > EPSILON["float64"] for k in line.v):
        return list(probes)
    if not all(p.is_smooth and p.truth.steps and not p.is_significant for p in probes):
        return list(probes)
    h = CLOSE * line.unit
    close = line.at(h)
    return [_contradicted(probe, probe.line.rise(close, line.centre) / h, h) for probe in probes]


def _contradicted(probe: Probe, slope: float, h: float) -> Probe:
    """The probe, or one at finer steps if the `slope` at step `h` contradicts it, and they do."""
    line, truth = probe.line, probe.truth
    reached = min(step.h for step in truth.steps)
    # What jumps somewhere is noise to a ladder that steps over it, and none to a small step.
    level = truth.level if truth.level <= line.ulp or ladder.is_staircase(line) else line.ulp
    bar = truth.error_bar * max(reached / h, 1.0) + (level + line.ulp) / h
    if not abs(slope - truth.slope) > max(SIGNIFICANCE * bar, SEEN * line.size):
        return probe
    near = replace(line, unit=CLOSER * line.unit, beside=None)
    other = replace(probe, line=near, truth=ladder.estimate(near, careful=True))
    return other if other.is_significant and other.is_smooth else probe


def _finer(probe: Probe) -> Probe:
    """The same probe at steps that suit the smallest entry, unless they say the same.

    Steps of the leaf's usual size may lead over a pole of a small entry again and again, and then
    seem to converge to what lies beyond.
    """
    if not probe.is_significant:
        return probe
    line = probe.line
    sizes = np.abs(line.problem.point[probe.index])
    smallest = float(np.min(sizes, initial=line.unit, where=sizes > 0))
    if smallest >= NARROW * line.unit:
        return probe
    finer = replace(line, unit=float(scale(np.asarray(smallest))))
    other = replace(probe, line=finer, truth=ladder.estimate(finer))
    apart = abs(other.truth.slope - probe.truth.slope)
    contradicts = apart > SIGNIFICANCE * (other.truth.error_bar + probe.truth.error_bar)
    return other if contradicts and not other.is_significant else probe


def _aligned(answers: Answers, index: int, v: Array) -> Probe:
    """A probe along the claimed gradient: its signs, and magnitudes as in any direction."""
    gradient = answers.gradients(0)[index]
    sizes = np.abs(gradient)
    phases = np.divide(gradient, sizes, out=np.ones_like(gradient), where=sizes > 0)
    return replace(_along(answers, 0, index, np.abs(v) * phases), is_aligned=True)


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
