"""Other ways to ask a JAX target: untraced, compiled, in part.

Arrays of JAX are immutable and hide how they lie in memory, so there is little that a target could
do beside computing; its rules may return another dtype than they should.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from gradcheck.adapters.jax_posed import BRIDGE, Posed, cotangents_of, gradients_of, is_refusal
from gradcheck.adapters.manners import narrowed
from gradcheck.errors import Unsupported, first_line
from gradcheck.problem import Arrays, Audit, Call, Caller, Deed, Manner

__all__ = ["audit", "session"]


@contextmanager
def session(posed: Posed, manner: Manner) -> Iterator[Caller]:
    """Yield what calls the target in that manner.

    Raises:
        Unsupported: the target cannot be compiled, or is compiled already.
    """
    if manner.is_reseeded:
        raise Unsupported("a function of JAX has no randomness but what it is given")
    if manner.is_in_place:
        raise Unsupported("nothing is written into an array of JAX")
    if manner.is_recorded:
        raise Unsupported("a function of JAX does not see whether it is differentiated once more")
    if manner.is_compiled and (posed.is_jitted or posed.compiles_at_once):
        raise Unsupported("the target is compiled already")  # and asked again, it is not
    yield partial(_call, posed, manner)


def _call(posed: Posed, manner: Manner, point: Arrays, *, another: bool = False) -> Call:
    run = jax.jit if manner.is_compiled else _as_it_is
    chosen = range(len(point)) if manner.leaves is None else manner.leaves

    def asked(*moving: Any) -> list[Any]:
        arrays = list(xs)
        for k, x in zip(chosen, moving, strict=True):
            arrays[k] = x
        outputs = posed.f(*arrays)
        return outputs if manner.outputs is None else [outputs[k] for k in manner.outputs]

    with jax.enable_x64(posed.x64), _refusals(manner):
        xs = posed.arrays(point)
        values, pullback = run(lambda moving: jax.vjp(asked, *moving))([xs[k] for k in chosen])

    def pull(cotangents: Arrays) -> Callable[[], Arrays]:
        outputs = range(len(cotangents)) if manner.outputs is None else manner.outputs
        with jax.enable_x64(posed.x64), _refusals(manner):
            us = cotangents_of(tuple(cotangents[k] for k in outputs), values)
            found = gradients_of(run(lambda back, us: back(us))(pullback, us))
        placed = dict(zip(chosen, found, strict=True))
        return lambda: tuple(placed.get(k, np.zeros_like(x)) for k, x in enumerate(point))

    with jax.enable_x64(posed.x64):
        return Call(value=tuple(map(BRIDGE.out, values)), pull=pull)


def _as_it_is(f: Callable[..., Any]) -> Callable[..., Any]:
    return f


@contextmanager
def _refusals(manner: Manner) -> Iterator[None]:
    """A function that branches on values runs, but cannot be compiled; nor can some derivatives."""
    try:
        yield
    except Exception as error:
        branches = isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError)
        if not branches and not (manner.is_compiled and is_refusal(error)):
            raise
        raise Unsupported(f"compiling is not supported: {first_line(error)}") from error


def audit(posed: Posed, point: Arrays, cotangents: Arrays) -> Audit:
    """Return which gradients are not of their leaf's dtype: JAX passes on what a rule returns."""
    with jax.enable_x64(posed.x64):
        values, pullback = jax.vjp(posed.f, *posed.arrays(point))
        gradients = pullback(cotangents_of(cotangents, values))
        read = tuple(map(BRIDGE.out, values))
    deeds: list[Deed] = []
    for k, gradient in zip(posed.chosen, gradients, strict=True):
        dtypes = BRIDGE.dtype_of(gradient), BRIDGE.dtype_of(posed.values[k])
        deeds += narrowed(posed.chosen[k], *dtypes, read)
    return Audit(deeds=tuple(deeds))
