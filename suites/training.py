"""Do reference, PyTorch and JAX learn alike? The same digits, the same steps, compared at each.

A gradient that is a little wrong still learns, only elsewhere: the loss goes down, and nobody
notices. Side by side the paths part at the first step that uses it, and the leaf is named.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from gradcheck.errors import InputError, MissingFrameworkError
from gradcheck.reference.activations import Tanh
from gradcheck.reference.cells import LSTMCell
from gradcheck.reference.composition import Sequential
from gradcheck.reference.dense import Dense
from gradcheck.reference.layer import Array, Cache, Cotangents, Layer, Outputs, Params
from gradcheck.reference.learning import Momentum
from gradcheck.reference.losses import CrossEntropy
from gradcheck.reference.recurrent import Recurrent

__all__ = [
    "BACKENDS",
    "Batch",
    "Divergence",
    "PixelReader",
    "RowReader",
    "Trajectory",
    "Training",
    "accuracy",
    "digits",
    "digits_trajectory",
    "first_divergence",
]
