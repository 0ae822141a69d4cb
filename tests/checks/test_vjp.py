"""The check of gradients is tested by what it must reject, and by what it must not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule
from gradcheck.problem import norm
from gradcheck.records import decode
from gradcheck.results import CheckResult, Reason, Verdict

check = partial(gradcheck.check, checks="vjp")
Array = Any
Vjp = Callable[[Array, Array], Array]  # (x, u) -> gradient


@dataclass(frozen=True)
class Mutant:
    """An elementwise sine whose gradient is wrong in its own way."""

    name: str
    spoil: Callable[[Array], Array]
    diagnosis: str | None = None

    def __str__(self) -> str:
        return self.name


def _with(index: Any, factor: float) -> Callable[[Array], Array]:
    def spoil(g: Array) -> Array:
        mask = np.ones(g.shape)
        mask[index] = factor
        return g * mask

    return spoil


MUTANTS = [
    Mutant("doubled", lambda g: 2 * g, "constant factor: got / wanted = 2"),
    Mutant("sign", lambda g: -g, "sign"),
    Mutant("zero", lambda g: 0 * g, "zero"),
    Mutant("off by 1e-3", lambda g: g * (1 + 1e-3), "constant factor: got / wanted = 1.001"),
    Mutant("off by 1e-5", lambda g: g * (1 + 1e-5)),
    Mutant("a constant too much", lambda g: g + 1e-4),
    Mutant("transposed", lambda g: np.swapaxes(g, 0, 1), "transposed: axes 0 and 1"),
    Mutant("time-shifted", lambda g: np.roll(g, 1, 0), "shifted: by -1 along axis 0"),
    Mutant("reversed", lambda g: g[::-1].copy(), "reversed: axis 0"),
    Mutant("a row zeroed", _with(3, 0.0), "part missing"),
    Mutant("one entry off by 1 %", _with((5, 2), 1.01)),
    Mutant("one entry zeroed", _with((0, 0), 0.0), "part missing"),
    Mutant("NaN in one entry", _with((1, 1), np.nan), "not finite"),
]
X = np.random.default_rng(0).standard_normal((12, 12))


def _numpy(spoil: Callable[[Array], Array], scale: float) -> CheckResult:
    rule = Rule(lambda x: scale * np.sin(x), lambda inputs, u: spoil(scale * u * np.cos(inputs[0])))
    return check(rule, X)


def _torch(spoil: Callable[[Array], Array], scale: float) -> CheckResult:
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return scale * x.sin()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return torch.from_numpy(np.ascontiguousarray(spoil((scale * u * x.cos()).numpy())))

    return check(Sine, torch.from_numpy(X))


def _jax(spoil: Callable[[Array], Array], scale: float) -> CheckResult:
    @jax.custom_vjp
    def sine(x: Array) -> Array:
        return scale * jnp.sin(x)

    def backward(x: Array, u: Array) -> tuple[Array]:
        return (jnp.asarray(spoil(np.asarray(scale * u * jnp.cos(x)))),)

    sine.defvjp(lambda x: (scale * jnp.sin(x), x), backward)
    return check(sine, X)


FRAMEWORKS = {"numpy": _numpy, "torch": _torch, "jax": _jax}


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_a_mutant_fails(mutant: Mutant, framework: str, scale: float) -> None:
    result = FRAMEWORKS[framework](mutant.spoil, scale)

    assert result.verdict is Verdict.FAIL, str(result)
    if mutant.diagnosis is not None:
        assert result.findings[0].diagnosis == mutant.diagnosis


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_right_gradient_passes(framework: str) -> None:
    result = FRAMEWORKS[framework](lambda g: g, 1.0)

    assert result.passed, str(result)
    assert result.resolution < 1e-10


# Slow mode of others hides these under an absolute tolerance, fast mode in a projection.
def test_a_mean_loss_of_a_million_entries_with_its_sign_flipped_fails() -> None:
    rule = Rule(lambda x: np.mean(x * x), lambda inputs, u: -2 * u * inputs[0] / inputs[0].size)

    result = check(rule, np.random.default_rng(0).standard_normal(1_000_000))

    assert result.verdict is Verdict.FAIL
    assert result.findings[0].diagnosis == "sign"


def test_one_entry_of_a_hundred_thousand_is_found() -> None:
    def vjp(inputs: Any, u: Array) -> Array:
        g = u * np.cos(inputs[0])
        g[77_777] *= 1.5
        return g

    rule = Rule(np.sin, vjp)
    result = check(rule, np.random.default_rng(0).standard_normal(100_000))

    assert [entry.index for entry in result.findings[0].entries] == [(77_777,)]


def test_ten_wrong_entries_of_a_dense_layer_are_all_named() -> None:
    places = sorted(map(tuple, np.random.default_rng(0).integers(0, 300, (10, 2)).tolist()))

    def vjp(inputs: Any, u: Array) -> tuple[Array, Array]:
        x, w = inputs
        inner = u * (1 - np.tanh(x @ w) ** 2)
        g = x.T @ inner
        g[tuple(zip(*places, strict=True))] *= 1.001
        return inner @ w.T, g

    x, w = np.random.default_rng(1).standard_normal((2, 300, 300))
    result = check(Rule(lambda x, w: np.tanh(x @ w), vjp), x[:4], w / 15, checks=("vjp",))

    _, wrong = result.findings
    assert sorted(entry.index for entry in wrong.entries) == places
    assert result.evaluations.forward < 1800  # 2 x 10 x log2(90,000) directions, five each


def _rule(forward: Callable[[Array], Array], gradient: Callable[[Array], Array]) -> Rule:
    return Rule(forward, lambda inputs, u: u * gradient(inputs[0]))


def _narrow_sqrt(x: Array) -> Array:
    return np.sqrt(x.astype(np.float32)).astype(np.float64)


KINKS = [1.0, -1.0, 0.5, 0.9999999]
RIGHT: list[tuple[str, Rule, Any]] = [
    ("relu at 0", _rule(lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0)), [0.0, 1.0, -1.0]),
    ("relu near 0", _rule(lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0)), [1e-6, -1e-9, 1.0]),
    ("abs at 0", _rule(np.abs, np.sign), [0.0, 2.0, -1.0]),
    ("clip at its ends", _rule(lambda x: np.clip(x, -1, 1), lambda x: 1.0 * (abs(x) <= 1)), KINKS),
    ("1e6 + sin", _rule(lambda x: 1e6 + np.sin(x), np.cos), [0.1, 0.7, 2.0]),
    ("1e12 + x", _rule(lambda x: 1e12 + x, np.ones_like), [0.1, 0.7]),
    ("reciprocal at 3e-6", _rule(lambda x: 1 / x, lambda x: -1 / x**2), [3e-6, 1.0, 100.0]),
    ("log over ten decades", _rule(np.log, lambda x: 1 / x), [1e-5, 1.0, 1e5]),
    ("sqrt near 0", _rule(np.sqrt, lambda x: 0.5 / np.sqrt(x)), [1e-12, 1e-8, 1.0]),
    ("saturated tanh", _rule(np.tanh, lambda x: 1 - np.tanh(x) ** 2), [30.0, -25.0, 0.5]),
    (
        "float32 inside",
        _rule(_narrow_sqrt, lambda x: 0.5 / np.sqrt(x)),
        [0.5, 1.3, 2.0],
    ),
    ("cubes of 1e80", _rule(lambda x: x**3, lambda x: 3 * x * x), [1e80, -2e80]),
    ("squares of 1e-120", _rule(lambda x: x * x, lambda x: 2 * x), [1e-120, 3e-120]),
    ("no entry", _rule(np.sin, np.cos), []),
]


@pytest.mark.parametrize(("name", "rule", "x"), RIGHT, ids=[name for name, _, _ in RIGHT])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_right_gradient_at_a_treacherous_point_passes(
    name: str, rule: Rule, x: Any, seed: int
) -> None:
    result = check(rule, np.array(x), seed=seed)

    assert result.passed, str(result)


def test_a_float32_tanh_that_saturates_is_not_accused() -> None:
    rule = _rule(np.tanh, lambda x: 1 - np.tanh(x) ** 2)

    assert check(rule, np.array([7.0, 5.0, 8.0], np.float32)).verdict is not Verdict.FAIL


def test_a_bfloat16_layer_is_not_accused_and_its_double_is() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return 2 * u * x.cos()  # type: ignore[no-any-return]

    x = torch.from_numpy(X).to(torch.bfloat16)

    assert check(torch.sin, x).passed
    assert check(Doubled, x).verdict is Verdict.FAIL


@pytest.mark.parametrize("seed", range(4))
def test_a_bfloat16_product_inside_is_not_accused(seed: int) -> None:
    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x.bfloat16() @ w.bfloat16()).double()

    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(6, 6, dtype=torch.float64, generator=generator) for _ in range(2))

    assert check(product, x, w, seed=seed).verdict is not Verdict.FAIL


def test_a_gradient_outside_the_subgradients_of_a_kink_fails() -> None:
    rule = _rule(lambda x: np.maximum(x, 0), lambda x: np.where(x == 0, -3.0, 1.0 * (x > 0)))

    assert check(rule, np.array([0.0, 1.0, -2.0])).verdict is Verdict.FAIL


@pytest.mark.parametrize("seed", range(4))
def test_a_row_of_zeros_through_a_relu_without_bias_is_not_accused(seed: int) -> None:
    torch.manual_seed(seed)
    layers = torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    x = torch.randn(5, 4, dtype=torch.float64)
    x[2] = 0

    result = check(torch.nn.Sequential(*layers).double(), x, seed=seed)

    assert result.verdict is not Verdict.FAIL, str(result)


@pytest.mark.parametrize("seed", range(4))
def test_two_tied_maxima_that_both_get_the_cotangent_do_not_pass(seed: int) -> None:
    rule = Rule(np.max, lambda inputs, u: u * (inputs[0] == inputs[0].max()))

    result = check(rule, np.array([2.0, 2.0, 1.0, 0.0]), seed=seed)

    assert result.verdict is not Verdict.PASS


class LargestOf(torch.autograd.Function):
    """The maximum; of equals the last is chosen, in float64 the first."""

    factor = 1.0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.max()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        equals = (x == x.max()).nonzero().flatten()
        gradient = torch.zeros_like(x)
        gradient[equals[0 if x.dtype is torch.float64 else -1]] = LargestOf.factor * u
        return gradient


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_a_narrow_rule_may_choose_another_of_equals(seed: int, dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, 3.0, 2.0, 3.0, 0.5], dtype=dtype)

    assert check(LargestOf, x, seed=seed).verdict is Verdict.PASS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_a_rule_that_is_wrong_in_its_dtype_alone_fails_beside_a_tie(
    seed: int, dtype: torch.dtype
) -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            return (x * w).relu()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            x, w = ctx.saved_tensors
            u = u * (x * w > 0)
            return u * w * (1 if x.dtype is torch.float64 else 1.3), u * x

    x = torch.tensor([1.0, 0.0, -2.0, 3.0, 0.5], dtype=dtype)
    w = torch.tensor([1.0, 0.5, 2.0, 1.5, 1.25], dtype=dtype)

    result = check(Wrong, x, w, seed=seed)

    assert [f.leaf for f in result.findings if f.verdict is Verdict.FAIL] == ["input[0]"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("factor", [1.3, 0.5, -1.0, 0.0])
def test_a_rule_at_a_tie_that_is_wrong_beside_it_too_fails(
    factor: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LargestOf, "factor", factor)
    x = torch.tensor([1.0, 3.0, 2.0, 3.0, 0.5], dtype=dtype)

    result = check(LargestOf, x)

    assert result.verdict is Verdict.FAIL
    assert result.findings[0].message.startswith("beside a kink")


def test_a_straight_through_estimator_of_round_does_not_pass() -> None:
    rule = _rule(np.round, np.ones_like)

    verdicts = [check(rule, X, seed=seed).verdict for seed in range(3)]

    assert Verdict.PASS not in verdicts


@pytest.mark.parametrize("decimals", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("shape", [(), (20,)])
def test_rounding_to_decimals_is_not_accused(
    decimals: int, seed: int, shape: tuple[int, ...]
) -> None:
    x = 5 * np.random.default_rng(seed).standard_normal(shape)
    rule = Rule(lambda x: np.round(x, decimals), lambda inputs, u: np.zeros_like(u))

    assert check(rule, x, checks="vjp", seed=seed).verdict is not Verdict.FAIL


def test_a_choice_that_is_made_by_rounded_numbers_is_not_accused() -> None:
    scores = torch.tensor([[1.0, 1.001], *[[2.0, 1.0]] * 4000])

    def routed(x: torch.Tensor) -> torch.Tensor:
        first = scores.to(x.dtype).argmax(-1, keepdim=True)  # equal ones in bfloat16
        return torch.where(first == 1, 3 * x, -x)

    x = torch.ones(4001, 1, dtype=torch.bfloat16)

    result = check(routed, x, checks="vjp")

    assert result.verdict is Verdict.INCONCLUSIVE
    assert "entries of the value are others" in result.findings[0].message


@pytest.mark.parametrize("seed", [7, 47])
def test_a_number_that_is_moved_by_a_part_of_itself_can_be_located(seed: int) -> None:
    torch.manual_seed(seed)
    x = 5 * torch.randn((), dtype=torch.float64)
    steps = 1e5 if seed == 47 else 1e6

    result = check(lambda x: torch.round(steps * x) / steps, x, checks="vjp", seed=seed)

    assert result.verdict is not Verdict.ERROR


def test_a_declared_deviation_is_not_checked_and_said() -> None:
    rule = _rule(np.round, np.ones_like)

    result = check(rule, X, declared={"input[0]": "straight-through"})

    assert result.findings == ()
    assert result.not_checked == ("input[0]: declared, straight-through",)


def test_a_value_that_is_not_finite_is_inconclusive() -> None:
    result = check(_rule(np.log, lambda x: 1 / x), np.array([0.0, 1.0]))

    assert result.verdict is Verdict.INCONCLUSIVE


def test_a_vjp_that_raises_is_an_error_of_the_target() -> None:
    def vjp(inputs: Any, u: Array) -> Array:
        raise RuntimeError("no gradient today")

    result = check(Rule(np.sin, vjp), X)

    assert result.verdict is Verdict.ERROR
    assert "RuntimeError: no gradient today" in str(result)


def test_outputs_that_change_their_shape_do_not_raise() -> None:
    rule = Rule(lambda x: x[x > 0.5], lambda inputs, u: np.where(inputs[0] > 0.5, u.sum(), 0.0))

    assert check(rule, np.array([0.5 + 1e-12])).verdict is not Verdict.ERROR


def test_a_leaf_that_no_output_depends_on_passes_as_vacuous() -> None:
    rule = Rule(lambda a, b: np.sin(a), lambda inputs, u: (u * np.cos(inputs[0]), None))

    finding = check(rule, X, X).findings[1]

    assert finding.verdict is Verdict.PASS
    assert "vacuous" in finding.message
    assert finding.reason is Reason.VACUOUS


@pytest.mark.parametrize(
    ("f", "slope", "reason"),
    [
        (np.sin, np.cos, None),
        (np.abs, np.sign, Reason.KINK),
        (lambda x: x + np.sign(x), np.ones_like, Reason.JUMP),
    ],
)
def test_a_reason_tells_a_program_what_is_special_at_the_point(
    f: Any, slope: Any, reason: Reason | None
) -> None:
    result = check(Rule(f, lambda inputs, u: u * slope(inputs[0])), np.array([0.0, 0.5]))

    assert result.findings[0].reason is reason
    assert decode(result.to_json(), CheckResult) == result


def test_one_direction_of_all_leaves_settles_a_float64_layer() -> None:
    layer, x = torch.nn.Linear(8, 5, dtype=torch.float64), torch.from_numpy(X[:, :8].copy())

    evaluations = check(layer, x).evaluations

    assert evaluations.vjp == 2
    assert evaluations.forward == 4 + 1 + 2


def test_an_error_is_told_in_words() -> None:
    result = _numpy(_with((5, 2), 1.01), 1.0)

    first, second, *_ = str(result).splitlines()
    assert first.startswith("FAIL  gradient of <lambda> at input[0]   off by ")
    assert second.strip().startswith("[5, 2]  got ")
    assert second.endswith("ratio 1.010")
    assert "1 of 144 entries wrong" in str(result)


Gradient = Callable[..., Any]  # (inputs, u) -> gradient
RNG = np.random.default_rng(5)
A, B = RNG.standard_normal((2, 4, 4))
LONG = RNG.standard_normal(10_000)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _softmax_vjp(inputs: Any, u: Array) -> Array:
    y = _softmax(inputs[0])
    return y * (u - np.sum(u * y, -1, keepdims=True))


def _logsumexp(x: Array) -> Array:
    return x.max() + np.log(np.sum(np.exp(x - x.max())))


def _normalized(x: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def _normalized_vjp(inputs: Any, u: Array) -> Array:
    (x,), y = inputs, _normalized(inputs[0])
    away = u - u.mean(-1, keepdims=True) - y * np.mean(u * y, -1, keepdims=True)
    return away / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def _recurrent(x: Array, w: Array) -> Array:
    h = x[0] * 0
    for x_t in x:
        h = np.tanh(w * h + x_t)
    return h


def _truncated(inputs: Any, u: Array) -> tuple[Array, Array]:
    """The gradients of `_recurrent` through its last step alone."""
    x, w = inputs
    before, last = _recurrent(x[:-1], w), _recurrent(x, w)
    d = u * (1 - last**2)
    return np.concatenate([np.zeros_like(x[:-1]), [d]]), np.asarray(np.sum(d * before))


def _at(x: Array, index: Any, change: Callable[[Array], Array]) -> Array:
    x = x.copy()
    x[index] = change(x[index])
    return x


def _stale() -> Gradient:
    """A rule that keeps the first cotangent it was ever given."""
    first: list[Array] = []

    def vjp(inputs: Any, u: Array) -> Array:
        first.append(u)
        return first[0] * np.cos(inputs[0])

    return vjp


def _assigned(inputs: Any, u: Array) -> Array:
    g = np.zeros_like(inputs[0])
    g[[0, 1, 1, 3]] = u
    return g


def _pooled_first(inputs: Any, u: Array) -> Array:
    g = np.zeros_like(inputs[0])
    g[:, 0] = u
    return g


# (name, forward, a wrong vjp, inputs)
WRONG: list[tuple[str, Gradient, Gradient, tuple[Any, ...]]] = [
    ("factor 1 + 1e-3", np.matmul, lambda i, u: (1.001 * u @ i[1].T, i[0].T @ u), (A, B)),
    ("factor 1 + 1e-5", np.matmul, lambda i, u: (u @ i[1].T, 1.00001 * i[0].T @ u), (A, B)),
    ("sign of a mean loss", lambda x: np.mean(x * x), lambda i, u: -u * i[0] / 5000, (LONG,)),
    ("mean over n - 1", lambda x: np.mean(x * x), lambda i, u: u * 2 * i[0] / 9999, (LONG,)),
    ("an entry zeroed", np.sin, lambda i, u: _at(u * np.cos(i[0]), (1, 2), np.zeros_like), (A,)),
    ("a row zeroed", np.sin, lambda i, u: _at(u * np.cos(i[0]), 2, np.zeros_like), (A,)),
    ("transposed", lambda x: A @ x @ B, lambda i, u: (A.T @ u @ B.T).T, (B,)),
    ("tiny and zero", lambda x: 1e-8 * np.sin(x), lambda i, u: 0 * u, (A,)),
    (
        "one leaf tiny and zero",
        lambda x, y: np.sin(x) + 1e-8 * np.sin(y),
        lambda i, u: (u * np.cos(i[0]), 0 * u),
        (A, B),
    ),
    (
        "one of 10⁴ off by 1e-3",
        np.sin,
        lambda i, u: _at(u * np.cos(i[0]), 4321, lambda g: 1.001 * g),
        (LONG,),
    ),
    ("a constant added", np.sin, lambda i, u: u * np.cos(i[0]) + 1e-5, (A,)),
    ("half the product rule", lambda x: x * np.sin(x), lambda i, u: u * np.sin(i[0]), (A,)),
    ("J for Jᵀ", lambda x: A @ x, lambda i, u: A @ u, (B[0],)),
    ("cotangent ignored", np.sin, lambda i, u: np.cos(i[0]), (A,)),
    (
        "one cotangent ignored",
        lambda x: (np.sin(x), np.cos(x)),
        lambda i, u: u[0] * np.cos(i[0]),
        (A,),
    ),
    ("softmax without its mean", _softmax, lambda i, u: u * _softmax(i[0]), (A,)),
    (
        "normalization by constants",
        _normalized,
        lambda i, u: u / np.sqrt(i[0].var(-1, keepdims=True) + 1e-5),
        (A,),
    ),
    (
        "half of a normalization",
        _normalized,
        lambda i, u: (u - u.mean(-1, keepdims=True)) / np.sqrt(i[0].var(-1, keepdims=True) + 1e-5),
        (A,),
    ),
    ("relu passes all", lambda x: np.maximum(x, 0), lambda i, u: u, (A,)),
    ("pooling to the first", lambda x: x.max(1), _pooled_first, (A,)),
    ("bias by the mean", lambda x, b: x + b, lambda i, u: (u, u.mean(0)), (A, B[0])),
    ("logsumexp, uniform", _logsumexp, lambda i, u: u * np.ones(4) / 4, (B[0],)),
    (
        "kernel not flipped",
        lambda x, w: np.convolve(x, w, "valid"),
        lambda i, u: (np.convolve(u, i[1]), np.convolve(i[0], u[::-1], "valid")[::-1]),
        (B.ravel(), A[0]),
    ),
    ("cumsum forwards", np.cumsum, lambda i, u: np.cumsum(u), (B[0],)),
    ("norm with an epsilon", np.linalg.norm, lambda i, u: u * i[0] / (norm(i[0]) + 1e-3), (B[0],)),
    (
        "variance of a sample",
        lambda x: np.var(x),
        lambda i, u: u * 2 * (i[0] - i[0].mean()) / 99,
        (LONG[:100],),
    ),
    ("repeated index assigned", lambda x: x[[0, 1, 1, 3]], _assigned, (B[0],)),
    ("sqrt upside down", np.sqrt, lambda i, u: 0.5 * u * np.sqrt(i[0]), (np.array([0.2, 3.0]),)),
    ("one-sided quadratic form", lambda x: x @ A @ x, lambda i, u: 2 * u * (A @ i[0]), (B[0],)),
    (
        "inverse not transposed",
        np.linalg.inv,
        lambda i, u: -np.linalg.inv(i[0]) @ u @ np.linalg.inv(i[0]),
        (A,),
    ),
    ("float32, off by 1 %", np.sin, lambda i, u: 1.01 * u * np.cos(i[0]), (A.astype(np.float32),)),
    ("clip passes all", lambda x: np.clip(x, -0.5, 0.5), lambda i, u: u, (A,)),
    (
        "tanh dead beyond 2",
        np.tanh,
        lambda i, u: u * np.where(abs(i[0]) > 2, 0, 1 - np.tanh(i[0]) ** 2),
        (3 * A,),
    ),
    ("truncated in time", _recurrent, _truncated, (LONG[:5], np.array(0.7))),
    ("clipped", lambda x: x**3, lambda i, u: np.clip(3 * u * i[0] ** 2, -1, 1), (A,)),
    ("1e6 + sin, doubled", lambda x: 1e6 + np.sin(x), lambda i, u: 2 * u * np.cos(i[0]), (A,)),
    ("1e80 cubed", lambda x: x**3, lambda i, u: 2 * u * i[0] ** 2, (1e80 * A,)),
    ("1/x at 3e-6", lambda x: 1 / x, lambda i, u: -1.01 * u / i[0] ** 2, (np.array([3e-6, 1.0]),)),
    ("a number, halved", np.exp, lambda i, u: 0.5 * u * np.exp(i[0]), (np.array(0.3),)),
    ("difference as a sum", lambda x, y: x - y, lambda i, u: (u, u), (A, B)),
    ("stale cotangent", np.sin, _stale(), (A,)),
    ("no conjugate", lambda z: z * z, lambda i, u: 2 * u * i[0], (A + 1j * B,)),
]


@pytest.mark.parametrize(("name", "forward", "vjp", "inputs"), WRONG, ids=[w[0] for w in WRONG])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_wrong_gradient_fails(
    name: str, forward: Gradient, vjp: Gradient, inputs: tuple[Any, ...], seed: int
) -> None:
    result = check(Rule(forward, vjp), *inputs, seed=seed)

    assert result.verdict is Verdict.FAIL, str(result)


def _first_max(x: Array) -> Array:
    return 1.0 * (np.arange(x.size) == np.argmax(x))


def _sorted_vjp(inputs: Any, u: Array) -> Array:
    g = np.empty_like(u)
    g[np.argsort(inputs[0], kind="stable")] = u
    return g


def _elementwise(f: Gradient, slope: Gradient, x: Any) -> tuple[Gradient, Gradient, tuple[Any]]:
    return f, lambda i, u: u * slope(i[0]), (np.asarray(x),)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: Array) -> Array:
    return np.exp(-_softplus(-x))


def _narrow(f: Gradient, x: Array) -> Array:
    return f(x.astype(np.float32)).astype(np.float64)


SINGLE = A.astype(np.float32)
MIXED = np.array([1e-8, 1.0, 1e8])

# (name, (forward, a right vjp, inputs))
TREACHEROUS: list[tuple[str, tuple[Gradient, Gradient, tuple[Any, ...]]]] = [
    ("relu'(0) = 1", _elementwise(lambda x: np.maximum(x, 0), lambda x: 1.0 * (x >= 0), [0.0, 1])),
    (
        "relu'(0) = ½",
        _elementwise(lambda x: np.maximum(x, 0), lambda x: np.heaviside(x, 0.5), [0.0, 1.0, -1.0]),
    ),
    (
        "relu at zeros only",
        _elementwise(lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0), [0, 0.0]),
    ),
    (
        "leaky relu at 0",
        _elementwise(
            lambda x: np.maximum(x, 0.01 * x), lambda x: np.where(x > 0, 1, 0.01), [0.0, 1.0]
        ),
    ),
    ("abs at 0", _elementwise(np.abs, np.sign, [0.0, 1.0, -2.0])),
    (
        "hinge at its corner",
        _elementwise(lambda x: np.maximum(0, 1 - x), lambda x: -1.0 * (x < 1), [1.0]),
    ),
    ("tied maxima, the first", _elementwise(np.max, _first_max, [2.0, 2.0, 1.0, 2.0])),
    (
        "tied maxima, shared",
        _elementwise(np.max, lambda x: (x == x.max()) / np.sum(x == x.max()), [2.0, 2.0, 1.0]),
    ),
    ("sorting ties", (np.sort, _sorted_vjp, (np.array([1.0, 0.0, 1.0, 0.0]),))),
    (
        "maximum of near lines",
        _elementwise(
            lambda x: np.maximum(x, 0.999999 * x), lambda x: np.where(x < 0, 0.999999, 1), [0.0]
        ),
    ),
    ("there and back over 1e8", _elementwise(lambda x: (x + 1e8) - 1e8, np.ones_like, B[0])),
    ("relu beside 1e6", _elementwise(lambda x: np.maximum(x + 1e6, 0), np.ones_like, B[0])),
    ("1/x at ±3e-6", _elementwise(lambda x: 1 / x, lambda x: -1 / x**2, [3e-6, -3e-6])),
    ("huge slopes", _elementwise(lambda x: 1e200 * np.sin(x), lambda x: 1e200 * np.cos(x), A)),
    ("tiny slopes", _elementwise(lambda x: 1e-200 * np.sin(x), lambda x: 1e-200 * np.cos(x), A)),
    ("mixed scales, squared", _elementwise(lambda x: x * x, lambda x: 2 * x, MIXED)),
    ("mixed scales, logarithm", _elementwise(np.log, lambda x: 1 / x, MIXED)),
    ("saturated tanh", _elementwise(np.tanh, lambda x: 1 - np.tanh(x) ** 2, [9.0, -12.0, 18.5])),
    ("saturated softmax", (_softmax, _softmax_vjp, (np.array([1e3, 0.0, -1e3]),))),
    ("nearly saturated softmax", (_softmax, _softmax_vjp, (np.array([30.0, 0.0, -5.0]),))),
    ("logsumexp at 1e3", _elementwise(_logsumexp, _softmax, [1e3, 1e3 - 1, 0.0])),
    ("softplus at ±800", _elementwise(_softplus, _sigmoid, [800.0, -800.0, 0.1])),
    ("norm", _elementwise(np.linalg.norm, lambda x: x / norm(x), [3.0, 4.0])),
    ("norm near 0", _elementwise(np.linalg.norm, lambda x: x / norm(x), [1e-8, -1e-8])),
    ("norm at 0", _elementwise(np.linalg.norm, lambda x: x / (norm(x) or 1), [0.0, 0.0])),
    ("normalized constant row", (_normalized, _normalized_vjp, (np.full((2, 4), 3.0),))),
    ("normalized on 1e3", (_normalized, _normalized_vjp, (A + 1e3,))),
    ("float32 sine", _elementwise(np.sin, np.cos, SINGLE)),
    ("float32 softmax", (_softmax, _softmax_vjp, (5 * SINGLE,))),
    ("float32 normalization", (_normalized, _normalized_vjp, (SINGLE,))),
    (
        "float32 product",
        (np.matmul, lambda i, u: (u @ i[1].T, i[0].T @ u), (SINGLE, B.astype(np.float32))),
    ),
    (
        "float32 mean loss",
        _elementwise(lambda x: np.mean(x * x), lambda x: 2 * x / x.size, np.float32(LONG)),
    ),
    ("float16 sine", _elementwise(np.sin, np.cos, A.astype(np.float16))),
    ("float32 inside", _elementwise(lambda x: _narrow(np.sin, x), np.cos, A)),
    ("float32 softmax inside", (lambda x: _narrow(_softmax, x), _softmax_vjp, (A,))),
    ("an empty leaf", _elementwise(np.sin, np.cos, np.zeros((3, 0)))),
    (
        "an empty leaf beside another",
        (
            lambda x, y: np.sin(x) + y.sum(),
            lambda i, u: (u * np.cos(i[0]), np.zeros(0)),
            (A, np.zeros(0)),
        ),
    ),
    ("a number", _elementwise(np.exp, np.exp, 0.3)),
    (
        "an unused leaf",
        (lambda x, y: np.sin(x), lambda i, u: (u * np.cos(i[0]), 0 * i[1]), (A, B)),
    ),
    ("a constant", _elementwise(lambda x: np.full_like(x, 7.0), np.zeros_like, A)),
    ("steps, between two", _elementwise(np.floor, np.zeros_like, [0.3, 1.5, -2.4])),
    ("squares at 0", _elementwise(lambda x: x * x, lambda x: 2 * x, np.zeros(4))),
    ("fourth power at 0", _elementwise(lambda x: x**4, lambda x: 4 * x**3, [0.0, 0.0])),
    (
        "|x|^1.5 at 0",
        _elementwise(
            lambda x: np.abs(x) ** 1.5, lambda x: 1.5 * np.sign(x) * np.sqrt(np.abs(x)), [0.0]
        ),
    ),
    ("x |x| at 0", _elementwise(lambda x: x * np.abs(x), lambda x: 2 * np.abs(x), [0.0, 1.0])),
    (
        "a sharp smooth corner",
        _elementwise(
            lambda x: np.sqrt(x * x + 1e-12), lambda x: x / np.sqrt(x * x + 1e-12), [1e-6, 1.0, 0.0]
        ),
    ),
    ("sin 200 x", _elementwise(lambda x: np.sin(200 * x), lambda x: 200 * np.cos(200 * x), A)),
    ("x log x at 1e-10", _elementwise(lambda x: x * np.log(x), lambda x: np.log(x) + 1, [1e-10])),
    ("log at 1e-300", _elementwise(np.log, lambda x: 1 / x, [1e-300])),
    ("cube root near 0", _elementwise(np.cbrt, lambda x: 1 / (3 * np.cbrt(x) ** 2), [1e-9, 8.0])),
    (
        "arccos near 1",
        _elementwise(np.arccos, lambda x: -1 / np.sqrt((1 - x) * (1 + x)), [1 - 1e-9, 0.3]),
    ),
    (
        "an inverse of condition 1e6",
        (
            np.linalg.inv,
            lambda i, u: -np.linalg.inv(i[0]).T @ u @ np.linalg.inv(i[0]).T,
            (np.diag([1.0, 1e-3, 1e-6]) + 1e-9 * A[:3, :3],),
        ),
    ),
    # An ulp of the value is more than all of the slope over a step.
    ("cos next to 0", _elementwise(np.cos, lambda x: -np.sin(x), [1e-9])),
    ("root of 1 + x² next to 0", _elementwise(lambda x: np.hypot(1, x), lambda x: x, [1e-9])),
    ("1 + x⁸", _elementwise(lambda x: 1 + x**8, lambda x: 8 * x**7, [1e-3])),
    ("sine over x", _elementwise(lambda x: np.sin(x) / x, lambda x: -x / 3, [4e-8])),
    ("tanh at 20", _elementwise(np.tanh, lambda x: 1 / np.cosh(x) ** 2, [20.0])),
    (
        "sigmoid at 38",
        _elementwise(_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x), [38.0]),
    ),
    # What is left of numbers like one after they cancel.
    ("1 - cos x next to 0", _elementwise(lambda x: 1 - np.cos(x), np.sin, [1e-8])),
    ("exp x - 1 - x next to 0", _elementwise(lambda x: np.exp(x) - 1 - x, np.expm1, [1e-9])),
    (
        "log(1 + x) - x next to 0",
        _elementwise(lambda x: np.log(1 + x) - x, lambda x: 1 / (1 + x) - 1, [1e-9]),
    ),
    ("x + 1e8 - 1e8 in float32", _elementwise(lambda x: (x + 1e8) - 1e8, np.ones_like, SINGLE)),
    (
        "a leaf of 1e-9 beside another",
        (
            lambda x, y: np.sin(x) + 1e-9 * np.sin(y),
            lambda i, u: (u * np.cos(i[0]), 1e-9 * u * np.cos(i[1])),
            (A, B),
        ),
    ),
    (
        "modulus of complex numbers",
        (np.abs, lambda i, u: u * i[0] / np.abs(i[0]), (A + 1j * B,)),
    ),
]


@pytest.mark.parametrize(("name", "case"), TREACHEROUS, ids=[name for name, _ in TREACHEROUS])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_right_gradient_is_not_accused(
    name: str, case: tuple[Gradient, Gradient, tuple[Any, ...]], seed: int
) -> None:
    forward, vjp, inputs = case

    result = check(Rule(forward, vjp), *inputs, seed=seed)

    assert result.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE), str(result)


CONFIDENT: list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = [
    ("softmax", lambda z: torch.softmax(z, -1)),
    ("log_softmax", lambda z: torch.log_softmax(z, -1)),
    ("logsumexp", lambda z: torch.logsumexp(z, -1)),
    ("cross_entropy", lambda z: torch.nn.functional.cross_entropy(z, torch.tensor([0]))),
]


@pytest.mark.parametrize(("name", "f"), CONFIDENT, ids=[name for name, _ in CONFIDENT])
@pytest.mark.parametrize("top", [10.0, 20.0, 40.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_production_path_of_a_confident_classifier_is_not_accused(
    name: str, f: Callable[[torch.Tensor], torch.Tensor], top: float, dtype: torch.dtype
) -> None:
    verdicts = [
        check(f, torch.tensor([[top, 0.0, 1.0]], dtype=dtype), seed=seed).verdict
        for seed in range(3)
    ]

    assert Verdict.FAIL not in verdicts
    assert Verdict.ERROR not in verdicts


class Relu(torch.autograd.Function):
    """Right wherever there is a derivative, and at zero what PyTorch says: zero."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        return torch.where(ctx.saved_tensors[0] > 0, u, 0)


