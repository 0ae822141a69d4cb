"""Is the VJP the derivative of the value? Asked along random directions of all leaves.

Detect by significance, judge by size: a mismatch of more than ten error bars is real, however
small; it is located, and the leaf fails when what is wrong is off by more than the tolerance of
its own size.

One direction that moves all leaves settles most checks; a leaf about which it says too little, or
any in case of doubt, is asked alone. What is asked is the target in float64 where it can be run in
it; its gradient in its own dtype is then compared with that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradcheck.diagnose import ADVICE, Evidence, Scene, diagnose
from gradcheck.evidence import Probe, finest, telling
from gradcheck.locate import Location, locate
from gradcheck.oracles import complex_step, ladder, path
from gradcheck.oracles.ladder import FLOATING
from gradcheck.power import prove
from gradcheck.probes import Beside, Line, cotangent, direction, disturbed, nudged, relative, scale
from gradcheck.problem import EPSILON, Array, Arrays, Leaf, Problem, in_float64, is_same, norm
from gradcheck.results import Entry, Finding, Verdict, worst
from gradcheck.rounding import rounded
from gradcheck.settings import RIPPLE, SIGNIFICANCE, Settings

__all__ = ["check_vjp"]

DISTURBED = 3  # points an ulp away, at which a suspected gradient's own rounding is measured

# Ulps of the value over the leaf's size that a gradient's own rounding may be. A tanh that
# saturates is at 16 times its scale in float64, where 1 - y² is off by an ulp of one; a softmax
# is a dozen roundings. In a narrow dtype sixteen ulps would hide a tenth of the gradient.
REUSE, REUSE_NARROW = 16.0, 2.0

# Other directions along which a mismatch that no entry explains must show once more. One that is
# wrong as a whole, as when both of two tied maxima get the cotangent, shows in half of them.
AGAIN = 3

# A direction is enough when an error of the size of the tolerance hides from it with a probability
# of 1e-3, its resolution over the tolerance: one of a percent, in float64, with 1e-7. It is looked
# at through two cotangents, as a rule may keep the first that it was given.
HIDING, COTANGENTS = 1e-3, 2

# How far a path goes, in units of the leaf's size. The longer ones are for leaves that are small
# beside the scale on which the value changes (1 - cos x at 1e-8), and for noise below the rounding
# of numbers like one: from far away the steps of a quantiser are a straight line, which it is not.
REACHES = (1.0, 2.0**-3, 2.0**8, 2.0**16, 2.0**24)
SHORTER = (1 / 2, 1 / 4)  # parts of a path along which a mismatch must stay to be an error

FLAT = 2.0**-30  # of the leaf's size: the finest step of the ladder

SIGNS = np.array([-1.0, 1.0])

OUTPUTS = 8  # up to here each output's cotangent is asked about alone

SHOWN = 8  # wrong entries in a finding: what a reader looks at; the message says how many more


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One leaf under check, and the form of the answer."""

    index: int
    leaf: Leaf
    tolerance: float
    oracle: str

    def answer(
        self,
        verdict: Verdict,
        message: str,
        probes: Sequence[Probe] = (),
        *,
        entries: tuple[Entry, ...] = (),
        diagnosis: str | None = None,
    ) -> Finding:
        most = telling(probes)
        shown = most if verdict is Verdict.FAIL else finest(probes)
        return Finding(
            check="vjp",
            leaf=self.leaf.path,
            verdict=verdict,
            mismatch=shown.mismatch if shown else 0.0,
            resolution=shown.resolution if shown else 0.0,
            tolerance=self.tolerance,
            oracle=self.oracle,
            message=message,
            entries=entries,
            diagnosis=diagnosis,
            steps=most.truth.steps if most else (),
        )

    def passed(self, message: str, probes: Sequence[Probe]) -> Finding:
        """A pass, with the power that it was proved to have."""
        finding = self.answer(Verdict.PASS, message, probes)
        seeing = [probe for probe in probes if not probe.is_vacuous]
        return replace(finding, power=prove(seeing, self.tolerance)) if seeing else finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The problem as it is differenced, and what is known of it at its point."""

    problem: Problem  # in float64 where the target runs in it
    centre: Arrays
    again: Arrays  # the value once more
    draws: tuple[Arrays, ...]  # cotangents
    found: dict[int, Arrays] = field(default_factory=dict)  # the gradients that were asked for

    def gradients(self, k: int) -> Arrays:
        """The gradients of all leaves for the k-th cotangent."""
        if k not in self.found:
            self.found[k] = self.problem.vjp(self.problem.point, self.draws[k])
        return self.found[k]

    def line(self, k: int, v: Mapping[int, Array], unit: float = 1.0) -> Line:
        """The line along `v` seen through the k-th cotangent."""
        floor = sum(
            norm(u * (a - b))
            for u, a, b in zip(self.draws[k], self.centre, self.again, strict=True)
        )
        return Line(
            problem=self.problem,
            v=v,
            u=self.draws[k],
            gradients=self.gradients(k),
            centre=self.centre,
            unit=unit,
            floor=floor,
        )

    def epsilon(self, index: int) -> float:
        """Of the narrowest dtype that the gradient passes through: it has no more digits."""
        return _coarsest(self.problem.leaves[index], self.problem.outputs).epsilon


def check_vjp(
    problem: Problem, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf of `problem` that `settings` ask for.

    Raises whatever the target raises.
    """
    findings, kinked = _at_point(problem, settings, rng)
    if kinked:
        moved = replace(problem, point=nudged(rng, problem.leaves, problem.point))
        beside, _ = _at_point(moved, settings, rng)
        findings = tuple(
            _joined(here, there, here.leaf in kinked)
            for here, there in zip(findings, beside, strict=True)
        )
    return tuple(_strong_enough(finding, settings.min_power) for finding in findings)


