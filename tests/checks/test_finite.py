"""What is infinite, at the point or in the value, hides nothing that is wrong elsewhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule, Verdict, check
from gradcheck.torch import gradcheck as drop_in

INF = float("inf")


def _scaled(f: Callable[[Any], Any], factor: float) -> Any:
    """A function whose gradient is multiplied by a factor."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            found: torch.Tensor = f(x)
            return found

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                y = x.detach().requires_grad_()
                return torch.mul(torch.autograd.grad(f(y), y, u)[0], factor)

    return Scaled


MASKED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "logsumexp": lambda x: x.logsumexp(-1),
    "softmax": lambda x: x.softmax(-1),
    "exp": torch.exp,
    "tanh": torch.tanh,
    "relu": torch.relu,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", MASKED)
def test_a_mask_of_infinity_is_not_moved_and_hides_nothing(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, 2.0, -INF], [0.5, 0.1, 1.0]], dtype=dtype)
    f = MASKED[name]

    right, wrong = (gradcheck.check(_scaled(f, k), x, checks="vjp") for k in (1.0, 1.5))

    assert right.passed
    assert "1 infinite entries of it were not moved" in right.findings[0].message
    assert wrong.verdict == "fail"
    assert all(x[entry.index].isfinite() for entry in wrong.findings[0].entries)


def test_the_drop_in_sees_what_is_wrong_beside_a_mask() -> None:
    x = torch.tensor([1.0, 2.0, -INF], dtype=torch.float64, requires_grad=True)

    assert drop_in(lambda x: x.logsumexp(-1), (x,))
    assert not drop_in(_scaled(lambda x: x.logsumexp(-1), 1.5).apply, (x,), raise_exception=False)


@pytest.mark.parametrize("last", [-1.0, 0.0, float("nan")])
def test_a_value_that_is_not_finite_says_nothing_of_the_others(last: float) -> None:
    x = torch.tensor([1.0, 2.0, last], dtype=torch.float64)

    right, wrong = (gradcheck.check(_scaled(torch.log, k), x, checks="vjp") for k in (1.0, 1.5))

    assert right.verdict == "inconclusive"
    assert "not finite in 1 of 3 entries" in right.findings[0].message
    assert wrong.verdict == "fail"
    assert {entry.index for entry in wrong.findings[0].entries} == {(0,), (1,)}


def test_a_value_that_is_nowhere_finite_is_not_checked() -> None:
    finding = gradcheck.check(torch.log, -torch.ones(3), checks="vjp").findings[0]

    assert finding.verdict == "inconclusive"
    assert "no derivative to check" in finding.message


def test_a_gradient_of_a_mask_that_is_not_finite_fails() -> None:
    rule = Rule(lambda x: np.exp(x), lambda xs, u: (u * np.exp(xs[0]) * (1 + 0 * xs[0]),))

    with np.errstate(invalid="ignore"):
        finding = gradcheck.check(rule, np.array([0.3, -INF]), checks="vjp").findings[0]

    assert finding.verdict == "fail"
    assert finding.diagnosis == "not finite"


def test_a_wrong_rule_beside_a_mask_fails_in_jax() -> None:
    @jax.custom_vjp
    def f(x: Any) -> Any:
        return jax.nn.logsumexp(x)

    f.defvjp(lambda x: (f(x), x), lambda x, u: (1.5 * u * jax.nn.softmax(x),))

    assert gradcheck.check(jax.nn.logsumexp, jnp.array([1.0, 2.0, -INF]), checks="vjp").passed
    assert gradcheck.check(f, jnp.array([1.0, 2.0, -INF]), checks="vjp").verdict == "fail"


def test_a_leaf_of_which_nothing_can_be_compared_is_said_to_be_one() -> None:
    """A query that may look at nothing: its row is no number, nor is the gradient of any value."""
    scores = torch.tensor([[0.3, 0.1], [-INF, -INF]], dtype=torch.float64)
    v = torch.randn(2, 3, dtype=torch.float64)

    finding = gradcheck.check(lambda v: scores.softmax(-1) @ v, v, checks="vjp").findings[0]

    assert finding.verdict == "inconclusive"
    assert "no entry of this leaf has a gradient that could be compared" in finding.message


