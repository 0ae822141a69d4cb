"""The adjoint identity and linearity: what they must reject, and what they must let pass."""

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

X = np.random.default_rng(0).standard_normal((6, 4))
Back = Callable[[Any, Any], Any]


def _asked(target: Any, *inputs: Any, seed: int = 0) -> CheckResult:
    return gradcheck.check(target, *inputs, checks="adjoint", seed=seed)


def _stale() -> Back:
    kept = [np.ones(X.shape)]

    def back(x: Any, u: Any) -> Any:
        kept.append(u)
        return kept[-2] * np.cos(x)

    return back


def _once_more(index: Any, factor: float) -> Back:
    def back(x: Any, u: Any) -> Any:
        g = u * np.cos(x)
        g[index] *= 1 + factor * abs(u[index])
        return g

    return back


# Wrong in the cotangent u; each at u = 1 for all entries may be right.
NOT_LINEAR: dict[str, Back] = {
    "ignored": lambda x, u: np.cos(x),
    "a constant added": lambda x, u: u * np.cos(x) + 1e-3,
    "a tiny constant added": lambda x, u: u * np.cos(x) + 1e-5 * np.cos(x),
    "a constant in one entry": lambda x, u: u * np.cos(x) + 1e-4 * np.eye(6, 4),
    "stale": _stale(),
    "its sign": lambda x, u: np.sign(u) * np.cos(x),
    "its size": lambda x, u: np.abs(u) * np.cos(x),
    "normalised": lambda x, u: u / max(np.linalg.norm(u), 1e-12) * np.cos(x),
    "clipped": lambda x, u: np.clip(u, -0.9, 0.9) * np.cos(x),
    "squared in one entry": _once_more((2, 3), 1.0),
    "1e-5 of a square in one entry": _once_more((2, 3), 1e-5),
    "NaN at zero": lambda x, u: u * np.cos(x) if np.any(u) else np.full_like(u, np.nan),
    "clipped, if it is large": lambda x, u: np.clip(u, -100, 100) * np.cos(x),
    "dropped, if it is small": lambda x, u: np.where(np.abs(u) < 1e-2, 0, u) * np.cos(x),
    "other for ones": lambda x, u: u * (np.sin(x) if np.all(u == 1) else np.cos(x)),
    "other for constants": lambda x, u: u * (np.sin(x) if np.ptp(u) == 0 else np.cos(x)),
    "rows that begin with zero dropped": lambda x, u: u * np.cos(x) * (u[:, :1] != 0),
    "not zero at zero": lambda x, u: u * np.cos(x) + 1e-3 * (not np.any(u)),
}


@pytest.mark.parametrize("back", NOT_LINEAR.values(), ids=NOT_LINEAR.keys())
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_is_not_linear_in_the_cotangent_is_found(back: Back, dtype: str) -> None:
    rule = Rule(np.sin, lambda inputs, u: (back(inputs[0], u).astype(dtype),))
    result = _asked(rule, X.astype(dtype))
    assert result.verdict is Verdict.FAIL
    assert "cotangent" in result.findings[0].message


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_loss_that_is_wrong_for_the_cotangent_one_is_found(dtype: torch.dtype) -> None:
    class Mean(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.size = x.numel()
            return x.mean()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:  # nothing to scale by if it is one
            return (u if u == 1 else u / ctx.size).expand(ctx.size)

    assert gradcheck.check(Mean, _x(5).to(dtype), checks="vjp").passed
    assert _asked(Mean, _x(5).to(dtype)).verdict is Verdict.FAIL


def test_a_sum_of_many_ones_in_bfloat16_is_rounding() -> None:
    """It stops at 256."""
    embedding, index = torch.nn.Embedding(2, 3).bfloat16(), torch.zeros(900, dtype=torch.int64)
    assert gradcheck.check(embedding, index, checks="adjoint").verdict is not Verdict.FAIL


def test_entries_are_named() -> None:
    rule = Rule(np.sin, lambda inputs, u: (NOT_LINEAR["squared in one entry"](inputs[0], u),))
    (finding,) = _asked(rule, X).findings
    assert [entry.index for entry in finding.entries] == [(2, 3)]


def test_jax_and_torch_rules_that_are_not_linear_are_found() -> None:
    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (u * jnp.cos(x) + 1e-3,))

    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> Any:
            ctx.save_for_backward(x, w)
            return x.sin() * w

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            x, w = ctx.saved_tensors
            return u * w * x.cos(), x.sin()

    assert _asked(sine, X).verdict is Verdict.FAIL
    result = _asked(Sine, torch.from_numpy(X), torch.from_numpy(X))
    assert [f.leaf for f in result.findings if f.verdict is Verdict.FAIL] == ["input[1]"]


