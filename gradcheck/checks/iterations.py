"""A value that is known up to jumps only: that of an iteration which stops at a tolerance.

Of f computed with an error e, a difference sees f′ + e′. Where the iteration makes one step more, e
jumps, and e′ with it; between jumps it is smooth, and looks like an error of the gradient. Two
things tell it from one. Across a jump the mismatch changes and the gradient does not: that of a
wrong rule stays, whatever a mask, a router or a quantiser makes of the value. And e is bounded:
over many jumps the values rise as the integral of the gradient says, which no difference does.

How far a leaf may be moved for that is limited: an equilibrium whose weights grow need not settle,
and then its loop does not end. Towards zero it may go farther.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from gradcheck import jumps
from gradcheck.errors import maybe_out_of_domain
from gradcheck.evidence import Probe
from gradcheck.oracles import path
from gradcheck.oracles.rungs import FIRST
from gradcheck.probes import Line
from gradcheck.problem import has_digits_of_float32, inner
from gradcheck.results import Finding, Verdict

__all__ = ["unless_another_jumps", "unless_it_jumps"]

ITERATION = "an iteration that stops"  # what is said of a leaf along which the value jumps

TIGHTEN = (
    "as where an iteration stops at a tolerance: tighten it for this check, or accept a larger rtol"
)

NEARBY = (2.0**-5, 2.0**-3)  # how far on either side jumps are looked for, in sizes of the leaf
SHRUNK = 0.5  # and how far towards zero

ROUNDING, LOW = 1e-10, 2e-3  # a jump is larger than that part of the value, and smaller than this

# Stairs no higher than so many roundings of numbers like one, or like the leaf, are what these left
# when they cancelled: 1 + erf(x) at -8.
FEW = 32.0

# A larger mismatch than this is that of jumps as near as the steps of a bisection, or none's.
SMALL = 0.1

# Across a jump a mismatch changes by the contraction of the iteration, and the gradient by nothing.
# A rule that is off by a factor is off by the same on both sides of a mask.
CHANGES, STAYS = 0.15, 0.25

# Between two of its jumps an iteration is never exact, and a rule that is wrong for one branch is
# right in the other, as far as differences see.
RIGHT = 1e-5

# How many times as far as a mismatch takes to make up for a jump the next one is, at most.
SOON = 8.0

BOUNDED = 0.1  # of the mismatch of the slopes, what may be left of it over many jumps
COMES_BACK = 0.5
PLACES = 5  # at which the mismatch must be, of which most must have it

STEP = 2.0**-20  # of the leaf's unit: of differences between jumps


def unless_it_jumps(finding: Finding, probe: Probe, rng: np.random.Generator) -> Finding:
    """The failure, unless it is that of a value which is known up to jumps only."""
    line = probe.line
    if finding.verdict is not Verdict.FAIL or line.problem.is_narrow or len(line.v) > 1:
        return finding
    if all(map(has_digits_of_float32, line.centre)):
        return finding
    highest = 0.0
    with maybe_out_of_domain():
        if _is_rounded_away(probe):
            return _rounded_away(finding)
        segments = _segments(probe)
        for along, low, high in segments if probe.mismatch <= SMALL else islice(segments, 1):
            jump = jumps.highest(along.change, low, high, ROUNDING * line.weight)
            if not 0 < jump.height <= LOW * line.weight:
                continue
            if _turns(probe, along, jump, high - low) or _is_bounded(probe, along, high, rng):
                is_branch = any(_is_branch(line, entry.index) for entry in finding.entries[:SOME])
                return finding if is_branch else _jumping(finding, jump.height)
            highest = max(highest, jump.height)
    if not highest:
        return finding
    hint = (
        f"; the value jumps by {highest:.0e} nearby: if that is an iteration which stops at a "
        "tolerance, tighten it for this check"
    )
    return replace(finding, message=finding.message + hint)


def unless_another_jumps(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings, open where what fails is as small as what jumps along another leaf hide.

    One iteration makes the value of all leaves, and leaves each a mismatch of that order. What has
    a pattern is no remainder of an iteration.
    """
    hidden = max((f.resolution for f in findings if f.diagnosis == ITERATION), default=0.0)
    if not hidden:
        return tuple(findings)

    def is_alike(finding: Finding) -> bool:
        failed = finding.verdict is Verdict.FAIL and finding.diagnosis is None
        return failed and finding.mismatch <= min(hidden, ALIKE)

    message = f"as small as what is hidden along other leaves by jumps of the value, {TIGHTEN}"
    return tuple(_left_open(f, 2 * f.mismatch, message) if is_alike(f) else f for f in findings)


# A larger mismatch than that is none of an iteration of which another leaf speaks. Of right layers
# (Picard, Anderson, at 1e-6) the largest was 0.9 of what is hidden along another.
ALIKE = 1e-2

SOME = 3  # wrong entries that are looked at alone


def _is_branch(line: Line, place: tuple[int, ...]) -> bool:
    """Whether what is wrong of one entry is right beyond a jump of the value along it."""
    ((index, v),) = line.v.items()
    alone = np.zeros_like(v)
    alone[place] = 1.0
    own = line.along({index: alone})
    for reach in NEARBY:
        ends = -reach * own.unit, reach * own.unit
        jump = jumps.highest(own.change, *ends, ROUNDING * own.weight)
        if jump.height:
            (_, off), (_, other) = _beside(own, jump)
            return min(abs(off), abs(other)) < RIGHT * max(abs(off), abs(other))
    return False


