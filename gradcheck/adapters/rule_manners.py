"""Other ways to ask a hand-written rule, and what it writes where it should only read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gradcheck import trees
from gradcheck.adapters.layouts import EXPANSIONS, SWAPPED, placement
from gradcheck.adapters.manners import narrowed, same
from gradcheck.adapters.randomness import OTHER
from gradcheck.adapters.rule import Posed
from gradcheck.errors import Unsupported
from gradcheck.problem import Arrays, Audit, Call, Caller, Deed, Manner

__all__ = ["LAYOUTS", "audit", "session"]

LAYOUTS = (
    "sliced from a larger buffer",
    "rows of a wider buffer",
    "transposed",
    *SWAPPED,
    "reversed (negative strides)",
    *EXPANSIONS,
)


@contextmanager
def session(posed: Posed, manner: Manner) -> Iterator[Caller]:
    """Yield what calls the rule in that manner.

    Raises:
        Unsupported: a rule has no compiled form, and gives all of its gradients or none.
    """
    is_whole = manner.leaves is None and manner.outputs is None
    if manner.is_compiled or manner.is_recorded or not is_whole:
        raise Unsupported(
            "a hand-written rule gives all of its gradients, and is neither compiled nor recorded"
        )
    given = partial(_laid, manner.layouts)
    if manner.is_in_place:
        if posed.bridge.framework == "jax":
            raise Unsupported("nothing is written into an array of JAX")
        given = partial(_placed, {})
    seed = posed.seed + OTHER * manner.is_reseeded
    yield partial(_call, replace(posed, seed=seed, given=given))


def _placed(kept: dict[str, Any], path: str, array: Any) -> Any:
    """The array that was given at first, in which `array` is now."""
    kept.setdefault(path, array)[...] = array
    return kept[path]


def _call(posed: Posed, point: Arrays, *, another: bool = False) -> Call:
    if another:
        posed = replace(posed, seed=posed.seed + OTHER)
    ran = posed.run(point)

    def pull(cotangents: Arrays) -> Callable[[], Arrays]:
        returned = posed.pulled_back(ran, cotangents)
        return lambda: posed.gradients(ran, returned)

    return Call(value=posed.values(ran), pull=pull)


def _laid(layouts: Mapping[str, str], path: str, array: Any) -> Any:
    """Return a NumPy `array` in the layout that is meant for it, NaN around it."""
    place = placement(layouts[path], array.shape) if path in layouts else None
    if place is None:
        return array
    buffer = np.full(place.length, np.nan, array.dtype)
    size = array.itemsize
    strides = [stride * size for stride in place.strides]
    laid: Any = np.ndarray(array.shape, array.dtype, buffer.data, place.offset * size, strides)
    laid[place.once] = array[place.once]
    laid.flags.writeable = all(place.strides)  # what NumPy has expanded is not written into
    return laid


def audit(posed: Posed, point: Arrays, cotangents: Arrays) -> Audit:
    """Return what `forward` and `vjp` wrote, and which gradients are not what their leaf is."""
    seen: dict[str, Any] = {}

    def given(path: str, array: Any) -> Any:
        seen[path] = array
        return array

    posed = replace(posed, given=given)
    constants = {
        path: leaf
        for path, leaf in trees.leaves(posed.inputs, "input")
        if posed.bridge.is_array(leaf) and path not in posed.named
    }
    before = dict(zip(posed.named, point, strict=True)) | _contents(posed, constants)
    ran = posed.run(point)
    cache = dict(trees.leaves(ran[2], "cache")) if posed.rule.cached else {}
    kept = {path: leaf for path, leaf in cache.items() if posed.bridge.is_array(leaf)}
    inputs = {**seen, **constants}
    deeds = _written(posed, "forward writes into its input", before, inputs)
    before = _contents(posed, {**inputs, **kept})
    returned = posed.pulled_back(ran, cotangents)
    us = {path: array for path, array in seen.items() if path not in inputs}
    asked = dict(zip(us, cotangents, strict=True))
    deeds += _written(posed, "vjp writes into its cotangent", asked, us)
    deeds += _written(posed, "vjp writes into what it was given", before, {**inputs, **kept})
    deeds += _shared(returned, inputs)
    values = posed.values(ran)
    gradients = posed.gradients(ran, returned)
    for path, x, gradient in zip(posed.named, point, gradients, strict=True):
        deeds += narrowed(path, gradient.dtype.name, x.dtype.name, values)
    if posed.rule.jvp is not None and not deeds:
        with suppress(Exception):  # what a JVP raises is for the checks of it
            deeds += _pushed(posed, point, seen)
    return Audit(deeds=tuple(deeds))


def _pushed(posed: Posed, point: Arrays, seen: dict[str, Any]) -> list[Deed]:
    """What `jvp` wrote."""
    seen.clear()
    tangents = tuple(np.ones_like(x) for x in point)
    posed.jvp(point, tangents)
    inputs = {path: array for path, array in seen.items() if path in posed.named}
    others = {path: array for path, array in seen.items() if path not in posed.named}
    before = dict(zip(posed.named, point, strict=True))
    asked = dict(zip(others, tangents, strict=True))
    deeds = _written(posed, "jvp writes into its input", before, inputs)
    return deeds + _written(posed, "jvp writes into it", asked, others)


def _contents(posed: Posed, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {path: posed.bridge.out(array) for path, array in arrays.items()}


def _written(
    posed: Posed, what: str, before: Mapping[str, Any], arrays: Mapping[str, Any]
) -> list[Deed]:
    return [
        Deed(path=path, what=what)
        for path, array in arrays.items()
        if not same(before[path], posed.bridge.out(array))
    ]


def _shared(returned: Any, held: Mapping[str, Any]) -> list[Deed]:
    """Gradients that live in the memory of an input: whoever adds to one changes the other."""
    gradients = [leaf for _, leaf in trees.leaves(returned) if isinstance(leaf, np.ndarray)]
    return [
        Deed(path=path, what="a returned gradient is a view of it: adding to one changes the other")
        for path, array in held.items()
        if isinstance(array, np.ndarray)
        if any(np.shares_memory(array, gradient) for gradient in gradients)
    ]