def _pushed(spoil: Callable[[Any], Any]) -> Rule:
    return Rule(
        lambda x, w: np.sin(x) * w,
        lambda inputs, u: (u * np.cos(inputs[0]) * inputs[1], u * np.sin(inputs[0])),
        jvp=lambda inputs, v: (
            spoil(v[0]) * np.cos(inputs[0]) * inputs[1] + v[1] * np.sin(inputs[0])
        ),
    )


def _with(index: Any, factor: float) -> Callable[[Any], Any]:
    mask = np.ones(X.shape)
    mask[index] = factor
    return lambda v: v * mask


WRONG_TANGENTS: dict[str, Callable[[Any], Any]] = {
    "doubled": lambda v: 2 * v,
    "sign": lambda v: -v,
    "missing": lambda v: 0 * v,
    "1e-3 too large": lambda v: v * (1 + 1e-3),
    "1e-5 too large": lambda v: v * (1 + 1e-5),
    "rolled": lambda v: np.roll(v, 1, 0),
    "reversed": lambda v: v[::-1],
    "a row missing": _with(2, 0.0),
    "one entry missing": _with((1, 3), 0.0),
    "one entry off by 1e-5": _with((1, 3), 1 + 1e-5),
}


@pytest.mark.parametrize("spoil", WRONG_TANGENTS.values(), ids=WRONG_TANGENTS.keys())
@pytest.mark.parametrize("seed", [0, 1])
def test_a_forward_mode_that_is_not_the_transpose_is_found(
    spoil: Callable[[Any], Any], seed: int
) -> None:
    result = _asked(_pushed(spoil), X, X + 3, seed=seed)
    assert [f.leaf for f in result.findings if f.verdict is Verdict.FAIL] == ["input[0]"]
    assert "transpose" in result.findings[0].message


def test_the_entry_at_which_the_modes_disagree_is_named() -> None:
    (wrong, _) = _asked(_pushed(WRONG_TANGENTS["one entry off by 1e-5"]), X, X + 3).findings
    assert [entry.index for entry in wrong.entries] == [(1, 3)]
    assert wrong.mismatch == pytest.approx(1e-5, rel=1e-2)


def test_a_leaf_beside_larger_ones_is_asked_alone() -> None:
    rule = Rule(
        lambda x, w: x + 1e-12 * w,
        lambda inputs, u: (u, 1e-12 * u),
        jvp=lambda inputs, v: v[0] + 1.001e-12 * v[1],
    )
    result = _asked(rule, X, X)
    assert [f.leaf for f in result.findings if f.verdict is Verdict.FAIL] == ["input[1]"]


def _x(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape))


