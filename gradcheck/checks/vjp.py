"""Is the VJP the derivative of the value? Asked leaf by leaf, along random directions.

Detect by significance, judge by size: a mismatch of more than ten error bars is real, however
small; it is located, and the leaf fails when what is wrong is off by more than the tolerance of
its own size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradcheck.diagnose import ADVICE, Evidence, diagnose
from gradcheck.locate import Location, locate
from gradcheck.oracles import ladder
from gradcheck.probes import Line, cotangent, direction, disturbed, nudged, relative
from gradcheck.problem import EPSILON, Array, Leaf, Problem, norm, widened
from gradcheck.results import Entry, Finding, Verdict, worst
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

SHOWN = 8  # wrong entries in a finding: what a reader looks at; the message says how many more


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One direction: what the target claims along it, and what is true."""

    epsilon: float  # of the narrowest dtype that the gradient passes through
    line: Line
    truth: ladder.Estimate

    @property
    def size(self) -> float:
        """What a mismatch is relative to."""
        return max(self.line.size, abs(self.truth.slope))

    @property
    def excess(self) -> float:
        return abs(self.truth.excess(self.line.slope))

    @property
    def bar(self) -> float:
        """The oracle's error bar, and the rounding of the target's own gradient.

        An entry was rounded at least once, by half an ulp at most. What more rounding there is
        inside the target is measured when a mismatch is suspected.
        """
        return self.calm + self.line.doubt

    @property
    def calm(self) -> float:
        """The bar, less the rounding inside the target that was measured."""
        own = self.epsilon / 2 * self.line.size + self.line.reuse * self.truth.weight
        hidden = self.truth.standing if self.line.reuse else 0.0
        return self.truth.error_bar + own + hidden

    def is_outside(self, tolerance: float) -> bool:
        """Whether the claim is none of the subgradients of a kink.

        At a kink an ulp turns one subgradient into another, so that what was measured of the
        target's rounding is no excuse.
        """
        off = self.mismatch > tolerance and self.excess > SIGNIFICANCE * self.calm
        return self.truth.kink > 0 and off

    @property
    def is_significant(self) -> bool:
        return self.excess > SIGNIFICANCE * self.bar

    @property
    def is_vacuous(self) -> bool:
        """Whether claim and truth are zero: the claim but for rounding, the truth by its bar.

        The bar must be small against the value itself over one step of the leaf, or a value that
        drowns in noise would count as one that does not depend on the leaf.
        """
        line = self.line
        value = norm(np.array([norm(u * f) for u, f in zip(line.u, line.centre, strict=True)]))
        claims_zero = line.size <= SIGNIFICANCE * line.doubt
        is_zero = abs(self.truth.slope) <= SIGNIFICANCE * self.bar
        return claims_zero and is_zero and self.bar * line.unit <= self.epsilon**0.5 * value

    @property
    def resolution(self) -> float:
        return SIGNIFICANCE * self.bar / self.size if self.size else 0.0

    @property
    def mismatch(self) -> float:
        return self.excess / self.size if self.size else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One leaf under check, and the form of the answer."""

    leaf: Leaf
    tolerance: float
    oracle: str = ""  # the dtype of the differences

    def answer(
        self,
        verdict: Verdict,
        message: str,
        probes: Sequence[Probe] = (),
        *,
        entries: tuple[Entry, ...] = (),
        diagnosis: str | None = None,
    ) -> Finding:
        telling = max(probes, key=_telling, default=None)
        seeing = [probe for probe in probes if not probe.is_vacuous]
        return Finding(
            check="vjp",
            leaf=self.leaf.path,
            verdict=verdict,
            mismatch=max((probe.mismatch for probe in seeing), default=0.0),
            resolution=max((probe.resolution for probe in seeing), default=0.0),
            tolerance=self.tolerance,
            oracle=f"finite differences, {self.oracle or self.leaf.dtype}",
            message=message,
            entries=entries,
            diagnosis=diagnosis,
            steps=telling.truth.steps if telling else (),
        )


def check_vjp(
    problem: Problem, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf of `problem` that `settings` ask for.

    Raises whatever the target raises.
    """
    findings, kinked = _at_point(problem, settings, rng)
    if not kinked:
        return findings
    moved = replace(problem, point=nudged(rng, problem.leaves, problem.point))
    beside, _ = _at_point(moved, settings, rng)
    return tuple(
        _joined(here, there, here.leaf in kinked)
        for here, there in zip(findings, beside, strict=True)
    )


