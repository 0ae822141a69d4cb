"""Which entries of a leaf's gradient are wrong: adaptive group testing.

A finite difference along a direction supported on a set of entries sees the sum of their errors.
Small leaves are read entry by entry; in large ones the set is halved as long as a half still shows
a significant error: k wrong entries of n cost about 2 k log₂ n directions. Where both halves are
wrong again and again, a sample tells whether the fault is everywhere; where the entries found share
a row, a channel or a time step, one more direction tells whether the fault is just that block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gradcheck.evidence import SHOWN, entry_of
from gradcheck.oracles import ladder
from gradcheck.oracles.rungs import NARROW
from gradcheck.probes import Line, scale
from gradcheck.problem import Array, norm
from gradcheck.results import Entry
from gradcheck.settings import SIGNIFICANCE

__all__ = ["Location", "locate"]

EVERY = 48  # up to here reading every entry is cheaper than searching
SAMPLE = 16  # a fault in a quarter of the entries escapes the sample with probability 1 %
DENSE = 3  # splits in a row with both halves wrong: eight blocks, enough to ask for the sample
ALIKE = 3  # wrong entries that share an index before their block is tested
BEND = 1e-3  # a jump of the slope below this part of it may be cancellation inside the target
GOOD = 1e-7  # a bar, relative to the slope, that needs no second reading with smaller steps
DIRECTIONS = 400  # ends a search among noise; ten wrong entries of 10⁶ need 2 · 10 · log₂ 10⁶ = 400

# A half is not read of which all but this part of the error has been found in the other: what it
# may hide is found when what is left is read once more. Bars are the sums of up to four readings.
SLIGHT = 1e-2

# What an entry may be off by, of a usual one of its leaf, and of itself at most: small entries are
# held to a thousandth of themselves, however small.
BESIDE, AT_MOST = 1e-9, 1e-3

Index = tuple[int, ...]


@dataclass(slots=True)
class _Budget:
    """What a search may still spend."""

    directions: int
    found: int
    asked: bool = False  # whether a sample was taken

    @property
    def is_spent(self) -> bool:
        return self.directions <= 0 or self.found <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where the gradient of one leaf is wrong."""

    entries: tuple[Entry, ...]  # wrong by more than the tolerance, largest relative error first
    read: tuple[Entry, ...]  # all entries whose truth was measured, right ones too
    kinks: frozenset[Index]  # which of those lie on a kink
    tested: int  # of how many entries the truth was measured, or a block of them was cleared
    complete: bool  # whether every entry was read or cleared
    block: tuple[int, int] | None = None  # (axis, index): all that is wrong lies in this slice
    # All wrong entries lie on a kink, and what they move is moved by others as well. Several kinks
    # inside may then meet and cancel, and the conventions at each need not add up to a
    # subgradient: relu(x) - relu(-x) is x, and 0 at 0 is what autodiff makes of its derivative.
    is_composite_kink: bool = False