def _at_point(
    problem: Problem, settings: Settings, rng: np.random.Generator
) -> tuple[tuple[Finding, ...], frozenset[str]]:
    """The findings at the problem's point, and the leaves along which it lies on a kink."""
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
    centre = problem.value(problem.point)
    if not all(np.all(np.isfinite(output)) for output in centre):
        message = "the value at this point is not finite: there is no derivative to check"
        return tuple(q.answer(Verdict.INCONCLUSIVE, message) for q in questions), frozenset()
    draws = tuple(cotangent(rng, problem.outputs) for _ in range(settings.probes))
    narrow = _case(problem, centre, draws)
    if (wide := in_float64(problem)) is None:
        return _examined(questions, narrow, problem, settings, rng)
    # Differences are taken in float64 where the target can be run in it: without noise, almost.
    formula = _case(*wide, draws)
    if is_same(problem, centre, formula.centre):
        findings, kinked = _examined(questions, formula, problem, settings, rng)
        pairs = zip(questions, findings, strict=True)
        return tuple(_narrowed(q, finding, narrow, formula, rng) for q, finding in pairs), kinked
    findings, kinked = _examined(questions, narrow, problem, settings, rng)
    if any(finding.verdict is not Verdict.PASS for finding in findings):
        others, _ = _examined(questions, formula, problem, settings, rng)
        findings = tuple(
            _second_opinion(q, finding, other, narrow, formula, rng)
            for q, finding, other in zip(questions, findings, others, strict=True)
        )
    return findings, kinked


def _case(problem: Problem, centre: Arrays, draws: tuple[Arrays, ...]) -> Case:
    return Case(
        problem=problem,
        centre=centre,
        again=problem.value(problem.point),
        draws=draws,
    )


