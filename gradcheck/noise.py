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
from math import sqrt

import numpy as np

from gradcheck.problem import Array

__all__ = ["SPACINGS", "Reading", "measure", "read"]

# In units of the leaf's scale: about float64's steps of a typical entry, below float32's, above
# float32's, above float16's, above bfloat16's.
SPACINGS = (1e-11, 1e-8, 1e-5, 1e-3, 3e-2)

POINTS = 7  # recommended in section 3.2; with fewer, three successive orders cannot agree

# A level above this part of the first differences is no ripple on a slope: it is all there is.
DOMINANT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What seven equally spaced values show."""

    moves: bool  # whether most values differ from their neighbours
    level: float | None = None  # standard deviation of the noise, if there is any
    dominant: bool = False  # whether the noise is as large as the values' changes


def measure(change: Callable[[float], float], unit: float) -> float:
    """Return the noise level of φ, from `change(t)` = φ(t) - φ(0), `unit` the size of a step.

    The largest level at any spacing counts. A dominant one does not where a finer spacing showed
    a smooth function: that is an oscillation, and finer steps will resolve it.
    """
    level, smooth = 0.0, False
    for spacing in SPACINGS:
        ticks = [(index - POINTS // 2) * spacing * unit for index in range(POINTS)]
        reading = read([change(tick) if tick else 0.0 for tick in ticks])
        if reading.level is not None and not (reading.dominant and smooth):
            level = max(level, reading.level)
        smooth |= reading.moves and not reading.dominant
    return level


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
    if not moves or _is_lone(first, 1) or _is_lone(np.diff(first), 2):
        return Reading(moves=bool(moves))
    gamma, levels, signs = 1.0, [], []
    for order in range(1, len(values)):
        table = np.diff(table)
        gamma *= order / (2.0 * (2 * order - 1))
        levels.append(sqrt(gamma * float(np.mean(table**2))))
        signs.append(bool(np.min(table) < 0 < np.max(table)))
    for k in range(len(levels) - 2):
        three = levels[k : k + 3]
        if signs[k] and max(three) <= 4 * min(three):
            typical = float(np.sqrt(np.mean(first**2)))
            return Reading(moves=True, level=levels[k], dominant=levels[k] > DOMINANT * typical)
    return Reading(moves=True)


def _is_lone(differences: Array, width: int) -> bool:
    """Whether `width` of the differences, less their median, outweigh all others threefold.

    A jump shows in one first difference, a bend between two ticks in two second differences.
    Noise does so in one table of fifty.
    """
    sizes = np.sort(np.abs(differences - np.median(differences)))
    return bool(sizes[-width:].sum() > 3 * sizes[:-width].sum() > 0) or (
        sizes[-1] > 0 and sizes[:-width].sum() == 0
    )