def _beside(line: Line, jump: jumps.Jump) -> list[tuple[float, float]]:
    """What is claimed on both sides of a jump, and how far it is from the slope there."""
    beside = max(jump.high - jump.low, 4 * STEP * line.unit)
    return [_mismatch(line, t) for t in (jump.low - beside, jump.high + beside)]


def _segments(probe: Probe) -> Iterator[tuple[Line, float, float]]:
    """Lines, and how far along them jumps are looked for."""
    line = probe.line
    for reach in NEARBY:
        yield line, -reach * line.unit, reach * line.unit
    x = line.problem.point[probe.index]
    moved = line.v[probe.index] != 0
    shrinking = np.where(moved, -x, 0)
    if np.any(shrinking):
        yield line.along({probe.index: shrinking}, unit=1.0), 0.0, SHRUNK


def _mismatch(line: Line, t: float) -> tuple[float, float]:
    """What is claimed at `t`, and how far the values' slope is from it."""
    h = STEP * line.unit
    at = line.moved(t)
    slope = line.rise(line.at(t + h), line.at(t - h)) / (2 * h)
    gradients = line.problem.vjp(line.filled(at), line.u)
    claimed = sum(inner(gradients[k], v) for k, v in line.v.items())
    return claimed, claimed - slope


def _turns(probe: Probe, line: Line, jump: jumps.Jump, length: float) -> bool:
    """Whether the mismatch changes across a jump as much as it is large; the gradient does not.

    And whether what such a mismatch leads away from is come back to by the next jump.
    """
    (before, off), (after, other) = _beside(line, jump)
    largest, claim = max(abs(off), abs(other)), max(abs(before), abs(after))
    if not np.isfinite(largest) or not largest or not claim:
        return False
    if min(abs(off), abs(other)) < RIGHT * largest:
        return False
    change = abs(off - other)
    explains = change > CHANGES * max(largest, probe.mismatch * line.size)
    if not explains or abs(before - after) / claim >= STAYS * change / largest:
        return False
    reach = SOON * jump.height / largest
    if reach > length / SOON:
        return True
    sides = (jump.high, jump.high + reach), (jump.low - reach, jump.low)
    least = jump.height / SOON
    return any(jumps.highest(line.change, low, high, least).height for low, high in sides)


def _is_bounded(probe: Probe, line: Line, reach: float, rng: np.random.Generator) -> bool:
    """Whether the mismatch is at most places and yet nothing is left of it over a segment."""
    v = line.v[probe.index]
    other = line.along({probe.index: v * rng.uniform(0.5, 1.5, v.shape)})
    for along in (line, other):
        pairs = [_mismatch(along, t) for t in rng.uniform(0, reach, PLACES)]
        claimed, usual = (float(np.median(np.abs(sizes))) for sizes in zip(*pairs, strict=True))
        if not usual > CHANGES * probe.mismatch * along.size:
            return False
        goal = BOUNDED * usual / along.size if along.size else 0.0
        mean = path.integrate(along, reach / along.unit, goal=goal, close=goal / 4)
        if mean is None:
            return False
        left = abs(mean.claimed - mean.slope) + mean.error_bar
        # Where the value comes back to what it was, nothing is left of a factor either.
        if not left <= BOUNDED * usual or not abs(mean.slope) >= COMES_BACK * claimed:
            return False
    return True


def _is_rounded_away(probe: Probe) -> bool:
    """Whether the value climbs stairs of a few roundings of numbers like one, which cancelled.

    Between two of them it is smooth, and no steeper than what these left of it. A rule that is
    wrong claims another rise over many.
    """
    line = probe.line
    most = FEW * line.ulp * max(line.unit, 1.0)
    if not probe.excess * 2.0**-FIRST * line.unit <= FEW * most:  # what stairs cannot hide
        return False
    for reach in (*CLOSER, *NEARBY):
        ends = -reach * line.unit, reach * line.unit
        height = jumps.highest(line.change, *ends, ROUNDING * line.weight).height
        if 0 < height <= most:
            mean = path.integrate(line, NEARBY[-1], goal=1.0, close=CLOSE)
            if mean is None:
                return True
            left = STEPS * height / (mean.reach * line.unit) + mean.error_bar
            return abs(mean.claimed - mean.slope) <= left
    return False


# How near stairs may be, in sizes of the leaf; those that are left of a rise over many, one at
# either end, of maybe twice that height; and a quadrature error.
CLOSER, STEPS, CLOSE = (2.0**-16, 2.0**-12, 2.0**-8), 4.0, 1e-3


def _rounded_away(finding: Finding) -> Finding:
    message = (
        "of the value only a few roundings of larger numbers are left, which cancelled: it climbs "
        "stairs, and says nothing of this gradient"
    )
    return _left_open(finding, 1.0, message)


def _jumping(finding: Finding, height: float) -> Finding:
    """What is left of a failure where jumps of the value hide as much.

    It is of small entries alone, if that is less than the tolerance of the whole.
    """
    hidden = 2 * finding.mismatch
    if hidden <= finding.tolerance:
        message = f"entries differ by what an iteration leaves: {hidden:.0e} of the gradient"
        return replace(_left_open(finding, hidden, message), verdict=Verdict.PASS)
    message = (
        f"the value jumps by {height:.0e} nearby, which hides any error below {hidden:.0e} of the "
        f"gradient, {TIGHTEN}"
    )
    return replace(_left_open(finding, hidden, message), diagnosis=ITERATION)


def _left_open(finding: Finding, hidden: float, message: str) -> Finding:
    return replace(
        finding,
        verdict=Verdict.INCONCLUSIVE,
        resolution=max(finding.resolution, hidden),
        message=message,
        entries=(),
        diagnosis=None,
        power=(),
    )