def _examined(
    questions: Sequence[Question],
    case: Case,
    problem: Problem,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[tuple[Finding, ...], frozenset[str]]:
    """The findings about a case, and the leaves along which its point lies on a kink."""
    findings, kinked = [], set()
    joint = _joint(case, questions, rng)
    for question in questions:
        leaf = case.problem.leaves[question.index]
        own = replace(question, oracle=f"finite differences, {leaf.dtype}")
        finding, is_kink = _settled(own, joint) or _alone(own, case, problem, settings, rng)
        findings.append(finding)
        kinked |= {question.leaf.path} if is_kink else set()
    return tuple(findings), frozenset(kinked)


def _narrowed(
    question: Question, finding: Finding, narrow: Case, formula: Case, rng: np.random.Generator
) -> Finding:
    """What was found in float64, or a failure if the narrow gradient is not that, rounded."""
    if finding.verdict is not Verdict.PASS or 0 in question.leaf.shape:
        return finding
    asked = sorted(formula.found)
    claims, truths = ([c.gradients(k)[question.index] for k in asked] for c in (narrow, formula))
    draws = [narrow.draws[k] for k in asked]
    return rounded(finding, narrow.problem, question.index, draws, claims, truths, rng)


def _second_opinion(
    question: Question,
    here: Finding,
    wide: Finding,
    narrow: Case,
    formula: Case,
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
    case: Case, questions: Sequence[Question], rng: np.random.Generator
) -> tuple[Probe, ...]:
    """Probes that move all leaves at once, each by its own size; as many as it takes."""
    live = [
        question
        for question in questions
        if 0 not in question.leaf.shape and np.all(np.isfinite(case.gradients(0)[question.index]))
    ]
    if not live:
        return ()
    leaves, point = case.problem.leaves, case.problem.point
    epsilon = max(case.epsilon(q.index) for q in live)
    probes: list[Probe] = []
    for first in range(0, len(case.draws), COTANGENTS):
        draws = range(len(case.draws))[first : first + COTANGENTS]
        v = {q.index: direction(rng, leaves[q.index]) * scale(point[q.index]) for q in live}
        beside = Beside()
        beside.lines = [replace(case.line(k, v), beside=beside) for k in draws]
        for line in beside.lines:
            truth = ladder.estimate(line)
            probes.append(Probe(index=live[0].index, epsilon=epsilon, line=line, truth=truth))
            if probes[-1].is_significant or not probes[-1].is_smooth:
                return tuple(probes)
        if all(
            min(replace(p, index=q.index).resolution for p in probes) <= HIDING * q.tolerance
            for q in live
        ):
            break
    return tuple(probes)


def _settled(question: Question, joint: Sequence[Probe]) -> tuple[Finding, bool] | None:
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
    return question.passed("", views), False


def _alone(
    question: Question, case: Case, problem: Problem, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, bool]:
    """The finding of one leaf, moved alone, and whether the point lies on a kink along it."""
    index, leaf = question.index, question.leaf
    own = [case.gradients(k)[index] for k in range(len(case.draws))]
    if 0 in leaf.shape:
        return question.answer(Verdict.PASS, "the leaf is empty"), False
    if not all(np.all(np.isfinite(gradient)) for gradient in own):
        return _not_finite(question, own), False
    probes = [
        _probe(case, k, index, direction(rng, leaf), question.tolerance)
        for k in range(len(case.draws))
    ]
    coarse = min(probe.resolution for probe in probes) > question.tolerance
    if coarse and leaf.shape:
        probes.append(_aligned(case, index, direction(rng, leaf)))
    if coarse or any(probe.is_significant for probe in probes):
        clear = not coarse and all(probe.is_clear for probe in probes)
        probes = [_unrested(probe, rng) for probe in probes]
        if not clear:
            probes = _equally_noisy([_measured(probe) for probe in probes])
        probes = [
            _folded(probe) if probe.is_outside(question.tolerance) else probe for probe in probes
        ]
        ripple = max(probe.truth.ripple for probe in probes)
        if ripple >= min(RIPPLE.values()):  # seen along one line, it is along all
            probes = [_rippled(probe, ripple) for probe in probes]
        coarsest = _coarsest(leaf, problem.outputs)
        question = replace(question, tolerance=settings.tolerance(coarsest.digits, ripple))
    outside = any(probe.is_outside(question.tolerance) for probe in probes)
    is_kink = any(probe.truth.kink > 0 for probe in probes) and not outside
    return _judge(question, probes, rng), is_kink


def _coarsest(leaf: Leaf, outputs: Sequence[Leaf]) -> Leaf:
    """The leaf or output of the narrowest dtype: the gradient has no more digits than that."""
    return max((leaf, *outputs), key=lambda array: array.epsilon)


def _probe(case: Case, k: int, index: int, v: Array, tolerance: float) -> Probe:
    """What is true along `v`; or along a direction that moves each entry by a part of its size."""
    x = case.problem.point[index]
    line = case.line(k, {index: v}, scale(x))
    probe = Probe(index=index, epsilon=case.epsilon(index), line=line, truth=ladder.estimate(line))
    if probe.resolution <= tolerance or probe.truth.kink or probe.truth.jump:
        return probe
    scaled = replace(line, v={index: relative(v, x)})
    other = replace(probe, line=scaled, truth=ladder.estimate(scaled))
    return min(probe, other, key=lambda p: p.resolution)


def _aligned(case: Case, index: int, v: Array) -> Probe:
    """A probe along the claimed gradient: its signs, and magnitudes as in any direction."""
    x, gradient = case.problem.point[index], case.gradients(0)[index]
    sizes = np.abs(gradient)
    phases = np.divide(gradient, sizes, out=np.ones_like(gradient), where=sizes > 0)
    line = case.line(0, {index: np.abs(v) * phases}, scale(x))
    truth = ladder.estimate(line)
    epsilon = case.epsilon(index)
    return Probe(index=index, epsilon=epsilon, line=line, truth=truth, is_aligned=True)


def _judge(question: Question, probes: Sequence[Probe], rng: np.random.Generator) -> Finding:
    """One leaf's finding from all its probes."""
    if any(probe.truth.jump for probe in probes):
        message = (
            "the value jumps at this point, so it has no derivative here: "
            "move the point, or declare the leaf with the reason"
        )
        return question.answer(Verdict.INCONCLUSIVE, message, probes)
    most = max(probes, key=lambda probe: probe.bars_off)
    best = finest(probes)
    open_ = best is not None and best.resolution > question.tolerance
    if (most.is_significant or open_) and (stairs := _stairs(question, probes)):
        return stairs
    if most.is_significant:
        return _located(question, probes, most, rng)
    if any(probe.is_outside(question.tolerance) for probe in probes):
        message = "the point lies on a kink, and the gradient is none of its subgradients: move it"
        return question.answer(Verdict.INCONCLUSIVE, message, probes)
    if best is None:
        message = "vacuous: no output depends on this leaf at this point; its gradient is zero"
        return question.answer(Verdict.PASS, message, probes)
    if best.resolution > question.tolerance:
        return (
            _by_complex_step(question, probes)
            or _by_path(question, probes)
            or question.answer(Verdict.INCONCLUSIVE, _remedy(best), probes)
        )
    if any(probe.truth.kink > 0 for probe in probes):
        return question.passed(
            "the point lies on a kink; the gradient is one of its subgradients", probes
        )
    return question.passed("", probes)


def _stairs(question: Question, probes: Sequence[Probe]) -> Finding | None:
    """The finding of a leaf with a gradient of zero whose value steps but is flat at the point.

    Zero is the derivative of a rounding function. Steps as fine as those of a narrow floating
    point format may also be the rounding of something that has a slope.
    """
    if any(probe.line.size for probe in probes):
        return None
    if any(probe.line.sample(probe.line.unit * FLAT).moving for probe in probes):
        return None
    height = max(p.truth.level / p.truth.weight if p.truth.weight else 0.0 for p in probes)
    if height > FLOATING:
        message = "the value is a staircase and flat at this point: its derivative is zero"
        return question.answer(Verdict.PASS, message)
    if height > RIPPLE["float16"]:
        message = (
            "the value is a staircase and flat at this point, so that zero is its derivative; if "
            "the steps are the rounding of a narrow dtype inside, the gradient is missing"
        )
        return question.answer(Verdict.INCONCLUSIVE, message)
    return None


def _by_complex_step(question: Question, probes: Sequence[Probe]) -> Finding | None:
    """A pass, where complex steps resolve what differences leave open, and confirm the claim."""
    if any(probe.truth.kink for probe in probes):
        return None
    sharp = []
    for probe in probes:
        truth = complex_step.sharpened(probe.line, probe.truth)
        if truth is None:
            return None
        sharp.append(replace(probe, truth=truth))
    best = finest(sharp)
    if best is None or best.resolution > question.tolerance:
        return None
    if any(probe.is_significant for probe in sharp):
        return None
    return replace(question, oracle="complex step").passed("", sharp)


def _by_path(question: Question, probes: Sequence[Probe]) -> Finding | None:
    """What a path integral makes of a leaf that differences leave open; None if no more.

    A pass needs one length that resolves the tolerance, a failure three that agree: a value that
    jumps somewhere on the way is no error of the gradient.
    """
    best = finest(probes)
    assert best is not None
    if max(probe.truth.ripple for probe in probes) > FLOATING:
        return None
    small = all(p.truth.cancels and p.truth.level <= p.line.ulp for p in probes)
    for reach in REACHES if small else REACHES[:2]:
        found = [seen for p in probes if (seen := _along(p, reach, question.tolerance))]
        if not found:
            continue
        sharp = min(probe.resolution for probe in found)
        if sharp > question.tolerance:
            continue
        own = replace(question, oracle="path integral")
        if not any(probe.is_significant and probe.mismatch > own.tolerance for probe in found):
            message = (
                f"at the point, noise hides any error below {best.resolution:.0e}; right along a "
                f"segment of {reach:.0e} times the leaf's size"
            )
            return own.passed(message, found)
        most = max(found, key=lambda probe: probe.bars_off)
        if _stays(most, own.tolerance):
            message = "the values rise otherwise than the integral of the gradient says"
            pattern = diagnose([_evidence(probe) for probe in found], ())
            if pattern is not None:
                message += "; " + ADVICE[pattern.split(":")[0]]
            return own.answer(Verdict.FAIL, message, found, diagnosis=pattern)
    return None


def _along(probe: Probe, reach: float, tolerance: float) -> Probe | None:
    """The same probe, asked along a segment; None where that does not resolve the tolerance."""
    goal = tolerance / SIGNIFICANCE
    mean = path.integrate(probe.line, reach, goal=goal, level=probe.truth.level)
    if mean is None or not mean.size:
        return None
    truth = replace(probe.truth, slope=mean.slope, error_bar=mean.error_bar, kink=0.0)
    return replace(probe, truth=truth, mean=mean)


def _stays(found: Probe, tolerance: float) -> bool:
    """Whether shorter segments show the mismatch that was `found`, in sign and size."""
    assert found.mean is not None
    first = found.claimed - found.truth.slope
    for part in SHORTER:
        other = _along(found, part * found.mean.reach, tolerance)
        if other is None or not other.is_significant:
            return False
        # An error of the gradient stays; a jump of the value counts for twice as much on half.
        if not 0.6 < (other.claimed - other.truth.slope) / first < 1.6:
            return False
    return True


def _measured(probe: Probe) -> Probe:
    """The same probe, with the noise of the values measured."""
    return replace(probe, truth=ladder.estimate(probe.line, careful=True))


def _unrested(probe: Probe, rng: np.random.Generator) -> Probe:
    """The same probe, with the noise of the target's own gradient measured.

    Terms may have cancelled inside the target; moving the point by an ulp shows how much rounding
    that leaves. It does not show the rounding of a value that the rule uses again (the derivative
    1 - y² of a saturated tanh): a few ulps of the value over the size of the leaf.
    """
    line, problem, index = probe.line, probe.line.problem, probe.index
    gradient = line.gradients[index]
    unrest = np.zeros(gradient.shape)
    for _ in range(DISTURBED):
        other = problem.vjp(disturbed(rng, problem.leaves, problem.point), line.u)[index]
        unrest = np.maximum(unrest, np.abs(other - gradient))
    ulps = REUSE if probe.epsilon <= EPSILON["float32"] else REUSE_NARROW
    reuse = ulps * probe.epsilon / line.unit
    return replace(probe, line=replace(line, unrest={index: unrest}, reuse=reuse))


def _equally_noisy(probes: Sequence[Probe]) -> list[Probe]:
    """The probes, each at least a quarter as noisy as any other: their values are rounded alike.

    A table of differences may miss noise along one line that it sees along another, where the
    value stands still.
    """
    level = max(probe.truth.level for probe in probes)

    def leveled(probe: Probe) -> Probe:
        if not probe.truth.level < level / 4 or level > probe.line.ulp:
            return probe
        line = replace(probe.line, floor=level)
        return replace(probe, line=line, truth=ladder.estimate(line, careful=True))

    return [leveled(probe) for probe in probes]


def _rippled(probe: Probe, ripple: float) -> Probe:
    line = replace(probe.line, ripple=ripple)
    return replace(probe, line=line, truth=ladder.estimate(line, careful=True))


def _located(
    question: Question, probes: Sequence[Probe], most: Probe, rng: np.random.Generator
) -> Finding:
    """The finding of a leaf whose mismatch is real: judged by the size of what is wrong."""
    location = locate(most.line, rtol=question.tolerance, rng=rng)
    if location.is_composite_kink:
        message = (
            "the point lies on a kink inside, where what autodiff returns is a convention; the "
            "gradient is none of its subgradients: move the point, or compare implementations"
        )
        return question.answer(Verdict.INCONCLUSIVE, message, probes)
    if not location.entries:
        most = _folded(most)
        if most.truth.kink and not most.is_significant:
            message = "the point lies on a kink; no entry was found outside its subgradients"
            return question.answer(Verdict.PASS, message, probes)
    if not location.entries and most.mismatch <= question.tolerance:
        message = (
            f"off by {most.mismatch:.1e} of the leaf, which is real, but no entry was found "
            f"off by more than {question.tolerance:.0e} of its own size"
        )
        return question.answer(Verdict.PASS, message, probes)
    if not location.entries and not _repeats(most, question.tolerance, rng):
        message = "difference quotients along different directions contradict each other here"
        return question.answer(Verdict.INCONCLUSIVE, message, probes)
    evidence = [_evidence(probe) for probe in probes]
    pattern = diagnose(evidence, location.entries, _scene(most, location))
    message = _where(location, most) + _through(most)
    message += "; " + (ADVICE[pattern.split(":")[0]] if pattern else "no known pattern fits")
    shown = location.entries[:SHOWN]
    return question.answer(Verdict.FAIL, message, probes, entries=shown, diagnosis=pattern)


def _evidence(probe: Probe) -> Evidence:
    return Evidence(
        gradient=probe.line.gradients[probe.index],
        v=probe.line.v[probe.index],
        slope=probe.truth.slope,
        error_bar=probe.truth.error_bar,
        u=_like(probe, probe.line.u),
    )


def _like(probe: Probe, arrays: Arrays) -> Array | None:
    """The array of the only output, if that has the leaf's shape."""
    alike = len(arrays) == 1 and arrays[0].shape == probe.line.v[probe.index].shape
    return arrays[0] if alike else None


def _scene(probe: Probe, location: Location) -> Scene:
    line, index = probe.line, probe.index
    first = np.zeros_like(line.v[index])
    first.flat[0] = 1.0
    alone = replace(line, v={index: first})
    mixes = _like(probe, line.u) is not None and alone.sample(line.unit * 2.0**-10).moving > 1
    return Scene(
        x=line.problem.point[index],
        y=_like(probe, line.centre),
        u=_like(probe, line.u),
        read=location.read,
        mixes=mixes,
        complete=location.complete,
    )


def _through(probe: Probe) -> str:
    """Which outputs' cotangents lead to a wrong gradient, if others do not."""
    line, outputs = probe.line, probe.line.problem.outputs
    if not 1 < len(outputs) <= OUTPUTS:
        return ""
    guilty = []
    for k, output in enumerate(outputs):
        u = tuple(u if j == k else np.zeros_like(u) for j, u in enumerate(line.u))
        gradients = line.problem.vjp(line.problem.point, u)
        alone = replace(line, u=u, gradients=gradients)
        if replace(probe, line=alone, truth=ladder.estimate(alone)).is_significant:
            guilty.append(output.path)
    return f", through {' and '.join(guilty)} only" if 0 < len(guilty) < len(outputs) else ""


def _folded(probe: Probe) -> Probe:
    """The same probe, with the kinks of all outputs counted, which may cancel in their sum."""
    kink = max(probe.truth.kink, ladder.fold(probe.line))
    return replace(probe, truth=replace(probe.truth, kink=kink))


def _repeats(probe: Probe, tolerance: float, rng: np.random.Generator) -> bool:
    """Whether a mismatch that no entry explains shows along another direction as well."""
    for _ in range(AGAIN):
        v = probe.line.v[probe.index]
        other = rng.uniform(0.5, 1.5, v.shape) if probe.is_aligned else rng.choice(SIGNS, v.shape)
        line = replace(probe.line, v={probe.index: v * other})
        again = _folded(replace(probe, line=line, truth=ladder.estimate(line, careful=True)))
        if again.is_significant and again.mismatch > tolerance:
            return True
    return False


def _where(location: Location, probe: Probe) -> str:
    shape = probe.line.v[probe.index].shape
    count, size = len(location.entries), int(np.prod(shape))
    if location.block is not None:
        axis, position = location.block
        place = ", ".join(str(position) if k == axis else ":" for k in range(len(shape)))
        return f"all that is wrong lies in [{place}]"
    if not count:
        return f"wrong as a whole; no single one of its {size} entries stands out of the noise"
    if location.complete:
        return f"{count} of {size} entries wrong"
    return f"{count} wrong entries found among {location.tested} of {size} that were tested"


def _remedy(probe: Probe) -> str:
    """Why nothing can be said, and what to try."""
    if not np.isfinite(probe.truth.error_bar):
        return "the value is not finite a small step away: move the point into the domain"
    cause = "noise" if probe.truth.noise >= 0.5 * probe.truth.error_bar else "truncation"
    advice = {
        "noise": "run the layer in float64, or accept a larger rtol",
        "truncation": "the value bends too fast for any step: move the point or scale the inputs",
    }
    return f"{cause} hides any error below {probe.resolution:.0e} of the gradient: {advice[cause]}"


def _not_finite(question: Question, gradients: Sequence[Array]) -> Finding:
    bad = np.argwhere(~np.isfinite(sum(gradients)))[:SHOWN]
    entries = tuple(
        Entry(
            index=tuple(int(i) for i in index),
            got=float(np.real(gradients[0][tuple(index)])),
            wanted=float("nan"),
            error_bar=float("nan"),
        )
        for index in bad
    )
    finding = question.answer(
        Verdict.FAIL, ADVICE["not finite"], entries=entries, diagnosis="not finite"
    )
    return replace(finding, mismatch=float("inf"))


def _joined(here: Finding, beside: Finding, kinked: bool) -> Finding:
    """One finding for a leaf that was checked at a kink and beside it.

    At a kink the differences leave an interval, blurred by the smallest step. A gradient inside
    it that is right beside the kink is right.
    """
    blurred = here.verdict is Verdict.INCONCLUSIVE and here.mismatch <= here.resolution
    if kinked and blurred and beside.verdict is Verdict.PASS:
        message = "the point lies on a kink or next to one; checked beside it"
        return replace(beside, message=message, mismatch=max(here.mismatch, beside.mismatch))
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
