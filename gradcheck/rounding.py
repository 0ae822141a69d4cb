"""Does the target compute in its own dtype what it computes in float64? Rounding, and no more.

The formula was checked in float64, where differences are sharp. What is left to ask of a float32
or bfloat16 gradient is whether it is that formula, rounded: entry by entry, within what moving the
point by an ulp does to it, and as a whole, where the rounding of many entries averages out.

An ulp of the point may be nothing to what is computed inside: where a hundred terms were added to
1e4, or 1 - p is left of a p that is nearly one. What is still in doubt is therefore looked at at
points farther away: there a rule that is wrong is wrong in the same way, and rounding is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf

import numpy as np

from gradcheck.diagnose import ADVICE
from gradcheck.errors import maybe_out_of_domain
from gradcheck.evidence import entries_of
from gradcheck.probes import direction, disturbed, scale
from gradcheck.problem import EPSILON, Array, Arrays, Problem, norm
from gradcheck.results import Finding, Reason, Verdict
from gradcheck.settings import SIGNIFICANCE

__all__ = ["beside", "natural", "restless", "rounded", "spread", "unrest_of"]

DISTURBED = 3  # points an ulp away, at which the rounding of the narrow gradient is measured


def rounded(
    finding: Finding,
    problem: Problem,
    wide: Problem,
    index: int,
    draws: Sequence[Arrays],
    claims: Sequence[Array],
    truths: Sequence[Array],
    rng: np.random.Generator,
) -> Finding:
    """Return `finding`, or a failure if the leaf's own gradient is not that of float64, rounded.

    Args:
        finding: what was found of the leaf in float64.
        problem, wide: the target in its own dtype, and in float64.
        index: which leaf.
        draws: cotangents.
        claims: the leaf's own gradient for each of them.
        truths: the same in float64.
    """
    tolerance = finding.tolerance
    is_coarse = _epsilon(problem, index) > EPSILON["float32"]
    seen = Seen(of_all=inf, of_one=inf)
    for u, claim, truth in zip(draws, claims, truths, strict=True):
        if not np.all(np.isfinite(claim)):
            return _accused(finding, claim, truth, ~np.isfinite(claim), np.zeros(claim.shape))
        off = np.abs(claim - truth)
        largest = np.maximum(np.abs(claim), np.abs(truth))
        size, is_close = norm(truth), np.all(off <= tolerance * largest)
        if is_close and norm(off) <= 0.5 * tolerance * size and not (is_coarse and size):
            # Of float32's rounding far less is left than its tolerance; bfloat16's may hide more.
            seen = Seen(of_all=0.0, of_one=0.0)
            continue
        bar, usual = _bars(problem, index, u, claim, rng)
        wrong = (off > SIGNIFICANCE * bar) & (off > tolerance * largest)
        # The part of the claim that is off in the direction of the gradient itself.
        factor = _factor(claim, truth)
        spread = _spread_of_factor(usual, truth)
        in_doubt = np.any(wrong) or _is_off(factor, tolerance, spread)
        in_doubt |= is_coarse and _is_much(off, usual)
        if in_doubt and not (problem.rounds_back and problem.rounds_back()):
            scatter, share, of_factor = _scatter(problem, wide, index, u, rng)
            bar, spread = np.maximum(bar, scatter + 4 * share), max(spread, of_factor)
            usual = np.maximum(usual, scatter)
            ones = np.full(truth.shape, _of_ones(problem, index, u))
            bar = np.maximum(bar, 4 * ones)
            spread = max(spread, _spread_of_factor(ones, truth))
            wrong &= off > SIGNIFICANCE * bar
        in_doubt = np.any(wrong) or _is_off(factor, tolerance, spread)
        in_doubt |= is_coarse and _is_much(off, usual)
        if in_doubt and (is_coarse or np.any(wrong)):
            epsilon = _epsilon(problem, index)
            chosen = _chosen(wide, index, u, claim, wrong | (off > bar), epsilon, rng)
            claim = np.where(chosen, truth, claim)
            wrong, off = wrong & ~chosen, np.where(chosen, 0, off)
            factor = _factor(claim, truth)
        if np.any(wrong):
            return _accused(finding, claim, truth, wrong, bar)
        if not size:
            continue
        seen = seen.with_(truth, bar, spread)
        if _is_off(factor, tolerance, spread):
            everywhere = off > np.median(off)
            accused = _accused(finding, claim, truth, everywhere, bar)
            message = f"all of it is {factor:.3g} times what the same rule gives in float64"
            return replace(accused, message=message, mismatch=abs(factor - 1))
        if is_coarse and _is_much(off, usual):
            accused = _accused(finding, claim, truth, off > SIGNIFICANCE * usual, bar)
            message = (
                f"off by {norm(off) / size:.0e} of what the same rule gives in float64, where "
                f"rounding of {off.size} entries leaves {norm(usual) / size:.0e}"
            )
            return replace(accused, message=message)
    return _blunted(finding, problem, index, seen)


# Of so many entries, the part that rounding leaves of the whole, in bars of a usual one: of the
# modules of PyTorch in bfloat16 it was 0.41 at most, of 1,372 gradients; forgotten samples are 2.4.
MANY, TOGETHER = 16, 2.0


def _is_much(off: Array, usual: Array) -> bool:
    """Whether a leaf is off as a whole by more than the rounding of its entries adds up to."""
    return off.size >= MANY and norm(off) > TOGETHER * norm(usual)


def _is_off(factor: float, tolerance: float, spread: float) -> bool:
    return abs(factor - 1) > max(tolerance, SIGNIFICANCE * spread)


def _factor(claim: Array, truth: Array) -> float:
    """How large `claim` is in the direction of `truth`; as large as it, if that is zero."""
    size = norm(truth)
    if not size:
        return 1.0
    return float(np.real(np.vdot(truth / size, claim))) / size


def _spread_of_factor(bar: Array, truth: Array) -> float:
    """How far from one that factor may be by errors of the entries, each of its own sign."""
    size = norm(truth)
    return norm(bar * np.abs(truth / size)) / size if size else 0.0


# How far, relative to itself, a point is moved to see other roundings: at least some ulps of any
# dtype, and little enough that the square of it, ten times, excuses no rule that is wrong.
FAR = 2.0**-5


def _scatter(
    problem: Problem, wide: Problem, index: int, u: Arrays, rng: np.random.Generator
) -> tuple[Array, float, float]:
    """How much the narrow gradient's error varies from point to point, of each entry and of all.

    Between them, an entry's share of what the value has lost.

    By second differences of the error along a line, on both sides, away from the point itself:
    they vanish where the error is a smooth function of the point, as that of a rule is. So they do
    where rounding leaves nothing at all (1 - p at p = 1), but then the value has lost as much.
    """
    entries, of_factor = np.zeros(problem.point[index].shape), 0.0
    for _ in range(2):
        step = tuple(
            min(leaf.epsilon ** (1 / 3), FAR) * direction(rng, leaf) * x
            for leaf, x in zip(problem.leaves, problem.point, strict=True)
        )
        for side in (1, -1):
            bend, varies = _bend(problem, wide, index, u, tuple(side * v for v in step))
            entries, of_factor = np.maximum(entries, bend), max(of_factor, varies)
    x = problem.point[index]
    pairs = zip(problem.value(problem.point), wide.value(wide.point), strict=True)
    with np.errstate(invalid="ignore"):
        lost = natural(u, tuple(a - b for a, b in pairs), x) / max(x.size, 1) ** 0.5
    # What cancelled inside may have been numbers like one.
    share = max(lost, _of_ones(problem, index, u) / scale(x))
    return entries + np.median(entries), share, of_factor


def _of_ones(problem: Problem, index: int, u: Arrays) -> float:
    """An entry's share of what rounding leaves of numbers like one, however large the leaf is.

    A softmax of 17 and 0 changes on a scale of one, and its 1 - p is an ulp of one, or nothing.
    """
    size = norm(np.array([norm(u_) for u_ in u]))
    return float(_epsilon(problem, index) * size / max(problem.point[index].size, 1) ** 0.5)


def _bend(
    problem: Problem, wide: Problem, index: int, u: Arrays, step: Arrays
) -> tuple[Array | float, float]:
    """The second difference of the error, and of its factor, one to three steps from the point."""
    errors, factors = [], []
    for t in (1, 2, 3):
        moved = zip(problem.leaves, problem.point, step, strict=True)
        point = tuple(leaf.rounded(x + t * v) for leaf, x, v in moved)
        there = tuple(x.astype(w.dtype) for x, w in zip(point, wide.point, strict=True))
        with maybe_out_of_domain(), np.errstate(all="ignore"):
            claim, truth = problem.vjp(point, u)[index], wide.vjp(there, u)[index]
            errors.append(claim - truth)
            factors.append(_factor(claim, truth))
    if len(errors) < 3:  # no excuse
        return 0.0, 0.0
    varies = abs(factors[0] - 2 * factors[1] + factors[2])
    bend = np.abs(errors[0] - 2 * errors[1] + errors[2])
    return np.nan_to_num(bend, posinf=0.0), varies if np.isfinite(varies) else 0.0


# A branch that rounding decides: so many points beside are asked, up to the rounding of numbers so
# many times as large as the leaf. This part of the distance between two sides counts as either: of
# what varies smoothly twelve draws lie that near the ends once in 10⁶.
ASKED, TIMES, LIKE = 12, (1, 2, 4, 8, 16), 0.15
KINDS, SAME = 4, 1e-2  # as many numbers, each the same up to a part of the distance


def _chosen(
    wide: Problem,
    index: int,
    u: Arrays,
    claim: Array,
    doubted: Array,
    epsilon: float,
    rng: np.random.Generator,
) -> Array:
    """Which of the doubted entries are right at a branch that rounding decides.

    The cell that a number falls into, the larger of two, the active piece: as near as the rounding
    of what is computed inside, float64 gives one of two numbers and none in between, and the claim
    is one of them, or at a tie between them.
    """
    chosen = np.zeros(doubted.shape, bool)
    claimed, excused = claim[doubted], np.zeros(np.count_nonzero(doubted), bool)
    for times in TIMES:
        found = []
        for _ in range(ASKED):
            point = tuple(
                x + times * epsilon * scale(x) * direction(rng, leaf)
                for x, leaf in zip(wide.point, wide.leaves, strict=True)
            )
            with maybe_out_of_domain(), np.errstate(all="ignore"):
                found.append(wide.vjp(point, u)[index][doubted])
        if not found:
            break
        low, high = np.min(found, axis=0), np.max(found, axis=0)
        little = LIKE * (high - low)
        is_either = [(there <= low + little) | (there >= high - little) for there in found]
        # Of several branches the numbers are more than two, and still few.
        gaps = np.diff(np.sort(found, axis=0), axis=0) > SAME * (high - low)
        is_of_few = np.all(is_either, axis=0) | (np.count_nonzero(gaps, axis=0) < KINDS)
        is_within = (low - little <= claimed) & (claimed <= high + little)
        excused |= (little > 0) & is_within & is_of_few
        if np.all(excused):
            break
    chosen[doubted] = excused
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The smallest relative errors that rounding leaves to be seen."""

    of_all: float  # a factor in all of the leaf
    of_one: float  # in an entry of usual size

    def with_(self, truth: Array, bar: Array, spread: float) -> "Seen":
        with np.errstate(over="ignore"):  # of a truth that is hardly a number in any dtype
            relative = bar[truth != 0] / np.abs(truth[truth != 0])
        return Seen(
            of_all=min(self.of_all, _least(SIGNIFICANCE * spread)),
            of_one=min(self.of_one, _least(SIGNIFICANCE * float(np.median(relative)))),
        )


