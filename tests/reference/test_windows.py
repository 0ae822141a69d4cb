"""Where a kernel lies on a grid."""

from typing import Any

import numpy as np
import pytest

from gradcheck.reference.windows import Windows

PAIR = Windows(kernel=(2,), stride=(1,), padding=(1,), dilation=(1,))


def test_gather_reads_tap_by_tap() -> None:
    got = PAIR.gather(np.array([1.0, 2.0, 3.0]))

    assert got.tolist() == [[0, 1, 2, 3], [1, 2, 3, 0]]


def test_gather_fills_the_padding() -> None:
    got = PAIR.gather(np.array([1.0]), fill=-np.inf)

    assert got.tolist() == [[-np.inf, 1], [1, -np.inf]]


def test_taps_count_in_row_major_order() -> None:
    square = Windows(kernel=(2, 2), stride=(1, 1), padding=(0, 0), dilation=(1, 1))

    got = square.gather(np.array([[1.0, 2.0], [3.0, 4.0]]))

    assert got.ravel().tolist() == [1, 2, 3, 4]


def test_scatter_accumulates_and_drops_the_padding() -> None:
    got = PAIR.scatter(np.array([[1.0, 2.0], [4.0, 8.0]]), (1,))

    assert got.tolist() == [2 + 4]


def test_scatter_is_the_adjoint_of_gather() -> None:
    rng = np.random.default_rng(0)
    windows = Windows(kernel=(3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 3))
    x = rng.standard_normal((2, 5, 4))
    taps = windows.gather(x)
    u = rng.standard_normal(taps.shape)

    assert np.vdot(u, taps) == pytest.approx(np.vdot(windows.scatter(u, (5, 4)), x), rel=1e-13)


@pytest.mark.parametrize(
    ("n", "kernel", "stride", "padding", "dilation", "wanted"),
    [
        (5, 3, 1, 0, 1, 3),
        (5, 3, 1, 1, 1, 5),
        (6, 3, 2, 1, 1, 3),  # the last element is read by no window
        (5, 2, 3, 0, 4, 1),
        (3, 3, 7, 0, 1, 1),
    ],
)
def test_positions(
    n: int, kernel: int, stride: int, padding: int, dilation: int, wanted: int
) -> None:
    windows = Windows(kernel=(kernel,), stride=(stride,), padding=(padding,), dilation=(dilation,))

    assert windows.positions((n,)) == (wanted,)


def test_inside_counts_the_taps_that_read_the_input() -> None:
    assert PAIR.inside((3,)).tolist() == [1, 2, 2, 1]


def test_inside_refuses_a_window_of_padding() -> None:
    around = Windows(kernel=(2,), stride=(1,), padding=(1,), dilation=(2,))  # taps at -1 and 1

    with pytest.raises(ValueError, match="a window reads only padding"):
        around.inside((1,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel": ()}, "at least one axis; got kernel="),
        ({"kernel": (0,)}, r"every kernel to be at least 1; got \(0,\)"),
        ({"stride": (0,)}, r"every stride to be at least 1; got \(0,\)"),
        ({"padding": (-1,)}, r"every padding to be at least 0; got \(-1,\)"),
        ({"dilation": (0,)}, r"every dilation to be at least 1; got \(0,\)"),
        (
            {"stride": (1, 1)},
            r"stride to have one number for each of the 1 axes .* got stride=\(1, 1\)",
        ),
    ],
)
def test_impossible_geometry_is_refused(fields: dict[str, Any], message: str) -> None:
    usual = {"kernel": (2,), "stride": (1,), "padding": (0,), "dilation": (1,)}

    with pytest.raises(ValueError, match=message):
        Windows(**{**usual, **fields})


def test_a_kernel_larger_than_the_padded_input_is_refused() -> None:
    windows = Windows(kernel=(3,), stride=(1,), padding=(1,), dilation=(2,))

    with pytest.raises(ValueError, match=r"padded input \(4,\); got .* spans \(5,\)"):
        windows.positions((2,))


def test_an_input_of_other_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"with 1 axes of size, .*; got size \(3, 3\)"):
        PAIR.positions((3, 3))
