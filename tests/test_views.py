"""A problem seen through linear maps: its values, its gradient by the chain rule, what is left."""

import numpy as np
import pytest

from gradcheck import InputError
from gradcheck.adapters.reference_ import problem_of_layer
from gradcheck.problem import Array, Leaf, Problem
from gradcheck.reference import Dense
from gradcheck.views import narrowed, seen, untouched
from gradcheck.weights import Expression, scaled, summed, transposed

RNG = np.random.default_rng(0)
KERNEL, BIAS, X = (RNG.standard_normal(shape) for shape in ((3, 4), (4,), (2, 3)))
POINT = (KERNEL, BIAS, X)
LEAVES = tuple(
    Leaf(path=path, shape=x.shape, dtype="float64")
    for path, x in zip(("kernel", "bias", "x"), POINT, strict=True)
)
READS: dict[str, Expression] = {
    "params.weight": transposed("kernel"),
    "params.bias": summed("bias", scaled("bias", 2), "shift"),
    "input[0]": "x",
}
OUTPUTS: dict[str, Expression] = {"y": scaled(transposed("output[0]"), -1)}
CONSTANTS = {"shift": np.ones(4)}


def dense() -> Problem:
    return problem_of_layer(Dense(inputs=3, outputs=4), (X,), seed=0)


def view(**reads: Expression) -> Problem:
    return seen(dense(), READS | reads, OUTPUTS, leaves=LEAVES, point=POINT, constants=CONSTANTS)


def test_values_are_those_of_the_problem_at_what_its_leaves_are_made_of() -> None:
    (y,) = view().value(POINT)

    assert np.allclose(y, -(X @ KERNEL + 3 * BIAS + 1).T, rtol=1e-14)


def test_gradients_are_those_of_the_own_leaves() -> None:
    u = RNG.standard_normal((4, 2))

    in_kernel, in_bias, in_x = view().vjp(POINT, (u,))

    assert np.allclose(in_kernel, -X.T @ u.T, rtol=1e-14)
    assert np.allclose(in_bias, -3 * u.sum(axis=1), rtol=1e-14)
    assert np.allclose(in_x, -u.T @ KERNEL.T, rtol=1e-14)


def test_a_leaf_that_has_another_shape_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match=r"have shape \(4, 3\); .* Is it transposed\? transposed"):
        view(**{"params.weight": "kernel"})
    with pytest.raises(InputError, match=r"have shape \(4,\); 'x' has shape \(2, 3\)$"):
        view(**{"params.bias": "x"})


def test_narrowed_to_some_leaves_the_others_stand_still() -> None:
    whole = dense()
    paths = [leaf.path for leaf in whole.leaves]
    few = narrowed(whole, leaves=["params.bias"])
    u = RNG.standard_normal((2, 4))
    (place,) = (k for k, path in enumerate(paths) if path == "params.bias")

    assert [leaf.path for leaf in few.leaves] == ["params.bias"]
    assert np.array_equal(few.value(few.point)[0], whole.value(whole.point)[0])
    (gradient,) = few.vjp(few.point, (u,))
    assert np.array_equal(gradient, whole.vjp(whole.point, (u,))[place])


def test_narrowed_to_all_is_the_same() -> None:
    whole = dense()

    assert narrowed(whole, outputs=["output[0]"]) is whole


@pytest.mark.parametrize(
    ("reads", "missed"),
    [
        ({"w": transposed("kernel"), "b": "bias", "x": "x"}, {}),
        ({"w": transposed("kernel"), "b": 0.0, "x": "x"}, {"bias": 4}),
        ({"w": transposed("kernel"), "b": scaled("bias", 0.0), "x": "x"}, {"bias": 4}),
    ],
)
def test_entries_that_nothing_is_made_of_are_told(
    reads: dict[str, Expression], missed: dict[str, int]
) -> None:
    masks: dict[str, Array] = untouched(LEAVES, reads, CONSTANTS)

    assert {path: int(mask.sum()) for path, mask in masks.items()} == missed
