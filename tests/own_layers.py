"""Layers as their authors write them: own names, own orders of the gates, backwards by hand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

__all__ = [
    "FusedLSTMCell",
    "HandLSTM",
    "NormOfTwoVectors",
    "PackedAttention",
    "SeparateGRU",
    "conv_nhwc",
    "tensor",
]

Fault = Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def parameter(*shape: int, seed: int) -> nn.Parameter:
    return nn.Parameter(0.5 * tensor(*shape, seed=seed))


class LSTMStep(torch.autograd.Function):
    """One step, with a backward by hand; `fault` changes its gradients, (x, h, c, W, U, b)."""

    @staticmethod
    def forward(ctx: Any, x: Any, h: Any, c: Any, w: Any, u: Any, b: Any, fault: Any) -> Any:
        i, f, g, o = (x @ w.T + h @ u.T + b).chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        after = f * c + i * g
        ctx.save_for_backward(x, h, c, w, u, i, f, g, o, after)
        ctx.fault = fault
        return o * after.tanh(), after

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        x, h, c, w, u, i, f, g, o, after = ctx.saved_tensors
        h_bar, c_bar = bars
        m = after.tanh()
        s = c_bar + h_bar * o * (1 - m * m)
        gates = ctx.fault(
            (
                s * g * i * (1 - i),
                s * c * f * (1 - f),
                s * i * (1 - g * g),
                h_bar * m * o * (1 - o),
            )
        )
        p = torch.cat(gates, -1)
        bias = p.sum(0) * getattr(ctx.fault, "bias", 1.0)
        return p @ w, p @ u, s * f, p.T @ x, p.T @ h, bias, None


def right(gates: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return gates


class HandLSTM(nn.Module):
    """The batch first, one bias, PyTorch's order of the gates, names of its own."""

    def __init__(self, inputs: int, hidden: int, fault: Fault = right) -> None:
        super().__init__()
        self.W = parameter(4 * hidden, inputs, seed=1)
        self.U = parameter(4 * hidden, hidden, seed=2)
        self.b = parameter(4 * hidden, seed=3)
        self.fault = fault

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(len(x), self.U.shape[1])
        ys = []
        for step in x.unbind(1):
            h, c = LSTMStep.apply(step, h, c, self.W, self.U, self.b, self.fault)  # type: ignore[no-untyped-call]
            ys.append(h)
        return torch.stack(ys, 1)


class FusedLSTMCell(nn.Module):
    """One matrix of x and h for all gates, which are i, f, o, g."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.kernel = parameter(inputs + hidden, 4 * hidden, seed=1)
        self.bias = parameter(4 * hidden, seed=2)

    def forward(self, x: Any, h: Any, c: Any) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, o, g = (torch.cat([x, h], -1) @ self.kernel + self.bias).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class SeparateGRU(nn.Module):
    """A matrix for each gate, the reset after the product or before it; returns the last state."""

    def __init__(self, inputs: int, hidden: int, *, reset: str) -> None:
        super().__init__()
        self.reset = reset
        for k, gate in enumerate("zrh"):
            setattr(self, f"W{gate}", parameter(hidden, inputs, seed=3 * k))
            setattr(self, f"U{gate}", parameter(hidden, hidden, seed=3 * k + 1))
            setattr(self, f"b{gate}", parameter(hidden, seed=3 * k + 2))
        self.recurrent_bias = parameter(hidden, seed=9)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        own: Any = self
        for step in x:
            z = (step @ own.Wz.T + h @ own.Uz.T + own.bz).sigmoid()
            r = (step @ own.Wr.T + h @ own.Ur.T + own.br).sigmoid()
            if self.reset == "after":
                recurrent = r * (h @ own.Uh.T + self.recurrent_bias)
            else:
                recurrent = (r * h) @ own.Uh.T + self.recurrent_bias
            n = (step @ own.Wh.T + own.bh + recurrent).tanh()
            h = (1 - z) * n + z * h
        return h


class NormOfTwoVectors(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.gamma = parameter(features, seed=1)
        self.beta = parameter(features, seed=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return centred * scale * self.gamma + self.beta


class PackedAttention(nn.Module):
    """Self-attention whose projection packs q, k and v, as ViT has it."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(features, 3 * features).double()
        self.proj = nn.Linear(features, features).double()
        self.heads = heads

    def forward(self, x: torch.Tensor) -> Any:
        batch, time, features = x.shape
        packed = self.qkv(x).reshape(batch, time, 3, self.heads, features // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, time, features))


def conv_nhwc(params: Any, x: Any) -> Any:
    """Weights HWIO, x NHWC: what TPUs like."""
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, params["w"], (1, 1), "VALID", dimension_numbers=layout)
    return jnp.add(y, params["b"])
