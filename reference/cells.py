"""One step of a recurrent network: the Elman, LSTM and GRU cells.

A cell is its equations and nothing else; sizes live in the arrays. It sees the input already
projected, a = W_ih x + b_ih, and its state, a tuple whose first member is the hidden h. Gates
are blocks of rows, stacked in PyTorch's order; `gates` is their number.

Shapes: a (B, gates * H), every state (B, H), weight (gates * H, H), bias (gates * H,) or None.
Throughout, ∘ is the elementwise product, σ the logistic function, σ' = σ(1 - σ), and a bar
above a letter marks its cotangent.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from gradcheck.reference.activations import sigmoid
from gradcheck.reference.layer import Array, Cache

__all__ = ["Cell", "ElmanCell", "GRUCell", "LSTMCell", "State"]

State = tuple[Array, ...]
WeightAndBias = tuple[Array, Array]


class Cell(Protocol):
    """One step in time and its VJP; a network repeats it, a cell knows nothing of time."""

    @property
    def gates(self) -> int:
        """The rows of the weights, in units of the hidden size."""

    @property
    def states(self) -> int:
        """How many arrays are carried from step to step."""

    def forward(
        self, a: Array, state: State, weight: Array, bias: Array | None
    ) -> tuple[State, Cache]:
        """Return the next state, and the cache of this step."""

    def backward(
        self, weight: Array, cache: Cache, *cotangents: Array
    ) -> tuple[Array, WeightAndBias, State]:
        """Return the cotangents of a, of (weight, bias), and of the state before the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElmanCell:
    """h' = φ(p),  p = a + W h + b,  with φ = tanh or relu.

    With u the cotangent of h':  p̄ = u ∘ φ'(p),  φ' = 1 - h'² or [h' > 0]  (so relu'(0) = 0);
    ā = p̄,  h̄ = p̄ W,  W̄ = p̄ᵀh,  b̄ = Σ p̄.

    Sources:
        Elman, Finding structure in time, Cognitive Science 14 (1990), pp. 179-211.
    """

    nonlinearity: Literal["tanh", "relu"] = "tanh"

    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _one_of("nonlinearity", self.nonlinearity, ("tanh", "relu"))

    def forward(
        self, a: Array, state: State, weight: Array, bias: Array | None
    ) -> tuple[State, Cache]:
        (h,) = state
        p = a + _affine(h, weight, bias)
        after = np.tanh(p) if self.nonlinearity == "tanh" else np.maximum(p, 0)
        return (after,), (h, after)

    def backward(
        self, weight: Array, cache: Cache, *cotangents: Array
    ) -> tuple[Array, WeightAndBias, State]:
        (u,), (h, after) = cotangents, cache
        p_bar = u * (1 - after * after) if self.nonlinearity == "tanh" else u * (after > 0)
        return p_bar, (p_bar.T @ h, p_bar.sum(axis=0)), (p_bar @ weight,)


@dataclass(frozen=True, slots=True, kw_only=True)
class LSTMCell:
    """Input, forget and output gates i, f, o around a candidate g; the state is (h, c).

    p = a + W h + b  in blocks p_i, p_f, p_g, p_o;
    i = σ(p_i),  f = σ(p_f),  g = tanh(p_g),  o = σ(p_o);
    c' = f ∘ c + i ∘ g,  h' = o ∘ m,  m = tanh(c').

    With u, w the cotangents of h', c', all that reaches c' is  s = w + u ∘ o ∘ (1 - m²), and

        p̄_i = s ∘ g ∘ i(1 - i)      p̄_g = s ∘ i ∘ (1 - g²)
        p̄_f = s ∘ c ∘ f(1 - f)      p̄_o = u ∘ m ∘ o(1 - o);

    ā = p̄,  h̄ = p̄ W,  c̄ = s ∘ f,  W̄ = p̄ᵀh,  b̄ = Σ p̄.

    Sources:
        Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9 (1997),
        pp. 1735-1780: i, g, o and c. Their gradient stops at the gates; this one does not.
        Gers, Schmidhuber and Cummins, Learning to forget, Neural Computation 12 (2000),
        pp. 2451-2471: f.
    """

    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    def forward(
        self, a: Array, state: State, weight: Array, bias: Array | None
    ) -> tuple[State, Cache]:
        h, c = state
        p = a + _affine(h, weight, bias)
        i, f, _, o = _blocks(sigmoid(p), 4)  # one call for all gates is the cheapest
        g = np.tanh(_blocks(p, 4)[2])
        c_after = f * c + i * g
        m = np.tanh(c_after)
        return (o * m, c_after), (h, c, i, f, g, o, m)

    def backward(
        self, weight: Array, cache: Cache, *cotangents: Array
    ) -> tuple[Array, WeightAndBias, State]:
        (u, w), (h, c, i, f, g, o, m) = cotangents, cache
        s = w + u * o * (1 - m * m)
        p_bar = np.concatenate(
            [
                s * g * i * (1 - i),
                s * c * f * (1 - f),
                s * i * (1 - g * g),
                u * m * o * (1 - o),
            ],
            axis=-1,
        )
        return p_bar, (p_bar.T @ h, p_bar.sum(axis=0)), (p_bar @ weight, s * f)


