"""JAX: functions on pytrees and callable modules that are pytrees.

Trees are JAX's own: a foreign tree library takes a class its user registered for one leaf and
leaves its parameters unchecked.
"""

import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from gradcheck import trees
from gradcheck.adapters import jax_digits as digits
from gradcheck.adapters import jax_manners
from gradcheck.adapters.bridge import declared, received
from gradcheck.adapters.jax_posed import BRIDGE, Posed, afresh, is_array
from gradcheck.adapters.reach import unchecked, within_reach
from gradcheck.errors import InputError
from gradcheck.problem import (
    WIDER,
    Arrays,
    Excepted,
    Leaf,
    Problem,
    label,
)

__all__ = ["needs_x64", "problem_of_jax"]


def problem_of_jax(
    target: Any,
    inputs: tuple[Any, ...],
    *,
    name: str | None,
    constant: Collection[str] = (),
    excepted: Excepted = lambda path: None,
) -> Problem:
    """Return the problem of `target` at `inputs`, without the outputs that are `excepted`.

    Leaves are the floating and complex arrays of a callable module (`params`) and of the inputs;
    integers, booleans and PRNG keys are constants, and so are the variables of a Flax NNX module
    that are no `Param`: running statistics, caches.

    Raises:
        InputError: nothing to differentiate, or no output that could be.
    """
    module = target if _has_arrays(target) else None
    flat, structure = tree_flatten_with_path((module, inputs))
    # A module in a wrapper of its library's (a `filter_jit`) has the names that its author gave.
    own, _ = tree_flatten_with_path((getattr(module, "__wrapped__", None),))
    own_names = {id(leaf): f"params{keystr(tuple(keys[1:]))}" for keys, leaf in own}
    names = [own_names.get(id(leaf), _path(keys)) for keys, leaf in flat]
    chosen = {
        k: names[k]
        for k, ((_, leaf), is_kept) in enumerate(zip(flat, _kept((module, inputs)), strict=True))
        if BRIDGE.is_differentiable(leaf) and not is_kept and names[k] not in constant
    }
    if not chosen:
        raise InputError(
            f"expected a floating or complex array to differentiate; got inputs {received(inputs)}"
        )
    x64 = needs_x64(BRIDGE.dtype_of(flat[k][1]) for k in chosen)
    with jax.enable_x64(x64):  # integers as JAX holds them: NumPy's have 64 bits where JAX has 32
        values = tuple(
            jax.numpy.asarray(leaf) if isinstance(leaf, np.ndarray) and k not in chosen else leaf
            for k, (_, leaf) in enumerate(flat)
        )
    posed = Posed(target=target, structure=structure, values=values, chosen=chosen, x64=x64)
    posed = replace(posed, donates=posed.asks_for_donation())
    outputs = afresh(lambda: posed.answer)
    left_out = declared(outputs, excepted)
    if left_out:
        posed = replace(posed, silent=frozenset(left_out))
        outputs = posed.answer
    if not outputs:
        raise InputError("expected the target to return at least one floating or complex array")
    problem = _problem(posed, tuple(BRIDGE.leaf(path, leaf) for path, leaf in outputs), name)
    notes = [f"{path}: {why}" for path, why in left_out.items()]
    if module is None:
        notes += unchecked(name for name, x in within_reach(target).items() if _is_trainable(x))
    return replace(problem, notes=(*problem.notes, *notes), excepted=tuple(left_out))


