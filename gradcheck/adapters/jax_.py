"""JAX: functions on pytrees and callable modules that are pytrees.

Trees are JAX's own: a foreign tree library takes a class its user registered for one leaf and
leaves its parameters unchecked. 64-bit inputs run under a scoped `jax.enable_x64`; the user's
global configuration is not touched.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.tree_util import keystr, tree_flatten_with_path, tree_unflatten

from gradcheck.adapters.bridge import Bridge
from gradcheck.errors import InputError
from gradcheck.problem import EPSILON, WIDER, Array, Arrays, Problem, label, norm

__all__ = ["BRIDGE", "problem_of_jax"]


def _is_array(value: Any) -> bool:
    if isinstance(value, jax.Array):
        return not jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)  # PRNG keys
    return isinstance(value, (np.ndarray, np.generic))


def _out(value: Any) -> Array:
    array = np.array(value)
    return array if array.dtype.name in WIDE else array.astype(np.float32)


def _into(array: Array, like: Any) -> jax.Array:
    return jax.numpy.asarray(array).astype(like.dtype)


WIDE = ("float32", "float64", "complex64", "complex128")  # what the engine holds as it is

BRIDGE = Bridge(
    framework="jax",
    is_array=_is_array,
    dtype_of=lambda value: value.dtype.name,
    out=_out,
    into=_into,
    wide=lambda array, like: jax.numpy.asarray(array),
)


def problem_of_jax(
    target: Any, inputs: tuple[Any, ...], *, name: str | None, constant: Collection[str] = ()
) -> Problem:
    """Return the problem of `target` at `inputs`.

    Leaves are the floating and complex arrays of a callable module (`params`) and of the inputs;
    integers, booleans and PRNG keys are constants.

    Raises:
        InputError: nothing to differentiate, or no output that could be.
    """
    module = target if _has_arrays(target) else None
    flat, structure = tree_flatten_with_path((module, inputs))
    values = [leaf for _, leaf in flat]
    chosen = [
        k
        for k, (keys, leaf) in enumerate(flat)
        if BRIDGE.is_differentiable(leaf) and _path(keys) not in constant
    ]
    if not chosen:
        raise InputError(
            f"expected a floating or complex array to differentiate; got inputs "
            f"{[type(value).__name__ for value in inputs]}"
        )
    wide = any(BRIDGE.dtype_of(values[k]) in ("float64", "complex128") for k in chosen)

    def f(*leaves: Any) -> list[Any]:
        filled = list(values)
        for k, leaf in zip(chosen, leaves, strict=True):
            filled[k] = leaf
        tree = tree_unflatten(structure, filled)
        own, arguments = tree
        outputs = (target if module is None else own)(*arguments)
        return [leaf for _, leaf in _floating(outputs)]

    def arrays(point: Arrays) -> list[Any]:
        return [BRIDGE.into(x, values[k]) for x, k in zip(point, chosen, strict=True)]

    @cache
    def traced(in_float64: bool) -> Any:
        with _precision(in_float64 or wide):
            cross = BRIDGE.wide if in_float64 else BRIDGE.into
            xs = [cross(BRIDGE.out(values[k]), values[k]) for k in chosen]
            if in_float64:
                xs = [x.astype(WIDER.get(x.dtype.name, x.dtype)) for x in xs]
            return _traced(f, xs)

    def value(point: Arrays) -> Arrays:
        with _precision(wide):
            return tuple(BRIDGE.out(output) for output in traced(False)(*arrays(point)))

    def in_float64(point: Arrays) -> Arrays:
        with _precision(True):
            xs = [BRIDGE.wide(x, values[k]) for x, k in zip(point, chosen, strict=True)]
            return tuple(BRIDGE.out(output) for output in traced(True)(*xs))

    def vjp(point: Arrays, cotangents: Arrays) -> Arrays:
        # JAX's cotangents are those of the bilinear product Σ u f; the engine's of Re Σ ū f.
        with _precision(wide):
            outputs, pullback = jax.vjp(f, *arrays(point))
            us = [BRIDGE.into(u.conj(), y) for u, y in zip(cotangents, outputs, strict=True)]
            return tuple(BRIDGE.out(gradient).conj() for gradient in pullback(us))

    def both(point: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        with _precision(wide):
            # NumPy arrays go in as they are: an operation to convert one would be compiled too.
            xs = [x.astype(values[k].dtype) for x, k in zip(point, chosen, strict=True)]
            us = [u.conj().astype(y.dtype) for u, (_, y) in zip(cotangents, outputs, strict=True)]
            constants = [leaf for k, leaf in enumerate(values) if k not in chosen]
            ys, gradients = _compiled(target, structure, tuple(chosen))(xs, constants, us)
            return tuple(map(BRIDGE.out, ys)), tuple(BRIDGE.out(g).conj() for g in gradients)

    is_compiled = hasattr(target, "lower") and all(_is_array(leaf) for leaf in values)
    with _precision(wide):
        shapes = jax.eval_shape if is_compiled else _called
        outputs = _floating(shapes(target if module is None else module, *inputs))
        if not outputs:
            raise InputError("expected the target to return at least one floating or complex array")
        described = tuple(BRIDGE.leaf(path, leaf) for path, leaf in outputs)
    called = label(target, name)
    return Problem(
        name=called,
        target=called if module is None else repr(target),
        framework="jax",
        leaves=tuple(BRIDGE.leaf(_path(flat[k][0]), values[k]) for k in chosen),
        outputs=described,
        point=tuple(BRIDGE.out(values[k]) for k in chosen),
        value=value,
        vjp=vjp,
        both=both if is_compiled else None,
        wide=in_float64,
    )


def _called(target: Any, *inputs: Any) -> Any:
    return target(*inputs)


def _traced(f: Any, xs: list[Any]) -> Any:
    """`f` as what it computes, so that a scan inside is not compiled again at every call.

    A function that branches on values, or is not the same twice, cannot be traced and stays as
    it is.
    """
    try:
        closed = jaxpr_as_fun(jax.make_jaxpr(f)(*xs))
        pairs = zip(f(*xs), closed(*xs), strict=True)
        same = all(_agree(np.asarray(a), np.asarray(b)) for a, b in pairs)
    except Exception:  # a tracer's error, or the target's own, which then shows in the value
        return f
    return closed if same else f


def _agree(a: Array, b: Array) -> bool:
    """Whether two runs differ by rounding at most."""
    a, b = a.astype(np.complex128), b.astype(np.complex128)
    return bool(np.allclose(a, b, rtol=1e-2, atol=1e-2 * norm(a), equal_nan=True))


@lru_cache(maxsize=64)  # checks of one jitted function at many points share its compilation
def _compiled(target: Any, structure: Any, chosen: tuple[int, ...]) -> Any:
    """Value and VJP of a jitted `target` as one jitted function."""

    def run(leaves: Any, constants: Any, us: Any) -> tuple[Any, Any]:
        def f(*xs: Any) -> list[Any]:
            moving, still = iter(xs), iter(constants)
            count = structure.num_leaves
            filled = [next(moving) if k in chosen else next(still) for k in range(count)]
            tree = tree_unflatten(structure, filled)
            return [leaf for _, leaf in _floating(target(*tree[1]))]

        outputs, pullback = jax.vjp(f, *leaves)
        return outputs, pullback(us)

    return jax.jit(run)


def _has_arrays(target: Any) -> bool:
    return any(_is_array(leaf) for leaf in jax.tree_util.tree_leaves(target))


def _floating(outputs: Any) -> list[tuple[str, Any]]:
    flat, _ = tree_flatten_with_path(outputs)
    return [
        ("output" + keystr(path), leaf)
        for path, leaf in flat
        if hasattr(leaf, "dtype") and leaf.dtype.name in EPSILON
    ]


def _path(keys: Any) -> str:
    """JAX's path with our first word: of (module, inputs), `[1][0]['w']` is `input[0]['w']`."""
    return ("params", "input")[keys[0].idx] + keystr(keys[1:])


@contextmanager
def _precision(wide: bool) -> Iterator[None]:
    if not wide:
        yield
        return
    with jax.enable_x64(True):
        yield
