"""Problems whose leaves are so large that copies of them count: judged as small ones are, and the
caller's own numbers stay as they were."""

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gradcheck import Rule, Verdict, check
from gradcheck.adapters.select import problem_of
from gradcheck.answers import answers_of
from gradcheck.problem import LARGE

Wrong = Callable[[torch.Tensor], torch.Tensor]

COLUMNS = LARGE // 1024 + 1


@pytest.fixture
def weight() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1024, COLUMNS), dtype=torch.float64, generator=generator)


@pytest.fixture
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((2, COLUMNS), dtype=torch.float64, generator=generator)


@pytest.fixture
def large_from_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is located by a thousand evaluations, which of what is large take their time."""
    for place in ("problem", "adapters.torch_posed"):
        monkeypatch.setattr(f"gradcheck.{place}.LARGE", 1000)


def _linear(made: Wrong = lambda gradient: gradient) -> type[torch.autograd.Function]:
    """A linear layer as a Function; its weight gets what is `made` of the right gradient."""

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, weight)
            return x @ weight.T

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x, weight = ctx.saved_tensors
            return u @ weight, made(u.T @ x)

    return Linear


def _without_an_entry(gradient: torch.Tensor) -> torch.Tensor:
    gradient[3, 4] = 0
    return gradient


def _with_a_row(gradient: torch.Tensor) -> torch.Tensor:
    gradient[5] *= 1.001
    return gradient


def _first_of_all() -> Wrong:
    """A rule that gives the first gradient that it computed again and again."""
    kept: list[torch.Tensor] = []

    def made(gradient: torch.Tensor) -> torch.Tensor:
        kept.append(gradient.clone())
        return kept[0].clone()

    return made


@pytest.mark.parametrize(
    "made",
    [_without_an_entry, _with_a_row, lambda g: 1.0001 * g, _first_of_all()],
    ids=["entry", "row", "factor", "first"],
)
@pytest.mark.usefixtures("large_from_a_thousand")
def test_what_is_wrong_is_caught(x: torch.Tensor, weight: torch.Tensor, made: Wrong) -> None:
    result = check(_linear(made), x[:, :30], weight[:40, :30])

    wrong = [f for f in result.findings if f.check == "vjp" and f.verdict is Verdict.FAIL]
    assert [finding.leaf for finding in wrong] == ["input[1]"], result


@pytest.mark.parametrize("made", [lambda g: g, lambda g: g.T.contiguous().T], ids=["C", "F"])
def test_what_is_right_passes_all_that_is_asked_by_default(
    x: torch.Tensor, weight: torch.Tensor, made: Wrong
) -> None:
    result = check(_linear(made), x, weight)

    assert result.passed, result


def test_the_numbers_of_the_caller_are_read_and_never_written(
    x: torch.Tensor, weight: torch.Tensor
) -> None:
    calls: list[int] = []

    def renormalising(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) % 3 == 0:
            weight.mul_(2.0)
        return x @ weight.T

    before = weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch's, of arrays that cannot be written
        check(renormalising, x, weight)

    assert torch.equal(weight, before)


def test_of_the_gradients_the_first_is_kept(x: torch.Tensor, weight: torch.Tensor) -> None:
    answers = answers_of(problem_of(_linear(), (x, weight)), seed=0)

    assert answers.gradients(0) is answers.gradients(0)
    second = answers.gradients(1)
    held, known = weakref.ref(second[1]), second[1].copy()
    assert answers.gradients(1)[1] is second[1]  # while somebody holds it
    del second
    assert held() is None
    assert np.array_equal(answers.gradients(1)[1], known)


def test_gradients_add_up_in_every_order_of_memory() -> None:
    """Sums are added up in place, block by block."""
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((300, 301)))

    def rule(bent: float) -> Rule:
        return Rule(
            np.square, lambda inputs, u: (np.asfortranarray(2 * inputs[0] * u + bent * u**2),)
        )

    assert check(rule(0.0), x, checks="adjoint").passed
    assert check(rule(0.1), x, checks="adjoint").verdict is Verdict.FAIL


def test_what_the_target_writes_into_is_copied(x: torch.Tensor, weight: torch.Tensor) -> None:
    """As a captured graph does with its static input, which may be the tensor itself."""
    static, before = weight, weight.clone()

    class Static(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, given: torch.Tensor) -> torch.Tensor:
            static.copy_(given)
            ctx.save_for_backward(given.clone())
            return torch.sin(static).sum(0)

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (given,) = ctx.saved_tensors
            return u * torch.cos(given)

    result = check(Static, weight, checks="vjp")

    assert result.passed, result
    assert result.evaluations.forward < 30, result
    static.copy_(before)
