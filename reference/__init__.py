"""Backpropagation in plain NumPy, written to be read: the oracle of the suites."""

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
from gradcheck.reference.attention import MultiHeadAttention, ScaledDotProductAttention
from gradcheck.reference.cells import ElmanCell, GRUCell, LSTMCell
from gradcheck.reference.composition import Residual, Sequential
from gradcheck.reference.convolution import Convolution
from gradcheck.reference.dense import Dense
from gradcheck.reference.dropout import Dropout
from gradcheck.reference.embedding import Embedding
from gradcheck.reference.fixed_point import Damped, FixedPoint, TanhTransition, Unrolled
from gradcheck.reference.layer import Array, Layer, Params
from gradcheck.reference.learning import Momentum
from gradcheck.reference.losses import (
    BinaryCrossEntropyWithLogits,
    CrossEntropy,
    CrossEntropyProbabilities,
    MeanSquaredError,
)
from gradcheck.reference.normalization import BatchNorm, LayerNorm, RMSNorm
from gradcheck.reference.pooling import AveragePool, MaxPool
from gradcheck.reference.recurrent import Recurrent

__all__ = [
    "GELU",
    "Array",
    "AveragePool",
    "BatchNorm",
    "BinaryCrossEntropyWithLogits",
    "Convolution",
    "CrossEntropy",
    "CrossEntropyProbabilities",
    "Damped",
    "Dense",
    "Dropout",
    "ElmanCell",
    "Embedding",
    "FixedPoint",
    "GRUCell",
    "LSTMCell",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LogSoftmax",
    "MaxPool",
    "MeanSquaredError",
    "Momentum",
    "MultiHeadAttention",
    "Params",
    "RMSNorm",
    "ReLU",
    "Recurrent",
    "Residual",
    "ScaledDotProductAttention",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "TanhTransition",
    "Unrolled",
]
