"""Reference layers as problems of PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gradcheck import trees
from gradcheck.adapters import problem_of
from gradcheck.problem import Problem
from gradcheck.reference.layer import Array, Layer, Params
from gradcheck.suites.twins.constants import constant_paths
from gradcheck.suites.twins.torch_.registry import apply

__all__ = ["problems"]


def problems(layer: Layer, params: Params, inputs: tuple[Array, ...]) -> dict[str, Problem]:
    """Return the problem of the twin of `layer` at the same parameters and inputs.

    Raises:
        NoTwin: PyTorch cannot run this layer with these settings.
    """
    flat = [_tensor(leaf) for _, leaf in trees.leaves(params)]
    given = [_tensor(x) for x in inputs]
    run = _runner(layer, params)
    return {"torch": problem_of(run, (flat, *given), name="torch", constant=constant_paths(layer))}


def _runner(layer: Layer, params: Params) -> Callable[..., Any]:
    def run(flat: list[torch.Tensor], *inputs: torch.Tensor) -> Any:
        leaves = iter(flat)
        return apply(layer, trees.rebuild(params, lambda _, leaf: next(leaves)), *inputs)

    return run


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
