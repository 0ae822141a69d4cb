"""What a wrong gradient looks like: a dictionary of patterns, each tested against the probes.

A hypothesis is a map g -> g′ that would make the gradient right. It costs no evaluation of the
target: the slopes along the probes are known, so ⟨g′, v⟩ must equal them, all of them, within
their error bars.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from gradcheck.problem import Array, inner
from gradcheck.results import Entry
from gradcheck.settings import SIGNIFICANCE

__all__ = ["ADVICE", "Evidence", "Scene", "diagnose"]

# How far ratios may lie apart and be one; a wrong hypothesis gets so near in one of a thousand.
SAME = 1e-3

TELLS = 0.1  # the part of a mismatch that its noise may be, for a hypothesis to be told by it

ADVICE = {
    "zero": "the gradient is zero where the output does depend on this leaf: it was detached, "
    "overwritten, or its term was never added; a constant is left out by wrt= or declared=",
    "nothing wanted": "the value does not change with this leaf here, and its gradient is not "
    "zero: a straight-through estimate, or a term too many; if it is meant, declare the leaf",
    "sign": "the sign is wrong: a difference taken the other way round, a lost minus",
    "conjugated": "it would be right with the derivative inside conjugated, or all of it: of a "
    "complex function, PyTorch wants the cotangent times the conjugate of the derivative, Jᴴ u, "
    "and JAX the plain product, Jᵀ u",
    "constant factor": "all that is wrong is off by the same factor: look for a lost ½ or 2, a "
    "mean taken for a sum (factor N or 1/N), a scale applied twice or not at all",
    "transposed": "the transpose of this gradient would be right: a product in the wrong order, "
    "or J where Jᵀ is meant",
    "shifted": "the gradient is right after a shift by one along an axis: an index or a time step "
    "off by one",
    "reversed": "the gradient is right when read backwards along an axis: an unflipped kernel or "
    "a sequence walked in the wrong direction",
    "part missing": "some entries are zero where the output does depend on them: a slice, a "
    "border, a step or a repeated index that the rule forgets; if it is meant, declare the leaf",
    "border": "only the first or the last slice of an axis is wrong: a boundary, an initial state "
    "or a last time step that the rule treats as any other",
    "cotangent ignored": "the gradient is the same whatever the cotangent is: it was not "
    "multiplied in, or one was kept from an earlier call",
    "part of the cotangent": "of the cotangent there no notice is taken: a sum over the batch or "
    "over time that is missing, a step or a block that is left out",
    "diagonal only": "every entry of the gradient uses the cotangent of the same entry alone, "
    "where the output mixes entries: the cross terms (of a softmax, a mean, a norm) are missing",
    "additive constant": "the same number is too much or too little in every entry: a stray term, "
    "an epsilon outside of its root, a cotangent summed where it should be subtracted",
    "cotangent added": "what is wrong is the cotangent itself, once too often or once too few: the "
    "path of a skip connection",
    "proportional to the leaf": "what is wrong is a multiple of the leaf itself: a weight decay or "
    "a penalty in the gradient that is not in the value, or the other way round",
    "missing derivative": "the derivative of a function of the output is missing or there twice: "
    "an activation that the rule does not differentiate",
    "permuted": "the entries are right but in another order: an argsort taken for its inverse, a "
    "gather for a scatter",
    "one triangle": "the value depends on one triangle of this leaf only, and the gradient is that "
    "for a symmetric one, as of a Cholesky factor: hand over a function that makes it symmetric, "
    "(x + xᵀ) / 2, or declare the leaf",
    "not finite": "the value is finite here but its gradient is not: 0 / 0 or 0 times infinity, as "
    "of a `where` whose untaken branch has an infinite derivative (guard its argument too, the "
    "double `where`), a square root of zero, or a number on the way that overflows",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One probe of a leaf: the gradient claimed for its cotangent, and the slope that is true."""

    gradient: Array
    v: Array
    slope: float
    error_bar: float
    turned: Array | None = None  # the conjugate of what is claimed for the conjugate cotangent
    u: Array | None = None  # the cotangent, of the one output that has the leaf's shape
    cotangent: object = field(default_factory=object)  # which one it was

    @property
    def is_flat(self) -> bool:
        """Whether nothing is wanted of what is claimed."""
        noise = SIGNIFICANCE * self.error_bar
        return abs(self.slope) <= noise <= TELLS * abs(inner(self.gradient, self.v))

    def fits(self, candidate: Array) -> bool:
        """Whether `candidate` removes all but a thousandth of the mismatch."""
        mismatch = abs(inner(self.gradient, self.v) - self.slope)
        if not SIGNIFICANCE * self.error_bar <= TELLS * mismatch:  # anything does
            return False
        left = abs(inner(candidate, self.v) - self.slope)
        return left <= SIGNIFICANCE * self.error_bar + 1e-3 * min(mismatch, abs(self.slope))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is known of the leaf besides: where it is, what was read of its gradient."""

    x: Array | None = None
    y: Array | None = None  # the output, if there is one and it has the leaf's shape
    u: Array | None = None  # the cotangent for which entries were read
    read: Sequence[Entry] = ()  # right ones too
    mixes: bool = False  # whether one entry of the leaf moves several of the output
    complete: bool = False  # whether every entry was read or cleared


NOWHERE = Scene()


def diagnose(
    evidence: Sequence[Evidence], entries: Sequence[Entry], scene: Scene = NOWHERE
) -> str | None:
    """Return the name of the pattern that explains the wrong leaf, with its detail; or None.

    A wrong hypothesis removes all but a thousandth of one probe's mismatch with probability of
    about 1e-3, and of three probes' with 1e-9.
    """
    gradients = [probe.gradient for probe in evidence]
    if not all(np.all(np.isfinite(gradient)) for gradient in gradients):
        return "not finite"
    if not any(np.any(gradient) for gradient in gradients):
        return "zero"
    several = len({id(probe.cotangent) for probe in evidence}) > 1
    if several and all(np.array_equal(gradients[0], other) for other in gradients):
        return "cotangent ignored"
    if all(probe.is_flat for probe in evidence):
        return "nothing wanted"
    factor = _factor(evidence)
    if factor is not None and (gradients[0].size > 1 or _is_whole(factor)):
        return _named(factor, shape=gradients[0].shape)
    if all(probe.turned is not None and probe.fits(probe.turned) for probe in evidence):
        return "conjugated"
    if np.iscomplexobj(gradients[0]) and all(p.fits(np.conj(p.gradient)) for p in evidence):
        return "conjugated: as a whole"
    if len(evidence) > 1:  # one probe fits too many hypotheses
        for name, candidate in _candidates(gradients[0].shape):
            if all(probe.fits(candidate(probe.gradient)) for probe in evidence):
                return name
    border = _border(entries, gradients[0].shape) if scene.complete else None
    if border is not None:
        return border
    if entries and not any(entry.pair[0] for entry in entries):
        return "part missing"
    part = _part_factor(entries)
    if part is not None:
        return _named(part, " in the wrong entries")
    if scene.mixes and _is_elementwise(evidence):
        return "diagonal only"
    term = _term(scene)
    if term is not None:
        return term
    return None


def _is_whole(factor: complex) -> bool:
    """Whether it is a number like -1, 2 or ⅓. Any error of a single entry is a factor in all."""
    times = max(abs(factor), 1 / abs(factor))
    return abs(times - round(times)) < SAME * times


def _named(factor: complex, where: str = "", shape: tuple[int, ...] = ()) -> str:
    if abs(factor + 1) < SAME:
        return "sign" + (f":{where}" if where else "")
    for axis, length in enumerate(shape):
        for ratio, name in ((float(length), "{}"), (1 / max(length, 1), "1/{}")):
            if length > 2 and abs(factor / ratio - 1) < SAME:
                where += f", {name.format('the length')} of axis {axis}"
    return f"constant factor: got / wanted = {factor:.6g}{where}"


def _border(entries: Sequence[Entry], shape: tuple[int, ...]) -> str | None:
    """The first or last slice of an axis, if all wrong entries lie in it, and it is not small."""
    for axis, length in enumerate(shape):
        found = {entry.index[axis] for entry in entries}
        if len(entries) > 1 and length > 2 and len(found) == 1:
            (position,) = found
            if position in (0, length - 1):
                return f"border: {'last' if position else 'first'} along axis {axis}"
    return None


def _is_elementwise(evidence: Sequence[Evidence]) -> bool:
    """Whether gradient over cotangent is the same for every probe, entry by entry."""
    ratios = [e.gradient / e.u for e in evidence if e.u is not None and np.all(e.u != 0)]
    return len(ratios) > 1 and all(
        np.allclose(ratio, ratios[0], rtol=SAME, atol=0) for ratio in ratios
    )


def _term(scene: Scene) -> str | None:
    """What was added to, or multiplies, the entries that were read; four at least must agree."""
    if len(scene.read) < 4:
        return None
    got, wanted = np.array([entry.pair for entry in scene.read]).T
    bars = np.array([entry.error_bar for entry in scene.read])
    at = tuple(np.array([entry.index for entry in scene.read]).T)
    off = got - wanted
    noise = SIGNIFICANCE * bars + SAME * np.abs(off)
    wrong = np.abs(off) > noise
    if not np.any(wrong):
        return None

    def is_constant(values: Array, slack: Array) -> bool:
        middle = np.median(values.real) + 1j * np.median(values.imag)
        return bool(middle) and bool(np.all(np.abs(values - middle) <= slack + SAME * abs(middle)))

    if is_constant(off, noise):
        return "additive constant"
    for name, array in (("cotangent added", scene.u), ("proportional to the leaf", scene.x)):
        if array is None or np.iscomplexobj(array) or np.any(array[at] == 0):
            continue
        if is_constant(off / array[at], noise / np.abs(array[at])):
            return name
    if scene.y is not None and not np.iscomplexobj(scene.y) and np.all(wanted != 0):
        ratio = got / wanted
        for name, slope in SLOPES.items():
            with np.errstate(all="ignore"):
                expected = slope(scene.y[at])
            for power, how in ((-1, "missing"), (1, "there twice")):
                with np.errstate(all="ignore"):
                    fits = np.abs(ratio - expected**power) <= SAME * np.abs(ratio)
                if np.all(fits) and np.ptp(expected) > SAME * np.max(np.abs(expected)):
                    return f"missing derivative: of {name}, {how}"
    # In another order the error is gone: an entry that is a little off keeps it.
    left = np.abs(np.sort(got) - np.sort(wanted))
    most = SIGNIFICANCE * np.max(bars[wrong]) + SAME * np.max(np.abs(off))
    is_all = len(scene.read) == int(scene.complete) * got.size
    if is_all and np.count_nonzero(wrong) > 1 and np.all(left <= most):
        return "permuted"
    return None


# Derivatives of activations as functions of their own output.
SLOPES: Mapping[str, Callable[[Array], Array]] = {
    "tanh": lambda y: 1 - y**2,
    "sigmoid": lambda y: y * (1 - y),
    "exp": lambda y: y,
    "sqrt": lambda y: 1 / (2 * y),
}


def _part_factor(entries: Sequence[Entry]) -> complex | None:
    """The common ratio got / wanted of the wrong entries, if three of them have one."""
    if len(entries) < 3 or any(abs(entry.pair[1]) <= entry.error_bar for entry in entries):
        return None
    ratios = np.array([got / wanted for got, wanted in (entry.pair for entry in entries)])
    bars = np.array([entry.error_bar / abs(entry.pair[1]) for entry in entries])
    middle = complex(np.median(ratios.real), np.median(ratios.imag))
    if min(abs(middle.imag), abs(middle.real)) <= SAME * abs(middle):  # noise
        is_real = abs(middle.real) > abs(middle.imag)
        middle = middle.real if is_real else complex(0, middle.imag)
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
    if len(shape) > 1 and shape[-1] == shape[-2] > 1:
        yield "one triangle: the lower", partial(_folded, part=np.tril)
        yield "one triangle: the upper", partial(_folded, part=np.triu)


def _folded(gradient: Array, part: Callable[[Array], Array]) -> Array:
    """The gradient in one triangle, where the other one is its mirror image."""
    mirrored = np.swapaxes(gradient, -1, -2).conj()
    return np.asarray(part(gradient + mirrored * (1 - np.eye(gradient.shape[-1]))))