def _problem(posed: Posed, outputs: tuple[Leaf, ...], name: str | None) -> Problem:
    called = label(posed.target, name)

    def in_float64() -> Problem:
        wide, values = _widened(posed)
        widened = tuple(
            replace(y, dtype=v.dtype.name, shape=v.shape)
            for y, v in zip(outputs, values, strict=True)
        )
        return _problem(wide, widened, name)

    inside = {} if posed.wide else posed.inside
    leaves = tuple(
        replace(BRIDGE.leaf(path, posed.values[k]), inside=inside.get(position))
        for position, (k, path) in enumerate(posed.chosen.items())
    )
    if posed.wide:
        leaves = tuple(replace(leaf, dtype=WIDER.get(leaf.dtype, leaf.dtype)) for leaf in leaves)
    return Problem(
        name=called,
        target=repr(posed.target) if _has_arrays(posed.target) else called,
        framework="jax",
        leaves=leaves,
        outputs=outputs,
        point=posed.point,
        value=posed.value,
        vjp=posed.vjp,
        both=posed.both if posed.is_jitted and not posed.wide else None,
        jvp=posed.jvp,
        second=posed.second,
        batched=posed.batched,
        mapped=posed.mapped,
        has_vmap_rule=posed.program is not None and digits.has_vmap_rule(posed.program.jaxpr.jaxpr),
        # What was traced and lifted runs nothing of the target's any more.
        session=partial(jax_manners.session, posed) if posed.narrow is None else None,
        audit=partial(jax_manners.audit, posed),
        in_float64=None if posed.wide else in_float64,
        rounds_back=None if posed.wide or posed.program is None else lambda: posed.rounds_back,
        is_native=lambda: posed.program is not None and digits.is_native(posed.program.jaxpr.jaxpr),
        rejecting=lambda: (
            frozenset() if posed.program is None else digits.rejecting(posed.program.jaxpr.jaxpr)
        ),
        is_compiled=posed.compiles_at_once,
        analytic=replace(posed, x64=True, wide=True).value,
    )


def _widened(posed: Posed) -> tuple[Posed, Arrays]:
    """`posed` in float64, and its value: what was traced is lifted; else the target is run there.

    Run again it would be another function: it asks for dtypes, a NumPy constant of its own has
    more digits, a carry of a scan another dtype. And JAX keeps of a NumPy array that it met in a
    trace the dtype that it had there, with x64 on and off (docs/findings.md).
    """
    wide = replace(posed, x64=True, wide=True)
    if posed.program is not None:
        lifted = replace(wide, narrow=posed)
        with suppress(Exception):  # an equation that cannot be lifted
            return lifted, lifted.value(lifted.point)
    return wide, wide.value(wide.point)


def _kept(tree: Any) -> list[bool]:
    """Of each leaf, whether it belongs to a variable of Flax NNX that is not trained."""
    nnx = sys.modules.get("flax.nnx")  # what is not imported made no variable
    if nnx is None:
        return [False] * len(jax.tree.leaves(tree))
    found = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return [
        isinstance(node, nnx.Variable) and not isinstance(node, nnx.Param)
        for node in found
        for _ in jax.tree.leaves(node)
    ]


def _has_arrays(target: Any) -> bool:
    return any(is_array(leaf) for leaf in jax.tree_util.tree_leaves(target))


def _is_trainable(value: Any) -> bool:
    """Whether it is a module, or a dictionary of parameters; an array may be a mask or a grid."""
    if not (callable(value) or isinstance(value, dict)):
        return False
    return any(map(BRIDGE.is_differentiable, jax.tree_util.tree_leaves(value)))


def _path(keys: Any) -> str:
    """JAX's path with our first word: of (module, inputs), `[1][0]['w']` is `input[0]['w']`."""
    first, *rest = keys
    if len(rest) > 1 and isinstance(rest[1], Keyword):  # those have no position
        del rest[0]
    return ("params", "input")[first.idx] + keystr(tuple(rest))


@dataclass(frozen=True)
class Keyword:
    """The key of a keyword argument in JAX's tree."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"


def _flattened(named: trees.Keywords) -> tuple[list[tuple[Any, Any]], Any]:
    return [(Keyword(name), value) for name, value in named.items()], tuple(named)


jax.tree_util.register_pytree_with_keys(
    trees.Keywords,
    _flattened,
    lambda names, values: trees.Keywords(zip(names, values, strict=True)),
)


def needs_x64(dtypes: Iterable[str]) -> bool:
    """Return whether 64-bit types are to be on: the user's setting, unless an array has them."""
    is_on = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    return bool(is_on) or any(dtype in ("float64", "complex128") for dtype in dtypes)
