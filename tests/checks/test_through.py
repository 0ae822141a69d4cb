"""Through which outputs, or which slices of one, a wrong gradient comes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule
from gradcheck.results import Finding

X = np.random.default_rng(0).standard_normal((4, 3, 5))
W = np.random.default_rng(1).standard_normal(5)


def _finding(reduced: Callable[[Any], Any]) -> Finding:
    """Of w in x * w, where the products that should be summed over batch and time are `reduced`."""
    rule = Rule(lambda x, w: x * w, lambda xs, u: (u * xs[1], reduced(u * xs[0])))
    return gradcheck.check(rule, X, W, checks="vjp").findings[1]


@pytest.mark.parametrize(
    ("reduced", "place"),
    [
        (lambda g: g[0].sum(0), "output[1:]"),
        (lambda g: g[:-1].sum((0, 1)), "output[3]"),
        (lambda g: g[::3].sum((0, 1)), "output[1:3]"),
        (lambda g: g[1::2].sum((0, 1)), "output[[0, 2]]"),
        (lambda g: g[:, -1].sum(0), "output[:, :2]"),
    ],
)
def test_a_part_of_the_cotangent_that_is_left_out_is_named(
    reduced: Callable[[Any], Any], place: str
) -> None:
    finding = _finding(reduced)

    assert finding.verdict == "fail"
    assert finding.diagnosis == "part of the cotangent"
    assert f"through {place} only" in finding.message


def test_a_block_that_is_wrong_is_named_and_not_said_to_be_left_out() -> None:
    finding = _finding(lambda g: (g * np.array([1, 1, 1.5])[:, None]).sum((0, 1)))

    assert "through output[:, 2] only" in finding.message
    assert finding.diagnosis is None


def test_what_is_wrong_through_all_of_them_is_so_through_none() -> None:
    finding = _finding(lambda g: g.mean((0, 1)))

    assert finding.verdict == "fail"
    assert "through" not in finding.message


def test_a_long_axis_is_not_asked_slice_by_slice() -> None:
    x = np.random.default_rng(0).standard_normal((100, 2))
    rule = Rule(lambda x, w: x * w, lambda xs, u: (u * xs[1], (u * xs[0])[0]))

    finding = gradcheck.check(rule, x, W[:2], checks="vjp").findings[1]

    assert finding.verdict == "fail"
    assert "through" not in finding.message


def test_of_several_outputs_the_wrong_one_is_named() -> None:
    class Both(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> Any:
            ctx.save_for_backward(x)
            return x.sin(), x.cos()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return torch.add(u * x.cos(), w * x.sin(), alpha=-1.5)

    (finding,) = gradcheck.check(Both, torch.from_numpy(X), checks="vjp").findings

    assert finding.verdict == "fail"
    assert "through output[1] only" in finding.message
