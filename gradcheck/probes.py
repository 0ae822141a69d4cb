"""Where to look: random directions, and a problem restricted to a line.

A probe is a cotangent u in output space and a tangent v in the space of the leaves. Along it the
problem is a function of one variable, φ(t) = ⟨u, f(x + t v)⟩, whose slope φ′(0) = ⟨Jᵀu, v⟩ every
oracle can estimate in its own way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import hypot
from sys import getrefcount
from typing import Any

import numpy as np

from gradcheck.errors import maybe_out_of_domain
from gradcheck.problem import (
    BLOCK,
    EPSILON,
    Array,
    Arrays,
    Leaf,
    Problem,
    blocks,
    extent,
    inner,
    norm,
    products,
    widened,
)
from gradcheck.settings import RIPPLE

__all__ = [
    "BESIDE",
    "Line",
    "Sample",
    "among",
    "by_size",
    "cotangent",
    "direction",
    "disturbed",
    "known",
    "nudged",
    "relative",
    "scale",
    "side_by_side",
]


def cotangent(
    rng: np.random.Generator, outputs: Sequence[Leaf], leaves: Sequence[Leaf] = ()
) -> Arrays:
    """Return random signs times magnitudes between 1/2 and 3/2, independent for each entry.

    Signed, so that errors of opposite sign do not cancel for every draw, and so that a sum over
    outputs cannot hide a missing normalisation. They have so few bits that the sum of a few is
    exact in the dtypes of `outputs` and in those that `leaves` are computed in.
    """
    epsilon = max(array.epsilon for array in (*outputs, *leaves))
    steps = 2 ** (10 if epsilon < EPSILON["float16"] else 3)

    def real(shape: tuple[int, ...]) -> Array:
        sizes = rng.integers(steps // 2, 3 * steps // 2, shape, endpoint=True) / steps
        return np.asarray(rng.choice([-1.0, 1.0], shape) * sizes)

    drawn = [
        real(leaf.shape) + 1j * real(leaf.shape) if "complex" in leaf.dtype else real(leaf.shape)
        for leaf in outputs
    ]
    return tuple(leaf.rounded(np.asarray(u)) for leaf, u in zip(outputs, drawn, strict=True))


def direction(
    rng: np.random.Generator, leaf: Leaf, size: float = 1.0, *, is_held_short: bool = False
) -> Array:
    """Return random signs times magnitudes between 1/2 and 3/2, independent for each entry.

    All of it is `size` times as large.

    No entry is missed because its draw was near zero (as with a normal draw), and no two errors
    of equal size cancel (as with bare signs). The magnitudes are multiples of 2⁻¹⁰, so that a
    power-of-two multiple of the direction is exact in every dtype but bfloat16. A real one may be
    held in float32: it is half as large.
    """
    is_complex = "complex" in leaf.dtype
    short = np.float32 if is_held_short else np.float64
    v = np.empty(leaf.shape, np.complex128 if is_complex else short)
    drawn = (MAGNITUDES * size).astype(short)
    for (part,) in blocks(v):
        words = rng.integers(0, 2**64, -(-part.size // 4), dtype=np.uint64)
        places = words.view(np.uint16)[: part.size] & np.uint16(len(drawn) - 1)
        if is_complex:
            part[:] = drawn[places] * PHASES[rng.integers(0, len(PHASES), part.shape)]
        else:
            drawn.take(places, out=part, mode="clip")  # all are in range: it need not look
    return v


# With a sign; so many that two errors of a leaf are hardly ever the opposite of one another.
MAGNITUDES = np.outer([1.0, -1.0], np.arange(2**9, 2**9 + 2**10) * 2.0**-10).ravel()

# Those of complex entries: so many that an error of one entry, which has a phase of its own, is
# orthogonal to hardly any, and shifted so that none is orthogonal to another or to an axis.
PHASES = np.exp(1j * np.pi * (np.arange(2**10) + 0.382) / 2**10)


def relative(v: Array, x: Array) -> Array:
    """Return `v` scaled to the size of each entry of `x`; a zero counts as the smallest other.

    A step that suits the large entries of a leaf may leave the domain of a small one.
    """
    sizes = np.abs(x).astype(np.float64)
    smallest = np.min(sizes, initial=np.inf, where=sizes > 0)
    if not np.isfinite(smallest):
        return v
    return np.asarray(v * (np.maximum(sizes, smallest) / scale(x)))


def by_size(x: Array) -> list[Array]:
    """Return masks of the entries of each order of size, the largest first; zeros are of the last.

    No step suits all of 1e8 and 1e-6.
    """
    if x.size < 2:
        return [np.ones(x.shape, bool)]
    sizes = np.abs(x)
    orders = np.zeros(x.shape)
    np.log2(np.max(sizes, initial=0.0) / sizes, out=orders, where=sizes > 0)
    orders = np.floor(orders / ORDER)
    orders[sizes == 0] = np.max(orders, initial=0.0)
    return [orders == order for order in np.unique(orders)]


# In factors of two. Numbers that are drawn at random are nearly all of one order.
ORDER = 20


def among(rng: np.random.Generator, leaf: Leaf, x: Array, few: Array) -> Array:
    """Return a direction of `few` entries of a leaf at `x`, each by a part of its own size."""
    return np.where(few, relative(direction(rng, leaf), x), 0)


def disturbed(
    rng: np.random.Generator, leaves: Sequence[Leaf], point: Arrays, *, ulps: int = 1
) -> Arrays:
    """Return `point` with every entry moved by so many ulps at most, up or down.

    By one, every second pair of equal entries stays equal.
    """

    def moves(x: Array) -> Array:
        return rng.choice([-1.0, 1.0], x.shape) * rng.integers(1, ulps, x.shape, endpoint=True)

    return tuple(
        leaf.rounded(x * (1 + leaf.epsilon * moves(x)))
        for leaf, x in zip(leaves, point, strict=True)
    )


# Far enough from a kink for the finest steps (1e-9 of a leaf's size) to see none, and near enough
# to stay among the same pieces.
BESIDE = 2.0**-8


def nudged(
    rng: np.random.Generator,
    leaves: Sequence[Leaf],
    point: Arrays,
    signs: Arrays | None = None,
) -> Arrays:
    """Return a point beside `point`, off a kink that it may lie on.

    No two entries are moved by the same, or of a thousand ties some would stay; and none is moved
    across zero, beyond which it may have no meaning. `signs` say which way: 0 stays.
    """
    ways = signs or [None] * len(point)
    return tuple(
        leaf.rounded(x + _off_ties(rng, leaf, x, way))
        for leaf, x, way in zip(leaves, point, ways, strict=True)
    )


def _off_ties(rng: np.random.Generator, leaf: Leaf, x: Array, way: Array | None) -> Array:
    sizes = np.where((x != 0) & (np.abs(x) < TINY * scale(x)), np.abs(x), scale(x))
    size = max(BESIDE, FEW * leaf.epsilon)  # or it is rounded away
    step = size * sizes * direction(rng, leaf) * rng.uniform(0.5, 1, x.shape)
    if np.iscomplexobj(step):
        return step
    if way is not None:
        step = way * np.abs(step)
    may_cross = (x != 0) & (np.abs(x) <= np.abs(step))
    return np.where(may_cross, np.copysign(step, x), step)


FEW = 4.0  # spacings of numbers
TINY = 2.0**-20  # of a leaf's size: what is smaller is moved by a part of its own


def scale(x: Array) -> float:
    """Return the size of a typical entry of `x`, a power of two; 1 for an array of zeros.

    Steps are measured in this unit: an absolute step is a third of x at x = 3e-6 and rounds away
    at x = 1e12.
    """
    typical = norm(x) / max(np.sqrt(x.size), 1.0)
    if typical == 0.0 or not np.isfinite(typical):
        return 1.0
    return max(float(2.0 ** np.round(np.log2(typical))), SMALLEST)


SMALLEST = 2.0**-960  # so that a billionth of it is a normal number yet


# The part of the rise along a step that rounding the moved point may make up and not be looked at.
NEGLIGIBLE = 1e-12


def _references(rooms: Mapping[int, Array], index: int) -> int:
    """How many references there are to an array of `rooms`, as counted here."""
    room = rooms[index]
    return getrefcount(room)


UNHELD = _references({0: np.empty(1)}, 0)  # to one that nobody else holds: it goes by the Python


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """φ around the point, at distance h on both sides."""

    h: float
    central: float  # (φ(h) - φ(-h)) / 2h
    fold: float  # (φ(h) + φ(-h) - 2 φ(0)) / h: vanishes with h, or is the jump of the slope
    crease: float  # the same without cancellation: Σ |u| |f(h) + f(-h) - 2 f(0)| / h
    rounding: float  # what rounding the outputs to their dtype does to `central`
    weight: float  # the size ‖u ∘ f‖ of the outputs that move
    moving: int  # how many entries of the outputs that is
    standing: float  # the slope that the others may have and still round to the same value


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a gradient claims of a direction of its leaf."""

    slope: float  # ⟨g, v⟩
    extent: float  # ‖g ∘ v‖: its size if no terms of it cancelled
    slack: float  # eps ‖g ∘ x‖: how much of the rise rounding the moved leaf may make up


