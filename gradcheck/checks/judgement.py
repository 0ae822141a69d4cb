"""The finding of a leaf, given what its probes say: pass, wrong where and how, or open and why.

What differences leave open is asked of complex steps and of the path integral; what is wrong is
located, and its pattern named.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradcheck import jumps
from gradcheck.checks.contradictions import is_absorbed, is_cleared, is_torn, repeats
from gradcheck.checks.doubts import folded, measured
from gradcheck.checks.halves import PEAK, by_many_paths
from gradcheck.checks.iterations import unless_it_jumps
from gradcheck.checks.question import Question
from gradcheck.checks.through import passage
from gradcheck.diagnose import ADVICE, Evidence, Scene, diagnose
from gradcheck.errors import GradcheckError, first_line
from gradcheck.evidence import SHOWN, Probe, finest, telling
from gradcheck.locate import Location, locate
from gradcheck.oracles import complex_step, ladder, path
from gradcheck.oracles.ladder import FLOATING
from gradcheck.oracles.rungs import FIRST, OFF_GRID
from gradcheck.oracles.stairs import STEPPED, is_staircase
from gradcheck.probes import Line
from gradcheck.problem import WIDER, Array, Arrays
from gradcheck.results import Finding, Reason, Verdict
from gradcheck.settings import SIGNIFICANCE

__all__ = ["judge"]

CONTRADICTING = "difference quotients along different directions contradict each other here"

# How far a path goes, in units of the leaf's size. The longer ones are for leaves that are small
# beside the scale on which the value changes (1 - cos x at 1e-8), up to numbers like one, and for
# noise below their rounding: from far away the steps of a quantiser are a straight line, which it
# is not, and so is a sigmoid.
REACHES = (1.0, 2.0**-3, 2.0**8, 2.0**16, 2.0**24)
SHORTER = (1 / 2, 1 / 4)  # parts of a path along which a mismatch must stay to be an error

FLAT = 2.0**-30  # of the leaf's size: the finest step of the ladder


def judge(question: Question, probes: Sequence[Probe], rng: np.random.Generator) -> Finding:
    """One leaf's finding from all its probes."""
    if any(probe.truth.jump for probe in probes):
        message = (
            "the value jumps at this point, so it has no derivative here: "
            "move the point, or declare the leaf with the reason"
        )
        return question.answer(Verdict.INCONCLUSIVE, message, probes, reason=Reason.JUMP)
    # What is claimed of nothing but rounding may be off by many bars of a tiny one.
    most = telling([p for p in probes if not p.is_vacuous] or probes)
    assert most is not None
    best = finest(probes)
    open_ = best is not None and not best.resolution <= question.tolerance  # it may be a NaN
    is_rough = most.is_significant or open_ or any(probe.line.ripple for probe in probes)
    if is_rough and (stairs := _stairs(question, probes)):
        return stairs
    if most.is_significant and best is not None:
        located = _located(question, probes, most, rng)
        if located.verdict is Verdict.INCONCLUSIVE:
            together = by_many_paths(question, probes, rng)
            return together if together and together.verdict is Verdict.FAIL else located
        if located.verdict is Verdict.FAIL and is_absorbed(most):
            return question.answer(Verdict.INCONCLUSIVE, ABSORBED, probes)
        return unless_it_jumps(located, most, rng)
    if any(probe.is_outside(question.tolerance) for probe in probes):
        message = "the point lies on a kink, and the gradient is none of its subgradients: move it"
        return question.answer(Verdict.INCONCLUSIVE, message, probes, reason=Reason.KINK)
    if best is None:
        return _vacuous(question, probes, rng)
    if open_:
        return (
            _by_complex_step(question, probes)
            or _by_path(question, probes)
            or by_many_paths(question, probes, rng)
            or _of_rounding(question, probes)
            or question.answer(Verdict.INCONCLUSIVE, _remedy(best), probes)
        )
    if any(probe.truth.kink > 0 for probe in probes):
        message = "the point lies on a kink; the gradient is one of its subgradients"
        return replace(question.passed(message, probes), reason=Reason.KINK)
    return question.passed("", probes)


