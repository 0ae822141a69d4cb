"""Which entries of a leaf's gradient are wrong: adaptive group testing.

A finite difference along a direction supported on a set of entries sees the sum of their errors.
Small leaves are read entry by entry; in large ones a sample tells whether the fault is everywhere,
and if it is not, the set is halved as long as a half still shows a significant error: k wrong
entries of n cost about 2 k log₂ n directions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gradcheck.oracles import ladder
from gradcheck.probes import Line, scale
from gradcheck.problem import Array
from gradcheck.results import Entry
from gradcheck.settings import SIGNIFICANCE

__all__ = ["Location", "locate"]

EVERY = 48  # up to here reading every entry is cheaper than searching
SAMPLE = 16  # a fault in a quarter of the entries escapes the sample with probability 1 %
MOST = 24  # as many entries as anybody reads; more is "in many entries"
BEND = 1e-3  # a jump of the slope below this part of it may be cancellation inside the target
GOOD = 1e-7  # a bar, relative to the slope, that needs no second reading with smaller steps
DIRECTIONS = 400  # ends a search among noise; ten wrong entries of 10⁶ need 2 · 10 · log₂ 10⁶ = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where the gradient of one leaf is wrong."""

    entries: tuple[Entry, ...]  # wrong by more than the tolerance, largest relative error first
    read: tuple[Entry, ...]  # all entries whose truth was measured, right ones too
    kinks: frozenset[tuple[int, ...]]  # which of those lie on a kink
    tested: int  # of how many entries the truth was measured, or a block of them was cleared
    complete: bool  # whether every entry was read or cleared
    # All wrong entries lie on a kink, and what they move is moved by others as well. Several kinks
    # inside may then meet and cancel, and the conventions at each need not add up to a
    # subgradient: relu(x) - relu(-x) is x, and 0 at 0 is what autodiff makes of its derivative.
    is_composite_kink: bool = False


def locate(line: Line, *, rtol: float, rng: np.random.Generator, careful: bool = False) -> Location:
    """Return the wrong entries of the leaf that `line` moves; `careful`, if its value is noisy.

    An entry is wrong when it differs by more than `SIGNIFICANCE` error bars and by more than
    `rtol` of the larger of both values.
    """
    location = _located(line, rtol, rng)
    wrong = [entry.index for entry in location.entries]
    if not wrong or not location.kinks.issuperset(wrong) or _moves_its_own(line, wrong[0]):
        return location
    return replace(location, is_composite_kink=True)


def _located(line: Line, rtol: float, rng: np.random.Generator) -> Location:
    size = line.gradient.size
    careful = line.ripple > 0
    if size <= EVERY:
        return _location(line, range(size), rtol, careful, complete=True)
    sample = _location(line, _sampled(line.gradient, rng), rtol, careful, complete=False)
    if 4 * len(sample.entries) >= SAMPLE:
        return sample
    found = list(_search(line, careful))
    entries = _location(line, found, rtol, careful, complete=len(found) < MOST)
    merged = {entry.index: entry for entry in (*entries.entries, *sample.entries)}
    read = {entry.index: entry for entry in (*entries.read, *sample.read)}
    return replace(
        entries,
        entries=tuple(merged.values()),
        read=tuple(read.values()),
        kinks=entries.kinks | sample.kinks,
        tested=size,
    )


def _location(
    line: Line, flat: "range | list[int]", rtol: float, careful: bool, *, complete: bool
) -> Location:
    readings = [_entry(line, index, careful) for index in flat]
    read = [entry for entry, _ in readings]
    wrong = [entry for entry in read if _is_wrong(entry, rtol)]
    wrong.sort(key=lambda entry: -_relative(entry))
    return Location(
        entries=tuple(wrong),
        read=tuple(read),
        kinks=frozenset(entry.index for entry, kink in readings if _bends(entry, kink)),
        tested=len(read),
        complete=complete,
    )


