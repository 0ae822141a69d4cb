"""Attention: the scaled dot product, and several heads of it between projections."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.dense import Dense
from gradcheck.reference.layer import Array, Cotangents, Outputs, Params

__all__ = ["MultiHeadAttention", "ScaledDotProductAttention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledDotProductAttention:
    """y = P v,  P = softmax(S),  S = q kᵀ / √d,  the softmax along each row of S.

    With u the cotangent of y:  v̄ = Pᵀ u  and  P̄ = u vᵀ.  A row p of P has the Jacobian
    diag(p) - p pᵀ, symmetric, hence row by row  s̄ = p ∘ (p̄ - ⟨p, p̄⟩),  and

        q̄ = S̄ k / √d,   k̄ = S̄ᵀ q / √d.

    With `masked`, a fourth input says where a query may attend: boolean, True = may, broadcast to
    (..., queries, keys). With `causal`, query i may attend to the keys j ≤ i, aligned at the top
    left also when there are more keys than queries, or fewer. Elsewhere S is -∞, so P and S̄ are
    zero. A query that may attend to nothing gets y = 0 and passes no gradient, never NaN.

    Shapes: q (..., queries, d), k (..., keys, d), v (..., keys, e), y (..., queries, e), the
    leading axes equal.

    Sources:
        Vaswani et al., Attention is all you need, NeurIPS (2017), eq. 1 and section 3.2.3.
    """

    causal: bool = False
    masked: bool = False

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return {}

    def forward(
        self, params: Params, q: Array, k: Array, v: Array, mask: Array | None = None
    ) -> tuple[Outputs, tuple[Array, ...]]:
        _check_mask(mask, self.masked)
        q = q / _root(q)
        scores = q @ k.swapaxes(-1, -2)
        weights = _softmax(np.where(self._allowed(scores, mask), scores, -np.inf))
        return (weights @ v,), (q, k, v, weights)

    def backward(
        self, params: Params, cache: tuple[Array, ...], u: Array
    ) -> tuple[Params, Cotangents]:
        q, k, v, weights = cache
        slopes = u @ v.swapaxes(-1, -2)
        scores = weights * (slopes - (weights * slopes).sum(axis=-1, keepdims=True))
        into_q = scores @ k / _root(q)
        into_k = scores.swapaxes(-1, -2) @ q
        into_v = weights.swapaxes(-1, -2) @ u
        return {}, (into_q, into_k, into_v, *((None,) if self.masked else ()))

    def _allowed(self, scores: Array, mask: Array | None) -> Array | bool:
        past = np.tri(*scores.shape[-2:], dtype=np.bool_) if self.causal else True
        return past if mask is None else past & mask


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiHeadAttention:
    """y = [head_1 … head_h] Wᵒᵀ + bᵒ,  each head the attention of its own slice of q, k and v.

    q = query W₁ᵀ + b₁, k = key W₂ᵀ + b₂, v = value W₃ᵀ + b₃; head i owns the features
    i d .. (i + 1) d - 1 with d = features / heads. The backward is the chain of the parts':
    the output's `Dense`, the heads' `ScaledDotProductAttention`, three `Dense`.

    With `masked`, a fourth input says which keys are padding: boolean (batch, keys), True =
    ignore, as the `key_padding_mask` of `torch.nn.MultiheadAttention`, and the opposite of the
    mask of `ScaledDotProductAttention`. Causality and queries without any key are as there:
    the heads give zero, so y is bᵒ.

    Shapes: query (batch, queries, features), key and value (batch, keys, features), y as query.
    Parameters are named as PyTorch names them: in_proj_weight is W₁, W₂, W₃ in three blocks of
    rows, (3 features, features); in_proj_bias; out_proj.weight is Wᵒ; out_proj.bias.

    Sources:
        Vaswani et al., Attention is all you need, NeurIPS (2017), section 3.2.2.
    """

    features: int
    heads: int = 1
    causal: bool = False
    masked: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        if self.heads < 1 or self.features < 1 or self.features % self.heads:
            raise ValueError(
                f"expected heads to divide features={self.features} into slices of at least one; "
                f"got heads={self.heads}. heads=1 always fits"
            )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        """Draw weights of variance 1/features, so that activations keep their scale."""
        n = self.features
        scale = 1 / np.sqrt(n)
        params = {
            "in_proj_weight": (scale * rng.standard_normal((3 * n, n))).astype(dtype),
            "out_proj.weight": (scale * rng.standard_normal((n, n))).astype(dtype),
        }
        if self.bias:
            params["in_proj_bias"] = (0.1 * rng.standard_normal(3 * n)).astype(dtype)
            params["out_proj.bias"] = (0.1 * rng.standard_normal(n)).astype(dtype)
        return params

    def forward(
        self,
        params: Params,
        query: Array,
        key: Array,
        value: Array,
        padding: Array | None = None,
    ) -> tuple[Outputs, tuple[Any, ...]]:
        _check_mask(padding, self.masked)
        sources = zip(self._inward(params), (query, key, value), strict=True)
        projected, kept = zip(*(self._dense.forward(p, x) for p, x in sources), strict=True)
        mask = () if padding is None else (~padding[:, None, None, :],)
        (context,), attended = self._attention.forward(
            {}, *(self._split(x) for (x,) in projected), *mask
        )
        outputs, merged = self._dense.forward(self._outward(params), self._merge(context))
        return outputs, (kept, attended, merged)

    def backward(
        self, params: Params, cache: tuple[Any, ...], u: Array
    ) -> tuple[Params, Cotangents]:
        kept, attended, merged = cache
        outward, (into_merged,) = self._dense.backward(self._outward(params), merged, u)
        _, into_heads = self._attention.backward({}, attended, self._split(into_merged))
        inward, into_sources = zip(
            *(
                self._dense.backward(p, x, self._merge(g))
                for p, x, g in zip(self._inward(params), kept, into_heads[:3], strict=True)
            ),
            strict=True,
        )
        grads = {f"out_proj.{name}": grad for name, grad in outward.items()}
        for name in outward:
            grads[f"in_proj_{name}"] = np.concatenate([grad[name] for grad in inward])
        return grads, (*(x for (x,) in into_sources), *into_heads[3:])

    @property
    def _dense(self) -> Dense:
        return Dense(inputs=self.features, outputs=self.features, bias=self.bias)

    @property
    def _attention(self) -> ScaledDotProductAttention:
        return ScaledDotProductAttention(causal=self.causal, masked=self.masked)

    @property
    def _names(self) -> tuple[str, ...]:
        return ("weight", "bias") if self.bias else ("weight",)

    def _inward(self, params: Params) -> list[Params]:
        """Return the parameters of the three projections, each as `Dense` names them."""
        thirds = {name: np.split(params[f"in_proj_{name}"], 3) for name in self._names}
        return [{name: thirds[name][i] for name in self._names} for i in range(3)]

    def _outward(self, params: Params) -> Params:
        return {name: params[f"out_proj.{name}"] for name in self._names}

    def _split(self, x: Any) -> Array:
        """(batch, time, features) to (batch, heads, time, features / heads)."""
        batch, time, features = x.shape
        heads: Array = x.reshape(batch, time, self.heads, features // self.heads)
        return heads.swapaxes(1, 2)

    def _merge(self, x: Any) -> Array:
        """(batch, heads, time, features / heads) to (batch, time, features)."""
        batch, _, time, _ = x.shape
        merged: Array = x.swapaxes(1, 2).reshape(batch, time, self.features)
        return merged


def _softmax(scores: Array) -> Array:
    """Return exp(s) / Σ exp(s) along the last axis, zero where a row is -∞ throughout.

    The largest score is taken away first, so nothing overflows and a finite row sums to one.
    """
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    powers = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = powers.sum(axis=-1, keepdims=True)
    weights: Array = powers / np.where(total == 0, 1, total)
    return weights


def _root(q: Array) -> Any:
    """Return √d in the dtype of q: a wider number would widen the scores."""
    return np.sqrt(q.dtype.type(q.shape[-1]))


def _check_mask(mask: Array | None, masked: bool) -> None:
    if masked is (mask is None):
        raise ValueError(
            f"expected {'a' if masked else 'no'} fourth input with masked={masked}; got "
            f"{'none' if mask is None else 'one'}. Set masked={not masked}, or change the inputs"
        )
    if mask is not None and mask.dtype != bool:
        raise ValueError(
            f"expected a boolean mask; got dtype {mask.dtype}. Numbers that are added to the "
            "scores are not supported: compare them to zero first"
        )
