"""Dropout with its randomness outside: the mask is an input."""

from dataclasses import dataclass

import numpy as np

from gradcheck.reference.activations import no_parameters
from gradcheck.reference.layer import Array, Cotangents, Outputs, Params

__all__ = ["Dropout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """y = x m / (1 - rate);  x̄ = u m / (1 - rate), with the same mask m.

    True in the mask keeps an element. It is drawn by the caller, each element True with
    probability 1 - rate, and then y has the mean x. A rate of one would keep nothing and divide
    by zero.

    Shapes: x and y the same, any; mask boolean, like x. The mask carries no gradient.

    Sources:
        Srivastava et al., Dropout, JMLR 15 (2014), section 4, in the form that scales in training.
    """

    rate: float = 0.5

    parameters = no_parameters

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(
                f"Dropout: expected a rate in [0, 1); got {self.rate}. "
                "It is the share that is dropped, not the share that is kept."
            )

    def forward(self, params: Params, x: Array, mask: Array) -> tuple[Outputs, Array]:
        if mask.dtype != np.bool_ or mask.shape != x.shape:
            raise ValueError(
                f"Dropout: expected a boolean mask of the shape {x.shape} of x; got {mask.dtype} "
                f"{mask.shape}. Draw it with rng.random(x.shape) >= rate."
            )
        return (x * mask / (1 - self.rate),), mask

    def backward(self, params: Params, mask: Array, u: Array) -> tuple[Params, Cotangents]:
        return {}, (u * mask / (1 - self.rate), None)
