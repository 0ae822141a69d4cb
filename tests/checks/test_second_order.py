"""The check of double backward: what it must reject, and what it must let pass."""

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


def _asked(target: Any, *inputs: Any, seed: int = 0) -> CheckResult:
    return gradcheck.check(target, *inputs, checks="second_order", seed=seed)


def _with(index: Any, factor: float) -> Callable[[Any], Any]:
    mask = np.ones(X.shape)
    mask[index] = factor
    return lambda g: g * (torch.from_numpy(mask) if isinstance(g, torch.Tensor) else mask)


# What becomes of the second derivative in x; the gradient itself is right.
SPOILT: dict[str, Callable[[Any], Any]] = {
    "doubled": lambda g: 2 * g,
    "sign": lambda g: -g,
    "zero": lambda g: 0 * g,
    "1e-3 too large": lambda g: g * (1 + 1e-3),
    "1e-5 too large": lambda g: g * (1 + 1e-5),
    "transposed": lambda g: g.T,
    "a row zeroed": _with(2, 0.0),
    "one entry zeroed": _with((1, 3), 0.0),
    "one entry off by 1e-5": _with((1, 3), 1 + 1e-5),
}


def _applied(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


class Slope(torch.autograd.Function):
    """The VJP of a sine, with a derivative that is spoilt in `part`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, u: torch.Tensor, spoil: Any, part: str) -> Any:
        ctx.save_for_backward(x, u)
        ctx.spoil, ctx.part = spoil, part
        return u * x.cos()

    @staticmethod
    def backward(ctx: Any, w: torch.Tensor) -> Any:
        x, u = ctx.saved_tensors
        in_x, in_u = -w * u * x.sin(), w * x.cos()
        if ctx.part == "x":
            return ctx.spoil(in_x), in_u, None, None
        return in_x, ctx.spoil(in_u), None, None


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, spoil: Any, part: str) -> Any:
        ctx.save_for_backward(x)
        ctx.spoil, ctx.part = spoil, part
        return x.sin()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return _applied(Slope, x, u, ctx.spoil, ctx.part), None, None


def _spoilt_torch(spoil: Any, part: str) -> Callable[[torch.Tensor], Any]:
    return lambda x: _applied(Sine, x, spoil, part)


def _spoilt_jax(spoil: Any, part: str) -> Callable[[Any], Any]:
    @jax.custom_vjp
    def slope(x: Any, u: Any) -> Any:
        return u * jnp.cos(x)

    def back(saved: Any, w: Any) -> Any:
        x, u = saved
        in_x, in_u = -w * u * jnp.sin(x), w * jnp.cos(x)
        return (spoil(in_x), in_u) if part == "x" else (in_x, spoil(in_u))

    slope.defvjp(lambda x, u: (slope(x, u), (x, u)), back)

    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (slope(x, u),))
    return sine


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
@pytest.mark.parametrize("part", ["x", "u"])
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_wrong_second_derivative_is_found(
    spoil: Callable[[Any], Any], part: str, framework: str
) -> None:
    if framework == "torch":
        target: Any = _spoilt_torch(spoil, part)
        x: Any = torch.from_numpy(X)
    else:
        target, x = _spoilt_jax(spoil, part), X
    assert gradcheck.check(target, x, checks="vjp").passed
    result = _asked(target, x)
    assert result.verdict is Verdict.FAIL
    wrong = {f.leaf for f in result.findings if f.verdict is Verdict.FAIL}
    assert wrong == {"input[0]" if part == "x" else "cotangent of output"}
    assert all(finding.check == "second_order" for finding in result.findings)


@pytest.mark.parametrize("seed", range(5))
def test_one_entry_that_is_slightly_wrong_is_named(seed: int) -> None:
    target = _spoilt_torch(_with((1, 3), 1 + 1e-5), "x")
    result = _asked(target, torch.from_numpy(X), seed=seed)
    (wrong,) = [f for f in result.findings if f.verdict is Verdict.FAIL]
    assert [entry.index for entry in wrong.entries] == [(1, 3)]


class KeptOnCtx(torch.autograd.Function):
    """An exponential whose result is kept as an attribute: it has no graph there."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.y = x.exp()
        return ctx.y.clone()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u * ctx.y


class OneDetached(torch.autograd.Function):
    """A product, one of whose two gradients is detached."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        x, w = ctx.saved_tensors
        return (u * w).detach(), u * x


class ProductWithZeros(torch.autograd.Function):
    """A product over all entries, whose gradient is computed without a graph where one is zero."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.prod()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        if bool((x != 0).all()):
            return u * x.prod() / x
        with torch.no_grad():
            others = [torch.cat([x[:k], x[k + 1 :]]).prod() for k in range(len(x))]
        return u * torch.stack(others)


class DetachedNorm(torch.autograd.Function):
    """A unit vector, whose gradient treats the norm as a constant when differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.save_for_backward(x)
        return x / x.norm()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        size = x.norm().detach()
        y = x / size
        return (u - y * (u * y).sum()) / size


def _x(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        (KeptOnCtx, [_x(3)]),
        (OneDetached, [_x(3), _x(3)]),
        (ProductWithZeros, [torch.tensor([1.5, 0.0, -0.7, 0.0, 2.0])]),
        (ProductWithZeros, [torch.tensor([1.5, 0.0, -0.7])]),
        (DetachedNorm, [_x(4)]),
        (lambda x: _applied(KeptOnCtx, x) + torch.sin(x), [_x(3)]),
        (lambda x: 1e-9 * _applied(KeptOnCtx, x), [_x(3)]),
        (lambda x: torch.relu(_applied(KeptOnCtx, x) @ _x(3, 3).to(x.dtype)), [_x(2, 3)]),
    ],
)
def test_what_is_wrongly_detached_is_found(
    target: Any, inputs: list[torch.Tensor], dtype: torch.dtype
) -> None:
    inputs = [x.to(dtype) for x in inputs]
    assert gradcheck.check(target, *inputs, checks="vjp").passed
    assert _asked(target, *inputs).verdict is Verdict.FAIL


RIGHT_TORCH: dict[str, tuple[Any, list[torch.Tensor]]] = {
    "tanh": (torch.tanh, [_x(3, 4)]),
    "tanh, saturated": (torch.tanh, [9 * _x(3, 4)]),
    "gelu": (torch.nn.functional.gelu, [_x(3, 4)]),
    "relu": (torch.relu, [_x(3, 4)]),
    "abs": (torch.abs, [_x(3, 4)]),
    "floor": (torch.floor, [_x(3, 4)]),
    "linear": (lambda x: 3 * x, [_x(3, 4)]),
    "softmax": (lambda x: x.softmax(1), [_x(3, 4)]),
    "steep": (lambda x: torch.sigmoid(30 * x), [_x(3, 4)]),
    "layer norm": (torch.nn.LayerNorm(4), [_x(3, 4)]),
    "batch norm": (torch.nn.BatchNorm1d(3), [_x(5, 3)]),
    "convolution": (torch.nn.Conv1d(2, 3, 2), [_x(1, 2, 5)]),
    "LSTM cell": (torch.nn.LSTMCell(3, 2), [_x(2, 3)]),
    "attention": (torch.nn.functional.scaled_dot_product_attention, [_x(1, 3, 2)] * 3),
    "product with zeros": (torch.prod, [torch.tensor([1.5, 0.0, -0.7, 0.0, 2.0])]),
    "determinant": (torch.det, [_x(3, 3)]),
    "sorted": (lambda x: x.sort()[0] ** 2, [_x(6)]),
    "maximum": (lambda x: x.amax(0) ** 2, [_x(6)]),
    "an offset": (lambda x: 1e6 + torch.sin(x), [_x(4)]),
    "tiny": (lambda x: 1e-9 * torch.sin(x), [_x(4)]),
    "cumulative product": (lambda x: x.cumprod(0), [_x(4)]),
    "unused input": (lambda x, y: x**3, [_x(3), _x(3)]),
    "scalar": (lambda x: x**3, [_x()]),
    "empty": (lambda x: x**3, [_x(0, 3)]),
    "deep and piecewise": (
        torch.nn.Sequential(*[torch.nn.Linear(4, 4), torch.nn.ReLU()] * 3),
        [_x(3, 4)],
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("target", "inputs"), RIGHT_TORCH.values(), ids=RIGHT_TORCH.keys())
def test_a_right_torch_target_passes(
    target: Any, inputs: list[torch.Tensor], dtype: torch.dtype
) -> None:
    if isinstance(target, torch.nn.Module):
        target = target.to(dtype)
    result = _asked(target, *(x.to(dtype) for x in inputs))
    assert result.passed, result
    assert result.findings


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "target",
    [
        jnp.tanh,
        jax.nn.relu,
        jax.nn.softmax,
        jnp.abs,
        jnp.prod,
        lambda x: jnp.where(x > 0, x**2, jnp.exp(x)),
        lambda x: jax.lax.scan(lambda h, a: (jnp.tanh(h + a),) * 2, jnp.zeros_like(x[0]), x)[1],
        jax.jit(lambda x: jnp.tanh(x @ x.T)),
        _spoilt_jax(lambda g: g, "x"),
    ],
)
def test_a_right_jax_target_passes(target: Any, dtype: str) -> None:
    # NumPy arrays are taken for float32 leaves of JAX unless they are float64 themselves.
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(X.astype(dtype))
    result = _asked(target, x)
    assert result.passed, result


def test_complex_targets_pass() -> None:
    z = _x(4) + 1j * _x(4).flip(0)
    assert _asked(lambda z: z * z.conj() + z**3, z).passed
    assert _asked(lambda z: jnp.tanh(z * jnp.conj(z) + z), z.numpy()).passed


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u * ctx.saved_tensors[0].cos()


class InNumpy(torch.autograd.Function):
    """A backward in NumPy, not marked as differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return torch.from_numpy(u.numpy() * np.cos(ctx.saved_tensors[0].detach().numpy()))


def _jax_callback() -> Callable[[Any], Any]:
    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    def back(x: Any, u: Any) -> tuple[Any]:
        like = jax.eval_shape(jnp.zeros_like, x)
        return (u * jax.pure_callback(np.cos, like, x, vmap_method="sequential"),)

    sine.defvjp(lambda x: (jnp.sin(x), x), back)
    return sine


def _jax_numpy() -> Callable[[Any], Any]:
    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (jnp.asarray(u * np.cos(np.asarray(x))),))
    return sine