class Inside(torch.nn.Module):
    """Takes any dtype and computes in a narrow one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.to(self.dtype) @ w.to(self.dtype)).to(x.dtype)


RIGHT: dict[str, tuple[Any, list[torch.Tensor]]] = {
    "tanh, saturated": (torch.tanh, [9 * _x(3, 4)]),
    "softmax": (lambda x: x.softmax(1), [30 * _x(3, 4)]),
    "product": (torch.matmul, [_x(9, 50), _x(50, 9)]),
    "relu at zero": (torch.relu, [torch.zeros(5)]),
    "ties": (lambda x: x.amax(0), [torch.ones(5)]),
    "sums that cancel": (lambda x: (x - x.mean()).sum() + x[0], [_x(50)]),
    "an offset": (lambda x: 1e6 + torch.sin(x), [_x(4)]),
    "widely scaled": (lambda x, w: x.sum() + 1e-9 * w.sum(), [_x(4), _x(4)]),
    "layer norm": (torch.nn.LayerNorm(4), [_x(3, 4)]),
    "batch norm": (torch.nn.BatchNorm1d(3), [_x(5, 3)]),
    "attention layer": (torch.nn.MultiheadAttention(8, 2), [_x(4, 2, 8)] * 3),
    "LSTM": (torch.nn.LSTM(3, 4), [_x(5, 2, 3)]),
    "solve": (torch.linalg.solve, [_x(4, 4), _x(4, 2)]),
    "dropout": (torch.nn.Dropout(), [_x(3, 4)]),
    "no forward mode": (torch.cdist, [_x(3, 4), _x(5, 4)]),
    "not connected": (lambda x, y: x * 2, [_x(3), _x(3)]),
    "a constant output": (lambda x: (x.sin(), torch.ones(2, dtype=x.dtype)), [_x(3)]),
    "empty": (lambda x: x * 2, [_x(0, 3)]),
    "scalar": (torch.sin, [_x()]),
    "float32 inside": (Inside(torch.float32), [_x(4, 3), _x(3, 5)]),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("target", "inputs"), RIGHT.values(), ids=RIGHT.keys())
def test_a_right_torch_target_passes(
    target: Any, inputs: list[torch.Tensor], dtype: torch.dtype
) -> None:
    if dtype is torch.bfloat16 and target in (torch.linalg.solve, torch.cdist):
        pytest.skip("PyTorch has no kernel for it")
    if isinstance(target, torch.nn.Module):
        target = target.to(dtype)
    result = _asked(target, *(x.to(dtype) for x in inputs))
    cancels = target in (RIGHT["softmax"][0], RIGHT["sums that cancel"][0])
    if dtype is torch.bfloat16 and cancels:  # little is left of them but rounding
        assert result.verdict is not Verdict.FAIL, result
    else:
        assert result.passed, result


@pytest.mark.parametrize("seed", range(3))
def test_what_cancels_in_one_entry_is_the_rounding_of_the_others(seed: int) -> None:
    """A softmax that is nearly sure: the entry that wins has 1e-6 of the gradient that loses."""
    x = 10 * torch.randn(4, 6, generator=torch.Generator().manual_seed(1))

    def entropy(x: torch.Tensor) -> torch.Tensor:
        return -(x.softmax(-1) * x.log_softmax(-1)).sum(-1)

    assert _asked(entropy, x, seed=seed).passed


def test_bfloat16_inside_float64_passes_and_says_what_it_hides() -> None:
    for seed in range(5):
        result = _asked(Inside(torch.bfloat16), _x(4, 3), _x(3, 5), seed=seed)
        assert result.passed, result
        assert max(finding.resolution for finding in result.findings) > 1e-2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "target",
    [
        jnp.tanh,
        jax.nn.relu,
        jnp.linalg.norm,
        lambda x: jnp.fft.fft(x),
        jax.jit(lambda x: jnp.tanh(x @ x.T)),
        lambda x: jax.lax.scan(lambda h, a: (jnp.tanh(h + a),) * 2, jnp.zeros_like(x[0]), x)[1],
    ],
)
def test_a_right_jax_target_passes(target: Any, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(X.astype(dtype))
    assert _asked(target, x).passed


def test_complex_targets_pass() -> None:
    z = _x(4) + 1j * _x(4).flip(0)
    for result in (
        _asked(lambda z: z * z.conj() + z**3, z),
        _asked(torch.abs, z),
        _asked(lambda z: jnp.tanh(z * jnp.conj(z) + z), z.numpy()),
    ):
        assert result.passed
        assert result.findings[0].oracle == "linearity, adjoint identity"


def test_the_oracle_says_what_was_asked() -> None:
    assert _asked(torch.cdist, _x(3, 4), _x(5, 4)).findings[0].oracle == "linearity"
    assert _asked(torch.sin, _x(3)).findings[0].oracle == "linearity, adjoint identity"


def test_a_gradient_that_is_not_finite_is_left_to_the_check_of_gradients() -> None:
    rule = Rule(np.sin, lambda inputs, u: (np.copysign(np.inf, u),))
    assert _asked(rule, X).verdict is Verdict.INCONCLUSIVE


def test_it_costs_seven_gradients_one_value_and_one_tangent() -> None:
    result = _asked(torch.nn.Sequential(*[torch.nn.Linear(8, 8).double()] * 3), _x(4, 8))
    assert result.passed
    assert result.evaluations.vjp == 7
    assert result.evaluations.forward == 2


@pytest.mark.parametrize("seed", range(10))
def test_what_rounding_leaves_of_a_norm_of_one_number_is_not_accused(seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, bias = (9 * torch.randn(1) for _ in range(3))

    def layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (1,), weight, bias)

    assert _asked(layer, x, weight, bias).verdict is not Verdict.FAIL


@pytest.mark.parametrize("size", [2e-7, 3e-7, 5e-7])
@pytest.mark.parametrize("seed", range(3))
def test_a_subnormal_gradient_in_float16_is_linear(seed: int, size: float) -> None:
    class Small(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return 0.01 * x.sum()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            return (u.float() * size * torch.linspace(0.3, 1, 30)).half()

    result = gradcheck.check(Small, torch.linspace(-1, 1, 30).half(), checks="adjoint", seed=seed)

    assert result.verdict is not Verdict.FAIL, str(result)


@pytest.mark.parametrize("seed", range(3))
def test_at_a_kink_both_modes_may_choose(seed: int) -> None:
    """At zero the reverse mode of PReLU has its slope, and the forward mode one."""
    torch.manual_seed(seed)
    first, last = torch.nn.Linear(4, 5), torch.nn.Linear(5, 3)
    torch.nn.init.zeros_(first.weight)
    torch.nn.init.zeros_(first.bias)
    network = torch.nn.Sequential(first, torch.nn.PReLU(), last).double()
    result = _asked(network, torch.randn(6, 4, dtype=torch.float64))
    assert result.passed, result
    assert any("they agree beside it" in finding.message for finding in result.findings)


class Bounded(torch.autograd.Function):
    """tanh, whose gradient is nothing below a threshold and bounded above another."""

    BELOW, ABOVE = 0.0, float("inf")

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        gradient: torch.Tensor = (u * (1 - y**2)).clamp(-Bounded.ABOVE, Bounded.ABOVE)
        return torch.where(gradient.abs() < Bounded.BELOW, 0.0, gradient)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("below", "above", "said"),
    [
        (0.0, float("inf"), None),
        (1e-3, float("inf"), "lost below a threshold"),
        (1e-5, float("inf"), "lost below a threshold"),
        (0.0, 1e3, "clipped"),
        (0.0, 1e5, "clipped"),
    ],
)
def test_what_a_rule_drops_or_clips_far_from_usual_is_seen(
    below: float,
    above: float,
    said: str | None,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Bounded, "BELOW", below)
    monkeypatch.setattr(Bounded, "ABOVE", above)
    x = torch.randn(3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))

    result = gradcheck.check(Bounded, x)

    assert result.passed is (said is None), result
    if said is not None:
        (finding,) = [f for f in result.findings if f.verdict is Verdict.FAIL]
        assert finding.check == "adjoint"
        assert said in finding.message


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bound", [2.0, 1e2, 1e4, float("inf")])
def test_what_is_clipped_in_bfloat16_alone_is_seen(bound: float, seed: int) -> None:
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x, w = ctx.saved_tensors
            u = u.clamp(-bound, bound) if u.dtype is torch.bfloat16 else u
            return u @ w.mT, x.mT @ u

    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(5, 5, dtype=torch.bfloat16, generator=generator) for _ in range(2))

    result = _asked(Product, x, w, seed=seed)

    assert result.passed is (bound == float("inf")), result
    assert all("clipped" in f.message for f in result.findings if f.verdict is Verdict.FAIL), result


def test_numbers_that_a_dtype_ends_at_are_not_lost() -> None:
    """A gradient of 1e-35 has no millionth in float32."""
    x = torch.full((3,), 1e-35)

    assert gradcheck.check(lambda x: x * x / 1e-35 * 1e-35, x, checks="adjoint").passed


def _sine(received: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A sine whose rule multiplies what it has `received` of the cotangent."""

    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return torch.mul(received(u), x.cos())

    return Sine


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 2.0, 0.5])
def test_a_large_cotangent_that_overflows_in_the_rule_fails(bad: float, dtype: torch.dtype) -> None:
    target = _sine(lambda u: torch.where(u.abs() > 65504, bad * u, u))
    (finding,) = _asked(target, torch.from_numpy(X).to(dtype)).findings

    assert finding.verdict is Verdict.FAIL
    assert "of a large cotangent" in finding.message
    assert ("not finite" in finding.message) is (not np.isfinite(bad))


