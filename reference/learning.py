"""Learning: gradient descent with momentum, as a pure function of parameters and gradients."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcheck.reference.layer import Array, Params

__all__ = ["Momentum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Momentum:
    """v ← μ v + g,  p ← p - η v,  from v = 0, with η = `rate` and μ = `momentum`.

    Polyak's heavy ball in PyTorch's convention: v is a sum of gradients, and the rate multiplies
    it last. Sutskever et al. write v ← μ v - η g,  p ← p + v: the same path for a constant rate,
    another as soon as the rate changes, for their v remembers old rates. With a constant
    gradient the step grows to η g / (1 - μ). With μ = 0 this is gradient descent.

    Parameters may be nested; velocity and gradients have their names. Nothing is mutated, and
    every leaf keeps its dtype.

    Sources:
        Polyak, Some methods of speeding up the convergence of iteration methods, USSR
        Computational Mathematics and Mathematical Physics 4 (1964), 1-17.
        Sutskever, Martens, Dahl and Hinton, On the importance of initialization and momentum in
        deep learning, ICML (2013), eqs. 1-2.
    """

    rate: float
    momentum: float = 0.9  # remembers about ten steps; 0 forgets at once, 1 never

    def __post_init__(self) -> None:
        if not (0 < self.rate < math.inf):
            raise ValueError(
                f"expected a rate above 0; got rate={self.rate}. "
                "It multiplies the gradients: 0 would not learn, below 0 climbs"
            )
        if not (0 <= self.momentum < 1):
            raise ValueError(
                f"expected momentum of at least 0 and below 1; got momentum={self.momentum}. "
                "At 1 the velocity never forgets, and the path never settles"
            )

    def start(self, params: Params) -> Params:
        """Return the velocity before the first step: zero for every parameter."""
        return _each(np.zeros_like, params)

    def step(self, params: Params, velocity: Params, grads: Params) -> tuple[Params, Params]:
        """Return the parameters and the velocity after one step along `grads`."""
        velocity = _each(lambda v, g: self.momentum * v + g, velocity, grads)
        return _each(lambda p, v: p - self.rate * v, params, velocity), velocity


def _each(f: Callable[..., Array], tree: Params, *others: Params, path: str = "") -> Params:
    """Return f(leaf, ...) for each leaf of nested mappings that have the same names."""
    for other in others:
        if other.keys() != tree.keys():
            raise ValueError(
                f"expected the names {sorted(tree)} at params{path}; got {sorted(other)}. "
                "Do velocity and gradients belong to these parameters?"
            )
    return {
        name: _branch(f, f"{path}[{name!r}]", value, *(other[name] for other in others))
        for name, value in tree.items()
    }


def _branch(f: Callable[..., Array], path: str, value: Any, *others: Any) -> Any:
    if isinstance(value, Mapping):
        return _each(f, value, *others, path=path)
    for other in others:
        if np.shape(other) != np.shape(value):  # or NumPy would broadcast it, and learn something
            raise ValueError(
                f"expected the shape {np.shape(value)} at params{path}; got {np.shape(other)}. "
                "A gradient has the shape of its parameter"
            )
    return np.asarray(f(value, *others))
