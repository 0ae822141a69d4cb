"""NumPy's arrays cross unchanged, and never as views of the caller's."""

import numpy as np

from gradcheck.adapters.numpy_ import BRIDGE


def test_floating_and_complex_arrays_are_differentiable() -> None:
    dtypes = ["float16", "float32", "float64", "complex64", "complex128", "int64", "bool"]

    found = [name for name in dtypes if BRIDGE.is_differentiable(np.zeros(2, name))]

    assert found == ["float16", "float32", "float64", "complex64", "complex128"]


def test_a_scalar_is_an_array() -> None:
    assert BRIDGE.leaf("x", np.float64(1.0)).shape == ()


def test_float16_is_held_as_float32() -> None:
    assert BRIDGE.out(np.array([1.5], np.float16)).dtype == np.float32


def test_what_comes_out_is_a_copy() -> None:
    x = np.zeros(3)

    BRIDGE.out(x)[0] = 1

    assert x[0] == 0


def test_into_takes_the_dtype_and_wide_keeps_it() -> None:
    like = np.zeros(1, np.float32)

    assert BRIDGE.into(np.ones(1), like).dtype == np.float32
    assert BRIDGE.wide(np.ones(1), like).dtype == np.float64
