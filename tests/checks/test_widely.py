"""What half precision would hide of states, layouts and cotangents is seen in float64."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch.autograd.function import once_differentiable

import gradcheck
from gradcheck.results import Verdict

HALVES = [torch.bfloat16, torch.float16]


def _tanh(changed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
    """tanh, whose rule makes something else of its cotangent and its output."""

    class Tanh(torch.autograd.Function):
        last: torch.Tensor

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            y = Tanh.last = torch.tanh(x)
            ctx.save_for_backward(y)
            return y.clone()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (y,) = ctx.saved_tensors
            y = Tanh.last if changed is _stale else y
            gradient: torch.Tensor = changed(u, y) * (1 - y**2)
            return gradient

    return Tanh


def _right(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return u


def _stale(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return u


def _in_storage_order(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return u if u.is_contiguous() else u.clone().as_strided(u.shape, y.stride())


def _clipped_by_norm(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.div(u, (u.norm() / 10).clamp(min=1))


def _small_ones_dropped(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return u * (u.abs() > 1e-2)


def _noisy() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Of randomness that no seed governs."""
    calls = count()

    def noisy(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        own = torch.Generator().manual_seed(next(calls))
        return u * (1 + 0.1 * torch.randn(u.shape, generator=own)).to(u.dtype)

    return noisy


def _x(dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 6, dtype=torch.float64, generator=generator).to(dtype)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("changed", "check"),
    [
        (_stale, "state"),
        (_in_storage_order, "layout"),
        (_clipped_by_norm, "adjoint"),
        (_small_ones_dropped, "adjoint"),
        (_noisy(), "determinism"),
    ],
)
def test_it_is_caught_in_half_precision(
    changed: Any, check: str, dtype: torch.dtype, seed: int
) -> None:
    result = gradcheck.check(_tanh(changed), _x(dtype, seed), seed=seed)

    assert check in {f.check for f in result.findings if f.verdict is Verdict.FAIL}, result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_what_is_right_passes(dtype: torch.dtype, seed: int) -> None:
    result = gradcheck.check(_tanh(_right), _x(dtype, seed), seed=seed)

    assert result.passed, result
    assert not any("vacuous" in finding.message for finding in result.findings)


@pytest.mark.parametrize("seed", range(3))
def test_what_knows_where_float16_ends_is_not_asked_beyond(seed: int) -> None:
    ends = torch.finfo(torch.float16).max
    target = _tanh(lambda u, y: u.clamp(-ends, ends))

    result = gradcheck.check(target, _x(torch.float16, seed), seed=seed)

    assert result.passed, result


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_rule_that_rounds_to_half_precision_is_not_held_to_float64(dtype: torch.dtype) -> None:
    """It is rounded there, too, and no sum of rounded numbers is the rounded sum."""

    class Narrow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            gradient: torch.Tensor = (u * x.cos()).to(dtype)
            return gradient

    result = gradcheck.check(Narrow, _x(dtype, 0), checks=("adjoint", "layout", "state"))

    assert result.verdict is not Verdict.FAIL, result
