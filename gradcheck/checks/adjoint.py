"""Is the VJP linear in its cotangent, and the transpose of the JVP?

Both are identities of the target with itself: they hold to rounding, in any precision, and need no
differences. A rule that ignores its cotangent, adds a constant or keeps a stale one is not linear:
vjp(u - 2w) = vjp(u) - 2 vjp(w), and vjp(0) = 0. Where forward mode exists, ⟨u, J v⟩ = ⟨Jᵀu, v⟩.
That both modes are wrong in the same way is not seen here; the checks "vjp" and "jvp" see it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf

import numpy as np

from gradcheck import noise
from gradcheck.answers import Answers
from gradcheck.checks.entrywise import LINEAR, ROUNDINGS, compared, floor, moved, narrowest, rough
from gradcheck.errors import Unsupported, maybe_out_of_domain
from gradcheck.probes import direction, nudged, scale
from gradcheck.problem import (
    EPSILON,
    Array,
    Arrays,
    Problem,
    extent,
    has_digits_of_float32,
    inner,
    norm,
)
from gradcheck.results import Entry, Finding, Verdict
from gradcheck.settings import SIGNIFICANCE, Settings

__all__ = ["check_adjoint"]

LINEARITY, ADJOINT = "linearity", "linearity, adjoint identity"

# Roundings of the value: a gradient below that (of a softmax that is sure of itself) is what terms
# of the size of the value leave when they cancel, in one mode or the other.
BLUR = 2.0**6

DRAWS = 3  # pairs of points beside the one in doubt

TERMS = 3  # gradients of about the same rounding in a sum

LARGE = 2.0**8  # times a usual cotangent; and a small one is as much less

# Forward and reverse mode agree everywhere, so the point may be moved far: across the steps of a
# bfloat16 kernel inside a float64 interface.
FAR = 2.0**-8


def check_adjoint(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf; that of a target without forward mode is about linearity.

    `Finding.oracle` says which of the two was asked.
    """
    problem = answers.problem
    u, w = answers.cotangents(0), answers.cotangents(1)
    gradients = answers.gradients(0), answers.gradients(1)
    findings = _linear(answers, settings, rng, (u, w), gradients)
    linear = {k: f for k, f in findings.items() if f.verdict is Verdict.PASS}
    is_finite = all(np.all(np.isfinite(y)) for y in answers.value)
    if problem.jvp is not None and linear and is_finite:
        pairs = [Pair(problem=problem, point=problem.point, u=u_) for u_ in (u, w)]
        with suppress(Unsupported):  # that there is no forward mode is said by the check "jvp"
            findings |= _transposed(pairs, gradients, linear, settings, rng)
    if any(finding.verdict is Verdict.FAIL for finding in findings.values()):
        blur = BLUR * problem.epsilon
        terms = zip(u, answers.value, strict=True)
        natural = norm(np.array([norm(u_ * f) for u_, f in terms]))
        for k, finding in findings.items():
            if norm(gradients[0][k]) <= blur * natural:
                findings[k] = _blurred(finding)
    return tuple(findings.values())


def _blurred(finding: Finding) -> Finding:
    """What is said of a gradient that is as small as the rounding of the value: nothing sure."""
    message = "the gradient is as small as what rounding the value may leave of it"
    return replace(finding, verdict=Verdict.INCONCLUSIVE, message=message, entries=())


# Of how small a mismatch jumps of the gradient may be the reason, by how many of them, and how far
# they are looked for. What is nothing beside the gradient is rounding.
SMALL, EACH, NEARBY, NOTHING = 5e-2, 30.0, (2.0**-1, 2.0, 2.0**3), 1e-12


