"""Is the VJP linear in its cotangent, and the transpose of the JVP?

Both are identities of the target with itself: they hold to rounding, in any precision, and need no
differences. Where forward mode exists, ⟨u, J v⟩ = ⟨Jᵀu, v⟩. That both modes are wrong in the
same way is not seen here; the checks "vjp" and "jvp" see it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.entrywise import LINEAR, ROUNDINGS, moved, narrowest, rough
from gradcheck.checks.linearity import LINEARITY, check_linearity
from gradcheck.checks.tangents import not_linear
from gradcheck.errors import GradcheckError, Unsupported, first_line, maybe_out_of_domain
from gradcheck.probes import direction, nudged, scale
from gradcheck.problem import Array, Arrays, Problem, extent, inner, norm
from gradcheck.results import Entry, Finding, Reason, Verdict
from gradcheck.settings import SIGNIFICANCE, Settings

__all__ = ["check_adjoint"]

ADJOINT = f"{LINEARITY}, adjoint identity"

# Roundings of the value: a gradient below that (of a softmax that is sure of itself) is what terms
# of the size of the value leave when they cancel, in one mode or the other.
BLUR = 2.0**6

# Forward and reverse mode agree everywhere, so the point may be moved far: across the steps of a
# bfloat16 kernel inside a float64 interface.
FAR = 2.0**-8


def check_adjoint(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf; that of a target without forward mode is about linearity.

    `Finding.oracle` says which of the two was asked. And one for each output whose tangents are not
    linear in those of the leaves.
    """
    problem = answers.problem
    u, w = answers.cotangents(0), answers.cotangents(1)
    gradients = answers.gradients(0), answers.gradients(1)
    findings = check_linearity(answers, settings, rng)
    linear = {k: f for k, f in findings.items() if f.verdict is Verdict.PASS}
    is_finite = all(np.all(np.isfinite(y)) for y in answers.value)
    pushed: tuple[Finding, ...] = ()
    if problem.jvp is not None and linear and is_finite:
        pairs = [Pair(problem=problem, point=problem.point, u=u_) for u_ in (u, w)]
        try:
            findings |= _transposed(pairs, gradients, linear, settings, rng)
            pushed = not_linear(answers, settings, rng)
        except Unsupported:  # that there is no forward mode is said by the check "jvp"
            pass
        except GradcheckError:
            raise
        except Exception as error:
            if len(linear) == len(findings):  # nothing else is to be said
                raise
            raised = f"forward mode raises {type(error).__name__}: {first_line(error)}"
            findings = {
                k: replace(f, message="; ".join(filter(None, (f.message, raised))))
                for k, f in findings.items()
            }
    if any(finding.verdict is Verdict.FAIL for finding in findings.values()):
        blur = BLUR * problem.epsilon
        terms = zip(u, answers.value, strict=True)
        natural = norm(np.array([norm(u_ * f) for u_, f in terms]))
        for k, finding in findings.items():
            if finding.verdict is Verdict.FAIL and norm(gradients[0][k]) <= blur * natural:
                findings[k] = _blurred(finding)
    return (*findings.values(), *pushed)


