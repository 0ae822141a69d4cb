"""The parts of a JAX target: the custom rules inside, at the values that flowed.

The target is traced to a jaxpr, which is evaluated equation by equation, into what it calls (jit,
remat, scan, while, cond, other rules). A custom rule met on the way is a part; the target can be
run again with another derivative in its place.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import starmap, zip_longest
from typing import Any, cast

import jax
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun
from jax.tree_util import tree_flatten, tree_leaves, tree_unflatten

from gradcheck import trees
from gradcheck.adapters.jax_ import needs_x64
from gradcheck.adapters.jax_substitutes import Code, code_of, differenced, without_rules
from gradcheck.adapters.parts import CALLS, Call, Part

__all__ = ["recorded", "repairs"]

RULES = {"custom_vjp_call": "custom_vjp", "custom_jvp_call": "custom_jvp"}
ENTRIES = 4096  # of all inputs of a rule, beyond which differences of it take too long

Site = tuple[int, ...]  # where an equation is: its number in a jaxpr, within one, within ...


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Where in a target an equation is."""

    unrolled: bool = False  # whether loops are run step by step, whatever they are given
    path: str = ""
    site: Site = ()
    within: tuple[Site, ...] = ()  # the rules around it

    def into(self, label: str, number: int) -> "At":
        return replace(self, path=f"{self.path}{label}/", site=(*self.site, number))


# (where, equation, inputs) -> outputs: what becomes of a custom rule.
Meet = Callable[[At, Any, Sequence[Any]], Sequence[Any]]