@pytest.mark.parametrize("size", [3, 20])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("slope", "is_right"), [(0.0, True), (0.5, True), (1.0, True), (1.5, False)]
)
def test_where_all_is_at_a_kink_what_is_too_large_shows(
    slope: float, is_right: bool, seed: int, size: int
) -> None:
    class Absolute(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.abs()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return u * torch.where(x == 0, slope, x.sign())

    result = check(Absolute, torch.zeros(size, dtype=torch.float64), seed=seed)
    assert result.verdict is (Verdict.PASS if is_right else Verdict.FAIL)


class SteepAtZero(Relu):
    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x == 0, 7 * u, torch.where(x > 0, u, 0))


def _zero_initialised(activation: Callable[[Any], Any]) -> torch.nn.Module:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(4, 5), torch.nn.Linear(5, 3)
            torch.nn.init.zeros_(self.first.weight)
            torch.nn.init.zeros_(self.first.bias)

        def forward(self, x: torch.Tensor) -> Any:
            return self.last(activation(self.first(x)))

    torch.manual_seed(0)
    return Network().double()


def test_at_a_kink_inside_the_rules_of_the_framework_are_a_convention() -> None:
    """Of many units at zero the sum of subgradients is none of the whole; no rule is wrong."""
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = check(_zero_initialised(torch.relu), x)
    assert result.passed, result
    assert any("the framework chooses" in finding.message for finding in result.findings)
    mine = check(_zero_initialised(Relu.apply), x)
    assert mine.passed
    assert "that of one side" in str(mine)
    wrong = check(_zero_initialised(SteepAtZero.apply), x)  # of no side, for all that is known
    assert wrong.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("factor", [2.0, 1.001])