def _at_point(
    problem: Problem, settings: Settings, rng: np.random.Generator
) -> tuple[tuple[Finding, ...], frozenset[str]]:
    """The findings at the problem's point, and the leaves along which it lies on a kink."""
    leaves = [(k, leaf) for k, leaf in enumerate(problem.leaves) if settings.wants(leaf.path)]
    questions = [
        Question(leaf=leaf, tolerance=settings.tolerance(leaf.dtype)) for _, leaf in leaves
    ]
    centre = problem.value(problem.point)
    if not all(np.all(np.isfinite(output)) for output in centre):
        message = "the value at this point is not finite: there is no derivative to check"
        findings = [question.answer(Verdict.INCONCLUSIVE, message) for question in questions]
        return tuple(findings), frozenset()
    # Differences are taken in float64 where the target can be run in it: without noise, almost.
    source, centre = widened(problem, centre) or (problem, centre)
    draws = [cotangent(rng, problem.outputs) for _ in range(settings.probes)]
    gradients = [problem.vjp(problem.point, u) for u in draws]
    again = source.value(source.point)
    findings, kinked = [], set()
    for (index, leaf), question in zip(leaves, questions, strict=True):
        own = [gradient[index] for gradient in gradients]
        if 0 in leaf.shape:
            findings.append(question.answer(Verdict.PASS, "the leaf is empty"))
            continue
        if not all(np.all(np.isfinite(gradient)) for gradient in own):
            findings.append(_not_finite(question, own))
            continue
        probes = []
        for u, g in zip(draws, own, strict=True):
            v = direction(rng, leaf)
            floor = sum(norm(u_ * (a - b)) for u_, a, b in zip(u, centre, again, strict=True))
            line = Line(
                problem=source, index=index, v=v, u=u, gradient=g, centre=centre, floor=floor
            )
            epsilon = _coarsest(leaf, problem.outputs).epsilon
            probes.append(_probe(line, epsilon, question.tolerance))
        coarse = min(probe.resolution for probe in probes) > question.tolerance
        if coarse or any(probe.is_significant for probe in probes):
            probes = [_doubted(probe, problem, rng) for probe in probes]
            probes = [
                _folded(probe) if probe.is_outside(question.tolerance) else probe
                for probe in probes
            ]
            ripple = max(probe.truth.ripple for probe in probes)
            if ripple >= min(RIPPLE.values()):  # seen along one line, it is along all
                probes = [_rippled(probe, ripple) for probe in probes]
            coarsest = _coarsest(leaf, problem.outputs)
            question = replace(question, tolerance=settings.tolerance(coarsest.dtype, ripple))
        outside = any(probe.is_outside(question.tolerance) for probe in probes)
        if any(probe.truth.kink > 0 for probe in probes) and not outside:
            kinked.add(leaf.path)
        findings.append(_judge(replace(question, oracle=source.leaves[index].dtype), probes, rng))
    return tuple(findings), frozenset(kinked)


def _coarsest(leaf: Leaf, outputs: Sequence[Leaf]) -> Leaf:
    """The leaf or output of the narrowest dtype: the gradient has no more digits than that."""
    return max((leaf, *outputs), key=lambda array: array.epsilon)


def _probe(line: Line, epsilon: float, tolerance: float) -> Probe:
    """What is true along `line`; or along one that moves each entry by a part of its own size."""
    probe = Probe(epsilon=epsilon, line=line, truth=ladder.estimate(line))
    if probe.resolution <= tolerance or probe.truth.kink or probe.truth.jump:
        return probe
    scaled = replace(line, v=relative(line.v, line.problem.point[line.index]))
    other = Probe(epsilon=epsilon, line=scaled, truth=ladder.estimate(scaled))
    return min(probe, other, key=lambda p: p.resolution)


def _judge(question: Question, probes: Sequence[Probe], rng: np.random.Generator) -> Finding:
    """One leaf's finding from all its probes."""
    if any(probe.truth.jump for probe in probes):
        message = (
            "the value jumps at this point, so it has no derivative here: "
            "move the point, or declare the leaf with the reason"
        )
        return question.answer(Verdict.INCONCLUSIVE, message, probes)
    telling = max(probes, key=_telling)
    if telling.is_significant:
        return _located(question, probes, telling, rng)
    if any(probe.is_outside(question.tolerance) for probe in probes):
        message = "the point lies on a kink, and the gradient is none of its subgradients: move it"
        return question.answer(Verdict.INCONCLUSIVE, message, probes)
    if all(probe.is_vacuous for probe in probes):
        message = "vacuous: no output depends on this leaf at this point; its gradient is zero"
        return question.answer(Verdict.PASS, message, probes)
    # The probes see independent projections of one error: an error larger than the finest
    # resolution is seen by that probe, so the coarsest need not reach the tolerance.
    finest = min((p for p in probes if not p.is_vacuous), key=lambda p: p.resolution)
    if finest.resolution > question.tolerance:
        return question.answer(Verdict.INCONCLUSIVE, _remedy(finest), probes)
    if any(probe.truth.kink > 0 for probe in probes):
        message = "the point lies on a kink; the gradient is one of its subgradients"
        return question.answer(Verdict.PASS, message, probes)
    return question.answer(Verdict.PASS, "", probes)


