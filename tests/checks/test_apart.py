"""A few entries that leave a leaf open, at the border of a branch or at zero, hide no others."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule, Verdict
from gradcheck.problem import Array

RESIDUALS = np.array([0.0, 1.0, 2.0, 3.0, -1.0, -2.0])  # integers, as of labels


def _huber(slope: Callable[[Array], Array]) -> Rule:
    """Quadratic up to one and linear beyond, where its slope is `slope`."""

    def forward(x: Array) -> Array:
        return np.where(np.abs(x) < 1, 0.5 * x * x, np.abs(x) - 0.5)

    def vjp(inputs: tuple[Array, ...], u: Array) -> tuple[Array]:
        return (u * np.where(np.abs(inputs[0]) < 1, inputs[0], slope(inputs[0])),)

    return Rule(forward, vjp)


@pytest.mark.parametrize("seed", range(6))
def test_a_right_branch_passes_at_its_border(seed: int) -> None:
    result = gradcheck.check(_huber(np.sign), RESIDUALS, checks="vjp", seed=seed)

    assert result.verdict is Verdict.PASS, result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("slope", [np.ones_like, lambda x: 2 * np.sign(x), lambda x: 0 * x])
def test_a_wrong_branch_fails_though_entries_lie_on_its_border(
    slope: Callable[[Array], Array], seed: int
) -> None:
    result = gradcheck.check(_huber(slope), RESIDUALS, checks="vjp", seed=seed)

    assert result.verdict is Verdict.FAIL, result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_zeros_where_the_value_bends_too_fast_are_looked_at_apart(factor: float, seed: int) -> None:
    class Power(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x)
            return x.abs() ** 1.5

        @staticmethod
        def backward(ctx, u):  # type: ignore[no-untyped-def]
            (x,) = ctx.saved_tensors
            return factor * u * 1.5 * x.abs().sqrt() * x.sign()

    x = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64)
    result = gradcheck.check(Power, x, checks="vjp", seed=seed)

    assert result.verdict is (Verdict.PASS if factor == 1 else Verdict.FAIL), result


@pytest.mark.parametrize("largest", [1e3, 1e5, 1e8])
@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_entries_of_many_sizes_are_moved_each_by_its_own(factor: float, largest: float) -> None:
    """No jump, though a step that suits the largest leads far beyond what the smallest bends."""
    scales = np.array([largest, 1.0, 1 / largest, largest**0.5])

    def vjp(inputs: tuple[Array, ...], u: Array) -> tuple[Array]:
        return (factor * u * scales / np.cosh(inputs[0] * scales) ** 2,)

    result = gradcheck.check(Rule(lambda x: np.tanh(x * scales), vjp), 1 / scales, checks="vjp")

    assert result.verdict is (Verdict.PASS if factor == 1 else Verdict.FAIL), result
