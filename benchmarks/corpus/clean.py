"""Right gradients at points and in forms that make checkers cry wolf."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.corpus.case import JNP, TORCH, Case, arrays

__all__ = ["CLEAN"]

RNG = np.random.default_rng(4)
X, Y = RNG.standard_normal((2, 4, 6))
TIES = np.array([1.0, 1.0, 0.0, -2.0, 0.0])
BOTH = ("float64", "float32")


def neutral(name: str, source: str, f: Callable[..., Any], *inputs: Any) -> list[Case]:
    """One function, differentiated by PyTorch and by JAX."""

    def made(framework: str, xp: Any) -> Case:
        def make(dtype: str) -> Any:
            return (lambda *a: f(xp, *a)), arrays(inputs, framework, dtype)

        return Case(
            name=name, slice="clean", framework=framework, source=source, is_wrong=False, make=make
        )

    return [made("torch", TORCH), made("jax", JNP)]


def torch_only(name: str, source: str, make: Callable[[torch.dtype], Any], *dtypes: str) -> Case:
    def build(dtype: str) -> Any:
        torch.manual_seed(5)
        return make(getattr(torch, dtype))

    return Case(
        name=name,
        slice="clean",
        framework="torch",
        source=source,
        is_wrong=False,
        make=build,
        dtypes=dtypes or BOTH,
    )


def jax_only(name: str, source: str, f: Any, *inputs: Any) -> Case:
    def make(dtype: str) -> Any:
        return f, arrays(inputs, "jax", dtype)

    return Case(name=name, slice="clean", framework="jax", source=source, is_wrong=False, make=make)


def _t(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def _module(module: Callable[[], nn.Module], *shape: int) -> Callable[[torch.dtype], Any]:
    return lambda dtype: (module().to(dtype), (_t(dtype, *shape),))


def _inside(inner: torch.dtype) -> Callable[[torch.dtype], Any]:
    def build(dtype: torch.dtype) -> Any:
        w = _t(torch.float64, 6, 3).to(inner)
        return (lambda x: torch.tanh(x.to(inner) @ w).to(x.dtype)), (_t(dtype, 4, 6),)

    return build


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 6)
        self.two = nn.Linear(6, 6)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.tanh(self.one(x)))


class _Settled(torch.autograd.Function):
    """cos z + x = 2 z, solved to a loose tolerance; the gradient by the implicit function."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        z = torch.zeros_like(x)
        while True:
            step = (torch.cos(z) + x) / 2 - z
            z = z + step
            if step.abs().max() < 1e-7:
                break
        ctx.save_for_backward(z)
        return z

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        (z,) = ctx.saved_tensors
        return u / (2 + torch.sin(z))


def _scan(x: Any) -> Any:
    def body(h: Any, x_t: Any) -> Any:
        h = jnp.tanh(0.5 * h + x_t)
        return h, h

    return jax.lax.scan(body, x[0] * 0, x)[1]


NEUTRAL: list[Case] = [
    case
    for row in (
        ("relu at 0", "FF8", lambda xp, x: xp.relu(x), TIES),
        ("abs at 0", "FF8", lambda xp, x: xp.abs(x), TIES),
        ("clip at its ends", "P29", lambda xp, x: xp.clamp(x, -1.0, 1.0), TIES),
        ("maximum of equals", "P21", lambda xp, x: xp.maximum(x, xp.flip(x, (0,))), TIES),
        ("relu near 0", "FF8", lambda xp, x: xp.relu(x), np.array([1e-7, -1e-7, 1.0])),
        ("x |x|", "P22", lambda xp, x: x * xp.abs(x), TIES),
        ("1e4 + sin", "FF3", lambda xp, x: 1e4 + xp.sin(x), X),
        ("1e6 + sin", "FF6", lambda xp, x: 1e6 + xp.sin(x), X),
        ("1/x at 3e-6", "FF5", lambda xp, x: 1 / x, np.array([3e-6, 1.0, 20.0])),
        ("log over decades", "P30", lambda xp, x: xp.log(x), np.array([1e-5, 1.0, 1e5])),
        ("squares of mixed scales", "P73", lambda xp, x: x * x, np.array([1e-8, 1.0, 1e8])),
        ("squares at 0", "P73", lambda xp, x: x * x, np.zeros(4)),
        ("saturated softmax", "P62", lambda xp, x: xp.softmax(x, -1), np.array([[1e3, 0.0, -1e3]])),
        ("confident softmax", "P62", lambda xp, x: xp.softmax(x, -1), np.array([[20.0, 0.0, 1.0]])),
        ("logsumexp at 1e3", "P62", lambda xp, x: xp.logsumexp(x, -1), np.array([1e3, 999.0, 0.0])),
        ("saturated tanh", "P62", lambda xp, x: xp.tanh(x), np.array([9.0, -12.0, 0.5])),
        ("saturated sigmoid", "P62", lambda xp, x: xp.sigmoid(x), np.array([30.0, -30.0, 0.1])),
        ("sine", "FF1", lambda xp, x: xp.sin(x), X),
        ("product", "FF1", lambda xp, x, w: xp.tanh(x @ w), X, Y.T),
        ("sin 200 x", "FP20", lambda xp, x: xp.sin(200 * x), X),
        ("mean of squares", "FP2", lambda xp, x: (x * x).mean(), RNG.standard_normal(3000)),
        ("norm near 0", "P73", lambda xp, x: xp.sqrt((x * x).sum()), np.array([1e-8, -2e-8])),
        ("unused input", "FP11", lambda xp, x, y: xp.sin(x), X, Y),
        ("integers", "P7", lambda xp, x, k: x[k], X, np.array([0, 2, 2])),
        ("empty", "P120", lambda xp, x: xp.sin(x), np.zeros((0, 3))),
        ("a number", "P120", lambda xp, x: xp.exp(x), np.array(0.3)),
        ("pair of outputs", "P104", lambda xp, x: (xp.sin(x), {"two": x * x}), X),
        (
            "guarded where",
            "P34",
            lambda xp, x: xp.where(x > 0, xp.sqrt(xp.where(x > 0, x, 1.0 + 0 * x)), 0.0 * x),
            np.array([-1.0, 0.5, 2.0, -0.3]),
        ),
        (
            "normalization",
            "P64",
            lambda xp, x: (
                (x - x.mean(-1)[..., None])
                / xp.sqrt(((x - x.mean(-1)[..., None]) ** 2).mean(-1)[..., None] + 1e-5)
            ),
            X,
        ),
        ("cumulative sum", "P28", lambda xp, x: xp.cumsum(x, 0), X),
    )
    for case in neutral(*row)
]

