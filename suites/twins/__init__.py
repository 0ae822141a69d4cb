"""The same layer, same parameters, in another framework, through its production code paths.

`torch_` and `jax_` each hold one registry `apply(layer, params, *inputs) -> outputs`, and
`problems`, which makes a problem of it.
"""

from collections.abc import Callable
from importlib import import_module

from gradcheck.problem import Problem
from gradcheck.reference.layer import Array, Layer, Params

__all__ = ["twins"]


def twins(
    backend: str, layer: Layer, params: Params, inputs: tuple[Array, ...]
) -> dict[str, Problem]:
    """Return the problems of `layer` in "torch" or "jax"; the framework is imported now.

    Raises:
        NoTwin: the framework cannot run this layer with these settings.
    """
    module = import_module(f"gradcheck.suites.twins.{backend}_.problems")
    problems: Callable[[Layer, Params, tuple[Array, ...]], dict[str, Problem]] = module.problems
    return problems(layer, params, inputs)
