"""The check of forward mode: what it must reject, and what it must let pass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule
from gradcheck.results import CheckResult, Verdict

X = np.random.default_rng(0).standard_normal((4, 4))
Spoil = Callable[[Any], Any]


def _asked(target: Any, *inputs: Any, seed: int = 0) -> CheckResult:
    return gradcheck.check(target, *inputs, checks="jvp", seed=seed)


def _with(index: Any, factor: float) -> Spoil:
    mask = np.ones(X.shape)
    mask[index] = factor
    return lambda v: v * (torch.from_numpy(mask).to(v.dtype) if _is_tensor(v) else mask)


def _is_tensor(v: Any) -> bool:
    return isinstance(v, torch.Tensor)


def _rolled(v: Any) -> Any:
    return (
        v.roll(1, 0) if _is_tensor(v) else (np if isinstance(v, np.ndarray) else jnp).roll(v, 1, 0)
    )


# What becomes of the tangent of the first leaf, and the pattern that is named.
SPOILT: dict[str, tuple[Spoil, str | None]] = {
    "doubled": (lambda v: 2 * v, "constant factor: got / wanted = 2"),
    "sign": (lambda v: -v, "sign"),
    "missing": (lambda v: 0 * v, "zero"),
    "1e-3 too large": (lambda v: v * (1 + 1e-3), "constant factor: got / wanted = 1.001"),
    "1e-5 too large": (lambda v: v * (1 + 1e-5), None),
    "transposed": (lambda v: v.T, None),
    "rolled": (_rolled, None),
    "a row missing": (_with(2, 0.0), "part missing"),
    "one entry missing": (_with((1, 3), 0.0), "part missing"),
    "one entry off by 1e-3": (_with((1, 3), 1 + 1e-3), None),
    "one entry off by 1e-5": (_with((1, 3), 1 + 1e-5), None),
}
TINY = ("1e-3 too large", "1e-5 too large", "one entry off by 1e-3", "one entry off by 1e-5")


def _rule(spoil: Spoil) -> Any:
    return Rule(
        lambda x, w: np.sin(x) * w,
        lambda inputs, u: (u * np.cos(inputs[0]) * inputs[1], u * np.sin(inputs[0])),
        jvp=lambda inputs, v: (
            spoil(v[0]) * np.cos(inputs[0]) * inputs[1] + v[1] * np.sin(inputs[0])
        ).astype(inputs[0].dtype),
    )


def _torch(spoil: Spoil) -> Any:
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
            ctx.save_for_backward(x, w)
            ctx.save_for_forward(x, w)
            return x.sin() * w

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            x, w = ctx.saved_tensors
            return u * x.cos() * w, u * x.sin()

        @staticmethod
        def jvp(ctx: Any, v: torch.Tensor | None, z: torch.Tensor | None) -> Any:
            x, w = ctx.saved_tensors
            moved: torch.Tensor = (spoil(v) if v is not None else 0) * x.cos() * w
            return moved + (z if z is not None else 0) * x.sin()

    return Product


def _jax(spoil: Spoil) -> Any:
    @jax.custom_jvp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    @jax.custom_vjp
    def seen(v: Any) -> Any:  # spoilt forward only: its transpose is not used
        return v

    seen.defvjp(lambda v: (v, None), lambda _, u: (u,))
    sine.defjvp(lambda p, v: (jnp.sin(p[0]), spoil(v[0]) * jnp.cos(p[0])))
    return lambda x, w: sine(x) * w


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("posed", [_rule, _torch, _jax])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_wrong_tangent_is_found_and_its_leaf_named(name: str, posed: Any, dtype: str) -> None:
    if dtype == "float32" and name in TINY:
        pytest.skip("at or below the tolerance of the dtype")
    spoil, pattern = SPOILT[name]
    x, w = X.astype(dtype), (X + 3).astype(dtype)
    if posed is _torch:
        result = _asked(_torch(spoil), torch.from_numpy(x), torch.from_numpy(w))
    else:
        result = _asked(posed(spoil), x, w)
    assert result.verdict is Verdict.FAIL
    (wrong,) = [finding for finding in result.findings if finding.verdict is Verdict.FAIL]
    assert (wrong.check, wrong.leaf) == ("jvp", "input[0]")
    if pattern is not None:
        assert wrong.diagnosis == pattern


@pytest.mark.parametrize("seed", range(4))
def test_the_wrong_entry_of_a_small_leaf_is_named(seed: int) -> None:
    spoil, _ = SPOILT["one entry off by 1e-5"]
    (wrong, right) = _asked(_rule(spoil), X, X + 3, seed=seed).findings
    assert [entry.index for entry in wrong.entries] == [(1, 3)]
    assert right.verdict is Verdict.PASS


def test_a_large_leaf_is_named_without_its_entries() -> None:
    x = np.random.default_rng(1).standard_normal((40, 40))
    mask = np.ones(x.shape)
    mask[7, 9] = 0.0
    result = _asked(_rule(lambda v: v * mask), x, x + 3)
    (wrong,) = [finding for finding in result.findings if finding.verdict is Verdict.FAIL]
    assert (wrong.leaf, wrong.entries) == ("input[0]", ())


def test_a_complex_tangent_that_is_conjugated_is_found() -> None:
    rule = Rule(
        lambda z: z**2,
        lambda inputs, u: (u * 2 * inputs[0].conj(),),
        jvp=lambda inputs, v: 2 * inputs[0] * v[0].conj(),
    )
    z = X[0] + 1j * X[1]
    assert gradcheck.check(rule, z, checks="vjp").passed
    assert _asked(rule, z).verdict is Verdict.FAIL


def _x(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape))


RIGHT: dict[str, tuple[Any, list[torch.Tensor]]] = {
    "tanh": (torch.tanh, [_x(3, 4)]),
    "tanh, saturated": (torch.tanh, [9 * _x(3, 4)]),
    "relu": (torch.relu, [_x(3, 4)]),
    "abs at zero": (torch.abs, [torch.zeros(3)]),
    "a tie": (lambda x: x.amax(0), [torch.tensor([1.0, 2.0, 2.0])]),
    "floor": (torch.floor, [_x(3, 4)]),
    "softmax": (lambda x: x.softmax(1), [_x(3, 4)]),
    "product": (torch.matmul, [_x(4, 5), _x(5, 3)]),
    "layer norm": (torch.nn.LayerNorm(4), [_x(3, 4)]),
    "batch norm": (torch.nn.BatchNorm1d(3), [_x(5, 3)]),
    "convolution": (torch.nn.Conv1d(2, 3, 2), [_x(1, 2, 5)]),
    "LSTM cell": (torch.nn.LSTMCell(3, 2), [_x(2, 3)]),
    "an offset": (lambda x: 1e6 + torch.sin(x), [_x(4)]),
    "widely scaled": (lambda x, w: x.sin() + 1e-4 * w.sin(), [_x(4), _x(4)]),
    "dropout": (torch.nn.Dropout(), [_x(3, 4)]),
    "unused input": (lambda x, y: x**3, [_x(3), _x(3)]),
    "scalar": (lambda x: x**3, [_x()]),
    "empty": (lambda x: x**3, [_x(0, 3)]),
    "two outputs": (lambda x: (x.sin(), x.sum()), [_x(3)]),
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
    if dtype is torch.bfloat16:
        assert result.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE), result
    else:
        assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "target",
    [
        jnp.tanh,
        jax.nn.relu,
        jnp.linalg.det,
        lambda x: jnp.fft.fft(x),
        lambda x: jax.lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x)
        )[1],
        jax.jit(lambda x: jnp.tanh(x @ x.T)),
    ],
)
def test_a_right_jax_target_passes(target: Any, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(X.astype(dtype))
    assert _asked(target, x).passed


def test_complex_targets_pass() -> None:
    z = _x(4) + 1j * _x(4).flip(0)
    assert _asked(lambda z: z * z.conj() + z**3, z).passed
    assert _asked(lambda z: jnp.tanh(z * jnp.conj(z) + z), z.numpy()).passed


def _custom_vjp() -> Any:
    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (u * jnp.cos(x),))
    return sine


class Reverse(torch.autograd.Function):
    """No forward mode."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u * ctx.saved_tensors[0].cos()


