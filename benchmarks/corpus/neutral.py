"""Wrong rules and their right twins, written once for PyTorch and JAX."""

from typing import Any

import numpy as np

from benchmarks.corpus.case import Case, pair

__all__ = ["PAIRS"]

RNG = np.random.default_rng(20)
A, B = RNG.standard_normal((2, 5, 5))
X, Y = RNG.standard_normal((2, 6, 8))
V, W = RNG.standard_normal((2, 12))
POSITIVE = np.abs(X) + 0.5
MANY = RNG.standard_normal(1_000_000)
SOME = RNG.standard_normal(10_000)
SEQUENCE = RNG.standard_normal((12, 4))
GAIN = np.array([0.9, 0.95, 1.0, 0.8])


def sin(xp: Any, x: Any) -> Any:
    return xp.sin(x)


def d_sin(xp: Any, inputs: Any, u: Any) -> Any:
    return u * xp.cos(inputs[0])


def matmul(xp: Any, x: Any, w: Any) -> Any:
    return x @ w


def d_matmul(xp: Any, i: Any, u: Any) -> Any:
    return u @ i[1].T, i[0].T @ u


def softmax(xp: Any, x: Any) -> Any:
    return xp.softmax(x, -1)


def d_softmax(xp: Any, i: Any, u: Any) -> Any:
    y = xp.softmax(i[0], -1)
    return y * (u - (u * y).sum(-1)[..., None])


def normed(xp: Any, x: Any) -> Any:
    centred = x - x.mean(-1)[..., None]
    return centred / xp.sqrt((centred**2).mean(-1)[..., None] + 1e-5)


def d_normed(xp: Any, i: Any, u: Any, keep: float = 1.0, drift: float = 1.0) -> Any:
    x, y = i[0], normed(xp, i[0])
    std = xp.sqrt(((x - x.mean(-1)[..., None]) ** 2).mean(-1)[..., None] + 1e-5)
    away = u - drift * u.mean(-1)[..., None] - keep * y * (u * y).mean(-1)[..., None]
    return away / std


def times(index: Any, factor: float) -> Any:
    """Scale some entries of the gradient of a sine."""

    def backward(xp: Any, i: Any, u: Any) -> Any:
        positions = xp.arange(i[0].shape[-1])
        mask = xp.ones_like(i[0])
        for position in index:
            mask = xp.where(positions == position, factor * mask, mask)
        return u * xp.cos(i[0]) * mask

    return backward


def scan(xp: Any, x: Any, a: Any) -> Any:
    h, states = x[0] * 0, []
    for x_t in x:
        h = a * h + xp.tanh(x_t)
        states.append(h)
    return xp.stack(states)


def d_scan(xp: Any, i: Any, u: Any, drop: int = -1, stop: int = 0, shift: int = 0) -> Any:
    x, a = i
    h, total, g_a, g_x = scan(xp, x, a), x[0] * 0, x[0] * 0, []
    for t in reversed(range(len(x))):
        total = u[t] + (0 if t == drop else a * total) if t + 1 < len(x) else u[t]
        if t:
            g_a = g_a + total * h[max(t - 1 - shift, 0)]
        g_x.append(total * (1 - xp.tanh(x[t]) ** 2) * (t >= stop))
    return xp.flip(xp.stack(g_x), (0,)), g_a


def settled(xp: Any, b: Any, w: Any) -> Any:
    z = b * 0
    for _ in range(60):
        z = xp.tanh(z @ w + b)
    return z


def d_settled(xp: Any, i: Any, u: Any, transpose: bool = True, steps: int = 60) -> Any:
    b, w = i
    z = settled(xp, b, w)
    slope = 1 - z**2
    adjoint = u
    for _ in range(steps):
        adjoint = u + (adjoint * slope) @ (w.T if transpose else w)
    d = adjoint * slope
    return d, z[:, None] * d[None, :]


CONTRACTING = 0.15 * A
E = 1e-3

