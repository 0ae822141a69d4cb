"""PyTorch twins of the layers that act on each row or each element, and of their compositions."""

import torch
import torch.nn.functional as F

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
)
from gradcheck.reference.normalization import BatchNorm, LayerNorm, RMSNorm
from gradcheck.suites.twins.missing import NoTwin
from gradcheck.suites.twins.torch_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def dense(layer: Dense, params: Params, x: torch.Tensor) -> Outputs:
    return (F.linear(x, params["weight"], params.get("bias")),)


@apply.register
def relu(layer: ReLU, params: Params, x: torch.Tensor) -> Outputs:
    return (F.relu(x),)


@apply.register
def leaky_relu(layer: LeakyReLU, params: Params, x: torch.Tensor) -> Outputs:
    return (F.leaky_relu(x, layer.slope),)


@apply.register
def gelu(layer: GELU, params: Params, x: torch.Tensor) -> Outputs:
    return (F.gelu(x, approximate=layer.approximate),)


@apply.register
def silu(layer: SiLU, params: Params, x: torch.Tensor) -> Outputs:
    return (F.silu(x),)


@apply.register
def tanh(layer: Tanh, params: Params, x: torch.Tensor) -> Outputs:
    return (torch.tanh(x),)


@apply.register
def sigmoid(layer: Sigmoid, params: Params, x: torch.Tensor) -> Outputs:
    return (torch.sigmoid(x),)


@apply.register
def softplus(layer: Softplus, params: Params, x: torch.Tensor) -> Outputs:
    # Above its threshold PyTorch returns x itself. At the default of 20 that is off by 2e-9; at
    # 40 by 4e-18, below half an ulp of 40 in float64, and e⁴⁰ is still far from overflow.
    return (F.softplus(x, threshold=40),)


@apply.register
def softmax(layer: Softmax, params: Params, x: torch.Tensor) -> Outputs:
    return (F.softmax(x, dim=layer.axis),)


@apply.register
def log_softmax(layer: LogSoftmax, params: Params, x: torch.Tensor) -> Outputs:
    return (F.log_softmax(x, dim=layer.axis),)


@apply.register
def mean_squared_error(
    layer: MeanSquaredError, params: Params, x: torch.Tensor, t: torch.Tensor
) -> Outputs:
    return (F.mse_loss(x, t, reduction=layer.reduction),)


@apply.register
def cross_entropy(
    layer: CrossEntropy | CrossEntropyProbabilities,
    params: Params,
    x: torch.Tensor,
    t: torch.Tensor,
) -> Outputs:
    return (F.cross_entropy(x, t, reduction=layer.reduction),)


@apply.register
def binary_cross_entropy(
    layer: BinaryCrossEntropyWithLogits, params: Params, x: torch.Tensor, t: torch.Tensor
) -> Outputs:
    return (F.binary_cross_entropy_with_logits(x, t, reduction=layer.reduction),)


@apply.register
def batch_norm(
    layer: BatchNorm, params: Params, x: torch.Tensor, *statistics: torch.Tensor
) -> Outputs:
    training = layer.mode == "training"
    if training and x.numel() == layer.features:
        raise NoTwin(layer, "torch", "one element per channel is refused in training")
    mean, variance = (None, None) if training else statistics
    weight, bias = params["weight"], params["bias"]
    return (F.batch_norm(x, mean, variance, weight, bias, training, eps=layer.epsilon),)


@apply.register
def layer_norm(layer: LayerNorm, params: Params, x: torch.Tensor) -> Outputs:
    weight, bias = params.get("weight"), params.get("bias")
    return (F.layer_norm(x, layer.shape, weight, bias, layer.epsilon),)


@apply.register
def rms_norm(layer: RMSNorm, params: Params, x: torch.Tensor) -> Outputs:
    return (F.rms_norm(x, layer.shape, params["weight"], layer.epsilon),)


@apply.register
def embedding(layer: Embedding, params: Params, indices: torch.Tensor) -> Outputs:
    return (F.embedding(indices, params["weight"], padding_idx=layer.padding_index),)


@apply.register
def dropout(layer: Dropout, params: Params, x: torch.Tensor, mask: torch.Tensor) -> Outputs:
    return (x * mask / (1 - layer.rate),)


@apply.register
def sequential(layer: Sequential, params: Params, x: torch.Tensor) -> Outputs:
    outputs: Outputs = (x,)
    for i, link in enumerate(layer.layers):
        outputs = apply(link, params[str(i)], outputs[0])
    return outputs


@apply.register
def residual(layer: Residual, params: Params, x: torch.Tensor) -> Outputs:
    f, *others = apply(layer.inner, params["inner"], x)
    return (x + f, *others)
