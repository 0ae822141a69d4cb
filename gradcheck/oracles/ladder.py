"""Finite differences on a ladder of steps, with an error bar.

The central difference of a smooth φ has an error in even powers of h, so halving h and
extrapolating (Romberg) gains two orders a rung: four rungs between 1/32 and 1/256 of the leaf's
size reach rounding level, without ever subtracting close numbers at a tiny h.

What makes the bar honest is everything it adds up: the disagreement within the tableau
(truncation), noise/h (rounding, measured), and the fold, an evaluation at the point that a
symmetric difference lacks. Across a kink a central difference converges beautifully to the mean
of both slopes; the fold Δ(h) = (φ(h) + φ(-h) - 2φ(0))/h vanishes with h where φ is smooth and
stays at the jump of the slope where it is not, and so does 2Δ(h/2) - Δ(h), of third order. It
enters the bar, so that the ladder walks down below a kink that is near; what persists to the
finest rung is a kink at the point.

Sources:
    Ridders, Accurate computation of F′(x) and F′(x)F″(x), Adv. Eng. Software 4 (1982).
    Moré and Wild, Estimating Derivatives of Noisy Simulations, ACM TOMS 38 (2012).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from gradcheck import noise
from gradcheck.probes import Line, Sample
from gradcheck.results import Step
from gradcheck.settings import SIGNIFICANCE

__all__ = ["Estimate", "estimate", "fold"]

RUNGS = 4  # three extrapolations; a fourth gains nothing once rounding dominates

# A flight starts this many halvings below the leaf's scale. The first, 2⁻⁵ to 2⁻⁸, balances a
# truncation of (2⁻⁶ 2⁻⁷ 2⁻⁸)² = 2e-13 against a rounding of 2⁸ eps = 6e-14. The last ends at 1e-9,
# where the rounding of a float64 slope is 1e-7: below it no kink can be told from one at the point.
# Where noise decides, coarser steps divide it by more: up to half the leaf's size, and for a
# straight line up to 2¹⁵ times it.
FIRST, FINER, COARSER = 5, (9, 13, 18, 23, 27), (3, 1, -3, -7, -11, -15)

# The bar, relative to the slope's size, at which the ladder stops. A smooth float64 layer is far
# below it after the first flight, eight evaluations; one wrong entry of 10⁶ that is off by 1e-5
# still stands out.
GOAL = 1e-9

# Extrapolation weighs the finest difference most: 4/3 · 16/15 · 64/63 = 1.44, and the coarser ones
# add up to less than half of that.
AMPLIFICATION = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A slope with its error bar."""

    slope: float
    error_bar: float  # infinite where φ has no finite values to difference
    noise: float = 0.0  # the part of the bar that rounding and noise make up
    kink: float = 0.0  # the jump of the slope at the point itself; 0 where φ is smooth
    jump: bool = False  # φ itself jumps at the point: difference quotients grow like 1/h
    steps: tuple[Step, ...] = ()

    def excess(self, claimed: float) -> float:
        """How far `claimed` lies above (or, negative, below) the one-sided slopes' interval."""
        return claimed - min(max(claimed, self.slope - self.kink / 2), self.slope + self.kink / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """What four rungs say."""

    samples: tuple[Sample, ...]
    level: float  # noise of one evaluation
    slope: float
    truncation: float
    rounding: float
    bend: float  # 2Δ(h/2) - Δ(h), extrapolated: the jump of the slope within the finest rung
    bend_error: float

    @property
    def bar(self) -> float:
        return self.truncation + self.rounding + max(abs(self.bend) - self.bend_error, 0.0)

    @property
    def is_noise_bound(self) -> bool:
        """Whether finer steps can only make the bar larger."""
        return self.rounding >= 0.5 * self.bar

    @property
    def is_straight(self) -> bool:
        """Whether φ is a straight line but for noise: the slopes of all rungs agree."""
        slopes = [sample.central for sample in self.samples]
        noises = [
            AMPLIFICATION * (sample.rounding + self.level / sample.h) for sample in self.samples
        ]
        return all(abs(a - b) <= e for a, b, e in zip(slopes, slopes[1:], noises[1:], strict=False))

    @property
    def bends(self) -> bool:
        return abs(self.bend) > SIGNIFICANCE * self.bend_error


def estimate(line: Line, *, floor: float = 0.0) -> Estimate:
    """Return the slope of φ at 0 along `line`.

    `floor` is noise of φ known beforehand: the spread of repeated evaluations.
    """
    level = floor
    flights = [_climb(line, FIRST, level)]
    if not _suffices(flights[0], line.size):
        level = max(floor, noise.measure(line.change, line.unit))
        flights = [_read(flights[0].samples, level)]
    coarser = flights[0].is_noise_bound
    for start in COARSER if coarser else FINER:
        if _suffices(flights[-1], line.size) or (flights[-1].is_noise_bound and not coarser):
            break
        flight = _climb(line, start, level)
        if coarser and not (flight.bar < flights[-1].bar and (start > 0 or flight.is_straight)):
            break
        flights.append(flight)
    return _verdict(line, flights)


def fold(line: Line) -> float:
    """Return the width of the interval of slopes that kinks at the point leave open.

    Output by output: Σ |uⱼ| |jump of the slope of fⱼ|. Kinks of two outputs may cancel in φ,
    where each output's subgradient is still free. Of two steps, a fold that shrinks with the
    step is curvature and a fold that stays is a kink: (4 Δ(h/4) - Δ(h)) / 3 keeps the latter.
    """
    h = line.unit * 2.0**-18  # 4e-6: noise 3e-11, and no kink farther than that is taken for one
    wide, narrow = line.sample(h), line.sample(h / 4)
    width = (4 * narrow.crease - wide.crease) / 3
    return width if width > SIGNIFICANCE * 8 * narrow.rounding else 0.0


def _verdict(line: Line, flights: Sequence[Flight]) -> Estimate:
    """The best flight's slope; or the kink, or the jump, that the finest rungs still show."""
    steps = tuple(step for flight in flights for step in _steps(flight, line.slope))
    best, last = min(flights, key=lambda f: f.bar), min(flights, key=lambda f: f.samples[-1].h)
    if _doubles([sample.central for sample in last.samples], last.rounding):
        return Estimate(slope=last.slope, error_bar=inf, jump=True, steps=steps)
    if last.bends and best.bends:
        at_kink = [f for f in flights if f.bends and 0.5 < f.bend / last.bend < 2]
        sharp = min(at_kink, key=lambda f: f.truncation + f.rounding + f.bend_error)
        bar = sharp.truncation + sharp.rounding + sharp.bend_error
        return Estimate(
            slope=sharp.slope,
            error_bar=bar,
            noise=sharp.rounding,
            kink=abs(sharp.bend),
            steps=steps,
        )
    return Estimate(slope=best.slope, error_bar=best.bar, noise=best.rounding, steps=steps)


def _suffices(flight: Flight, size: float) -> bool:
    return flight.bar <= GOAL * max(size, abs(flight.slope))


def _climb(line: Line, start: int, level: float) -> Flight:
    samples = tuple(line.sample(line.unit * 2.0**-k) for k in range(start, start + RUNGS))
    return _read(samples, level)


def _read(samples: tuple[Sample, ...], level: float) -> Flight:
    """Extrapolate the central differences (error in h², h⁴, h⁶) and the folds (in h³, h⁵)."""
    if not all(isfinite(sample.central) and isfinite(sample.fold) for sample in samples):
        return Flight(
            samples=samples,
            level=level,
            slope=0.0,
            truncation=inf,
            rounding=0.0,
            bend=0.0,
            bend_error=inf,
        )
    # `level` is the noise of one evaluation; a central difference has two over 2h.
    noises = [AMPLIFICATION * (sample.rounding + level / sample.h) for sample in samples]
    slope, truncation, rounding = _romberg([s.central for s in samples], noises, order=2)
    folds = [sample.fold for sample in samples]
    bends = [2 * fine - coarse for coarse, fine in zip(folds, folds[1:], strict=False)]
    # 2Δ(h/2) - Δ(h) adds up ten evaluations over h, the difference one: four times the noise.
    bend, bend_truncation, bend_rounding = _romberg(bends, [4 * e for e in noises[1:]], order=3)
    return Flight(
        samples=samples,
        level=level,
        slope=slope,
        truncation=truncation,
        rounding=rounding,
        bend=bend,
        bend_error=bend_truncation + bend_rounding,
    )


def _romberg(
    values: Sequence[float], noises: Sequence[float], *, order: int
) -> tuple[float, float, float]:
    """Return (limit, truncation, rounding) of `values` at halved steps; errors h^order, +2, ...

    Every entry of the tableau is a candidate: more columns remove truncation, finer rungs add
    noise. Truncation is Ridders' estimate, the distance to the farther of an entry's two parents.
    """
    best, previous = (values[-1], inf, noises[-1]), list(values)
    for column in range(1, len(values)):
        factor = 2.0 ** (order + 2 * (column - 1))
        current = [
            fine + (fine - coarse) / (factor - 1)
            for coarse, fine in zip(previous, previous[1:], strict=False)
        ]
        for row, entry in enumerate(current):
            truncation = max(abs(entry - previous[row]), abs(entry - previous[row + 1]))
            candidate = (entry, truncation, noises[row + column])
            if sum(candidate[1:]) < sum(best[1:]):
                best = candidate
        previous = current
    return best


def _doubles(slopes: Sequence[float], rounding: float) -> bool:
    """Whether difference quotients double at every halving, beyond what noise explains."""
    pairs = zip(slopes, slopes[1:], strict=False)
    grows = all(coarse != 0 and 1.8 < fine / coarse < 2.2 for coarse, fine in pairs)
    return grows and abs(slopes[-1]) > SIGNIFICANCE * rounding


def _steps(flight: Flight, claimed: float) -> tuple[Step, ...]:
    return tuple(
        Step(
            h=sample.h,
            mismatch=abs(sample.central - claimed),
            error_bar=sample.rounding + flight.level / sample.h,
        )
        for sample in flight.samples
    )
