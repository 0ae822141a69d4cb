"""Normalization: against PyTorch, JAX and differences; degenerate groups, offsets, and misuse."""

import jax
import numpy as np
import pytest
import torch

from gradcheck.reference.layer import Array, Layer
from gradcheck.reference.normalization import BatchNorm, LayerNorm, RMSNorm
from gradcheck.suites.twins import torch_
from gradcheck.suites.twins.missing import NoTwin
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
    vjp,
)


def gaussian(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape)


def statistics(features: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.standard_normal(features), rng.random(features) + 0.5


TRAINING = BatchNorm(features=3)
INFERENCE = BatchNorm(features=3, mode="inference")
CASES: list[tuple[Layer, tuple[Array, ...]]] = [
    (TRAINING, (gaussian(5, 3),)),
    (TRAINING, (gaussian(2, 3, 4),)),
    (TRAINING, (gaussian(1, 3, 2, 2),)),
    (TRAINING, (gaussian(0, 3, 2),)),
    (BatchNorm(features=1, epsilon=0.1), (gaussian(4, 1),)),
    (INFERENCE, (gaussian(5, 3), *statistics(3))),
    (INFERENCE, (gaussian(1, 3), *statistics(3))),
    (INFERENCE, (gaussian(2, 3, 2, 2), *statistics(3))),
    (INFERENCE, (gaussian(0, 3), *statistics(3))),
    (LayerNorm(shape=(4,)), (gaussian(5, 4),)),
    (LayerNorm(shape=(4,), affine=False), (gaussian(5, 4),)),
    (LayerNorm(shape=(3, 4), epsilon=0.1), (gaussian(2, 3, 4),)),
    (LayerNorm(shape=(4,)), (gaussian(4),)),
    (LayerNorm(shape=(1,)), (gaussian(5, 1),)),
    (LayerNorm(shape=(4,)), (gaussian(0, 4),)),
    (RMSNorm(shape=(4,)), (gaussian(5, 4),)),
    (RMSNorm(shape=(3, 4), epsilon=0.1), (gaussian(2, 3, 4),)),
    (RMSNorm(shape=(4,)), (gaussian(4),)),
    (RMSNorm(shape=(1,)), (gaussian(5, 1),)),
    (RMSNorm(shape=(4,)), (gaussian(0, 4),)),
]
LAYERS: list[tuple[Layer, tuple[Array, ...]]] = [CASES[i] for i in (1, 7, 11, 16)]


@pytest.mark.parametrize(("layer", "inputs"), CASES)
def test_twins_agree(layer: Layer, inputs: tuple[Array, ...]) -> None:
    assert_twins_agree(layer, *inputs, rtol=1e-12)


@pytest.mark.parametrize(("layer", "inputs"), CASES)
def test_dtype_is_kept(layer: Layer, inputs: tuple[Array, ...]) -> None:
    assert_keeps_dtype(layer, *inputs)


@pytest.mark.parametrize(("layer", "inputs"), CASES)
def test_slopes_agree(layer: Layer, inputs: tuple[Array, ...]) -> None:
    assert_slopes_agree(layer, *inputs)


@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
def test_mutates_nothing(layer: Layer, inputs: tuple[Array, ...]) -> None:
    assert_mutates_nothing(layer, *inputs)


@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
def test_strides_do_not_matter(layer: Layer, inputs: tuple[Array, ...]) -> None:
    assert_same_with_strides(layer, *inputs)


@pytest.mark.parametrize(
    ("layer", "x"),
    [(TRAINING, gaussian(5, 3)), (LayerNorm(shape=(4,)), gaussian(5, 4))],
)
def test_twins_agree_far_from_zero(layer: Layer, x: Array) -> None:
    # The spread is 1e-4 of the offset: an error of eps in mean(x²) would be 1e-8 of the variance.
    assert_twins_agree(layer, x + 1e4, rtol=1e-10)


def test_standardize_of_jax_by_itself_is_inexact_far_from_zero() -> None:
    x = gaussian(5, 4) + 1e4
    centred = x - x.mean(axis=1, keepdims=True)
    wanted = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-5)

    with jax.enable_x64(True):
        got = np.asarray(jax.nn.standardize(jax.numpy.asarray(x)))

    assert np.abs(got - wanted).max() > 1e-10  # else the JAX twin need not pass the variance


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (TRAINING, np.ones((4, 3))),
        (LayerNorm(shape=(4,)), np.ones((2, 4))),
        (RMSNorm(shape=(4,)), np.zeros((2, 4))),
    ],
)
def test_twins_agree_when_there_is_nothing_to_scale(layer: Layer, x: Array) -> None:
    assert_twins_agree(layer, x, rtol=1e-10)


