"""NumPy's own arrays: nothing to convert."""

from typing import Any

import numpy as np

from gradcheck.adapters.bridge import Bridge
from gradcheck.problem import Array

__all__ = ["BRIDGE"]


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic))


def _out(value: Any) -> Array:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float16 else array.copy()


def _into(array: Array, like: Any) -> Array:
    return array.astype(like.dtype)


BRIDGE = Bridge(
    framework="numpy",
    is_array=_is_array,
    dtype_of=lambda value: value.dtype.name,
    out=_out,
    into=_into,
    wide=lambda array, like: array.copy(),
)
