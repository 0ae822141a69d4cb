"""Narrow targets are differenced in float64 where they can be run in it, and only there."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.reference.dense import Dense
from gradcheck.results import CheckResult, Verdict

check = partial(gradcheck.check, checks="vjp")

WIDE = "finite differences, float64"
NARROW = "finite differences, float32"


def _normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _oracles(result: CheckResult) -> set[str]:
    return {finding.oracle for finding in result.findings}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_narrow_torch_network_passes_with_wide_differences(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 6, dtype=dtype), torch.nn.Tanh(), torch.nn.Linear(6, 2, dtype=dtype)
    )

    result = check(module, torch.from_numpy(_normal(5, 4)).to(dtype))

    assert result.passed, str(result)
    assert _oracles(result) == {WIDE}


@pytest.mark.parametrize("seed", range(3))
def test_a_float32_network_with_batch_norm_and_relu_is_conclusive(seed: int) -> None:
    torch.manual_seed(seed)
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    )

    result = check(module, torch.from_numpy(_normal(12, 4)), seed=seed)

    assert result.passed, str(result)


def test_a_frozen_parameter_and_a_buffer_are_widened_too() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).eval()
    module[0].requires_grad_(False)

    assert _oracles(check(module, torch.from_numpy(_normal(5, 4)))) == {WIDE}


def test_a_kernel_that_refuses_float64_is_differenced_in_float32() -> None:
    def strict(x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not torch.float32:
            raise TypeError("float32 only")
        return x.sin()

    result = check(strict, torch.from_numpy(_normal(8)))

    assert result.passed, str(result)
    assert _oracles(result) == {NARROW}


def test_a_function_that_is_another_one_in_float64_is_differenced_in_float32() -> None:
    def fickle(x: torch.Tensor) -> torch.Tensor:
        return x.sin() if x.dtype is torch.float32 else 2 * x.sin()

    result = check(fickle, torch.from_numpy(_normal(8)))

    assert result.passed, str(result)
    assert _oracles(result) == {NARROW}


def test_a_gradient_that_is_wrong_only_in_float32_fails() -> None:
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return u * x.cos() * (1.01 if u.dtype is torch.float32 else 1.0)

    assert check(Sine, torch.from_numpy(_normal(8))).verdict is Verdict.FAIL
    assert check(Sine, torch.from_numpy(_normal(8)).double()).passed


def test_jax_rules_and_reference_layers_are_differenced_in_float64() -> None:
    rule = Rule(np.sin, lambda inputs, u: u * np.cos(inputs[0]))

    assert _oracles(check(rule, _normal(5))) == {WIDE}
    assert _oracles(check(Dense(inputs=4, outputs=2), _normal(3, 4))) == {WIDE}
    assert _oracles(check(jnp.sin, jnp.asarray(_normal(5)))) == {WIDE}


def test_the_widening_leaves_the_flag_of_jax_as_it_was() -> None:
    before = jax.config.jax_enable_x64  # type: ignore[attr-defined]

    check(jnp.sin, jnp.asarray(_normal(5)))

    assert jax.config.jax_enable_x64 is before  # type: ignore[attr-defined]


def test_a_scan_is_traced_fewer_times_than_it_is_run() -> None:
    traces = []

    def f(xs: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            traces.append(1)
            return jnp.tanh(h + x), h

        return jax.lax.scan(step, jnp.zeros(2), xs)

    result = check(f, jnp.asarray(_normal(4, 2)))

    assert result.passed, str(result)
    assert len(traces) < result.evaluations.forward + result.evaluations.vjp


def test_a_function_that_branches_on_values_is_run_as_it_is() -> None:
    def f(x: Any) -> Any:
        return jnp.sin(x) if float(x.sum()) > 0 else jnp.cos(x)

    x = np.array([0.1, 0.2], np.float32)

    (y,) = problem_of(f, (jnp.asarray(x),)).value((x,))

    assert y == pytest.approx(np.sin(x))


def test_an_input_that_is_written_in_place_comes_back() -> None:
    x = torch.from_numpy(_normal(4))
    before = x.clone()

    result = check(lambda x: x.mul_(2).sin_(), x)

    assert result.passed, str(result)
    assert torch.equal(x, before)


def test_a_backward_that_draws_its_mask_again_fails() -> None:
    class Drop(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * (torch.rand_like(x) > 0.5)

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            return u * (torch.rand_like(u) > 0.5)

    assert check(Drop, torch.from_numpy(_normal(40))).verdict is Verdict.FAIL