@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        (Once, [_x(3)]),
        (InNumpy, [_x(3)]),
        (torch.cdist, [_x(3, 2), _x(4, 2)]),
        (_jax_callback(), [X]),
        (_jax_numpy(), [X]),
        (Rule(np.sin, lambda inputs, u: (u * np.cos(inputs[0]),)), [X]),
    ],
)
def test_what_has_no_second_derivative_is_said_and_not_failed(
    target: Any, inputs: list[Any]
) -> None:
    result = gradcheck.check(target, *inputs, checks=("vjp", "second_order"))
    assert result.passed, result
    assert any(line.startswith("second_order: ") for line in result.not_checked)


class CutOff(torch.autograd.Function):
    """A backward whose result has no graph at all, as that of a kernel."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return (u * ctx.saved_tensors[0].cos()).detach()


def test_a_backward_cut_off_as_a_whole_is_left_open() -> None:
    result = _asked(CutOff, _x(3))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "connected" in result.findings[0].message


class Crashing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        if u.requires_grad:
            raise KeyError("workspace")
        return u * ctx.saved_tensors[0].cos()


def test_a_crash_is_an_error() -> None:
    result = _asked(Crashing, _x(3))
    assert result.verdict is Verdict.ERROR
    assert "workspace" in result.findings[0].message


@pytest.mark.parametrize(
    "target", [torch.relu, torch.abs, lambda x: x.norm(dim=0), lambda x: torch.relu(x) ** 2]
)
@pytest.mark.parametrize("x", [(0.0, 0.0, 0.0), (1.5, 0.0, -0.7)])
def test_a_kink_at_the_point_is_asked_beside_it(target: Any, x: tuple[float, ...]) -> None:
    assert _asked(target, torch.tensor(x, dtype=torch.float64)).passed


def test_a_second_derivative_that_is_not_finite_is_a_failure_where_the_gradient_is_smooth() -> None:
    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> Any:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return 3 * u * (x**2).sqrt() ** 2  # the root of zero has no derivative

    result = _asked(Cubed, torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64))
    assert result.verdict is Verdict.FAIL


def test_only_what_is_asked_for_is_checked() -> None:
    result = gradcheck.check(
        lambda x, w: torch.sin(x * w), _x(3), _x(3), checks="second_order", wrt="input[1]"
    )
    leaves = [finding.leaf for finding in result.findings]
    assert leaves == ["input[1]", "cotangent of output"]


def test_it_costs_two_dozen_gradients() -> None:
    w = _x(64, 64)
    result = _asked(lambda x: torch.tanh(x @ w), _x(8, 64))
    assert result.passed
    assert result.evaluations.vjp <= 24


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["logit", "log"])
def test_the_end_of_the_domain_nearby_is_no_kink(name: str, seed: int) -> None:
    x = torch.tensor([0.2, 0.5, 0.9, 0.05], dtype=torch.float64) * 1e-3
    layer = getattr(torch, name)

    result = _asked(layer, 1 - x if name == "logit" else x, seed=seed)

    assert result.passed
    assert not any("jumps" in finding.message for finding in result.findings)


@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_of_which_rounding_alone_is_left_does_not_jump(seed: int) -> None:
    """Normalised over one number it is one, and its gradient zero, but for the last digits."""
    x = torch.randn(1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(x, p=0.5, dim=0)

    assert gradcheck.check(normalised, x, checks="second_order", seed=seed).passed
