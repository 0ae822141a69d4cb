"""Linear maps that are written down: what they give, what comes back, what they refuse."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcheck import InputError
from gradcheck.weights import (
    Expression,
    adjoint,
    block,
    evaluated,
    is_expression,
    joined,
    names,
    part,
    renamed,
    reordered,
    scaled,
    shaped,
    spelled,
    summed,
    transposed,
    with_axis,
    without_axis,
)

A = np.arange(6.0).reshape(2, 3)
B = np.array([10.0, 20.0, 30.0, 40.0])
ARRAYS = {"a": A, "b": B, "one": np.ones((1, 4))}

VALUES: list[tuple[Expression, Any, str]] = [
    ("a", A, "'a'"),
    (0.5, 0.5, "0.5"),
    (A, A, "an array of shape (2, 3)"),
    (transposed("a"), A.T, "transposed('a')"),
    (transposed(with_axis("a"), 1, 2, 0), A[..., None], "transposed(with_axis('a', 0), 1, 2, 0)"),
    (joined("b", "b"), [*B, *B], "joined('b', 'b')"),
    (joined("a", "a", axis=1), np.hstack([A, A]), "joined('a', 'a', axis=1)"),
    (part("a", 1, None, axis=1), A[:, 1:], "part('a', 1, None, axis=1)"),
    (part("b", 0, 2), [10, 20], "part('b', 0, 2, axis=0)"),
    (block("b", 1, of=2), [30, 40], "block('b', 1, of=2, axis=0)"),
    (reordered("b", "ifog", "ifgo"), [10, 20, 40, 30], "reordered('b', 'ifog', 'ifgo')"),
    (reordered("a", "rzn", "nrz", 1), A[:, [2, 0, 1]], "reordered('a', 'rzn', 'nrz', axis=1)"),
    (shaped("a", 3, -1), A.reshape(3, 2), "shaped('a', 3, -1)"),
    (without_axis("one"), np.ones(4), "without_axis('one', 0)"),
    (summed("b", "b"), 2 * B, "summed('b', 'b')"),
    (summed("b", 1.0), B + 1, "summed('b', 1.0)"),
    (scaled("b", -1), -B, "scaled('b', -1)"),
]


@pytest.mark.parametrize(("expression", "value", "text"), VALUES, ids=[row[2] for row in VALUES])
def test_an_expression_has_its_value_and_is_spelled_as_it_was_written(
    expression: Expression, value: Any, text: str
) -> None:
    assert np.array_equal(evaluated(expression, ARRAYS), value)
    assert spelled(expression) == text


@pytest.mark.parametrize("expression", [row[0] for row in VALUES], ids=[row[2] for row in VALUES])
def test_the_adjoint_is_one(expression: Expression) -> None:
    """⟨u, E(a) - E(0)⟩ = ⟨Eᵀu, a⟩."""
    shape, pull = adjoint(expression, {name: x.shape for name, x in ARRAYS.items()})
    zero = {name: np.zeros_like(x) for name, x in ARRAYS.items()}
    u = np.random.default_rng(0).standard_normal(shape)

    moved = evaluated(expression, ARRAYS) - evaluated(expression, zero)
    back = sum(float(np.sum(share * ARRAYS[name])) for name, share in pull(u))

    assert shape == np.shape(evaluated(expression, ARRAYS))
    assert np.isclose(np.sum(u * moved), back, rtol=1e-13)


ORDERS = st.sampled_from(["if", "rzn", "ifgo", "abcde"]).flatmap(
    lambda gates: st.tuples(*[st.permutations(gates).map("".join)] * 2)
)


@given(orders=ORDERS, size=st.integers(1, 3), axis=st.integers(0, 1))
def test_gates_that_are_put_in_another_order_and_back_are_the_same(
    orders: tuple[str, str], size: int, axis: int
) -> None:
    here, there = orders
    w = np.arange(len(here) * size * 2.0).reshape(len(here) * size, 2)
    w = w if axis == 0 else w.T

    back = reordered(reordered("w", here, there, axis), there, here, axis)

    assert np.array_equal(evaluated(back, {"w": w}), w)


@given(count=st.integers(1, 5), size=st.integers(1, 3), axis=st.integers(0, 1))
def test_gates_that_are_split_and_joined_are_the_same(count: int, size: int, axis: int) -> None:
    w = np.arange(count * size * 2.0).reshape(count * size, 2)
    w = w if axis == 0 else w.T
    again = joined(*(block("w", k, of=count, axis=axis) for k in range(count)), axis=axis)

    assert np.array_equal(evaluated(again, {"w": w}), w)


@given(axes=st.permutations(range(4)))
def test_axes_that_are_put_in_another_order_and_back_are_the_same(axes: list[int]) -> None:
    w = np.arange(24.0).reshape(1, 2, 3, 4)
    back = transposed(transposed("w", *axes), *(axes.index(k) for k in range(4)))

    assert np.array_equal(evaluated(back, {"w": w}), w)


def test_a_name_that_comes_twice_gets_both_shares() -> None:
    _, pull = adjoint(joined("b", scaled("b", 3)), {"b": (4,)})

    (_, first), (_, second) = pull(np.ones(8))

    assert (first + second).tolist() == [4, 4, 4, 4]


def test_names_are_found_and_changed_however_deep() -> None:
    expression = summed(transposed(joined("a", "b")), scaled("a", 2), 1.0, A)

    assert list(names(expression)) == ["a", "b", "a"]
    assert list(names(renamed(expression, str.upper))) == ["A", "B", "A"]


@pytest.mark.parametrize(
    ("given_", "known"),
    [("a", True), (1, True), (np.ones(2), True), (transposed("a"), True), (None, False)],
)
def test_what_an_expression_is(given_: object, known: bool) -> None:
    assert is_expression(given_) is known


REFUSED: list[tuple[Expression, str]] = [
    (joined("a", "b"), r"joined\('a', 'b'\) cannot be made of arrays of shapes"),
    (summed("a", "b"), r"summed\('a', 'b'\) adds arrays of shapes \[\(2, 3\), \(4,\)\]"),
    (block("a", 0, of=3), "axis=0 does not fall into 3 equal blocks; axis=1 does"),
    (block("a", 2, of=2), "cannot be made of arrays of shapes"),
    (reordered("b", "rzn", "nrz"), "axis=0 does not fall into 3 equal blocks$"),
    (reordered("b", "rz", "zr", axis=1), "cannot be made of arrays of shapes"),
    (shaped("a", 4), "cannot be made of arrays of shapes"),
    (without_axis("a"), "cannot be made of arrays of shapes"),
    (transposed("a", 0), "cannot be made of arrays of shapes"),
]


@pytest.mark.parametrize(("expression", "message"), REFUSED, ids=[row[1] for row in REFUSED])
def test_shapes_that_do_not_suit_are_refused(expression: Expression, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluated(expression, ARRAYS)


@pytest.mark.parametrize(("order", "wanted"), [("ifgo", "ifg"), ("ii", "ii"), ("rz", "rn")])
def test_letters_that_are_not_the_same_are_refused(order: str, wanted: str) -> None:
    with pytest.raises(InputError, match="the same letters, each once"):
        reordered("w", order, wanted)
