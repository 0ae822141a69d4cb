"""Finite differences on a ladder of steps, with an error bar.

The central difference of a smooth φ has an error in even powers of h, so halving h and
extrapolating (Romberg) gains two orders a rung: four rungs, two thirds of 1/128 to 1/1024 of the
leaf's size, reach rounding level, without ever subtracting close numbers at a tiny h.

What makes the bar honest is everything it adds up: the disagreement within the tableau
(truncation), noise/h (rounding, measured), and the fold, an evaluation at the point that a
symmetric difference lacks. Across a kink a central difference converges beautifully to the mean
of both slopes; the fold Δ(h) = (φ(h) + φ(-h) - 2φ(0))/h vanishes with h where φ is smooth and
stays at the jump of the slope where it is not, and so does 2Δ(h/2) - Δ(h), of third order. It
enters the bar, so that the ladder walks down below a kink that is near; what persists to the
finest rung is a kink at the point, or nearer than any step can tell.

Noise costs more evaluations to measure than a smooth function needs to be differentiated, so it
is measured only where the first steps do not settle the slope, where outputs stop moving at the
finer ones (a staircase), or on demand: by whoever finds that the slope contradicts a claim.

Sources:
    Ridders, Accurate computation of F′(x) and F′(x)F″(x), Adv. Eng. Software 4 (1982).
    Moré and Wild, Estimating Derivatives of Noisy Simulations, ACM TOMS 38 (2012).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, isfinite

import numpy as np

from gradcheck import noise
from gradcheck.oracles.creases import fold
from gradcheck.oracles.rungs import COARSER, FINER, FINEST, FIRST, OFF_GRID, RUNGS, STALLED
from gradcheck.oracles.stairs import climbing, is_staircase
from gradcheck.probes import Line, Sample
from gradcheck.problem import EPSILON
from gradcheck.results import Step
from gradcheck.settings import SIGNIFICANCE

__all__ = ["Estimate", "confirmed", "estimate", "folded", "still"]

# The bar, relative to the slope's size, at which the ladder stops: one wrong entry of 10⁶ that is
# off by 1e-5 still stands out. Within a flight, another rung is cheap and makes a smooth slope as
# sharp as it gets, after six or eight evaluations.
GOAL, FINE = 1e-9, 1e-11

# The bar, relative to the slope and to a mismatch, at which that is out of question: a hundredth of
# what makes it real.
CLEAR = 1e-3

# Extrapolation weighs the finest difference most: 4/3 · 16/15 · 64/63 = 1.44, and the coarser ones
# add up to less than half of that.
AMPLIFICATION = 2.0

# The largest noise, relative to the values, that rounding to a floating point format makes: 2⁻⁹/√3
# in bfloat16, with room to spare. A quantiser has more: far from the point it looks like a
# straight line, and a straight line is not what it is.
FLOATING = 2.0**-7

# Ulps of the value above which noise is more than the value's own rounding.
CANCELLING = 32.0

CONFIRMED = 0.1  # the part of a mismatch up to which the finest steps must resolve the slope

# How much steeper φ is along the finest steps if it turns back again. Two pieces that meet at a
# kink differ by any factor, and what a coarse step sees lies between.
STEEP = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A slope with its error bar."""

    slope: float
    error_bar: float  # infinite where φ has no finite values to difference
    noise: float = 0.0  # the part of the bar that rounding and noise make up
    level: float = 0.0  # noise of one evaluation: measured, or what rounds away unseen
    ripple: float = 0.0  # measured noise of one evaluation, relative to the moving outputs
    is_saw: bool = False  # whether that noise is of a value which is smooth between its jumps
    weight: float = 0.0  # the size ‖u ∘ f‖ of the moving outputs
    standing: float = 0.0  # the slope that outputs which did not move may hide
    kink: float = 0.0  # width of the interval of slopes that a kink leaves; 0 where φ is smooth
    jump: bool = False  # φ itself jumps at the point: difference quotients grow like 1/h
    steps: tuple[Step, ...] = ()

    @property
    def cancels(self) -> bool:
        """Whether the value is noisier than its own rounding, so that terms cancel in it."""
        return self.level > CANCELLING * EPSILON["float64"] * self.weight

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
    bend_rounding: float  # what noise does to the fold at the finest rung

    @property
    def hull(self) -> tuple[float, float]:
        """The interval of all one-sided difference quotients of the flight."""
        ends = [(s.central - abs(s.fold) / 2, s.central + abs(s.fold) / 2) for s in self.samples]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def agrees(self, low: float, high: float, noise: float) -> bool:
        """Whether the flight shows the same one-sided slopes, but for noise."""
        ends = self.slope - abs(self.bend) / 2, self.slope + abs(self.bend) / 2
        return max(abs(ends[0] - low), abs(ends[1] - high)) <= SIGNIFICANCE * noise

    @property
    def bar(self) -> float:
        # Of two rungs, nothing tells curvature from a kink: all of the bend counts.
        unsure = self.bend_error if isfinite(self.bend_error) else 0.0
        return self.truncation + self.rounding + max(abs(self.bend) - unsure, 0.0)

    @property
    def stillness(self) -> float:
        """The slope that φ may have and yet not move at all at one of the steps."""
        return min((s.standing for s in self.samples if not s.moving), default=0.0)

    @property
    def hidden(self) -> float:
        """What φ may have risen by at the widest step at which it did not move at all."""
        return max((s.standing * s.h for s in self.samples if not s.moving), default=0.0)

    @property
    def weight(self) -> float:
        return self.samples[0].weight

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