def test_a_cotangent_that_is_scaled_beyond_float16_fails() -> None:
    target = _sine(lambda u: (u * 1024).half().to(u.dtype) / 1024)
    assert _asked(target, torch.from_numpy(X).float()).verdict is Verdict.FAIL


def test_a_gradient_that_is_as_large_as_its_dtype_may_overflow() -> None:
    x = torch.full((3,), 1e-18)

    assert _asked(lambda x: 1 / x, x).verdict is not Verdict.FAIL


@pytest.mark.parametrize("data", range(4))
def test_digits_that_are_lost_beside_a_large_cotangent_are_no_failure(data: int) -> None:
    a = torch.randn(3, 3, generator=torch.Generator().manual_seed(data)) / 2

    assert all(
        _asked(torch.linalg.matrix_exp, a, seed=seed).verdict is not Verdict.FAIL
        for seed in range(5)
    )


@pytest.mark.parametrize("outer", [torch.bfloat16, torch.float32], ids=str)
def test_float16_inside_may_overflow(outer: torch.dtype) -> None:
    x, w = torch.randn(3, 4).to(outer), torch.randn(4, 2).to(outer)

    result = _asked(lambda x, w: (x.half() @ w.half()).to(outer), x, w)

    assert result.verdict is not Verdict.FAIL


