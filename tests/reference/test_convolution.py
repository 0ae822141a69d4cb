"""Convolution, against PyTorch, JAX, its own definition and differences."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from gradcheck.reference.convolution import Convolution
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
)

# (settings, shape of x)
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "1d": ({"inputs": 2, "outputs": 3, "kernel": (3,)}, (2, 2, 7)),
    "1d no bias": ({"inputs": 2, "outputs": 3, "kernel": (3,), "bias": False}, (2, 2, 7)),
    "1d stride leaves a rest": (
        {"inputs": 1, "outputs": 1, "kernel": (2,), "stride": (3,)},
        (1, 1, 7),
    ),
    "1d stride beyond the kernel": (
        {"inputs": 2, "outputs": 1, "kernel": (1,), "stride": (4,)},
        (2, 2, 6),
    ),
    "1d padding": ({"inputs": 2, "outputs": 2, "kernel": (3,), "padding": (2,)}, (2, 2, 4)),
    "1d padding beyond the kernel": (
        {"inputs": 1, "outputs": 2, "kernel": (2,), "padding": (4,)},
        (1, 1, 3),
    ),
    "1d dilation": ({"inputs": 2, "outputs": 2, "kernel": (3,), "dilation": (2,)}, (2, 2, 8)),
    "1d everything": (
        {
            "inputs": 4,
            "outputs": 6,
            "kernel": (3,),
            "stride": (2,),
            "padding": (3,),
            "dilation": (2,),
            "groups": 2,
        },
        (3, 4, 8),
    ),
    "1d depthwise": ({"inputs": 3, "outputs": 3, "kernel": (2,), "groups": 3}, (2, 3, 5)),
    "1d depthwise with multiplier": (
        {"inputs": 3, "outputs": 6, "kernel": (2,), "groups": 3},
        (2, 3, 5),
    ),
    "1d kernel is the input": ({"inputs": 2, "outputs": 3, "kernel": (5,)}, (2, 2, 5)),
    "1d kernel fits only with padding": (
        {"inputs": 1, "outputs": 1, "kernel": (5,), "padding": (2,)},
        (2, 1, 1),
    ),
    "1d empty batch": ({"inputs": 2, "outputs": 4, "kernel": (3,), "groups": 2}, (0, 2, 7)),
    "2d": ({"inputs": 2, "outputs": 3, "kernel": (3, 3)}, (2, 2, 5, 6)),
    "2d asymmetric": (
        {
            "inputs": 2,
            "outputs": 4,
            "kernel": (1, 3),
            "stride": (2, 1),
            "padding": (0, 2),
            "dilation": (3, 2),
            "groups": 2,
        },
        (2, 2, 4, 5),
    ),
    "2d 1x1": ({"inputs": 3, "outputs": 2, "kernel": (1, 1)}, (2, 3, 4, 3)),
    "2d kernel is the input": ({"inputs": 2, "outputs": 2, "kernel": (3, 4)}, (2, 2, 3, 4)),
    "2d depthwise": (
        {"inputs": 4, "outputs": 4, "kernel": (3, 2), "padding": (1, 1), "groups": 4},
        (1, 4, 4, 3),
    ),
    "2d one element": ({"inputs": 1, "outputs": 1, "kernel": (1, 1)}, (1, 1, 1, 1)),
    "2d empty batch": ({"inputs": 2, "outputs": 2, "kernel": (2, 2)}, (0, 2, 3, 3)),
    "3d": (
        {"inputs": 2, "outputs": 2, "kernel": (2, 1, 3), "padding": (1, 0, 1), "stride": (1, 2, 2)},
        (2, 2, 3, 3, 4),
    ),
}
cases = pytest.mark.parametrize(("settings", "shape"), CASES.values(), ids=CASES.keys())


def draw(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(5).standard_normal(shape)


@cases
def test_twins_agree(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_twins_agree(Convolution(**settings), draw(shape))


@cases
def test_slopes_agree(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_slopes_agree(Convolution(**settings), draw(shape))


@cases
def test_float32_stays_float32(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_keeps_dtype(Convolution(**settings), draw(shape))


@cases
def test_strides_do_not_matter(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_same_with_strides(Convolution(**settings), draw(shape))


def test_mutates_nothing() -> None:
    settings, shape = CASES["2d asymmetric"]

    assert_mutates_nothing(Convolution(**settings), draw(shape))


def test_is_the_sum_of_its_definition() -> None:
    layer = Convolution(
        inputs=4, outputs=6, kernel=(2, 3), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2
    )
    params = layer.parameters(np.random.default_rng(0))
    x, weight = draw((1, 4, 3, 6)), params["weight"]

    (y,), _ = layer.forward(params, x)

    for m, i, j in np.ndindex(*y.shape[1:]):
        wanted = params["bias"][m]
        for c, k, t in product(range(2), range(2), range(3)):
            row, column = 2 * i + k - 1, j + 2 * t
            if 0 <= row < 3 and 0 <= column < 6:
                wanted += weight[m, c, k, t] * x[0, 2 * (m // 3) + c, row, column]
        assert y[0, m, i, j] == pytest.approx(wanted, rel=1e-13)


def test_four_axes_need_no_framework() -> None:
    layer = Convolution(inputs=1, outputs=2, kernel=(2, 1, 2, 1), padding=(1, 0, 0, 0))

    assert_slopes_agree(layer, draw((2, 1, 2, 2, 3, 2)))


def test_weights_keep_the_scale_of_activations() -> None:
    layer = Convolution(inputs=64, outputs=64, kernel=(3, 3), groups=2, bias=False)
    x = draw((4, 64, 8, 8))

    (y,), _ = layer.forward(layer.parameters(np.random.default_rng(0)), x)

    assert y.std() == pytest.approx(1, rel=0.05)  # 9216 outputs of 288 terms


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": 2}, "groups to divide inputs=3 and outputs=6; got groups=2"),
        ({"groups": 0}, "got groups=0"),
        ({"groups": -3}, "got groups=-3"),
        ({"outputs": 4, "groups": 3}, "outputs=4; got groups=3"),
        ({"stride": (0,)}, "every stride to be at least 1"),
        ({"kernel": (2, 2), "stride": (1,)}, "stride to have one number for each of the 2 axes"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"inputs": 3, "outputs": 6, "kernel": (2,)}

    with pytest.raises(ValueError, match=message):
        Convolution(**{**usual, **fields})


def test_a_kernel_larger_than_the_padded_input_is_refused() -> None:
    layer = Convolution(inputs=1, outputs=1, kernel=(3, 4), padding=(0, 1))

    with pytest.raises(ValueError, match=r"padded input \(5, 3\); got kernel=\(3, 4\)"):
        layer.forward(layer.parameters(np.random.default_rng(0)), draw((1, 1, 5, 1)))