@dataclass(frozen=True, kw_only=True)
class Line:
    """A problem along a direction `v` of some of its leaves, seen through a cotangent `u`.

    `gradients` are the target's own VJP at the point, used only to correct for what rounding the
    moved leaf to its dtype does to the displacement: the correction is 1e-16/h of the slope in
    float64, so that an error of the gradient enters at second order.
    """

    problem: Problem
    v: Mapping[int, Array]  # the position of a leaf -> its direction; the others stay
    u: Arrays
    asked: Callable[[], Arrays]  # gives the gradients of all leaves, or asks for them anew
    centre: Arrays  # f at the point
    unit: float = 1.0  # what steps are measured in: how far along `v` is the leaf's own size
    unrest: Mapping[int, Array] | None = None  # of each gradient, when the point moves by an ulp
    reuse: float = 0.0  # the same, for a size of one of the outputs that move
    floor: float = 0.0  # noise of φ that is known beforehand: the spread of repeated evaluations
    ripple: float = 0.0  # noise, relative to the outputs that move, that was found elsewhere
    beside: "Beside | None" = None  # the same direction, seen through other cotangents too
    rooms: dict[int, Array] = field(default_factory=dict)  # memory of what moves, as `v` has it

    @property
    def gradients(self) -> Arrays:
        return self.asked()

    @cached_property
    def claims(self) -> Mapping[int, Claim]:
        """What is claimed of each leaf that moves."""
        claims, gradients = {}, self.gradients
        for k, v in self.v.items():
            slope, moved, held = products(gradients[k], v, self.problem.point[k])
            slack = self.problem.leaves[k].epsilon * held
            claims[k] = Claim(slope=slope, extent=moved, slack=slack)
        return claims

    @cached_property
    def size(self) -> float:
        """The claimed slope's size if its terms did not cancel."""
        return norm(np.array([claim.extent for claim in self.claims.values()]))

    @cached_property
    def weight(self) -> float:
        """The size of the value at the point, as the cotangent sees it: ‖u ∘ f‖."""
        return norm(np.array([extent(u, f) for u, f in zip(self.u, self.centre, strict=True)]))

    @cached_property
    def moved_weight(self) -> float:
        """The same of the outputs that depend on the leaves that move, as far as a step shows."""
        if len(self.centre) == 1:
            return self.weight
        there = self.at(self.unit * 2.0**-7)
        sizes = [
            extent(u, f)
            for u, f, moved in zip(self.u, self.centre, there, strict=True)
            if not np.array_equal(f, moved)
        ]
        return norm(np.array(sizes)) if sizes else self.weight

    @cached_property
    def slack(self) -> float:
        """How much of the claimed rise rounding a float64 point may make up: eps ‖g ∘ x‖."""
        return norm(np.array([claim.slack for claim in self.claims.values()]))

    @cached_property
    def slope(self) -> float:
        """What the target claims: ⟨Jᵀu, v⟩."""
        return sum(claim.slope for claim in self.claims.values())

    @cached_property
    def coarseness(self) -> float:
        """The epsilon of the narrow dtype that computes inside, by the ripple of the values."""
        inside = (EPSILON[narrow] for narrow, least in RIPPLE.items() if self.ripple > least)
        return max(inside, default=0.0)

    @cached_property
    def ulp(self) -> float:
        """What rounding numbers of the size of one to the outputs' dtypes does to φ."""
        pairs = zip(self.problem.outputs, self.u, strict=True)
        return norm(np.array([output.epsilon * norm(u) for output, u in pairs]))

    @cached_property
    def doubt(self) -> float:
        """How far rounding inside the target may have moved the claimed slope."""
        if self.unrest is None:
            return 0.0
        # Infinite it may be where nothing moves.
        moved = {k: np.where(v, self.unrest[k], 0.0) for k, v in self.v.items()}
        return norm(np.array([extent(moved[k], v) for k, v in self.v.items()]))

    def along(self, v: Mapping[int, Array], **changes: Any) -> "Line":
        """The line along another direction, which nobody has looked along yet."""
        return replace(self, v=v, beside=None, **changes)

    def is_exact(self, h: float) -> bool:
        """Whether rounding the moved leaves is of no account: float64, and a step that is large."""
        narrow = any(self.problem.leaves[k].epsilon > EPSILON["float64"] for k in self.v)
        return not narrow and self.slack <= NEGLIGIBLE * h * self.size

    def at(self, t: float) -> Arrays:
        """Return f(x + t v)."""
        return self.values(self.moved(t))

    def moved(self, t: float) -> Mapping[int, Array]:
        """Return the moved leaves at x + t v, rounded to their dtypes."""
        moved = {}
        with np.errstate(all="ignore"):  # a step may leave the dtype; infinity says so
            for index, v in self.v.items():
                room = self._room(index)
                step = np.multiply(v, t, out=room, dtype=room.dtype)
                step += self.problem.point[index]
                moved[index] = self.problem.leaves[index].rounded(step)
        return moved

    def _room(self, index: int) -> Array:
        """Where to write a moved leaf: a large one where it was last time, if nobody holds that.

        To be given new memory costs as much as a gradient of a layer that is one matrix.
        """
        v = self.v[index]
        # A target may keep it.
        is_held = index in self.rooms and _references(self.rooms, index) > UNHELD
        room = self.rooms.get(index)
        wide = np.result_type(v, np.float64)
        if room is None or is_held or (room.shape, room.dtype) != (v.shape, wide):
            room = np.empty(v.shape, wide)
            if room.size > BLOCK:
                self.rooms[index] = room
        return room

    def values(self, moved: Mapping[int, Array]) -> Arrays:
        """Return f where some leaves have moved; NaN if its outputs have other shapes there."""
        with np.errstate(all="ignore"):  # a step may leave the domain; NaN and infinity say so
            value = self._value(self.filled(moved))
        if [f.shape for f in value] != [f.shape for f in self.centre]:
            return tuple(np.full_like(f, np.nan) for f in self.centre)
        return value

    def _value(self, point: Arrays) -> Arrays:
        """The value, or nothing where the target raises: it refuses what is out of its domain."""
        with maybe_out_of_domain():
            return self.problem.value(point)
        return ()

    def filled(self, moved: Mapping[int, Array]) -> Arrays:
        return tuple(moved.get(index, x) for index, x in enumerate(self.problem.point))

    def change(self, t: float) -> float:
        """Return φ(t) - φ(0), output by output: what does not change cancels exactly."""
        return self.rise(self.at(t), self.centre)

    def rise(self, above: Arrays, below: Arrays) -> float:
        """Return ⟨u, above - below⟩."""
        return sum(
            inner(u, _difference(a, b)) for u, a, b in zip(self.u, above, below, strict=True)
        )

    def sample(self, h: float) -> Sample:
        """Return the central difference at step `h`, and what goes with it."""
        if self.beside is not None:
            return self.beside.sample(self, h)
        return self.sampled(h, self.at(h), self.at(-h))

    def sampled(self, h: float, above: Arrays, below: Arrays) -> Sample:
        """Return the sample at step `h`, given f(x + h v) and f(x - h v)."""
        central = fold = crease = rounding = weight = standing = 0.0
        moving = 0
        parts = zip(self.u, above, below, self.centre, self.problem.outputs, strict=True)
        for u, plus, minus, centre, output in parts:
            change = _difference(plus, minus)
            central += inner(u, change)
            bend = _difference(plus, centre) + _difference(minus, centre)
            fold += inner(u, bend)
            crease += float(np.sum(np.abs(u) * np.abs(bend)))
            moves = (change != 0) | (bend != 0)  # an even function moves by as much on both sides
            moving += int(np.count_nonzero(moves))
            size = norm(np.abs(u) * np.where(moves, np.abs(plus) + np.abs(minus), 0.0))
            weight = hypot(weight, size / 2)
            rounding = hypot(rounding, output.epsilon * size)
            standing = hypot(standing, output.epsilon * norm(u * np.where(moves, 0.0, centre)))
        if not moving:
            # What rounds away inside may be as large as the leaf, or as numbers like one.
            epsilon = max(output.epsilon for output in self.problem.outputs)
            standing = max(standing, epsilon * self.unit, self.ulp)
        if self.is_exact(h):
            rounding = hypot(rounding, self.slack)
        else:  # rounding moved the leaves by `right - left` instead of 2 h v
            right, left = self.moved(h), self.moved(-h)
            gradients = self.gradients
            shift = sum(
                inner(gradients[index], _difference(right[index], left[index]) - 2 * h * widened(v))
                for index, v in self.v.items()
            )
            central -= shift
            rounding = hypot(rounding, shift)  # as large as this, if the gradient is wrong
        return Sample(
            h=h,
            central=central / (2 * h),
            fold=fold / h,
            crease=crease / h,
            rounding=rounding / (2 * h),
            weight=weight,
            moving=moving,
            standing=standing / h,
        )


