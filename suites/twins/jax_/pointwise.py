"""JAX twins of the layers that act on each row or each element, and of their compositions."""

import jax
import jax.numpy as jnp
from jax import lax

from gradcheck.reference.activations import (
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from gradcheck.reference.composition import Residual, Sequential
from gradcheck.reference.dense import Dense
from gradcheck.reference.dropout import Dropout
from gradcheck.reference.embedding import Embedding
from gradcheck.reference.losses import (
    BinaryCrossEntropyWithLogits,
    CrossEntropy,
    CrossEntropyProbabilities,
    MeanSquaredError,
    Reduction,
)
from gradcheck.reference.normalization import BatchNorm, LayerNorm, RMSNorm
from gradcheck.suites.twins.jax_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def dense(layer: Dense, params: Params, x: jax.Array) -> Outputs:
    y = x @ params["weight"].T
    return (y + params["bias"] if layer.bias else y,)


@apply.register
def relu(layer: ReLU, params: Params, x: jax.Array) -> Outputs:
    return (jax.nn.relu(x),)


@apply.register
def leaky_relu(layer: LeakyReLU, params: Params, x: jax.Array) -> Outputs:
    # jax.nn.leaky_relu has the derivative one at zero; PyTorch and the reference have the slope.
    return (jnp.where(x > 0, x, layer.slope * x),)


@apply.register
def gelu(layer: GELU, params: Params, x: jax.Array) -> Outputs:
    return (jax.nn.gelu(x, approximate=layer.approximate == "tanh"),)


@apply.register
def silu(layer: SiLU, params: Params, x: jax.Array) -> Outputs:
    return (jax.nn.silu(x),)


@apply.register
def tanh(layer: Tanh, params: Params, x: jax.Array) -> Outputs:
    return (jnp.tanh(x),)


@apply.register
def sigmoid(layer: Sigmoid, params: Params, x: jax.Array) -> Outputs:
    return (jax.nn.sigmoid(x),)


@apply.register
def softplus(layer: Softplus, params: Params, x: jax.Array) -> Outputs:
    return (jax.nn.softplus(x),)


@apply.register
def softmax(layer: Softmax, params: Params, x: jax.Array) -> Outputs:
    return (jax.nn.softmax(x, axis=layer.axis),)


@apply.register
def log_softmax(layer: LogSoftmax, params: Params, x: jax.Array) -> Outputs:
    return (jax.nn.log_softmax(x, axis=layer.axis),)


def _reduced(losses: jax.Array, reduction: Reduction) -> Outputs:
    if reduction == "none":
        return (losses,)
    return (losses.mean() if reduction == "mean" else losses.sum(),)


@apply.register
def mean_squared_error(
    layer: MeanSquaredError, params: Params, x: jax.Array, t: jax.Array
) -> Outputs:
    return _reduced(jnp.square(x - t), layer.reduction)


@apply.register
def cross_entropy(layer: CrossEntropy, params: Params, x: jax.Array, t: jax.Array) -> Outputs:
    log_p = jnp.take_along_axis(jax.nn.log_softmax(x), t[:, None], axis=1)
    return _reduced(-log_p[:, 0], layer.reduction)


@apply.register
def cross_entropy_probabilities(
    layer: CrossEntropyProbabilities, params: Params, x: jax.Array, t: jax.Array
) -> Outputs:
    return _reduced(-(t * jax.nn.log_softmax(x)).sum(axis=1), layer.reduction)


@apply.register
def binary_cross_entropy(
    layer: BinaryCrossEntropyWithLogits, params: Params, x: jax.Array, t: jax.Array
) -> Outputs:
    losses = -t * jax.nn.log_sigmoid(x) - (1 - t) * jax.nn.log_sigmoid(-x)
    return _reduced(losses, layer.reduction)


@apply.register
def batch_norm(layer: BatchNorm, params: Params, x: jax.Array, *statistics: jax.Array) -> Outputs:
    def per_channel(a: jax.Array) -> jax.Array:
        return a.reshape(-1, *(1,) * (x.ndim - 2))

    if layer.mode == "training":
        x_hat = _standardized(x, (0, *range(2, x.ndim)), layer.epsilon)
    else:
        mean, variance = (per_channel(s) for s in statistics)
        x_hat = jax.nn.standardize(x, mean=mean, variance=variance, epsilon=layer.epsilon)
    return (per_channel(params["weight"]) * x_hat + per_channel(params["bias"]),)


@apply.register
def layer_norm(layer: LayerNorm, params: Params, x: jax.Array) -> Outputs:
    x_hat = _standardized(x, tuple(range(-len(layer.shape), 0)), layer.epsilon)
    return (params["weight"] * x_hat + params["bias"] if layer.affine else x_hat,)


def _standardized(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    # Left to itself, jax.nn.standardize takes mean(x²) - mean(x)², which cancels far from zero.
    variance = x.var(axis=axes, keepdims=True)
    return jax.nn.standardize(x, axes, variance=variance, epsilon=epsilon)


@apply.register
def rms_norm(layer: RMSNorm, params: Params, x: jax.Array) -> Outputs:
    axes = tuple(range(-len(layer.shape), 0))
    mean_square = jnp.square(x).mean(axis=axes, keepdims=True)
    return (params["weight"] * x * lax.rsqrt(mean_square + layer.epsilon),)


@apply.register
def embedding(layer: Embedding, params: Params, indices: jax.Array) -> Outputs:
    weight = params["weight"]
    if layer.padding_index is not None:
        row = lax.stop_gradient(weight[layer.padding_index])
        weight = weight.at[layer.padding_index].set(row)
    return (weight[indices],)


@apply.register
def dropout(layer: Dropout, params: Params, x: jax.Array, mask: jax.Array) -> Outputs:
    return (x * mask / (1 - layer.rate),)


@apply.register
def sequential(layer: Sequential, params: Params, x: jax.Array) -> Outputs:
    outputs: Outputs = (x,)
    for i, link in enumerate(layer.layers):
        outputs = apply(link, params[str(i)], outputs[0])
    return outputs


@apply.register
def residual(layer: Residual, params: Params, x: jax.Array) -> Outputs:
    f, *others = apply(layer.inner, params["inner"], x)
    return (x + f, *others)
