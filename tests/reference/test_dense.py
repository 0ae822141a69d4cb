"""The affine map."""

import numpy as np
import pytest

from gradcheck.reference.dense import Dense
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
)

SHAPES = [(4, 3), (2, 5, 3), (3,), (1, 3), (0, 3)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_twins_agree(shape: tuple[int, ...], bias: bool) -> None:
    x = np.random.default_rng(0).standard_normal(shape)

    assert_twins_agree(Dense(inputs=3, outputs=2, bias=bias), x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slopes_agree(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)

    assert_slopes_agree(Dense(inputs=3, outputs=2), x)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 4), (4, 1)])
def test_width_one_is_no_special_case(inputs: int, outputs: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, inputs))

    assert_twins_agree(Dense(inputs=inputs, outputs=outputs), x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_stays_float32(shape: tuple[int, ...]) -> None:
    assert_keeps_dtype(Dense(inputs=3, outputs=2), np.ones(shape))


def test_mutates_nothing() -> None:
    assert_mutates_nothing(Dense(inputs=3, outputs=2), np.ones((4, 3)))


def test_strides_do_not_matter() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 3))

    assert_same_with_strides(Dense(inputs=3, outputs=2), x)


def test_without_bias_there_is_no_parameter_of_that_name() -> None:
    assert Dense(inputs=3, outputs=2, bias=False).parameters(np.random.default_rng(0)).keys() == {
        "weight"
    }