def _least(hidden: float) -> float:
    """The smallest error e that is seen: the bar, which is `hidden`, grows with what is claimed."""
    return hidden / (1 - hidden) if hidden < 1 else inf


def _blunted(finding: Finding, problem: Problem, index: int, seen: Seen) -> Finding:
    """A pass in a narrow dtype: nothing below ten roundings was seen, nor what they hide."""
    if finding.reason is Reason.VACUOUS:  # of nothing nothing is hidden
        return finding
    least = SIGNIFICANCE * _epsilon(problem, index) / 2
    of_all, of_one = max(least, seen.of_all), max(least, seen.of_one)
    message = finding.message
    if finding.tolerance < of_all < inf and not message:
        message = (
            f"right in float64; rounding in {problem.leaves[index].digits} would hide a factor "
            f"within {of_all:.0e} of one in so few entries"
        )
    return replace(
        finding,
        resolution=max(finding.resolution, of_all) if finding.resolution else 0.0,
        message=message,
        power=tuple(
            replace(p, smallest=max(p.smallest, of_all if p.fault == "leaf" else of_one))
            for p in finding.power
        ),
    )


def _epsilon(problem: Problem, index: int) -> float:
    return max(array.epsilon for array in (problem.leaves[index], *problem.outputs))


def natural(u: Arrays, values: Arrays, x: Array) -> float:
    """The gradient's size if the value were proportional to the leaf: ‖u ∘ f‖ / |x|.

    A saturated tanh has the derivative 1 - y², and an ulp of y is all that is left of it; moving
    x by an ulp does not show that. So roundings of this size are in every bar.
    """
    parts = [norm(np.nan_to_num(u_ * f)) for u_, f in zip(u, values, strict=True)]
    return norm(np.array(parts)) / scale(x)


