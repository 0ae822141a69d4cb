"""What noise hides along one direction, and many show: kernels that run in a half precision only.

In bfloat16 ten error bars of a path integral are half of the gradient. But that the mean square of
sixteen mismatches is nine squared bars does not happen by chance; and where the root of that mean
is small, so is the error, for it is the sum of the error's and of the noise's square.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from gradcheck.checks.question import Question
from gradcheck.evidence import Probe
from gradcheck.oracles import path
from gradcheck.probes import Line, direction
from gradcheck.results import Finding, Power, Verdict

__all__ = ["PEAK", "by_many_paths"]

DIRECTIONS = 16
REACHES = (1.0, 2.0**-2, 2.0**-4)  # in sizes of the leaf
CLOSE = 1e-3  # a quadrature error below a half's digits

# A path on which the gradient is so many times as large as at the point says nothing of the point.
PEAK = 4.0

# How many error bars the mean mismatch of a failure is at least.
TOGETHER = 3.0

# What is wrong with a gradient is as wrong along a part of each segment, and in the same sense. Of
# jumps, and of steep parts that quadrature steps over, the mean square is one over that part times
# as large, and what is seen along the whole is in the part by chance. The part of a segment, within
# which factor the mismatch must stay, and how alike it must be.
PARTS = ((2.0**-1, 1.25, 0.85), (2.0**-2, 1.4, 0.7))

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
    index = question.index
    lines = [
        probe.line.along({index: direction(rng, question.leaf)})
        for probe in islice(cycle(probes), DIRECTIONS)
    ]
    level = max(probe.truth.level for probe in probes)
    for reach in REACHES:
        if (seen := _all_seen(question, lines, reach, level, rng)) is None:
            continue
        off = _root_mean_square(seen.in_sizes)
        if UNLUCKY * off <= question.tolerance:
            return _right(question, probes, off)
        if _root_mean_square(seen.in_bars) > TOGETHER and off > 2 * question.tolerance:
            for part, factor, alike in PARTS:
                nearer = _all_seen(question, lines, part * reach, level, rng)
                if nearer is None or not _stays(seen, nearer, factor, alike):
                    return None
            return _wrong(question, probes, seen)
        return None
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How far claim and values are apart along each segment: in error bars, and in its size."""

    in_bars: Sequence[float]
    in_sizes: Sequence[float]


def _all_seen(
    question: Question,
    lines: Sequence[Line],
    reach: float,
    level: float,
    rng: np.random.Generator,
) -> Seen | None:
    """What is seen along all lines; None where one leads too far."""
    pairs = []
    for line in lines:
        if (pair := _seen(question, line, reach, level, rng)) is None:
            return None
        pairs.append(pair)
    in_bars, in_sizes = zip(*pairs, strict=True)
    return Seen(in_bars=in_bars, in_sizes=in_sizes)


def _seen(
    question: Question, line: Line, reach: float, level: float, rng: np.random.Generator
) -> tuple[float, float] | None:
    index, x = question.index, line.problem.point[question.index]
    mean = path.integrate(line, reach, goal=float("inf"), level=level, close=CLOSE)
    if mean is None or not mean.error_bar or mean.size > PEAK * line.size:
        return None
    ends = -path.BEHIND * reach * line.unit, reach * line.unit
    slopes = [mean.slope]
    for _ in range(PARALLEL):
        step = ASIDE * reach * line.unit * direction(rng, question.leaf)
        for shift in (step, -step):
            point = tuple(
                question.leaf.rounded(x + shift) if k == index else other
                for k, other in enumerate(line.problem.point)
            )
            beside = replace(line, problem=replace(line.problem, point=point))
            slopes.append(_slope(beside, *ends))
    off = mean.claimed - float(np.mean(slopes))
    size = max(line.size, abs(mean.slope))
    if not np.isfinite(off) or not size:
        return None
    return off / mean.error_bar, off / size


def _slope(line: Line, low: float, high: float) -> float:
    return line.rise(line.at(high), line.at(low)) / (high - low)


def _stays(seen: Seen, nearer: Seen, factor: float, least: float) -> bool:
    """Whether the mismatch of all segments is there along a part of each."""
    far, near = np.array(seen.in_sizes), np.array(nearer.in_sizes)
    sizes = _root_mean_square(far), _root_mean_square(near)
    alike = float(far @ near) / (len(far) * sizes[0] * sizes[1])
    return sizes[0] / factor < sizes[1] < factor * sizes[0] and alike > least


def _wrong(question: Question, probes: Sequence[Probe], seen: Seen) -> Finding:
    off, bars = _root_mean_square(seen.in_sizes), _root_mean_square(seen.in_bars)
    message = (
        f"along {DIRECTIONS} directions together, the values rise otherwise than the integral of "
        "the gradient says"
    )
    own = replace(question, oracle="path integrals")
    failed = own.answer(Verdict.FAIL, message, probes)
    return replace(failed, mismatch=off, resolution=off * TOGETHER / bars)


def _right(question: Question, probes: Sequence[Probe], off: float) -> Finding:
    message = (
        f"at the point, noise hides most errors; right along {DIRECTIONS} segments as long as the "
        "leaf is large, together"
    )
    own = replace(question, oracle="path integrals")
    passed = own.answer(Verdict.PASS, message, probes)
    power = Power(fault="leaf", smallest=max(UNLUCKY * off, question.tolerance))
    return replace(passed, mismatch=off, resolution=UNLUCKY * off, power=(power,))


def _root_mean_square(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
