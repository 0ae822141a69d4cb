"""Reference layers as problems of JAX."""

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, cast

import jax
import numpy as np

from gradcheck import trees
from gradcheck.adapters import problem_of
from gradcheck.problem import Problem
from gradcheck.reference.fixed_point import FixedPoint
from gradcheck.reference.layer import Array, Layer, Params
from gradcheck.suites.twins.constants import constant_paths
from gradcheck.suites.twins.jax_.equilibrium import by_custom_vjp
from gradcheck.suites.twins.jax_.registry import apply

__all__ = ["problems"]


def problems(layer: Layer, params: Params, inputs: tuple[Array, ...]) -> dict[str, Problem]:
    """Return the problem of each twin of `layer`: a fixed point has two, one for each API.

    Raises:
        NoTwin: JAX cannot run this layer with these settings.
    """
    twins: dict[str, Callable[..., Any]] = {"jax": apply}
    if isinstance(layer, FixedPoint):
        twins["jax, custom_vjp"] = by_custom_vjp
    flat = [leaf for _, leaf in trees.leaves(params)]
    constant = constant_paths(layer)
    return {
        name: problem_of(
            _compiled(twin, cast(Hashable, layer)), (flat, *inputs), name=name, constant=constant
        )
        for name, twin in twins.items()
    }


@lru_cache(maxsize=64)  # the points of one network share one compilation
def _compiled(twin: Callable[..., Any], layer: Any) -> Any:
    structure = layer.parameters(np.random.default_rng(0), np.float64)

    def run(flat: list[jax.Array], *inputs: jax.Array) -> Any:
        leaves = iter(flat)  # in the reference's order; JAX would sort the names of a dict
        return twin(layer, trees.rebuild(structure, lambda _, leaf: next(leaves)), *inputs)

    return jax.jit(run)