ABSORBED = (
    "some outputs do not move at all with what autograd gives a gradient: it is lost beside a much "
    "larger number (a row that an added mask covers whole), or kept from the value on purpose (a "
    "straight-through estimate: declare the leaf)"
)


def _vacuous(question: Question, probes: Sequence[Probe], rng: np.random.Generator) -> Finding:
    """A pass; or what many paths say of a leaf that rounding to a narrow dtype nearly hides."""
    message = "vacuous: no output depends on this leaf at this point; its gradient is zero"
    if any(probe.line.sample(probe.line.unit).moving for probe in probes):
        together = by_many_paths(question, probes, rng)
        if together is not None:
            return together
        message = "vacuous: no more than the rounding of the value depends on this leaf here"
    return question.answer(Verdict.PASS, message, probes, reason=Reason.VACUOUS)


def _of_rounding(question: Question, probes: Sequence[Probe]) -> Finding | None:
    """A pass, where of the value, and of its gradient, nothing but rounding is left."""
    if not all(probe.is_rounding for probe in probes):
        return None
    message = "vacuous: the value is zero here, but for rounding"
    return question.answer(Verdict.PASS, message, reason=Reason.VACUOUS)


def _stairs(question: Question, probes: Sequence[Probe]) -> Finding | None:
    """The finding of a leaf whose value steps but is flat at the point.

    Zero is the derivative of a rounding function. Steps as fine as those of a narrow floating
    point format may also be the rounding of something that has a slope; and those of the target's
    own dtype are.
    """
    if any(probe.line.sample(probe.line.unit * FLAT).moving for probe in probes):
        return None
    if any(probe.line.size for probe in probes):
        return _straight_through(question, probes)
    if not any(is_staircase(probe.line) for probe in probes):  # flat up to a kink nearby
        return None
    truths = [measured(probe).truth for probe in probes]
    height = max(t.level / t.weight if t.weight else 0.0 for t in truths)
    if height <= probes[0].line.problem.epsilon:
        return None
    if height > FLOATING:
        message = "the value is a staircase and flat at this point: its derivative is zero"
        return question.answer(Verdict.PASS, message)
    if height > STEPPED:
        message = (
            "the value is a staircase and flat at this point, so that zero is its derivative; if "
            "the steps are the rounding of a narrow dtype inside, the gradient is missing"
        )
        return question.answer(Verdict.INCONCLUSIVE, message)
    return None


def _straight_through(question: Question, probes: Sequence[Probe]) -> Finding | None:
    """The same where the gradient is that of a slope, and no dtype makes such steps.

    What a framework computes in fewer digits inside was seen, and is computed in float64 here.
    """
    line = probes[0].line
    if line.problem.is_narrow:  # the steps are its own
        return None
    least = FLOATING if line.problem.framework == "numpy" else QUANTISED
    height = jumps.highest(line.change, -line.unit, line.unit).height
    if height <= least * line.weight:
        return None
    return question.answer(Verdict.INCONCLUSIVE, STRAIGHT_THROUGH, probes)


# Steps as high as that, relative to the value, are none of a solver that halves an interval.
QUANTISED = 2.0**-12

STRAIGHT_THROUGH = (
    "the value is a staircase and flat at this point, so that zero is its derivative, and the "
    "gradient is not: if it is a straight-through estimate, declare the leaf; if numbers are "
    "rounded inside that should not be, compute them with more digits"
)


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
    if best is None or not best.resolution <= question.tolerance:
        return None
    if any(probe.is_significant for probe in sharp):
        return None
    return replace(question, oracle="complex step").passed("", sharp)


