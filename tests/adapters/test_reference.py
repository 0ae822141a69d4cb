"""Layers of the NumPy reference: parameters given or drawn, inputs that are constants."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import gradcheck
from gradcheck import InputError, Verdict
from gradcheck.adapters import problem_of
from gradcheck.reference import BatchNorm, Dense, Embedding, ReLU, Residual, Sequential

check = partial(gradcheck.check, checks="vjp")
assert_gradients = partial(gradcheck.assert_gradients, checks="vjp")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 3))
DENSE = Dense(inputs=3, outputs=2)


def leaves_of(result: gradcheck.CheckResult) -> list[str]:
    return [finding.leaf for finding in result.findings]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A layer whose gradient of the bias has the wrong `shape` or the wrong factor."""

    layer: Dense
    factor: float = 1.0
    extra: bool = False

    def parameters(self, rng: np.random.Generator, dtype: Any = np.float64) -> Any:
        return self.layer.parameters(rng, dtype)

    def forward(self, params: Any, x: Any) -> Any:
        return self.layer.forward(params, x)

    def backward(self, params: Any, cache: Any, u: Any) -> Any:
        grads, inputs = self.layer.backward(params, cache, u)
        bias = grads["bias"] * self.factor
        return {**grads, "bias": bias[None] if self.extra else bias}, inputs


def test_parameters_and_inputs_are_leaves() -> None:
    result = assert_gradients(DENSE, X)

    assert leaves_of(result) == ["params.weight", "params.bias", "input[0]"]
    assert result.name == "Dense"
    assert result.target == repr(DENSE)


def test_parameters_of_composed_layers_have_dotted_names() -> None:
    chain = Sequential(layers=(DENSE, ReLU(), Residual(inner=Dense(inputs=2, outputs=2))))

    result = assert_gradients(chain, X)

    assert leaves_of(result)[:-1] == [
        "params.0.weight",
        "params.0.bias",
        "params.2.inner.weight",
        "params.2.inner.bias",
    ]


def test_wrong_backward_is_caught() -> None:
    result = check(Planted(layer=DENSE, factor=-1.0), X)

    failed = [f for f in result.findings if f.verdict is Verdict.FAIL]
    assert [(f.leaf, f.diagnosis) for f in failed] == [("params.bias", "sign")]


def test_parameters_are_drawn_from_the_seed() -> None:
    drawn = DENSE.parameters(np.random.default_rng(7), np.float64)

    weight, bias, x = problem_of(DENSE, (X,), seed=7).point

    assert np.array_equal(weight, drawn["weight"])
    assert np.array_equal(bias, drawn["bias"])
    assert np.array_equal(x, X)


def test_parameters_are_drawn_in_the_dtype_of_the_inputs() -> None:
    result = check(DENSE, X.astype(np.float32))

    assert {finding.tolerance for finding in result.findings} == {1e-3}
    assert result.passed


def test_given_parameters_are_used_and_left_alone() -> None:
    params = {"weight": np.ones((2, 3)), "bias": np.full(2, np.nan)}

    result = check(DENSE, X, params=params)

    assert result.verdict is Verdict.INCONCLUSIVE
    assert "not finite" in result.findings[0].message
    assert np.array_equal(params["weight"], np.ones((2, 3)))


def test_indices_are_constants() -> None:
    result = check(Embedding(vocabulary=5, features=2), np.array([0, 3, 3]))

    assert leaves_of(result) == ["params.weight"]
    assert result.passed


def test_declared_constants_are_no_leaves() -> None:
    layer = BatchNorm(features=3)
    mean, variance = np.zeros(3), np.ones(3)

    result = check(replace(layer, mode="inference"), X, mean, variance)

    assert "input[0]" in leaves_of(result)
    assert not {"input[1]", "input[2]"} & set(leaves_of(result))
    assert result.passed


def test_layer_that_raises_is_an_error() -> None:
    assert check(DENSE, X[:, :2]).verdict is Verdict.ERROR


@pytest.mark.parametrize("inputs", [[X], {"x": X}], ids=type)
def test_inputs_in_a_container_are_misuse(inputs: Any) -> None:
    with pytest.raises(InputError, match=r"as input\[0\]. Unpack it: check\(layer, \*inputs\)"):
        check(DENSE, inputs)


def test_gradient_of_another_shape_fails_at_its_leaf() -> None:
    (finding,) = check(Planted(layer=DENSE, extra=True), X).findings

    assert (finding.leaf, finding.verdict) == ("params.bias", Verdict.FAIL)
    assert "expected the leaf's shape (2,), got a gradient of (1, 2)" in finding.message


def test_nothing_to_differentiate_is_misuse() -> None:
    with pytest.raises(InputError, match="no floating parameter and no floating input"):
        check(ReLU(), np.arange(3))
