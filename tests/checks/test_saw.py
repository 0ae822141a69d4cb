"""Rounding that other terms cancel: between its jumps such a value is smooth, and steep."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule


def _sinc(factor: float) -> Rule:
    """(1 - cos x) / x², with its gradient by a series, times a factor."""

    def gradient(x: Any) -> Any:
        return -x / 12 + x**3 / 180 - x**5 / 6720

    return Rule(
        lambda x: (1 - np.cos(x)) / x**2,
        lambda xs, u: (factor * u * gradient(xs[0]),),
    )


POINTS = ([2e-4], [1e-3], [5e-3], [-0.02], [-6e-4, -4e-4, 2e-4, 7e-4, -1e-3])
CLOSE = ([1e-5, 1e-4], [1e-6, 1e-3])  # where of a gradient of zero nothing could be said


def _verdicts(point: list[float], factor: float) -> Counter[str]:
    found = (
        gradcheck.check(_sinc(factor), np.array(point), checks="vjp", seed=seed).verdict.value
        for seed in range(6)
    )
    return Counter(found)


@pytest.mark.parametrize("point", [*POINTS, *CLOSE], ids=str)
def test_what_rounding_leaves_is_no_failure(point: list[float]) -> None:
    assert not _verdicts(point, 1.0)["fail"]


@pytest.mark.parametrize("factor", [2.0, -1.0, 100.0, 0.0])
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_it_excuses_no_factor(point: list[float], factor: float) -> None:
    assert not _verdicts(point, factor)["pass"]


def _quotient(factor: float) -> Rule:
    """(exp x - 1) / x near zero, where hardly a digit of it is left."""
    return Rule(
        lambda x: (np.exp(x) - 1) / x,
        lambda xs, u: (factor * u * (0.5 + xs[0] / 3),),
    )


@pytest.mark.parametrize("least", [-8, -12])
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_where_hardly_a_digit_is_left_nothing_is_mistaken(factor: float, least: float) -> None:
    for seed in range(8):
        point = 10 ** np.random.default_rng(seed).uniform(least, least + 2, 3)
        found = gradcheck.check(_quotient(factor), point, checks="vjp", seed=seed)
        assert found.verdict != ("fail" if factor == 1.0 else "pass"), found


@pytest.mark.parametrize("factor", [2.0, 0.0])
@pytest.mark.parametrize("point", [[1e-3], [5e-3], [-0.02]], ids=str)
def test_what_stands_out_of_it_fails(point: list[float], factor: float) -> None:
    verdicts = _verdicts(point, factor)
    assert not verdicts["pass"]
    assert verdicts["fail"] >= 4  # a factor of two at 1e-3 is open in a sixth of the seeds


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1e3, 1e4, 1e5])
def test_the_remainder_of_a_division_is_a_saw_in_which_nothing_is_rounded(
    k: float, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal(5)

    def verdict(factor: float) -> str:
        rule = Rule(lambda x: k * x % 1, lambda xs, u: (factor * k * u,))
        return gradcheck.check(rule, x, checks="vjp", seed=seed).verdict.value

    assert verdict(1.0) == "pass"
    assert verdict(0.0) != "pass"


class Gelu(torch.autograd.Function):
    """x Φ(x), whose value at -7 is some roundings of one, with its gradient by erfc."""

    FACTOR = 1.0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.nn.functional.gelu(x)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        density = torch.exp(-(x**2) / 2) / (2 * np.pi) ** 0.5
        gradient: torch.Tensor = torch.erfc(-x / 2**0.5) / 2 + x * density
        return gradient * u * Gelu.FACTOR


@pytest.mark.parametrize(("factor", "excluded"), [(1.0, "fail"), (1.5, "pass"), (-1.0, "pass")])
def test_stairs_of_a_tail_are_no_failure_and_no_excuse(
    factor: float, excluded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gelu, "FACTOR", factor)
    tail = np.arange(-6.0, -7.9, -0.1)
    verdicts = [
        gradcheck.check(Gelu, torch.tensor([x]), checks="vjp", seed=k).verdict
        for k, x in enumerate(tail)
    ]

    assert excluded not in verdicts
    assert verdicts.count(gradcheck.Verdict.INCONCLUSIVE) <= len(verdicts) / 4
