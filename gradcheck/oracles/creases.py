"""Kinks at the point, seen output by output: in a sum of outputs they may cancel."""

from dataclasses import dataclass
from math import sqrt

from gradcheck.oracles.rungs import OFF_GRID, STALLED, STILL
from gradcheck.probes import Line, Sample
from gradcheck.settings import SIGNIFICANCE

__all__ = ["Fold", "fold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """The interval of slopes that kinks at the point leave open."""

    width: float = 0.0
    stays: bool = True  # whether it is as wide at the finest steps, but for noise


def fold(line: Line, level: float = 0.0) -> Fold:
    """Return the fold at the point; of no width if there is none.

    Output by output: Σ |uⱼ| |jump of the slope of fⱼ|. Kinks of two outputs may cancel in φ,
    where each output's subgradient is still free. Of two steps, a fold that shrinks with the
    step is curvature and a fold that stays is a kink: (4 Δ(h/4) - Δ(h)) / 3 keeps the latter. What
    stands still at finer steps is no kink but a stair.
    """

    def bar(sample: Sample) -> float:
        noise = level / sample.h * sqrt(max(sample.moving, 1))
        return SIGNIFICANCE * 8 * (sample.rounding + noise)

    h = line.unit * 2.0**-18  # 4e-6: noise 3e-11, and no kink farther than that is taken for one
    wide, narrow = line.sample(h), line.sample(h / 4)
    width = (4 * narrow.crease - wide.crease) / 3
    if not width > bar(narrow):
        return Fold()
    finest = line.sample(OFF_GRID * STILL * line.unit)
    if finest.moving < (1 - STALLED) * wide.moving:
        return Fold()
    return Fold(width=width, stays=bool(abs(finest.crease - width) <= max(bar(finest), width / 2)))
