"""The public surface: options, exceptions, and what a result says."""

from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import GradientMismatch, InputError
from gradcheck.results import Verdict

X = torch.linspace(-1, 1, 6, dtype=torch.float64)


class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        return u


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.detach() * b


def test_a_wrong_gradient_is_a_finding_and_no_exception() -> None:
    assert gradcheck.check(Bad, X).verdict is Verdict.FAIL


def test_assert_gradients_raises_the_text_of_the_result() -> None:
    with pytest.raises(GradientMismatch) as caught:
        gradcheck.assert_gradients(Bad, X)

    assert str(caught.value) == str(gradcheck.check(Bad, X))
    assert isinstance(caught.value, AssertionError)


def test_a_result_is_true_if_it_passed_and_is_shown_in_one_line() -> None:
    """`assert check(...)` and `assert result.passed, result` are what users of pytest write."""
    wrong = gradcheck.check(Bad, X)

    assert not wrong
    assert gradcheck.check(torch.sin, X)
    assert repr(wrong).startswith("<CheckResult FAIL  gradient of Bad at input[0]   off by ")
    assert len(repr(wrong).splitlines()) == 1


def test_assert_gradients_returns_what_passed() -> None:
    assert gradcheck.assert_gradients(torch.sin, X).passed


def test_a_result_is_the_same_for_the_same_seed() -> None:
    one, other, third = (gradcheck.check(Bad, X, seed=seed) for seed in (5, 5, 6))

    assert one.findings == other.findings
    assert one.findings != third.findings


def test_wrt_chooses_leaves() -> None:
    result = gradcheck.check(_product, X, X.flip(0), wrt="input[[]1]", checks="vjp")

    assert [finding.leaf for finding in result.findings] == ["input[1]"]
    assert result.passed


def test_wrt_takes_a_path_as_it_is_printed() -> None:
    result = gradcheck.check(_product, X, X.flip(0), wrt="input[0]", checks="vjp")

    assert result.verdict is Verdict.FAIL


def test_wrt_takes_patterns() -> None:
    module = torch.nn.Linear(6, 2, dtype=torch.float64)

    result = gradcheck.check(module, X, wrt="params.*", checks="vjp")

    assert [finding.leaf for finding in result.findings] == ["params.weight", "params.bias"]


def test_rtol_says_how_wrong_is_wrong() -> None:
    class Near(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 3

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            return u * 3.003

    strict, lax = gradcheck.check(Near, X), gradcheck.check(Near, X, rtol=1e-2)

    assert (strict.verdict, lax.verdict) == (Verdict.FAIL, Verdict.PASS)
    assert lax.findings[0].message.startswith("off by ")


def test_a_target_that_raises_is_an_error_and_says_what() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("on purpose")

    result = gradcheck.check(broken, X)

    assert result.verdict is Verdict.ERROR
    assert "ZeroDivisionError: on purpose" in result.findings[0].message


def test_a_name_is_used() -> None:
    assert gradcheck.check(torch.sin, X, name="my sine").name == "my sine"


def test_what_it_cost_is_counted() -> None:
    calls = 0

    def sine(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.sin(x)

    evaluations = gradcheck.check(sine, X, checks="vjp").evaluations

    assert evaluations.vjp == 2
    assert evaluations.forward <= 10
    first_runs = 2  # one is watched, one is recorded
    assert calls == first_runs + evaluations.forward + evaluations.vjp


def test_a_result_becomes_json() -> None:
    assert '"verdict":"fail"' in gradcheck.check(Bad, X).to_json().replace(" ", "")


def test_a_failure_reads_as_where_what_and_how_sure() -> None:
    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return u * x  # type: ignore[no-any-return]

    text = str(gradcheck.check(Half, X))

    assert "FAIL  gradient of Half at input[0]" in text
    assert "looks like: constant factor: got / wanted = 0.5" in text
    assert "6 of 6 entries wrong" in text


MISUSE: list[tuple[dict[str, Any], str]] = [
    ({"wrt": "input[3]"}, "wrt='input[3]' matches no leaf; the leaves are ['input[0]']"),
    ({"declared": {"nothing": "why"}}, "declared='nothing' matches no leaf"),
    ({"rtol": 0.0}, "expected rtol to be a number between 0 and 1"),
    ({"rtol": 2.0}, "expected rtol to be a number between 0 and 1"),
    ({"rtol": "a"}, "expected rtol to be a number between 0 and 1"),
    ({"min_power": "a"}, "expected min_power to be a number above 0"),
    ({"kwargs": 3}, "expected kwargs to map names to arguments; got 3"),
    ({"wrt": 3}, "expected wrt to be paths of leaves; got 3"),
    ({"checks": 3}, "expected checks to be 'default', 'all' or names among ["),
    ({"declared": "input[0]"}, "expected declared to map paths of leaves to reasons; got"),
    (
        {"declared": {"input[0]": " "}},
        "expected declared to say why the gradient of",
    ),
    ({"seed": -1}, "expected seed to be an integer"),
    ({"seed": 0.5}, "expected seed to be an integer"),
    ({"seed": 2**63}, "expected seed to be an integer from 0, below 2**63"),
    ({"checks": "everything"}, "expected checks to be"),
    ({"checks": ()}, "expected checks to be"),
]


@pytest.mark.parametrize(("options", "message"), MISUSE, ids=[str(o) for o, _ in MISUSE])
def test_misuse_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        gradcheck.check(torch.sin, X, **options)

    assert message in str(caught.value)


def test_a_call_that_the_target_refuses_is_its_error() -> None:
    assert gradcheck.check(torch.sin).verdict is Verdict.ERROR


def test_one_array_for_two_arguments_is_moved_apart_and_that_is_said() -> None:
    x = torch.ones(3, dtype=torch.float64)

    result = gradcheck.check(lambda a, b: a * b, x, x)

    assert result.not_checked[0].startswith("input[0] and input[1] as the one array that they are")


def test_a_loss_that_is_a_number_of_python_is_an_array() -> None:
    rule = gradcheck.Rule(lambda x: float(np.sum(x * x)), lambda inputs, u: 2 * u * inputs[0])

    assert gradcheck.check(rule, np.ones(3)).passed
