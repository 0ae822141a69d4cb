"""Attention, against PyTorch, JAX and differences; and the conventions of its masks."""

from typing import Any

import jax
import numpy as np
import pytest
import torch

from gradcheck.reference.attention import MultiHeadAttention, ScaledDotProductAttention
from gradcheck.reference.layer import Array
from gradcheck.suites.twins import jax_, torch_
from gradcheck.suites.twins.missing import NoTwin
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
    vjp,
)

Triple = tuple[Array, Array, Array]

# (leading axes, queries, keys, d, e)
SHAPES = [
    ((2, 3), 4, 4, 5, 5),
    ((2, 3), 2, 5, 4, 4),
    ((2,), 3, 4, 2, 6),
    ((), 3, 3, 4, 4),
    ((2, 1, 2), 5, 2, 4, 4),
    ((1, 1), 1, 1, 1, 1),
    ((0, 2), 3, 3, 4, 4),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
causally = pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])

# (batch, queries, keys, features, heads)
SIZES = [
    (2, 4, 4, 6, 3),
    (2, 3, 5, 4, 1),
    (3, 4, 2, 4, 4),
    (1, 1, 1, 1, 1),
    (0, 3, 3, 4, 2),
]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


def dot_product_inputs(shape: tuple[tuple[int, ...], int, int, int, int]) -> Triple:
    lead, queries, keys, d, e = shape
    draw = np.random.default_rng(5).standard_normal
    return draw((*lead, queries, d)), draw((*lead, keys, d)), draw((*lead, keys, e))


def head_inputs(size: tuple[int, int, int, int, int]) -> Triple:
    batch, queries, keys, features, _ = size
    draw = np.random.default_rng(5).standard_normal
    q, k, v = (draw((batch, time, features)) for time in (queries, keys, keys))
    return q, k, v


def mask_of(shape: tuple[int, ...]) -> Array:
    """Return random booleans, the first query of everything without any key."""
    mask = np.random.default_rng(6).random(shape) < 0.6
    mask[..., 0, :] = False
    return mask


def padding_of(batch: int, keys: int) -> Array:
    """Return as padding: all keys of the first sequence, one fewer of each further one."""
    return np.arange(keys) >= np.arange(batch)[:, None]


@causally
@shapes
def test_dot_product_twins_agree(shape: Any, causal: bool) -> None:
    assert_twins_agree(ScaledDotProductAttention(causal=causal), *dot_product_inputs(shape))


@causally
@shapes
def test_dot_product_twins_agree_under_a_mask(shape: Any, causal: bool) -> None:
    lead, queries, keys, _, _ = shape
    layer = ScaledDotProductAttention(causal=causal, masked=True)

    assert_twins_agree(layer, *dot_product_inputs(shape), mask_of((*lead, queries, keys)))


