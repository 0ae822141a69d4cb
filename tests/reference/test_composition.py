"""Compositions: chains, sums and nests of layers, against PyTorch, JAX and differences."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
import torch

from gradcheck.reference.activations import LogSoftmax, SiLU, Softplus, Tanh, no_parameters
from gradcheck.reference.composition import Residual, Sequential
from gradcheck.reference.dense import Dense
from gradcheck.reference.dropout import Dropout
from gradcheck.reference.embedding import Embedding
from gradcheck.reference.layer import Array, Cotangents, Layer, Outputs, Params
from gradcheck.reference.normalization import BatchNorm, LayerNorm
from gradcheck.suites.twins import jax_, torch_
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
    vjp,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SineAndCosine:
    """A link with two outputs, sin x and cos x."""

    parameters = no_parameters

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        return (np.sin(x), np.cos(x)), x

    def backward(self, params: Params, x: Array, u: Array, v: Array) -> tuple[Params, Cotangents]:
        return {}, (u * np.cos(x) - v * np.sin(x),)


@torch_.apply.register
def _(layer: SineAndCosine, params: Params, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.sin(x), torch.cos(x)


@jax_.apply.register
def _(layer: SineAndCosine, params: Params, x: jax.Array) -> tuple[jax.Array, ...]:
    return jax.numpy.sin(x), jax.numpy.cos(x)


def dense(inputs: int, outputs: int) -> Dense:
    return Dense(inputs=inputs, outputs=outputs)


CHAIN = Sequential(layers=(dense(3, 4), Tanh(), dense(4, 2)))
DEEP = Sequential(
    layers=(
        Residual(
            inner=Sequential(layers=(LayerNorm(shape=(3,)), dense(3, 5), SiLU(), dense(5, 3)))
        ),
        Residual(inner=Residual(inner=Tanh())),
        Sequential(layers=(BatchNorm(features=3), dense(3, 2))),
        LogSoftmax(),
    )
)
TWO_ENDS = Sequential(layers=(SineAndCosine(), dense(3, 3), SineAndCosine()))
NESTS: list[Layer] = [
    CHAIN,
    DEEP,
    TWO_ENDS,
    Residual(inner=TWO_ENDS),
    Sequential(layers=(TWO_ENDS, Tanh())),
    Sequential(layers=()),
    Residual(inner=Sequential(layers=())),
]


def gaussian(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("rows", [4, 0])
@pytest.mark.parametrize("layer", NESTS)
def test_twins_agree(layer: Layer, rows: int) -> None:
    assert_twins_agree(layer, gaussian(rows, 3), rtol=1e-12)


@pytest.mark.parametrize("layer", NESTS)
def test_slopes_agree(layer: Layer) -> None:
    assert_slopes_agree(layer, gaussian(4, 3))


@pytest.mark.parametrize("layer", NESTS)
def test_float32_stays_float32(layer: Layer) -> None:
    assert_keeps_dtype(layer, gaussian(4, 3))


@pytest.mark.parametrize("layer", NESTS)
def test_mutates_nothing(layer: Layer) -> None:
    assert_mutates_nothing(layer, gaussian(4, 3))


@pytest.mark.parametrize("layer", NESTS)
def test_strides_do_not_matter(layer: Layer) -> None:
    assert_same_with_strides(layer, gaussian(4, 3))


def test_chain_may_start_from_indices() -> None:
    layer = Sequential(layers=(Embedding(vocabulary=5, features=3), dense(3, 2), Softplus()))

    assert_twins_agree(layer, np.array([[0, 4, 4], [1, 0, 2]]), rtol=1e-12)


def test_parameters_of_a_chain_are_named_by_position() -> None:
    params = CHAIN.parameters(np.random.default_rng(0))

    assert {name: list(links) for name, links in params.items()} == {
        "0": ["weight", "bias"],
        "1": [],
        "2": ["weight", "bias"],
    }


def test_gradients_come_in_the_order_of_the_parameters() -> None:
    params = CHAIN.parameters(np.random.default_rng(0))

    _, _, (grads, _) = vjp(CHAIN, params, gaussian(4, 3))

    assert list(grads) == list(params)


def test_equal_links_have_parameters_of_their_own() -> None:
    params = Sequential(layers=(dense(3, 3),) * 2).parameters(np.random.default_rng(0))

    assert (params["0"]["weight"] != params["1"]["weight"]).all()


def test_first_output_goes_on_and_all_outputs_of_the_last_link_come_out() -> None:
    x = gaussian(4, 3)

    outputs, _ = Sequential(layers=(SineAndCosine(), SineAndCosine())).forward(
        {"0": {}, "1": {}}, x
    )

    np.testing.assert_array_equal(outputs, (np.sin(np.sin(x)), np.cos(np.sin(x))))


def test_residual_of_nothing_is_twice_the_input() -> None:
    x = gaussian(4, 3)
    layer = Residual(inner=Sequential(layers=()))

    (y,), (u,), (_, (x_bar,)) = vjp(layer, layer.parameters(np.random.default_rng(0)), x)

    np.testing.assert_array_equal(y, 2 * x)
    np.testing.assert_array_equal(x_bar, 2 * u)


def test_residual_refuses_a_layer_that_changes_the_shape() -> None:
    layer = Residual(inner=dense(3, 1))

    with pytest.raises(ValueError, match=r"Dense to keep the shape \(4, 3\).*got \(4, 1\)"):
        layer.forward(layer.parameters(np.random.default_rng(0)), gaussian(4, 3))


def test_layer_with_two_inputs_cannot_be_a_link() -> None:
    layer = Sequential(layers=(Tanh(), Dropout()))

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'mask'"):
        layer.forward({"0": {}, "1": {}}, gaussian(4, 3))