def _entry(line: Line, flat: int, careful: bool) -> tuple[Entry, float]:
    """Read one entry, and the width of its kink: a direction of length one along its axis."""
    index = np.unravel_index(flat, line.v.shape)
    v = np.zeros_like(line.v)
    v[index] = 1.0 if abs(line.v[index]) == 0 else line.v[index] / abs(line.v[index])
    alone = replace(line, v=v)
    truth = ladder.estimate(alone, careful=careful)
    own = scale(line.problem.point[line.index][index])
    if not careful and own < line.unit and truth.error_bar > GOOD * abs(alone.slope):
        closer = ladder.estimate(replace(alone, span=own), careful=careful)
        truth = min(truth, closer, key=lambda estimate: estimate.error_bar)
    got = alone.slope
    if abs(truth.excess(got)) > SIGNIFICANCE * truth.error_bar:
        truth = replace(truth, kink=max(truth.kink, ladder.fold(alone)))
    # Where the slope jumps, the nearest value of its interval is what the entry is held to.
    wanted = got - truth.excess(got)
    place = tuple(int(i) for i in index)
    return Entry(index=place, got=got, wanted=wanted, error_bar=_bar(alone, truth)), truth.kink


def _moves_its_own(line: Line, index: tuple[int, ...]) -> bool:
    """Whether the entry moves outputs that no other entry moves: an elementwise function."""
    only, others = np.zeros_like(line.v), line.v.copy()
    only[index], others[index] = line.v[index], 0
    h = line.unit * 2.0**-10  # far enough for what depends on an entry to move
    one, rest, both = (replace(line, v=v).sample(h).moving for v in (only, others, line.v))
    return bool(one + rest == both)


def _bar(line: Line, truth: ladder.Estimate) -> float:
    return truth.error_bar + truth.standing + line.doubt + line.reuse * truth.weight


def _search(line: Line, careful: bool) -> Iterator[int]:
    """Yield flat indices of entries in whose company the error stays significant."""
    v = line.v.ravel()
    stack = [(0, v.size, _error(line, v, 0, v.size, careful))]
    directions, found = 1, 0
    while stack and directions < DIRECTIONS and found < MOST:
        start, stop, (error, bar) = stack.pop()
        if not abs(error) > SIGNIFICANCE * bar:
            continue
        if stop - start == 1:
            found += 1
            yield start
            continue
        middle = (start + stop) // 2
        left = _error(line, v, start, middle, careful)
        directions += 1
        right = error - left[0], bar + left[1]
        if not abs(right[0]) > SIGNIFICANCE * right[1]:
            # The difference of two bars may hide what the right half alone would show.
            right = _error(line, v, middle, stop, careful)
            directions += 1
        halves = [(start, middle, left), (middle, stop, right)]
        stack += sorted(halves, key=lambda half: abs(half[2][0]))


def _error(line: Line, v: Array, start: int, stop: int, careful: bool) -> tuple[float, float]:
    """The error of the slope along `v` restricted to a range of entries, and its bar."""
    part = np.zeros_like(v)
    part[start:stop] = v[start:stop]
    alone = replace(line, v=part.reshape(line.v.shape))
    truth = ladder.estimate(alone, careful=careful)
    return truth.excess(alone.slope), _bar(alone, truth)


def _sampled(gradient: Array, rng: np.random.Generator) -> list[int]:
    """The largest entry, the corners, and a random rest."""
    chosen = [int(np.argmax(np.abs(gradient))), 0, gradient.size - 1]
    chosen += [int(i) for i in rng.choice(gradient.size, SAMPLE, replace=False)]
    return list(dict.fromkeys(chosen))[:SAMPLE]


def _is_wrong(entry: Entry, rtol: float) -> bool:
    off = abs(entry.got - entry.wanted)
    if not np.isfinite(entry.got):
        return bool(np.isfinite(entry.wanted))
    largest = max(abs(entry.got), abs(entry.wanted))
    return off > SIGNIFICANCE * entry.error_bar and off > rtol * largest


def _bends(entry: Entry, kink: float) -> bool:
    """Whether the jump of the slope is of the order of the slope, and not a rounding inside."""
    return kink > BEND * max(abs(entry.got), abs(entry.wanted))


def _relative(entry: Entry) -> float:
    largest = max(abs(entry.got), abs(entry.wanted))
    return abs(entry.got - entry.wanted) / largest if largest else 0.0
