"""Pooling, against PyTorch, JAX and differences; and the conventions at ties and edges."""

from typing import Any

import jax
import numpy as np
import pytest
import torch

from gradcheck.reference.pooling import AveragePool, MaxPool
from gradcheck.suites.twins import jax_, torch_
from gradcheck.suites.twins.missing import NoTwin
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
)

# (settings, shape of x)
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "1d": ({"kernel": (2,)}, (2, 3, 6)),
    "1d rest": ({"kernel": (2,)}, (2, 3, 5)),
    "1d overlapping": ({"kernel": (3,), "stride": (1,)}, (2, 2, 6)),
    "1d gaps": ({"kernel": (2,), "stride": (3,)}, (2, 2, 7)),
    "1d padding": ({"kernel": (3,), "stride": (2,), "padding": (1,)}, (2, 2, 6)),
    "1d half padding": ({"kernel": (4,), "stride": (1,), "padding": (2,)}, (1, 2, 3)),
    "1d kernel 1": ({"kernel": (1,)}, (2, 2, 3)),
    "1d kernel is the input": ({"kernel": (4,)}, (2, 2, 4)),
    "1d empty batch": ({"kernel": (2,)}, (0, 2, 4)),
    "2d": ({"kernel": (2, 2)}, (2, 2, 4, 5)),
    "2d asymmetric": (
        {"kernel": (3, 2), "stride": (1, 2), "padding": (1, 0)},
        (2, 2, 3, 5),
    ),
    "2d overlapping and padded": (
        {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)},
        (2, 1, 5, 4),
    ),
    "2d kernel is the input": ({"kernel": (3, 2)}, (2, 2, 3, 2)),
    "2d empty batch": ({"kernel": (2, 2)}, (0, 2, 4, 4)),
    "3d": ({"kernel": (2, 1, 3), "stride": (1, 1, 2), "padding": (1, 0, 1)}, (1, 2, 3, 2, 4)),
}
DILATED: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "1d": ({"kernel": (2,), "stride": (1,), "dilation": (3,)}, (2, 2, 7)),
    "1d padded": ({"kernel": (3,), "stride": (2,), "padding": (1,), "dilation": (2,)}, (2, 2, 6)),
    "2d": ({"kernel": (2, 3), "stride": (1, 1), "dilation": (2, 1)}, (1, 2, 4, 4)),
}
cases = pytest.mark.parametrize(("settings", "shape"), CASES.values(), ids=CASES.keys())
dilated = pytest.mark.parametrize(("settings", "shape"), DILATED.values(), ids=DILATED.keys())
counted = pytest.mark.parametrize("count_include_pad", [True, False])