def _by_path(question: Question, probes: Sequence[Probe]) -> Finding | None:
    """What a path integral makes of a leaf that differences leave open; None if no more.

    A pass needs one length along which two directions resolve the tolerance, a failure three that
    agree: a value that jumps somewhere on the way is no error of the gradient.
    """
    best = finest(probes)
    assert best is not None
    if max(probe.truth.ripple for probe in probes) > FLOATING:
        return None
    small = all(p.truth.is_saw or (p.truth.cancels and p.truth.level <= p.line.ulp) for p in probes)
    unit = max(p.line.unit for p in probes)
    for reach in REACHES:
        if reach > 1 and not (small and reach * unit <= 1):
            continue
        found = [seen for p in probes if (seen := _along(p, reach, question.tolerance))]
        sharp = [probe for probe in found if probe.resolution <= question.tolerance]
        if not sharp:
            continue
        own = replace(question, oracle="path integral")
        if not any(probe.is_significant and probe.mismatch > own.tolerance for probe in found):
            # An error that lies across one direction, or in what the claim leaves out, hides there.
            free = [probe for probe in sharp if not probe.is_aligned]
            if len(free) < min(2, int(np.prod(question.leaf.shape))):
                continue
            message = (
                f"at the point, noise hides any error below {best.resolution:.0e}; right along a "
                f"segment of {reach:.0e} times the leaf's size"
            )
            return own.passed(message, found)
        most = max(found, key=lambda probe: probe.bars_off)
        # At the finest steps a value that climbs stairs beside a slope shows that alone.
        if _stays(most, own.tolerance) and not ladder.confirmed(most.line, most.excess):
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
    if probe.line.problem.is_narrow and reach <= 1 and mean.size > PEAK * probe.line.size:
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


def _located(
    question: Question, probes: Sequence[Probe], most: Probe, rng: np.random.Generator
) -> Finding:
    """The finding of a leaf whose mismatch is real: judged by the size of what is wrong."""
    location = locate(most.line, rtol=question.tolerance, rng=rng)
    is_composite = location.is_composite_kink
    if not location.entries:
        most = folded(most)
        if most.truth.kink and not most.is_significant:
            message = "the point lies on a kink; no entry was found outside its subgradients"
            return question.answer(Verdict.PASS, message, probes, reason=Reason.KINK)
        # Kinks of several numbers inside may cancel in every output along one line.
        is_composite |= any(probe.truth.kink > 0 for probe in (most, *probes))
    if is_composite:
        message = (
            "the point lies on a kink inside, where what autodiff returns is a convention; the "
            "gradient is none of its subgradients: move the point, or compare implementations"
        )
        return question.answer(Verdict.INCONCLUSIVE, message, probes, reason=Reason.KINK)
    if not location.entries and is_cleared(most, location):
        return question.answer(
            Verdict.INCONCLUSIVE, CONTRADICTING, probes, reason=Reason.CONTRADICTING
        )
    if not location.entries and most.mismatch <= question.tolerance:
        message = (
            f"off by {most.mismatch:.1e} of the leaf, which is real, but no entry was found "
            f"off by more than {question.tolerance:.0e} of its own size"
        )
        return question.answer(Verdict.PASS, message, probes)
    contradicts = (
        is_torn(most, location, rng)
        if location.entries
        else not repeats(most, question.tolerance, rng)
    )
    if contradicts:
        return question.answer(
            Verdict.INCONCLUSIVE, CONTRADICTING, probes, reason=Reason.CONTRADICTING
        )
    evidence = [_evidence(probe) for probe in probes]
    ways = passage(most)
    pattern = (
        "zero: of some outputs"
        if ways.is_lost and ways.is_output
        else diagnose(evidence, location.entries, _scene(most, location))
    )
    if ways.is_lost and pattern is None:
        pattern = "part of the cotangent"
    message = _where(location, most) + _of_one_sign(location, most)
    if ways.places:
        message += f", through {' and '.join(ways.places)} only"
    message += "; " + (ADVICE[pattern.split(":")[0]] if pattern else "no known pattern fits")
    shown = location.entries[:SHOWN]
    return question.answer(Verdict.FAIL, message, probes, entries=shown, diagnosis=pattern)


