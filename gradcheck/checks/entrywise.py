"""Two arrays that should be equal: which entries differ by more than rounding?

No truth is needed, and no differences: what a right target may get wrong is its own rounding. Four
roundings are free. Only what exceeds them is worth asking how restless the target really is; and
restless means rough, not steep: a second difference shows the rounding of whatever dtype the
target uses inside, but vanishes for a rule that is smoothly wrong.
"""

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np

from gradcheck.probes import direction
from gradcheck.problem import Array, Arrays, Leaf, norm
from gradcheck.results import Entry, Finding, Verdict
from gradcheck.settings import SIGNIFICANCE, Settings

__all__ = ["LINEAR", "ROUNDINGS", "compared", "floor", "moved", "narrowest", "rough"]

ROUNDINGS = 4

# How far, relative to itself, an entry is moved in which the result is linear: enough to round
# otherwise in any dtype. The bend of an error that is not linear is at most its square, and ten of
# those do not excuse the error.
LINEAR = 2.0**-6

SHOWN = 8


def moved(
    rng: np.random.Generator, leaves: Sequence[Leaf], point: Arrays, size: float | None = None
) -> tuple[Arrays, Arrays]:
    """Return two points opposite to each other beside `point`.

    Every entry is moved by about `size` of itself, by an ulp if that is None.
    """
    steps = [
        x
        * (direction(rng, leaf) * size if size else rng.choice([-1.0, 1.0], x.shape) * leaf.epsilon)
        for leaf, x in zip(leaves, point, strict=True)
    ]
    ahead = [leaf.rounded(x + s) for leaf, x, s in zip(leaves, point, steps, strict=True)]
    behind = [leaf.rounded(x - s) for leaf, x, s in zip(leaves, point, steps, strict=True)]
    return tuple(ahead), tuple(behind)


def rough(centre: Array, sides: Sequence[tuple[Array, Array]]) -> Array:
    """Return the largest second difference of each entry, given its values at moved points."""
    with np.errstate(invalid="ignore"):
        bends = [np.abs(ahead - centre + behind - centre) for ahead, behind in sides]
    return np.asarray(np.nan_to_num(np.max(bends, axis=0), posinf=0.0))


def floor(of: Array, epsilon: float) -> float:
    """Return how far rounding moves an entry that is nothing beside the others.

    It is what cancelled in numbers like theirs.
    """
    return ROUNDINGS * epsilon * norm(np.nan_to_num(of)) / sqrt(max(of.size, 1))


def narrowest(leaf: Leaf, outputs: Sequence[Leaf]) -> Leaf:
    """Return the leaf or output of the narrowest dtype: a gradient has no more digits than that."""
    return max((leaf, *outputs), key=lambda array: array.epsilon)


def compared(
    got: Array,
    wanted: Array,
    unrest: Callable[[], Array],
    *,
    size: Array | None = None,
    check: str,
    leaf: Leaf,
    outputs: Sequence[Leaf],
    settings: Settings,
    oracle: str,
    complaint: str,
) -> Finding:
    """Return whether `got` is `wanted`, entry by entry.

    Args:
        unrest: how far rounding moves each entry; asked in doubt only.
        size: of each entry, if nothing in it cancelled: what an error is relative to; None: its
            own.
        leaf, outputs: what the gradient is of; it has the digits of the narrowest of them.
        complaint: what is said of a leaf that fails.
    """
    coarsest = narrowest(leaf, outputs)
    tolerance = settings.tolerance(coarsest.digits)
    free = ROUNDINGS * coarsest.epsilon
    if got is wanted or np.array_equal(got, wanted):  # most are, to the last bit; a NaN is not
        is_empty = not np.any(wanted if size is None else size)
        return Finding(
            check=check,
            leaf=leaf.path,
            verdict=Verdict.PASS,
            mismatch=0.0,
            resolution=0.0 if is_empty else min(SIGNIFICANCE * free, tolerance),
            tolerance=tolerance,
            oracle=oracle,
            message="",
        )
    if size is None:
        size = np.abs(wanted).astype(np.float64, copy=False)
    if not np.all(np.isfinite(wanted)):  # what is not in both answers is the same, and of no size
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        got, wanted = np.where(same & ~np.isfinite(got), 0, (got, wanted))
        size = np.nan_to_num(size, posinf=0.0)
    whole = norm(size)
    with np.errstate(invalid="ignore"):
        off = np.abs(got - wanted)
    # Below the normal numbers of a dtype (6e-5 in float16) the spacing is all that is left.
    bar = free * size + coarsest.tiny
    with np.errstate(invalid="ignore"):
        wrong = ~(off <= tolerance * size)  # a NaN is one too
        wrong &= ~(off <= SIGNIFICANCE * bar)
    if np.any(wrong):
        restless = unrest()
        bar = bar + restless + np.median(restless)
        wrong &= ~(off <= SIGNIFICANCE * bar)
        if not np.any(wrong) and whole:  # then it was rounding, and the target is held to that
            tolerance = settings.tolerance(coarsest.digits, norm(restless) / whole)
    resolution = SIGNIFICANCE * norm(bar) / whole if whole else 0.0
    mismatch = norm(np.where(np.isfinite(off), off, 0.0))
    verdict, message = Verdict.PASS, ""
    if np.any(wrong):
        count = f"{int(np.sum(wrong))} of {wrong.size} entries"
        verdict, message = Verdict.FAIL, f"{complaint}: {count}"
    elif mismatch <= tolerance * whole:  # rounding may hide an error, but there is none to hide
        resolution = min(resolution, tolerance)
    elif resolution > tolerance:
        verdict = Verdict.INCONCLUSIVE
        message = f"rounding inside the target hides errors below {resolution:.0e}"
    return Finding(
        check=check,
        leaf=leaf.path,
        verdict=verdict,
        mismatch=mismatch / whole if whole else float(bool(mismatch)),
        resolution=resolution,
        tolerance=tolerance,
        oracle=oracle,
        message=message,
        entries=tuple(
            Entry(
                index=tuple(int(i) for i in index),
                got=float(np.real(got[tuple(index)])),
                wanted=float(np.real(wanted[tuple(index)])),
                error_bar=float(bar[tuple(index)]),
            )
            for index in (np.argwhere(wrong)[:SHOWN] if verdict is Verdict.FAIL else ())
        ),
    )