def locate(line: Line, *, rtol: float, rng: np.random.Generator) -> Location:
    """Return the wrong entries of the one leaf that `line` moves.

    An entry is wrong when it differs by more than `SIGNIFICANCE` error bars, by more than `rtol` of
    the larger of both values, and by more than a solver leaves that stops at a tight tolerance.
    """
    (index,) = line.v
    location = _Search(line=line, index=index, rtol=rtol, careful=line.ripple > 0).run(rng)
    wrong = [entry.index for entry in location.entries]
    if not wrong or not location.kinks.issuperset(wrong) or _moves_its_own(line, index, wrong[0]):
        return location
    return replace(location, is_composite_kink=True)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """One line, the position of the leaf that it moves, and how entries are judged."""

    line: Line
    index: int
    rtol: float
    careful: bool  # noise is measured at every reading

    @property
    def v(self) -> Array:
        return self.line.v[self.index]

    @property
    def gradient(self) -> Array:
        return self.line.gradients[self.index]

    @cached_property
    def usual(self) -> float:
        """The size of a usual entry of the gradient."""
        return norm(np.nan_to_num(self.gradient)) / float(np.sqrt(max(self.gradient.size, 1)))

    def run(self, rng: np.random.Generator) -> Location:
        size = self.v.size
        if size <= EVERY:
            return self._location(range(size), complete=True)
        everywhere: list[Location] = []

        def is_everywhere() -> bool:
            places = _sampled(self.gradient, rng)
            if not _is_dense(sum(map(self._shows, places))):  # at a glance, which costs a few steps
                return False
            seen = self._location(places, complete=False)
            if _is_dense(len(seen.entries)):
                everywhere.append(seen)
            return bool(everywhere)

        found: list[Entry] = []
        kinks: set[Index] = set()
        read: list[Entry] = []
        block = None
        search = _Budget(directions=DIRECTIONS, found=SHOWN)
        for flat in self._suspects(search, is_everywhere):
            entry, kink = self._entry(flat)
            read.append(entry)
            if _bends(entry, kink):
                kinks.add(entry.index)
            if not _is_wrong(entry, self.rtol, self.usual):
                continue
            found.append(entry)
            if len(found) == ALIKE and (block := self._block(found)) is not None:
                break
        if everywhere:
            return everywhere[0]
        complete = block is not None or not search.is_spent
        return replace(_assembled(found, read, kinks, tested=size, complete=complete), block=block)

    def _shows(self, flat: int) -> bool:
        """Whether an entry, moved alone, shows a significant error."""
        alone = np.zeros_like(self.v)
        alone.ravel()[flat] = self.v.ravel()[flat]
        enough = self.rtol * abs(self.gradient.ravel()[flat] * self.v.ravel()[flat]) / SIGNIFICANCE
        off, bar = self._off(alone, float(enough))
        return abs(off) > SIGNIFICANCE * bar

    def _location(self, flat: Sequence[int], *, complete: bool) -> Location:
        readings = [self._entry(position) for position in flat]
        read = [entry for entry, _ in readings]
        wrong = [entry for entry in read if _is_wrong(entry, self.rtol, self.usual)]
        kinks = {entry.index for entry, kink in readings if _bends(entry, kink)}
        return _assembled(wrong, read, kinks, tested=len(read), complete=complete)

    def _entry(self, flat: int) -> tuple[Entry, float]:
        """Read one entry, of a complex one both parts, and the width of its kink."""
        place = tuple(int(i) for i in np.unravel_index(flat, self.v.shape))
        got, wanted, bar, kink = self._part(place, 1.0)
        if not np.iscomplexobj(self.v):
            return entry_of(place, got, wanted, bar), kink
        got_, wanted_, bar_, kink_ = self._part(place, 1j)
        i = -1j if self.line.problem.framework == "jax" else 1j  # whose gradient is our conjugate
        whole = entry_of(place, got + i * got_, wanted + i * wanted_, max(bar, bar_))
        return whole, max(kink, kink_)

    def _part(self, place: Index, phase: complex) -> tuple[float, float, float, float]:
        """What is got and wanted of an entry along `phase`, with its bar and its kink."""
        line = self.line
        v = np.zeros_like(self.v)
        v[place] = phase
        alone = line.along({self.index: v})
        truth = ladder.estimate(alone, careful=self.careful)
        got, own = alone.slope, scale(line.problem.point[self.index][place])
        is_off = own < NARROW * line.unit and _contradicts(truth, got)
        is_coarse = own < line.unit and truth.error_bar > GOOD * abs(got)
        if is_off or (is_coarse and not self.careful):
            closer = ladder.estimate(replace(alone, unit=own), careful=self.careful)
            confirms = closer.error_bar <= GOOD * abs(got) and not _contradicts(closer, got)
            is_sharper = is_coarse and closer.error_bar < truth.error_bar
            truth = closer if (is_off and confirms) or is_sharper else truth
        if _contradicts(truth, got):
            truth = ladder.folded(alone, truth)
        # Where the slope jumps, the nearest value of its interval is what the entry is held to.
        wanted = got - truth.excess(got)
        return got, wanted, _bar(alone, truth), truth.kink

    def _suspects(self, search: "_Budget", is_everywhere: Callable[[], bool]) -> Iterator[int]:
        """Yield flat indices of entries in whose company the error stays significant.

        Small errors may hide beside a large one, within the bar of the halves that are not read:
        once nothing is left to halve, all that was not found is read once more.
        """
        left = self.v.copy()
        while True:
            before = search.found
            for flat in self._halved(left, search, is_everywhere):
                left.ravel()[flat] = 0
                yield flat
            if search.is_spent or search.found == before:
                return

    def _halved(
        self, v: Array, search: "_Budget", is_everywhere: Callable[[], bool]
    ) -> Iterator[int]:
        """Yield flat indices of entries of `v`, by halving what shows a significant error."""

        def error(start: int, stop: int, whole: float = 0.0) -> tuple[float, float]:
            """The error of the slope, part of the `whole`, along a range of `v`; and its bar."""
            search.directions -= 1
            part = np.zeros_like(v)
            part.ravel()[start:stop] = v.ravel()[start:stop]
            return self._off(part, SLIGHT / 4 * abs(whole))

        stack = [(0, v.size, error(0, v.size), 0)]
        while stack and not search.is_spent:
            start, stop, (off, bar), dense = stack.pop()
            if not abs(off) > SIGNIFICANCE * bar:
                continue
            if stop - start == 1:
                search.found -= 1
                yield start
                continue
            if dense == DENSE and not search.asked:
                search.asked = True
                if is_everywhere():
                    search.found = 0
                    return
            middle = (start + stop) // 2
            left = error(start, middle, off)
            right = off - left[0], bar + left[1]
            if not abs(right[0]) > SIGNIFICANCE * right[1] and not right[1] <= SLIGHT * abs(off):
                # The difference of two bars may hide what the right half alone would show.
                right = error(middle, stop, off)
            both = all(abs(off) > SIGNIFICANCE * bar for off, bar in (left, right))
            depth = dense + 1 if both else 0
            halves = [(start, middle, left, depth), (middle, stop, right, depth)]
            stack += sorted(halves, key=lambda half: abs(half[2][0]))

    def _off(self, v: Array, enough: float = 0.0) -> tuple[float, float]:
        alone = self.line.along({self.index: v})
        truth = ladder.estimate(alone, careful=self.careful, enough=enough)
        return truth.excess(alone.slope), _bar(alone, truth)

    def _block(self, found: list[Entry]) -> tuple[int, int] | None:
        """The slice that all entries found lie in, if nothing outside of it is wrong."""
        for axis, length in enumerate(self.v.shape):
            shared = {entry.index[axis] for entry in found}
            if len(shared) > 1 or length == 1:
                continue
            (position,) = shared
            outside = self.v.copy()
            np.moveaxis(outside, axis, 0)[position] = 0
            error, bar = self._off(outside)
            if abs(error) <= SIGNIFICANCE * bar:
                return axis, position
        return None


