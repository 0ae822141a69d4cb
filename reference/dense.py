"""The affine map."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.layer import Array, Cotangents, Outputs, Params

__all__ = ["Dense"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """y = x Wᵀ + b, over the last axis of x.

    With u the cotangent of y:  x̄ = u W,  W̄ = Σ uᵀx,  b̄ = Σ u,  the sums over all leading axes.

    Shapes: x (..., inputs), weight (outputs, inputs), bias (outputs,), y (..., outputs).

    Sources:
        Rumelhart, Hinton and Williams, Learning representations by back-propagating errors,
        Nature 323 (1986), eqs. 6-7.
    """

    inputs: int
    outputs: int
    bias: bool = True

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        """Draw weights of variance 1/inputs, so that activations keep their scale."""
        weight = rng.standard_normal((self.outputs, self.inputs)) / np.sqrt(max(self.inputs, 1))
        params = {"weight": weight.astype(dtype)}
        if self.bias:
            params["bias"] = (0.1 * rng.standard_normal(self.outputs)).astype(dtype)
        return params

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        y = x @ params["weight"].T
        return (y + params["bias"] if self.bias else y,), x

    def backward(self, params: Params, x: Array, u: Array) -> tuple[Params, Cotangents]:
        rows = u.reshape(-1, self.outputs)
        grads = {"weight": rows.T @ x.reshape(-1, self.inputs)}
        if self.bias:
            grads["bias"] = rows.sum(axis=0)
        return grads, (u @ params["weight"],)