def estimate(
    line: Line, *, careful: bool = False, enough: float | None = None, whole: bool = False
) -> Estimate:
    """Return the slope of φ at 0 along `line`.

    Args:
        careful: measure the noise before any slope is believed.
        enough: a bar at which to stop, as where it is out of question how far the slope is from
            what is claimed. Without it a settled slope is made sharper as long as that is cheap.
        whole: climb all of the first rungs. Two may agree by chance where the value is rounded.
    """
    flights = [_climb(line, FIRST, line.floor, enough=enough, whole=whole)]
    if not careful:
        flights = _finer(line, flights, enough)
        is_sharp = _settles(flights[-1], line, enough) and not _turns_back(flights)
        if is_sharp and not (_stalls(flights) and is_staircase(line)):  # or is flat up to a kink
            return _verdict(line, flights)
    measured = noise.measure(line.change, line.unit, line.ulp)
    # The remainder of a division is a saw, too, and nothing in it is rounded.
    is_saw = measured.smoothly is not None and confirmed(line, line.size) is None
    if measured.smoothly is not None and not is_saw:
        measured = noise.Noise(level=measured.smoothly)
    known = (line.floor, measured.level, line.ripple * flights[0].samples[0].weight)
    level = max(*known, _of_stairs(line))
    flights = [_read(flight.samples, level) for flight in flights]
    if flights[0].is_noise_bound:
        flights = _coarser(line, flights)
    elif careful:
        flights = _finer(line, flights)
    truth = _verdict(line, flights, measured.level if measured.throughout else 0.0)
    return replace(truth, is_saw=is_saw)


def still(line: Line) -> Estimate | None:
    """The slope of zero of a φ that stands still but for rounding, and is claimed to; else None.

    The key bias of attention, the shift before a normalisation: terms cancel. What is looked at are
    steps of a millionth of the leaf's size, of 1/200, and of two thirds; no noise has to be
    measured.
    """
    epsilon = max(output.epsilon for output in line.problem.outputs)
    if line.size * line.unit > 2 * SIGNIFICANCE * epsilon * line.weight:  # it cannot be so little
        return None
    samples = []
    for h in (OFF_GRID * line.unit * 2.0**-k for k in (FIRST, 20, 0)):
        samples.append(sample := line.sample(h))
        little = SIGNIFICANCE * sample.rounding
        many = 4 * max(sample.moving, 1) ** 0.5  # a crease is a sum of sizes, each of 4 roundings
        moves = max(abs(sample.central), abs(sample.fold) / 4, sample.crease / many)
        if not max(line.size, moves) <= little:
            return None
    wide = samples[-1]
    return Estimate(
        slope=wide.central,
        error_bar=wide.rounding,
        noise=wide.rounding,
        level=wide.rounding * wide.h,
        weight=wide.weight,
        standing=wide.standing,
        steps=tuple(
            Step(h=s.h, mismatch=abs(s.central - line.slope), error_bar=s.rounding) for s in samples
        ),
    )


