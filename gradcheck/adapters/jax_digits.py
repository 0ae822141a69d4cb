"""In which dtypes a JAX target computes inside: which leaves lose digits there, and how not to.

As in PyTorch (`torch_digits`), but of the jaxpr: nothing runs to see it. Evaluated equation by
equation with every narrow array cast to float64, a jaxpr is the formula that it rounds.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial, reduce
from math import inf
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from gradcheck.problem import EPSILON, WIDER

__all__ = [
    "has_vmap_rule",
    "inside",
    "is_long",
    "is_native",
    "lifted",
    "narrow_dtypes",
    "rejecting",
]

NARROW = tuple(WIDER)

Marks = tuple[int, ...]  # sets of leaves, as bits: all, and those seen through each narrow dtype

NOTHING: Marks = (0,) * (1 + len(NARROW))

# What only calls another jaxpr; a custom rule is its primal, and in a VJP it is resolved already.
CUSTOM = ("custom_jvp_call", "custom_vjp_call")
CALLS = ("jit", "pjit", "closed_call", "remat2", "checkpoint", *CUSTOM)


def inside(closed: Any) -> dict[int, str]:
    """Return, by input, the narrowest dtype through which it reaches an output; None is left out.

    Narrow are the dtypes below that of the input.
    """
    inputs = closed.jaxpr.invars
    marks = [(1 << k, *NOTHING[1:]) for k in range(len(inputs))]
    reached = _union(_walked(closed.jaxpr, marks))
    found = {}
    for k, variable in enumerate(inputs):
        own = EPSILON.get(_dtype(variable), 1.0)
        through = [
            dtype
            for dtype, bits in zip(NARROW, reached[1:], strict=True)
            if bits >> k & 1 and EPSILON[dtype] > own
        ]
        if through:
            found[k] = max(through, key=lambda dtype: EPSILON[dtype])
    return found


def _walked(jaxpr: Any, marks: Sequence[Marks]) -> list[Marks]:
    """The marks of the outputs of `jaxpr`, given those of its inputs."""
    known = dict(zip(jaxpr.invars, marks, strict=True))

    def of(atom: Any) -> Marks:
        return NOTHING if isinstance(atom, Literal) else known.get(atom, NOTHING)

    for equation in jaxpr.eqns:
        given = [of(atom) for atom in equation.invars]
        calls = equation.primitive.name in CALLS and list(_inner(equation))
        if calls and len(calls[0].invars) == len(given):
            outputs = _walked(calls[0], given)
        else:
            outputs = [_seen(_union(given), _within(equation))] * len(equation.outvars)
        for variable, mark in zip(equation.outvars, outputs, strict=True):
            known[variable] = _seen(mark, {_dtype(variable)}) if _floats(variable) else NOTHING
    return [of(atom) for atom in jaxpr.outvars]


def _within(equation: Any) -> set[str]:
    """The dtypes to which an equation rounds inside: whatever is narrow in a loop or a branch."""
    found = narrow_dtypes(*_inner(equation))
    if equation.primitive.name == "reduce_precision":
        spacing = 2.0 ** -equation.params["mantissa_bits"]
        found |= {
            dtype for dtype in ("bfloat16", "float16", "float32") if spacing >= EPSILON[dtype]
        }
    return found


def narrow_dtypes(*jaxprs: Any) -> set[str]:
    """Return the dtypes below float64 that anything in `jaxprs` is computed in or rounded to."""
    equations = [equation for jaxpr in jaxprs for equation in jaxpr.eqns]
    found = {_dtype(variable) for equation in equations for variable in equation.outvars}
    return (found & set(NARROW)).union(*map(_within, equations))


def _inner(equation: Any) -> Iterator[Any]:
    """The jaxprs that an equation holds."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            found = getattr(item, "jaxpr", item)
            if hasattr(found, "eqns"):
                yield found


def _seen(marks: Marks, dtypes: set[str]) -> Marks:
    narrow = (
        marks[0] if dtype in dtypes else bits for dtype, bits in zip(NARROW, marks[1:], strict=True)
    )
    return (marks[0], *narrow)


def _union(many: Sequence[Marks]) -> Marks:
    return reduce(
        lambda one, other: tuple(a | b for a, b in zip(one, other, strict=True)), many, NOTHING
    )


def _dtype(variable: Any) -> str:
    return str(getattr(getattr(variable, "aval", None), "dtype", ""))


def _floats(variable: Any) -> bool:
    return _dtype(variable) in EPSILON


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Those of a jaxpr, and of all that they hold."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in _inner(equation):
            yield from _equations(inner)


def has_vmap_rule(jaxpr: Any) -> bool:
    """Return whether something in it is a `custom_vmap`."""
    return any(equation.primitive.name == "custom_vmap_call" for equation in _equations(jaxpr))


def is_native(jaxpr: Any) -> bool:
    """Return whether all custom rules in it are JAX's own."""
    return all(map(_is_written_in_jax, _equations(jaxpr)))


def rejecting(jaxpr: Any) -> frozenset[int]:
    """Return the inputs that something is drawn from by rejection, differentiated implicitly."""
    under: set[Any] = set()
    for equation in reversed(jaxpr.eqns):
        own = [equation, *(deep for inner in _inner(equation) for deep in _equations(inner))]
        is_drawn = any(each.primitive.name == "random_gamma" for each in own)
        if is_drawn or not under.isdisjoint(equation.outvars):
            under.update(atom for atom in equation.invars if not isinstance(atom, Literal))
    return frozenset(k for k, variable in enumerate(jaxpr.invars) if variable in under)