CLEAN: tuple[Case, ...] = (
    *NEUTRAL,
    torch_only("1e8 + sin", "FF3", lambda d: ((lambda x: 1e8 + x.sin()), (_t(d, 5),)), "float64"),
    torch_only("1e12 + x", "FF4", lambda d: ((lambda x: 1e12 + x), (_t(d, 5),)), "float64"),
    torch_only("floor away from a step", "P29", lambda d: (torch.floor, (_t(d, 5) + 0.01,))),
    torch_only(
        "sort with ties",
        "P28",
        lambda d: ((lambda x: x.sort().values), (torch.tensor(TIES, dtype=d),)),
    ),
    torch_only(
        "max pooling with ties",
        "P21",
        lambda d: ((lambda x: F.max_pool1d(x, 2)), (torch.zeros(1, 1, 6, dtype=d),)),
    ),
    torch_only("linear", "FF1", _module(lambda: nn.Linear(20, 20), 3, 20)),
    torch_only("dropout", "FF9", _module(lambda: nn.Dropout(0.5), 4, 8)),
    torch_only("batch norm, training", "P101", _module(lambda: nn.BatchNorm1d(6), 8, 6)),
    torch_only("layer norm", "P64", _module(lambda: nn.LayerNorm(8), 4, 8)),
    torch_only("convolution", "P12", _module(lambda: nn.Conv2d(2, 3, 3), 2, 2, 6, 6)),
    torch_only("LSTM", "P58", _module(lambda: nn.LSTM(4, 5), 6, 2, 4)),
    torch_only("GRU", "P58", _module(lambda: nn.GRU(4, 5), 6, 2, 4)),
    torch_only(
        "attention",
        "P17",
        lambda d: (
            F.scaled_dot_product_attention,
            tuple(_t(d, 2, 5, 4) * k for k in (1.0, 0.7, 1.3)),
        ),
    ),
    torch_only("tied weights", "P110", _module(_Tied, 3, 6)),
    torch_only(
        "relu in place", "P50", lambda d: ((lambda x: torch.relu_(x * 1.0)), (_t(d, 4, 5),))
    ),
    torch_only(
        "checkpointed",
        "P144",
        lambda d: ((lambda x: checkpoint(torch.tanh, x * 2, use_reentrant=False)), (_t(d, 4),)),
    ),
    torch_only(
        "embedding", "P7", lambda d: (nn.Embedding(7, 3).to(d), (torch.tensor([1, 2, 2, 0]),))
    ),
    torch_only("implicit, loosely solved", "FF10", lambda d: (_Settled, (_t(d, 5),)), "float64"),
    torch_only("float32 inside", "P6", _inside(torch.float32), "float64"),
    torch_only("bfloat16 inside", "P6", _inside(torch.bfloat16), "float64", "float32"),
    torch_only(
        "complex",
        "P114",
        lambda d: ((lambda z: z * z.conj() + z.exp()), (torch.complex(_t(d, 4), _t(d, 4) + 1),)),
    ),
    torch_only(
        "cross entropy",
        "P62",
        lambda d: (
            (lambda z: F.cross_entropy(z, torch.tensor([0, 2]))),
            (torch.tensor([[30.0, 0.0, 1.0], [1.0, 2.0, 3.0]], dtype=d),),
        ),
    ),
    torch_only(
        "noise from a seed",
        "P102",
        lambda d: ((lambda x: x + 0.1 * torch.randn_like(x) * x), (_t(d, 6),)),
    ),
    torch_only(
        "sine, low precision", "FF2", lambda d: (torch.sin, (_t(d, 20),)), "bfloat16", "float16"
    ),
    torch_only(
        "MLP, low precision",
        "P1",
        _module(lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)), 5, 8),
        "bfloat16",
        "float16",
    ),
    jax_only("scan", "P140", _scan, RNG.standard_normal((7, 3))),
    jax_only("jitted", "P144", jax.jit(lambda x: jnp.tanh(x) * x), X),
    jax_only(
        "while loop inside a stop",
        "P141",
        lambda x: (
            x * jax.lax.stop_gradient(jax.lax.while_loop(lambda k: k < 3, lambda k: k + 1, 0))
        ),
        X,
    ),
    jax_only("cond", "P141", lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), X),
    jax_only("vmap", "P119", jax.vmap(lambda x: x / jnp.sum(x * x)), X),
    jax_only("remat", "P141", jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), X),
    jax_only("sort with ties", "P28", jnp.sort, TIES),
    jax_only("inverse", "P61", jnp.linalg.inv, np.eye(3) + 0.1 * RNG.standard_normal((3, 3))),
    jax_only("dictionary of parameters", "P107", lambda x, y: {"out": jnp.tanh(x @ y.T)}, X, Y),
)
