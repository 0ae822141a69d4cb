"""Losses: against PyTorch, JAX and differences; empty batches, extremes, and misuse."""

import math
from typing import Any

import numpy as np
import pytest

from gradcheck.reference.layer import Array, Layer
from gradcheck.reference.losses import (
    BinaryCrossEntropyWithLogits,
    CrossEntropy,
    CrossEntropyProbabilities,
    MeanSquaredError,
)
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
    vjp,
)

LOSSES: list[Any] = [
    MeanSquaredError,
    CrossEntropy,
    CrossEntropyProbabilities,
    BinaryCrossEntropyWithLogits,
]
REDUCTIONS = ["mean", "sum", "none"]
EVERY: list[Layer] = [loss(reduction=r) for loss in LOSSES for r in REDUCTIONS]
SHAPES = [(4, 3), (1, 1), (0, 3)]


def batch(loss: Layer, shape: tuple[int, ...] = (4, 3), scale: float = 1.0) -> tuple[Array, Array]:
    """Return logits or predictions, and targets of the kind that `loss` asks for."""
    rng = np.random.default_rng(0)
    x = scale * rng.standard_normal(shape)
    if isinstance(loss, CrossEntropy):
        return x, rng.integers(shape[1], size=shape[0])
    if isinstance(loss, CrossEntropyProbabilities):
        return x, rng.dirichlet(np.ones(shape[1]), size=shape[0])
    return x, rng.random(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_twins_agree(loss: Layer, shape: tuple[int, ...]) -> None:
    assert_twins_agree(loss, *batch(loss, shape), rtol=1e-13)


@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_twins_agree_on_extreme_logits(loss: Layer) -> None:
    assert_twins_agree(loss, *batch(loss, scale=1e4), rtol=1e-12)


@pytest.mark.parametrize("loss", [MeanSquaredError(), BinaryCrossEntropyWithLogits()], ids=str)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)], ids=str)
def test_elementwise_losses_take_any_rank(loss: Layer, shape: tuple[int, ...]) -> None:
    assert_twins_agree(loss, *batch(loss, shape), rtol=1e-13)


@pytest.mark.parametrize("shape", [(4, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_slopes_agree(loss: Layer, shape: tuple[int, ...]) -> None:
    assert_slopes_agree(loss, *batch(loss, shape))


@pytest.mark.parametrize("loss", EVERY, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_dtype_is_kept(loss: Layer, dtype: type) -> None:
    assert_keeps_dtype(loss, *batch(loss), dtype=dtype)


@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_mutates_nothing(loss: Layer) -> None:
    assert_mutates_nothing(loss, *batch(loss))


@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_strides_do_not_matter(loss: Layer) -> None:
    assert_same_with_strides(loss, *batch(loss))


@pytest.mark.parametrize("loss", LOSSES)
def test_mean_over_an_empty_batch_is_nan(loss: Any) -> None:
    layer = loss(reduction="mean")

    (y,), _, (_, (x_bar, *_)) = vjp(layer, {}, *batch(layer, (0, 3)))

    assert y.shape == ()
    assert math.isnan(y)
    assert x_bar.shape == (0, 3)


@pytest.mark.parametrize("loss", LOSSES)
def test_sum_over_an_empty_batch_is_zero(loss: Any) -> None:
    layer = loss(reduction="sum")

    (y,), _ = layer.forward({}, *batch(layer, (0, 3)))

    assert y == 0


@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 80), (np.float64, 1e4)])
@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_extremes_are_finite(loss: Layer, dtype: type, large: float) -> None:
    x, t = batch(loss)
    x = np.where(x > 0, large, -large).astype(dtype)

    (y,), _, (_, x_bars) = vjp(loss, {}, x, t if t.dtype.kind == "i" else t.astype(dtype))

    assert np.isfinite(y).all()
    assert all(np.isfinite(x_bar).all() for x_bar in x_bars if x_bar is not None)


def test_confident_and_correct_costs_little_but_not_nothing() -> None:
    x, t = np.array([-30.0, 30.0]), np.array([0.0, 1.0])

    (losses,), _ = BinaryCrossEntropyWithLogits(reduction="none").forward({}, x, t)

    np.testing.assert_allclose(losses, math.exp(-30), rtol=1e-12)


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_classes() -> None:
    (loss,), _ = CrossEntropy().forward({}, np.zeros((2, 5)), np.array([0, 4]))

    assert loss == pytest.approx(math.log(5))


def test_one_hot_probabilities_are_class_indices() -> None:
    x, t = batch(CrossEntropy())

    (by_index,), _, (_, (by_index_bar, _)) = vjp(CrossEntropy(), {}, x, t)
    (by_row,), _, (_, (by_row_bar, _)) = vjp(CrossEntropyProbabilities(), {}, x, np.eye(3)[t])

    np.testing.assert_allclose(by_row, by_index)
    np.testing.assert_allclose(by_row_bar, by_index_bar)


def test_probabilities_need_not_sum_to_one() -> None:
    x, t = batch(CrossEntropyProbabilities())

    assert_twins_agree(CrossEntropyProbabilities(), x, 3 * t - 1)


def test_class_indices_have_no_gradient() -> None:
    _, _, (_, x_bars) = vjp(CrossEntropy(), {}, *batch(CrossEntropy()))

    assert x_bars[1] is None


MISUSE: list[tuple[Layer, Array, Array, str]] = [
    (MeanSquaredError(), np.zeros(3), np.zeros((3, 1)), r"shape \(3,\).*got \(3, 1\)"),
    (CrossEntropyProbabilities(), np.zeros((2, 3)), np.zeros((2, 1)), "nothing is broadcast"),
    (BinaryCrossEntropyWithLogits(), np.zeros(3), np.zeros(1), "nothing is broadcast"),
    (CrossEntropy(), np.zeros((2, 3)), np.array([0, 3]), r"targets in \[0, 3\); got 0 to 3"),
    (CrossEntropy(), np.zeros((2, 3)), np.array([-100, 0]), r"got -100 to 0"),
    (CrossEntropy(), np.zeros((2, 3)), np.zeros(2), r"integer targets.*float64 \(2,\)"),
    (CrossEntropy(), np.zeros((2, 3)), np.array([0]), r"got \(2, 3\) and int64 \(1,\)"),
    (CrossEntropy(), np.zeros(3), np.array([0, 0, 0]), r"expected logits \(N, C\)"),
]


@pytest.mark.parametrize(("loss", "x", "t", "message"), MISUSE)
def test_unfit_targets_are_refused(loss: Layer, x: Array, t: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss.forward({}, x, t)


@pytest.mark.parametrize("loss", LOSSES)
def test_unknown_reduction_is_refused(loss: Any) -> None:
    with pytest.raises(ValueError, match=rf"{loss.__name__}: .*'none'; got 'average'"):
        loss(reduction="average")
