"""Pooling over any number of spatial axes: the maximum and the mean of each window."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.layer import Array, Cotangents, Outputs, Params
from gradcheck.reference.windows import Windows

__all__ = ["AveragePool", "MaxPool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool:
    """y[o] = max_k x[s o + d k - p], where the padding is -∞ and never wins.

    With k* the winning tap of window o, the first in row-major order when several are equal
    (the choice of PyTorch and of XLA),

        x̄[i] = Σ_o u[o] · [s o + d k*(o) - p = i],

    so that an element that wins in several overlapping windows collects from all of them.

    Shapes: x (batch, channels, *size), y (batch, channels, *positions). An empty stride is the
    kernel (windows that touch), an empty padding 0 and an empty dilation 1 on each axis. A window
    that reads only padding has no maximum: ValueError.

    Sources:
        Boureau, Ponce and LeCun, A theoretical analysis of feature pooling in visual recognition,
        ICML (2010).
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016), chapter 3.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _ = self.windows  # raises when the geometry is impossible

    @property
    def windows(self) -> Windows:
        return Windows(
            kernel=self.kernel,
            stride=self.stride or self.kernel,
            padding=self.padding or (0,) * len(self.kernel),
            dilation=self.dilation or (1,) * len(self.kernel),
        )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return {}

    def forward(self, params: Params, x: Array) -> tuple[Outputs, tuple[Array, tuple[int, ...]]]:
        windows, size = self.windows, x.shape[2:]
        windows.inside(size)  # raises when a window has no maximum
        taps = windows.gather(x, fill=-np.inf)
        winners = np.expand_dims(taps.argmax(axis=2), 2)
        y = np.take_along_axis(taps, winners, axis=2).squeeze(2)
        return (y,), (winners, size)

    def backward(
        self, params: Params, cache: tuple[Array, tuple[int, ...]], u: Array
    ) -> tuple[Params, Cotangents]:
        winners, size = cache
        batch, channels, *positions = u.shape
        taps = np.zeros((batch, channels, self.windows.taps, *positions), u.dtype)
        np.put_along_axis(taps, winners, np.expand_dims(u, 2), axis=2)
        return {}, (self.windows.scatter(taps, size),)


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePool:
    """y[o] = (1 / c[o]) Σ_k x[s o + k - p], where the padding is zero.

    c is the number of taps in the window, or, without `count_include_pad`, of those that read
    the input. The layer is linear, so its VJP is its adjoint,

        x̄[i] = Σ u[o] / c[o]   over all (o, k) with  s o + k - p = i.

    Shapes: x (batch, channels, *size), y (batch, channels, *positions). An empty stride is the
    kernel, an empty padding 0 on each axis. A window that reads only padding: ValueError.

    Sources:
        LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document
        recognition, Proc. IEEE 86 (1998), section II.A (sub-sampling layers).
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016), chapter 3.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        _ = self.windows  # raises when the geometry is impossible

    @property
    def windows(self) -> Windows:
        return Windows(
            kernel=self.kernel,
            stride=self.stride or self.kernel,
            padding=self.padding or (0,) * len(self.kernel),
            dilation=(1,) * len(self.kernel),
        )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return {}

    def forward(self, params: Params, x: Array) -> tuple[Outputs, tuple[int, ...]]:
        size = x.shape[2:]
        y = self.windows.gather(x).sum(axis=2) / self._counts(size, x.dtype)
        return (y,), size

    def backward(
        self, params: Params, size: tuple[int, ...], u: Array
    ) -> tuple[Params, Cotangents]:
        batch, channels, *positions = u.shape
        share = np.expand_dims(u / self._counts(size, u.dtype), 2)
        taps = np.broadcast_to(share, (batch, channels, self.windows.taps, *positions))
        return {}, (self.windows.scatter(taps, size),)

    def _counts(self, size: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return c in the dtype of the data, so that the division does not widen it."""
        inside = self.windows.inside(size).astype(dtype)
        return np.full_like(inside, self.windows.taps) if self.count_include_pad else inside
