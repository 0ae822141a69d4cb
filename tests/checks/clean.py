"""Right targets that are easily taken for wrong ones: each must pass the checks of manners."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradcheck import Rule


def tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def array(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


class Partial(torch.autograd.Function):
    """x y and x + y; undefined cotangents stay None, and an integer and a string come along."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, k: Tensor, mode: str) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y)
        return x * y * k, x + y

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None) -> Any:
        x, y = ctx.saved_tensors
        gx = gy = None
        if u is not None:
            gx, gy = u * y * 2, u * x * 2
        if v is not None:
            gx = v if gx is None else gx + v
            gy = v if gy is None else gy + v
        return gx, gy, None, None


class ReluInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.clamp_(min=0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.where(y > 0, u, 0)


class Shared(torch.autograd.Function):
    """x + y; both gradients are the cotangent itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
        return u, u


class NewStyle(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x @ w

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        wants_x, wants_w = ctx.needs_input_grad
        return u @ w.T if wants_x else None, x.T @ u if wants_w else None


class Stateful(nn.Module):
    """An RNN that goes on where it stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(3, 4).double()
        self.h: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.cell(x, self.h)
        self.h = h.detach()
        return torch.as_tensor(h)


class Embedded(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3, sparse=sparse).double()

    def forward(self, index: Tensor) -> Tensor:
        return torch.tanh(self.table(index))


class Partly(nn.Module):
    """A parameter that takes no part, a frozen one, and a step function beside the output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2).double()
        self.unused = nn.Parameter(tensor(2))
        self.frozen = nn.Parameter(tensor(2), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x) * self.frozen
        return y, (y > 0).double().mean()


def attention() -> nn.Module:
    return nn.MultiheadAttention(8, 2, batch_first=True).double()


def self_attention(x: Tensor, layer: nn.Module) -> Any:
    return layer(x, x, x)[0]


def spectral() -> nn.Module:
    return torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3).double())


def sine(factor: Callable[[Tensor, Tensor], float]) -> Any:
    """A Function whose gradient is wrong by a factor that goes by its input and cotangent."""

    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return u * x.cos() * factor(x, u)

    return Sine


def checkpointed(x: Tensor, w: Tensor) -> Any:
    return checkpoint(lambda a, b: torch.tanh(a @ b).sin(), x, w, use_reentrant=False)


TORCH: dict[str, Callable[[], tuple[Any, ...]]] = {
    "linear": lambda: (nn.Linear(3, 2).double(), tensor(4, 3)),
    "linear in float32, long sums": lambda: (
        nn.Linear(700, 3),
        tensor(5, 700, dtype=torch.float32),
    ),
    "linear in bfloat16": lambda: (
        nn.Linear(64, 3).bfloat16(),
        tensor(5, 64, dtype=torch.bfloat16),
    ),
    "dropout": lambda: (nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)).double(), tensor(4, 6)),
    "dropout of the input": lambda: (lambda x: F.dropout(x, 0.3) * x, tensor(4, 6)),
    "batch norm, training": lambda: (nn.BatchNorm2d(3).double(), tensor(4, 3, 2, 5)),
    "batch norm, (N, C, L)": lambda: (nn.BatchNorm1d(3).double(), tensor(4, 3, 5)),
    "batch norm, evaluation": lambda: (nn.BatchNorm2d(3).double().eval(), tensor(4, 3, 2, 5)),
    "bias before batch norm": lambda: (
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double(),
        tensor(3, 2, 5, 5),
    ),
    "layer norm": lambda: (nn.LayerNorm(5).double(), tensor(4, 5)),
    "spectral norm": lambda: (spectral(), tensor(4, 4)),
    "relu in place": lambda: (nn.Sequential(nn.Linear(3, 5), nn.ReLU(True)).double(), tensor(4, 3)),
    "relu in place on the input": lambda: (nn.ReLU(inplace=True), tensor(4, 3)),
    "a Function in place": lambda: (ReluInPlace, tensor(4, 3)),
    "checkpoint": lambda: (checkpointed, tensor(4, 3), tensor(3, 2, seed=1)),
    "LSTM": lambda: (nn.LSTM(3, 4, num_layers=2).double(), tensor(5, 2, 3)),
    "bidirectional GRU": lambda: (nn.GRU(3, 4, bidirectional=True).double(), tensor(5, 2, 3)),
    "attention": lambda: (self_attention_module(), tensor(2, 4, 8)),
    "encoder layer, evaluation": lambda: (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval(),
        tensor(2, 4, 8),
    ),
    "embedding": lambda: (Embedded(False), torch.tensor([[0, 2], [2, 4]])),
    "embedding, sparse gradient": lambda: (Embedded(True), torch.tensor([[0, 2], [2, 4]])),
    "undefined cotangents": lambda: (Partial, tensor(3), tensor(3, seed=1), torch.tensor(2), "up"),
    "one cotangent for two": lambda: (Shared, tensor(3), tensor(3, seed=1)),
    "setup_context": lambda: (NewStyle, tensor(4, 3), tensor(3, 2, seed=1)),
    "views": lambda: (lambda x: (x[1:].T @ x[:-1]).diagonal().unflatten(0, (2, 2)), tensor(5, 4)),
    "view, contiguous only": lambda: (lambda x: x.view(-1).sin(), tensor(4, 3)),
    "complex": lambda: (lambda z: z.conj() @ z.exp(), tensor(3, 3, dtype=torch.complex128)),
    "FFT": lambda: (lambda x: torch.fft.rfft(x).abs(), tensor(3, 8)),
    "scalar": lambda: (lambda x: x.exp(), torch.tensor(0.3, dtype=torch.float64)),
    "empty": lambda: (lambda x, w: x @ w, tensor(0, 3), tensor(3, 2)),
    "scatter": lambda: (
        lambda x: torch.zeros(3, 4, dtype=x.dtype).index_add(0, torch.tensor([0, 2, 0, 2]), x),
        tensor(4, 4),
    ),
    "max pooling": lambda: (nn.MaxPool2d(2), tensor(2, 3, 4, 4)),
    "convolution": lambda: (nn.Conv2d(3, 4, 3, padding=1).double(), tensor(2, 3, 5, 5)),
    "convolution in float32": lambda: (
        nn.Conv2d(8, 16, 3),
        tensor(2, 8, 9, 9, dtype=torch.float32),
    ),
    "Cholesky": lambda: (
        lambda a: torch.linalg.cholesky(a @ a.T + torch.eye(4, dtype=a.dtype)),
        tensor(4, 4),
    ),
    "a gradient inside": lambda: (
        lambda x: torch.func.grad(lambda y: (y**3).sum())(x),
        tensor(3),
    ),
    "fused attention in float32": lambda: (
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        tensor(1, 2, 16, 8, dtype=torch.float32),
    ),
    "LSTM in float16": lambda: (nn.LSTM(4, 8).half(), tensor(5, 2, 4, dtype=torch.float16)),
    "table with a largest norm": lambda: (
        nn.Embedding(5, 3, max_norm=0.5).double(),
        torch.tensor([[0, 2], [2, 4]]),
    ),
    "a state on the module": lambda: (Stateful(), tensor(2, 3)),
    "unused, frozen, a step": lambda: (Partly(), tensor(4, 3)),
    "float32 inside float64": lambda: (
        lambda x, w: (x.float() @ w.float()).double(),
        tensor(4, 300),
        tensor(300, 3, seed=1),
    ),
}


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = attention()

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x)


def self_attention_module() -> nn.Module:
    return SelfAttention()


@jax.custom_vjp
def halved(x: Any, n: int) -> Any:
    return x / 2


halved.defvjp(lambda x, n: (x / 2, None), lambda _, u: (u / 2, None))


def scanned(x: Any, w: Any) -> Any:
    return jax.lax.scan(lambda h, a: ((h := jnp.tanh(a + w @ h)), h.sum()), jnp.zeros(3), x)


def dropped(x: Any, key: Any) -> Any:
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x * 2, 0.0) * x


JAX: dict[str, Callable[[], tuple[Any, ...]]] = {
    "matmul in float32": lambda: (
        lambda x, w: jnp.tanh(x @ w),
        jnp.float32(array(4, 300)),
        jnp.float32(array(300, 3)),
    ),
    "scan": lambda: (
        scanned,
        jnp.asarray(array(5, 3), jnp.float32),
        jnp.asarray(array(3, 3), jnp.float32) / 2,
    ),
    "jit": lambda: (jax.jit(lambda p: {"y": jnp.sin(p["x"]) ** 2}), {"x": array(4)}),
    "custom_vjp": lambda: (lambda x: halved(x, 3), jnp.asarray(array(4))),
    "checkpoint": lambda: (jax.checkpoint(lambda x: jnp.sin(jnp.cos(x))), array(4)),
    "dropout with a key": lambda: (dropped, array(8), jax.random.key(0)),
    "complex": lambda: (lambda z: jnp.conj(z) @ jnp.exp(z), array(3, 3) + 1j * array(3, 3, seed=1)),
    "two outputs": lambda: (lambda x: (x * x, jnp.sum(x)), array(4)),
}


def _product(x: Any, w: Any) -> Any:
    return x @ w, (x, w)


RULE: dict[str, Callable[[], tuple[Any, ...]]] = {
    "cached": lambda: (
        Rule(_product, lambda c, u: (u @ c[1].T, c[0].T @ u), cached=True),
        array(4, 3),
        array(3, 2),
    ),
    "uncached": lambda: (Rule(np.sin, lambda x, u: u * np.cos(x[0])), array(4, 3)),
    "a cotangent handed on": lambda: (
        Rule(lambda x, y: x + y, lambda x, u: (u, u)),
        array(3),
        array(3),
    ),
    "float32": lambda: (
        Rule(lambda x: x.sum(), lambda x, u: np.full_like(x[0], u)),
        array(30).astype(np.float32),
    ),
    "complex": lambda: (Rule(np.conj, lambda x, u: np.conj(u)), array(3) + 1j),
    "no gradient for integers": lambda: (
        Rule(lambda x, k: x[k], lambda xk, u: (np.bincount(xk[1], u, xk[0].size), None)),
        array(4),
        np.array([0, 2, 2]),
    ),
}
