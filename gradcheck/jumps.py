"""Where a function along a line jumps: intervals are halved, and what stays as large is a jump."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Jump", "highest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """A jump between two points; of no height if there is none."""

    height: float = 0.0
    low: float = 0.0
    high: float = 0.0


def highest(change: Callable[[float], float], low: float, high: float, least: float = 0.0) -> Jump:
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