@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        (Reverse, [_x(3)]),
        (torch.cdist, [_x(3, 2), _x(4, 2)]),
        (_custom_vjp(), [X]),
        (Rule(np.sin, lambda inputs, u: (u * np.cos(inputs[0]),)), [X]),
    ],
)
def test_a_target_without_forward_mode_is_said_in_one_line(target: Any, inputs: list[Any]) -> None:
    result = gradcheck.check(target, *inputs, checks=("vjp", "jvp", "adjoint"))
    assert result.passed, result
    assert len(result.not_checked) == 1
    assert result.not_checked[0].startswith("jvp: ")


def test_it_costs_one_tangent_a_leaf_and_a_ladder() -> None:
    layers = torch.nn.Sequential(*[torch.nn.Linear(8, 8).double()] * 3)
    result = _asked(layers, _x(4, 8))
    assert result.passed
    assert result.evaluations.vjp == 0
    assert result.evaluations.forward <= 24


def _pushed(wrong: Callable[[Any, Any], Any]) -> Rule:
    """(sin x w, x w), with tangents that are spoilt."""

    def right(inputs: Any, tangents: Any) -> Any:
        (x, w), (dx, dw) = inputs, tangents
        return np.cos(x) * w * dx + np.sin(x) * dw, dx * w + x * dw

    def vjp(inputs: Any, us: Any) -> Any:
        (x, w), (a, b) = inputs, us
        return a * np.cos(x) * w + b * w, a * np.sin(x) + b * x

    def jvp(inputs: Any, tangents: Any) -> Any:
        first, second = right(inputs, tangents)
        return wrong(first, tangents), second

    return Rule(lambda x, w: (np.sin(x) * w, x * w), vjp, jvp)


