"""Slips in a twin: the reference and the other framework are right, one framework is not."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F

from gradcheck.reference.activations import GELU, ReLU, Softmax
from gradcheck.reference.attention import ScaledDotProductAttention
from gradcheck.reference.composition import Residual
from gradcheck.reference.convolution import Convolution
from gradcheck.reference.dense import Dense
from gradcheck.reference.dropout import Dropout
from gradcheck.reference.embedding import Embedding
from gradcheck.reference.fixed_point import FixedPoint
from gradcheck.reference.losses import MeanSquaredError
from gradcheck.reference.normalization import BatchNorm, LayerNorm
from gradcheck.reference.pooling import MaxPool
from gradcheck.reference.recurrent import Recurrent
from gradcheck.suites.twins import jax_, torch_
from tests.faults.planting import Fault, faultless

__all__ = ["FAULTS", "MISSHAPEN"]

Tensors = tuple[torch.Tensor, ...]
Arrays = tuple[jax.Array, ...]


class _Regraded(torch.autograd.Function):
    """The identity, with a gradient that went through `change`: the kernel has the slip."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, change: Callable[..., torch.Tensor]) -> torch.Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.change(u), None


_regraded: Callable[..., torch.Tensor] = _Regraded.apply


class TorchBiasAveraged(Dense):
    """PyTorch: b̄ is the mean over rows."""


@torch_.apply.register
def _(layer: TorchBiasAveraged, params: Any, x: torch.Tensor) -> Tensors:
    rows = max(x[..., 0].numel(), 1)
    bias = _regraded(params["bias"], lambda g: g / rows) if layer.bias else None
    return (F.linear(x, params["weight"], bias),)


class TorchVarianceDetached(BatchNorm):
    """PyTorch: batch norm by hand, the variance outside of the graph."""


