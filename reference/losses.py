"""Losses: one number for each comparison with a target, then their mean, their sum, or neither.

The mean over no comparisons is NaN, as in PyTorch and in JAX; their sum is zero.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from gradcheck.reference.activations import log_softmax, no_parameters, sigmoid
from gradcheck.reference.layer import Array, Cotangents, Outputs, Params

__all__ = [
    "BinaryCrossEntropyWithLogits",
    "CrossEntropy",
    "CrossEntropyProbabilities",
    "MeanSquaredError",
    "Reduction",
]

Reduction = Literal["mean", "sum", "none"]


def _reduced(losses: Array, reduction: Reduction) -> Array:
    """Return Σ ℓ / N, Σ ℓ, or the N losses ℓ themselves."""
    if reduction == "none":
        return losses
    total = losses.sum()
    return np.asarray(total if reduction == "sum" else total / (losses.size or math.nan))


def _spread(u: Array, shape: tuple[int, ...], reduction: Reduction) -> Array:
    """Return the cotangents of the losses from that of the reduced loss: u / N, u, or u."""
    if reduction == "mean":
        u = np.asarray(u / (math.prod(shape) or math.nan))
    return np.broadcast_to(u, shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanSquaredError:
    """ℓ = (x - t)², over all elements;  x̄ = 2 (x - t) ℓ̄,  t̄ = -x̄.

    Shapes: x and t the same, any; ℓ like them.
    """

    reduction: Reduction = "mean"

    parameters = no_parameters

    def __post_init__(self) -> None:
        _check_reduction(self, self.reduction)

    def forward(self, params: Params, x: Array, t: Array) -> tuple[Outputs, Array]:
        _check_same_shape(self, x, t)
        difference = np.asarray(x - t)
        return (_reduced(np.square(difference), self.reduction),), difference

    def backward(self, params: Params, difference: Array, u: Array) -> tuple[Params, Cotangents]:
        gradient = 2 * difference * _spread(u, difference.shape, self.reduction)
        return {}, (gradient, -gradient)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy:
    """ℓ = -log p[t] with p = softmax x;  x̄ = (p - e_t) ℓ̄, e_t the unit vector of the class.

    Shapes: x (N, C), the logits; t (N,), integers in [0, C); ℓ (N,). PyTorch would pass over a
    target of -100 (`ignore_index`); here every row counts, and such a target is a ValueError.

    Sources:
        Bridle, Probabilistic interpretation of feedforward classification network outputs (1990).
    """

    reduction: Reduction = "mean"

    parameters = no_parameters

    def __post_init__(self) -> None:
        _check_reduction(self, self.reduction)

    def forward(self, params: Params, x: Array, t: Array) -> tuple[Outputs, tuple[Array, Array]]:
        self._check_targets(x, t)
        log_p = log_softmax(x)
        return (_reduced(-log_p[np.arange(len(t)), t], self.reduction),), (log_p, t)

    def backward(
        self, params: Params, cache: tuple[Array, Array], u: Array
    ) -> tuple[Params, Cotangents]:
        log_p, t = cache
        excess = np.exp(log_p)
        excess[np.arange(len(t)), t] -= 1
        return {}, (excess * _spread(u, t.shape, self.reduction)[:, None], None)

    def _check_targets(self, x: Array, t: Array) -> None:
        if x.ndim != 2 or t.shape != x.shape[:1] or not np.issubdtype(t.dtype, np.integer):
            raise ValueError(
                "CrossEntropy: expected logits (N, C) and integer targets (N,); "
                f"got {x.shape} and {t.dtype} {t.shape}. "
                "For a distribution as target use CrossEntropyProbabilities."
            )
        if t.size and not 0 <= t.min() <= t.max() < x.shape[1]:
            raise ValueError(
                f"CrossEntropy: expected targets in [0, {x.shape[1]}); got {t.min()} to "
                f"{t.max()}. Are the classes counted from one, or is there one for padding?"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropyProbabilities:
    """ℓ = -Σ_c t_c log p_c with p = softmax x;  x̄ = (p Σ_c t_c - t) ℓ̄,  t̄ = -ℓ̄ log p.

    The targets are a leaf of their own, free in all C directions: nothing asks that a row sums
    to one, hence the factor Σ t. The mean is over rows.

    Shapes: x (N, C), the logits; t (N, C), floating; ℓ (N,).
    """

    reduction: Reduction = "mean"

    parameters = no_parameters

    def __post_init__(self) -> None:
        _check_reduction(self, self.reduction)

    def forward(self, params: Params, x: Array, t: Array) -> tuple[Outputs, tuple[Array, Array]]:
        _check_same_shape(self, x, t)
        log_p = log_softmax(x)
        return (_reduced(-(t * log_p).sum(axis=1), self.reduction),), (log_p, t)

    def backward(
        self, params: Params, cache: tuple[Array, Array], u: Array
    ) -> tuple[Params, Cotangents]:
        log_p, t = cache
        each = _spread(u, t.shape[:1], self.reduction)[:, None]
        x_bar = (np.exp(log_p) * t.sum(axis=1, keepdims=True) - t) * each
        return {}, (x_bar, -log_p * each)


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCrossEntropyWithLogits:
    """ℓ = -t log σ(x) - (1 - t) log(1 - σ(x)) = log(1 + eˣ) - t x, over all elements.

    x̄ = (σ(x) - t) ℓ̄,  t̄ = -x ℓ̄. With log(1 + eˣ) = max(x, 0) + log(1 + e^-|x|) the loss of a
    confident and correct prediction, e^-|x|, is not cancelled away.

    Shapes: x and t the same, any, t floating; ℓ like them.
    """

    reduction: Reduction = "mean"

    parameters = no_parameters

    def __post_init__(self) -> None:
        _check_reduction(self, self.reduction)

    def forward(self, params: Params, x: Array, t: Array) -> tuple[Outputs, tuple[Array, Array]]:
        _check_same_shape(self, x, t)
        losses = np.maximum(x, 0) - t * x + np.log1p(np.exp(-np.abs(x)))
        return (_reduced(losses, self.reduction),), (x, t)

    def backward(
        self, params: Params, cache: tuple[Array, Array], u: Array
    ) -> tuple[Params, Cotangents]:
        x, t = cache
        each = _spread(u, x.shape, self.reduction)
        return {}, ((sigmoid(x) - t) * each, -x * each)


def _check_reduction(loss: object, reduction: str) -> None:
    if reduction not in get_args(Reduction):
        raise ValueError(
            f"{type(loss).__name__}: expected reduction to be 'mean', 'sum' or 'none'; "
            f"got {reduction!r}. Use 'none' for one loss per comparison."
        )


def _check_same_shape(loss: object, x: Array, t: Array) -> None:
    """Raise unless the shapes are equal: (N,) against (N, 1) would broadcast to N² losses."""
    if x.shape != t.shape:
        raise ValueError(
            f"{type(loss).__name__}: expected a target of the shape {x.shape} of the prediction; "
            f"got {t.shape}. Reshape one of them; nothing is broadcast."
        )