def _unless_it_jumps(
    answers: Answers, index: int, finding: Finding, times: float, rng: np.random.Generator
) -> Finding:
    """The finding; not a failure if the gradient jumps as its cotangent moves.

    So does that of an iteration which stops at a tolerance: it is linear up to that, and up to as
    many `times` that as a small cotangent counts for.
    """
    if finding.verdict is not Verdict.FAIL or not 0 < finding.mismatch <= SMALL:
        return finding
    fine = answers.in_float64 or answers
    problem, u, w = fine.problem, fine.cotangents(0), fine.cotangents(1)
    v = direction(rng, problem.leaves[index])
    base = fine.gradients(0)[index]
    if has_digits_of_float32(base):
        return finding

    def change(t: float) -> float:
        moved = tuple(
            output.rounded(a + t * b) for output, a, b in zip(problem.outputs, u, w, strict=True)
        )
        return inner(problem.vjp(problem.point, moved)[index] - base, v)

    size = extent(base, v)
    for reach in NEARBY:
        height = noise.jump(change, -reach, reach).height
        if height > NOTHING * size and finding.mismatch * size <= EACH * times * height:
            return _jumping(finding)
    return finding


JUMPS = (
    "the gradient jumps as its cotangent moves, as that of an iteration which stops at a tolerance"
)