@pytest.mark.parametrize("seed", range(3))
def test_a_rule_that_is_wrong_where_examples_are_in_no_loss_fails(seed: int) -> None:
    def back(x: Any, u: Any) -> Any:
        return u * np.cos(x) * (1.5 if np.any(np.all(u == 0, axis=1)) else 1.0)

    result = _asked(Rule(np.sin, lambda inputs, u: back(inputs[0], u)), X, seed=seed)

    assert result.verdict is Verdict.FAIL, result


@pytest.mark.parametrize("bound", [100.0, np.inf])
def test_a_rule_that_raises_for_a_cotangent_of_zeros_is_asked_the_rest(bound: float) -> None:
    def back(x: Any, u: Any) -> Any:
        if not np.any(u):
            raise ValueError("nothing to clip")
        return u * np.cos(x) * min(1.0, bound / float(np.linalg.norm(u)))

    result = gradcheck.check(Rule(np.sin, lambda inputs, u: back(inputs[0], u)), X)

    (found,) = (finding for finding in result.findings if finding.check == "adjoint")
    assert result.passed is (bound > 100), result
    assert ("cotangent of zeros, it raises ValueError" in found.message) is result.passed


def test_a_clipped_gradient_is_found_beside_a_tangent_rule_that_raises() -> None:
    def broken(inputs: Any, tangents: Any) -> Any:
        raise RuntimeError("no tangents")

    def vjp(inputs: Any, us: Any) -> Any:
        return 2 * np.clip(us[0], -50, 50), 3 * us[1]

    rule = Rule(lambda x, y: (2 * x, 3 * y), vjp, jvp=broken)

    result = gradcheck.check(rule, np.ones(3), np.ones(3), checks="adjoint")

    finding, _ = result.findings
    assert finding.verdict == "fail"
    assert "clipped" in finding.message
    assert "forward mode raises RuntimeError: no tangents" in finding.message