def confirmed(line: Line, mismatch: float) -> Estimate | None:
    """The slope along the finest steps, if that is what is claimed, to within a part of a mismatch.

    Coarser ones then contradict the claim because they step over what φ does in between. A claim of
    zero is confirmed by any stair, and so by nothing.
    """
    if not line.size:
        return None
    for start in (FINER[-1], *FINEST):
        flight = _climb(line, start, line.floor)
        blur = SIGNIFICANCE * flight.bar
        if abs(flight.slope - line.slope) <= blur <= CONFIRMED * mismatch:
            return _verdict(line, [flight])
    return None


def _of_stairs(line: Line) -> float:
    """The noise of those outputs that climb stairs, while others are smooth.

    At the finest steps a sum of both is as smooth as the others, and lacks the slope of the stairs:
    as in a row of attention to which a mask has added -1e9 everywhere.
    """
    climbs, stairs = climbing(line)
    if not any(np.any(s) for s in stairs) or all(map(np.array_equal, climbs, stairs)):
        return 0.0
    u = tuple(np.where(s, u_, 0) for s, u_ in zip(stairs, line.u, strict=True))
    alone = replace(line, u=u, beside=None)
    return noise.measure(alone.change, alone.unit, alone.ulp).level


def folded(line: Line, truth: Estimate) -> Estimate:
    """Return `truth` with the kinks at the point counted output by output.

    Kinks of two outputs may cancel in φ. What looks like one and is none at the finest steps is a
    kink beside the point, or an oscillation that wider steps skip: there the finest steps decide.
    """
    found = fold(line, truth.level)
    if not found.stays:
        near = _verdict(line, [_climb(line, FINER[-1], max(line.floor, truth.level))])
        if near.error_bar <= max(CLEAR * line.size, truth.error_bar):
            return near
    return replace(truth, kink=max(truth.kink, found.width))


def _finer(line: Line, flights: Sequence[Flight], enough: float | None = None) -> list[Flight]:
    """The flights, and finer ones until the slope is settled or noise decides."""
    flights = list(flights)
    for start in FINER:
        if _settles(flights[-1], line, enough) or flights[-1].is_noise_bound:
            break
        flights.append(_climb(line, start, flights[0].level))
    return flights


def _coarser(line: Line, flights: Sequence[Flight]) -> list[Flight]:
    """The flights, and coarser ones as long as they lower the bar."""
    flights = list(flights)
    best = min(flights, key=lambda f: f.bar)
    for start in COARSER:
        if _settles(best, line):
            break
        flight = _climb(line, start, best.level)
        may_go = start > 0 or (flight.is_straight and flight.level <= FLOATING * flight.weight)
        if not (flight.bar < best.bar and may_go):
            break
        flights.append(flight)
        best = flight
    return flights


def _stalls(flights: Sequence[Flight]) -> bool:
    """Whether outputs that moved at the first step stand still at the last."""
    first, last = flights[0].samples[0].moving, flights[-1].samples[-1].moving
    return last < (1 - STALLED) * first


def _turns_back(flights: Sequence[Flight]) -> bool:
    """Whether φ rises along the finest steps as it does along none of the coarser.

    It may oscillate; or jump back after each rounding of a term that others cancel.
    """
    steep = abs(flights[-1].slope)
    hulls = [flight.hull for flight in flights[:-1] if isfinite(flight.truncation)]
    return any(steep > STEEP * max(abs(low), abs(high)) for low, high in hulls)


