"""What rounding or a draw keeps from the value is said, and is no fault of who wrote a layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch.distributions import Beta, Dirichlet, Gamma

import gradcheck
from gradcheck import Verdict

MASK = torch.ones(4, 4, dtype=torch.long).tril()
MASK[2] = 0  # a row that is padding


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, worst: float) -> torch.Tensor:
    scores = q @ k.mT / 2 + (1 - MASK.to(q.dtype)) * worst
    return torch.softmax(scores, -1) @ v


@pytest.mark.parametrize(
    ("dtype", "worst"),
    [(torch.float64, torch.finfo(torch.float64).min), (torch.float32, -1e9)],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_scores_that_a_mask_swallows_are_said(seed: int, dtype: torch.dtype, worst: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 4, 3, generator=generator, dtype=dtype)

    result = gradcheck.check(lambda q, k, v: _attention(q, k, v, worst), q, k, v, seed=seed)

    assert result.verdict is Verdict.INCONCLUSIVE, result
    assert "an added mask covers" in str(result).replace("\n     ", "")


def test_a_rule_that_forgets_its_mask_fails() -> None:
    """Where the value stands still by what its author wrote, and the rule is his."""

    class Masked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return torch.where(MASK > 0, x.sin(), 0.0)

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return torch.mul(u, x.cos())

    x = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert gradcheck.check(Masked, x, checks="vjp").verdict is Verdict.FAIL


def _drawn(a: torch.Tensor) -> torch.Tensor:
    return Gamma(a, torch.ones_like(a)).rsample()


@pytest.mark.parametrize(
    "target",
    [_drawn, lambda a: Beta(a, a + 1).rsample(), lambda a: Dirichlet(a).rsample()],
    ids=["gamma", "beta", "dirichlet"],
)
def test_a_draw_by_rejection_is_not_accused(target: Callable[[Any], Any]) -> None:
    result = gradcheck.check(target, torch.tensor([0.5, 1.2, 2.0], dtype=torch.float64))

    assert result.verdict is Verdict.INCONCLUSIVE, result
    assert "draws by rejection" in str(result)


def test_a_draw_by_rejection_in_jax_is_not_accused() -> None:
    result = gradcheck.check(
        lambda a: jax.random.gamma(jax.random.key(0), a), jnp.array([0.5, 1.2, 2.0])
    )

    assert result.verdict is Verdict.INCONCLUSIVE, result
    assert "draws by rejection" in str(result)


def test_beside_a_draw_by_rejection_other_leaves_are_held_to_their_gradients() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return torch.mul(3 * u, x)

    a = torch.tensor([0.5, 1.2, 2.0], dtype=torch.float64)
    result = gradcheck.check(lambda a, w: Square.apply(w) * _drawn(a), a, a + 1, checks="vjp")  # type: ignore[no-untyped-call]

    assert [f.verdict for f in result.findings] == [Verdict.INCONCLUSIVE, Verdict.FAIL], result


def test_beside_a_draw_by_rejection_in_jax_other_leaves_are_held_to_their_gradients() -> None:
    @jax.custom_vjp
    def square(x: Any) -> Any:
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, u: (3 * u * x,))
    a = jnp.array([0.5, 1.2, 2.0])
    result = gradcheck.check(
        lambda a, w: square(w) * jax.random.gamma(jax.random.key(0), a), a, a + 1, checks="vjp"
    )

    assert [f.verdict for f in result.findings] == [Verdict.INCONCLUSIVE, Verdict.FAIL], result
