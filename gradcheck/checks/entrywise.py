"""Two arrays that should be equal: which entries differ by more than rounding?

No truth is needed, and no differences: what a right target may get wrong is its own rounding. Four
roundings are free. Only what exceeds them is worth asking how restless the target really is; and
restless means rough, not steep: a second difference shows the rounding of whatever dtype the
target uses inside, but vanishes for a rule that is smoothly wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, sqrt

import numpy as np

from gradcheck.evidence import entries_of
from gradcheck.probes import direction
from gradcheck.problem import Array, Arrays, Leaf, blocks, norm
from gradcheck.results import Entry, Finding, Reason, Verdict
from gradcheck.settings import SIGNIFICANCE, Settings

__all__ = [
    "LINEAR",
    "ROUNDINGS",
    "compared",
    "floor",
    "moved",
    "narrowest",
    "rough",
    "rounded_away",
]

ROUNDINGS = 4

# How far, relative to itself, an entry is moved in which the result is linear: enough to round
# otherwise in any dtype. The bend of an error that is not linear is at most its square, and ten of
# those do not excuse the error.
LINEAR = 2.0**-6


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
    unrest: Sequence[Callable[[], Array]],
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
        unrest: how far rounding moves each entry: answers one larger than the other, the dearest
            last; each is asked only if those before it leave a doubt.
        size: of each entry, if nothing in it cancelled: what an error is relative to; None: its
            own.
        leaf, outputs: what the gradient is of; it has the digits of the narrowest of them.
        complaint: what is said of a leaf that fails.
    """
    coarsest = narrowest(leaf, outputs)
    tolerance = settings.tolerance(coarsest.digits)
    equal = Finding(
        check=check,
        leaf=leaf.path,
        verdict=Verdict.PASS,
        mismatch=0.0,
        resolution=0.0,
        tolerance=tolerance,
        oracle=oracle,
        message="",
    )
    if got is wanted or np.array_equal(got, wanted):  # most are, to the last bit; a NaN is not
        is_empty = not np.any(wanted if size is None else size)
        free = SIGNIFICANCE * ROUNDINGS * coarsest.epsilon
        return equal if is_empty else replace(equal, resolution=min(free, tolerance))
    apart = _close(got, wanted, size, coarsest, tolerance)
    if apart is None:
        apart = _entry_by_entry(got, wanted, size, coarsest, settings, unrest)
    finding = replace(
        equal,
        mismatch=apart.off / apart.whole if apart.whole else float(bool(apart.off)),
        resolution=SIGNIFICANCE * apart.bar / apart.whole if apart.whole else 0.0,
        tolerance=apart.tolerance,
    )
    if apart.wrong:
        message = f"{complaint}: {apart.wrong} of {wanted.size} entries"
        failed = replace(finding, verdict=Verdict.FAIL, message=message, entries=apart.entries)
        if not all(isfinite(entry.got) for entry in apart.entries):
            return replace(failed, mismatch=inf)
        return failed
    if apart.off <= apart.tolerance * apart.whole:  # rounding may hide an error: there is none
        return replace(finding, resolution=min(finding.resolution, apart.tolerance))
    if finding.resolution <= apart.tolerance:
        return finding
    message = f"rounding inside the target hides errors below {finding.resolution:.0e}"
    return replace(finding, verdict=Verdict.INCONCLUSIVE, message=message)


def rounded_away(finding: Finding) -> Finding:
    """A pass, where what is left open is a gradient of which there is nothing but rounding."""
    if finding.verdict is not Verdict.INCONCLUSIVE or finding.resolution < 1:
        return finding
    message = "vacuous: rounding may be as large as this gradient"
    passed = replace(finding, verdict=Verdict.PASS, message=message, reason=Reason.VACUOUS)
    return replace(passed, mismatch=0.0, resolution=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """How far two arrays are from each other: norms over all entries, and what is wrong."""

    off: float
    bar: float  # what rounding explains of it
    whole: float  # what an error is relative to
    tolerance: float
    wrong: int = 0  # how many entries are
    entries: tuple[Entry, ...] = ()  # the first of them


def _close(
    got: Array, wanted: Array, size: Array | None, coarsest: Leaf, tolerance: float
) -> Apart | None:
    """How far apart they are, if no entry is by more than a few roundings; None if in doubt."""
    norms = []
    with np.errstate(invalid="ignore"):
        for a, b, *own in blocks(got, wanted, *([] if size is None else [size])):
            off, sizes = np.abs(a - b), own[0] if own else np.abs(b)
            bar = _free(sizes, coarsest)
            if not np.all(off <= np.maximum(SIGNIFICANCE * bar, tolerance * sizes)):
                return None
            norms.append((norm(off), norm(bar), norm(sizes)))
    of_off, of_bar, whole = (norm(np.array(parts)) for parts in zip(*norms, strict=True))
    if not isfinite(whole):
        return None
    return Apart(off=of_off, bar=of_bar, whole=whole, tolerance=tolerance)


def _entry_by_entry(
    got: Array,
    wanted: Array,
    size: Array | None,
    coarsest: Leaf,
    settings: Settings,
    unrest: Sequence[Callable[[], Array]],
) -> Apart:
    """How far apart they are, where rounding inside the target may have to explain it."""
    tolerance = settings.tolerance(coarsest.digits)
    if size is None:
        size = np.abs(wanted).astype(np.float64, copy=False)
    if not np.all(np.isfinite(wanted)):  # what is not in both answers is the same, and of no size
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        got, wanted = np.where(same & ~np.isfinite(got), 0, (got, wanted))
        size = np.nan_to_num(size, posinf=0.0)
    whole = norm(size)
    bar = _free(size, coarsest)
    with np.errstate(invalid="ignore"):
        off = np.abs(got - wanted)
        wrong = ~(off <= tolerance * size)  # a NaN is one too
        wrong &= ~(off <= SIGNIFICANCE * bar)
    for ask in unrest:
        if not np.any(wrong):
            break
        restless = ask()
        bar = _free(size, coarsest) + restless + np.median(restless)
        wrong &= ~(off <= SIGNIFICANCE * bar)
        if not np.any(wrong) and whole:  # then it was rounding, and the target is held to that
            tolerance = settings.tolerance(coarsest.digits, norm(restless) / whole)
    return Apart(
        off=norm(np.where(np.isfinite(off), off, 0.0)),
        bar=norm(bar),
        whole=whole,
        tolerance=tolerance,
        wrong=int(np.sum(wrong)),
        entries=entries_of(wrong, got, wanted, bar),
    )


def _free(size: Array, coarsest: Leaf) -> Array:
    """The error bar of a few roundings.

    Below the normal numbers of a dtype (6e-5 in float16) the spacing is all that is left.
    """
    return np.asarray(ROUNDINGS * coarsest.epsilon * size + coarsest.tiny)