@pytest.mark.parametrize("first", [1.0, 0.0])
def test_an_infinity_elsewhere_is_no_excuse_for_a_gradient_that_is_no_number(first: float) -> None:
    def layer(x: torch.Tensor, y: torch.Tensor) -> Any:
        return x.log(), torch.where(y > 0, y.sqrt(), 0.0)

    x = torch.tensor([first, 2.0], dtype=torch.float64)
    y = torch.tensor([0.4, -1.0, 0.0], dtype=torch.float64)
    findings = gradcheck.check(layer, x, y, checks="vjp").findings

    assert [f.leaf for f in findings if f.verdict == "fail"] == ["input[1]"]
    assert findings[1].diagnosis == "not finite"


def test_a_root_of_zero_has_an_infinite_slope_and_is_not_accused() -> None:
    x = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)

    for root in (torch.sqrt, lambda x: x ** (1 / 3)):
        (finding,) = gradcheck.check(root, x, checks="vjp").findings
        assert finding.verdict == "inconclusive"
        assert "slope is infinite" in finding.message


def test_what_is_not_finite_is_held_beside_what_it_should_be() -> None:
    def vjp(inputs: Any, u: Any) -> Any:
        return u * np.cos(inputs[0]) * inputs[0] / inputs[0]

    (finding,) = gradcheck.check(Rule(np.sin, vjp), np.array([1.0, 0.0]), checks="vjp").findings

    (entry,) = finding.entries
    assert np.isnan(entry.got)
    assert abs(entry.wanted) > 0.1
    assert entry.error_bar < 1e-9


def test_beside_an_infinite_slope_the_others_are_held_to_theirs() -> None:
    def root(factor: float) -> Any:
        rule = Rule(np.cbrt, lambda xs, u: u * factor / np.cbrt(xs[0]) ** 2)
        return gradcheck.check(rule, np.array([0.0, 1.0, 8.0]), checks="vjp").findings[0]

    assert root(1.0).verdict == "fail"
    assert [entry.index for entry in root(1.0).entries] == [(1,), (2,)]
    assert root(1 / 3).verdict == "inconclusive"
    assert "the gradient of the others is right" in root(1 / 3).message


def test_a_logarithmic_slope_is_infinite_too() -> None:
    x = torch.tensor([0.0, 0.5], dtype=torch.float64)

    (finding,) = gradcheck.check(torch.special.entr, x, checks="vjp").findings

    assert finding.verdict == "inconclusive"
    assert "slope is infinite" in finding.message


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, Verdict.PASS), (1.5, Verdict.FAIL)])
def test_what_is_infinite_and_stays_so_is_left_out(factor: float, verdict: Verdict) -> None:
    """Masked scores, an impossible state: there is nowhere to move the point."""
    mask = np.triu(np.ones((3, 4), bool), 1)

    rule = Rule(
        lambda x: np.where(mask, -np.inf, 2 * x),
        lambda inputs, u: (np.where(mask, 0, 2 * factor * u),),
    )
    result = check(rule, np.arange(12.0).reshape(3, 4) / 7, checks="vjp")

    assert result.verdict is verdict
    if factor == 1:
        assert "6 of 12 entries of the value are infinite, and stay so" in str(result)


@pytest.mark.parametrize("masked", [-1e9, -1e15, -1e30, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_mask_of_vast_numbers_is_as_good_as_one_of_infinities(
    masked: float, dtype: torch.dtype
) -> None:
    def attention(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x @ x.mT + mask, -1) @ x

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 3, dtype=dtype, generator=generator)

    result = gradcheck.check(attention, x, torch.full((4, 4), masked, dtype=dtype).triu(1))

    assert result.verdict is Verdict.PASS, result


def test_vast_numbers_that_the_value_depends_on_are_moved() -> None:
    class Ratio(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x / 1e30

        @staticmethod
        def backward(ctx, u):  # type: ignore[no-untyped-def]
            return torch.zeros_like(u)

    x = torch.tensor([1.0, 1e30, 2e30], dtype=torch.float64)

    assert gradcheck.check(Ratio, x, checks="vjp").verdict is Verdict.FAIL


@pytest.mark.parametrize("vast", [1e12, 1e15])
def test_vast_numbers_count_by_their_ratio(vast: float) -> None:
    """That of two is as it was once both are half as large."""

    def forward(x: Any) -> Any:
        return np.concatenate([x[:1] / (x[0] + x[1]), np.sin(x[2:])])

    def vjp(inputs: Any, u: Any) -> Any:
        return (np.concatenate([0 * u[:1], 0 * u[:1], u[1:] * np.cos(inputs[0][2:])]),)

    x = np.array([vast, 1.7 * vast, 0.3, -0.8])

    assert check(Rule(forward, vjp), x, checks="vjp").verdict is Verdict.FAIL
