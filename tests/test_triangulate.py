"""Several implementations: where they differ, and which one is wrong."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import InputError, Rule
from gradcheck.results import Verdict

X = np.random.default_rng(0).standard_normal((3, 4))


def _rule(factor: float = 1.0, power: float = 1.0) -> Rule:
    return Rule(lambda x: power * np.sin(x), lambda inputs, u: factor * u * np.cos(inputs[0]))


def test_equal_functions_of_three_frameworks_agree() -> None:
    result = gradcheck.compare({"numpy": _rule(), "torch": torch.sin, "jax": jnp.sin}, X)

    assert result.passed, str(result)
    assert result.odd_one_out is None
    assert [finding.leaf for finding in result.findings] == ["output", "input[0]"]


@pytest.mark.parametrize("odd", ["first", "second", "third"])
def test_a_wrong_gradient_is_named_among_three(odd: str) -> None:
    sides = {name: _rule(1.001 if name == odd else 1.0) for name in ("first", "second", "third")}

    result = gradcheck.compare(sides, X)

    assert result.verdict is Verdict.FAIL
    assert result.odd_one_out == odd


def test_a_finite_difference_decides_between_two() -> None:
    result = gradcheck.compare({"right": _rule(), "wrong": _rule(-1.0)}, X)

    assert result.odd_one_out == "wrong"


def test_values_that_differ_are_found_and_named_by_majority() -> None:
    result = gradcheck.compare({"a": _rule(), "b": _rule(2.0, 2.0), "c": _rule()}, X)

    assert result.findings[0].verdict is Verdict.FAIL
    assert result.odd_one_out == "b"


def test_different_subgradients_at_a_kink_agree() -> None:
    def relu(at_zero: float) -> Rule:
        return Rule(
            lambda x: np.maximum(x, 0),
            lambda inputs, u: u * np.where(inputs[0] == 0, at_zero, 1.0 * (inputs[0] > 0)),
        )

    result = gradcheck.compare({"a": relu(0.0), "b": relu(1.0)}, np.array([0.0, 1.0, -1.0]))

    assert result.verdict in (Verdict.PASS, Verdict.FAIL)
    assert result.findings[0].verdict is Verdict.PASS


def test_rounding_is_no_disagreement() -> None:
    def reassociated(x: Any) -> Any:
        return ((x + 1e3) - 1e3).sin()

    def plain(x: Any) -> Any:
        return x.sin()

    x = torch.from_numpy(X)

    assert gradcheck.compare({"a": plain, "b": reassociated}, x).passed


MISUSE: list[tuple[Any, str]] = [
    ({"a": torch.sin}, "at least two names"),
    ([torch.sin, torch.cos], "at least two names"),
    ({"a": torch.sin, "b": lambda x: x.sum()}, "corresponding outputs"),
]


@pytest.mark.parametrize(("implementations", "message"), MISUSE, ids=[m for _, m in MISUSE])
def test_misuse_is_said(implementations: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        gradcheck.compare(implementations, torch.from_numpy(X))

    assert message in str(caught.value)
