"""Kernels that run in a half precision only: right ones pass, and what is wrong is seen."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import gradcheck
from gradcheck.results import Verdict

Formula = Callable[..., torch.Tensor]

HALVES = (torch.bfloat16, torch.float16)


class Kernel(torch.autograd.Function):
    """A formula that is computed in a half and in nothing else; its gradient may be spoilt."""

    @staticmethod
    def forward(ctx: Any, formula: Formula, spoil: Formula | None, *xs: torch.Tensor) -> Any:
        assert all(x.dtype in HALVES for x in xs)
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in xs]
            y = formula(*leaves)
        ctx.kept = leaves, y, spoil
        return y.detach()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        leaves, y, spoil = ctx.kept
        first, *others = torch.autograd.grad(y, leaves, u)
        return None, None, first if spoil is None else spoil(first), *others


def _normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LAYERS: dict[str, tuple[Formula, Callable[[int], tuple[torch.Tensor, ...]]]] = {
    "linear": (
        lambda w, x, b: F.linear(x, w, b),
        lambda s: (_normal(16, 16, seed=s) / 4, _normal(8, 16, seed=s), torch.zeros(16)),
    ),
    "gelu": (F.gelu, lambda s: (_normal(4, 16, seed=s),)),
    "softmax": (lambda x: x.softmax(-1), lambda s: (_normal(4, 16, seed=s),)),
    "norm": (
        lambda w, x: F.rms_norm(x, (16,), w),
        lambda s: (1 + _normal(16, seed=s) / 8, _normal(4, 16, seed=s)),
    ),
}


def _checked(name: str, dtype: torch.dtype, seed: int, spoil: Formula | None) -> Any:
    formula, inputs = LAYERS[name]

    def layer(*xs: torch.Tensor) -> Any:
        return Kernel.apply(formula, spoil, *xs)  # type: ignore[no-untyped-call]

    given = [x.to(dtype) for x in inputs(seed)]
    return gradcheck.check(layer, *given, checks="vjp", seed=seed)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_right_kernel_passes(name: str, dtype: torch.dtype, seed: int) -> None:
    result = _checked(name, dtype, seed, None)

    assert result.passed, result
    assert 0 < result.resolution <= 4e-2


def _zero_row(gradient: torch.Tensor) -> torch.Tensor:
    gradient = gradient.clone()
    gradient[-1] = 0
    return gradient


SPOILT: dict[str, Formula] = {
    "a row is lost": _zero_row,
    "a fifth too much": lambda gradient: 1.2 * gradient,
    "the other way round": lambda gradient: gradient.flip(0),
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_wrong_with_a_kernel_is_seen(name: str, spoil: Formula, dtype: torch.dtype) -> None:
    assert _checked(name, dtype, 0, spoil).verdict is Verdict.FAIL


class Gated(torch.autograd.Function):
    """x + w sin(x) / 10 in bfloat16 only: a leaf of little effect, whose gradient may be wrong."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, back: Formula) -> torch.Tensor:
        assert x.dtype == torch.bfloat16
        ctx.save_for_backward(x, w)
        ctx.back = back
        return x + 0.1 * w * torch.sin(x)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        x, w = ctx.saved_tensors
        return u * (1 + 0.1 * w * torch.cos(x)), (u * 0.1 * ctx.back(x)).sum(0), None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("back", [torch.sin, torch.cos], ids=["right", "wrong"])
def test_a_leaf_that_moves_the_value_by_tens_of_ulps_is_not_vacuous(
    back: Formula, seed: int
) -> None:
    x, w = _normal(8, 16, seed=0).bfloat16(), _normal(16, seed=1).bfloat16()

    result = gradcheck.check(
        lambda x, w: Gated.apply(x, w, back),  # type: ignore[no-untyped-call]
        x,
        w,
        checks="vjp",
        seed=seed,
    )

    assert result.passed is (back is torch.sin), result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_leaf_of_which_only_rounding_is_left_is_vacuous(dtype: torch.dtype, seed: int) -> None:
    def attention(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        assert x.dtype == dtype
        keys = x @ weight + bias  # of which each row of logits gets the same
        return torch.softmax(x @ keys.mT / 2, -1) @ x

    inputs = [_normal(*shape, seed=seed).to(dtype) for shape in ((6, 8), (8, 8), (8,))]

    result = gradcheck.check(attention, *inputs, checks="vjp", seed=seed, wrt="input[2]")

    assert result.passed, result
    assert "vacuous" in result.findings[0].message
