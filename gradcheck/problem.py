"""The one form in which every target is checked: named leaves, a value and a VJP.

An adapter builds a `Problem`; everything after it is NumPy. The engine holds an array in a dtype
that represents the target's values exactly (bfloat16 and float16 as float32); the adapter rounds
to the target's own dtype and the engine asks for that rounding by `Leaf.rounded`.

Inner products are real: ⟨a, b⟩ = Re Σ ā b, for complex arrays too. An adapter whose framework has
another convention for complex cotangents (JAX) conjugates on the way in and out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from math import sqrt
from types import MethodType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "EPSILON",
    "LARGE",
    "WIDER",
    "Array",
    "Arrays",
    "Audit",
    "Axes",
    "Call",
    "Caller",
    "Deed",
    "Excepted",
    "Leaf",
    "Manner",
    "Problem",
    "blocks",
    "extent",
    "has_digits_of_float32",
    "inner",
    "is_same",
    "is_same_entrywise",
    "label",
    "listed",
    "norm",
    "owner",
    "posed_in_float64",
    "products",
    "widened",
]

Array = NDArray[Any]
Excepted = Callable[[str], str | None]  # path of an output -> why the caller leaves it out, or None
Arrays = tuple[Array, ...]
Axes = tuple[int | None, ...]  # None: all examples have the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One array of a problem, input or output: its path, shape and the target's dtype."""

    path: str
    shape: tuple[int, ...]
    dtype: str  # "float64", "bfloat16", "complex64", ...
    inside: str | None = None  # a narrower one that what depends on it is computed in

    @property
    def digits(self) -> str:
        """The dtype whose digits its gradient has."""
        return self.inside or self.dtype

    @property
    def epsilon(self) -> float:
        """The spacing of the numbers at one that it has the digits of: 2 ** -(mantissa bits)."""
        return EPSILON[self.digits]

    @property
    def tiny(self) -> float:
        """The least number of that dtype that no arithmetic flushes to zero."""
        return TINY[self.digits]

    def rounded(self, array: Array) -> Array:
        """Return `array` as the target will see it, in the engine's dtype."""
        if self.dtype == "bfloat16":
            return _bfloat16(array)
        if self.dtype == "float16":
            return array.astype(np.float16).astype(np.float32)
        return array.astype(self.dtype, copy=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a value and a VJP are asked for. The answer must not depend on it."""

    layouts: Mapping[str, str] = field(default_factory=dict)  # path of an array -> its layout
    leaves: tuple[int, ...] | None = None  # those that require a gradient; None: all
    outputs: tuple[int, ...] | None = None  # those that are pulled back at all; None: all
    is_compiled: bool = False
    is_reseeded: bool = False  # with other random numbers
    is_retained: bool = False  # whether one call may be pulled back more than once
    is_in_place: bool = False  # whether another point is written into the arrays of the first
    is_recorded: bool = False  # whether the backward pass is recorded, as for a second derivative


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A forward pass that waits for its backward passes; each may be asked for when it suits.

    What `pull` returns reads the gradients, which the framework holds until then.
    """

    value: Arrays
    pull: Callable[[Arrays], Callable[[], Arrays]]


class Caller(Protocol):
    """Calls a target at a point; with random numbers of its own, if it is `another` call."""

    def __call__(self, point: Arrays, *, another: bool = False) -> Call: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that a target did beside computing: where, what, and whether it is wrong."""

    path: str
    what: str
    is_wrong: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was seen of one forward and one backward pass from inside the framework."""

    deeds: tuple[Deed, ...] = ()
    unreached: tuple[int, ...] = ()  # leaves that the graph does not lead back to
    detached: tuple[int, ...] = ()  # outputs that no graph leads back from


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A differentiable function at a point, and what its target can do beside it.

    What a target cannot do is None; what turns out only when it is tried raises `Unsupported`.
    """

    name: str
    target: str  # as its author would write it
    framework: str  # "numpy", "torch" or "jax"
    leaves: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    point: Arrays
    value: Callable[[Arrays], Arrays]
    vjp: Callable[[Arrays, Arrays], Arrays]  # (point, cotangents) -> one gradient a leaf
    both: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]] | None = None  # in one run
    jvp: Callable[[Arrays, Arrays], Arrays] | None = None  # (point, tangents) -> output tangents
    # (point, cotangents u, w) -> the gradients of ⟨w, vjp(point, u)⟩ in the point and in u.
    second: Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]] | None = None
    # (point, cotangents stacked along a new first axis) -> the gradients, stacked likewise.
    batched: Callable[[Arrays, Arrays], Arrays] | None = None
    # (point, the axis of each leaf along which examples are stacked, cotangents, stacked along the
    # first) -> the outputs, stacked likewise, and the gradients, each like its leaf.
    mapped: Callable[[Arrays, Axes, Arrays], tuple[Arrays, Arrays]] | None = None
    has_vmap_rule: bool = False  # whether the target says itself how it is batched
    # Within a session, what one call leaves in the target meets the next one.
    session: Callable[[Manner], AbstractContextManager[Caller]] | None = None
    layouts: tuple[str, ...] = ()  # how arrays may lie in memory, beside contiguous
    audit: Callable[[Arrays, Arrays], Audit] | None = None  # (point, cotangents)
    in_float64: "Callable[[], Problem] | None" = None  # the same target, computed in float64
    analytic: Callable[[Arrays], Arrays] | None = None  # the value at complex arrays
    # Whether the VJP rounds to a narrower dtype than the value does, which float64 does not show.
    rounds_back: Callable[[], bool] | None = None
    # Whether all rules in the derivative are the framework's own: one at a kink is a convention.
    is_native: Callable[[], bool] | None = None
    # The arrays in reach of its code, each as it is; those before its first call.
    held: Callable[[], Mapping[tuple[int, int], Any]] = dict
    held_before: Mapping[tuple[int, int], Any] = field(default_factory=dict)
    is_compiled: bool = False  # whether value and VJP are compiled where a session's calls are not
    is_random: bool = False  # whether it was seen to draw numbers
    # The leaves that something is drawn from by rejection: their gradients are right on average.
    rejecting: Callable[[], frozenset[int]] = frozenset
    # The same target, which draws the k-th of other random numbers; None where none were seen.
    redrawn: "Callable[[int], Problem] | None" = None
    release: Callable[[], None] = lambda: None  # gives back what running it holds of the framework
    written_for: frozenset[str] = frozenset()  # in float64: the dtypes of the target as it is
    notes: tuple[str, ...] = ()  # what was left out of the problem, and why
    excepted: tuple[str, ...] = ()  # outputs that were, because the caller said so

    def value_and_vjp(self, point: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        if self.both is not None:
            return self.both(point, cotangents)
        return self.value(point), self.vjp(point, cotangents)

    def has_rules_of_its_own(self) -> bool:
        """Whether a rule in the derivative may be none of the framework's; asking takes a run."""
        return self.is_native is None or not self.is_native()

    def moved(self, steps: Arrays) -> "Problem":
        """The same at another point, so many steps away and rounded to the dtypes of the leaves."""
        triples = zip(self.leaves, self.point, steps, strict=True)
        return replace(self, point=tuple(leaf.rounded(x + step) for leaf, x, step in triples))

    @property
    def epsilon(self) -> float:
        """The spacing of the numbers at one of the narrowest dtype, of leaves and outputs."""
        return max(array.epsilon for array in (*self.leaves, *self.outputs))

    @property
    def is_large(self) -> bool:
        """Whether memory counts: that of a leaf is many times what all else takes."""
        return not self.is_narrow and sum(x.size for x in self.point) > LARGE

    @property
    def is_narrow(self) -> bool:
        """Whether a leaf or an output has the digits of a dtype below float64."""
        return any(leaf.digits in WIDER for leaf in (*self.leaves, *self.outputs))


def posed_in_float64(problem: Problem) -> Problem | None:
    """Return a narrow `problem` computed in float64 at the same point; it may not run there.

    A point of a narrow dtype is exact in a wide one, so both are the same function up to the
    rounding of one of them, and a difference of the wide one has 1e-9 of its noise.
    """
    if problem.in_float64 is None or not problem.is_narrow:
        return None
    try:
        wide = problem.in_float64()
    except Exception:  # whatever the target raises
        return None
    pairs = zip(wide.leaves, problem.point, strict=True)
    point = tuple(leaf.rounded(x) for leaf, x in pairs)
    own = frozenset(leaf.digits for leaf in (*problem.leaves, *problem.outputs))
    wide = replace(wide, point=point, written_for=own)
    shapes = [[leaf.shape for leaf in posed.outputs] for posed in (problem, wide)]
    return wide if shapes[0] == shapes[1] else None


def is_same(problem: Problem, values: Arrays, wide: Arrays) -> bool:
    """Whether the narrow `values` are the `wide` ones, rounded: half of their digits agree.

    They do not where the target draws random numbers or asks for the dtype, and where all that
    the narrow dtype leaves of a value is rounding.
    """
    off = norm(np.array([norm(a - b) for a, b in zip(values, wide, strict=True)]))
    size = norm(np.array([norm(value) for value in wide]))
    return bool(off <= problem.epsilon**0.5 * size)


def is_same_entrywise(problem: Problem, values: Arrays, wide: Arrays) -> bool:
    """Whether half of the digits of every entry agree; of a small one, those of a usual one."""
    half = problem.epsilon**0.5
    return all(
        np.allclose(a, b, rtol=half, atol=half * _typical(b))
        for a, b in zip(values, wide, strict=True)
    )


def has_digits_of_float32(a: Array) -> bool:
    """Whether no number in it has more digits: then it is rounded, and jumps."""
    return np.array_equal(a, a.astype("complex64" if np.iscomplexobj(a) else "float32"))


def _typical(a: Array) -> float:
    """Return the size of a usual entry: the root of the mean square of those that are finite."""
    finite = a[np.isfinite(a)]
    return norm(finite) / sqrt(max(finite.size, 1))


WIDER = {
    "float32": "float64",
    "float16": "float64",
    "bfloat16": "float64",
    "complex64": "complex128",
}

EPSILON = {
    "float64": 2.0**-52,
    "complex128": 2.0**-52,
    "float32": 2.0**-23,
    "complex64": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}

# The least normal number, for XLA has no others; of float16, computed in float32, the least of all.
TINY = {
    "float64": 2.0**-1022,
    "complex128": 2.0**-1022,
    "float32": 2.0**-126,
    "complex64": 2.0**-126,
    "float16": 2.0**-24,
    "bfloat16": 2.0**-126,
}


def label(target: Any, name: str | None = None) -> str:
    """Return what to call `target` in results: the name given, its own, or its type's."""
    if isinstance(target, partial) and name is None:
        return label(target.func)
    return name or str(getattr(target, "__name__", type(target).__name__))


def listed(paths: Sequence[str]) -> str:
    """Return the first three of `paths`, and how many more there are."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def owner(target: Any) -> Any:
    """Return the object that a bound method or a partial application runs on, else `target`."""
    while isinstance(target, partial | MethodType):
        target = target.func if isinstance(target, partial) else target.__self__
    return target


def widened(array: Array) -> Array:
    """Return `array` in float64, or in complex128; itself if it is."""
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64, copy=False)


def inner(a: Array, b: Array) -> float:
    """Return Re Σ ā b, accumulated in float64, block by block: the rounding of a few."""
    if a.size > BLOCK:
        with np.errstate(all="ignore"):
            return float(np.sum([inner(x, y) for x, y in blocks(a, b)]))
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    # Sums of products raise no floating point warning.
    return float(np.vdot(a.astype(wide, copy=False), b.astype(wide, copy=False)).real)


# Numbers that are worked on at a time: what is made of a large leaf on the way stays in the cache.
# From 10,000 on OpenBLAS splits an inner product among threads, which waits for the busy ones.
BLOCK = 2**13


# The entries of all leaves above which not all that is asked of a problem is kept: 8 MB in float64.
LARGE = 2**20


def blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Yield arrays of one shape block by block, as vectors."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK):
        yield tuple(array[start : start + BLOCK] for array in flat)


def extent(a: Array, b: Array) -> float:
    """Return ‖a ∘ b‖, without making a ∘ b; NaN if that has one."""
    return norm(np.array([norm(x * y) for x, y in blocks(a, b)]))


def products(g: Array, v: Array, x: Array) -> tuple[float, float, float]:
    """Return ⟨g, v⟩, ‖g ∘ v‖ and ‖g ∘ x‖: large arrays are read from memory once for all three."""
    slope, moved, held = 0.0, [], []
    for a, b, c in blocks(g, v, x):
        part = (a.conj() if a.dtype.kind == "c" else a) * b
        slope += float(np.sum(part.real, dtype=np.float64))
        moved.append(norm(part))
        held.append(norm(a * c))
    return slope, norm(np.array(moved)), norm(np.array(held))


def norm(a: Array) -> float:
    """Return the Euclidean norm in float64; no overflow below the largest float64."""
    plain = sqrt(inner(a, a))
    if 1e-140 < plain < 1e140:  # no square of what matters has under- or overflown
        return plain
    largest = float(np.max(np.abs(a), initial=0.0))
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(np.abs(np.ravel(a)).astype(np.float64) / largest))


def _bfloat16(array: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even, by adding into the dropped bits."""
    bits = array.astype(np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(array), array, rounded).astype(np.float32)  # a carry may lose a NaN