def _jumping(finding: Finding) -> Finding:
    return replace(finding, verdict=Verdict.INCONCLUSIVE, message=JUMPS, entries=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Weighted cotangents that add up to the first of them, and the gradients of each."""

    complaint: str
    whole: tuple[float, Arrays, Arrays]  # weight, cotangents, gradients
    parts: tuple[tuple[float, Arrays, Arrays], ...]

    def at(self, k: int) -> tuple[Array, Array, Array]:
        """Of the k-th leaf the gradient of the whole, the sum of the parts, the size of both."""
        weight, _, gradients = self.whole
        (factor, _, part), *others = self.parts
        total = factor * _wide(part[k])
        size = np.abs(total)
        with np.errstate(invalid="ignore"):  # infinities are said
            for factor, _, part in others:
                term = factor * _wide(part[k])
                total += term
                size += np.abs(term)
            return weight * _wide(gradients[k]), total, size


def _linear(
    answers: Answers,
    settings: Settings,
    rng: np.random.Generator,
    cotangents: tuple[Arrays, Arrays],
    gradients: tuple[Arrays, Arrays],
) -> dict[int, Finding]:
    """By position of the leaf, whether the gradients of cotangents add up."""
    problem, point = answers.problem, answers.problem.point
    sums = [partial(_large, problem, cotangents, gradients)]
    # In bfloat16 a sum of many ones stops at 256: that a rule knows ones is asked in float64.
    is_coarse = problem.epsilon > EPSILON["float32"]
    fine = answers.in_float64 if is_coarse else answers
    if fine is not None:
        sums.append(partial(_ones, fine.problem, rng, cotangents[0]))
    zero = tuple(np.zeros_like(u) for u in cotangents[0])
    nothing = [a if np.any(a) else None for a in problem.vjp(point, zero)]

    def cancelled(k: int) -> float:
        """What rounding leaves of an entry that is nothing beside the others of its leaf."""
        epsilon = narrowest(problem.leaves[k], problem.outputs).epsilon
        sizes = [floor(centre[k], epsilon) for centre in gradients]
        if epsilon <= EPSILON["float32"]:  # of a coarser one it would excuse anything
            sizes += [max(floor(u_, epsilon) for u_ in u) for u in cotangents]
        return TERMS * sum(sizes)

    @cache
    def restless() -> Arrays:
        """Of usual cotangents: an answer to ones, or to large ones, must not excuse itself."""
        total = [np.full(x.shape, cancelled(k)) for k, x in enumerate(point)]
        for u, centre in zip(cotangents, gradients, strict=True):
            sides = [
                [problem.vjp(point, beside) for beside in moved(rng, problem.outputs, u, LINEAR)]
                for _ in range(DRAWS)
            ]
            for k, array in enumerate(total):
                array += TERMS * rough(centre[k], [(a[k], b[k]) for a, b in sides])
        return tuple(total)

    wanted = {k: leaf for k, leaf in enumerate(problem.leaves) if settings.wants(leaf.path)}
    found: dict[int, list[Finding]] = {k: [] for k in wanted}
    endless = set()
    for position, pose in enumerate(sums):  # one by one: each holds gradients of all leaves
        asked = pose()
        for k, leaf in wanted.items():
            ask = partial(
                compared,
                check="adjoint",
                leaf=leaf,
                outputs=problem.outputs,
                settings=settings,
                oracle=LINEARITY,
            )
            got, expected, size = asked.at(k)
            # A median is added to what is said, and half of it leaves the first below the second.
            unrest = [lambda k: np.asarray(cancelled(k) / 2), lambda k: restless()[k]]
            staged = [partial(say, k) for say in unrest]
            finding = ask(got, expected, staged, size=size, complaint=asked.complaint)
            times = max(abs(weight) for weight, _, _ in asked.parts)
            found[k].append(_unless_it_jumps(answers, k, finding, times, rng))
            if position:
                continue
            if not np.all(np.isfinite(size)):
                endless.add(k)
            unasked = nothing[k]
            if unasked is not None:
                none = np.zeros_like(size)
                complaint = "the gradient of a zero cotangent is not zero"
                # No rounding makes anything of nothing.
                found[k].append(ask(unasked, none, (), size=size, complaint=complaint))
    findings = {}
    for k, answered in found.items():
        # The first that failed, or was left open; else the first, whose resolution is that of all.
        failed = [f for f in answered if f.verdict is Verdict.FAIL]
        unsure = [f for f in answered if f.verdict is Verdict.INCONCLUSIVE]
        finding = (failed or unsure or answered)[0]
        if k in endless:
            message, said = "the gradient is not finite", Verdict.INCONCLUSIVE
            finding = replace(finding, verdict=said, message=message, entries=(), mismatch=0.0)
        findings[k] = finding
    if any(finding.message == JUMPS for finding in findings.values()):  # of one leaf, of all
        for k, finding in findings.items():
            if finding.verdict is Verdict.FAIL and finding.mismatch <= SMALL:
                findings[k] = _jumping(finding)
    return findings


def _large(
    problem: Problem, cotangents: tuple[Arrays, Arrays], gradients: tuple[Arrays, Arrays]
) -> Sum:
    """A large cotangent, made of two: a rule may clip what is large."""
    # A quarter, so that a sum does not overflow where its terms do not.
    both = tuple((u - 2 * w) / 4 for u, w in zip(*cotangents, strict=True))
    reaches = all(array.digits != "float16" for array in (*problem.leaves, *problem.outputs))
    factor = LARGE if reaches else 1.0
    much = tuple(factor * z for z in both)
    summed = problem.vjp(problem.point, much)
    if factor > 1 and not all(np.all(np.isfinite(g)) for g in summed):  # it overflows
        factor, much, summed = 1.0, both, problem.vjp(problem.point, both)
    return Sum(
        complaint="the gradient is not linear in the cotangent",
        whole=(4.0 / factor, much, summed),
        parts=((1.0, cotangents[0], gradients[0]), (-2.0, cotangents[1], gradients[1])),
    )


def _ones(problem: Problem, rng: np.random.Generator, u: Arrays) -> Sum:
    """Ones, which every loss is pulled back from, made of a small cotangent and the rest.

    A rule may know better what to do with ones, drop what is small, and stumble over zeros.
    """
    kept = [np.asarray(rng.random(u_.shape) < 0.5) for u_ in u]
    for mask in kept:
        mask.flat[:1] = True  # of a loss, all of it
    part = tuple(np.where(mask, u_, 0).astype(u_.dtype) for mask, u_ in zip(kept, u, strict=True))
    ones = tuple(np.ones_like(u_) for u_ in u)
    rest = tuple(one - p for one, p in zip(ones, part, strict=True))
    small = tuple(p / LARGE for p in part)
    whole, less, more = (problem.vjp(problem.point, z) for z in (ones, small, rest))
    return Sum(
        complaint="the gradient of a cotangent of ones is not the sum of those of its parts",
        whole=(1.0, ones, whole),
        parts=((LARGE, small, less), (1.0, rest, more)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A point and a cotangent, at which both modes are asked."""

    problem: Problem
    point: Arrays
    u: Arrays

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
            return replace(found, message=message)
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
    finding = replace(finding, oracle=ADJOINT)
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


def _wide(array: Array) -> Array:
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64, copy=False)
