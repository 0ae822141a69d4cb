"""The parts of a JAX target: the custom rules inside, at the values that flowed.

The target is traced to a jaxpr, which is evaluated equation by equation, into what it calls (jit,
remat, scan, cond). A custom rule met on the way is a part; the target can be run again with the
rule left out, so that JAX differentiates what the rule computes.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
from jax.extend.core import Literal, jaxpr_as_fun
from jax.tree_util import tree_flatten, tree_leaves, tree_unflatten

from gradcheck import trees
from gradcheck.adapters.jax_ import precision
from gradcheck.adapters.parts import Part

__all__ = ["is_small", "recorded", "repaired"]

RULES = {"custom_vjp_call": "custom_vjp", "custom_jvp_call": "custom_jvp"}

# (path, equation, inputs) -> outputs: what becomes of a custom rule.
Meet = Callable[[str, Any, Sequence[Any]], Sequence[Any]]


def recorded(target: Any, inputs: tuple[Any, ...], seed: int) -> list[Part]:
    """Return the custom rules that ran, the innermost first."""
    parts: dict[str, Part] = {}

    def meet(path: str, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
        if path not in parts:  # a rule that is applied again is known
            parts[path] = Part(
                path=path,
                kind=RULES[equation.primitive.name],
                target=partial(_alone, equation),
                inputs=tuple(given),
            )
        return _bound(equation, *given)

    wide = any(getattr(x, "dtype", None) in ("float64", "complex128") for x in tree_leaves(inputs))
    with precision(wide):
        _evaluated(target, inputs, meet)
    return sorted(parts.values(), key=lambda part: -part.path.count("/"))


@contextmanager
def repaired(target: Any, guilty: Collection[Part]) -> Iterator[Any]:
    """`target` without the rules of `guilty` parts: JAX differentiates what they compute."""
    paths = {part.path for part in guilty}

    def meet(path: str, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
        if path not in paths:
            return _bound(equation, *given)
        return list(jaxpr_as_fun(equation.params["call_jaxpr"])(*given))

    yield lambda *inputs: _evaluated(target, inputs, meet)


def is_small(part: Part) -> bool:
    """No rule is too large to be left out."""
    return True


def _evaluated(target: Any, inputs: Sequence[Any], meet: Meet) -> Any:
    """The target's outputs, its custom rules handed to `meet`."""
    run = partial(trees.called, target)
    closed, shape = jax.make_jaxpr(run, return_shape=True)(tuple(inputs))
    flat = [jax.numpy.asarray(x) for x in tree_leaves(inputs)]
    outputs = _walk(closed.jaxpr, closed.consts, flat, "", meet)
    return tree_unflatten(tree_flatten(shape)[1], outputs)


def _walk(
    jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], path: str, meet: Meet
) -> list[Any]:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        given = [value(atom) for atom in equation.invars]
        outputs = _stepped(equation, given, path, meet)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _stepped(equation: Any, given: Sequence[Any], path: str, meet: Meet) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name in RULES:
        called = params["call_jaxpr"].jaxpr.debug_info.func_name
        return meet(path + str(called).split(".")[-1], equation, given)
    if name == "scan":
        return _scanned(params, given, f"{path}scan/", meet)
    if name == "cond":
        index, *operands = given
        branches = [
            partial(_closed, branch, path=f"{path}cond/", meet=meet)
            for branch in params["branches"]
        ]
        if isinstance(index, jax.core.Tracer):
            return list(jax.lax.switch(index, branches, *operands))
        return branches[int(index)](*operands)
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None and name in CALLS:
        label = params.get("name") or CALLS[name]
        return _closed(inner, *given, path=f"{path}{label}/", meet=meet)
    return _bound(equation, *given)


# What only calls another jaxpr, and how it is named where it has no name.
CALLS = {
    "jit": "jit",
    "pjit": "jit",
    "remat2": "remat",
    "checkpoint": "remat",
    "closed_call": "call",
}


def _closed(inner: Any, *given: Any, path: str, meet: Meet) -> list[Any]:
    jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
    return _walk(jaxpr, consts, given, path, meet)


def _scanned(params: Any, given: Sequence[Any], path: str, meet: Meet) -> list[Any]:
    """A scan, step by step."""
    fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry, rows = (
        list(given[:fixed]),
        list(given[fixed : fixed + carried]),
        list(given[fixed + carried :]),
    )
    steps = range(params["length"])
    stacked: list[list[Any]] = []
    for t in reversed(steps) if params["reverse"] else steps:
        found = _closed(
            params["jaxpr"], *consts, *carry, *[row[t] for row in rows], path=path, meet=meet
        )
        carry = found[:carried]
        stacked.append(found[carried:])
    if params["reverse"]:
        stacked.reverse()
    return [*carry, *[jax.numpy.stack(column) for column in zip(*stacked, strict=True)]]


def _alone(equation: Any, *given: Any) -> list[Any]:
    """A rule by itself; it was traced for its dtypes, and takes no others."""
    for x, atom in zip(given, equation.invars, strict=True):
        if x.dtype != atom.aval.dtype:
            raise TypeError(f"expected {atom.aval.dtype}, as the network gave it; got {x.dtype}")
    return _bound(equation, *given)


def _bound(equation: Any, *given: Any) -> list[Any]:
    """What an equation computes, its rule in force."""
    found = equation.primitive.get_bind_params(equation.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # by version
    outputs = equation.primitive.bind(*functions, *given, **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]