@torch_.apply.register
def _(layer: TorchVarianceDetached, params: Any, x: torch.Tensor, *given: torch.Tensor) -> Tensors:
    if layer.mode == "inference":
        return torch_.apply(faultless(layer), params, x, *given)
    axes, over = (0, *range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
    centred = x - x.mean(axes, keepdim=True)
    x_hat = centred / (centred.square().mean(axes, keepdim=True).detach() + layer.epsilon).sqrt()
    return (params["weight"].reshape(over) * x_hat + params["bias"].reshape(over),)


class TorchStateDetachedEveryStep(Recurrent):
    """PyTorch: the hidden state is detached at every step, as for streaming."""


@torch_.apply.register
def _(layer: TorchStateDetachedEveryStep, params: Any, *inputs: torch.Tensor) -> Tensors:
    right = faultless(layer)
    return torch_.apply(
        right if layer.bidirectional else replace(right, truncation=1), params, *inputs
    )


class TorchGatesOutOfOrder(Recurrent):
    """PyTorch: the rows of W̄_ih lie in the order of another library, f before i."""


@torch_.apply.register
def _(layer: TorchGatesOutOfOrder, params: Any, *inputs: torch.Tensor) -> Tensors:
    def reordered(g: torch.Tensor) -> torch.Tensor:
        i, f, *others = g.chunk(layer.cell.gates)
        return torch.cat([f, i, *others])

    weight = _regraded(params["weight_ih_l0"], reordered)
    return torch_.apply(faultless(layer), {**params, "weight_ih_l0": weight}, *inputs)


class TorchPaddingRowLearns(Embedding):
    """PyTorch: `padding_idx` is not handed on."""


@torch_.apply.register
def _(layer: TorchPaddingRowLearns, params: Any, indices: torch.Tensor) -> Tensors:
    return (F.embedding(indices, params["weight"]),)


class TorchOneStepGradient(FixedPoint):
    """PyTorch: found without a graph, then one step with it, and no adjoint."""


@torch_.apply.register
def _(layer: TorchOneStepGradient, params: Any, x: torch.Tensor) -> Tensors:
    with torch.no_grad():
        (z,) = torch_.apply(faultless(layer), params, x)
    return torch_.apply(layer.transition, params, z, x)


class TorchTiesShared(MaxPool):
    """PyTorch: `amax`, which divides the gradient among equal maxima."""


@torch_.apply.register
def _(layer: TorchTiesShared, params: Any, x: torch.Tensor) -> Tensors:
    windows = layer.windows
    around = [p for p in reversed(windows.padding) for _ in range(2)]
    y = F.pad(x, around, value=-torch.inf)
    for axis, (kernel, stride) in enumerate(zip(windows.kernel, windows.stride, strict=True)):
        y = y.unfold(2 + axis, kernel, stride).amax(-1)
    return (y,)


class TorchWeightsDetached(ScaledDotProductAttention):
    """PyTorch: the attention weights are constants; only v learns."""


@torch_.apply.register
def _(layer: TorchWeightsDetached, params: Any, *inputs: torch.Tensor) -> Tensors:
    q, k, *others = inputs
    return torch_.apply(faultless(layer), params, q.detach(), k.detach(), *others)


class TorchKernelGradientFlipped(Convolution):
    """PyTorch: W̄ of a convolution for that of a cross-correlation."""


@torch_.apply.register
def _(layer: TorchKernelGradientFlipped, params: Any, x: torch.Tensor) -> Tensors:
    axes = tuple(range(2, 2 + len(layer.kernel)))
    weight = _regraded(params["weight"], lambda g: g.flip(axes))
    return torch_.apply(faultless(layer), {**params, "weight": weight}, x)


class TorchShortcutDetached(Residual):
    """PyTorch: the shortcut is detached."""


@torch_.apply.register
def _(layer: TorchShortcutDetached, params: Any, x: torch.Tensor) -> Tensors:
    f, *others = torch_.apply(layer.inner, params["inner"], x)
    return (x.detach() + f, *others)


class TorchMeanForSum(MeanSquaredError):
    """PyTorch: the default reduction where the sum was asked for; the values differ too."""


@torch_.apply.register
def _(layer: TorchMeanForSum, params: Any, x: torch.Tensor, t: torch.Tensor) -> Tensors:
    return (F.mse_loss(x, t, reduction="none" if layer.reduction == "none" else "mean"),)


class TorchAxisTooMany(Dense):
    """PyTorch: the output has an axis that nobody asked for."""


@torch_.apply.register
def _(layer: TorchAxisTooMany, params: Any, x: torch.Tensor) -> Tensors:
    (y,) = torch_.apply(faultless(layer), params, x)
    return (y[None],)


class JaxWeightTransposed(Dense):
    """JAX: W̄ = xᵀu, which has the right shape when W is square."""


@jax.custom_vjp
def _linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    return x @ weight.T


def _linear_backward(saved: Arrays, u: jax.Array) -> Arrays:
    x, weight = saved
    weight_bar = u.reshape(-1, u.shape[-1]).T @ x.reshape(-1, x.shape[-1])
    square = weight.shape[0] == weight.shape[1]
    return u @ weight, weight_bar.T if square else weight_bar


_linear.defvjp(lambda x, weight: (_linear(x, weight), (x, weight)), _linear_backward)


@jax_.apply.register
def _(layer: JaxWeightTransposed, params: Any, x: jax.Array) -> Arrays:
    y = _linear(x, params["weight"])
    return (y + params["bias"] if layer.bias else y,)


class JaxMomentsStopped(LayerNorm):
    """JAX: mean and variance behind `stop_gradient`."""


@jax_.apply.register
def _(layer: JaxMomentsStopped, params: Any, x: jax.Array) -> Arrays:
    constant = jax.lax.stop_gradient(x)
    axes = tuple(range(-len(layer.shape), 0))
    mean, variance = constant.mean(axes, keepdims=True), constant.var(axes, keepdims=True)
    x_hat = jax.nn.standardize(x, axes, mean=mean, variance=variance, epsilon=layer.epsilon)
    return (params["weight"] * x_hat + params["bias"] if layer.affine else x_hat,)


class JaxNotANumberWithoutVariance(LayerNorm):
    """JAX: the root of the variance, squared again; where it is zero its derivative is infinite."""


@jax_.apply.register
def _(layer: JaxNotANumberWithoutVariance, params: Any, x: jax.Array) -> Arrays:
    axes = tuple(range(-len(layer.shape), 0))
    deviation = x.std(axes, keepdims=True)
    x_hat = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(deviation**2 + layer.epsilon)
    return (params["weight"] * x_hat + params["bias"] if layer.affine else x_hat,)


class JaxCarryStopped(Recurrent):
    """JAX: `stop_gradient` on the carry of every step."""


@jax_.apply.register
def _(layer: JaxCarryStopped, params: Any, *inputs: jax.Array) -> Arrays:
    right = faultless(layer)
    stopped = right if layer.bidirectional else replace(right, truncation=1)
    return jax_.apply(stopped, params, *inputs)


class JaxRepeatedIndicesOverwrite(Embedding):
    """JAX: `.at[].set` where `.at[].add` is meant."""


@partial(jax.custom_vjp)
def _lookup(weight: jax.Array, indices: jax.Array) -> jax.Array:
    return weight[indices]


def _lookup_backward(saved: Arrays, u: jax.Array) -> tuple[jax.Array, None]:
    weight, indices = saved
    return jnp.zeros_like(weight).at[indices].set(u), None


_lookup.defvjp(lambda weight, indices: (weight[indices], (weight, indices)), _lookup_backward)


@jax_.apply.register
def _(layer: JaxRepeatedIndicesOverwrite, params: Any, indices: jax.Array) -> Arrays:
    weight = params["weight"]
    if layer.padding_index is not None:
        row = layer.padding_index
        weight = weight.at[row].set(jax.lax.stop_gradient(weight[row]))
    return (_lookup(weight, indices),)


class JaxHalfAtZero(ReLU):
    """JAX: `jnp.maximum(x, 0)`, whose derivative at zero is ½ where that of all others is 0."""


@jax_.apply.register
def _(layer: JaxHalfAtZero, params: Any, x: jax.Array) -> Arrays:
    return (jnp.maximum(x, 0),)


class JaxOneStepGradient(FixedPoint):
    """JAX: `stop_gradient` at the fixed point, one step after it, and no adjoint."""


@jax_.apply.register
def _(layer: JaxOneStepGradient, params: Any, x: jax.Array) -> Arrays:
    (z,) = jax_.apply(faultless(layer), params, x)
    return jax_.apply(layer.transition, params, jax.lax.stop_gradient(z), x)


class JaxCausalMaskOffByOne(ScaledDotProductAttention):
    """JAX: query i may attend to key i + 1."""


@jax_.apply.register
def _(layer: JaxCausalMaskOffByOne, params: Any, *inputs: jax.Array) -> Arrays:
    right = faultless(layer)
    if not layer.causal:
        return jax_.apply(right, params, *inputs)
    q, k, v, *given = inputs
    past = jnp.tri(q.shape[-2], k.shape[-2], k=1, dtype=bool)
    mask = jnp.broadcast_to(past, (*q.shape[:-1], k.shape[-2]))
    mask = mask & given[0] if given else mask
    return jax_.apply(replace(right, causal=False, masked=True), params, q, k, v, mask)


class JaxOtherGelu(GELU):
    """JAX: `approximate` is left at its default, which is not PyTorch's."""


@jax_.apply.register
def _(layer: JaxOtherGelu, params: Any, x: jax.Array) -> Arrays:
    return (jax.nn.gelu(x),)


class JaxMaskForgottenInBackward(Dropout):
    """JAX: the custom VJP rescales and does not mask."""


@jax.custom_vjp
def _dropped(x: jax.Array, mask: jax.Array, keep: float) -> jax.Array:
    return x * mask / keep


_dropped.defvjp(
    lambda x, mask, keep: (x * mask / keep, keep), lambda keep, u: (u / keep, None, None)
)


@jax_.apply.register
def _(layer: JaxMaskForgottenInBackward, params: Any, x: jax.Array, mask: jax.Array) -> Arrays:
    return (_dropped(x, mask, 1 - layer.rate),)


class JaxDiagonalOnly(Softmax):
    """JAX: the normalizer is behind `stop_gradient`."""


@jax_.apply.register
def _(layer: JaxDiagonalOnly, params: Any, x: jax.Array) -> Arrays:
    total = jax.lax.stop_gradient(jax.nn.logsumexp(x, axis=layer.axis, keepdims=True))
    return (jnp.exp(x - total),)


BOTH = ("torch", "jax")

FAULTS = (
    Fault(wrong=TorchBiasAveraged, family="dense", leaf="params.bias", odd="torch"),
    Fault(wrong=TorchVarianceDetached, family="normalizations", leaf="input[[]0]", odd="torch"),
    Fault(wrong=TorchStateDetachedEveryStep, family="elman", leaf="input[[]1]", odd="torch"),
    Fault(wrong=TorchGatesOutOfOrder, family="lstm", leaf="params.weight_ih_l0", odd="torch"),
    Fault(
        wrong=TorchPaddingRowLearns,
        family="embeddings",
        leaf="params.weight",
        odd="torch",
        backends=BOTH,
    ),
    Fault(wrong=TorchOneStepGradient, family="fixed points", leaf="input[[]0]", odd="torch"),
    Fault(wrong=TorchTiesShared, family="pools", leaf="input[[]0]", odd="torch", backends=BOTH),
    Fault(wrong=TorchWeightsDetached, family="attentions", leaf="input[[]0]", odd="torch"),
    Fault(
        wrong=TorchKernelGradientFlipped, family="convolutions", leaf="params.weight", odd="torch"
    ),
    Fault(wrong=TorchShortcutDetached, family="compositions", leaf="input[[]0]", odd="torch"),
    Fault(wrong=TorchMeanForSum, family="losses", leaf="output[[]0]", odd="torch", backends=BOTH),
    Fault(
        wrong=JaxWeightTransposed,
        family="dense",
        leaf="params.weight",
        odd="jax",
        backends=("jax",),
    ),
    Fault(
        wrong=JaxMomentsStopped,
        family="normalizations",
        leaf="input[[]0]",
        odd="jax",
        backends=("jax",),
    ),
    Fault(
        wrong=JaxNotANumberWithoutVariance,
        family="normalizations",
        leaf="input[[]0]",
        odd="jax",
        backends=BOTH,
    ),
    Fault(wrong=JaxCarryStopped, family="lstm", leaf="input[[]1]", odd="jax", backends=("jax",)),
    Fault(
        wrong=JaxRepeatedIndicesOverwrite,
        family="embeddings",
        leaf="params.weight",
        odd="jax",
        backends=("jax",),
    ),
    Fault(wrong=JaxHalfAtZero, family="activations", leaf="input[[]0]", odd="jax", backends=BOTH),
    Fault(
        wrong=JaxOneStepGradient,
        family="fixed points",
        leaf="input[[]0]",
        odd="jax",
        backends=("jax",),
    ),
    Fault(
        wrong=JaxCausalMaskOffByOne,
        family="attentions",
        leaf="output[[]0]",
        odd="jax",
        backends=BOTH,
    ),
    Fault(wrong=JaxOtherGelu, family="activations", leaf="output[[]0]", odd="jax", backends=BOTH),
    Fault(
        wrong=JaxMaskForgottenInBackward,
        family="dropouts",
        leaf="input[[]0]",
        odd="jax",
        backends=("jax",),
    ),
    Fault(
        wrong=JaxDiagonalOnly, family="activations", leaf="input[[]0]", odd="jax", backends=("jax",)
    ),
)

MISSHAPEN = (Fault(wrong=TorchAxisTooMany, family="dense", leaf="output[[]0]", odd="torch"),)
