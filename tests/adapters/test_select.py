"""Which framework a target belongs to."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gradcheck import InputError, Rule
from gradcheck.adapters import problem_of
from gradcheck.adapters.select import framework_of
from gradcheck.reference import Dense

X = np.ones((2, 3))
T = torch.ones(2, 3, dtype=torch.float64)
J = jnp.ones((2, 3))


class Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        return u


@jax.custom_vjp
def ruled(x: Any) -> Any:
    return x


ruled.defvjp(lambda x: (x, None), lambda _, u: (u,))

PARTIAL: Any = jax.tree_util.Partial(jnp.add, J)  # type: ignore[no-untyped-call]

TARGETS: list[tuple[str, Any, tuple[Any, ...], str]] = [
    ("reference", Dense(inputs=3, outputs=2), (X,), "numpy"),
    ("rule", Rule(np.sin, lambda inputs, u: u), (X,), "numpy"),
    ("rule of tensors", Rule(torch.sin, lambda inputs, u: u), (T,), "torch"),
    ("rule of JAX arrays", Rule(jnp.sin, lambda inputs, u: u), (J,), "jax"),
    ("tensor", lambda x: 2 * x, (T,), "torch"),
    ("nested tensor", lambda d: 2 * d["a"][0], ({"a": [T]},), "torch"),
    ("JAX array", lambda x: 2 * x, (J,), "jax"),
    ("module", torch.nn.Linear(3, 2).double(), (T,), "torch"),
    ("module, arrays", torch.nn.Linear(3, 2).double(), (X,), "torch"),
    ("autograd.Function", Identity, (X,), "torch"),
    ("torch function, arrays", torch.sin, (X,), "torch"),
    ("torch method, arrays", lambda x: x.detach() + x, (X,), "torch"),
    ("JAX method, arrays", lambda x: x.at[0].set(0.0), (X,), "jax"),
    ("jnp, arrays", jnp.sin, (X,), "jax"),
    ("jit, arrays", jax.jit(lambda x: x * 2), (X,), "jax"),
    ("custom_vjp, arrays", ruled, (X,), "jax"),
    ("partial with JAX arrays", PARTIAL, (X,), "jax"),
]


@pytest.mark.parametrize(
    ("target", "inputs", "framework"), [row[1:] for row in TARGETS], ids=[row[0] for row in TARGETS]
)
def test_target_finds_its_framework(target: Any, inputs: Any, framework: str) -> None:
    assert problem_of(target, inputs).framework == framework


def test_nothing_of_a_framework_is_none() -> None:
    assert framework_of(None, (X, 1, "a", None)) is None


def test_first_refusal_is_the_one_that_counts() -> None:
    def refuse(x: Any) -> Any:
        raise TypeError(f"no {type(x).__name__} here")

    with pytest.raises(TypeError, match="no ndarray here"):
        problem_of(refuse, (X,))


MISUSE: list[tuple[str, Callable[[], object], str]] = [
    (
        "two among inputs",
        lambda: problem_of(lambda x, y: x, ({"a": T}, [J])),
        "input[0]['a'] is from torch and input[1][0] is from jax. Convert",
    ),
    (
        "module and array",
        lambda: problem_of(torch.nn.Linear(3, 2), (J,)),
        "input[0] is from jax and target Linear is from torch",
    ),
    ("jit and tensor", lambda: problem_of(jax.jit(lambda x: x), (T,)), "expected one framework"),
    (
        "NumPy",
        lambda: problem_of(np.sin, (X,)),
        "sin of NumPy arrays returned ndarray and has no derivative to check. Wrap it",
    ),
    ("not callable", lambda: problem_of([1], (X,)), "got list"),
    (
        "params",
        lambda: problem_of(torch.sin, (T,), params={}),
        "params= is for layers of gradcheck.reference",
    ),
]


@pytest.mark.parametrize(
    ("call", "message"), [row[1:] for row in MISUSE], ids=[r[0] for r in MISUSE]
)
def test_misuse_is_an_input_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        call()

    assert message in str(raised.value)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_constant_inputs_are_no_leaves(framework: str) -> None:
    x = T if framework == "torch" else J

    problem = problem_of(lambda x, y: x * y, (x, x), constant={"input[1]"})

    assert [leaf.path for leaf in problem.leaves] == ["input[0]"]