NOT_LINEAR: dict[str, Callable[[Any, Any], Any]] = {
    "two tangents multiplied": lambda y, v: y + 0.1 * v[0] * v[1],
    "clipped": lambda y, v: np.clip(y, -20, 20),
    "small ones dropped": lambda y, v: np.where(np.abs(y) < 1e-4, 0, y),
    "their size": lambda y, v: np.sign(y) * np.abs(y) ** 1.001,
}


@pytest.mark.parametrize("checks", ["default", "jvp"])
@pytest.mark.parametrize("name", NOT_LINEAR)
def test_tangents_that_are_not_pushed_linearly_fail(name: str, checks: str) -> None:
    x, w = np.random.default_rng(0).standard_normal((2, 3))

    result = gradcheck.check(_pushed(NOT_LINEAR[name]), x, w, checks=checks)

    assert result.verdict is Verdict.FAIL
    assert gradcheck.check(_pushed(lambda y, v: y), x, w, checks=checks).passed


def test_a_tangent_rule_that_writes_into_what_it_is_given_fails() -> None:
    def into_input(inputs: Any, tangents: Any) -> Any:
        pushed = np.cos(inputs[0]) * tangents[0]
        inputs[0][...] += 1
        return pushed

    def into_tangent(inputs: Any, tangents: Any) -> Any:
        tangents[0][...] *= np.cos(inputs[0])
        return tangents[0]

    for jvp, place in ((into_input, "input[0]"), (into_tangent, "tangent of input[0]")):
        rule = Rule(np.sin, lambda inputs, u: u * np.cos(inputs[0]), jvp)
        result = gradcheck.check(rule, np.ones(3), checks="contract")
        assert [f.leaf for f in result.findings if f.verdict is Verdict.FAIL] == [place]


def test_a_jax_tangent_rule_that_cannot_be_transposed_is_explained() -> None:
    @jax.custom_jvp
    def f(x: Any) -> Any:
        return jnp.sin(x)

    f.defjvp(lambda x, v: (jnp.sin(x[0]), jnp.cos(x[0]) * jnp.abs(v[0])))

    result = gradcheck.check(f, jnp.arange(1.0, 4.0))

    assert "not be linear in its tangents" in result.findings[0].message


@pytest.mark.parametrize("writes", [True, False])
def test_a_torch_rule_that_writes_into_its_tangent_fails(writes: bool) -> None:
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, u: Any) -> Any:
            return u * ctx.saved_tensors[0].cos()

        @staticmethod
        def jvp(ctx: Any, v: Any) -> Any:
            slope = ctx.saved_tensors[0].cos()
            return v.mul_(slope) if writes else v * slope

    result = gradcheck.check(Sine, torch.ones(3, dtype=torch.float64), checks="contract")

    failed = [f.leaf for f in result.findings if f.verdict is Verdict.FAIL]
    assert failed == (["tangent of input[0]"] if writes else [])
