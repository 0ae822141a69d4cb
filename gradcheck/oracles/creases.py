"""Kinks at the point, seen output by output: in a sum of outputs they may cancel."""

from gradcheck.oracles.rungs import OFF_GRID, STALLED, STILL
from gradcheck.probes import Line
from gradcheck.settings import SIGNIFICANCE

__all__ = ["fold", "stays"]


def fold(line: Line, level: float = 0.0) -> float:
    """Return the width of the interval of slopes that kinks at the point leave open.

    Output by output: Σ |uⱼ| |jump of the slope of fⱼ|. Kinks of two outputs may cancel in φ,
    where each output's subgradient is still free. Of two steps, a fold that shrinks with the
    step is curvature and a fold that stays is a kink: (4 Δ(h/4) - Δ(h)) / 3 keeps the latter. What
    stands still at finer steps is no kink but a stair.
    """
    h = line.unit * 2.0**-18  # 4e-6: noise 3e-11, and no kink farther than that is taken for one
    wide, narrow = line.sample(h), line.sample(h / 4)
    width = (4 * narrow.crease - wide.crease) / 3
    blur = narrow.rounding + level / narrow.h * max(narrow.moving, 1) ** 0.5
    if not width > SIGNIFICANCE * 8 * blur:
        return 0.0
    moving = line.sample(OFF_GRID * STILL * line.unit).moving
    return 0.0 if moving < (1 - STALLED) * wide.moving else width


def stays(line: Line, width: float, level: float) -> bool:
    """Whether a crease is as wide at the finest steps, but for noise."""
    h = OFF_GRID * STILL * line.unit
    near = line.sample(h)
    blur = near.rounding + level / h * max(near.moving, 1) ** 0.5
    return bool(abs(near.crease - width) <= max(SIGNIFICANCE * 8 * blur, width / 2))
