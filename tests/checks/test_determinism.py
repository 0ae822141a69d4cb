"""What gives two answers to one question is caught; common random numbers are not."""

import os
import random
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor

import gradcheck
from gradcheck import CheckResult, Rule
from tests.checks.clean import JAX, RULE, TORCH, array, sine, tensor


def determinism(target: Any, *inputs: Any) -> CheckResult:
    return gradcheck.check(target, *inputs, checks="determinism")


def failed(result: CheckResult) -> list[str]:
    return [finding.leaf for finding in result.findings if finding.verdict == "fail"]


# wrong


def counting() -> Any:
    calls = count(1)
    return lambda x: x * next(calls)


class Warming(torch.autograd.Function):
    """x; every backward pass is a little larger."""

    scale = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        Warming.scale *= 1.01
        return Warming.scale * u


def momentum() -> Any:
    state = np.zeros(3)
    return lambda x: np.add(state, x, out=state).copy()


def urandom(x: Tensor) -> Tensor:
    return x * (1 + int.from_bytes(os.urandom(4), "little") / 2**32)


@pytest.mark.parametrize("target", [counting(), urandom])
def test_hidden_state_is_named(target: Any) -> None:
    result = determinism(target, tensor(3))

    assert failed(result) == ["output", "input[0]"]
    assert result.findings[0].message.startswith("same input, different answer")


def test_state_of_the_backward_pass_is_caught() -> None:
    assert failed(determinism(Warming, tensor(3))) == ["input[0]"]


def test_state_of_a_numpy_rule_is_caught() -> None:
    rule = Rule(momentum(), lambda x, u: u)

    assert failed(determinism(rule, array(3))) == ["output"]


def test_counter_in_a_jax_function_is_caught() -> None:
    assert failed(determinism(counting(), jnp.ones(3))) == ["output", "input[0]"]


# right


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_backward_pass_that_is_another_when_it_is_recorded_is_caught(factor: float) -> None:
    recorded = sine(lambda x, u: factor if torch.is_grad_enabled() else 1.0)

    result = determinism(recorded, tensor(5))

    assert result.passed == (factor == 1.0)
    assert all("create_graph" in f.message for f in result.findings if f.verdict == "fail")


@pytest.mark.parametrize("name", TORCH)
def test_right_torch_targets_pass(name: str) -> None:
    assert determinism(*TORCH[name]()).passed


@pytest.mark.parametrize("name", JAX)
def test_right_jax_targets_pass(name: str) -> None:
    assert determinism(*JAX[name]()).passed


@pytest.mark.parametrize("name", RULE)
def test_right_rules_pass(name: str) -> None:
    assert determinism(*RULE[name]()).passed


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(()).item(),
        lambda: np.random.random(),  # noqa: NPY002
        random.random,
    ],
)
def test_common_random_numbers_are_no_state(draw: Any) -> None:
    before = random.getstate()

    result = determinism(lambda x: x * (1 + draw()), tensor(3))

    assert result.passed
    assert random.getstate() == before


def test_spread_of_roundings_is_said_and_no_failure() -> None:
    flip = iter(range(10**6))

    def reassociated(x: Any, u: Any) -> Any:
        return u * (1 + 2.0**-52 * (next(flip) % 2))

    result = determinism(Rule(lambda x: x.copy(), reassociated), array(5))

    assert result.passed
    assert result.findings[0].message == "two runs differ by 2e-16, relative to the gradient"


def test_compiled_is_asked_of_what_is_not_yet() -> None:
    result = determinism(lambda x: jnp.sin(x), jnp.ones(3))

    assert result.findings[0].oracle == "asked again, compiled"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("factor", [1.5, 1.0])
def test_a_forward_rule_that_returns_something_else_is_told(factor: float, dtype: str) -> None:
    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    sine.defvjp(lambda x: (factor * jnp.sin(x), x), lambda x, u: (u * jnp.cos(x),))

    result = gradcheck.check(sine, array(4, 3).astype(dtype))

    assert failed(result) == (["output"] if factor != 1 else [])
    told = "the value computed to be differentiated is another"
    assert any(told in finding.message for finding in result.findings) == (factor != 1)


@pytest.mark.parametrize("act", [jnp.tanh, jax.nn.silu, jax.nn.gelu, jax.nn.softmax])
@pytest.mark.parametrize("seed", range(3))
def test_a_jax_layer_that_is_bfloat16_inside_is_not_accused(seed: int, act: Any) -> None:
    def layer(w: Any, x: Any) -> Any:
        w, x = w.astype(jnp.bfloat16), x.astype(jnp.bfloat16)
        return act(x @ w + x[:, :1]).astype(jnp.float32)

    rng = np.random.default_rng(seed)
    w, x = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((5, 3), (8, 5)))

    assert determinism(layer, w, x).verdict != "fail"


def test_a_state_of_a_long_jax_rule_is_caught() -> None:
    calls = count(1)

    @jax.custom_vjp
    def deep(x: Any) -> Any:
        return jnp.tanh(jnp.sin(x) * jnp.exp(x) + jnp.cos(x) * x)

    deep.defvjp(lambda x: (deep(x), x), lambda x, u: (u * jnp.cos(x) * next(calls),))

    assert failed(determinism(deep, jnp.ones(3))) == ["input[0]"]


def test_a_jax_function_that_is_another_when_it_is_traced_is_caught() -> None:
    def eager(x: Any) -> bool:
        try:
            return bool(x[0] > 0) or True
        except jax.errors.TracerBoolConversionError:
            return False

    result = determinism(lambda x: jnp.sin(x) if eager(x) else jnp.cos(x), jnp.ones(3))

    assert not result.passed
    assert "compiled" in result.findings[0].message


@pytest.mark.parametrize("every", [3, 4, 5, 8])
def test_what_goes_wrong_now_and_then_is_caught(every: int) -> None:
    calls = count(1)

    def vjp(inputs: Any, u: Any) -> Any:
        return u * np.cos(inputs[0]) * (1.1 if next(calls) % every == 0 else 1)

    result = gradcheck.check(Rule(np.sin, vjp), array(3, 4))

    said = "; ".join(f.message for f in result.findings if f.verdict == "fail")
    assert "two answers" in said or "different answer" in said or "another" in said


def test_a_jax_gradient_that_is_another_when_it_is_traced_is_no_rounding() -> None:
    @jax.custom_vjp
    def f(x: Any) -> Any:
        return jnp.sin(x)

    def backward(x: Any, u: Any) -> Any:
        return (u * jnp.cos(x) * (0.5 if isinstance(x, jax.core.Tracer) else 1),)

    f.defvjp(lambda x: (jnp.sin(x), x), backward)

    result = determinism(f, jnp.arange(1.0, 4.0))

    assert not result.passed
    assert "compiled" in result.findings[0].message