def _blurred(finding: Finding) -> Finding:
    """What is said of a gradient that is as small as the rounding of the value: nothing sure."""
    message = "the gradient is as small as what rounding the value may leave of it"
    return replace(finding, verdict=Verdict.INCONCLUSIVE, message=message, entries=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A point and a cotangent, at which both modes are asked."""

    problem: Problem
    point: Arrays
    u: Arrays

    @property
    def weight(self) -> float:
        """The size of the value, as the cotangent sees it: ‖u ∘ f‖."""
        value = self.problem.value(self.point)
        return norm(np.array([extent(u, f) for u, f in zip(self.u, value, strict=True)]))

    def pushed(self, v: Mapping[int, Array]) -> Arrays:
        """J v, where `v` gives the tangents of some leaves and the others' are zero."""
        assert self.problem.jvp is not None
        tangents = tuple(v.get(k, np.zeros_like(x)) for k, x in enumerate(self.point))
        return self.problem.jvp(self.point, tangents)

    def products(
        self,
        v: Mapping[int, Array],
        gradients: Arrays | None = None,
        pushed: Arrays | None = None,
    ) -> "Products":
        """⟨u, J v⟩ and ⟨Jᵀu, v⟩; what is known of both sides beforehand may be given."""
        gradients = gradients or self.problem.vjp(self.point, self.u)
        pushed = pushed or self.pushed(v)
        ahead = [(u, y) for u, y in zip(self.u, pushed, strict=True)]
        back = [(gradients[k], v_) for k, v_ in v.items()]
        return Products(
            forward=sum(inner(a, b) for a, b in ahead),
            reverse=sum(inner(a, b) for a, b in back),
            size=sum(extent(a, b) for a, b in (*ahead, *back)) / 2,
        )

    def unrest(self, v: Mapping[int, Array], centre: float, rng: np.random.Generator) -> float:
        """How far rounding inside the target moves the difference of the two products."""
        leaves, tangents = [self.problem.leaves[k] for k in v], tuple(v.values())
        sides = []
        for size in (None, FAR) * 2:
            points = moved(rng, self.problem.leaves, self.point, size)
            us = moved(rng, self.problem.outputs, self.u, LINEAR)
            vs = moved(rng, leaves, tangents, LINEAR)
            with maybe_out_of_domain():
                ahead, behind = (
                    np.asarray(
                        replace(self, point=points[k], u=us[k])
                        .products(dict(zip(v, vs[k], strict=True)))
                        .excess
                    )
                    for k in (0, 1)
                )
                sides.append((ahead, behind))
        return float(rough(np.asarray(centre), sides)) if sides else inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """What forward and reverse mode say of the same number."""

    forward: float
    reverse: float
    size: float  # of the number, if nothing in it cancelled

    @property
    def excess(self) -> float:
        return self.reverse - self.forward

    def bar(self, epsilon: float) -> float:
        return 2 * ROUNDINGS * epsilon * self.size

    def is_doubtful(self, bar: float) -> bool:
        return not abs(self.excess) <= SIGNIFICANCE * bar

    @property
    def mismatch(self) -> float:
        return abs(self.excess) / self.size if self.size else 0.0


def _transposed(
    pairs: Sequence[Pair],
    gradients: Sequence[Arrays],
    linear: Mapping[int, Finding],
    settings: Settings,
    rng: np.random.Generator,
) -> dict[int, Finding]:
    """All leaves at once; one by one those of which that says too little."""
    problem = pairs[0].problem
    v = {
        k: problem.leaves[k].rounded(direction(rng, problem.leaves[k], scale(x)))
        for k, x in enumerate(problem.point)
        if k in linear
    }
    pushed = pairs[0].pushed(v)  # once, for all cotangents
    if not all(np.all(np.isfinite(y)) for y in pushed):
        message = "forward mode is not finite here, which is for the check jvp to judge"
        return {k: replace(finding, message=message) for k, finding in linear.items()}
    epsilon = max(narrowest(problem.leaves[k], problem.outputs).epsilon for k in linear)
    joint = [p.products(v, g, pushed) for p, g in zip(pairs, gradients, strict=True)]
    doubtful = any(seen.is_doubtful(seen.bar(epsilon)) for seen in joint)
    findings = {}
    for k, finding in linear.items():
        own = [extent(g[k], v[k]) for g in gradients]
        bars = [SIGNIFICANCE * seen.bar(epsilon) for seen in joint]
        sizes = zip(bars, own, strict=True)
        resolution = min(bar / size if size else float("inf") for bar, size in sizes)
        if doubtful or resolution > finding.tolerance:
            findings[k] = _alone(finding, pairs, gradients, {k: v[k]}, settings, rng)
            if findings[k].verdict is Verdict.FAIL:
                findings[k] = _unless_at_a_kink(
                    findings[k], finding, pairs, {k: v[k]}, settings, rng
                )
        else:
            findings[k] = replace(
                finding,
                oracle=ADJOINT,
                mismatch=max(finding.mismatch, *(seen.mismatch for seen in joint)),
                resolution=max(finding.resolution, resolution),
            )
    return findings


def _unless_at_a_kink(
    failed: Finding,
    finding: Finding,
    pairs: Sequence[Pair],
    v: Mapping[int, Array],
    settings: Settings,
    rng: np.random.Generator,
) -> Finding:
    """The failure; or the finding beside the point, if at a kink the modes choose differently."""
    problem = pairs[0].problem
    with maybe_out_of_domain():
        point = nudged(rng, problem.leaves, problem.point)
        beside = [replace(pair, point=point) for pair in pairs]
        gradients = [problem.vjp(point, pair.u) for pair in pairs]
        found = _alone(finding, beside, gradients, v, settings, rng)
        if found.verdict is Verdict.PASS:
            message = (
                "at the point, a kink, the modes choose other subgradients; they agree beside it"
            )
            return replace(found, message=message, reason=Reason.KINK)
    return failed


def _alone(
    finding: Finding,
    pairs: Sequence[Pair],
    gradients: Sequence[Arrays],
    v: Mapping[int, Array],
    settings: Settings,
    rng: np.random.Generator,
) -> Finding:
    """The finding of one leaf, moved alone."""
    linear, finding = finding, replace(finding, oracle=ADJOINT)
    problem, (index,) = pairs[0].problem, v
    coarsest = narrowest(problem.leaves[index], problem.outputs)
    pushed = pairs[0].pushed(v)
    for pair, gradient in zip(pairs, gradients, strict=True):
        seen = pair.products(v, gradient, pushed)
        least = bar = seen.bar(coarsest.epsilon)
        tolerance = finding.tolerance
        if seen.is_doubtful(bar):
            unrest = pair.unrest(v, seen.excess, rng)
            bar += unrest
            if not seen.is_doubtful(bar) and seen.size:  # rounding: the target is held to that
                rounded = settings.tolerance(coarsest.digits, unrest / seen.size)
                tolerance = max(tolerance, rounded)
        resolution = SIGNIFICANCE * bar / seen.size if seen.size else 0.0
        finding = replace(
            finding,
            mismatch=max(finding.mismatch, seen.mismatch),
            resolution=max(finding.resolution, resolution),
            tolerance=tolerance,
        )
        if resolution >= 1:  # and a difference of as much is rounding, too
            if seen.size <= coarsest.epsilon**0.5 * pair.weight:
                message = "vacuous: the derivative is zero here, but for rounding"
                return replace(linear, message=message, reason=Reason.VACUOUS)
            break
        if seen.is_doubtful(bar):
            epsilon = coarsest.epsilon * (bar / least if least else 1.0)
            return _located(finding, pair, gradient, v, epsilon)
    if finding.resolution <= finding.tolerance:
        return finding
    agree = finding.mismatch <= finding.tolerance
    message = f"rounding inside the target hides errors below {finding.resolution:.0e}"
    verdict = Verdict.PASS if agree else Verdict.INCONCLUSIVE
    return replace(finding, verdict=verdict, message=message)


def _located(
    finding: Finding, pair: Pair, gradients: Arrays, v: Mapping[int, Array], epsilon: float
) -> Finding:
    """Half by half down to an entry at which the modes disagree; judged by the size of that."""
    ((index, whole),) = v.items()
    low, high = 0, whole.size
    seen = pair.products(v, gradients)
    while high - low > 1:
        middle = (low + high) // 2
        halves = []
        for start, stop in ((low, middle), (middle, high)):
            part = np.zeros_like(whole)
            part.flat[start:stop] = whole.flat[start:stop]
            halves.append((pair.products({index: part}, gradients), start, stop))
        half, start, stop = max(halves, key=lambda h: abs(h[0].excess))
        if not half.is_doubtful(half.bar(epsilon)):
            break
        seen, low, high = half, start, stop
    if seen.mismatch <= finding.tolerance:
        message = f"forward and reverse mode differ by {seen.mismatch:.0e}, less than the tolerance"
        return replace(finding, message=message)
    entries: tuple[Entry, ...] = ()
    if high - low == 1 and not np.iscomplexobj(whole):
        step = float(whole.flat[low])
        place = np.unravel_index(low, whole.shape)
        entry = Entry(
            index=tuple(int(i) for i in place),
            got=seen.reverse / step,
            wanted=seen.forward / step,
            error_bar=seen.bar(epsilon) / abs(step),
        )
        entries = (entry,)
    message = (
        "reverse mode (got) is not the transpose of forward mode (wanted); the checks vjp and jvp "
        "say which of them is wrong"
    )
    return replace(
        finding, verdict=Verdict.FAIL, mismatch=seen.mismatch, message=message, entries=entries
    )
