"""JAX twins of convolution and pooling."""

from typing import Any

import numpy as np
from jax import Array, lax
from jax import numpy as jnp

from gradcheck.reference.convolution import Convolution
from gradcheck.reference.pooling import AveragePool, MaxPool
from gradcheck.reference.windows import Windows
from gradcheck.suites.twins.jax_.registry import Outputs, Params, apply
from gradcheck.suites.twins.missing import NoTwin

__all__: list[str] = []


@apply.register
def convolution(layer: Convolution, params: Params, x: Array) -> Outputs:
    windows = layer.windows
    y = lax.conv_general_dilated(
        x,
        params["weight"],
        window_strides=windows.stride,
        padding=_both_sides(windows),
        rhs_dilation=windows.dilation,
        feature_group_count=layer.groups,
    )
    return (y + params["bias"].reshape(-1, *(1,) * windows.axes) if layer.bias else y,)


@apply.register
def max_pool(layer: MaxPool, params: Params, x: Array) -> Outputs:
    windows = layer.windows
    if max(windows.dilation) > 1:
        raise NoTwin(layer, "jax", "reduce_window has no VJP for a maximum with dilation")
    windows.inside(x.shape[2:])
    return (_reduce(windows, x, -jnp.inf, lax.max),)


@apply.register
def average_pool(layer: AveragePool, params: Params, x: Array) -> Outputs:
    windows = layer.windows
    inside = windows.inside(x.shape[2:])
    counts = windows.taps if layer.count_include_pad else jnp.asarray(inside, x.dtype)
    return (_reduce(windows, x, 0.0, lax.add) / counts,)


def _reduce(windows: Windows, x: Array, start: float, operation: Any) -> Array:
    y: Array = lax.reduce_window(
        x,
        np.asarray(start, x.dtype),  # a constant: under jit only that is known to be a maximum
        operation,
        window_dimensions=(1, 1, *windows.kernel),
        window_strides=(1, 1, *windows.stride),
        padding=((0, 0), (0, 0), *_both_sides(windows)),
    )
    return y


def _both_sides(windows: Windows) -> tuple[tuple[int, int], ...]:
    return tuple((p, p) for p in windows.padding)
