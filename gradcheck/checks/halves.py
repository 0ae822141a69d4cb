"""What noise hides along one direction, and many show: kernels that run in a half precision only.

In bfloat16 ten error bars of a path integral are half of the gradient. But that the mean square of
sixteen mismatches is nine squared bars does not happen by chance; and where the root of that mean
is small, so is the error, for it is the sum of the error's and of the noise's square.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradcheck.checks.question import Question
from gradcheck.evidence import Probe
from gradcheck.oracles import path
from gradcheck.probes import Line, direction
from gradcheck.results import Finding, Power, Verdict

__all__ = ["by_many_paths"]

DIRECTIONS = 16
REACHES = (1.0, 2.0**-2)  # in sizes of the leaf; the second where the first leaves the domain
CLOSE = 1e-3  # a quadrature error below a half's digits

# How many error bars the mean mismatch of a failure is at least.
TOGETHER = 3.0

# How much larger than the root of the mean square of sixteen the error may be: a chi-square of
# sixteen degrees of freedom is below a third of its mean once in two hundred times.
UNLUCKY = 3.0**0.5

# Pairs of parallel segments, by whose ends noise is averaged, and how far off they are: by several
# ulps of a half, so that all is rounded otherwise.
PARALLEL, ASIDE = 4, 2.0**-4


def by_many_paths(
    question: Question, probes: Sequence[Probe], rng: np.random.Generator
) -> Finding | None:
    """Return what many segments in random directions say together; None if that is not enough."""
    if not probes[0].line.problem.is_narrow or 0 in question.leaf.shape:
        return None
    for reach in REACHES:
        seen = [_seen(question, probes[k % len(probes)], reach, rng) for k in range(DIRECTIONS)]
        if all(one is not None for one in seen):
            return _judged(question, probes, [one for one in seen if one is not None])
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How far claim and values are apart along one segment: in error bars, and in its size."""

    in_bars: float
    in_sizes: float


def _seen(question: Question, probe: Probe, reach: float, rng: np.random.Generator) -> Seen | None:
    index, x = question.index, probe.line.problem.point[question.index]
    line = replace(probe.line, v={index: direction(rng, question.leaf)}, beside=None)
    mean = path.integrate(line, reach, goal=float("inf"), level=probe.truth.level, close=CLOSE)
    if mean is None or not mean.error_bar:
        return None
    ends = -path.BEHIND * reach * line.unit, reach * line.unit
    slopes = [mean.slope]
    for _ in range(PARALLEL):
        step = ASIDE * line.unit * direction(rng, question.leaf)
        for shift in (step, -step):
            point = tuple(
                question.leaf.rounded(x + shift) if k == index else other
                for k, other in enumerate(line.problem.point)
            )
            beside = replace(line, problem=replace(line.problem, point=point))
            slopes.append(_slope(beside, *ends))
    off = abs(mean.claimed - float(np.mean(slopes)))
    size = max(mean.size, abs(mean.slope))
    if not np.isfinite(off) or not size:
        return None
    return Seen(in_bars=off / mean.error_bar, in_sizes=off / size)


def _slope(line: Line, low: float, high: float) -> float:
    return line.rise(line.at(high), line.at(low)) / (high - low)


def _judged(question: Question, probes: Sequence[Probe], seen: Sequence[Seen]) -> Finding | None:
    own = replace(question, oracle="path integrals")
    bars = _root_mean_square([one.in_bars for one in seen])
    off = _root_mean_square([one.in_sizes for one in seen])
    if bars > TOGETHER and off > 2 * question.tolerance:
        message = (
            f"along {DIRECTIONS} directions together, the values rise otherwise than the integral "
            "of the gradient says"
        )
        failed = own.answer(Verdict.FAIL, message, probes)
        return replace(failed, mismatch=off, resolution=off * TOGETHER / bars)
    resolution = UNLUCKY * off
    if resolution > question.tolerance:
        return None
    message = (
        f"at the point, noise hides most errors; right along {DIRECTIONS} segments as long as the "
        "leaf is large, together"
    )
    passed = own.answer(Verdict.PASS, message, probes)
    power = Power(fault="leaf", smallest=max(resolution, question.tolerance))
    return replace(passed, mismatch=off, resolution=resolution, power=(power,))


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