def unrest_of(
    problem: Problem, index: int, u: Arrays, claim: Array, rng: np.random.Generator
) -> Array:
    """How far each entry of a leaf's gradient moves when the point does, by an ulp.

    In float64 the points beside it are compared with each other: a rule may be wrong at the point
    alone, where a weight is one. In a narrow dtype the point may be one where nothing is rounded.
    """
    others = beside(problem, index, u, rng)
    alone = len(others) > 1 and problem.epsilon <= EPSILON["float64"]
    return spread(others if alone else [claim, *others])


def beside(
    problem: Problem,
    index: int,
    u: Arrays,
    rng: np.random.Generator,
    count: int = DISTURBED,
    *,
    ulps: int = 1,
) -> list[Array]:
    """A leaf's gradients at points an ulp away, or up to so many.

    A neighbour that the target refuses lies out of its domain, and says nothing.
    """
    found = []
    for _ in range(count):
        with maybe_out_of_domain():
            there = disturbed(rng, problem.leaves, problem.point, ulps=ulps)
            found.append(problem.vjp(there, u)[index])
    return found


def spread(gradients: Sequence[Array]) -> Array:
    """How far apart each entry lies at most; infinitely far where one is not finite."""
    most = np.zeros(gradients[0].shape)
    for one, other in combinations(gradients, 2):
        with np.errstate(invalid="ignore"):
            off = np.nan_to_num(np.abs(one - other), nan=inf, posinf=inf)
        most = np.maximum(most, off)
    return most


