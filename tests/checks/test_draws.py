"""A target that draws random numbers is held to its derivative for more than one draw of them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradcheck import Rule, Verdict, check


def _dropping(wrong: float) -> Any:
    """A layer that is dropped half of the time, with a gradient that is then off by a factor."""

    class Dropped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            ctx.is_kept = bool(torch.rand(()) < 0.5)
            ctx.save_for_backward(x, w)
            return x + x * w if ctx.is_kept else x.clone()

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
            x, w = ctx.saved_tensors
            if ctx.is_kept:
                return u * (1 + w), (u * x).sum(0)
            return u * wrong, torch.zeros_like(w)

    return Dropped


def _dropping_rule(wrong: float) -> Rule:
    def forward(x: np.ndarray) -> Any:
        is_kept = np.random.rand() < 0.5  # noqa: NPY002 - everybody's generator
        return (np.sin(x) if is_kept else x.copy()), (x, is_kept)

    def vjp(cache: Any, u: np.ndarray) -> Any:
        x, is_kept = cache
        return (u * np.cos(x) if is_kept else u * wrong,)

    return Rule(forward, vjp, cached=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("wrong", "verdict"), [(1.0, Verdict.PASS), (1.5, Verdict.FAIL)])
def test_a_function_that_is_wrong_when_it_is_dropped(
    dtype: torch.dtype, wrong: float, verdict: Verdict
) -> None:
    x, w = torch.randn(4, 3, dtype=dtype), torch.randn(3, dtype=dtype)
    results = [check(_dropping(wrong), x, w, seed=seed) for seed in range(6)]
    assert {result.verdict for result in results} == {verdict}
    if wrong != 1:
        said = [f.message for result in results for f in result.findings]
        assert any("some of the random numbers that it draws" in message for message in said)


@pytest.mark.parametrize(("wrong", "verdict"), [(1.0, Verdict.PASS), (1.5, Verdict.FAIL)])
def test_a_rule_that_is_wrong_when_it_is_dropped(wrong: float, verdict: Verdict) -> None:
    results = [check(_dropping_rule(wrong), np.ones(3), seed=seed) for seed in range(6)]
    assert {result.verdict for result in results} == {verdict}


def test_a_target_that_returns_as_much_as_it_drew_is_checked_where_it_can_be() -> None:
    def some(x: Tensor) -> Tensor:
        return x[torch.rand(len(x)) < 0.7] ** 2

    assert check(some, torch.randn(9, dtype=torch.float64)).verdict is Verdict.PASS
