"""What equally spaced values show of a function: noise, a step, a bend, or nothing but a slope.

Sources:
    Moré and Wild, Estimating Computational Noise, SIAM J. Sci. Comput. 33 (2011), section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from gradcheck.problem import Array, norm

__all__ = ["POINTS", "Reading", "read"]

POINTS = 7  # recommended in section 3.2; with fewer, three successive orders cannot agree

# A level above this part of the first differences is no ripple on a slope: it is all there is.
DOMINANT = 0.3


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
    # What goes up and down again is not a bend; if it does so at the point, that stands alone.
    is_bent = _is_lone(np.diff(first), 2) if _turns(first) <= 1 else _is_spike(first)
    if not moves or jumps or is_bent:
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


def _is_spike(differences: Array) -> bool:
    """Whether the changes to the middle value and from it outweigh all others threefold."""
    sizes = np.abs(differences - np.median(differences))
    middle = len(sizes) // 2
    spike = float(sizes[middle - 1] + sizes[middle])
    return spike > 3 * (float(np.sum(sizes)) - spike)


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