def restless(unrest: Array, largest: Array, epsilon: float, *, roundings: int = 4) -> Array:
    """The error bar of each entry: its measured unrest, that of a typical one, a few roundings."""
    calm = np.nan_to_num(unrest, nan=0.0, posinf=0.0)
    sizes = np.nan_to_num(largest, nan=0.0, posinf=0.0)
    return np.asarray(calm + np.median(calm) + roundings * epsilon * sizes)


def _bars(
    problem: Problem, index: int, u: Arrays, claim: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The error bar of each entry: of one that is off by itself, and of a usual one."""
    unrest = unrest_of(problem, index, u, claim, rng)
    epsilon = _epsilon(problem, index)
    tiny = max(array.tiny for array in (problem.leaves[index], *problem.outputs))
    # The size of all of the gradient; an entry has its share. Where terms cancel (a key under a
    # softmax) one entry of many has lost four roundings of that; all of them together, one. With
    # these the 3,400 modules of PyTorch that run in bfloat16 and float16 pass, and not with less;
    # with eight and the significance on top, a factor of 1.3 in bfloat16 was lost.
    whole = natural(u, problem.value(problem.point), problem.point[index])
    own = restless(unrest, np.abs(claim), epsilon, roundings=1) + 4 * tiny
    share = epsilon * whole / max(claim.size, 1) ** 0.5
    return np.asarray(own + 4 * share), np.asarray(own + share)


def _accused(finding: Finding, claim: Array, truth: Array, wrong: Array, bar: Array) -> Finding:
    finite = np.isfinite(claim)
    pattern = None if np.all(finite) else "not finite"
    message = f"{int(wrong.sum())} of {wrong.size} entries differ from the same rule in float64"
    if pattern:
        message += "; " + ADVICE[pattern]
    return replace(
        finding,
        verdict=Verdict.FAIL,
        mismatch=norm((claim - truth)[finite]) / max(norm(truth), norm(claim[finite]), 1e-300),
        oracle="the target in float64",
        message=message,
        entries=entries_of(wrong, claim, truth, bar),
        diagnosis=pattern,
        power=(),
    )
