"""Dropout with a given mask, against PyTorch, JAX and differences."""

import numpy as np
import pytest

from gradcheck.reference.dropout import Dropout
from gradcheck.reference.layer import Array
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
    vjp,
)

SHAPES = [(4, 3), (2, 3, 4), (1, 1), (0, 3)]


def batch(*shape: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape), rng.random(shape) >= 0.3


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_twins_agree(shape: tuple[int, ...], rate: float) -> None:
    assert_twins_agree(Dropout(rate=rate), *batch(*shape), rtol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slopes_agree(shape: tuple[int, ...]) -> None:
    assert_slopes_agree(Dropout(rate=0.3), *batch(*shape))


def test_what_is_dropped_has_neither_value_nor_gradient() -> None:
    x, mask = batch(4, 3)

    (y,), _, (_, (x_bar, mask_bar)) = vjp(Dropout(rate=0.3), {}, x, mask)

    assert not y[~mask].any()
    assert not x_bar[~mask].any()
    assert mask_bar is None


def test_the_mean_over_masks_is_the_input() -> None:
    rng = np.random.default_rng(0)
    x = np.ones(100_000)

    (y,), _ = Dropout(rate=0.3).forward({}, x, rng.random(x.shape) >= 0.3)

    # The variance of one element is 0.3 / 0.7, so four standard errors are 0.0083.
    assert y.mean() == pytest.approx(1, abs=0.0083)


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_dtype_is_kept(dtype: type) -> None:
    assert_keeps_dtype(Dropout(rate=0.3), *batch(4, 3), dtype=dtype)


def test_mutates_nothing() -> None:
    assert_mutates_nothing(Dropout(rate=0.3), *batch(4, 3))


def test_strides_do_not_matter() -> None:
    assert_same_with_strides(Dropout(rate=0.3), *batch(2, 3, 4))


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rate_that_keeps_nothing_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"rate in \[0, 1\); got {rate}\. It is the share"):
        Dropout(rate=rate)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((4, 3)), r"expected a boolean mask.*got float64 \(4, 3\)"),
        (np.ones(3, dtype=bool), r"of the shape \(4, 3\) of x; got bool \(3,\)"),
    ],
)
def test_unfit_mask_is_refused(mask: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dropout().forward({}, np.ones((4, 3)), mask)
