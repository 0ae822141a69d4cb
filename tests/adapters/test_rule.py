"""Derivatives written by hand, in both styles and on arrays of any library."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import InputError, Rule, Verdict

check = partial(gradcheck.check, checks="vjp")
assert_gradients = partial(gradcheck.assert_gradients, checks="vjp")

X = np.linspace(0.5, 2.0, 3)
A = np.arange(6.0).reshape(2, 3) / 4 - 1


def matrix_vector(inputs: Any, u: Any) -> Any:
    a, x = inputs
    return u[:, None] * x, a.T @ u


def cached_product(a: Any, x: Any) -> Any:
    return a @ x, (a, x)


def leaves_of(result: gradcheck.CheckResult) -> list[str]:
    return [finding.leaf for finding in result.findings]


@pytest.mark.parametrize(
    "rule",
    [Rule(np.matmul, matrix_vector), Rule(cached_product, matrix_vector, cached=True)],
    ids=["inputs", "cached"],
)
def test_both_styles_pass(rule: Rule) -> None:
    result = assert_gradients(rule, A, X)

    assert leaves_of(result) == ["input[0]", "input[1]"]


@pytest.mark.parametrize(
    "vjp",
    [lambda x, u: u * np.cos(x), lambda x, u: u * x.nothing],
    ids=["another shape", "raises"],
)
def test_a_cache_that_is_not_declared_is_guessed_at_where_it_fails(vjp: Any) -> None:
    result = check(Rule(lambda x: (np.sin(x), x), vjp), X)

    assert not result.passed
    assert "say Rule(..., cached=True)" in str(result).replace("\n      ", " ")


def test_cached_rule_that_keeps_the_wrong_array_fails() -> None:
    rule = Rule(lambda a, x: (a @ x, (a, 2 * x)), matrix_vector, cached=True)

    result = check(rule, A, X)

    verdicts = {finding.leaf: finding.verdict for finding in result.findings}
    assert verdicts == {"input[0]": Verdict.FAIL, "input[1]": Verdict.PASS}


@pytest.mark.parametrize(
    "gradient", [lambda g: g, lambda g: (g,), lambda g: [g]], ids=["alone", "tuple", "list"]
)
def test_gradient_of_a_single_input(gradient: Callable[[Any], Any]) -> None:
    rule = Rule(np.sin, lambda inputs, u: gradient(u * np.cos(inputs[0])))

    assert check(rule, X).passed


def test_scalar_gradient_may_be_a_number() -> None:
    rule = Rule(lambda x: x**2, lambda inputs, u: float(2 * inputs[0] * u))

    assert check(rule, np.array(1.5)).passed


def test_nested_inputs_and_outputs() -> None:
    def forward(params: Any, x: Any) -> Any:
        return {"y": params["w"] * x, "parts": [params["b"][0] + x, 3]}

    def vjp(inputs: Any, u: Any) -> Any:
        params, x = inputs
        y, part = u["y"], u["parts"][0]
        return {"w": y * x, "b": (part,)}, y * params["w"] + part

    result = check(Rule(forward, vjp), {"w": X, "b": (X + 1,)}, X - 2)

    assert leaves_of(result) == ["input[0]['w']", "input[0]['b'][0]", "input[1]"]
    assert result.passed, result


@pytest.mark.parametrize("inner", [lambda g: g, lambda g: (g,)], ids=["alone", "tuple"])
def test_single_nested_input(inner: Callable[[Any], Any]) -> None:
    rule = Rule(
        lambda p: p["a"] * p["b"],
        lambda inputs, u: inner({"a": u * inputs[0]["b"], "b": u * inputs[0]["a"]}),
    )

    assert check(rule, {"a": X, "b": X + 1}).passed


def test_none_passes_where_nothing_depends() -> None:
    rule = Rule(lambda x, y: x + 0 * y, lambda inputs, u: (u, None))

    result = check(rule, X, X)

    assert result.passed
    assert "vacuous" in result.findings[1].message


def test_none_fails_where_something_depends() -> None:
    rule = Rule(lambda x, p: x + p["w"], lambda inputs, u: (u, None))

    result = check(rule, X, {"w": X})

    assert result.findings[1].verdict is Verdict.FAIL
    assert result.findings[1].diagnosis == "zero"


def test_integers_are_no_leaves() -> None:
    index = np.array([2, 0])

    def scattered(inputs: Any, u: Any) -> Any:
        gradient = np.zeros_like(inputs[0])
        np.add.at(gradient, inputs[1], u)
        return gradient, None

    result = check(Rule(lambda x, k: x[k], scattered), X, index)

    assert leaves_of(result) == ["input[0]"]
    assert result.passed


@pytest.mark.parametrize(
    ("x", "sine"),
    [(torch.tensor(X), (torch.sin, torch.cos)), (jnp.asarray(X), (jnp.sin, jnp.cos))],
    ids=["torch", "jax"],
)
def test_arrays_of_other_libraries(x: Any, sine: Any) -> None:
    sin, cos = sine

    right = check(Rule(sin, lambda inputs, u: u * cos(inputs[0])), x)
    wrong = check(Rule(sin, lambda inputs, u: -u * cos(inputs[0])), x)

    assert right.passed, right
    assert wrong.findings[0].diagnosis == "sign"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
def test_other_precisions(dtype: Any) -> None:
    def scale(by: float) -> Rule:
        return Rule(np.square, lambda inputs, u: inputs[0] * u * inputs[0].dtype.type(by))

    if dtype is np.longdouble:
        with pytest.raises(InputError, match="floating or complex"):
            check(scale(2), X.astype(dtype))
        return
    assert check(scale(2), X.astype(dtype)).passed
    assert check(scale(2.2), X.astype(dtype)).verdict is Verdict.FAIL


def test_complex_inputs_take_the_real_inner_product() -> None:
    z = X + 1j * X[::-1]

    right = check(Rule(np.square, lambda inputs, u: 2 * np.conj(inputs[0]) * u), z)
    wrong = check(Rule(np.square, lambda inputs, u: 2 * inputs[0] * u), z)

    assert right.passed, right
    assert wrong.verdict is Verdict.FAIL


def test_inputs_are_not_written_to() -> None:
    x = X.copy()

    def double(a: Any) -> Any:
        a *= 2
        return a

    result = check(Rule(double, lambda inputs, u: 2 * u), x)

    assert result.passed
    assert np.array_equal(x, X)


@pytest.mark.parametrize(
    ("gradients", "leaf", "message"),
    [
        ((A.T, X), "input[0]", "shape (2, 3), got a gradient of (3, 2). Is it transposed?"),
        ((A, X[:2]), "input[1]", "shape (3,), got a gradient of (2,)"),
        ((A, 1.0), "input[1]", "shape (3,), got a gradient of ()"),
    ],
    ids=["transposed", "short", "number"],
)
def test_gradient_of_another_shape_fails_at_its_leaf(
    gradients: Any, leaf: str, message: str
) -> None:
    (finding,) = check(Rule(np.matmul, lambda inputs, u: gradients), A, X).findings

    assert (finding.leaf, finding.verdict) == (leaf, Verdict.FAIL)
    assert message in finding.message


def returning(gradients: Any) -> Callable[[], object]:
    return lambda: check(Rule(np.matmul, lambda inputs, u: gradients), A, X)


MISUSE: list[tuple[str, Callable[[], object], str]] = [
    ("too few", returning((A,)), "for each of the 2 inputs, None where there is none; got 1"),
    ("too many", returning((A, X, X)), "got 3"),
    ("bare", returning(A), "got ndarray"),
    ("nested", returning(({"a": A}, X)), "to return a gradient for input[0]; got none there"),
    (
        "no pair",
        lambda: check(Rule(np.sin, lambda cache, u: u, cached=True), X),
        "(outputs, cache); got ndarray",
    ),
    (
        "integers",
        lambda: check(Rule(np.sin, lambda inputs, u: u), np.arange(3)),
        "floating or complex array among the inputs; got ndarray of int64",
    ),
    (
        "integer outputs",
        lambda: check(Rule(np.sign, lambda inputs, u: u), np.arange(3)),
        "floating or complex",
    ),
    (
        "boolean outputs",
        lambda: check(Rule(np.isnan, lambda inputs, u: u), X),
        "expected forward to return at least one floating or complex array",
    ),
]


@pytest.mark.parametrize(
    ("call", "message"), [row[1:] for row in MISUSE], ids=[r[0] for r in MISUSE]
)
def test_misuse_is_an_input_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        call()

    assert message in str(raised.value)
