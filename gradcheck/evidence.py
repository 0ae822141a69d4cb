"""What was claimed of a leaf's gradient, what is true, and how far apart the two are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import numpy as np

from gradcheck.oracles.ladder import Estimate
from gradcheck.oracles.path import Integral
from gradcheck.probes import Line
from gradcheck.problem import Array, norm
from gradcheck.results import Entry, Step
from gradcheck.settings import SIGNIFICANCE

__all__ = [
    "CLEARLY",
    "SHOWN",
    "Probe",
    "entries_of",
    "entry_of",
    "finest",
    "relative_steps",
    "telling",
]

# Error bars, of the ladder alone, beyond which a mismatch is out of doubt.
CLEARLY = 1e3
FINEST = 2.0**-11  # of the leaf's unit: just below the last of a ladder's first four steps

# Roundings of the value that may be left of terms that cancel, as a difference sees them: at the
# first steps, 2⁻⁷ of the leaf, one is 2⁷ of its slope.
CANCELLED = 2.0**10

SHOWN = 24  # wrong entries in a finding, as many as a search looks for; the message counts them


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One direction: what the target claims along it, and what is true of it.

    The direction may move several leaves; then the probe speaks of the one at `index`, and what
    it says of that is less sharp than along a direction of its own.
    """

    index: int  # the leaf in question
    epsilon: float  # of the narrowest dtype that the gradient passes through
    line: Line
    truth: Estimate
    mean: Integral | None = None  # claim and truth are means along a segment, not at the point
    # Along the claimed gradient noise averages out, and a factor in all of it stands out of noise
    # that hides it from any other direction; of other errors it says less than it seems to.
    is_aligned: bool = False

    @property
    def claimed(self) -> float:
        return self.mean.claimed if self.mean else self.line.slope

    @cached_property
    def size(self) -> float:
        """What a mismatch is relative to."""
        own = self.mean.size if self.mean else self.line.claims[self.index].extent
        return max(own, abs(self.truth.slope)) if len(self.line.v) == 1 else own

    @cached_property
    def excess(self) -> float:
        return abs(self.truth.excess(self.claimed))

    @cached_property
    def bar(self) -> float:
        """The error bar of the comparison.

        What the target's own gradient may have lost to rounding is an excuse for a mismatch. A
        claim that needs none is held to the oracle's bar alone, and so is what was resolved.
        """
        if self.excess <= SIGNIFICANCE * self.sharp:
            return self.sharp
        return self.calm + (0.0 if self.mean else self.line.doubt)

    @cached_property
    def sharp(self) -> float:
        """The oracle's error bar, and a gradient rounded once, by half an ulp an entry."""
        epsilon = max(self.epsilon, self.line.coarseness)
        own = 0.0 if self.mean else epsilon / 2 * self.line.size
        return self.truth.error_bar + own

    @cached_property
    def calm(self) -> float:
        """The same with the rounding of values that the rule uses again, before it is measured."""
        if self.mean or not self.line.reuse:
            return self.sharp
        return self.sharp + self.line.reuse * self.truth.weight + self.truth.standing

    def is_outside(self, tolerance: float) -> bool:
        """Whether the claim is none of the subgradients of a kink.

        At a kink an ulp turns one subgradient into another, so that what was measured of the
        target's rounding is no excuse.
        """
        off = self.mismatch > tolerance and self.excess > SIGNIFICANCE * self.calm
        return self.truth.kink > 0 and off

    @property
    def is_significant(self) -> bool:
        return self.excess > SIGNIFICANCE * self.bar

    @property
    def is_clear(self) -> bool:
        """Whether no noise can explain the mismatch: the first steps of the ladder agree too well.

        Eight values that scatter differ from a smooth curve by about their noise. That they do so
        by less than a thousandth of it happens once in a hundred ladders, of which the best of ten
        extrapolations is taken; in three ladders, once in a million. Finer steps were needed where
        the first did not agree; and numbers like one that cancel inside are rounded alike at all
        steps of a leaf that is small: that is no scatter.
        """
        finest = min((step.h for step in self.truth.steps), default=0.0)
        if not self.is_smooth or finest < FINEST * self.line.unit:
            return False
        hidden = SIGNIFICANCE * self.line.ulp / finest
        return self.excess > max(CLEARLY * self.sharp, hidden)

    @property
    def is_smooth(self) -> bool:
        return not (self.truth.kink or self.truth.jump) and bool(np.isfinite(self.bar))

    @cached_property
    def is_vacuous(self) -> bool:
        """Whether claim and truth are zero, but for rounding.

        The claim is: it is as small as what rounding does to it, or as the bar where that is but
        a few roundings of the value over one step of the leaf (the shift of a normalisation, the
        key bias of attention: terms cancel). The truth is, by its bar, and the bar is small against
        the value, or one that drowns in noise would count as one that does not depend on the leaf.
        A value of zero (a normalisation of one channel) counts as what cancelled in numbers like
        one.
        """
        line = self.line
        value = line.moved_weight or norm(np.array([norm(u) for u in line.u]))
        blur, epsilon = self.bar * line.unit, max(self.epsilon, line.coarseness)
        few = SIGNIFICANCE * epsilon * value / line.unit
        if blur <= CANCELLED * epsilon * value:
            few = max(few, SIGNIFICANCE * self.bar)
        claims_zero = line.size <= max(SIGNIFICANCE * line.doubt, few)
        is_zero = abs(self.truth.slope) <= SIGNIFICANCE * self.bar
        return claims_zero and is_zero and blur <= epsilon**0.5 * value

    @property
    def is_rounding(self) -> bool:
        """Whether the value is no more than what rounding leaves of numbers like one that cancel.

        So is that of a normalisation of groups of one; and what is claimed is as little.
        """
        line = self.line
        natural = norm(np.array([norm(u) for u in line.u]))
        blur, little = self.bar * line.unit, SIGNIFICANCE * self.bar
        is_least = max(line.size, abs(self.truth.slope)) <= little
        return is_least and line.weight < blur <= self.epsilon**0.5 * natural

    @cached_property
    def resolution(self) -> float:
        """The smallest relative error that would be significant."""
        if self.size:
            return SIGNIFICANCE * self.bar / self.size
        return 0.0 if len(self.line.v) == 1 and self.bar < inf else inf

    @property
    def mismatch(self) -> float:
        return self.excess / self.size if self.size else 0.0

    @property
    def bars_off(self) -> float:
        """How many error bars the mismatch is."""
        if self.bar:
            return self.excess / self.bar
        return float("inf") if self.excess else 0.0