def _assembled(
    wrong: list[Entry], read: list[Entry], kinks: set[Index], *, tested: int, complete: bool
) -> Location:
    return Location(
        entries=tuple(sorted(wrong, key=lambda entry: -_relative(entry))),
        read=tuple(read),
        kinks=frozenset(kinks),
        tested=tested,
        complete=complete,
    )


def _moves_its_own(line: Line, index: int, place: Index) -> bool:
    """Whether the entry moves outputs that no other entry moves: an elementwise function."""
    v = line.v[index]
    only, others = np.zeros_like(v), v.copy()
    only[place], others[place] = v[place], 0
    h = line.unit * 2.0**-10  # far enough for what depends on an entry to move
    one, rest, both = (line.along({index: w}).sample(h).moving for w in (only, others, v))
    return bool(one + rest == both)


def _contradicts(truth: ladder.Estimate, claimed: float) -> bool:
    return abs(truth.excess(claimed)) > SIGNIFICANCE * truth.error_bar


def _bar(line: Line, truth: ladder.Estimate) -> float:
    """The oracle's bar, and what the target's gradient may have lost to rounding.

    A narrow dtype inside rounds the terms of an entry, which may be larger than what is left of
    them: as large as a typical entry.
    """
    ((index, v),) = line.v.items()
    typical = norm(line.gradients[index]) / max(v.size, 1) ** 0.5
    own = float(line.coarseness / 2 * typical * norm(v))
    return truth.error_bar + truth.standing + line.doubt + line.reuse * truth.weight + own


def _is_dense(wrong: int) -> bool:
    """Whether as many of the sample are wrong as make a fault that is everywhere."""
    return 4 * wrong >= SAMPLE


def _sampled(gradient: Array, rng: np.random.Generator) -> list[int]:
    """The largest entry, the corners, and a random rest."""
    chosen = [int(np.argmax(np.abs(gradient))), 0, gradient.size - 1]
    chosen += [int(i) for i in rng.choice(gradient.size, SAMPLE, replace=False)]
    return list(dict.fromkeys(chosen))[:SAMPLE]


def _is_wrong(entry: Entry, rtol: float, usual: float) -> bool:
    """Whether it is off by more than its bar and the tolerance, and than what a `usual` one may.

    A solver that stops at 1e-10 leaves that of a usual entry in all of them.
    """
    if not np.isfinite(entry.got):
        return bool(np.isfinite(entry.wanted))
    beside = min(BESIDE * usual, AT_MOST * entry.size)
    least = max(rtol * entry.size, beside, SIGNIFICANCE * entry.error_bar)
    return entry.off > least


def _bends(entry: Entry, kink: float) -> bool:
    """Whether the jump of the slope is of the order of the slope, and not a rounding inside."""
    return kink > BEND * entry.size


def _relative(entry: Entry) -> float:
    return entry.off / entry.size if entry.size else 0.0
