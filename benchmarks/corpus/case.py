"""What a case is, and how a forward and a backward become a layer of PyTorch or JAX."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

__all__ = ["JNP", "SLICES", "TORCH", "Case", "arrays", "jax_layer", "pair", "torch_layer"]

SLICES = (
    "gross",
    "subtle 1e-3",
    "tiny 1e-5",
    "small magnitude",
    "sparse in 10^6",
    "sum-invisible",
    "layout",
    "state",
    "second order",
    "kinks",
    "low precision",
    "recurrent",
)

Make = Callable[[str], tuple[Any, tuple[Any, ...]]]  # dtype -> (target, inputs)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One target that a checker should accept or reject."""

    name: str
    slice: str
    framework: str  # "torch" or "jax"
    source: str  # the row or the thread that it keeps
    is_wrong: bool
    make: Make
    dtypes: tuple[str, ...] = ("float64", "float32")

    def __str__(self) -> str:
        return f"{self.framework} {self.name} ({'wrong' if self.is_wrong else 'right'})"


# The few names in which the two libraries differ.
SHARED = "sin cos exp log tanh sqrt where maximum abs cumsum flip ones_like stack sign roll"

TORCH = SimpleNamespace(
    name="torch",
    **{key: getattr(torch, key) for key in [*SHARED.split(), "clamp", "relu", "sigmoid"]},
    logsumexp=torch.logsumexp,
    softmax=torch.softmax,
    arange=torch.arange,
)
JNP = SimpleNamespace(
    name="jax",
    **{key: getattr(jnp, key) for key in SHARED.split()},
    clamp=jnp.clip,
    relu=jax.nn.relu,
    sigmoid=jax.nn.sigmoid,
    logsumexp=jax.nn.logsumexp,
    softmax=jax.nn.softmax,
    arange=jnp.arange,
)

Forward = Callable[..., Any]  # (xp, *inputs) -> output
Backward = Callable[..., Any]  # (xp, inputs, u) -> gradients


def arrays(inputs: tuple[Any, ...], framework: str, dtype: str) -> tuple[Any, ...]:
    """NumPy inputs in a framework's arrays; floating ones in `dtype`."""
    if framework == "torch":
        return tuple(
            torch.tensor(x, dtype=getattr(torch, dtype)) if x.dtype.kind == "f" else torch.tensor(x)
            for x in map(np.asarray, inputs)
        )
    return tuple(
        x.astype(jnp.dtype(dtype)) if x.dtype.kind == "f" else x for x in map(np.asarray, inputs)
    )


def torch_layer(forward: Forward, backward: Backward) -> Any:
    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            ctx.save_for_backward(*inputs)
            return forward(TORCH, *inputs)

        @staticmethod
        def backward(ctx: Any, *u: Any) -> Any:
            return backward(TORCH, ctx.saved_tensors, u[0] if len(u) == 1 else u)

    return Layer


def jax_layer(forward: Forward, backward: Backward) -> Any:
    @jax.custom_vjp
    def layer(*inputs: Any) -> Any:
        return forward(JNP, *inputs)

    def back(inputs: Any, u: Any) -> Any:
        found = backward(JNP, inputs, u)
        found = found if isinstance(found, tuple) else (found,)
        return tuple(g.astype(x.dtype) for g, x in zip(found, inputs, strict=True))

    layer.defvjp(lambda *inputs: (forward(JNP, *inputs), inputs), back)
    return layer


def pair(
    name: str,
    slice: str,
    source: str,
    forward: Forward,
    right: Backward,
    wrong: Backward,
    *inputs: Any,
    frameworks: tuple[str, ...] = ("torch", "jax"),
    dtypes: tuple[str, ...] = ("float64", "float32"),
) -> list[Case]:
    """A wrong rule and its right twin, in each framework."""

    def made(framework: str, backward: Backward) -> Make:
        layer = torch_layer if framework == "torch" else jax_layer
        return lambda dtype: (layer(forward, backward), arrays(inputs, framework, dtype))

    return [
        Case(
            name=name,
            slice=slice,
            framework=framework,
            source=source,
            is_wrong=is_wrong,
            make=made(framework, backward),
            dtypes=dtypes,
        )
        for framework in frameworks
        for is_wrong, backward in ((True, wrong), (False, right))
    ]