def relative_steps(probe: Probe) -> tuple[Step, ...]:
    """The steps of the ladder, in parts of what a mismatch of the probe is relative to."""
    size = probe.size or 1.0
    return tuple(
        replace(step, mismatch=step.mismatch / size, error_bar=step.error_bar / size)
        for step in probe.truth.steps
    )


def telling(probes: Sequence[Probe]) -> Probe | None:
    """The probe with the most significant mismatch."""
    return max(probes, key=lambda probe: probe.bars_off, default=None)


def finest(probes: Sequence[Probe]) -> Probe | None:
    """The probe with the finest resolution, of those that see anything.

    The probes see independent projections of one error: an error larger than the finest
    resolution is seen by that probe, so the coarsest need not reach the tolerance. One along the
    claimed gradient counts where there is no other.
    """
    seeing = [probe for probe in probes if not probe.is_vacuous]
    free = [probe for probe in seeing if not probe.is_aligned]
    return min(free or seeing, key=lambda probe: probe.resolution, default=None)


def entries_of(wrong: Array, got: Array, wanted: Array, bar: Array) -> tuple[Entry, ...]:
    """The first entries that are `wrong`, a mask."""
    places = [tuple(int(i) for i in index) for index in np.argwhere(wrong)[:SHOWN]]
    return tuple(entry_of(place, got[place], wanted[place], bar[place]) for place in places)


def entry_of(index: tuple[int, ...], got: complex, wanted: complex, bar: float) -> Entry:
    """One wrong entry, of real numbers or of complex ones."""
    is_complex = np.iscomplexobj(got) or np.iscomplexobj(wanted)
    return Entry(
        index=index,
        got=float(np.real(got)),
        wanted=float(np.real(wanted)),
        error_bar=float(bar),
        imaginary=(float(np.imag(got)), float(np.imag(wanted))) if is_complex else None,
    )
