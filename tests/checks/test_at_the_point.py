"""A gradient that is wrong at the point alone, and right as near to it as can be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule

X = np.random.default_rng(0).standard_normal((5, 3))


def _weight(x: Any, w: Any, u: Any, xp: Any = np) -> Any:
    """The gradient of w in x * w: a mean where w is one, and where it is not, the sum."""
    return xp.where(w == 1, (u * x).mean(0), (u * x).sum(0))


def _scale_jax() -> Any:
    @jax.custom_vjp
    def scale(x: Any, w: Any) -> Any:
        return x * w

    scale.defvjp(
        lambda x, w: (x * w, (x, w)),
        lambda kept, u: (u * kept[1], _weight(kept[0], kept[1], u, jnp)),
    )
    return scale


RULE = Rule(lambda x, w: x * w, lambda i, u: (u * i[1], _weight(i[0], i[1], u)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("framework", ["numpy", "jax"])
def test_a_weight_of_one_is_no_excuse(framework: str, seed: int) -> None:
    target, array = (RULE, np.asarray) if framework == "numpy" else (_scale_jax(), jnp.asarray)

    wrong = gradcheck.check(target, array(X), array(np.ones(3)), checks="vjp", seed=seed)
    right = gradcheck.check(target, array(X), array(np.full(3, 1.1)), checks="vjp", seed=seed)

    assert [f.leaf for f in wrong.findings if f.verdict == "fail"] == ["input[1]"]
    assert right.passed


class Tied(torch.autograd.Function):
    """A softmax whose rule is wrong where the two largest logits are equal."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = x.softmax(-1)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        x, y = ctx.saved_tensors
        g = y * (u - (u * y).sum(-1, keepdim=True))
        first, second = x.topk(2).values.unbind(-1)
        return torch.mul(g, torch.where(first == second, 0.5, 1.0)[..., None])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_two_logits_that_are_equal_are_no_excuse(dtype: torch.dtype, seed: int) -> None:
    x = torch.randn(2, 4, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    assert gradcheck.check(Tied, x, checks="vjp", seed=seed).passed

    x[0, :2] = x[0].max() + 0.3

    assert gradcheck.check(Tied, x, checks="vjp", seed=seed).verdict == "fail"


@pytest.mark.parametrize("seed", range(4))
def test_rounding_of_a_right_rule_stays_an_excuse(seed: int) -> None:
    """The gradient of a square root of what cancels: it has few digits, at any point."""
    x = np.array([1e-5, -2e-5, 3e-5])
    rule = Rule(np.sin, lambda i, u: (u * (1 - (1 - np.cos(i[0])) * 1e6 + i[0] ** 2 / 2 * 1e6),))

    assert gradcheck.check(rule, x, checks="vjp", seed=seed).verdict != "fail"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [1e5, 1e6])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_point_where_nothing_is_rounded_is_no_failure(
    norm: str, offset: float, seed: int
) -> None:
    """The rows are constant at the point, and nowhere near it in a narrow dtype."""

    def layer(x: torch.Tensor) -> torch.Tensor:
        if norm == "layer":
            return torch.nn.functional.layer_norm(x, (6,))
        return torch.nn.functional.batch_norm(x, None, None, training=True)

    dtype = torch.bfloat16 if norm == "layer" else torch.float32
    x = torch.full((4, 6), offset, dtype=dtype)

    assert gradcheck.check(layer, x, seed=seed).verdict != "fail"