@pytest.mark.parametrize("layer", [TRAINING, LayerNorm(shape=(3,), affine=False)], ids=str)
def test_extreme_values_are_normalized(layer: Layer) -> None:
    x = np.array([[-1e4, 0, 1e4], [1e4, 1e-4, -1e4], [0, 0, 1]])

    assert_twins_agree(layer, x, rtol=1e-10)


def test_batch_of_one_element_per_channel_is_normalized_to_the_bias() -> None:
    params = TRAINING.parameters(np.random.default_rng(0))

    (y,), _, (_, (x_bar,)) = vjp(TRAINING, params, gaussian(1, 3))

    np.testing.assert_array_equal(y, params["bias"][None])
    np.testing.assert_array_equal(x_bar, np.zeros((1, 3)))


def test_jax_agrees_on_a_batch_of_one_element_per_channel() -> None:
    assert_twins_agree(TRAINING, gaussian(1, 3), frameworks=("jax",))


def test_torch_refuses_a_batch_of_one_element_per_channel() -> None:
    params = {"weight": torch.ones(3), "bias": torch.zeros(3)}

    with pytest.raises(NoTwin, match="one element per channel"):
        torch_.apply(TRAINING, params, torch.ones(1, 3))


def test_batch_norm_in_training_does_not_see_a_shift_of_the_batch() -> None:
    _, _, (_, (x_bar,)) = vjp(
        TRAINING, TRAINING.parameters(np.random.default_rng(0)), gaussian(5, 3)
    )

    np.testing.assert_allclose(x_bar.sum(axis=0), 0, atol=1e-14)


def test_statistics_in_inference_are_constants() -> None:
    params = INFERENCE.parameters(np.random.default_rng(0))

    _, _, (_, x_bars) = vjp(INFERENCE, params, gaussian(5, 3), *statistics(3))

    assert [x_bar is None for x_bar in x_bars] == [False, True, True]
    assert BatchNorm.constant_inputs == (1, 2)


def test_layer_norm_without_affine_has_no_parameters() -> None:
    assert LayerNorm(shape=(4,), affine=False).parameters(np.random.default_rng(0)) == {}


@pytest.mark.parametrize(
    ("layer", "inputs", "message"),
    [
        (TRAINING, (np.ones((4, 2)),), r"x of shape \(N, 3, \.\.\.\).*got \(4, 2\)"),
        (TRAINING, (np.ones(3),), r"got \(3,\) and \[\]"),
        (TRAINING, (np.ones((4, 3)), *statistics(3)), "inputs in inference only"),
        (INFERENCE, (np.ones((4, 3)),), r"\[\(3,\), \(3,\)\]; got \(4, 3\) and \[\]"),
        (LayerNorm(shape=(4,)), (np.ones((4, 3)),), r"to be \(4,\); got \(4, 3\)"),
        (RMSNorm(shape=(2, 3)), (np.ones(3),), r"to be \(2, 3\); got \(3,\)"),
    ],
)
def test_unfit_inputs_are_refused(layer: Layer, inputs: tuple[Array, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer.forward(layer.parameters(np.random.default_rng(0), np.float64), *inputs)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'training' or 'inference'; got 'eval'"):
        BatchNorm(features=3, mode="eval")  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [0.0, -1e-5, float("nan"), float("inf")])
def test_epsilon_that_is_not_positive_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="RMSNorm: expected a positive epsilon"):
        RMSNorm(shape=(4,), epsilon=epsilon)


@pytest.mark.parametrize("shape", [(), (0,), 4])
def test_shape_that_is_no_tuple_of_sizes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Write \(features,\)"):
        LayerNorm(shape=shape)
