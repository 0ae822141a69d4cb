"""How noisy a function is along a line: measured, never assumed from a dtype.

A function that takes float64 and computes in float32 inside is a staircase: at a spacing far
below its steps the table of differences reads zero. Several spacings are therefore tried, and
what a reading means depends on the finer ones: where the function was seen to be smooth, what
looks like noise at a coarse spacing is an oscillation that it skips.

Sources:
    Moré and Wild, Estimating Computational Noise, SIAM J. Sci. Comput. 33 (2011), section 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from math import sqrt

from gradcheck.jumps import highest
from gradcheck.tables import POINTS, Reading, read

__all__ = ["SPACINGS", "Noise", "measure"]

# In units of the leaf's scale, two for each precision that are well above its steps and far apart:
# 1e-16 for float64, 1e-7 for float32, 1e-3 for float16 and 8e-3 for bfloat16.
SPACINGS = (1e-11, 1e-8, 1e-6, 1e-4, 1e-3, 5e-2)

# Where nothing moves at any of those. What is then seen as noise is not larger than an ulp of one.
FAR = (1e1, 1e2, 1e3, 1e4)

# Ulps of a number like one, within which a value that goes up and down is rounded, whatever the
# table says of it.
WOBBLE = 8.0

# A saw is as noisy as a part of the rise along one of its teeth, 0.3 of it if they are equal. A
# spacing must step over several for their noise to be seen, and as many are searched for a jump.
TEETH, JUMPING = 8.0, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How noisy a function is."""

    level: float  # standard deviation
    # Whether no finer spacing than the noise's own showed a smooth function.
    throughout: bool = False
    # If it is that of a function which is smooth between its jumps: what it is without them.
    smoothly: float | None = None


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
    seen = _levels(readings, unit, ulp)
    believable = seen.believable
    if not any(reading.climbs for reading in readings):  # `1 - cos x` at 1e-8: look from farther
        far = [_reading(change, spacing * unit).level or 0.0 for spacing in FAR]
        believable = max([believable, *(level for level in far if level <= ulp)])
    if max(seen.skipped, default=0.0) > believable and _is_saw(change, seen):
        return Noise(level=max(seen.skipped), smoothly=believable)
    return Noise(level=believable, throughout=seen.rough > 0 and _is_like(seen.rough, believable))


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What readings at several spacings say of the noise."""

    believable: float  # the largest level that is one
    rough: float  # the same, of what no finer spacing showed to be smooth, and is no rounding
    skipped: tuple[float, ...]  # levels of what may be an oscillation that a spacing steps over
    steep: float  # the slope where the function was seen to be smooth first


def _levels(readings: Sequence[Reading], unit: float, ulp: float) -> Levels:
    believable, rough, smooth, leap = 0.0, 0.0, False, 0.0
    skipped, steep = [], 0.0
    for k, reading in enumerate(readings):
        level = reading.level
        finer = [r.level for r, s in zip(readings, SPACINGS, strict=True) if 50 * s <= SPACINGS[k]]
        steady = leap > 0 or any(_is_like(level, other) for other in finer)
        rounding = level is not None and level <= ulp
        if level is not None and (not smooth or rounding or (steady and not reading.dominant)):
            believable = max(believable, level)
            rough = max(rough, 0.0 if smooth or rounding else level)
        elif level is not None and TEETH * level < steep * SPACINGS[k] * unit:
            skipped += [level] if steady or reading.dominant else []
        if reading.climbs and not smooth:
            stairs = _stairs(readings[:k], reading.stride / SPACINGS[k])
            believable = max(believable, stairs)
            rough = max(rough, stairs)
        if reading.wobble <= WOBBLE * ulp:
            believable = max(believable, reading.wobble)
        smooth |= reading.climbs and not reading.dominant
        steep = steep or smooth * reading.stride / (SPACINGS[k] * unit)
        leap = max(leap, reading.leap)
    return Levels(believable=believable, rough=rough, skipped=tuple(skipped), steep=steep)


def _is_saw(change: Callable[[float], float], seen: Levels) -> bool:
    """Whether what a spacing skips are jumps, on two sides: a single step is no saw.

    They are looked for at the finest spacing that skips them, where the fewest teeth are passed.
    """
    if not seen.steep:
        return False
    least, reach = JUMPING * seen.skipped[0], TEETH * seen.skipped[0] / seen.steep
    sides = ((start * reach, (start + 1) * reach) for start in (0, -1, 1, -2))
    teeth = (side for side in sides if highest(change, *side, least).height > least)
    return len(list(islice(teeth, 2))) > 1


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
