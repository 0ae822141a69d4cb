"""Embedding: repeated, unused and padding rows, against PyTorch, JAX and differences."""

import numpy as np
import pytest

from gradcheck.reference.embedding import Embedding
from gradcheck.reference.layer import Array
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
)

PLAIN = Embedding(vocabulary=5, features=3)
PADDED = Embedding(vocabulary=5, features=3, padding_index=1)
SHAPES = [(6,), (2, 3), (2, 1, 4), (), (0,), (2, 0)]


def indices(*shape: int) -> Array:
    return np.random.default_rng(0).integers(5, size=shape)


def weight_gradient(layer: Embedding, i: Array, u: Array) -> Array:
    params = layer.parameters(np.random.default_rng(0))
    _, cache = layer.forward(params, i)
    grads, _ = layer.backward(params, cache, u)
    return np.asarray(grads["weight"])


@pytest.mark.parametrize("layer", [PLAIN, PADDED], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_twins_agree(layer: Embedding, shape: tuple[int, ...]) -> None:
    assert_twins_agree(layer, indices(*shape), rtol=1e-14)


@pytest.mark.parametrize("vocabulary", [1, 2])
def test_twins_agree_on_a_small_vocabulary(vocabulary: int) -> None:
    layer = Embedding(vocabulary=vocabulary, features=1, padding_index=0)

    assert_twins_agree(layer, np.zeros((2, 3), dtype=np.int64), rtol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slopes_agree_without_padding(shape: tuple[int, ...]) -> None:
    assert_slopes_agree(PLAIN, indices(*shape))


def test_slopes_disagree_along_a_padding_row_in_use() -> None:
    with pytest.raises(AssertionError):
        assert_slopes_agree(PADDED, np.array([1, 2]))


def test_slopes_agree_when_the_padding_row_is_not_in_use() -> None:
    assert_slopes_agree(PADDED, np.array([0, 2, 2]))


def test_row_collects_every_use() -> None:
    u = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [4.0, 5.0, 6.0]])

    got = weight_gradient(PLAIN, np.array([2, 2, 0]), u)

    np.testing.assert_array_equal(got, [[4, 5, 6], [0, 0, 0], [11, 22, 33], [0, 0, 0], [0, 0, 0]])


def test_padding_row_collects_nothing() -> None:
    got = weight_gradient(PADDED, np.array([1, 1, 0]), np.ones((3, 3)))

    np.testing.assert_array_equal(got, np.outer([1, 0, 0, 0, 0], np.ones(3)))


def test_padding_row_is_looked_up_like_any_other() -> None:
    params = PADDED.parameters(np.random.default_rng(0))

    (y,), _ = PADDED.forward(params, np.array([1]))

    np.testing.assert_array_equal(y[0], params["weight"][1])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_any_integer_type_is_an_index(dtype: type) -> None:
    np.testing.assert_array_equal(
        weight_gradient(PLAIN, indices(4).astype(dtype), np.ones((4, 3))),
        weight_gradient(PLAIN, indices(4), np.ones((4, 3))),
    )


def test_float32_stays_float32() -> None:
    assert_keeps_dtype(PADDED, indices(2, 3))


def test_mutates_nothing() -> None:
    assert_mutates_nothing(PADDED, indices(2, 3))


def test_strides_do_not_matter() -> None:
    assert_same_with_strides(PADDED, indices(2, 3))


@pytest.mark.parametrize(
    ("i", "message"),
    [
        (np.array([0, 5]), r"indices in \[0, 5\); got 0 to 5"),
        (np.array([-1, 0]), r"got -1 to 0"),
        (np.array([0.0]), "expected integer indices; got float64"),
        (np.array([True]), "expected integer indices; got bool"),
    ],
)
def test_unfit_indices_are_refused(i: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PLAIN.forward(PLAIN.parameters(np.random.default_rng(0)), i)


@pytest.mark.parametrize("padding_index", [-1, 5])
def test_padding_index_outside_the_vocabulary_is_refused(padding_index: int) -> None:
    with pytest.raises(ValueError, match=rf"padding_index in \[0, 5\); got {padding_index}"):
        Embedding(vocabulary=5, features=3, padding_index=padding_index)
