"""Normalization: to mean zero and variance one over a batch or over features, or to unit size.

All are made of two maps over a group of m elements, and an affine one on top.

Centring, c = x - mean(x), is a symmetric projection, so its VJP is itself: x̄ = c̄ - mean(c̄).

Rescaling, x̂ = c r with r = (mean(c²) + ε)^-½, has ∂r/∂c_j = -r³ c_j / m = -r² x̂_j / m. With g
the cotangent of x̂, c̄_j = r g_j - r² x̂_j Σ_i g_i c_i / m, that is

    c̄ = r (g - x̂ mean(g x̂)).

Nothing is left of g along 1, nor along x̂ up to ε: there x̂ stands still when x moves.

The gain and the bias, y = γ x̂ + β, give g = γ u,  γ̄ = Σ u x̂,  β̄ = Σ u over all groups.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.layer import Array, Cotangents, Outputs, Params

__all__ = ["BatchNorm", "LayerNorm", "Mode", "RMSNorm"]

Axes = tuple[int, ...]
Mode = Literal["training", "inference"]
Normalized = tuple[Array, Array]  # x̂ and r


def _mean(x: Array, axes: Axes) -> Array:
    """Return the mean over `axes`, which keep their place; zero where there are no elements."""
    count = math.prod(x.shape[axis] for axis in axes)
    return np.asarray(x.sum(axis=axes, keepdims=True) / max(count, 1))


def _centred(x: Array, axes: Axes) -> Array:
    return np.asarray(x - _mean(x, axes))


def _rescaled(c: Array, axes: Axes, epsilon: float) -> Normalized:
    r = 1 / np.sqrt(_mean(np.square(c), axes) + epsilon)
    return c * r, r


def _rescaled_vjp(normalized: Normalized, axes: Axes, g: Array) -> Array:
    x_hat, r = normalized
    return np.asarray(r * (g - x_hat * _mean(g * x_hat, axes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm:
    """y = γ x̂ + β for every channel, x̂ = (x - μ) / √(v + ε).

    In training μ and v, the biased variance, are those of the batch, and every element of a
    channel moves all the others; see the head of this module for x̄. In inference they are inputs,
    constants by declaration, and  x̄ = γ u / √(v + ε).

    Shapes: x and y (N, features) or (N, features, *spatial), all others (features,). A batch with
    one element in a channel is normalized to zero; PyTorch refuses it.

    Sources:
        Ioffe and Szegedy, Batch normalization, arXiv:1502.03167 (2015), algorithm 1 and the
        formulas of its section 3.
    """

    features: int
    epsilon: float = 1e-5
    mode: Mode = "training"

    constant_inputs: ClassVar[tuple[int, ...]] = (1, 2)  # mean and variance, in inference

    def __post_init__(self) -> None:
        _check_epsilon(self, self.epsilon)
        if self.mode not in get_args(Mode):
            raise ValueError(
                f"BatchNorm: expected mode to be 'training' or 'inference'; got {self.mode!r}. "
                "Use 'inference' to give mean and variance as inputs."
            )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return {
            "weight": _gains(rng, (self.features,), dtype),
            "bias": _biases(rng, (self.features,), dtype),
        }

    def forward(self, params: Params, x: Array, *statistics: Array) -> tuple[Outputs, Normalized]:
        self._check_inputs(x, statistics)
        if self.mode == "training":
            axes = _all_but_channels(x)
            normalized = _rescaled(_centred(x, axes), axes, self.epsilon)
        else:
            mean, variance = (_per_channel(s, x) for s in statistics)
            r = 1 / np.sqrt(variance + self.epsilon)
            normalized = (x - mean) * r, r
        y = _per_channel(params["weight"], x) * normalized[0] + _per_channel(params["bias"], x)
        return (y,), normalized

    def backward(
        self, params: Params, normalized: Normalized, u: Array
    ) -> tuple[Params, Cotangents]:
        x_hat, r = normalized
        axes = _all_but_channels(u)
        grads = {"weight": (u * x_hat).sum(axis=axes), "bias": u.sum(axis=axes)}
        g = _per_channel(params["weight"], u) * u
        if self.mode == "training":
            return grads, (_centred(_rescaled_vjp(normalized, axes, g), axes),)
        return grads, (r * g, None, None)

    def _check_inputs(self, x: Array, statistics: tuple[Array, ...]) -> None:
        shapes = [s.shape for s in statistics]
        wanted = [] if self.mode == "training" else [(self.features,)] * 2
        if x.ndim < 2 or x.shape[1] != self.features or shapes != wanted:
            raise ValueError(
                f"BatchNorm in {self.mode}: expected x of shape (N, {self.features}, ...) and "
                f"statistics of shapes {wanted}; got {x.shape} and {shapes}. "
                "Mean and variance are inputs in inference only."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm:
    """y = γ x̂ + β, x̂ = (x - μ) / √(v + ε) with the mean and variance of the last axes of x.

    See the head of this module for x̄. Without `affine`, y = x̂.

    Shapes: x and y (..., *shape), weight and bias `shape`.

    Sources:
        Ba, Kiros and Hinton, Layer normalization, arXiv:1607.06450 (2016), eqs. 3-4.
    """

    shape: tuple[int, ...]
    epsilon: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        _check_epsilon(self, self.epsilon)
        _check_axes(self, self.shape)

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        if not self.affine:
            return {}
        return {"weight": _gains(rng, self.shape, dtype), "bias": _biases(rng, self.shape, dtype)}

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Normalized]:
        _check_last_axes(self, self.shape, x)
        axes = _last(self.shape)
        normalized = _rescaled(_centred(x, axes), axes, self.epsilon)
        if not self.affine:
            return normalized[:1], normalized
        return (params["weight"] * normalized[0] + params["bias"],), normalized

    def backward(
        self, params: Params, normalized: Normalized, u: Array
    ) -> tuple[Params, Cotangents]:
        axes, rows = _last(self.shape), _all_but_last(u, self.shape)
        grads, g = {}, u
        if self.affine:
            grads = {"weight": (u * normalized[0]).sum(axis=rows), "bias": u.sum(axis=rows)}
            g = params["weight"] * u
        return grads, (_centred(_rescaled_vjp(normalized, axes, g), axes),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RMSNorm:
    """y = γ x̂, x̂ = x / √(mean(x²) + ε) over the last axes of x, without centring.

    x̄ = r (g - x̂ mean(g x̂)) with g = γ u, as at the head of this module;  γ̄ = Σ u x̂.

    Shapes: x and y (..., *shape), weight `shape`.

    Sources:
        Zhang and Sennrich, Root mean square layer normalization, arXiv:1910.07467 (2019), eq. 4.
    """

    shape: tuple[int, ...]
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _check_epsilon(self, self.epsilon)
        _check_axes(self, self.shape)

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return {"weight": _gains(rng, self.shape, dtype)}

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Normalized]:
        _check_last_axes(self, self.shape, x)
        normalized = _rescaled(x, _last(self.shape), self.epsilon)
        return (params["weight"] * normalized[0],), normalized

    def backward(
        self, params: Params, normalized: Normalized, u: Array
    ) -> tuple[Params, Cotangents]:
        rows = _all_but_last(u, self.shape)
        x_bar = _rescaled_vjp(normalized, _last(self.shape), params["weight"] * u)
        return {"weight": (u * normalized[0]).sum(axis=rows)}, (x_bar,)


def _all_but_channels(x: Array) -> Axes:
    return (0, *range(2, x.ndim))


def _per_channel(a: Array, x: Array) -> Array:
    """Return the view of a, (C,), that broadcasts against x, (N, C, ...)."""
    return a.reshape(-1, *(1,) * (x.ndim - 2))


def _last(shape: tuple[int, ...]) -> Axes:
    return tuple(range(-len(shape), 0))


def _all_but_last(x: Array, shape: tuple[int, ...]) -> Axes:
    return tuple(range(x.ndim - len(shape)))


def _gains(rng: np.random.Generator, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Draw 1 ± 0.1: at exactly one, a gain that was forgotten would go unseen."""
    return np.asarray(1 + 0.1 * rng.standard_normal(shape), dtype=dtype)


def _biases(rng: np.random.Generator, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Draw ± 0.1, for the same reason."""
    return np.asarray(0.1 * rng.standard_normal(shape), dtype=dtype)


def _check_epsilon(norm: object, epsilon: float) -> None:
    if not 0 < epsilon < math.inf:
        raise ValueError(
            f"{type(norm).__name__}: expected a positive epsilon; got {epsilon}. "
            "Equal elements have variance zero, and only epsilon keeps them finite."
        )


def _check_axes(norm: object, shape: tuple[int, ...]) -> None:
    if not isinstance(shape, tuple) or not shape or min(shape) < 1:
        raise ValueError(
            f"{type(norm).__name__}: expected shape to be a tuple of positive sizes; got {shape}. "
            "Write (features,) for the last axis alone."
        )


def _check_last_axes(norm: object, shape: tuple[int, ...], x: Array) -> None:
    if x.shape[-len(shape) :] != shape:
        raise ValueError(
            f"{type(norm).__name__}: expected the last axes of x to be {shape}; got {x.shape}. "
            "The batch comes first."
        )
