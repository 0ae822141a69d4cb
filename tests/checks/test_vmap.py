"""The check of batches of examples: what it must reject, and what it must let pass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.custom_batching import custom_vmap

import gradcheck
from gradcheck import Rule
from gradcheck.results import CheckResult, Verdict
from tests.checks.test_batched import RIGHT

X = np.random.default_rng(0).standard_normal((3, 3))
W = np.random.default_rng(1).standard_normal((3, 3))


def _asked(target: Any, *inputs: Any) -> CheckResult:
    return gradcheck.check(target, *inputs, checks="vmap")


Batch = Callable[..., tuple[Any, Any]]  # (batch size, axes, x, w) -> both with the batch in front


def _product(batch: Batch | None) -> Any:
    """A matrix product with a batching rule of its own; PyTorch's if that is None."""

    class Product(torch.autograd.Function):
        generate_vmap_rule = batch is None

        @staticmethod
        def forward(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return x @ w

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            x, w = ctx.saved_tensors
            return u @ w.mT, x.mT @ u

    if batch is not None:

        def vmap(info: Any, axes: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
            return Product.apply(*batch(info.batch_size, axes, x, w)), 0  # type: ignore[no-untyped-call]

        Product.vmap = staticmethod(vmap)  # type: ignore[method-assign]
    return Product


def _fronted(n: int, x: torch.Tensor, axis: int | None) -> torch.Tensor:
    return x.expand(n, *x.shape) if axis is None else x.movedim(axis, 0)


def _right(n: int, axes: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
    return _fronted(n, x, axes[0]), _fronted(n, w, axes[1])


def _takes_the_axis_for_the_first(n: int, axes: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
    return x if axes[0] is not None else x.expand(n, 3, 3), _fronted(n, w, axes[1])


def _takes_the_first_of_all(n: int, axes: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
    x, w = _right(n, axes, x, w)
    return x, w[:1].expand_as(w)


def _forgets_that_one_has_no_batch(n: int, axes: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
    x, w = _fronted(n, x, axes[0]), w if axes[1] is None else w.movedim(axes[1], 0)
    return x, w.mT if axes[1] is None else w


def _detaches(n: int, axes: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
    x, w = _right(n, axes, x, w)
    return x, w.detach()


WRONG = [
    _takes_the_axis_for_the_first,
    _takes_the_first_of_all,
    _forgets_that_one_has_no_batch,
    _detaches,
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch", WRONG)
def test_a_wrong_rule_of_a_function_is_found_by_default(batch: Batch, dtype: torch.dtype) -> None:
    x, w = torch.from_numpy(X).to(dtype), torch.from_numpy(W).to(dtype)
    result = gradcheck.check(_product(batch), x, w)
    assert {f.check for f in result.findings if f.verdict is Verdict.FAIL} == {"vmap"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch", [_right, None])
def test_a_right_rule_of_a_function_passes_by_default(
    batch: Batch | None, dtype: torch.dtype
) -> None:
    x, w = torch.from_numpy(X).to(dtype), torch.from_numpy(W).to(dtype)
    result = gradcheck.check(_product(batch), x, w)
    assert result.passed, result
    assert "vmap" in {finding.check for finding in result.findings}


def test_a_rule_that_cannot_do_one_of_them_is_no_failure() -> None:
    def batch(n: int, axes: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
        if None in axes:
            raise NotImplementedError("all or none")
        return _right(n, axes, x, w)

    result = _asked(_product(batch), torch.from_numpy(X), torch.from_numpy(W))
    assert result.passed, result
    assert "all or none" in result.findings[0].message


def _jax_product(rule: Callable[..., Any]) -> Any:
    def plain(x: Any, w: Any) -> Any:
        return jnp.sin(x @ w)

    batched = custom_vmap(plain)
    batched.def_vmap(rule)
    product = jax.custom_vjp(batched)
    product.defvjp(
        lambda x, w: (batched(x, w), (x, w)), lambda known, u: jax.vjp(plain, *known)[1](u)
    )
    return product


def _right_of_jax(n: int, batched: Any, x: Any, w: Any) -> Any:
    axes = [0 if yes else None for yes in batched]
    return jax.vmap(lambda x, w: jnp.sin(x @ w), axes)(x, w), True


def _first_of_all(n: int, batched: Any, x: Any, w: Any) -> Any:
    return jnp.sin(x @ (w[0] if batched[1] else w)), True


def _wrong_where_one_has_no_batch(n: int, batched: Any, x: Any, w: Any) -> Any:
    return _right_of_jax(n, batched, x, w) if all(batched) else (jnp.cos(x @ w), True)


@pytest.mark.parametrize("rule", [_first_of_all, _wrong_where_one_has_no_batch])
def test_a_wrong_rule_of_jax_is_found_by_default(rule: Callable[..., Any]) -> None:
    result = gradcheck.check(_jax_product(rule), X, W)
    assert {f.check for f in result.findings if f.verdict is Verdict.FAIL} == {"vmap"}


def test_a_right_rule_of_jax_passes_by_default() -> None:
    result = gradcheck.check(_jax_product(_right_of_jax), X, W)
    assert result.passed, result
    assert "vmap" in {finding.check for finding in result.findings}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("target", "inputs"), RIGHT.values(), ids=RIGHT.keys())
def test_a_right_torch_target_passes(
    target: Any, inputs: list[torch.Tensor], dtype: torch.dtype
) -> None:
    if isinstance(target, torch.nn.Module):
        target = target.to(dtype)
    result = _asked(target, *[x.to(dtype) for x in inputs])
    assert result.passed or result.not_checked, result


RIGHT_OF_JAX: dict[str, Callable[..., Any]] = {
    "softmax": jax.nn.softmax,
    "scan": lambda x: jax.lax.scan(lambda h, row: (jnp.tanh(h + row),) * 2, x[0], x)[1],
    "cond": lambda x: jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
    "sorted": jnp.sort,
    "inverse": lambda x: jnp.linalg.inv(x + 4 * jnp.eye(3)),
    "a constant output": lambda x: (jnp.sin(x), jnp.ones(2)),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("target", RIGHT_OF_JAX.values(), ids=RIGHT_OF_JAX.keys())
def test_a_right_jax_target_passes(target: Callable[..., Any], dtype: str) -> None:
    if dtype == "bfloat16" and target is RIGHT_OF_JAX["inverse"]:
        pytest.skip("JAX has no inverse in bfloat16")
    with jax.enable_x64(True):
        x = jnp.asarray(X, dtype)
    result = _asked(target, x)
    assert result.passed, result


def test_a_dropout_is_the_same_in_a_batch() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5)).double()
    result = _asked(module, torch.from_numpy(X))
    assert result.passed, result
    assert len(result.findings) == 3


@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        (lambda x: x * x.sum().item(), [torch.from_numpy(X)]),
        (Rule(np.sin, lambda inputs, u: (u * np.cos(inputs[0]),)), [X]),
        (torch.nn.LSTM(3, 2).double(), [torch.from_numpy(X)]),
    ],
)
def test_what_cannot_be_batched_is_said(target: Any, inputs: list[Any]) -> None:
    result = _asked(target, *inputs)
    assert result.verdict is Verdict.INCONCLUSIVE, result
    assert result.not_checked[0].startswith("vmap: ")


def test_it_is_not_asked_by_default_of_what_has_no_rule() -> None:
    result = gradcheck.check(torch.sin, torch.from_numpy(X))
    assert "vmap" not in {finding.check for finding in result.findings}


def _misspelt(n: int, axes: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
    return x.moovedim(axes[0], 0), w  # type: ignore[attr-defined]


def _refusing(n: int, axes: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
    raise NotImplementedError("not batched")


def test_a_rule_of_its_own_that_raises_fails_unless_it_says_that_it_is_not_there() -> None:
    x, w = torch.from_numpy(X), torch.from_numpy(W)
    broken = gradcheck.check(_product(_misspelt), x, w)
    assert broken.verdict is Verdict.FAIL
    assert "raises AttributeError" in str(broken)
    refused = gradcheck.check(_product(_refusing), x, w)
    assert refused.passed, refused
    assert any("not batched" in said for said in refused.not_checked)


def test_a_rule_that_draws_a_mask_for_each_example_is_no_failure() -> None:
    class Dropped(torch.autograd.Function):
        @staticmethod
        def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mask = (torch.rand_like(x) < 0.5).to(x.dtype)
            return x * mask, mask

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(output[1])
            ctx.mark_non_differentiable(output[1])

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor, _: Any) -> Any:
            return u * ctx.saved_tensors[0]

        @staticmethod
        def vmap(info: Any, axes: Any, x: torch.Tensor) -> Any:
            return Dropped.apply(x.movedim(axes[0], 0)), (0, 0)  # type: ignore[no-untyped-call]

    result = gradcheck.check(Dropped, torch.from_numpy(X))
    assert result.passed, result
    assert any("info.randomness" in said for said in result.not_checked)
