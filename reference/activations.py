"""Functions of one element, or of one axis; none of them has parameters."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.layer import Array, Cotangents, Outputs, Params

__all__ = [
    "GELU",
    "LeakyReLU",
    "LogSoftmax",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "log_softmax",
    "no_parameters",
    "normal_cdf",
    "normal_density",
    "sigmoid",
    "softmax",
    "softplus",
]


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e⁻ˣ), from e^-|x|, which cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, e) / (1 + e))


def softplus(x: Array) -> Array:
    """Return log(1 + eˣ) = max(x, 0) + log(1 + e^-|x|)."""
    return np.asarray(np.logaddexp(x, 0))


def softmax(x: Array, axis: int = -1) -> Array:
    """Return eˣ / Σ eˣ; the sum contains e⁰ = 1, so it can neither overflow nor vanish."""
    e: Array = np.exp(_below_zero(x, axis))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def log_softmax(x: Array, axis: int = -1) -> Array:
    """Return x - log Σ eˣ, finite where `softmax` is already zero."""
    z = _below_zero(x, axis)
    total = np.exp(z).sum(axis=axis, keepdims=True)
    return np.asarray(z - np.log(np.maximum(total, 1)))  # it is below one if the axis is empty


def _below_zero(x: Array, axis: int) -> Array:
    """Return x - max x along `axis`, which may be empty."""
    return np.asarray(x - x.max(axis=axis, keepdims=True, initial=-np.inf))


def normal_density(x: Array) -> Array:
    """Return φ(x) = exp(-x²/2) / √2π."""
    return np.asarray(np.exp(-np.square(_bounded(x)) / 2) / math.sqrt(2 * math.pi))


def normal_cdf(x: Array) -> Array:
    """Return Φ(x) = ½ erfc(-x/√2).

    Written with erfc, the lower tail keeps the relative precision that ½ (1 + erf(x/√2)) cancels
    away. NumPy has no erfc, and the one of libm ends at float64: in longdouble Φ has 53 bits.
    """
    return np.asarray(_erfc(-math.sqrt(0.5) * x.astype(np.float64)) / 2).astype(x.dtype)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _bounded(x: Array) -> Array:
    """Return x within ±200, where e^(-x²/2) is zero in every precision and x³ still finite."""
    return np.clip(x, -200, 200)


def no_parameters(layer: object, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
    """The method `parameters` of a layer that has none."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReLU:
    """y = max(x, 0);  x̄ = u [x > 0], so relu'(0) = 0."""

    parameters = no_parameters

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        return (np.maximum(x, 0),), x > 0

    def backward(self, params: Params, positive: Array, u: Array) -> tuple[Params, Cotangents]:
        return {}, (u * positive,)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakyReLU:
    """y = x where x > 0, slope · x elsewhere;  x̄ = u or slope · u, the latter at zero."""

    slope: float = 0.01

    parameters = no_parameters

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        return (np.where(x > 0, x, self.slope * x),), x > 0

    def backward(self, params: Params, positive: Array, u: Array) -> tuple[Params, Cotangents]:
        return {}, (np.where(positive, u, self.slope * u),)


@dataclass(frozen=True, slots=True, kw_only=True)
class GELU:
    """y = x g(x);  x̄ = u (g + x g'), with a gate g that is the normal Φ or close to it.

    approximate="none":  g = Φ(x),  g' = φ(x).
    approximate="tanh":  g = ½ (1 + tanh p) = σ(2p),  g' = g (1 - g) 2p',
    with p = √(2/π) (x + 0.044715 x³). Written with σ, the lower tail does not cancel.

    Sources:
        Hendrycks and Gimpel, Gaussian error linear units, arXiv:1606.08415 (2016), section 2.
    """

    approximate: Literal["none", "tanh"] = "none"

    parameters = no_parameters

    def __post_init__(self) -> None:
        if self.approximate not in ("none", "tanh"):
            raise ValueError(
                f"GELU: expected approximate to be 'none' or 'tanh'; got {self.approximate!r}. "
                "Use 'none' for the exact function."
            )

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        gate, slope = _tanh_gate(x) if self.approximate == "tanh" else _normal_gate(x)
        return (x * gate,), gate + x * slope

    def backward(self, params: Params, derivative: Array, u: Array) -> tuple[Params, Cotangents]:
        return {}, (u * derivative,)


def _normal_gate(x: Array) -> tuple[Array, Array]:
    return normal_cdf(x), normal_density(x)


def _tanh_gate(x: Array) -> tuple[Array, Array]:
    x, scale, cubic = _bounded(x), 2 * math.sqrt(2 / math.pi), 0.044715
    gate = sigmoid(scale * (x + cubic * x**3))
    return gate, gate * (1 - gate) * scale * (1 + 3 * cubic * x**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiLU:
    """y = x σ(x);  x̄ = u σ (1 + x (1 - σ)).

    Sources:
        Elfwing, Uchibe and Doya, Sigmoid-weighted linear units, arXiv:1702.03118 (2017), eq. 5.
    """

    parameters = no_parameters

    def forward(self, params: Params, x: Array) -> tuple[Outputs, tuple[Array, Array]]:
        s = sigmoid(x)
        return (x * s,), (x, s)

    def backward(
        self, params: Params, cache: tuple[Array, Array], u: Array
    ) -> tuple[Params, Cotangents]:
        x, s = cache
        return {}, (u * s * (1 + x * (1 - s)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tanh:
    """y = tanh x;  x̄ = u (1 - y²)."""

    parameters = no_parameters

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        y = np.tanh(x)
        return (y,), y

    def backward(self, params: Params, y: Array, u: Array) -> tuple[Params, Cotangents]:
        return {}, (u * (1 - y * y),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigmoid:
    """y = σ(x);  x̄ = u y (1 - y)."""

    parameters = no_parameters

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        y = sigmoid(x)
        return (y,), y

    def backward(self, params: Params, y: Array, u: Array) -> tuple[Params, Cotangents]:
        return {}, (u * y * (1 - y),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Softplus:
    """y = log(1 + eˣ);  x̄ = u σ(x)."""

    parameters = no_parameters

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        return (softplus(x),), x

    def backward(self, params: Params, x: Array, u: Array) -> tuple[Params, Cotangents]:
        return {}, (u * sigmoid(x),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """y = eˣ / Σ eˣ along `axis`.

    ∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ - yⱼ), hence  x̄ = y (u - Σ u y).
    """

    axis: int = -1

    parameters = no_parameters

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        y = softmax(x, self.axis)
        return (y,), y

    def backward(self, params: Params, y: Array, u: Array) -> tuple[Params, Cotangents]:
        return {}, (y * (u - (u * y).sum(axis=self.axis, keepdims=True)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSoftmax:
    """y = x - log Σ eˣ along `axis`;  x̄ = u - eʸ Σ u, with eʸ the softmax."""

    axis: int = -1

    parameters = no_parameters

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        y = log_softmax(x, self.axis)
        return (y,), y

    def backward(self, params: Params, y: Array, u: Array) -> tuple[Params, Cotangents]:
        return {}, (u - np.exp(y) * u.sum(axis=self.axis, keepdims=True),)