def test_beside_such_a_kink_an_error_is_found(factor: float) -> None:
    def hooked(x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        y.register_hook(lambda u: factor * u)  # type: ignore[no-untyped-call]
        return y

    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert check(_zero_initialised(hooked), x).verdict is Verdict.FAIL


def test_at_a_kink_inside_only_the_rules_of_jax_are_a_convention() -> None:
    rng = np.random.default_rng(0)
    w, v, x = rng.standard_normal((4, 5)), rng.standard_normal((5, 2)), rng.standard_normal((6, 4))

    def own(at_zero: float) -> Callable[[Array], Array]:
        @jax.custom_jvp
        def relu(x: Array) -> Array:
            return jnp.maximum(x, 0)

        def jvp(primals: Any, tangents: Any) -> Any:
            slopes = jnp.where(primals[0] == 0, at_zero, primals[0] > 0)
            return relu(*primals), slopes * tangents[0]

        relu.defjvp(jvp)
        return relu

    def verdicts(relu: Callable[[Array], Array]) -> set[Verdict]:
        def network(b: Array) -> Array:
            return relu(b + 0 * (x @ w)) @ v

        return {check(network, np.zeros(5), seed=seed).verdict for seed in range(4)}

    assert verdicts(jax.nn.relu) == {Verdict.PASS}
    assert verdicts(own(0.0)) == {Verdict.PASS}
    assert Verdict.PASS not in verdicts(own(7.0))


def _masked_attention(factor: float) -> Callable[..., torch.Tensor]:
    """Attention of which a row is masked as a whole: there the scores have seven digits left."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            return factor * u

    mask = torch.zeros(5, 5, dtype=torch.float64)
    mask[0] = -1e9

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = Scaled.apply(q @ k.mT)  # type: ignore[no-untyped-call]
        return torch.softmax(scores / 2 + mask, -1) @ v

    return attention


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, Verdict.PASS), (1.01, Verdict.FAIL)])
def test_stairs_in_some_outputs_are_noise(factor: float, verdict: Verdict, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(5, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    assert check(_masked_attention(factor), q, k, v).verdict is verdict


@pytest.mark.parametrize(("p", "target"), [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0)])
def test_at_the_border_of_its_domain_a_target_is_not_said_to_raise(p: float, target: float) -> None:
    """What it refuses are points of ours, a step or an ulp away, and not its own."""
    x = torch.tensor([p, 0.3], dtype=torch.float64)
    t = torch.tensor([target, 0.5], dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy(x, t)

    result = gradcheck.check(loss, x)
    assert result.verdict is Verdict.INCONCLUSIVE, result
    assert "1 of 2 entries lie where the value jumps" in result.findings[0].message
    assert gradcheck.check(loss, x, checks=("adjoint", "second_order")).verdict not in (
        Verdict.ERROR,
        Verdict.FAIL,
    )


def test_a_gradient_that_is_not_finite_an_ulp_away_is_no_pass() -> None:
    """It says nothing of its rounding: so it cannot be told whether that is the mismatch."""
    at = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return torch.where(x == at, 5 * x * u, torch.nan)

    result = check(Square, at.clone())
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "the point is singular" in result.findings[0].message


def test_cancellation_inside_is_not_taken_for_a_kink() -> None:
    def vjp(inputs: Any, u: Array) -> Array:
        x = inputs[0]
        return 2 * u * x / x.size  # the mean is held constant

    rule = Rule(lambda x: np.mean((x - x.mean()) ** 2), vjp)

    result = check(rule, np.random.default_rng(0).standard_normal(12) + 10)

    assert result.verdict is Verdict.FAIL, str(result)


def _spoilt(f: Any, entry: int, factor: float) -> Any:
    """`f` in PyTorch, with one entry of its gradient off by a factor."""

    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return f(x)  # type: ignore[no-any-return]

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                x = ctx.saved_tensors[0].detach().requires_grad_()
                (g,) = torch.autograd.grad(f(x), x, u)
            return g * torch.where(torch.arange(len(g)) == entry, factor, 1.0)  # type: ignore[no-any-return]

    return Spoilt


WIDE = torch.tensor([1e-6, -3e-3, 1.0, 50.0, 1e5], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "f", [lambda x: 1 / x, lambda x: x.abs().log(), lambda x: x * x.abs().log(), lambda x: x**2]
)
def test_entries_of_all_sizes_are_differenced_by_their_own(f: Any, seed: int) -> None:
    """Steps of the largest lead over the pole of the smallest."""
    right = gradcheck.check(f, WIDE, checks="vjp", seed=seed)
    assert right.passed, str(right)
    wrong = gradcheck.check(_spoilt(f, 1, 1.01), WIDE, checks="vjp", seed=seed)
    assert wrong.verdict == "fail"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_entries_that_the_others_hide_are_looked_at_among_themselves(dtype: torch.dtype) -> None:
    x = torch.linspace(-18, 10, 40).to(dtype)
    for seed in range(3):
        assert gradcheck.check(torch.exp, x, checks="vjp", seed=seed).passed
        wrong = _spoilt(torch.exp, 3, 1.5)
        assert gradcheck.check(wrong, x, checks="vjp", seed=seed).verdict == "fail"


class LowRank(torch.autograd.Function):
    """x W + x A B, as an adapter adds to a weight; B starts at zero."""

    FACTOR = 1.0

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, a: torch.Tensor, b: torch.Tensor
    ) -> Any:
        ctx.save_for_backward(x, w, a, b)
        return x @ w + x @ a @ b

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        x, w, a, b = ctx.saved_tensors
        down = LowRank.FACTOR * (u @ b.mT)
        return u @ w.mT + down @ a.mT, x.mT @ u, x.mT @ down, (x @ a).mT @ u


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_what_a_leaf_of_zeros_hides_is_looked_for_beside_it(
    factor: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LowRank, "FACTOR", factor)
    generator = torch.Generator().manual_seed(0)
    x, w, a = (torch.randn(*s, generator=generator) for s in ((3, 4), (4, 5), (4, 2)))
    inputs = [t.to(dtype) for t in (x, w, a, torch.zeros(2, 5))]

    findings = gradcheck.check(LowRank, *inputs, checks="vjp").findings

    wrong = {f.leaf for f in findings if f.verdict is Verdict.FAIL}
    assert wrong == (set() if factor == 1 else {"input[0]", "input[2]"})
    assert all(
        "once input[3], of zeros or ones, is moved" in f.message
        for f in findings
        if f.leaf in wrong
    )


class Scaled(torch.autograd.Function):
    """w ∘ x A, whose rule may forget w, or that A is transposed."""

    WRONG = ""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, a: torch.Tensor) -> Any:
        ctx.save_for_backward(x, w, a)
        return w * (x @ a)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        x, w, a = ctx.saved_tensors
        down = u if Scaled.WRONG == "factor" else u * w
        back = a if Scaled.WRONG == "transposed" else a.mT
        return down @ back, (u * (x @ a)).sum(0), x.mT @ (u * w)


class Mixing(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.a = (torch.nn.Parameter(first) for first in (torch.ones(4), torch.eye(4)))

    def forward(self, x: torch.Tensor) -> Any:
        return Scaled.apply(x, self.w, self.a)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", ["", "factor", "transposed"])
def test_what_ones_and_an_identity_hide_is_looked_for_beside_them(
    wrong: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scaled, "WRONG", wrong)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)

    findings = gradcheck.check(Mixing().to(dtype), x, checks="vjp").findings

    failed = {f.leaf for f in findings if f.verdict is Verdict.FAIL}
    assert failed == ({"input[0]"} if wrong else set())


DOMAINS: dict[str, Any] = {
    "arcsine of ones": (torch.asin, 0.999 * torch.ones(3)),
    "a variance of zeros": (lambda v: torch.rsqrt(v + 1e-2), torch.zeros(4)),
    "a probability of one": (lambda p: torch.log(1.001 - p), torch.ones(3)),
    "a root of what is drawn": (
        lambda x: torch.sqrt(x + torch.randn(3).double()),
        3 * torch.ones(3),
    ),
    "distances": (lambda d: torch.linalg.cholesky(d.mT @ d + torch.eye(3)), torch.ones(3, 3)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", DOMAINS)
def test_where_the_value_is_not_finite_nothing_is_looked_for(name: str, seed: int) -> None:
    target, x = DOMAINS[name]
    assert check(target, x.double(), checks="vjp", seed=seed).verdict is not Verdict.FAIL


@pytest.mark.parametrize(("most", "verdict"), [(3.0, Verdict.FAIL), (6.5, Verdict.PASS)])
def test_zeros_are_looked_at_but_for_what_would_be_rounding(most: float, verdict: Verdict) -> None:
    """A kernel whose tail is cut off: e⁻⁹ of the leaf is an error, and e⁻⁴² is nothing."""

    def vjp(inputs: Any, u: Array) -> Any:
        (x,) = inputs
        return (np.where(np.abs(x) > most, 0, -2 * x * np.exp(-(x**2)) * u),)

    x = np.array([0.3, -0.7, 3.2 if most < 4 else 6.8, -7.5])
    assert check(Rule(lambda x: np.exp(-(x**2)), vjp), x, checks="vjp").verdict is verdict


def _scales(x: Array) -> Array:
    return np.array([x[0] ** 2, np.sin(1e6 * x[1])])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wrong", [(1.0, 1.0), (1.0, 1.01), (1.01, 1.0)])
def test_entries_that_differ_in_size_by_any_factor_are_moved_apart(
    wrong: tuple[float, float], seed: int
) -> None:
    """Of 1e8 and 1e-6: no step suits both."""

    def vjp(inputs: Any, u: Array) -> Array:
        (x,) = inputs
        return u * np.array([2 * x[0], 1e6 * np.cos(1e6 * x[1])]) * wrong

    result = check(Rule(_scales, vjp), np.array([1e8, 1.7e-6]), seed=seed)

    assert result.passed == (wrong == (1.0, 1.0)), result


def test_entries_that_may_be_rounding_beside_others_are_said_not_to_be_compared() -> None:
    scales = np.array([1e9, 1.0, 1e-9])

    def posed(scales_of_the_rule: Array) -> str:
        rule = Rule(lambda x: scales * x**2, lambda i, u: 2 * u * i[0] * scales_of_the_rule)
        return check(rule, np.array([0.3, -1.2, 0.7])).findings[0].message

    assert posed(scales).startswith("1 of 3 entries of the gradient")
    assert posed(scales * [1, 1, 2]).startswith("1 of 3 entries of the gradient")
    assert (
        check(
            Rule(lambda x: scales * x**2, lambda i, u: 2 * u * i[0] * scales * [1, 2, 1]),
            np.array([0.3, -1.2, 0.7]),
        ).verdict
        is Verdict.FAIL
    )
