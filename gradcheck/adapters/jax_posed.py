"""A JAX target at its inputs, and the ways to run it: value, VJP, JVP, twice, batched; compiled.

64-bit inputs run under a scoped `jax.enable_x64`; the user's global configuration is not touched.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from traceback import walk_tb
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.tree_util import keystr, tree_flatten_with_path, tree_unflatten

from gradcheck import trees
from gradcheck.adapters import jax_digits as digits
from gradcheck.adapters.bridge import Bridge
from gradcheck.errors import Unsupported, first_line
from gradcheck.problem import (
    EPSILON,
    WIDER,
    Array,
    Arrays,
    Axes,
    norm,
)

__all__ = ["BRIDGE", "Posed", "afresh", "cotangents_of", "gradients_of", "is_array", "is_refusal"]


def is_array(value: Any) -> bool:
    if isinstance(value, jax.Array):
        return not jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)  # PRNG keys
    return isinstance(value, (np.ndarray, np.generic))


def _out(value: Any) -> Array:
    array = np.array(value)
    is_held = array.dtype.name in WIDE or array.dtype.kind in "biu"  # indices and masks stay so
    return array if is_held else array.astype(np.float32)


def _into(array: Array, like: Any) -> jax.Array:
    return jax.numpy.asarray(array).astype(like.dtype)


WIDE = ("float32", "float64", "complex64", "complex128")  # what the engine holds as it is


BRIDGE = Bridge(
    framework="jax",
    is_array=is_array,
    dtype_of=lambda value: value.dtype.name,
    out=_out,
    into=_into,
    wide=lambda array, like: jax.numpy.asarray(array),
)


def afresh(call: Callable[[], Any]) -> Any:
    """Return `call()`; of a NumPy constant that is stale, once more without what JAX has kept.

    Of a NumPy array that a live trace holds as a constant, JAX (0.10) keeps the dtype that it had
    there, whether x64 is on or off now, and runs programs on buffers of another size
    (docs/findings.md).
    """
    try:
        return call()
    except Exception as error:
        if not any(words in str(error) for words in STALE):
            raise
    _compiled.cache_clear()
    gc.collect()  # our own traces, which are cycles
    jax.clear_caches()  # type: ignore[no-untyped-call]
    return call()


STALE = ("RuntimeProgramInputMismatch", "verifier errors", "arguments to have the same dtypes")


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A target at its inputs: the leaves of a tree, those chosen by position, with their paths.

    JAX's cotangents are those of the bilinear product Σ u f; the engine's are of Re Σ ū f. So
    cotangents and gradients are conjugated on the way in and out; tangents are the same in both.
    """

    target: Any
    structure: Any
    values: tuple[Any, ...]
    chosen: Mapping[int, str]
    x64: bool  # whether 64-bit types are on
    wide: bool = False  # whether the leaves keep the dtype of the engine's arrays
    narrow: "Posed | None" = None  # in whose dtypes it is traced, to be computed in float64
    silent: frozenset[str] = frozenset()  # outputs that are left out
    donates: bool = False  # whether a call consumes what it is given: constants are then copied

    @cached_property
    def point(self) -> Arrays:
        arrays = tuple(BRIDGE.out(self.values[k]) for k in self.chosen)
        if not self.wide:
            return arrays
        dtypes = [WIDER.get(BRIDGE.dtype_of(self.values[k]), "") for k in self.chosen]
        return tuple(
            array.astype(d or array.dtype) for array, d in zip(arrays, dtypes, strict=True)
        )

    @property
    def is_jitted(self) -> bool:
        """Whether the target was jitted, and only arrays go into it."""
        return hasattr(self.target, "lower") and all(is_array(leaf) for leaf in self.values)

    def asks_for_donation(self) -> bool:
        """Whether the target was jitted with `donate_argnums`."""
        if not hasattr(self.target, "lower"):
            return False
        _, arguments = tree_unflatten(self.structure, self.values)
        try:
            with jax.enable_x64(self.x64):
                infos = trees.called(self.target.trace, arguments).args_info
        except Exception:  # the target's own, which then shows in the value
            return False
        return any(info.donated for info in jax.tree.leaves(infos))

    def f(self, *leaves: Any) -> list[Any]:
        """The floating outputs at `leaves`."""
        return [leaf for _, leaf in self.named(leaves)]

    def named(self, leaves: Sequence[Any]) -> list[tuple[str, Any]]:
        """The floating outputs at `leaves`, each with its path."""
        filled = [
            jax.numpy.copy(leaf) if self.donates and isinstance(leaf, jax.Array) else leaf
            for leaf in self.values
        ]
        for k, leaf in zip(self.chosen, leaves, strict=True):
            filled[k] = leaf
        module, arguments = tree_unflatten(self.structure, filled)
        found = _floating(trees.called(self.target if module is None else module, arguments))
        return [(path, leaf) for path, leaf in found if path not in self.silent]

    @cached_property
    def answer(self) -> list[tuple[str, Any]]:
        """The floating outputs at the point, as the target gives them when it is run."""
        with jax.enable_x64(self.x64):
            return self.named(self.arrays(self.point))

    def arrays(self, point: Arrays) -> list[Any]:
        cross = BRIDGE.wide if self.wide else BRIDGE.into
        return [cross(x, self.values[k]) for x, k in zip(point, self.chosen, strict=True)]

    @cached_property
    def program(self) -> "Program | None":
        """What the target computes; None where it cannot be traced."""
        if self.narrow is not None:
            return self.narrow.program
        with jax.enable_x64(self.x64):
            return _traced(self)

    @cached_property
    def compiles_at_once(self) -> bool:
        return self.program is not None and digits.is_long(self.program.jaxpr)

    @cached_property
    def rounds_back(self) -> bool:
        """Whether the VJP, of what could be traced, is narrower than anything in the value."""
        assert self.program is not None
        with jax.enable_x64(self.x64):
            us = [jax.numpy.ones(leaf.shape, leaf.dtype) for _, leaf in self.answer]
            pulled = jax.make_jaxpr(self._pulled)(self.arrays(self.point), us)
        own = digits.narrow_dtypes(self.program.jaxpr.jaxpr) | {leaf.dtype.name for leaf in us}
        own |= {BRIDGE.dtype_of(self.values[k]) for k in self.chosen}
        return bool(digits.narrow_dtypes(pulled.jaxpr) - own)

    @property
    def inside(self) -> dict[int, str]:
        """Leaf -> a narrower dtype that lies between it and the outputs."""
        return {} if self.program is None else digits.inside(self.program.jaxpr)

    @cached_property
    def traced(self) -> Any:
        if self.program is None:
            return self.f
        return self.program.run if self.narrow is None else _lifted(self.program.jaxpr)

    def value(self, point: Arrays) -> Arrays:
        with jax.enable_x64(self.x64):
            xs = self.arrays(point)
            # What was traced is a function of these dtypes; a complex step has others.
            same = all(x.dtype == own.dtype for x, own in zip(point, self.point, strict=True))
            return tuple(BRIDGE.out(output) for output in (self.traced if same else self.f)(*xs))

    def vjp(self, point: Arrays, cotangents: Arrays) -> Arrays:
        if self.is_jitted and not self.wide:
            return self.both(point, cotangents)[1]
        with jax.enable_x64(self.x64), _noting():
            return gradients_of(self.pulled(self.arrays(point), self.conjugated(cotangents)))

    @cached_property
    def pulled(self) -> Callable[..., Any]:
        return self._made(self._pulled)

    def _pulled(self, xs: Any, us: Any) -> Any:
        return jax.vjp(self.f, *xs)[1](us)

    def _made(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, a derivative of the target at (leaves, cotangents, ...), as it is to be computed.

        It is compiled when it pays; not where the target could not be traced.
        """
        if self.narrow is not None:
            return Lifted(run, self.narrow)
        if self.program is None:
            return Repeated(run, patience=None)
        return Repeated(run, patience=0 if self.compiles_at_once else PATIENCE)

    def conjugated(self, cotangents: Arrays) -> list[Any]:
        """The engine's cotangents as JAX's, in the dtypes of the outputs."""
        if self.narrow is not None:
            return [jax.numpy.asarray(u.conj()) for u in cotangents]
        dtypes = zip(cotangents, self.output_dtypes, strict=True)
        return [jax.numpy.asarray(u.conj()).astype(dtype) for u, dtype in dtypes]

    def jvp(self, point: Arrays, tangents: Arrays) -> Arrays:
        """Forward mode.

        Raises:
            Unsupported: a rule in the target is a `custom_vjp`, which has no forward mode.
        """
        with jax.enable_x64(self.x64), _refusals("forward mode"):
            xs = self.arrays(point)
            vs = [BRIDGE.into(v, x) for v, x in zip(tangents, xs, strict=True)]
            return tuple(BRIDGE.out(tangent) for tangent in self.pushed(xs, [], vs))

    @cached_property
    def pushed(self) -> Callable[..., Any]:
        return self._made(self._pushed)

    def _pushed(self, xs: Any, _: Any, vs: Any) -> Any:
        return jax.jvp(self.f, tuple(xs), tuple(vs))[1]

    def second(self, point: Arrays, cotangents: Arrays, w: Arrays) -> tuple[Arrays, Arrays]:
        """Reverse over reverse.

        Raises:
            Unsupported: a rule in the target cannot be differentiated again.
        """
        with jax.enable_x64(self.x64), _refusals("a second derivative"):
            xs = self.arrays(point)
            # ⟨w, g⟩ of the engine's g = ḡ: conjugating g, w and the result leaves Σ w g as it is.
            ws = tuple(BRIDGE.into(v, x) for v, x in zip(w, xs, strict=True))
            in_point, in_cotangents = self.pulled_twice(xs, self.conjugated(cotangents), ws)
            return gradients_of(in_point), tuple(BRIDGE.out(g) for g in in_cotangents)

    @cached_property
    def pulled_twice(self) -> Callable[..., Any]:
        return self._made(self._pulled_twice)

    def _pulled_twice(self, xs: Any, us: Any, ws: Any) -> Any:
        gradients, pullback = jax.vjp(self._pulled, xs, us)
        # A rule may return another dtype than its input's.
        return pullback(tuple(w.astype(g.dtype) for w, g in zip(ws, gradients, strict=True)))

    def batched(self, point: Arrays, cotangents: Arrays) -> Arrays:
        """The VJP of a batch of cotangents, by `vmap`.

        Raises:
            Unsupported: something in the backward cannot be batched.
        """
        with jax.enable_x64(self.x64):
            outputs, pullback = jax.vjp(self.f, *self.arrays(point))
            try:
                gradients = jax.vmap(pullback)(cotangents_of(cotangents, outputs))
            except Exception as error:  # it runs one by one: whatever is raised is about the batch
                raise Unsupported(f"vmap is not supported: {first_line(error)}") from error
            return gradients_of(gradients)

    def mapped(self, point: Arrays, axes: Axes, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """Outputs and gradients of a batch of examples, by `vmap` over `axes` of the leaves.

        Raises:
            Unsupported: something in the target cannot be batched.
        """
        with jax.enable_x64(self.x64):
            try:
                outputs, pullback = jax.vjp(jax.vmap(self.f, axes), *self.arrays(point))
                gradients = pullback(cotangents_of(cotangents, outputs))
            except Exception as error:  # it runs one by one: whatever is raised is about the batch
                raise Unsupported(f"vmap is not supported: {first_line(error)}") from error
            return tuple(map(BRIDGE.out, outputs)), gradients_of(gradients)

    def both(self, point: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        with jax.enable_x64(self.x64):
            # NumPy arrays go in as they are: an operation to convert one would be compiled too.
            xs = [x.astype(self.values[k].dtype) for x, k in zip(point, self.chosen, strict=True)]
            us = [u.conj().astype(d) for u, d in zip(cotangents, self.output_dtypes, strict=True)]
            constants = [leaf for k, leaf in enumerate(self.values) if k not in self.chosen]
            run = _compiled(self.target, self.structure, tuple(self.chosen), self.silent)
            ys, gradients = run(xs, constants, us)
            return tuple(map(BRIDGE.out, ys)), gradients_of(gradients)

    @cached_property
    def output_dtypes(self) -> list[Any]:
        return [leaf.dtype for _, leaf in self.answer]  # it may branch on values: not traced


PATIENCE = 4  # calls that are made one operation at a time before compiling pays


class Repeated:
    """A function of arrays, compiled once it was called often; one that cannot be stays as it is.

    Compiled, it rounds otherwise in the last digit, as any other run may.
    """

    def __init__(self, run: Callable[..., Any], *, patience: int | None) -> None:
        self._run = run
        self._left = patience  # calls until it is compiled; None: never

    def __call__(self, *args: Any) -> Any:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                return self._compiled(*args)
        return self._run(*args)

    def _compiled(self, *args: Any) -> Any:
        self._left = None
        compiled, plain = jax.jit(self._run), self._run
        try:
            found = compiled(*args)
        except Exception:  # a rule that wants numbers, not tracers
            return plain(*args)
        self._run = compiled
        return found


class Lifted:
    """A derivative, traced in the dtypes of `narrow` and computed in float64.

    By the rules that the target has: the jaxpr of its derivative has resolved them.
    """

    def __init__(self, run: Callable[..., Any], narrow: Posed) -> None:
        self._run, self._narrow = run, narrow
        self._computed: tuple[Callable[..., Any], Any] | None = None

    def __call__(self, xs: Any, us: Any, *rest: Any) -> Any:
        if self._computed is None:
            self._computed = self._traced(bool(us), len(rest))
        computed, structure = self._computed
        return tree_unflatten(structure, computed(*jax.tree.leaves((xs, us, *rest))))

    def _traced(self, has_cotangents: bool, extra: int) -> tuple[Callable[..., Any], Any]:
        narrow = self._narrow
        with jax.enable_x64(narrow.x64):
            xs = narrow.arrays(narrow.point)
            us = jax.eval_shape(narrow.f, *xs) if has_cotangents else []
            args = (xs, us, *[tuple(xs)] * extra)
            closed, shape = jax.make_jaxpr(self._run, return_shape=True)(*args)
        return _lifted(closed), jax.tree.structure(shape)


def _lifted(closed: Any) -> Callable[..., Any]:
    lifted = digits.lifted(closed)
    # A loop that is lifted is a new one at every call, and compiled again.
    return jax.jit(lifted) if digits.is_long(closed) else lifted


def cotangents_of(cotangents: Arrays, outputs: Sequence[Any]) -> list[Any]:
    return [BRIDGE.into(u.conj(), y) for u, y in zip(cotangents, outputs, strict=True)]


def gradients_of(gradients: Sequence[Any]) -> Arrays:
    return tuple(BRIDGE.out(gradient).conj() for gradient in gradients)


NOT_LINEAR = (
    "JAX could not transpose what forward mode computes; if a rule is yours (custom_jvp), it may "
    "not be linear in its tangents: ask with checks='jvp'"
)


@contextmanager
def _noting() -> Iterator[None]:
    """Have what has no reverse mode say why, or that forward mode can be asked about."""
    try:
        yield
    except (AssertionError, NotImplementedError) as error:
        said = str(error)
        if "ValAccum" in said or "UndefinedPrimal" in said or "Transpose rule" in said:
            error.add_note(NOT_LINEAR)
        raise
    except ValueError as error:
        if "Reverse-mode differentiation does not work" in str(error):
            error.add_note("forward mode is asked with checks='jvp'")
        raise


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turn the ways in which JAX says that a derivative does not exist into `Unsupported`."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        said = first_line(error) or type(error).__name__
        raise Unsupported(f"{what} is not supported: {said}") from error


def is_refusal(error: Exception) -> bool:
    if isinstance(error, NotImplementedError) or any(words in str(error) for words in REFUSALS):
        return True
    # Of a rule that does not exist JAX stumbles over what it did not get, in code of its own.
    return isinstance(error, AssertionError | AttributeError) and _raised_in_jax(error)


def _raised_in_jax(error: Exception) -> bool:
    frames = list(walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").startswith("jax.")


REFUSALS = (
    "can't apply forward-mode",  # to a custom_vjp
    "Reverse-mode differentiation does not work for lax.while_loop",
    "Linearization failed to produce known values",  # a derivative that stops halfway
    "Pure callbacks do not support JVP",
    "conversion method __array__() was called on traced array",  # a rule in NumPy
    "not implemented",
    "not supported",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A target, traced: its jaxpr, and what runs it."""

    jaxpr: Any
    run: Callable[..., Any]


def _traced(posed: Posed) -> Program | None:
    """What is run in the place of the target: a scan inside is not compiled again at every call.

    A function that branches on values, or is not the same twice, cannot be traced and stays as
    it is.
    """
    try:
        xs, ys = posed.arrays(posed.point), [leaf for _, leaf in posed.answer]
        closed = jax.make_jaxpr(posed.f)(*xs)
        run = jaxpr_as_fun(closed)
        run = jax.jit(run) if digits.is_long(closed) else run
        same = all(_agree(np.asarray(a), np.asarray(b)) for a, b in zip(ys, run(*xs), strict=True))
    except Exception:  # a tracer's error, or the target's own, which then shows in the value
        return None
    return Program(jaxpr=closed, run=run) if same else None


def _agree(a: Array, b: Array) -> bool:
    """Whether two runs differ by rounding at most."""
    a, b = a.astype(np.complex128), b.astype(np.complex128)
    atol = 1e-2 * norm(a[np.isfinite(a)])
    return bool(np.allclose(a, b, rtol=1e-2, atol=atol, equal_nan=True))


# Checks of one jitted function at many points share its compilation. It holds on to the function
# and to what that closes over, and so to few.
@lru_cache(maxsize=8)
def _compiled(target: Any, structure: Any, chosen: tuple[int, ...], silent: frozenset[str]) -> Any:
    """Value and VJP of a jitted `target` as one jitted function."""

    def run(leaves: Any, constants: Any, us: Any) -> tuple[Any, Any]:
        def f(*xs: Any) -> list[Any]:
            moving, still = iter(xs), iter(constants)
            count = structure.num_leaves
            filled = [next(moving) if k in chosen else next(still) for k in range(count)]
            tree = tree_unflatten(structure, filled)
            found = _floating(trees.called(target, tree[1]))
            return [leaf for path, leaf in found if path not in silent]

        outputs, pullback = jax.vjp(f, *leaves)
        return outputs, pullback(us)

    return jax.jit(run)


def _floating(outputs: Any) -> list[tuple[str, Any]]:
    flat, _ = tree_flatten_with_path(outputs)
    return [
        ("output" + keystr(path), leaf)
        for path, leaf in flat
        if hasattr(leaf, "dtype") and leaf.dtype.name in EPSILON
    ]
