"""The check of gradients is tested by what it must reject, and by what it must not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule
from gradcheck.results import CheckResult, Verdict

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
    return gradcheck.check(rule, X)


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

    return gradcheck.check(Sine, torch.from_numpy(X))


def _jax(spoil: Callable[[Array], Array], scale: float) -> CheckResult:
    @jax.custom_vjp
    def sine(x: Array) -> Array:
        return scale * jnp.sin(x)

    def backward(x: Array, u: Array) -> tuple[Array]:
        return (jnp.asarray(spoil(np.asarray(scale * u * jnp.cos(x)))),)

    sine.defvjp(lambda x: (scale * jnp.sin(x), x), backward)
    return gradcheck.check(sine, X)


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

    result = gradcheck.check(rule, np.random.default_rng(0).standard_normal(1_000_000))

    assert result.verdict is Verdict.FAIL
    assert result.findings[0].diagnosis == "sign"


def test_one_entry_of_a_hundred_thousand_is_found() -> None:
    def vjp(inputs: Any, u: Array) -> Array:
        g = u * np.cos(inputs[0])
        g[77_777] *= 1.5
        return g

    rule = Rule(np.sin, vjp)
    result = gradcheck.check(rule, np.random.default_rng(0).standard_normal(100_000))

    assert [entry.index for entry in result.findings[0].entries] == [(77_777,)]


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
    result = gradcheck.check(rule, np.array(x), seed=seed)

    assert result.passed, str(result)


def test_a_float32_tanh_that_saturates_is_not_accused() -> None:
    rule = _rule(np.tanh, lambda x: 1 - np.tanh(x) ** 2)

    assert gradcheck.check(rule, np.array([7.0, 5.0, 8.0], np.float32)).verdict is not Verdict.FAIL


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

    assert gradcheck.check(torch.sin, x).passed
    assert gradcheck.check(Doubled, x).verdict is Verdict.FAIL


@pytest.mark.parametrize("seed", range(4))
def test_a_bfloat16_product_inside_is_not_accused(seed: int) -> None:
    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x.bfloat16() @ w.bfloat16()).double()

    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(6, 6, dtype=torch.float64, generator=generator) for _ in range(2))

    assert gradcheck.check(product, x, w, seed=seed).verdict is not Verdict.FAIL


def test_a_gradient_outside_the_subgradients_of_a_kink_fails() -> None:
    rule = _rule(lambda x: np.maximum(x, 0), lambda x: np.where(x == 0, -3.0, 1.0 * (x > 0)))

    assert gradcheck.check(rule, np.array([0.0, 1.0, -2.0])).verdict is Verdict.FAIL


@pytest.mark.parametrize("seed", range(4))
def test_a_row_of_zeros_through_a_relu_without_bias_is_not_accused(seed: int) -> None:
    torch.manual_seed(seed)
    layers = torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    x = torch.randn(5, 4, dtype=torch.float64)
    x[2] = 0

    result = gradcheck.check(torch.nn.Sequential(*layers).double(), x, seed=seed)

    assert result.verdict is not Verdict.FAIL, str(result)


@pytest.mark.parametrize("seed", range(4))
def test_two_tied_maxima_that_both_get_the_cotangent_do_not_pass(seed: int) -> None:
    rule = Rule(np.max, lambda inputs, u: u * (inputs[0] == inputs[0].max()))

    result = gradcheck.check(rule, np.array([2.0, 2.0, 1.0, 0.0]), seed=seed)

    assert result.verdict is not Verdict.PASS


def test_a_straight_through_estimator_of_round_does_not_pass() -> None:
    rule = _rule(np.round, np.ones_like)

    verdicts = [gradcheck.check(rule, X, seed=seed).verdict for seed in range(3)]

    assert Verdict.PASS not in verdicts


def test_a_declared_deviation_is_not_checked_and_said() -> None:
    rule = _rule(np.round, np.ones_like)

    result = gradcheck.check(rule, X, declared={"input[0]": "straight-through"})

    assert result.findings == ()
    assert result.not_checked == ("input[0]: declared, straight-through",)


def test_a_value_that_is_not_finite_is_inconclusive() -> None:
    result = gradcheck.check(_rule(np.log, lambda x: 1 / x), np.array([0.0, 1.0]))

    assert result.verdict is Verdict.INCONCLUSIVE


def test_a_vjp_that_raises_is_an_error_of_the_target() -> None:
    def vjp(inputs: Any, u: Array) -> Array:
        raise RuntimeError("no gradient today")

    result = gradcheck.check(Rule(np.sin, vjp), X)

    assert result.verdict is Verdict.ERROR
    assert "RuntimeError: no gradient today" in str(result)


def test_outputs_that_change_their_shape_do_not_raise() -> None:
    rule = Rule(lambda x: x[x > 0.5], lambda inputs, u: np.where(inputs[0] > 0.5, u.sum(), 0.0))

    assert gradcheck.check(rule, np.array([0.5 + 1e-12])).verdict is not Verdict.ERROR


def test_a_leaf_that_no_output_depends_on_passes_as_vacuous() -> None:
    rule = Rule(lambda a, b: np.sin(a), lambda inputs, u: (u * np.cos(inputs[0]), None))

    finding = gradcheck.check(rule, X, X).findings[1]

    assert finding.verdict is Verdict.PASS
    assert "vacuous" in finding.message


def test_a_passing_float64_check_costs_eight_values_a_probe() -> None:
    layer, x = torch.nn.Linear(8, 5, dtype=torch.float64), torch.from_numpy(X[:, :8].copy())

    evaluations = gradcheck.check(layer, x).evaluations

    assert evaluations.vjp == 3
    assert evaluations.forward == 3 * 3 * 8 + 2


def test_an_error_is_told_in_words() -> None:
    result = _numpy(_with((5, 2), 1.01), 1.0)

    first, second, *_ = str(result).splitlines()
    assert first.startswith("FAIL  gradient of <lambda> at input[0]   off by ")
    assert second.strip().startswith("[5, 2]  got ")
    assert second.endswith("ratio 1.010")
    assert "1 of 144 entries wrong" in str(result)