@dataclass(frozen=True, slots=True, kw_only=True)
class GRUCell:
    """Reset and update gates r, z and a candidate n:  h' = (1 - z) ∘ n + z ∘ h.

    r = σ(a_r + v_r),  z = σ(a_z + v_z),  v = W h + b,  and the reset comes
    after the product, as in PyTorch and cuDNN:   n = tanh(a_n + r ∘ v_n);
    before it, as in the original paper:          n = tanh(a_n + q),  q = W_n (r ∘ h) + b_n.

    With u the cotangent of h', and p_r, p_z, p_n the arguments of σ, σ, tanh, both have

        p̄_n = u ∘ (1 - z) ∘ (1 - n²),   p̄_z = u ∘ (h - n) ∘ z(1 - z),   ā = (p̄_r, p̄_z, p̄_n).

    After:   p̄_r = p̄_n ∘ v_n ∘ r(1 - r),  v̄ = (p̄_r, p̄_z, p̄_n ∘ r),
             h̄ = u ∘ z + v̄ W,  W̄ = v̄ᵀh,  b̄ = Σ v̄.
    Before:  k = p̄_n W_n is the cotangent of r ∘ h,  p̄_r = k ∘ h ∘ r(1 - r),
             h̄ = u ∘ z + k ∘ r + p̄_r W_r + p̄_z W_z,
             W̄ = (p̄_rᵀh, p̄_zᵀh, p̄_nᵀ(r ∘ h)),  b̄ = Σ ā.

    Sources:
        Cho et al., Learning phrase representations using RNN encoder-decoder for statistical
        machine translation, EMNLP 2014, eqs. 5-8: the reset before the product.
        torch.nn.GRU, its documentation: the reset after the product, and the order r, z, n.
    """

    reset: Literal["after", "before"] = "after"

    gates: ClassVar[int] = 3
    states: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _one_of("reset", self.reset, ("after", "before"))

    def forward(
        self, a: Array, state: State, weight: Array, bias: Array | None
    ) -> tuple[State, Cache]:
        (h,) = state
        v = _affine(h, weight, bias)
        r, z, _ = _blocks(sigmoid(a + v), 3)
        a_n, v_n = _blocks(a, 3)[2], _blocks(v, 3)[2]
        if self.reset == "after":
            n = np.tanh(a_n + r * v_n)
        else:
            rows = slice(2 * h.shape[-1], None)
            n = np.tanh(a_n + _affine(r * h, weight[rows], None if bias is None else bias[rows]))
        return ((1 - z) * n + z * h,), (h, r, z, n, v_n)

    def backward(
        self, weight: Array, cache: Cache, *cotangents: Array
    ) -> tuple[Array, WeightAndBias, State]:
        (u,), (h, r, z, n, v_n) = cotangents, cache
        n_bar = u * (1 - z) * (1 - n * n)
        z_bar = u * (h - n) * z * (1 - z)
        if self.reset == "after":
            r_bar = n_bar * v_n * r * (1 - r)
            v_bar = np.concatenate([r_bar, z_bar, n_bar * r], axis=-1)
            a_bar = np.concatenate([r_bar, z_bar, n_bar], axis=-1)
            h_bar = u * z + v_bar @ weight
            return a_bar, (v_bar.T @ h, v_bar.sum(axis=0)), (h_bar,)
        w_rz, w_n = np.split(weight, [2 * h.shape[-1]])
        k = n_bar @ w_n
        rz_bar = np.concatenate([k * h * r * (1 - r), z_bar], axis=-1)
        a_bar = np.concatenate([rz_bar, n_bar], axis=-1)
        weight_bar = np.concatenate([rz_bar.T @ h, n_bar.T @ (r * h)])
        h_bar = u * z + k * r + rz_bar @ w_rz
        return a_bar, (weight_bar, a_bar.sum(axis=0)), (h_bar,)


def _affine(h: Array, weight: Array, bias: Array | None) -> Array:
    """Return W h + b for every row h; no bias is a bias of zero."""
    v = h @ weight.T
    return v if bias is None else v + bias


def _blocks(p: Array, count: int) -> list[Array]:
    """Return the gates of `p` as views, cheaper than numpy.split on small arrays."""
    size = p.shape[-1] // count
    return [p[..., k * size : (k + 1) * size] for k in range(count)]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}; choose one")
