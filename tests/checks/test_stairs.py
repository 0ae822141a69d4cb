"""A staircase has the slope of the line through its steps; a dead zone and a kink have not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import hardshrink

from gradcheck import CheckResult, Rule, check
from gradcheck.results import Verdict

Map = Callable[[Any], Any]


def bisected(steps: int) -> Map:
    """The root z of z³ + z = x, by halving an interval."""

    def root(x: Any) -> Any:
        low, high = np.full_like(x, -4.0), np.full_like(x, 4.0)
        for _ in range(steps):
            middle = (low + high) / 2
            above = middle**3 + middle < x
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return (low + high) / 2

    return root


def of_root(x: Any) -> Any:
    return 1 / (3 * bisected(60)(x) ** 2 + 1)


STAIRS: dict[str, tuple[Map, Map]] = {
    "six digits": (lambda x: np.round(np.sin(x), 6), np.cos),
    "a grid": (lambda x: np.round(np.sin(x) * 2**20) / 2**20, np.cos),
    "float32 inside": (lambda x: np.sin(x.astype(np.float32)).astype(np.float64), np.cos),
    "a bisection": (bisected(22), of_root),
}


def checked(name: str, factor: float, size: int, seed: int) -> CheckResult:
    f, slope = STAIRS[name]
    x = np.random.default_rng(seed).standard_normal(size)
    rule = Rule(f, lambda inputs, u: (factor * u * slope(inputs[0]),))
    return check(rule, x, checks="vjp", seed=seed)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("name", STAIRS)
def test_the_slope_through_the_steps_is_not_accused(name: str, size: int, seed: int) -> None:
    assert checked(name, 1.0, size, seed).verdict is not Verdict.FAIL


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", STAIRS)
def test_half_too_much_of_a_single_number_is_found(name: str, seed: int) -> None:
    """Its steps are no kink, whose subgradients would excuse it."""
    assert checked(name, 1.5, 1, seed).verdict is Verdict.FAIL


class Shrunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, width: float, is_right: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.width, ctx.is_right = width, is_right
        return hardshrink(x, width)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        gate = x.abs() > ctx.width if ctx.is_right else torch.ones_like(x)
        return u * gate, None, None


def shrunk(width: float, size: int, dtype: torch.dtype, seed: int, is_right: bool) -> CheckResult:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, dtype=dtype, generator=generator)
    inside = max(size // 20, 1)
    x[:inside] = width * (torch.rand(inside, dtype=dtype, generator=generator) - 0.5)
    target = lambda x: Shrunk.apply(x, width, is_right)  # type: ignore[no-untyped-call]  # noqa: E731
    return check(target, x, checks="vjp", seed=seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("size", [4, 512])
def test_a_dead_zone_narrower_than_the_steps_is_seen(
    size: int, width: float, dtype: torch.dtype, seed: int
) -> None:
    assert shrunk(width, size, dtype, seed, is_right=True).passed
    wrong = shrunk(width, size, dtype, seed, is_right=False).verdict
    # Of many entries some jump nearby, as the value of an iteration does that stops early.
    assert wrong is Verdict.FAIL or (size > 4 and wrong is Verdict.INCONCLUSIVE)


BRANCHES: dict[str, tuple[Map, Map]] = {
    "log1p": (
        lambda x: torch.where(x.abs() < 0.1, x - x**2 / 2, torch.log1p(x)),
        lambda x: torch.where(x.abs() < 0.1, torch.ones_like(x), 1 / (1 + x)),
    ),
    "softplus": (
        lambda x: torch.where(x > 5, x, torch.nn.functional.softplus(x)),
        lambda x: torch.sigmoid(x),
    ),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", BRANCHES)
def test_a_rule_that_is_right_in_one_branch_only_is_no_iteration(name: str, seed: int) -> None:
    f, slope = BRANCHES[name]

    class Branching(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> Any:
            ctx.save_for_backward(x)
            return f(x)

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            return u * slope(*ctx.saved_tensors)

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, dtype=torch.float64, generator=generator).abs()
    x = x * 0.12 if name == "log1p" else x + 4.5

    assert check(Branching, x, checks="vjp", seed=seed).verdict is Verdict.FAIL


@pytest.mark.parametrize("exponent", [4, 6, 8])
@pytest.mark.parametrize("factor", [1.0, 1.05])
def test_a_small_entry_beside_ones_larger_by_any_factor(exponent: int, factor: float) -> None:
    x = np.array([10.0**exponent, 1.0, 10.0**-exponent])
    factors = np.array([1.0, 1.0, factor])
    square = Rule(lambda x: x**2, lambda inputs, u: (2 * u * inputs[0] * factors,))

    verdicts = {check(square, x, seed=seed).verdict for seed in range(3)}

    assert verdicts == {Verdict.PASS if factor == 1 else Verdict.FAIL}


@pytest.mark.parametrize("seed", range(6))
def test_a_single_number_that_cancels_is_not_accused(seed: int) -> None:
    """By chance one line of three shows none of the noise that the others are full of."""
    x = torch.tensor([np.exp(np.random.default_rng(seed).uniform(-4.6, 0))], dtype=torch.float64)

    assert check(lambda x: (1 - torch.cos(x)) / x**2, x, seed=seed, checks="vjp").passed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("step", [0.125, 0.1, 0.05, 6 / 255])
def test_a_straight_through_estimate_is_called_one_whatever_its_steps(
    step: float, dtype: torch.dtype
) -> None:
    class Quantised(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return torch.round(x / step) * step

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            return u

    for seed in range(5):
        x = torch.randn(4, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed))
        result = check(Quantised, x, checks="vjp", seed=seed)
        assert result.verdict is Verdict.INCONCLUSIVE
        assert "straight-through" in str(result)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("digits", [1e6, 2.0**16])
def test_stairs_beside_a_slope_are_no_error_of_it(digits: float, seed: int) -> None:
    """The quantiser of a sound has no gradient, and on average a slope of one."""

    def residual(x: torch.Tensor) -> torch.Tensor:
        return x * x - torch.floor(x * digits) / digits

    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert check(residual, x, checks="vjp", seed=seed).verdict is not Verdict.FAIL
