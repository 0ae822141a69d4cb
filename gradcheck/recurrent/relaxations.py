"""The relaxation z ← F(z) from zero, and backpropagation through its steps."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradcheck.problem import Array, Arrays
from gradcheck.recurrent.equilibria import Equilibrium

__all__ = ["relaxed", "through"]


def relaxed(rest: Equilibrium, steps: int) -> list[Arrays]:
    """The points of z ← F(z) from zero."""
    point = list(rest.point)
    for leaf, _ in rest.states:
        point[leaf] = np.zeros_like(point[leaf])
    path = []
    for _ in range(steps):
        path.append(tuple(point))
        values = rest.problem.value(path[-1])
        for leaf, output in rest.states:
            point[leaf] = values[output]
    return path


def through(rest: Equilibrium, path: Sequence[Arrays], u: Arrays) -> Arrays:
    """The gradients of ⟨u, z_K⟩ through every step of a path."""
    total: list[Array] = [np.zeros_like(x) for x in rest.point]
    w = u
    for point in reversed(path):
        gradients = replace(rest, point=point).pulled(w)
        total = [a + b for a, b in zip(total, gradients, strict=True)]
        w = tuple(gradients[leaf] for leaf, _ in rest.states)
    return tuple(total)