@dataclass(frozen=True, slots=True)
class Beside:
    """Lines along one direction: what is evaluated for one is seen through all cotangents."""

    lines: Sequence[Line]
    samples: dict[float, Sequence[Sample]] = field(default_factory=dict)

    def sample(self, line: Line, h: float) -> Sample:
        if h not in self.samples:
            first = self.lines[0]
            above, below = first.at(h), first.at(-h)
            self.samples[h] = [each.sampled(h, above, below) for each in self.lines]
        position = next(k for k, each in enumerate(self.lines) if each.u is line.u)
        return self.samples[h][position]


def known(gradients: Arrays) -> Callable[[], Arrays]:
    """Return what gives gradients that were asked for elsewhere."""
    return lambda: gradients


def side_by_side(lines: Sequence[Line]) -> list[Line]:
    """Return `lines` along one direction so that what is evaluated for one is seen by all."""
    beside = Beside(lines)
    seen = [replace(line, beside=beside) for line in lines]
    for line, other in zip(lines, seen, strict=True):
        vars(other)["claims"] = line.claims
    return seen


def _difference(a: Array, b: Array) -> Array:
    wide = np.complex128 if np.iscomplexobj(a) else np.float64
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and NaN is what it should be
        return np.asarray(np.subtract(a, b, dtype=wide))