def recorded(target: Any, inputs: tuple[Any, ...], seed: int) -> list[Part]:
    """Return the custom rules that ran, the innermost first."""
    found: dict[Site, Found] = {}

    def meet(at: At, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
        path = at.path + _name(equation)
        known = found.setdefault(at.site, Found(path=path, equation=equation, within=at.within))
        known.calls.append(tuple(given))
        inside = replace(at, path=f"{path}/", within=(*at.within, at.site))
        _walk(equation.params["call_jaxpr"], given, inside, meet)
        return _bound(equation, *given)

    dtypes = (str(getattr(x, "dtype", "")) for x in tree_leaves(inputs))
    with jax.enable_x64(needs_x64(dtypes)):
        with suppress(jax.errors.JAXTypeError):  # it branches on values
            _evaluated(target, inputs, meet)
        came = _came_back(target, inputs, seed) if found else {}
    return _parts(found, came)


def _came_back(target: Any, inputs: Sequence[Any], seed: int) -> dict[Site, list[Any]]:
    """The cotangents of every call of every rule, in order: gradients of zeros added to outputs."""
    shapes: list[tuple[Site, Any]] = []

    def note(at: At, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
        outputs = _bound(equation, *given)
        shapes.append((at.site, [jax.numpy.zeros_like(y) for y in outputs]))
        return outputs

    def shifted(zeros: Sequence[Any]) -> list[Any]:
        rest = iter(zeros)

        def meet(at: At, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
            pairs = zip(_bound(equation, *given), next(rest), strict=True)
            return [y + zero if _is_floating(y) else y for y, zero in pairs]

        return [
            y
            for y in tree_leaves(_evaluated(target, inputs, meet, unrolled=True))
            if _is_floating(y)
        ]

    rng = np.random.default_rng(seed)
    found: dict[Site, list[Any]] = {}
    with suppress(Exception):  # whatever is raised by a target without a reverse mode
        _evaluated(target, inputs, note)
        outputs, pullback = jax.vjp(shifted, [zeros for _, zeros in shapes])
        us = [jax.numpy.asarray(rng.standard_normal(y.shape), y.dtype) for y in outputs]
        for (site, _), back in zip(shapes, pullback(us)[0], strict=True):
            found.setdefault(site, []).append(tuple(back))
    return found


def _paired(equation: Any, call: Call) -> Any | None:
    """The sum of the products of a rule's outputs with the cotangents that came back to them."""
    if not call.cotangents:
        return None

    def paired(*given: Any) -> Any:
        pairs = zip(_alone(equation, *given), call.cotangents, strict=True)
        return sum((y * u).sum() for y, u in pairs if _is_floating(y))

    return paired


def _is_floating(x: Any) -> bool:
    return bool(jax.numpy.issubdtype(x.dtype, jax.numpy.inexact))


def repairs(target: Any, guilty: Collection[Part]) -> list[AbstractContextManager[Any]]:
    """Ways to run `target` with other derivatives of `guilty` rules.

    JAX differentiates what they compute, or differences are taken of it: a loop cannot be
    differentiated. A rule within a rule is left out where its code is called.
    """
    if any(part.within for part in guilty):
        return without_rules(target, {cast("Code", part.same) for part in guilty})
    ways: list[AbstractContextManager[Any]] = [_repaired(target, guilty, lambda run: run)]
    if all(sum(x.size for x in part.calls[0].inputs) <= ENTRIES for part in guilty):
        ways.append(_repaired(target, guilty, differenced))
    return ways


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is known of a rule so far."""

    path: str
    equation: Any
    within: tuple[Site, ...]
    calls: list[tuple[Any, ...]] = field(default_factory=list)


def _parts(found: dict[Site, Found], came: dict[Site, list[Any]]) -> list[Part]:
    paths: dict[Site, str] = {}
    for site, rule in found.items():
        count = sum(found[other].path == rule.path for other in paths)
        paths[site] = f"{rule.path}#{count + 1}" if count else rule.path
    made = [
        Part(
            path=paths[site],
            name=_name(rule.equation),
            kind=RULES[rule.equation.primitive.name],
            target=partial(_alone, rule.equation),
            place=site,
            same=_code(rule.equation),
            calls=tuple(_ends(list(starmap(_call, zip_longest(rule.calls, came.get(site, ())))))),
            within=frozenset(paths[around] for around in rule.within),
            paired=partial(_paired, rule.equation),
        )
        for site, rule in found.items()
    ]
    return sorted(made, key=lambda part: -len(part.within))


def _call(inputs: tuple[Any, ...], cotangents: tuple[Any, ...] | None) -> Call:
    return Call(inputs=inputs, cotangents=cotangents or ())


def _ends(calls: list[Call]) -> list[Call]:
    return calls if len(calls) <= 2 * CALLS else [*calls[:CALLS], *calls[-CALLS:]]


def _code(equation: Any) -> Code:
    jaxpr = equation.params["call_jaxpr"].jaxpr
    return code_of(str(jaxpr.debug_info.func_src_info), jaxpr)


def _name(equation: Any) -> str:
    called = str(equation.params["call_jaxpr"].jaxpr.debug_info.func_name)
    return called.split(".")[-1]


@contextmanager
def _repaired(
    target: Any, guilty: Collection[Part], replacement: Callable[[Any], Any]
) -> Iterator[Any]:
    """`target` with `replacement` in the place of what `guilty` rules compute."""
    places = {part.place for part in guilty}

    def meet(at: At, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
        if at.site not in places:
            return _bound(equation, *given)
        return list(replacement(jaxpr_as_fun(equation.params["call_jaxpr"]))(*given))

    yield lambda *inputs: _evaluated(target, inputs, meet)


def _evaluated(target: Any, inputs: Sequence[Any], meet: Meet, *, unrolled: bool = False) -> Any:
    """The target's outputs, its custom rules handed to `meet`."""
    held, structure = tree_flatten(target)

    def run(inputs: tuple[Any, ...]) -> Any:
        # Made anew within the trace, a module may write into what it holds.
        return trees.called(tree_unflatten(structure, held), inputs)

    closed, shape = jax.make_jaxpr(run, return_shape=True)(tuple(inputs))
    flat = [jax.numpy.asarray(x) for x in tree_leaves(inputs)]
    outputs = _walk(closed, flat, At(unrolled=unrolled), meet)
    return tree_unflatten(tree_flatten(shape)[1], outputs)


def _is_traced(at: At, given: Sequence[Any]) -> bool:
    return not at.unrolled and any(isinstance(x, jax.core.Tracer) for x in given)


def _walk(inner: Any, inputs: Sequence[Any], at: At, meet: Meet) -> list[Any]:
    jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for number, equation in enumerate(jaxpr.eqns):
        given = [value(atom) for atom in equation.invars]
        outputs = _stepped(equation, given, at, number, meet)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _stepped(equation: Any, given: Sequence[Any], at: At, number: int, meet: Meet) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name in RULES:
        return meet(replace(at, site=(*at.site, number)), equation, given)
    if name in LOOPS:
        return LOOPS[name](params, given, at.into(name, number), meet)
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None and name in CALLED:
        label = params.get("name") or CALLED[name]
        return _walk(inner, given, at.into(label, number), meet)
    return _bound(equation, *given)


# What only calls another jaxpr, and how it is named where it has no name.
CALLED = {
    "jit": "jit",
    "pjit": "jit",
    "remat2": "remat",
    "checkpoint": "remat",
    "closed_call": "call",
}


def _branched(params: Any, given: Sequence[Any], at: At, meet: Meet) -> list[Any]:
    index, *operands = given

    def branch(k: int, *operands: Any) -> list[Any]:
        inside = replace(at, site=(*at.site, k))
        return _walk(params["branches"][k], operands, inside, meet)

    if isinstance(index, jax.core.Tracer):
        branches = [partial(branch, k) for k in range(len(params["branches"]))]
        return list(jax.lax.switch(index, branches, *operands))
    return branch(int(index), *operands)


def _scanned(params: Any, given: Sequence[Any], at: At, meet: Meet) -> list[Any]:
    """A scan, step by step where there are numbers."""
    fixed, carried, length = params["num_consts"], params["num_carry"], params["length"]
    consts, start, rows = given[:fixed], given[fixed : fixed + carried], given[fixed + carried :]

    def step(carry: Sequence[Any], row: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        found = _walk(params["jaxpr"], [*consts, *carry, *row], at, meet)
        return found[:carried], found[carried:]

    if length == 0 or _is_traced(at, given):
        carry, columns = jax.lax.scan(
            step, list(start), list(rows), length=length, reverse=params["reverse"]
        )
        return [*carry, *columns]
    carry, stacked = list(start), {}
    for t in reversed(range(length)) if params["reverse"] else range(length):
        carry, stacked[t] = step(carry, [row[t] for row in rows])
    rows = list(zip(*[stacked[t] for t in range(length)], strict=True))
    return [*carry, *map(jax.numpy.stack, rows)]


def _while(params: Any, given: Sequence[Any], at: At, meet: Meet) -> list[Any]:
    """A loop, step by step where there are numbers."""
    of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts = given[:of_cond], given[of_cond : of_cond + of_body]
    start = list(given[of_cond + of_body :])

    def goes_on(carry: Any) -> Any:
        return _walk(params["cond_jaxpr"], [*cond_consts, *carry], at.into("test", 0), meet)[0]

    def step(carry: Any) -> list[Any]:
        inside = replace(at, site=(*at.site, 1))
        return _walk(params["body_jaxpr"], [*body_consts, *carry], inside, meet)

    if _is_traced(at, given):
        return list(jax.lax.while_loop(goes_on, step, start))
    carry = start
    while bool(jax.numpy.any(goes_on(carry))):
        carry = step(carry)
    return carry


LOOPS = {"scan": _scanned, "cond": _branched, "while": _while}


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
