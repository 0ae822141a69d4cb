"""Layers that vary fast beside the size of their leaves: no kink, and no dtype inside, excuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck.results import CheckResult, Verdict

Formula = Callable[[torch.Tensor], torch.Tensor]


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by `factor`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        (factor,) = ctx.saved_tensors
        return u * factor, None


def _checked(formula: Formula, x: torch.Tensor, factor: torch.Tensor, seed: int) -> CheckResult:
    def layer(x: torch.Tensor) -> torch.Tensor:
        return formula(Scaled.apply(x, factor))  # type: ignore[no-untyped-call]

    return gradcheck.check(layer, x, checks="vjp", seed=seed)


def _normal(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _kernel(x: torch.Tensor) -> torch.Tensor:
    """Of points that lie 50 m apart."""
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)
    return torch.exp(-squares / 50.0**2 / 2)


UTM = torch.tensor([4.5e5, 5.2e6], dtype=torch.float64)  # metres from the equator

STEEP: dict[str, tuple[Formula, torch.Tensor]] = {
    "sine of large numbers": (torch.sin, _normal(4) + 1e6),
    "fast sine": (lambda x: torch.sin(2.0**20 * x), _normal(4)),
    "cold softmax": (lambda x: torch.softmax(x / 1e-6, -1), 1e-6 * _normal(2, 5) + 1.0),
    "kernel at coordinates": (_kernel, 50 * _normal(5, 2) + UTM),
    "layer norm of large numbers": (
        lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
        _normal(3, 6) + 1e6,
    ),
    "beside a pole": (lambda x: 1 / (x - 1), 1 + 1e-7 * (1.5 + _normal(4).abs())),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", STEEP)
def test_a_right_gradient_passes(name: str, seed: int) -> None:
    formula, x = STEEP[name]

    result = _checked(formula, x, torch.ones_like(x), seed)

    assert result.verdict is Verdict.PASS, result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", STEEP)
def test_a_factor_fails(name: str, seed: int) -> None:
    formula, x = STEEP[name]

    result = _checked(formula, x, torch.full_like(x, 1.001), seed)

    assert result.verdict is Verdict.FAIL, result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["sine of large numbers", "fast sine", "kernel at coordinates"])
def test_one_entry_fails(name: str, seed: int) -> None:
    formula, x = STEEP[name]
    factor = torch.ones_like(x)
    factor.view(-1)[1] = 1.1

    result = _checked(formula, x, factor, seed)

    assert result.verdict is Verdict.FAIL, result


@pytest.mark.parametrize("seed", range(3))
def test_an_ill_conditioned_system_is_not_accused(seed: int) -> None:
    n = 8  # autodiff is right to 2e-8 here, by rational arithmetic; the value to 1e-6
    rows = torch.arange(n, dtype=torch.float64)
    hilbert = 1 / (rows[:, None] + rows[None] + 1)

    result = gradcheck.check(torch.linalg.solve, hilbert, _normal(n), checks="vjp", seed=seed)

    assert result.verdict is not Verdict.FAIL, result


def test_numbers_that_are_hardly_there_are_no_error() -> None:
    x = torch.tensor([1e-310, 1e-320, 0.0, 1e-308], dtype=torch.float64)

    assert _checked(lambda x: 3 * x, x, torch.ones_like(x), 0).passed
    assert _checked(lambda x: 3 * x, x, torch.full_like(x, 1.001), 0).verdict is Verdict.FAIL


TIED = np.array([[1.0, 2.0, 2.0, 2.0, 5.0]])

CHOOSING: dict[str, Formula] = {
    "median": lambda x: x.median(-1)[0],
    "third": lambda x: x.kthvalue(3, -1)[0],
    "sorted": lambda x: x.sort(-1)[0],
    "quantile": lambda x: x.quantile(0.5, -1),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", CHOOSING)
def test_of_three_equal_numbers_one_may_be_chosen(name: str, seed: int) -> None:
    result = gradcheck.check(CHOOSING[name], torch.from_numpy(TIED), checks="vjp", seed=seed)

    assert result.verdict is Verdict.PASS, result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CHOOSING)
def test_ties_excuse_no_wrong_entry_elsewhere(name: str, seed: int) -> None:
    x = torch.cat([torch.from_numpy(TIED), _normal(1, 5)])
    factor = torch.ones_like(x)
    factor[1] = 1.1

    result = _checked(CHOOSING[name], x, factor, seed)

    assert result.verdict is Verdict.FAIL, result


@pytest.mark.parametrize("seed", range(3))
def test_of_a_thousand_ties_none_is_left_beside_the_point(seed: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 3, (2, 4, 20, 20), generator=generator).double()

    for formula in (lambda x: x.cummax(-1)[0], lambda x: torch.nn.functional.max_pool2d(x, 3, 1)):
        result = gradcheck.check(formula, x, checks="vjp", seed=seed)
        assert result.verdict is Verdict.PASS, result


def _stepped(x: torch.Tensor) -> torch.Tensor:
    """A sine that jumps a hundredth beside its first entry."""
    threshold = torch.full_like(x, 1e9)
    threshold[0] = 0.31
    return torch.sin(x) + 2 * torch.sign(x - threshold)


@pytest.mark.parametrize("seed", range(4))
def test_a_single_step_beside_a_small_entry_is_no_saw(seed: int) -> None:
    x = torch.tensor([0.3, 0.5, 0.9, 1000.0], dtype=torch.float64)
    factor = torch.full_like(x, 1.03)

    def layer(x: torch.Tensor) -> Any:
        return _stepped(Scaled.apply(x, factor))  # type: ignore[no-untyped-call]

    found = gradcheck.check(layer, x, checks="vjp", seed=seed)
    assert found.verdict is Verdict.FAIL
    assert all(
        entry.got == pytest.approx(1.03 * entry.wanted) for entry in found.findings[0].entries
    )
    assert gradcheck.check(layer, x, checks="vjp", seed=seed, rtol=0.1).passed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1e8, 1e9, 1e10])
def test_a_sine_of_which_all_steps_but_the_finest_skip_whole_periods(
    size: float, seed: int
) -> None:
    x = size * torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    wrong = torch.full((6,), 1.5, dtype=torch.float64)

    assert gradcheck.check(torch.sin, x, checks="vjp", seed=seed).verdict is Verdict.PASS
    assert _checked(torch.sin, x, wrong, seed).verdict is Verdict.FAIL
