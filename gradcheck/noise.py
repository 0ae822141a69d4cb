"""How noisy a function is along a line: measured, never assumed from a dtype.

A function that takes float64 and computes in float32 inside is a staircase: at a spacing far
below its steps the table of differences reads zero. Several spacings are therefore tried, and
what a reading means depends on the finer ones: where the function was seen to be smooth, what
looks like noise at a coarse spacing is an oscillation that it skips.

Sources:
    Moré and Wild, Estimating Computational Noise, SIAM J. Sci. Comput. 33 (2011), section 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import sqrt

import numpy as np

from gradcheck.problem import Array, norm

__all__ = ["SPACINGS", "Jump", "Noise", "Reading", "jump", "measure", "read"]

# In units of the leaf's scale, two for each precision that are well above its steps and far apart:
# 1e-16 for float64, 1e-7 for float32, 1e-3 for float16 and 8e-3 for bfloat16.
SPACINGS = (1e-11, 1e-8, 1e-6, 1e-4, 1e-3, 5e-2)

# Where nothing moves at any of those. What is then seen as noise is not larger than an ulp of one.
FAR = (1e1, 1e2, 1e3, 1e4)

POINTS = 7  # recommended in section 3.2; with fewer, three successive orders cannot agree

# Ulps of a number like one, within which a value that goes up and down is rounded, whatever the
# table says of it.
WOBBLE = 8.0

# A level above this part of the first differences is no ripple on a slope: it is all there is.
DOMINANT = 0.3


# A saw is as noisy as a part of the rise along one of its teeth, 0.3 of it if they are equal. A
# spacing must step over several for their noise to be seen, and as many are searched for a jump.
TEETH, JUMPING = 8.0, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How noisy a function is."""

    level: float  # standard deviation
    throughout: bool = (
        False  # whether no finer spacing than the noise's own showed a smooth function
    )
    # If it is that of a function which is smooth between its jumps: what it is without them.
    smoothly: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What seven equally spaced values show."""

    moves: bool  # whether most values differ from their neighbours
    level: float | None = None  # standard deviation of the noise, if there is any
    dominant: bool = False  # whether the noise is as large as the values' changes
    leap: float = 0.0  # the height of a single step that stands out of an otherwise smooth table
    stands: bool = False  # whether nothing moves at all
    step: float = 0.0  # the largest change, where most values are equal
    climbs: bool = False  # whether all values but one differ from their neighbours
    stride: float = 0.0  # by how much, on average; beside a jump
    wobble: float = 0.0  # the size of the steps, where they go up and down


def measure(change: Callable[[float], float], unit: float, ulp: float = 0.0) -> Noise:
    """Return the noise of φ, from `change(t)` = φ(t) - φ(0).

    Args:
        change: φ(t) - φ(0).
        unit: the size of a step.
        ulp: what rounding a number of the size of one inside the function may do to φ. What is no
            larger than that is rounding, even where it is all there is: `log(1 + x) - x` at 1e-9.

    The largest believable level counts. Where no finer spacing showed a smooth function, any is.
    Where one did, what looks like noise may be structure that the spacing skips. Noise then has
    the same level at a spacing fifty times finer, or its steps were seen as jumps; and it is a
    ripple on the slope, where a skipped oscillation is all there is, unless a jump is found in it:
    between two roundings of 1 - cos x, the quotient (1 - cos x) / x² is as smooth as 1 / x².
    """
    readings = [_reading(change, spacing * unit) for spacing in SPACINGS]
    believable, rough, smooth, leap = 0.0, 0.0, False, 0.0
    skipped: list[float] = []  # levels of what may be an oscillation
    steep = 0.0  # the slope where the function was seen to be smooth first
    if not any(reading.climbs for reading in readings):  # `1 - cos x` at 1e-8: look from farther
        far = [_reading(change, spacing * unit).level or 0.0 for spacing in FAR]
        believable = max((level for level in far if level <= ulp), default=0.0)
    for k, reading in enumerate(readings):
        level = reading.level
        finer = [r.level for r, s in zip(readings, SPACINGS, strict=True) if 50 * s <= SPACINGS[k]]
        steady = leap > 0 or any(_is_like(level, other) for other in finer)
        rounding = level is not None and level <= ulp
        if level is not None and (not smooth or rounding or (steady and not reading.dominant)):
            believable = max(believable, level)
            rough = max(rough, 0.0 if smooth or rounding else level)
        elif level is not None and steady and TEETH * level < steep * SPACINGS[k] * unit:
            skipped.append(level)
        if reading.climbs and not smooth:
            stairs = _stairs(readings[:k], reading.stride / SPACINGS[k])
            believable = max(believable, stairs)
            rough = max(rough, stairs)
        if reading.wobble <= WOBBLE * ulp:
            believable = max(believable, reading.wobble)
        smooth |= reading.climbs and not reading.dominant
        steep = steep or smooth * reading.stride / (SPACINGS[k] * unit)
        leap = max(leap, reading.leap)
    if skipped and max(skipped) > believable and steep:
        least, reach = JUMPING * skipped[0], TEETH * skipped[0] / steep
        # A saw has teeth elsewhere too, and a single step has not.
        sides = ((start * reach, (start + 1) * reach) for start in (0, -1, 1, -2))
        teeth = (side for side in sides if jump(change, *side, least).height > least)
        if len(list(islice(teeth, 2))) > 1:
            return Noise(level=max(skipped), smoothly=believable)
    return Noise(level=believable, throughout=rough > 0 and _is_like(rough, believable))


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """A jump between two points; of no height if there is none."""

    height: float = 0.0
    low: float = 0.0
    high: float = 0.0


def jump(change: Callable[[float], float], low: float, high: float, least: float = 0.0) -> Jump:
    """Return the highest jump of φ that is seen between `low` and `high`, of `least` at least.

    Intervals are halved in which φ rises otherwise than those beside them say. There a jump stays
    as large as it is, while what a smooth function or a kink leaves goes away with the interval.
    """
    ticks = [low + (high - low) * tick / INTERVALS for tick in range(INTERVALS + 1)]
    values = [change(tick) for tick in ticks]
    if not np.all(np.isfinite(values)):
        return Jump()
    rises = np.diff(values)
    # Of a polynomial of fourth degree, the rises beside one give the one between.
    expected = (4 * (rises[1:-3] + rises[3:-1]) - rises[:-4] - rises[4:]) / 6
    likely = 2 + np.argsort(np.abs(rises[2:-2] - expected))[-CANDIDATES:]
    ends = list(zip(ticks, values, strict=True))
    found = (_halved(change, ends[k], ends[k + 1], least) for k in likely)
    return max(found, key=lambda jump: jump.height)


INTERVALS = 16  # among which a jump is looked for

CANDIDATES = 3  # those that are looked into

# Of an interval, at first with several jumps, maybe. A kink halves with each of the last two, and
# what is smooth is a thousandth after two.
HALVINGS, GONE, STAYS = 8, 2.0**-7, 0.7

# A kink halves with its interval, and beside it all is smooth; so many times, it is one.
BENT, ALONE, BENDS = 0.6, 0.05, 4

ROUNDS = 2  # of those, where many jumps lie as near to each other as the steps of a bisection

Point = tuple[float, float]  # t, φ(t)
Sloping = tuple[float, float, float]  # t, φ(t), the slope just after it


def _halved(
    change: Callable[[float], float],
    low: Point,
    high: Point,
    least: float,
    rounds: int = ROUNDS,
) -> Jump:
    """The jump between two points, if there is one; of several, one."""
    near = (high[0] - low[0]) * 2.0 ** -(HALVINGS + 8)

    def sloping(t: float, value: float) -> Sloping:
        return t, value, (change(t + near) - value) / near

    def between(a: Sloping, b: Sloping) -> Sloping:
        t = (a[0] + b[0]) / 2
        return sloping(t, change(t))

    def unlike(a: Sloping, middle: Sloping, b: Sloping) -> float:
        """How far the rise is from the integral of the slope, by Simpson's rule."""
        mean = (a[2] + 4 * middle[2] + b[2]) / 6
        return abs(b[1] - a[1] - mean * (b[0] - a[0]))

    start, end = sloping(*low), sloping(*high)
    middle, bends = between(start, end), 0
    sizes = [unlike(start, middle, end)]
    for _ in range(HALVINGS):
        if not sizes[-1] >= least:
            return Jump()
        halves = [(a, between(a, b), b) for a, b in ((start, middle), (middle, end))]
        left = [unlike(*half) for half in halves]
        sizes.append(max(left))
        start, middle, end = halves[left.index(sizes[-1])]
        if not sizes[-1] > GONE * sizes[0]:
            return Jump()
        bends += sizes[-1] < BENT * sizes[-2] and min(left) < ALONE * sizes[-1]
        if bends >= BENDS:
            return Jump()
    if sizes[-1] > STAYS * sizes[-3]:
        return Jump(height=sizes[-1], low=start[0], high=end[0])
    return _halved(change, start[:2], end[:2], least, rounds - 1) if rounds > 1 else Jump()