def _doubted(probe: Probe, problem: Problem, rng: np.random.Generator) -> Probe:
    """The same probe, with the noise of the values and of the target's own gradient measured.

    Terms may have cancelled inside the target; moving the point by an ulp shows how much rounding
    that leaves. It does not show the rounding of a value that the rule uses again (the derivative
    1 - y² of a saturated tanh): a few ulps of the value over the size of the leaf.
    """
    line = probe.line
    truth = ladder.estimate(line, careful=True)
    unrest = np.zeros(line.gradient.shape)
    for _ in range(DISTURBED):
        other = problem.vjp(disturbed(rng, problem.leaves, problem.point), line.u)[line.index]
        unrest = np.maximum(unrest, np.abs(other - line.gradient))
    ulps = REUSE if probe.epsilon <= EPSILON["float32"] else REUSE_NARROW
    reuse = ulps * probe.epsilon / line.unit
    return replace(probe, truth=truth, line=replace(line, unrest=unrest, reuse=reuse))


def _rippled(probe: Probe, ripple: float) -> Probe:
    line = replace(probe.line, ripple=ripple)
    return replace(probe, line=line, truth=ladder.estimate(line, careful=True))


def _located(
    question: Question, probes: Sequence[Probe], telling: Probe, rng: np.random.Generator
) -> Finding:
    """The finding of a leaf whose mismatch is real: judged by the size of what is wrong."""
    location = locate(telling.line, rtol=question.tolerance, rng=rng)
    if location.is_composite_kink:
        message = (
            "the point lies on a kink inside, where what autodiff returns is a convention; the "
            "gradient is none of its subgradients: move the point, or compare implementations"
        )
        return question.answer(Verdict.INCONCLUSIVE, message, probes)
    if not location.entries:
        telling = _folded(telling)
        if telling.truth.kink and not telling.is_significant:
            message = "the point lies on a kink; no entry was found outside its subgradients"
            return question.answer(Verdict.PASS, message, probes)
    if not location.entries and telling.mismatch <= question.tolerance:
        message = (
            f"off by {telling.mismatch:.1e} of the leaf, which is real, but no entry was found "
            f"off by more than {question.tolerance:.0e} of its own size"
        )
        return question.answer(Verdict.PASS, message, probes)
    if not location.entries and not _repeats(telling, question.tolerance, rng):
        message = "difference quotients along different directions contradict each other here"
        return question.answer(Verdict.INCONCLUSIVE, message, probes)
    evidence = [
        Evidence(
            gradient=probe.line.gradient,
            v=probe.line.v,
            slope=probe.truth.slope,
            error_bar=probe.truth.error_bar,
        )
        for probe in probes
    ]
    pattern = diagnose(evidence, location.entries)
    message = _where(location, telling.line.gradient.size)
    if pattern is not None:
        message += "; " + ADVICE[pattern.split(":")[0]]
    shown = location.entries[:SHOWN]
    return question.answer(Verdict.FAIL, message, probes, entries=shown, diagnosis=pattern)


def _folded(probe: Probe) -> Probe:
    """The same probe, with the kinks of all outputs counted, which may cancel in their sum."""
    kink = max(probe.truth.kink, ladder.fold(probe.line))
    return replace(probe, truth=replace(probe.truth, kink=kink))


def _repeats(probe: Probe, tolerance: float, rng: np.random.Generator) -> bool:
    """Whether a mismatch that no entry explains shows along another direction as well."""
    for _ in range(AGAIN):
        v = probe.line.v * rng.choice([-1.0, 1.0], probe.line.v.shape)
        line = replace(probe.line, v=v)
        again = _folded(replace(probe, line=line, truth=ladder.estimate(line, careful=True)))
        if again.is_significant and again.mismatch > tolerance:
            return True
    return False


def _where(location: Location, size: int) -> str:
    count = len(location.entries)
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


def _telling(probe: Probe) -> float:
    """How many error bars the mismatch is."""
    if probe.bar:
        return probe.excess / probe.bar
    return float("inf") if probe.excess else 0.0
