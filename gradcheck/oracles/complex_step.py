"""The complex step: φ′(0) = Im φ(ih)/h to rounding, with no difference taken.

It needs a target that is analytic and takes complex arrays. A modulus, a comparison or a cast to
real numbers on the way breaks it silently, so it is never the only witness: it sharpens an
estimate that differences made, and only within the bar they gave.

Sources:
    Squire and Trapp, Using Complex Variables to Estimate Derivatives of Real Functions,
    SIAM Review 40 (1998).
"""

from dataclasses import replace

import numpy as np

from gradcheck.oracles.ladder import Estimate
from gradcheck.probes import Line
from gradcheck.problem import EPSILON, inner, norm
from gradcheck.settings import SIGNIFICANCE

__all__ = ["sharpened"]

STEP = 1e-20  # times the leaf's size: its square is below every rounding, itself above underflow

# Ulps that a complex function may be off: the products and quotients of complex numbers round
# several times where those of real numbers round once.
ROUNDINGS = 32.0

SAME = 1e-6  # how far, relative to them, the real parts may be from the values


def sharpened(line: Line, truth: Estimate) -> Estimate | None:
    """Return `truth` with the slope of a complex step, or None where there is none to trust."""
    problem = line.problem
    arrays = (*problem.leaves, *problem.outputs)
    if problem.analytic is None or any(array.dtype != "float64" for array in arrays):
        return None
    # A state that it keeps would be complex from now on.
    if not all(map(np.array_equal, problem.value(problem.point), line.centre)):
        return None
    h = STEP * line.unit
    point = tuple(
        x + 1j * h * line.v[k] if k in line.v else x.astype(np.complex128)
        for k, x in enumerate(problem.point)
    )
    try:
        with np.errstate(all="ignore"):
            values = problem.analytic(point)
    except Exception:  # no complex kernel, a cast that is refused, a comparison
        return None
    if [f.shape for f in values] != [f.shape for f in line.centre]:
        return None
    slope = weight = 0.0
    for u, f, centre in zip(line.u, values, line.centre, strict=True):
        if not np.iscomplexobj(f) or not np.all(np.isfinite(f)):
            return None
        if norm(f.real - centre) > SAME * norm(centre):
            return None
        slope += inner(u, f.imag / h)
        weight = max(weight, norm(u * f.imag / h))
    # Where the value is noisier than its own rounding, terms cancel in it; so they may in the
    # imaginary part, and the rounding of numbers like one is left.
    bar = ROUNDINGS * EPSILON["float64"] * weight + (line.ulp if truth.cancels else 0.0)
    if not weight or abs(truth.excess(slope)) > SIGNIFICANCE * (truth.error_bar + bar):
        return None
    return replace(truth, slope=slope, error_bar=bar, noise=bar)