def _evidence(probe: Probe) -> Evidence:
    return Evidence(
        gradient=probe.line.gradients[probe.index],
        v=probe.line.v[probe.index],
        slope=probe.truth.slope,
        error_bar=probe.truth.error_bar,
        turned=_turned(probe),
        u=_like(probe, probe.line.u),
        cotangent=probe.line.u,
    )


def _turned(probe: Probe) -> Array | None:
    """The conjugate of the gradient for the conjugate cotangent: of a rule Jᵀ u, that is Jᴴ u."""
    line = probe.line
    if not any(map(np.iscomplexobj, line.u)):
        own = line.gradients[probe.index]
        return np.conj(own) if np.iscomplexobj(own) else None
    gradients = line.problem.vjp(line.problem.point, tuple(map(np.conj, line.u)))
    return np.asarray(np.conj(gradients[probe.index]))


def _like(probe: Probe, arrays: Arrays) -> Array | None:
    """The array of the only output, if that has the leaf's shape."""
    alike = len(arrays) == 1 and arrays[0].shape == probe.line.v[probe.index].shape
    return arrays[0] if alike else None


def _scene(probe: Probe, location: Location) -> Scene:
    line, index = probe.line, probe.index
    first = np.zeros_like(line.v[index])
    first.flat[0] = 1.0
    alone = line.along({index: first})
    mixes = _like(probe, line.u) is not None and alone.sample(line.unit * 2.0**-10).moving > 1
    return Scene(
        x=line.problem.point[index],
        y=_like(probe, line.centre),
        u=_like(probe, line.u),
        read=location.read,
        mixes=mixes,
        complete=location.complete,
    )


def _of_one_sign(location: Location, probe: Probe) -> str:
    """What to add, if what is wrong is so exactly where the leaf is negative, or positive."""
    x = probe.line.problem.point[probe.index]
    if np.iscomplexobj(x):
        return ""
    wrong = {entry.index for entry in location.entries}
    right = [x[e.index] for e in location.read if e.index not in wrong and e.got]
    signs = [x[index] for index in wrong]
    if min(len(signs), len(right)) < EACH_SIDE:
        return ""
    if max(signs) < 0 < min(right):
        return ", those where it is negative"
    return ", those where it is positive" if max(right) < 0 < min(signs) else ""


EACH_SIDE = 3  # wrong entries and right ones, so that their signs are no chance


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
    if location.tested < size:
        return f"{count} wrong entries found among {location.tested} of {size} that were tested"
    return f"{count} wrong entries found, of {size}; then the search was stopped"


FINITE = "the value is not finite a small step away"


def _refusal(line: Line) -> str:
    """What the target raises a small step away; nothing if it runs there."""
    h = OFF_GRID * line.unit * 2.0**-FIRST
    for t in (h, -h):
        try:
            line.problem.value(line.filled(line.moved(t)))
        except GradcheckError:
            raise
        except Exception as error:
            return f"{type(error).__name__} ({first_line(error)})"
    return ""


def _remedy(probe: Probe) -> str:
    """Why nothing can be said, and what to try."""
    if not np.isfinite(probe.truth.error_bar):
        refused = _refusal(probe.line)
        said = f"the target raises {refused} a small step away" if refused else FINITE
        return f"{said}: move the point into the domain"
    if not np.isfinite(probe.bar):
        return "the gradient is not finite an ulp away: the point is singular, move it"
    if probe.line.doubt >= 0.5 * probe.bar:
        return (
            f"the gradient is another an ulp away, which hides any error below "
            f"{probe.resolution:.0e} of it: move the point, or accept a larger rtol"
        )
    cause = "noise" if probe.truth.noise >= 0.5 * probe.truth.error_bar else "truncation"
    narrow = probe.line.problem.leaves[probe.index].digits in WIDER
    advice = {
        "noise": "run the layer in float64, or accept a larger rtol"
        if narrow
        else "terms cancel in the value, or some of it is computed in fewer digits: move the "
        "point, or accept a larger rtol",
        "truncation": "the value bends too fast for any step: move the point or scale the inputs",
    }
    return f"{cause} hides any error below {probe.resolution:.0e} of the gradient: {advice[cause]}"
