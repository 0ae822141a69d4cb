"""Activations: against PyTorch, JAX and differences; at kinks, ties and extremes."""

import math

import numpy as np
import pytest

from gradcheck.reference.activations import (
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    normal_cdf,
    softplus,
)
from gradcheck.reference.layer import Array, Layer
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
    vjp,
)

SMOOTH: list[Layer] = [
    GELU(approximate="tanh"),
    SiLU(),
    Tanh(),
    Sigmoid(),
    Softplus(),
    Softmax(),
    Softmax(axis=0),
    LogSoftmax(),
    LogSoftmax(axis=0),
]
ALL: list[Layer] = [GELU(), ReLU(), LeakyReLU(), LeakyReLU(slope=0.3), *SMOOTH]
SHAPES = [(2, 3, 4), (1, 1), (0, 3)]
EDGES = (-1.0, -1e-300, -0.0, 0.0, 1e-300, 1.0)


def gaussian(*shape: int, scale: float = 1.0) -> Array:
    return scale * np.random.default_rng(0).standard_normal(shape)


def derivative(layer: Layer, x: Array) -> Array:
    """Return y' of an elementwise layer."""
    _, cache = layer.forward({}, x)
    _, (x_bar,) = layer.backward({}, cache, np.ones_like(x))
    assert x_bar is not None
    return x_bar


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layer", ALL, ids=str)
def test_twins_agree(layer: Layer, shape: tuple[int, ...]) -> None:
    assert_twins_agree(layer, gaussian(*shape, scale=3), rtol=1e-13)


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_twins_agree_on_extreme_values(layer: Layer) -> None:
    x = np.array([[-1e4, -700, -80, -20, -1], [1, 20, 25, 80, 1e4]])

    assert_twins_agree(layer, x, rtol=1e-13)


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_twins_agree_at_zero_and_beside_it(layer: Layer) -> None:
    assert_twins_agree(layer, np.array(EDGES), rtol=1e-13)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layer", [*SMOOTH, ReLU(), LeakyReLU()], ids=str)
def test_slopes_agree(layer: Layer, shape: tuple[int, ...]) -> None:
    assert_slopes_agree(layer, gaussian(*shape))


def test_slopes_of_exact_gelu_agree_as_far_as_float64_reaches() -> None:
    assert_slopes_agree(GELU(), gaussian(4, 5), h=1e-5, rtol=1e-8)


@pytest.mark.parametrize("layer", ALL, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_dtype_is_kept(layer: Layer, dtype: type) -> None:
    assert_keeps_dtype(layer, gaussian(3, 4), dtype=dtype)


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_mutates_nothing(layer: Layer) -> None:
    assert_mutates_nothing(layer, gaussian(3, 4))


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_strides_do_not_matter(layer: Layer) -> None:
    assert_same_with_strides(layer, gaussian(3, 4))


@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 80), (np.float64, 1e4)])
@pytest.mark.parametrize("layer", ALL, ids=str)
def test_extremes_are_finite(layer: Layer, dtype: type, large: float) -> None:
    x: Array = np.array([[-large, 0, large], [large, large, -large]], dtype=dtype)

    (y,), _, (_, (x_bar,)) = vjp(layer, {}, x)

    assert np.isfinite(y).all()
    assert np.isfinite(x_bar).all()


@pytest.mark.parametrize("layer", [GELU(), GELU(approximate="tanh")], ids=str)
def test_gelu_is_the_identity_or_zero_far_out(layer: Layer) -> None:
    x = np.array([-1e30, 1e30], dtype=np.float32)

    (y,), _ = layer.forward({}, x)

    np.testing.assert_array_equal(y, np.array([-0.0, 1e30], dtype=np.float32))
    np.testing.assert_array_equal(derivative(layer, x), [0, 1])


@pytest.mark.parametrize(("layer", "wanted"), [(ReLU(), 0.0), (LeakyReLU(slope=0.3), 0.3)], ids=str)
def test_derivative_at_a_kink_is_the_one_from_the_left(layer: Layer, wanted: float) -> None:
    np.testing.assert_array_equal(derivative(layer, np.array([0.0, -0.0])), [wanted, wanted])


def test_normal_cdf_keeps_relative_precision_in_the_lower_tail() -> None:
    # Q(10), to 16 digits: Abramowitz and Stegun, table 26.2, give -log10 Q(10) = 23.11805.
    got = normal_cdf(np.array([-10.0]))[0]

    assert got == pytest.approx(7.619853024160526e-24, rel=1e-13)
    assert -math.log10(got) == pytest.approx(23.11805, abs=5e-6)


def test_normal_cdf_is_within_an_ulp_in_float32() -> None:
    x = np.linspace(-10, 10, 2001, dtype=np.float32)

    exact = normal_cdf(x.astype(np.float64))

    np.testing.assert_allclose(normal_cdf(x), exact, rtol=2**-23)


def test_softplus_has_no_threshold() -> None:
    # log(1 + e²¹) - 21 = log1p(e⁻²¹)
    excess = softplus(np.array([21], dtype=np.longdouble))[0] - 21

    assert float(excess) == pytest.approx(math.log1p(math.exp(-21)), rel=1e-8)


@pytest.mark.parametrize("layer", [Softmax(), LogSoftmax()], ids=str)
def test_softmax_of_one_class_has_no_gradient(layer: Layer) -> None:
    _, _, (_, (x_bar,)) = vjp(layer, {}, gaussian(4, 1))

    np.testing.assert_array_equal(x_bar, np.zeros((4, 1)))


@pytest.mark.parametrize("layer", [Softmax(axis=0), LogSoftmax(axis=0)], ids=str)
def test_softmax_over_an_empty_axis_is_empty(layer: Layer) -> None:
    (y,), _, (_, (x_bar,)) = vjp(layer, {}, np.zeros((0, 3)))

    assert y.shape == x_bar.shape == (0, 3)


def test_log_softmax_is_finite_where_softmax_vanishes() -> None:
    x = np.array([[0.0, 1e4]])

    (y,), _ = LogSoftmax().forward({}, x)

    np.testing.assert_array_equal(y, [[-1e4, 0.0]])


def test_there_are_no_parameters() -> None:
    assert all(layer.parameters(np.random.default_rng(0), np.float64) == {} for layer in ALL)


def test_unknown_approximation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'none' or 'tanh'; got 'erf'\. Use 'none'"):
        GELU(approximate="erf")  # type: ignore[arg-type]
