"""Values that climb stairs: a rounding inside, or a quantiser."""

import numpy as np

from gradcheck.oracles.rungs import FINER, FIRST, OFF_GRID, RUNGS, STALLED
from gradcheck.probes import Line
from gradcheck.problem import Array

__all__ = ["STEPPED", "climbing", "is_staircase"]

# The least height of steps, relative to the value, that are none of float32: 64 of its roundings,
# of 2⁻²⁶ as `noise` measures one.
STEPPED = 2.0**-20


def is_staircase(line: Line) -> bool:
    """Whether some of the outputs that move at the ladder's first step climb stairs."""
    climbs, stairs = (sum(map(np.count_nonzero, masks)) for masks in climbing(line))
    return bool(stairs > STALLED * climbs)


def climbing(line: Line) -> tuple[list[Array], list[Array]]:
    """Which outputs climb, and which of those climb stairs.

    Stairs are what moves at the first step, to either side, and at the last to neither; a kink
    moves to one. And they stand as still at the first step: what climbs there has a dead zone at
    the point, in which it is flat.
    """
    first, last = (OFF_GRID * line.unit * 2.0**-k for k in (FIRST, FINER[-1] + RUNGS - 1))
    above, below = line.at(first), line.at(-first)
    far = zip(above, below, line.centre, strict=True)
    near = zip(line.at(last), line.at(-last), line.centre, strict=True)
    beyond = zip(line.at(first + last), above, line.at(-first - last), below, strict=True)
    climbs = [(a != f) & (b != f) for a, b, f in far]
    stands = [(a == f) & (b == f) for a, b, f in near]
    rests = [(a == a_) | (b == b_) for a_, a, b_, b in beyond]
    return climbs, [c & s & r for c, s, r in zip(climbs, stands, rests, strict=True)]