def _verdict(line: Line, flights: Sequence[Flight], ripple: float = 0.0) -> Estimate:
    """The best flight's slope; or the kink, or the jump, that the finest rungs still show."""
    # Slopes that double with every halving converge to nothing, whatever a tableau makes of them.
    calm = [f for f in flights if not _doubles([s.central for s in f.samples], f.rounding)]
    best = min(calm or flights, key=lambda f: f.bar)
    last = min(flights, key=lambda f: f.samples[-1].h)
    weight = best.weight if isfinite(best.bar) else 0.0
    # A far step makes outputs, and not noise, larger; or smaller, as those of a kernel.
    near = max(flights[0].weight, last.weight) if weight else 0.0
    common = Estimate(
        slope=best.slope,
        error_bar=max(best.bar, best.stillness),
        noise=best.rounding,
        level=max(best.level, best.hidden),
        ripple=ripple / near if near else 0.0,
        weight=weight,
        standing=best.samples[0].standing,
        steps=tuple(step for flight in flights for step in _steps(flight, line.slope)),
    )
    if line.ripple and not weight:  # rounded so coarsely that nothing moves at any step
        return replace(common, error_bar=inf)
    if _doubles([sample.central for sample in last.samples], last.rounding):
        return replace(common, slope=last.slope, error_bar=inf, jump=True)
    if not isfinite(last.truncation):
        return common
    low, high = last.hull
    if not (last.bends and best.bends) and best.bar <= (high - low) / 4:
        return common
    if high - low <= SIGNIFICANCE * last.bend_rounding:
        return common
    at_point = [f for f in flights if f.bends and f.agrees(low, high, last.bend_rounding)]
    if at_point:  # coarser flights see the same kink, with less noise
        sharp = min(at_point, key=lambda f: f.truncation + f.rounding + f.bend_error)
        bar = sharp.truncation + sharp.rounding + sharp.bend_error
        return replace(
            common, slope=sharp.slope, error_bar=bar, noise=sharp.rounding, kink=abs(sharp.bend)
        )
    middle, bar = (low + high) / 2, last.bend_rounding
    return replace(common, slope=middle, error_bar=bar, noise=bar, kink=high - low)


def _settles(flight: Flight, line: Line, enough: float | None = None) -> bool:
    """Whether the bar is small, or small against the distance to what is claimed."""
    size = max(line.size, abs(flight.slope))
    clear = CLEAR * min(abs(flight.slope), abs(flight.slope - line.slope))
    return flight.bar <= max(GOAL * size, clear, enough or 0.0)


def _climb(
    line: Line, start: int, level: float, *, enough: float | None = None, whole: bool = False
) -> Flight:
    """Two rungs, and more until the slope is as sharp as it gets; or all of them."""
    step = OFF_GRID * line.unit
    samples = [line.sample(step * 2.0**-start)]
    for k in range(start + 1, start + RUNGS):
        samples.append(line.sample(step * 2.0**-k))
        flight = _read(tuple(samples), level)
        fine = flight.bar <= FINE * max(line.size, abs(flight.slope))
        if not whole and (fine or (enough is not None and _settles(flight, line, enough))):
            break
    return flight


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
            bend_rounding=inf,
        )
    # `level` is the noise of one evaluation; a central difference has two over 2h.
    noises = [AMPLIFICATION * (sample.rounding + level / sample.h) for sample in samples]
    slope, truncation, rounding = _romberg([s.central for s in samples], noises, order=2)
    folds = [sample.fold for sample in samples]
    bends = [2 * fine - coarse for coarse, fine in pairwise(folds)]
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
        bend_rounding=4 * noises[-1],
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
        current = [fine + (fine - coarse) / (factor - 1) for coarse, fine in pairwise(previous)]
        for row, entry in enumerate(current):
            truncation = max(abs(entry - previous[row]), abs(entry - previous[row + 1]))
            candidate = (entry, truncation, noises[row + column])
            if sum(candidate[1:]) < sum(best[1:]):
                best = candidate
        previous = current
    return best


def _doubles(slopes: Sequence[float], rounding: float) -> bool:
    """Whether difference quotients double at every halving, beyond what noise explains."""
    pairs = pairwise(slopes)
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