@pytest.mark.parametrize("mask_shape", [(4, 4), (1, 4), (3, 1, 4), (2, 1, 4, 1)], ids=str)
def test_a_mask_is_broadcast(mask_shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(6).random(mask_shape) < 0.6

    assert_twins_agree(ScaledDotProductAttention(masked=True), *dot_product_inputs(SHAPES[0]), mask)


@causally
@shapes
def test_dot_product_slopes_agree(shape: Any, causal: bool) -> None:
    lead, queries, keys, _, _ = shape
    layer = ScaledDotProductAttention(causal=causal, masked=True)

    assert_slopes_agree(layer, *dot_product_inputs(shape), mask_of((*lead, queries, keys)))


@causally
@sizes
def test_heads_twins_agree(size: Any, causal: bool) -> None:
    layer = MultiHeadAttention(features=size[3], heads=size[4], causal=causal)

    assert_twins_agree(layer, *head_inputs(size))


@causally
@sizes
def test_heads_twins_agree_with_padding(size: Any, causal: bool) -> None:
    batch, _, keys, features, heads = size
    layer = MultiHeadAttention(features=features, heads=heads, causal=causal, masked=True)
    frameworks = ("torch", "jax") if batch else ("jax",)

    assert_twins_agree(layer, *head_inputs(size), padding_of(batch, keys), frameworks=frameworks)


def test_torch_has_no_heads_for_an_empty_batch_with_padding() -> None:
    layer = MultiHeadAttention(features=4, heads=2, masked=True)
    inputs = [torch.from_numpy(x) for x in (*head_inputs(SIZES[-1]), padding_of(0, 3))]

    with pytest.raises(NoTwin, match="an empty batch"):
        torch_.apply(layer, layer.parameters(np.random.default_rng(0)), *inputs)


def test_heads_twins_agree_without_bias() -> None:
    layer = MultiHeadAttention(features=6, heads=2, bias=False)

    assert_twins_agree(layer, *head_inputs(SIZES[0]))


@causally
@sizes
def test_heads_slopes_agree(size: Any, causal: bool) -> None:
    batch, _, keys, features, heads = size
    layer = MultiHeadAttention(features=features, heads=heads, causal=causal, masked=True)

    assert_slopes_agree(layer, *head_inputs(size), padding_of(batch, keys))


CASES: dict[str, tuple[Any, list[Array]]] = {
    "dot product": (
        ScaledDotProductAttention(causal=True, masked=True),
        [*dot_product_inputs(SHAPES[1]), mask_of((2, 3, 2, 5))],
    ),
    "heads": (
        MultiHeadAttention(features=6, heads=3, causal=True, masked=True),
        [*head_inputs(SIZES[0]), padding_of(2, 4)],
    ),
    "heads, empty batch": (
        MultiHeadAttention(features=4, heads=2, masked=True),
        [*head_inputs(SIZES[-1]), padding_of(0, 3)],
    ),
}
cases = pytest.mark.parametrize(("layer", "inputs"), CASES.values(), ids=CASES.keys())


@cases
def test_float32_stays_float32(layer: Any, inputs: list[Array]) -> None:
    assert_keeps_dtype(layer, *inputs)


@cases
def test_mutates_nothing(layer: Any, inputs: list[Array]) -> None:
    assert_mutates_nothing(layer, *inputs)


@cases
def test_strides_do_not_matter(layer: Any, inputs: list[Array]) -> None:
    assert_same_with_strides(layer, *inputs)


def test_no_gradient_for_masks() -> None:
    for layer, inputs in CASES.values():
        _, _, (_, grads) = vjp(layer, layer.parameters(np.random.default_rng(0)), *inputs)

        assert [g is None for g in grads] == [False, False, False, True]


def test_a_query_without_keys_gets_zero_and_passes_no_gradient() -> None:
    q, k, v = dot_product_inputs(SHAPES[0])
    mask = np.zeros((4, 4), bool)

    (y,), _, (_, grads) = vjp(ScaledDotProductAttention(masked=True), {}, q, k, v, mask)

    for array in (y, *grads[:3]):
        assert not array.any()


def test_a_sequence_of_padding_gives_the_bias_of_the_output() -> None:
    layer = MultiHeadAttention(features=6, heads=2, masked=True)
    params = layer.parameters(np.random.default_rng(0))

    (y,), _ = layer.forward(params, *head_inputs(SIZES[0]), padding_of(2, 4))

    np.testing.assert_array_equal(y[0], np.tile(params["out_proj.bias"], (4, 1)))


@pytest.mark.parametrize(("queries", "keys"), [(3, 3), (2, 4), (4, 2)])
def test_causality_is_aligned_at_the_top_left(queries: int, keys: int) -> None:
    q, k = np.zeros((queries, 1)), np.zeros((keys, 1))

    (y,), _ = ScaledDotProductAttention(causal=True).forward({}, q, k, np.eye(keys))

    wanted = np.tri(queries, keys)
    np.testing.assert_allclose(y, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-15)


def test_extreme_scores_stay_finite() -> None:
    q, k, v = (1e150 * x for x in dot_product_inputs(SHAPES[0]))

    (y,), _, (_, grads) = vjp(ScaledDotProductAttention(), {}, q, k, v)

    assert all(np.isfinite(a).all() for a in (y, *grads))


def test_no_keys_at_all_is_a_query_without_keys() -> None:
    (y,), _, (_, grads) = vjp(
        ScaledDotProductAttention(), {}, np.ones((2, 3)), np.ones((0, 3)), np.ones((0, 4))
    )

    assert y.tolist() == [[0] * 4] * 2
    assert [g.shape for g in grads] == [(2, 3), (0, 3), (0, 4)]


@causally
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[2], SHAPES[4]], ids=str)
def test_jax_agrees_in_float32_by_its_own_attention(shape: Any, causal: bool) -> None:
    lead, queries, keys, _, _ = shape
    layer = ScaledDotProductAttention(causal=causal, masked=True)
    inputs = [x.astype(np.float32) for x in dot_product_inputs(shape)]
    mask = mask_of((*lead, queries, keys))
    (y,), (u,), (_, grads) = vjp(layer, {}, *inputs, mask)

    outputs, pullback = jax.vjp(
        lambda *x: jax_.apply(layer, {}, *x, jax.numpy.asarray(mask)), *inputs
    )

    for ours, theirs in zip((y, *grads[:3]), (*outputs, *pullback((u,))), strict=True):
        # Ten roundings of a sum of five terms of size one; a wrong mask changes the first digit.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_jax_attention_is_only_as_exact_as_float32() -> None:
    """This is why the twin avoids it in float64; when the test fails, the twin need not."""
    q, k, v = dot_product_inputs(((2, 1), 4, 4, 5, 5))
    (y,), _ = ScaledDotProductAttention().forward({}, q, k, v)

    with jax.enable_x64(True):
        theirs = jax.nn.dot_product_attention(*(x.swapaxes(1, 2) for x in (q, k, v)))

    assert 1e-9 < np.abs(np.asarray(theirs).swapaxes(1, 2) - y).max() < 1e-6


@pytest.mark.parametrize("heads", [0, -2, 4, 7])
def test_heads_must_divide_the_features(heads: int) -> None:
    with pytest.raises(ValueError, match=f"heads to divide features=6 .*; got heads={heads}"):
        MultiHeadAttention(features=6, heads=heads)


@pytest.mark.parametrize(
    ("masked", "mask", "message"),
    [
        (True, (), "expected a fourth input with masked=True; got none"),
        (False, (np.ones((4, 4), bool),), "expected no fourth input with masked=False; got one"),
        (True, (np.zeros((4, 4)),), "expected a boolean mask; got dtype float64"),
    ],
)
def test_masks_are_as_declared(masked: bool, mask: tuple[Array, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaledDotProductAttention(masked=masked).forward({}, *dot_product_inputs(SHAPES[0]), *mask)


def test_padding_is_as_declared() -> None:
    layer = MultiHeadAttention(features=6, heads=2)

    with pytest.raises(ValueError, match="expected no fourth input"):
        layer.forward(
            layer.parameters(np.random.default_rng(0)), *head_inputs(SIZES[0]), padding_of(2, 4)
        )
