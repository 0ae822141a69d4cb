"""The path integral: what the values rise along a segment is the integral of what the VJP claims.

φ(b) - φ(a) = ∫ φ′(t) dt, with φ′ from the target's own VJP at the nodes of a Gauss-Kronrod rule.
No close numbers are subtracted, so the segment can be as long as the leaf is large and the noise of
two values is divided by all of that: in float32 a right gradient shows 5e-8 where the best central
difference shows 2.5e-6. It speaks of a segment, not of the point alone: a gradient that is wrong at
the point and nowhere else is not seen, and a jump of the value on the way looks like an error. So
it decides only where differences cannot, and accuses only where segments of several lengths agree.

The ends are taken as rounding to the leaf's dtype leaves them, and so is the displacement. No node
lies on the point itself, where conventions for subgradients live.

Sources:
    Piessens et al., QUADPACK (1983): the 7-point Gauss and 15-point Kronrod rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, isfinite

import numpy as np

from gradcheck.errors import maybe_out_of_domain
from gradcheck.probes import Line
from gradcheck.problem import Array, Arrays, inner, norm, widened

__all__ = ["Integral", "integrate"]

# Nodes and weights on [-1, 1], from the outermost node to the middle; each counts on both sides.
KRONROD = np.array(
    [
        [0.991455371120812639206854697526329, 0.022935322010529224963732008058970],
        [0.949107912342758524526189684047851, 0.063092092629978553290700663189204],
        [0.864864423359769072789712788640926, 0.104790010322250183839876322541518],
        [0.741531185599394439863864773280788, 0.140653259715525918745189590510238],
        [0.586087235467691130294144691693013, 0.169004726639267902826583426598550],
        [0.405845151377397166906606412076961, 0.190350578064785409913256402421014],
        [0.207784955007898467600689403773245, 0.204432940075298892414161999234649],
        [0.000000000000000000000000000000000, 0.209482141084727828012999174891714],
    ]
)
GAUSS = np.array(
    [
        0.129484966168869693270611432679082,
        0.279705391489276667901467771423780,
        0.381830050505118944950369775488975,
        0.417959183673469387755102040816327,
    ]
)  # at every second node
NODES = np.concatenate([-KRONROD[:, 0], KRONROD[-2::-1, 0]])
WEIGHTS = np.concatenate([KRONROD[:, 1], KRONROD[-2::-1, 1]])
COARSE = np.zeros(15)
COARSE[1::2] = np.concatenate([GAUSS, GAUSS[-2::-1]])

PIECES = 8  # at most, where a kink lies on the way: 15 VJPs each

# Where the point lies between the ends: not at a node of the rule, and at none after a bisection.
# From a leaf that is tiny, a long way goes to one side only: an even function would cancel.
BEHIND = 0.9

GOAL = 1e-9  # a quadrature error that is small enough for float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Integral:
    """What values and VJP say of one segment; slopes are means over its length."""

    reach: float  # the farther end, in units of the line
    claimed: float
    slope: float
    error_bar: float
    size: float  # of the claimed slope, if its terms did not cancel


def integrate(
    line: Line, reach: float, *, goal: float, level: float = 0.0, close: float = GOAL
) -> Integral | None:
    """Return both sides of the identity along `line`.

    None where a value is not finite, and where the noise of the ends alone hides more than `goal`:
    then the gradients between them need not be asked for.

    Args:
        reach: how far from the point the segment goes, in units of the line.
        goal: the relative error bar below which the integral is of use.
        level: noise of one evaluation of φ, if more than the rounding of the outputs is known.
        close: the quadrature error, relative to the size, at which no piece is divided further.
    """
    behind = BEHIND if reach <= 1 else 0.0
    low, high = line.moved(-behind * reach * line.unit), line.moved(reach * line.unit)
    below, above = line.values(low), line.values(high)
    if not all(np.all(np.isfinite(f)) for f in (*below, *above)):
        return None
    rounding = 2**0.5 * level
    for output, u, a, b in zip(line.problem.outputs, line.u, below, above, strict=True):
        rounding = hypot(rounding, output.epsilon * norm(np.abs(u) * (np.abs(a) + np.abs(b))))
    length = (1 + behind) * reach * line.unit
    rise = line.rise(above, below)
    if rounding > goal * max(abs(rise), line.size * length):
        return None
    way = {k: widened(high[k]) - widened(low[k]) for k in line.v}
    pieces = [_piece(line, low, way, 0.0, 1.0)]
    while True:
        total = float(np.sum([piece.integral for piece in pieces]))
        size = max(piece.size for piece in pieces)
        worst = max(pieces, key=lambda piece: piece.error)
        enough = worst.error <= max(close * size, rounding / PIECES)
        if not isfinite(total) or enough or len(pieces) >= PIECES:
            break
        pieces.remove(worst)
        middle = (worst.start + worst.stop) / 2
        pieces.append(_piece(line, low, way, worst.start, middle))
        pieces.append(_piece(line, low, way, middle, worst.stop))
    if not isfinite(total):
        return None
    # Nodes and gradients are rounded to the dtypes of the leaves, each by half an ulp at most.
    own = max(line.problem.leaves[k].epsilon for k in line.v) * size
    return Integral(
        reach=reach,
        claimed=total / length,
        slope=rise / length,
        error_bar=(sum(piece.error for piece in pieces) + rounding + own) / length,
        size=size / length,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    start: float
    stop: float
    integral: float
    error: float
    size: float  # of the integrand: ‖g ∘ way‖ at its largest


def _piece(
    line: Line, low: Mapping[int, Array], way: Mapping[int, Array], start: float, stop: float
) -> _Piece:
    """Both rules on the part of the segment from `start` to `stop`, of [0, 1]."""
    half, middle = (stop - start) / 2, (start + stop) / 2
    slopes, size = np.zeros(len(NODES)), 0.0
    for j, node in enumerate(NODES):
        gradients = _gradients(line, low, way, middle + half * node)
        slopes[j] = sum(inner(gradients[k], d) for k, d in way.items())
        size = max(size, norm(np.array([norm(gradients[k] * d) for k, d in way.items()])))
    fine, coarse = half * float(WEIGHTS @ slopes), half * float(COARSE @ slopes)
    return _Piece(start=start, stop=stop, integral=fine, error=abs(fine - coarse), size=size)


def _gradients(line: Line, low: Mapping[int, Array], way: Mapping[int, Array], s: float) -> Arrays:
    leaves = line.problem.leaves
    moved = {k: leaves[k].rounded(widened(low[k]) + s * way[k]) for k in way}
    with np.errstate(all="ignore"), maybe_out_of_domain():
        return line.problem.vjp(line.filled(moved), line.u)
    return tuple(np.full_like(x, np.nan) for x in line.problem.point)
