"""What a wrong gradient looks like: a dictionary of patterns, each tested against the probes.

A hypothesis is a map g -> g′ that would make the gradient right. It costs no evaluation of the
target: the slopes along the probes are known, so ⟨g′, v⟩ must equal them, all of them, within
their error bars.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from gradcheck.problem import Array, inner
from gradcheck.results import Entry
from gradcheck.settings import SIGNIFICANCE

__all__ = ["ADVICE", "Evidence", "diagnose"]

SAME = (
    1e-3  # how far ratios may lie apart and be one; a wrong hypothesis gets so near in one of 1e3
)

ADVICE = {
    "zero": "the gradient is zero where the output does depend on this leaf: it was detached, "
    "overwritten, or its term was never added",
    "sign": "the sign is wrong: a difference taken the other way round, a lost minus",
    "conjugated": "the complex conjugate of this gradient would be right: Jᵀ is taken for Jᴴ",
    "constant factor": "all that is wrong is off by the same factor: look for a lost ½ or 2, a "
    "mean taken for a sum (factor N or 1/N), a scale applied twice or not at all",
    "transposed": "the transpose of this gradient would be right: a product in the wrong order, "
    "or J where Jᵀ is meant",
    "shifted": "the gradient is right after a shift by one along an axis: an index or a time step "
    "off by one",
    "reversed": "the gradient is right when read backwards along an axis: an unflipped kernel or "
    "a sequence walked in the wrong direction",
    "part missing": "some entries are zero where the output does depend on them: a slice, a "
    "border, a step or a repeated index that the rule forgets",
    "not finite": "the value is finite here but its gradient is not: the classic cause is a "
    "`where` whose untaken branch has an infinite derivative; guard its argument too (double "
    "`where`)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One probe of a leaf: the gradient claimed for its cotangent, and the slope that is true."""

    gradient: Array
    v: Array
    slope: float
    error_bar: float

    def fits(self, candidate: Array) -> bool:
        """Whether `candidate` removes all but a thousandth of the mismatch."""
        mismatch = abs(inner(self.gradient, self.v) - self.slope)
        left = abs(inner(candidate, self.v) - self.slope)
        return left <= SIGNIFICANCE * self.error_bar + 1e-3 * min(mismatch, abs(self.slope))


def diagnose(evidence: Sequence[Evidence], entries: Sequence[Entry]) -> str | None:
    """Return the name of the pattern that explains the wrong leaf, with its detail; or None.

    A wrong hypothesis removes all but a thousandth of one probe's mismatch with probability of
    about 1e-3, and of three probes' with 1e-9.
    """
    gradients = [probe.gradient for probe in evidence]
    if not all(np.all(np.isfinite(gradient)) for gradient in gradients):
        return "not finite"
    if not any(np.any(gradient) for gradient in gradients):
        return "zero"
    factor = _factor(evidence)
    if factor is not None:
        return _named(factor)
    if len(evidence) > 1:  # one probe fits too many hypotheses
        for name, candidate in _candidates(gradients[0].shape):
            if all(probe.fits(candidate(probe.gradient)) for probe in evidence):
                return name
    if entries and all(entry.got == 0 for entry in entries):
        return "part missing"
    part = _part_factor(entries)
    if part is not None:
        return _named(part, " in the wrong entries")
    if np.iscomplexobj(gradients[0]) and all(p.fits(np.conj(p.gradient)) for p in evidence):
        return "conjugated"
    return None


def _named(factor: float, where: str = "") -> str:
    if abs(factor + 1) < SAME:
        return "sign" + (f":{where}" if where else "")
    return f"constant factor: got / wanted = {factor:.6g}{where}"


def _part_factor(entries: Sequence[Entry]) -> float | None:
    """The common ratio got / wanted of the wrong entries, if three of them have one."""
    if len(entries) < 3 or any(entry.wanted == 0 for entry in entries):
        return None
    ratios = np.array([entry.got / entry.wanted for entry in entries])
    bars = np.array([entry.error_bar / abs(entry.wanted) for entry in entries])
    middle = float(np.median(ratios))
    near = SIGNIFICANCE * bars * abs(middle) + SAME * min(abs(middle), abs(middle - 1))
    tells = float(np.median(bars)) * SIGNIFICANCE < 0.1 * abs(middle - 1)
    return middle if tells and np.all(np.abs(ratios - middle) <= near) else None


def _factor(evidence: Sequence[Evidence]) -> float | None:
    """The common ratio got / wanted of all probes."""
    if len(evidence) < 2 or any(probe.slope == 0 for probe in evidence):
        return None
    ratio = inner(evidence[0].gradient, evidence[0].v) / evidence[0].slope
    if ratio == 0 or not all(probe.fits(probe.gradient / ratio) for probe in evidence):
        return None
    return ratio


def _candidates(shape: tuple[int, ...]) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    for (i, rows), (j, columns) in pairwise(enumerate(shape)):
        if rows == columns > 1:
            yield f"transposed: axes {i} and {j}", partial(np.swapaxes, axis1=i, axis2=j)
    for axis, length in enumerate(shape):
        if length > 1:
            yield f"reversed: axis {axis}", partial(np.flip, axis=axis)
            for step in (1, -1):
                name = f"shifted: by {step} along axis {axis}"
                yield name, partial(np.roll, shift=step, axis=axis)