def _is_written_in_jax(equation: Any) -> bool:
    if equation.primitive.name not in CUSTOM:
        return not equation.primitive.name.startswith("custom")
    where = str(equation.params["call_jaxpr"].jaxpr.debug_info.func_src_info)
    return str(Path(jax.__file__).parent) in where


def is_long(closed: Any) -> bool:
    """Return whether `closed` is compiled in less time than its operations are one by one."""
    return _length(getattr(closed, "jaxpr", closed)) > FEW


def _length(jaxpr: Any) -> float:
    """How many operations there are in it."""
    return sum(
        inf if equation.primitive.name in COMPILING else sum(map(_length, _inner(equation))) or 1
        for equation in jaxpr.eqns
    )


# A loop or a branch outside of a compiled function is compiled at every call.
COMPILING = ("scan", "while", "cond", "random_gamma", "shard_map")

# Operations up to which those of small functions, compiled once for all checks, are faster.
FEW = 4


def lifted(closed: Any) -> Callable[..., list[Any]]:
    """Return what `closed` computes, with every narrow array in float64."""
    return partial(_evaluated, closed.jaxpr, closed.consts)


def _evaluated(jaxpr: Any, consts: Sequence[Any], *inputs: Any) -> list[Any]:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def value(atom: Any) -> Any:
        return _up(atom.val if isinstance(atom, Literal) else known[atom])

    for equation in jaxpr.eqns:
        outputs = _stepped(equation, [value(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _stepped(equation: Any, given: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        return _closed(params.get("jaxpr", params.get("call_jaxpr")), *given)
    if name == "scan":
        return _scanned(params, given)
    if name == "while":
        return _looped(params, given)
    if name == "cond":
        index, *operands = given
        branches = [partial(_closed, branch) for branch in params["branches"]]
        return list(jax.lax.switch(index, branches, *operands))
    if name == "reduce_precision":
        return given[:1]
    if name in OF_BITS:
        given = [_down(x, atom) for x, atom in zip(given, equation.invars, strict=True)]
    else:
        params = {key: _wide(value) for key, value in params.items()}
        if isinstance(params.get("precision"), jax.lax.DotAlgorithmPreset):
            params["precision"] = None  # it names the dtypes to multiply and to add in
    functions, params = _bind_params(equation.primitive, params)
    outputs = equation.primitive.bind(*functions, *given, **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


# What a dtype's bits are asked for stays in it: random bits that become numbers, neighbours.
OF_BITS = ("bitcast_convert_type", "nextafter")


def _bind_params(primitive: Any, params: Any) -> tuple[Any, Any]:
    found = primitive.get_bind_params(params)
    return found if isinstance(found, tuple) else ((), found)  # by version


def _closed(inner: Any, *given: Any) -> list[Any]:
    return _evaluated(*_opened(inner), *given)


def _opened(inner: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr, closed or not, and its constants."""
    return (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())


def _scanned(params: Any, given: list[Any]) -> list[Any]:
    fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry, rows = given[:fixed], given[fixed : fixed + carried], given[fixed + carried :]

    def body(carry: Any, row: Any) -> tuple[list[Any], list[Any]]:
        found = _closed(params["jaxpr"], *consts, *carry, *row)
        return found[:carried], found[carried:]

    carry, stacked = jax.lax.scan(
        body, list(carry), list(rows), length=params["length"], reverse=params["reverse"]
    )
    return [*carry, *stacked]


def _looped(params: Any, given: list[Any]) -> list[Any]:
    first, second = params["cond_nconsts"], params["body_nconsts"]
    of_cond, of_body, start = (
        given[:first],
        given[first : first + second],
        given[first + second :],
    )
    return list(
        jax.lax.while_loop(
            lambda state: _closed(params["cond_jaxpr"], *of_cond, *state)[0],
            lambda state: _closed(params["body_jaxpr"], *of_body, *state),
            start,
        )
    )


def _up(array: Any) -> Any:
    wide = WIDER.get(str(getattr(array, "dtype", "")))
    return array if wide is None else jnp.asarray(array).astype(wide)


def _down(array: Any, atom: Any) -> Any:
    """The array in the dtype that the equation was traced with."""
    own = _dtype(atom)
    return jnp.asarray(array).astype(own) if own in WIDER else array


def _wide(value: Any) -> Any:
    """A parameter of an equation, for float64: a narrow dtype it asks for, a jaxpr it holds.

    Such are the operation of a reduction or a scatter, and the parts of a linear solve.
    """
    if isinstance(value, np.dtype | type) and (wide := WIDER.get(str(np.dtype(value)))):
        return np.dtype(wide)
    if hasattr(value, "consts"):  # a closed jaxpr, which has equations too
        return _retraced(value)
    if hasattr(value, "eqns"):
        return _retraced(value).jaxpr
    if isinstance(value, tuple) and any(hasattr(item, "jaxpr") for item in value):
        items = map(_wide, value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


@lru_cache(maxsize=256)  # a new one at every call would be compiled at every call
def _retraced(inner: Any) -> Any:
    jaxpr, consts = _opened(inner)
    zeros = [jnp.zeros(v.aval.shape, WIDER.get(_dtype(v), v.aval.dtype)) for v in jaxpr.invars]
    return jax.make_jaxpr(partial(_evaluated, jaxpr, consts))(*zeros)
