"""The check of batches of cotangents: what it must reject, and what it must let pass."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.custom_batching import custom_vmap

import gradcheck
from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.answers import answers_of
from gradcheck.checks.batched import check_batched
from gradcheck.problem import Arrays
from gradcheck.results import CheckResult, Verdict
from gradcheck.settings import Settings

X = np.random.default_rng(0).standard_normal((4, 4))


def _asked(target: Any, *inputs: Any) -> CheckResult:
    return gradcheck.check(target, *inputs, checks="batched")


def _sine(spoil: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A sine whose VJP has a batching rule of its own, spoilt."""

    @custom_vmap
    def slope(x: Any, u: Any) -> Any:
        return u * jnp.cos(x)

    @slope.def_vmap
    def batch(size: int, batched: Any, x: Any, u: Any) -> Any:
        return spoil(u) * jnp.cos(x), True

    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (slope(x, u),))
    return sine


WRONG: dict[str, Callable[[Any], Any]] = {
    "doubled": lambda u: 2 * u,
    "the first for all": lambda u: jnp.broadcast_to(u[:1], u.shape),
    "in reverse": lambda u: u[::-1],
    "summed": lambda u: jnp.broadcast_to(u.sum(0), u.shape),
    "rolled": lambda u: jnp.roll(u, 1, 0),
    "the last one lost": lambda u: u.at[-1].set(0),
    "transposed": lambda u: jnp.swapaxes(u, 1, 2),
    "1e-5 too large": lambda u: u * (1 + 1e-5),
    "one entry off by 1e-5": lambda u: u.at[1, 2, 3].multiply(1 + 1e-5),
    "NaN": lambda u: u.at[1, 2, 3].set(jnp.nan),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_batching_rule_is_found(spoil: Callable[[Any], Any]) -> None:
    assert gradcheck.check(_sine(spoil), X, checks="vjp").passed
    result = _asked(_sine(spoil), X)
    assert result.verdict is Verdict.FAIL
    assert result.findings[0].check == "batched"


def test_the_wrong_entry_is_named_with_its_place_in_the_batch() -> None:
    (finding,) = _asked(_sine(WRONG["one entry off by 1e-5"]), X).findings
    assert [entry.index for entry in finding.entries] == [(1, 2, 3)]


@pytest.mark.parametrize("factor", [2.0, 1 + 1e-2, 1 + 1e-5])
def test_a_wrong_batch_of_torch_is_found(factor: float) -> None:
    problem = problem_of(torch.sin, (torch.from_numpy(X),))
    assert problem.batched is not None
    batched = problem.batched

    def spoilt(point: Arrays, cotangents: Arrays) -> Arrays:
        (gradients,) = batched(point, cotangents)
        gradients[2, 0, 1] *= factor
        return (gradients,)

    wrong = replace(problem, batched=spoilt)
    (finding,) = check_batched(answers_of(wrong, seed=0), Settings(), np.random.default_rng(0))
    assert finding.verdict is Verdict.FAIL
    assert [entry.index for entry in finding.entries] == [(2, 0, 1)]


def _x(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape))


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u * ctx.saved_tensors[0].cos()


RIGHT: dict[str, tuple[Any, list[torch.Tensor]]] = {
    "tanh": (torch.tanh, [_x(3, 4)]),
    "relu at zero": (torch.relu, [torch.zeros(5)]),
    "softmax": (lambda x: (30 * x).softmax(1), [_x(3, 4)]),
    "product": (torch.matmul, [_x(9, 50), _x(50, 9)]),
    "layer norm": (torch.nn.LayerNorm(4), [_x(3, 4)]),
    "batch norm": (torch.nn.BatchNorm1d(3), [_x(5, 3)]),
    "convolution": (torch.nn.Conv1d(2, 3, 2), [_x(1, 2, 5)]),
    "LSTM cell": (torch.nn.LSTMCell(3, 2), [_x(2, 3)]),
    "custom": (Sine, [_x(3)]),
    "maximum": (lambda x: x.amax(0), [_x(5)]),
    "sorted": (lambda x: x.sort()[0], [_x(5)]),
    "not connected": (lambda x, y: x * 2, [_x(3), _x(3)]),
    "a constant output": (lambda x: (x.sin(), torch.ones(2, dtype=x.dtype)), [_x(3)]),
    "empty": (lambda x: x * 2, [_x(0, 3)]),
    "scalar": (torch.sin, [_x()]),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("target", "inputs"), RIGHT.values(), ids=RIGHT.keys())
def test_a_right_torch_target_passes(
    target: Any, inputs: list[torch.Tensor], dtype: torch.dtype
) -> None:
    if isinstance(target, torch.nn.Module):
        target = target.to(dtype)
    result = _asked(target, *(x.to(dtype) for x in inputs))
    assert result.findings
    assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "target",
    [
        jnp.tanh,
        jnp.linalg.det,
        jnp.cumsum,
        jax.jit(lambda x: jnp.tanh(x @ x.T)),
        _sine(lambda u: u),
    ],
)
def test_a_right_jax_target_passes(target: Any, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(X.astype(dtype))
    assert _asked(target, x).passed


def test_what_is_not_finite_either_way_is_the_same() -> None:
    """That a gradient is NaN is for the check "vjp" to say; its other entries are compared."""
    half = _x(3).abs() * torch.tensor([1.0, -1.0, 1.0])
    assert _asked(lambda x: torch.where(x > 0, x.sqrt(), 0.0), half).passed
    problem = problem_of(lambda x: torch.where(x > 0, x.sqrt(), 0.0), (half,))
    assert problem.batched is not None
    batched = problem.batched
    wrong = replace(problem, batched=lambda *args: tuple(2 * g for g in batched(*args)))
    (finding,) = check_batched(answers_of(wrong, seed=0), Settings(), np.random.default_rng(0))
    assert finding.verdict is Verdict.FAIL
    assert {entry.index[1] for entry in finding.entries} == {0, 2}


class InNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return torch.from_numpy(u.numpy() * np.cos(ctx.saved_tensors[0].detach().numpy()))


def _unbatched() -> Any:
    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    def back(x: Any, u: Any) -> tuple[Any]:
        like = jax.eval_shape(jnp.zeros_like, u)
        return (jax.pure_callback(lambda u: u, like, u) * jnp.cos(x),)  # says no vmap_method

    sine.defvjp(lambda x: (jnp.sin(x), x), back)
    return sine


@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        (InNumpy, [_x(3)]),
        (_unbatched(), [X]),
        (Rule(np.sin, lambda inputs, u: (u * np.cos(inputs[0]),)), [X]),
    ],
)
def test_what_cannot_be_batched_is_said(target: Any, inputs: list[Any]) -> None:
    result = _asked(target, *inputs)
    assert result.verdict is Verdict.INCONCLUSIVE, result
    assert result.not_checked[0].startswith("batched: ")


def test_it_is_not_asked_by_default() -> None:
    checks = {finding.check for finding in gradcheck.check(torch.sin, _x(3)).findings}
    assert "batched" not in checks
