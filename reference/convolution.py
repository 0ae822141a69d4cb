"""Convolution over any number of spatial axes."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.layer import Array, Cotangents, Outputs, Params
from gradcheck.reference.windows import Windows

__all__ = ["Convolution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """y[n, m, o] = b[m] + Σ_{c, k} W[m, c, k] x[n, c, s o + d k - p]: a cross-correlation.

    o and k run over all spatial axes at once, and x is zero outside of its grid. The channels
    fall into `groups`; output m sees only the inputs c of its own group.

    Let X[n, (c, k), o] be what the taps read, one column for each window. Then, group by group,
    the layer is affine,  Y = W X + b,  and with U the cotangent of Y

        W̄ = Σ_n U Xᵀ,   X̄ = Wᵀ U,   b̄ = Σ_{n, o} U,   x̄[n, c, i] = Σ X̄[n, (c, k), o],

    the last sum over all (k, o) with  s o + d k - p = i,  which is the adjoint of reading.

    Shapes: x (batch, inputs, *size), weight (outputs, inputs / groups, *kernel), bias (outputs,),
    y (batch, outputs, *positions). An empty stride, padding or dilation is 1, 0 or 1 on each axis.

    Sources:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016), chapters
        2 and 4 (the transposed convolution is x̄), and relationship 15 (dilation).
        Chellapilla, Puri and Simard, High performance convolutional neural networks for document
        processing (2006) (the matrix of columns).
    """

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        _ = self.windows  # raises when the geometry is impossible
        if self.groups < 1 or self.inputs % self.groups or self.outputs % self.groups:
            raise ValueError(
                f"expected groups to divide inputs={self.inputs} and outputs={self.outputs}; "
                f"got groups={self.groups}. groups=1 always fits"
            )

    @property
    def windows(self) -> Windows:
        ones = (1,) * len(self.kernel)
        zeros = (0,) * len(self.kernel)
        return Windows(
            kernel=self.kernel,
            stride=self.stride or ones,
            padding=self.padding or zeros,
            dilation=self.dilation or ones,
        )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        """Draw weights of variance 1/fan-in, so that activations keep their scale."""
        channels = self.inputs // self.groups
        shape = (self.outputs, channels, *self.kernel)
        weight = rng.standard_normal(shape) / np.sqrt(max(channels * self.windows.taps, 1))
        params = {"weight": weight.astype(dtype)}
        if self.bias:
            params["bias"] = (0.1 * rng.standard_normal(self.outputs)).astype(dtype)
        return params

    def forward(self, params: Params, x: Array) -> tuple[Outputs, tuple[Array, tuple[int, ...]]]:
        if x.ndim != 2 + len(self.kernel) or x.shape[1] != self.inputs:
            raise ValueError(
                f"expected x of shape (batch, {self.inputs}, *size) with {len(self.kernel)} axes "
                f"of size; got {x.shape}"
            )
        batch, size = x.shape[0], x.shape[2:]
        positions = self.windows.positions(size)
        columns = self._by_group(self.windows.gather(x), batch, self._fan_in)
        y = self._matrix(params["weight"]) @ columns
        y = y.reshape(batch, self.outputs, *positions)
        if self.bias:
            y = y + params["bias"].reshape(-1, *(1,) * len(positions))
        return (y,), (columns, size)

    def backward(
        self, params: Params, cache: tuple[Array, tuple[int, ...]], u: Array
    ) -> tuple[Params, Cotangents]:
        columns, size = cache
        batch, positions = u.shape[0], u.shape[2:]
        rows = self._by_group(u, batch, self.outputs // self.groups)

        weight = (rows @ columns.swapaxes(-1, -2)).sum(axis=0)
        grads = {"weight": weight.reshape(params["weight"].shape)}
        if self.bias:
            grads["bias"] = rows.sum(axis=(0, -1)).reshape(self.outputs)

        taps = self._matrix(params["weight"]).swapaxes(-1, -2) @ rows
        taps = taps.reshape(batch, self.inputs, self.windows.taps, *positions)
        return grads, (self.windows.scatter(taps, size),)

    @property
    def _fan_in(self) -> int:
        return self.inputs // self.groups * self.windows.taps

    def _matrix(self, weight: Array) -> Array:
        """Return W as (groups, outputs / groups, fan-in)."""
        return weight.reshape(self.groups, self.outputs // self.groups, self._fan_in)

    def _by_group(self, x: Array, batch: int, rows: int) -> Array:
        """Return x as (batch, groups, rows, positions); -1 would not know an empty batch."""
        return x.reshape(batch, self.groups, rows, prod(x.shape[-len(self.kernel) :]))