def draw(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(5).standard_normal(shape)


@cases
def test_maximum_twins_agree(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_twins_agree(MaxPool(**settings), draw(shape))


@cases
def test_maximum_twins_agree_at_ties(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_twins_agree(MaxPool(**settings), np.round(draw(shape)))


@cases
def test_maximum_twins_agree_when_all_is_equal(
    settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    assert_twins_agree(MaxPool(**settings), np.full(shape, -2.0))


@dilated
def test_dilated_maximum_agrees_with_torch(
    settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    assert_twins_agree(MaxPool(**settings), np.round(draw(shape)), frameworks=("torch",))


@cases
def test_maximum_slopes_agree(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_slopes_agree(MaxPool(**settings), draw(shape))


@dilated
def test_dilated_maximum_slopes_agree(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_slopes_agree(MaxPool(**settings), draw(shape))


@counted
@cases
def test_mean_twins_agree(
    settings: dict[str, Any], shape: tuple[int, ...], count_include_pad: bool
) -> None:
    assert_twins_agree(AveragePool(**settings, count_include_pad=count_include_pad), draw(shape))


@counted
@cases
def test_mean_slopes_agree(
    settings: dict[str, Any], shape: tuple[int, ...], count_include_pad: bool
) -> None:
    assert_slopes_agree(AveragePool(**settings, count_include_pad=count_include_pad), draw(shape))


LAYERS = [
    MaxPool(kernel=(3, 2), stride=(1, 2), padding=(1, 0), dilation=(1, 2)),
    AveragePool(kernel=(3, 2), stride=(1, 2), padding=(1, 0)),
    AveragePool(kernel=(3, 2), stride=(1, 2), padding=(1, 0), count_include_pad=False),
]
layers = pytest.mark.parametrize("layer", LAYERS, ids=["max", "mean", "mean of the inside"])


@layers
@pytest.mark.parametrize("shape", [(2, 2, 4, 5), (0, 2, 4, 5)], ids=str)
def test_float32_stays_float32(layer: Any, shape: tuple[int, ...]) -> None:
    assert_keeps_dtype(layer, draw(shape))


@layers
def test_strides_do_not_matter(layer: Any) -> None:
    assert_same_with_strides(layer, draw((2, 2, 4, 5)))


@layers
def test_mutates_nothing(layer: Any) -> None:
    assert_mutates_nothing(layer, draw((2, 2, 4, 5)))


def test_the_first_of_equal_elements_takes_the_gradient() -> None:
    layer = MaxPool(kernel=(2, 2))
    x = np.array([[[[1.0, 3.0], [3.0, 3.0]]]])

    _, cache = layer.forward({}, x)
    _, (grad,) = layer.backward({}, cache, np.full((1, 1, 1, 1), 5.0))

    assert grad is not None
    assert grad[0, 0].tolist() == [[0, 5], [0, 0]]


def test_a_winner_collects_from_all_its_windows() -> None:
    layer = MaxPool(kernel=(3,), stride=(1,), padding=(1,))
    x = np.array([[[0.0, 7.0, 1.0]]])

    _, cache = layer.forward({}, x)
    _, (grad,) = layer.backward({}, cache, np.array([[[1.0, 2.0, 4.0]]]))

    assert grad is not None
    assert grad[0, 0].tolist() == [0, 7, 0]


def test_padding_never_wins() -> None:
    (y,), _ = MaxPool(kernel=(2,), stride=(1,), padding=(1,)).forward({}, np.full((1, 1, 1), -9.0))

    assert y[0, 0].tolist() == [-9, -9]


@pytest.mark.parametrize(("count_include_pad", "wanted"), [(True, [3, 9]), (False, [6, 9])])
def test_the_mean_counts_padding_on_demand(count_include_pad: bool, wanted: list[float]) -> None:
    layer = AveragePool(kernel=(2,), stride=(2,), padding=(1,), count_include_pad=count_include_pad)

    (y,), _ = layer.forward({}, np.array([[[6.0, 12.0, 6.0]]]))

    assert y[0, 0].tolist() == wanted


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [(MaxPool(kernel=(3, 2)), (3, 2)), (AveragePool(kernel=(3, 2)), (3, 2))],
    ids=["max", "mean"],
)
def test_windows_touch_unless_told(layer: MaxPool | AveragePool, wanted: tuple[int, ...]) -> None:
    assert layer.windows.stride == wanted


@pytest.mark.parametrize("cls", [MaxPool, AveragePool])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel": (0,)}, "every kernel to be at least 1"),
        ({"kernel": (2,), "stride": (0,)}, "every stride to be at least 1"),
        ({"kernel": (2,), "padding": (-1,)}, "every padding to be at least 0"),
        ({"kernel": (2, 2), "padding": (1,)}, "padding to have one number for each of the 2 axes"),
    ],
)
def test_impossible_settings_are_refused(cls: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**fields)


@pytest.mark.parametrize("layer", [MaxPool(kernel=(4,)), AveragePool(kernel=(4,))], ids=str)
def test_a_kernel_larger_than_the_input_is_refused(layer: Any) -> None:
    with pytest.raises(ValueError, match=r"padded input \(3,\); got kernel=\(4,\)"):
        layer.forward({}, draw((1, 1, 3)))


@pytest.mark.parametrize(
    "layer",
    [
        MaxPool(kernel=(1,), padding=(1,)),
        AveragePool(kernel=(1,), padding=(1,)),
        AveragePool(kernel=(1,), padding=(1,), count_include_pad=False),
    ],
    ids=str,
)
def test_a_window_of_padding_is_refused(layer: Any) -> None:
    with pytest.raises(ValueError, match="a window reads only padding"):
        layer.forward({}, draw((1, 1, 3)))


@pytest.mark.parametrize("framework", [jax_, torch_], ids=["jax", "torch"])
def test_no_framework_sees_a_maximum_of_padding(framework: Any) -> None:
    """PyTorch 2.13 takes such a geometry, and its backward writes past the end of the gradient."""
    layer = MaxPool(kernel=(2,), stride=(1,), padding=(1,))
    x = {jax_: _in_jax, torch_: _in_torch}[framework](np.zeros((1, 1, 0)))

    with pytest.raises(ValueError, match="a window reads only padding"):
        framework.apply(layer, {}, x)


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (MaxPool(kernel=(1,) * 4), np.zeros((1,) * 6), "1 to 3 spatial axes, not for 4"),
        (AveragePool(kernel=(1,) * 4), np.zeros((1,) * 6), "1 to 3 spatial axes, not for 4"),
        (
            MaxPool(kernel=(2,), padding=(2,), dilation=(3,)),
            np.zeros((1, 1, 4)),
            "beyond half of the kernel",
        ),
    ],
    ids=str,
)
def test_torch_has_no_twin(layer: Any, x: Any, message: str) -> None:
    with pytest.raises(NoTwin, match=message):
        torch_.apply(layer, {}, _in_torch(x))


def test_jax_has_no_twin_of_a_dilated_maximum() -> None:
    with pytest.raises(NoTwin, match="no VJP for a maximum with dilation"):
        jax_.apply(MaxPool(kernel=(2,), dilation=(2,)), {}, _in_jax(np.zeros((1, 1, 4))))


def _in_torch(x: Any) -> Any:
    return torch.from_numpy(x)


def _in_jax(x: Any) -> Any:
    return jax.numpy.asarray(x, "float32")
