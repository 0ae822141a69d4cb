"""NumPy arrays as constants of JAX targets: JAX keeps of one the dtype of the trace it is in."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradcheck
from gradcheck.results import Verdict

MASK = np.random.default_rng(0).uniform(0.5, 1.5, (4, 4))
X = np.random.default_rng(1).standard_normal((4, 4))


def _plain(x: Any) -> Any:
    return jnp.sin(x * MASK) @ MASK


def _scanned(x: Any) -> Any:
    return jax.lax.scan(lambda carry, _: (_plain(carry), carry), x, None, length=3)


def _ruled(factor: float) -> Callable[[Any], Any]:
    """A custom rule with the array in its derivative, which is `factor` times the right one."""

    @jax.custom_vjp
    def product(x: Any) -> Any:
        return x * MASK

    product.defvjp(lambda x: (x * MASK, None), lambda _, u: (factor * u * MASK,))
    return lambda x: jnp.tanh(product(x))


TARGETS: dict[str, Callable[[], Any]] = {
    "plain": lambda: lambda x: _plain(x),
    "jit": lambda: jax.jit(lambda x: _plain(x)),
    "checkpoint": lambda: jax.checkpoint(lambda x: _plain(x)),
    "scan": lambda: lambda x: _scanned(x),
    "custom_vjp": lambda: _ruled(1.0),
}


@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("order", [("float32", "float64"), ("float64", "float32")])
def test_one_array_in_two_precisions(form: str, order: tuple[str, str]) -> None:
    target = TARGETS[form]()
    for dtype in order:
        if dtype == "float64" and form == "scan":
            continue  # a carry of float32 that becomes float64 is an error of JAX
        result = gradcheck.check(target, X.astype(dtype), checks="all")
        assert result.verdict is Verdict.PASS, str(result)


@pytest.mark.parametrize("form", TARGETS)
def test_a_float32_target_is_computed_in_float64(form: str) -> None:
    (finding,) = gradcheck.check(TARGETS[form](), X.astype(np.float32), checks="vjp").findings
    assert "float64" in finding.oracle


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wrong_rule_is_caught(dtype: str) -> None:
    result = gradcheck.check(_ruled(1.01), X.astype(dtype))
    assert result.verdict is Verdict.FAIL


def test_a_rule_that_returns_float64_for_float32_is_differentiated_twice() -> None:
    with jax.enable_x64(True):  # as somebody has it who switched it on
        result = gradcheck.check(_ruled(1.0), X.astype(np.float32), checks="all")

    assert result.verdict is not Verdict.ERROR, str(result)