def _stairs(finer: Sequence[Reading], slope: float) -> float:
    """The noise of a function that stands still where its slope says it should move.

    It is rounded to a multiple of a q that is not smaller than the rise it ignored; rounding to a
    multiple of q has the standard deviation q/√12.
    """
    rises = [0.0]
    for reading, spacing in zip(finer, SPACINGS, strict=False):
        if reading.stands:
            rises.append(slope * spacing * (POINTS - 1))
        rises.append(reading.step)
    return max(rises) / sqrt(12)


def _reading(change: Callable[[float], float], spacing: float) -> Reading:
    ticks = [(index - POINTS // 2) * spacing for index in range(POINTS)]
    return read([change(tick) if tick else 0.0 for tick in ticks])


def _is_like(level: float | None, other: float | None) -> bool:
    """Whether two levels are the same noise: estimates from seven values, so within a decade."""
    return level is not None and other is not None and level <= 10 * other <= 100 * level


def read(values: Sequence[float]) -> Reading:
    """Return what equally spaced values show.

    σₖ² = γₖ mean((Δᵏφ)²) with γₖ = (k!)²/(2k)!; a level is accepted at the first order k from
    which three successive σ agree within a factor of four and Δᵏφ changes sign. A single jump, or
    a single bend, is no noise.
    """
    table = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(table)):
        return Reading(moves=False)
    first = np.diff(table)
    moves = np.count_nonzero(first) > len(first) / 2
    # A bend within the first or the last interval looks like a jump there.
    lone = int(np.argmax(np.abs(first - np.median(first))))
    jumps = _is_lone(first, 1) and 0 < lone < len(first) - 1
    leap = float(np.abs(first[lone] - np.median(first))) if jumps else 0.0
    climbs = bool(np.count_nonzero(first) >= POINTS - 2)
    plain = Reading(
        moves=bool(moves),
        leap=leap,
        stands=not np.any(first),
        step=0.0 if climbs else float(np.max(np.abs(first))),
        climbs=climbs,
        stride=float(np.median(np.abs(first)) if jumps else np.mean(np.abs(first))),
        wobble=_deviation(first) if _turns(first) > 1 else 0.0,
    )
    if not moves or jumps or _is_lone(np.diff(first), 2):
        return plain
    gamma, levels, signs = 1.0, [], []
    for order in range(1, len(values)):
        table = np.diff(table)
        gamma *= order / (2.0 * (2 * order - 1))
        levels.append(sqrt(gamma) * _deviation(table))
        signs.append(bool(np.min(table) < 0 < np.max(table)))
    for k in range(len(levels) - 2):
        three = levels[k : k + 3]
        if signs[k] and max(three) <= 4 * min(three):
            typical = _deviation(first)
            return replace(plain, level=levels[k], dominant=levels[k] > DOMINANT * typical)
    return plain


def _turns(differences: Array) -> int:
    """How often the values turn from rising to falling or back; a smooth function does so once."""
    signs = np.sign(differences[differences != 0])
    return int(np.count_nonzero(np.diff(signs)))


def _deviation(table: Array) -> float:
    """The root of the mean square, without overflow."""
    return norm(table) / sqrt(len(table))


def _is_lone(differences: Array, width: int) -> bool:
    """Whether `width` of the differences, less their median, outweigh all others threefold.

    A jump shows in one first difference, a bend between two ticks in two second differences.
    Noise does so in one table of fifty.
    """
    sizes = np.sort(np.abs(differences - np.median(differences)))
    lone, others = float(sizes[-width:].sum()), float(sizes[:-width].sum())
    return lone > 3 * others