PAIRS: tuple[Case, ...] = (
    # gross
    *pair("sine doubled", "gross", "P83", sin, d_sin, lambda xp, i, u: 2 * d_sin(xp, i, u), X),
    *pair("sine negated", "gross", "FP2", sin, d_sin, lambda xp, i, u: -d_sin(xp, i, u), X),
    *pair("sine zero", "gross", "FP17", sin, d_sin, lambda xp, i, u: 0 * u, X),
    *pair("cotangent ignored", "gross", "P77", sin, d_sin, lambda xp, i, u: xp.cos(i[0]), X),
    *pair(
        "weight gradient zero",
        "gross",
        "FP6",
        matmul,
        d_matmul,
        lambda xp, i, u: (u @ i[1].T, 0 * i[1]),
        A,
        B,
    ),
    *pair(
        "J for its transpose",
        "gross",
        "P114",
        matmul,
        d_matmul,
        lambda xp, i, u: (u @ i[1], i[0].T @ u),
        A,
        B,
    ),
    *pair(
        "weight gradient transposed",
        "gross",
        "P74",
        matmul,
        d_matmul,
        lambda xp, i, u: (u @ i[1].T, (i[0].T @ u).T),
        A,
        B,
    ),
    *pair(
        "softmax, diagonal only",
        "gross",
        "P74",
        softmax,
        d_softmax,
        lambda xp, i, u: u * xp.softmax(i[0], -1),
        X,
    ),
    *pair(
        "normalization by constants",
        "gross",
        "P64",
        normed,
        d_normed,
        lambda xp, i, u: d_normed(xp, i, u, keep=0.0, drift=0.0),
        X,
    ),
    *pair(
        "normalization, half",
        "gross",
        "P64",
        normed,
        d_normed,
        lambda xp, i, u: d_normed(xp, i, u, keep=0.0),
        X,
    ),
    *pair(
        "half of a product rule",
        "gross",
        "P46",
        lambda xp, x: x * xp.sin(x),
        lambda xp, i, u: u * (xp.sin(i[0]) + i[0] * xp.cos(i[0])),
        lambda xp, i, u: u * xp.sin(i[0]),
        X,
    ),
    *pair(
        "minus a half for minus one",
        "gross",
        "P48",
        lambda xp, x: xp.exp(-x * x),
        lambda xp, i, u: -2 * u * i[0] * xp.exp(-i[0] * i[0]),
        lambda xp, i, u: -u * i[0] * xp.exp(-i[0] * i[0]),
        X,
    ),
    *pair(
        "wrong on one branch",
        "gross",
        "FP12",
        lambda xp, x: xp.where(x < 0, xp.sin(x), x * x),
        lambda xp, i, u: u * xp.where(i[0] < 0, xp.cos(i[0]), 2 * i[0]),
        lambda xp, i, u: u * xp.where(i[0] < 0, 1.0 + 0 * i[0], 2 * i[0]),
        X,
    ),
    *pair(
        "bias by the mean",
        "gross",
        "P81",
        lambda xp, x, b: x + b,
        lambda xp, i, u: (u, u.sum(0)),
        lambda xp, i, u: (u, u.mean(0)),
        X,
        Y[0],
    ),
    # subtle
    *pair(
        "0.1 % too large",
        "subtle 1e-3",
        "FP5",
        sin,
        d_sin,
        lambda xp, i, u: (1 + 2 * E) * d_sin(xp, i, u),
        X,
    ),
    *pair(
        "a small term missing",
        "subtle 1e-3",
        "FP5",
        lambda xp, x: xp.sin(x) + 3e-3 * xp.cos(3 * x),
        lambda xp, i, u: u * (xp.cos(i[0]) - 9e-3 * xp.sin(3 * i[0])),
        d_sin,
        X,
    ),
    *pair(
        "variance of a sample",
        "subtle 1e-3",
        "P57",
        lambda xp, x: ((x - x.mean()) ** 2).mean(),
        lambda xp, i, u: u * 2 * (i[0] - i[0].mean()) / i[0].shape[0],
        lambda xp, i, u: u * 2 * (i[0] - i[0].mean()) / (i[0].shape[0] - 1),
        SOME[:400],
    ),
    *pair(
        "an epsilon in the norm",
        "subtle 1e-3",
        "P57",
        lambda xp, x: xp.sqrt((x * x).sum()),
        lambda xp, i, u: u * i[0] / xp.sqrt((i[0] * i[0]).sum()),
        lambda xp, i, u: u * i[0] / (xp.sqrt((i[0] * i[0]).sum()) + 1e-2),
        V,
    ),
    *pair(
        "one weight off by 0.5 %",
        "subtle 1e-3",
        "FP18",
        matmul,
        d_matmul,
        lambda xp, i, u: (u @ i[1].T, (i[0].T @ u) * (1 + 5 * E * (xp.arange(5) == 2))),
        A,
        B,
    ),
    *pair(
        "gelu by its tanh formula",
        "subtle 1e-3",
        "P6",
        lambda xp, x: x * xp.sigmoid(1.702 * x),
        lambda xp, i, u: (
            u * xp.sigmoid(1.702 * i[0]) * (1 + 1.702 * i[0] * (1 - xp.sigmoid(1.702 * i[0])))
        ),
        lambda xp, i, u: (
            u * xp.sigmoid(1.7 * i[0]) * (1 + 1.7 * i[0] * (1 - xp.sigmoid(1.7 * i[0])))
        ),
        X,
    ),
    # tiny: beyond what float32 is held to
    *pair(
        "1e-5 too large",
        "tiny 1e-5",
        "FP5",
        sin,
        d_sin,
        lambda xp, i, u: (1 + 1e-5) * d_sin(xp, i, u),
        X,
        dtypes=("float64",),
    ),
    *pair(
        "1e-5 of a constant too much",
        "tiny 1e-5",
        "P57",
        sin,
        d_sin,
        lambda xp, i, u: d_sin(xp, i, u) + 1e-5,
        X,
        dtypes=("float64",),
    ),
    *pair(
        "one entry off by 1e-5",
        "tiny 1e-5",
        "FP18",
        sin,
        d_sin,
        times([3], 1 + 1e-5),
        X,
        dtypes=("float64",),
    ),
    *pair(
        "a coarse constant",
        "tiny 1e-5",
        "P6",
        lambda xp, x: 0.7978845608028654 * x * x,
        lambda xp, i, u: 2 * 0.7978845608028654 * u * i[0],
        lambda xp, i, u: 2 * 0.79788 * u * i[0],
        X,
        dtypes=("float64",),
    ),
    # small magnitude
    *pair(
        "1e-6 sine, zero",
        "small magnitude",
        "FP4",
        lambda xp, x: 1e-6 * xp.sin(x),
        lambda xp, i, u: 1e-6 * d_sin(xp, i, u),
        lambda xp, i, u: 0 * u,
        X,
    ),
    *pair(
        "1e-9 sine, doubled",
        "small magnitude",
        "FP19",
        lambda xp, x: 1e-9 * xp.sin(x),
        lambda xp, i, u: 1e-9 * d_sin(xp, i, u),
        lambda xp, i, u: 2e-9 * d_sin(xp, i, u),
        X,
    ),
    *pair(
        "mean loss, sign",
        "small magnitude",
        "FP2",
        lambda xp, x: (x * x).mean(),
        lambda xp, i, u: 2 * u * i[0] / i[0].shape[0],
        lambda xp, i, u: -2 * u * i[0] / i[0].shape[0],
        SOME,
    ),
    *pair(
        "one leaf of 1e-7 zero",
        "small magnitude",
        "FP19",
        lambda xp, x, y: xp.sin(x).sum() + (1e-7 * xp.sin(y)).sum(),
        lambda xp, i, u: (u * xp.cos(i[0]), 1e-7 * u * xp.cos(i[1])),
        lambda xp, i, u: (u * xp.cos(i[0]), 0 * i[1]),
        V,
        W,
        dtypes=("float64",),
    ),
    # sparse
    *pair("one of 10^6 zero", "sparse in 10^6", "FP1", sin, d_sin, times([271_828], 0.0), MANY),
    *pair(
        "one of 10^6 off by 1 %",
        "sparse in 10^6",
        "FP18",
        sin,
        d_sin,
        times([5], 1.01),
        MANY,
        dtypes=("float64",),
    ),
    *pair("one of 10^4 doubled", "sparse in 10^6", "FP1", sin, d_sin, times([9_999], 2.0), SOME),
    *pair(
        "three of 10^4 negated",
        "sparse in 10^6",
        "P81",
        sin,
        d_sin,
        times([1, 5_000, 7_777], -1.0),
        SOME,
    ),
    # sum-invisible
    *pair(
        "neighbours exchanged",
        "sum-invisible",
        "P81",
        sin,
        d_sin,
        lambda xp, i, u: xp.flip(d_sin(xp, i, u), (1,)),
        X,
    ),
    *pair(
        "shifted by one",
        "sum-invisible",
        "P134",
        sin,
        d_sin,
        lambda xp, i, u: xp.roll(d_sin(xp, i, u), 1, 0),
        X,
    ),
    *pair(
        "errors that cancel",
        "sum-invisible",
        "P36",
        sin,
        d_sin,
        lambda xp, i, u: d_sin(xp, i, u) + 0.01 * (-1.0) ** xp.arange(8),
        X,
    ),
    *pair(
        "cumulative sum forwards",
        "sum-invisible",
        "P28",
        lambda xp, x: xp.cumsum(x, 0),
        lambda xp, i, u: xp.flip(xp.cumsum(xp.flip(u, (0,)), 0), (0,)),
        lambda xp, i, u: xp.cumsum(u, 0),
        X,
    ),
    # kinks
    *pair(
        "relu, wrong at its corner",
        "kinks",
        "P22",
        lambda xp, x: xp.relu(x),
        lambda xp, i, u: u * (i[0] > 0),
        lambda xp, i, u: u * xp.where(i[0] == 0, -3.0, 1.0 * (i[0] > 0)),
        np.array([0.0, 1.0, -2.0, 0.5]),
    ),
    *pair(
        "clip passes all",
        "kinks",
        "P29",
        lambda xp, x: xp.clamp(x, -0.5, 0.5),
        lambda xp, i, u: u * (abs(i[0]) <= 0.5),
        lambda xp, i, u: u,
        X,
    ),
    *pair(
        "relu passes all",
        "kinks",
        "P20",
        lambda xp, x: xp.relu(x),
        lambda xp, i, u: u * (i[0] > 0),
        lambda xp, i, u: u,
        X,
    ),
    *pair(
        "abs loses its sign",
        "kinks",
        "FF8",
        lambda xp, x: xp.abs(x),
        lambda xp, i, u: u * xp.sign(i[0]),
        lambda xp, i, u: u,
        X,
    ),
    # recurrent and fixed point
    *pair(
        "carry dropped",
        "recurrent",
        "FP13",
        scan,
        d_scan,
        lambda xp, i, u: d_scan(xp, i, u, drop=6),
        SEQUENCE,
        GAIN,
    ),
    *pair(
        "truncated",
        "recurrent",
        "P139",
        scan,
        d_scan,
        lambda xp, i, u: d_scan(xp, i, u, stop=3),
        SEQUENCE,
        GAIN,
    ),
    *pair(
        "state a step late",
        "recurrent",
        "P137",
        scan,
        d_scan,
        lambda xp, i, u: d_scan(xp, i, u, shift=1),
        SEQUENCE,
        GAIN,
    ),
    *pair(
        "last step only",
        "recurrent",
        "FP14",
        settled,
        d_settled,
        lambda xp, i, u: d_settled(xp, i, u, steps=0),
        V[:5],
        CONTRACTING,
    ),
    *pair(
        "adjoint not transposed",
        "recurrent",
        "P129",
        settled,
        d_settled,
        lambda xp, i, u: d_settled(xp, i, u, transpose=False),
        V[:5],
        CONTRACTING,
    ),
    *pair(
        "adjoint not converged",
        "recurrent",
        "P128",
        settled,
        d_settled,
        lambda xp, i, u: d_settled(xp, i, u, steps=2),
        V[:5],
        CONTRACTING,
    ),
)