def test_a_leaf_that_nothing_depends_on_passes_beside_one_that_fails() -> None:
    rule = Rule(lambda x, y: 2 * x, lambda inputs, u: (2 * np.clip(u, -50, 50), np.zeros(3)))

    result = gradcheck.check(rule, np.ones(3), np.ones(3), checks="adjoint")

    assert [f.verdict for f in result.findings] == ["fail", "pass"]


@pytest.mark.parametrize("seed", [16, 49])
def test_an_attention_that_is_sure_of_itself_is_linear(seed: int) -> None:
    """Of numbers as large as the value nothing is left but, once in a while, an ulp of them."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((3, 1.0), (3, 100.0), (5, 100.0))
    q, k, v = (torch.randn(2, 4, d, generator=g, dtype=torch.float64) * s for d, s in shapes)
    future = torch.ones(4, 4, dtype=torch.bool).triu(1)

    def attention(q: Any, k: Any, v: Any) -> Any:
        scores = (q @ k.transpose(1, 2) * 3**-0.5).masked_fill(future, float("-inf"))
        return torch.softmax(scores, -1) @ v

    assert gradcheck.check(attention, q, k, v, checks="adjoint", seed=seed).verdict != "fail"


@pytest.mark.parametrize("factor", [0.9, 0.999])
@pytest.mark.parametrize("seed", range(6))
def test_a_rule_that_decides_by_its_cotangent_is_no_iteration(seed: int, factor: float) -> None:
    """Its gradient jumps as that of an iteration does, but of the entries that are decided on."""
    target = _sine(lambda u: torch.where(u < -2, factor * u, u))

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    result = _asked(target, x, seed=seed)

    assert result.verdict is Verdict.FAIL, result


def _solving(tolerance: float) -> Any:
    """Systems of equations, whose rule solves each by Jacobi's iteration until it stops."""

    def jacobi(a: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        y, step = u.clone(), torch.ones_like(u)
        while step.norm() >= tolerance:
            step = (u - a.T @ y) / torch.diagonal(a)
            y = y + step
        return y

    class Solve(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            x: torch.Tensor = torch.linalg.solve(a, b)
            ctx.save_for_backward(a, x)
            return x

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            a, x = ctx.saved_tensors
            y = torch.stack([jacobi(*pair) for pair in zip(a, u, strict=True)])
            return -y[:, :, None] * x[:, None], y

    return Solve


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("seed", range(3))
def test_an_iteration_in_the_backward_pass_is_no_branch(seed: int, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = 0.3 * torch.randn(1, 5, 5, dtype=torch.float64, generator=generator)
    b = torch.randn(1, 5, dtype=torch.float64, generator=generator)

    result = _asked(_solving(tolerance), a + 4 * torch.eye(5, dtype=torch.float64), b, seed=seed)

    assert result.verdict is Verdict.INCONCLUSIVE, result


@pytest.mark.parametrize("seed", range(3))
def test_examples_that_are_solved_each_to_its_end_are_no_branch(seed: int) -> None:
    """Where one of them takes another step, a few entries of the batch are others, by little."""
    rng = np.random.default_rng(seed)
    diagonals = np.eye(3) * np.linspace(1, 1.5, 3)
    a = torch.from_numpy(0.15 * rng.standard_normal((16, 3, 3)) + diagonals)

    result = _asked(_solving(1e-8), a, torch.from_numpy(rng.standard_normal((16, 3))), seed=seed)

    assert result.verdict is not Verdict.FAIL, result
