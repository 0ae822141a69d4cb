"""Several implementations: where they differ, and which one is wrong."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import InputError, Rule
from gradcheck.adapters import problem_of
from gradcheck.results import Verdict
from gradcheck.settings import Settings
from gradcheck.triangulate import Triangulation, triangulate

X = np.random.default_rng(0).standard_normal((3, 4))


def _rule(factor: float = 1.0, power: float = 1.0) -> Rule:
    return Rule(lambda x: power * np.sin(x), lambda inputs, u: factor * u * np.cos(inputs[0]))


def test_equal_functions_of_three_frameworks_agree() -> None:
    result = gradcheck.compare({"numpy": _rule(), "torch": torch.sin, "jax": jnp.sin}, X)

    assert result.passed, str(result)
    assert result.odd_one_out is None
    assert [finding.leaf for finding in result.findings] == ["output", "input[0]"]


@pytest.mark.parametrize("odd", ["first", "second", "third"])
def test_a_wrong_gradient_is_named_among_three(odd: str) -> None:
    sides = {name: _rule(1.001 if name == odd else 1.0) for name in ("first", "second", "third")}

    result = gradcheck.compare(sides, X)

    assert result.verdict is Verdict.FAIL
    assert result.odd_one_out == odd


def test_a_finite_difference_decides_between_two() -> None:
    result = gradcheck.compare({"right": _rule(), "wrong": _rule(-1.0)}, X)

    assert result.odd_one_out == "wrong"


def test_values_that_differ_are_found_and_named_by_majority() -> None:
    result = gradcheck.compare({"a": _rule(), "b": _rule(2.0, 2.0), "c": _rule()}, X)

    assert result.findings[0].verdict is Verdict.FAIL
    assert result.odd_one_out == "b"


def test_different_subgradients_at_a_kink_agree() -> None:
    def relu(at_zero: float) -> Rule:
        return Rule(
            lambda x: np.maximum(x, 0),
            lambda inputs, u: u * np.where(inputs[0] == 0, at_zero, 1.0 * (inputs[0] > 0)),
        )

    result = gradcheck.compare({"a": relu(0.0), "b": relu(1.0)}, np.array([0.0, 1.0, -1.0]))

    assert result.verdict in (Verdict.PASS, Verdict.FAIL)
    assert result.findings[0].verdict is Verdict.PASS


def test_rounding_is_no_disagreement() -> None:
    def reassociated(x: Any) -> Any:
        return ((x + 1e3) - 1e3).sin()

    def plain(x: Any) -> Any:
        return x.sin()

    x = torch.from_numpy(X)

    assert gradcheck.compare({"a": plain, "b": reassociated}, x).passed


MISUSE: list[tuple[Any, str]] = [
    ({"a": torch.sin}, "at least two names"),
    ([torch.sin, torch.cos], "at least two names"),
    ({"a": torch.sin, "b": lambda x: x.sum()}, "corresponding outputs"),
]


@pytest.mark.parametrize(("implementations", "message"), MISUSE, ids=[m for _, m in MISUSE])
def test_misuse_is_said(implementations: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        gradcheck.compare(implementations, torch.from_numpy(X))

    assert message in str(caught.value)


def _spoilt(spoil: Any, forward: Any = np.sin) -> Rule:
    return Rule(forward, lambda inputs, u: spoil(u * np.cos(inputs[0])))


def _entry(value: float) -> Any:
    def spoil(g: Any) -> Any:
        g[1, 2] = value
        return g

    return spoil


SPOILT: list[tuple[str, Any]] = [
    ("sign", lambda g: -g),
    ("off by 1e-5", lambda g: g * (1 + 1e-5)),
    ("zero", lambda g: 0 * g),
    ("one entry", _entry(0.0)),
    ("sums to nothing", lambda g: g + g * 0 + np.where(np.arange(4) % 2, 1e-3, -1e-3)),
    ("transposed", lambda g: g[::-1].copy()),
]


@pytest.mark.parametrize(("name", "spoil"), SPOILT, ids=[name for name, _ in SPOILT])
@pytest.mark.parametrize("order", [["good", "bad"], ["bad", "good"]])
@pytest.mark.parametrize("seed", range(2))
def test_of_two_the_finite_difference_accuses_the_wrong_one(
    name: str, spoil: Any, order: list[str], seed: int
) -> None:
    sides = {"good": _rule(), "bad": _spoilt(spoil)}

    result = gradcheck.compare({key: sides[key] for key in order}, X, seed=seed)

    assert result.verdict is Verdict.FAIL
    assert result.odd_one_out == "bad"


@pytest.mark.parametrize(("name", "spoil"), SPOILT, ids=[name for name, _ in SPOILT])
@pytest.mark.parametrize("odd", ["numpy", "torch", "jax"])
def test_of_three_frameworks_the_wrong_one_is_accused(name: str, spoil: Any, odd: str) -> None:
    sides = {"numpy": _rule(), "torch": torch.sin, "jax": jnp.sin} | {odd: _spoilt(spoil)}

    result = gradcheck.compare(sides, X)

    assert result.odd_one_out == odd


@pytest.mark.parametrize("odd", ["first", "second", "third"])
@pytest.mark.parametrize("off", [1e-3, 1e-5, np.nan, np.inf])
def test_a_value_is_outvoted(odd: str, off: float) -> None:
    def forward(x: Any) -> Any:
        y = np.sin(x)
        y[0, 1] += off
        return y

    sides = {key: _rule() for key in ("first", "second", "third")}
    sides[odd] = Rule(forward, lambda inputs, u: u * np.cos(inputs[0]))

    result = gradcheck.compare(sides, X)

    assert result.findings[0].verdict is Verdict.FAIL
    assert [entry.index for entry in result.findings[0].entries] == [(0, 1)]
    assert result.odd_one_out == odd


def test_a_value_that_two_dispute_is_left_open() -> None:
    result = gradcheck.compare({"a": _rule(), "b": _rule(2.0, 2.0)}, X)

    assert result.findings[0].verdict is Verdict.FAIL
    assert result.odd_one_out is None


def test_the_same_nan_and_infinity_agree() -> None:
    def root(x: Any) -> Any:
        return x.sqrt()

    x = torch.tensor([-1.0, 0.0, 4.0], dtype=torch.float64)

    assert gradcheck.compare({"a": root, "b": lambda x: x**0.5}, x).passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_alone_is_not_finite_is_outvoted(value: float) -> None:
    sides = {"a": _rule(), "b": _spoilt(_entry(value)), "c": _rule()}

    result = gradcheck.compare(sides, X)

    assert result.odd_one_out == "b"
    assert [entry.index for entry in result.findings[1].entries] == [(1, 2)]


def test_infinities_of_opposite_sign_disagree() -> None:
    sides = {"a": _spoilt(_entry(np.inf)), "b": _spoilt(_entry(-np.inf))}

    assert gradcheck.compare(sides, X).verdict is Verdict.FAIL


UNLIKE: list[tuple[str, Any, Any, str]] = [
    ("outputs of another shape", np.sin, lambda x: np.sin(x).T, "corresponding outputs"),
    ("more outputs", np.sin, lambda x: (np.sin(x), x), "corresponding outputs"),
]


@pytest.mark.parametrize(("name", "one", "other", "message"), UNLIKE, ids=[u[0] for u in UNLIKE])
def test_what_does_not_correspond_is_refused(name: str, one: Any, other: Any, message: str) -> None:
    sides = {"a": Rule(one, lambda i, u: u), "b": Rule(other, lambda i, u: u)}

    with pytest.raises(InputError, match=message):
        gradcheck.compare(sides, X)


def _before_batch_norm(library: Any) -> Any:
    """A bias that batch norm removes again: its gradient is zero, and rounding."""

    def layer(x: Any, bias: Any) -> Any:
        y = x + bias
        y = y - y.mean(0)
        return y / library.sqrt((y * y).mean(0) + 1e-5)

    return layer


@pytest.mark.parametrize(("dtype", "seed"), [(np.float64, 0), (np.float32, 1)])
def test_a_gradient_that_is_rounding_alone_is_no_disagreement(dtype: Any, seed: int) -> None:
    def functional(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.batch_norm(x + bias, None, None, training=True)

    x, bias = (np.random.default_rng(seed).standard_normal(s).astype(dtype) for s in ((9, 4), 4))
    sides = {
        "torch": functional,
        "by hand": _before_batch_norm(torch),
        "jax": _before_batch_norm(jnp),
    }

    result = gradcheck.compare(sides, x, bias, seed=seed)

    assert result.passed, str(result)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), ()])
def test_any_shape_agrees_with_itself(shape: tuple[int, ...]) -> None:
    x = np.full(shape, 0.7)

    assert gradcheck.compare({"a": _rule(), "b": _rule()}, x).passed


def _paired(ignored: float) -> Rule:
    """Two outputs; to ignore the second's cotangent is right where the first one's is zero."""
    return Rule(
        lambda x: (np.sin(x), np.cos(x)),
        lambda i, u: u[0] * np.cos(i[0]) - (ignored if np.any(u[0]) else 1) * u[1] * np.sin(i[0]),
    )


def _alone_only() -> Rule:
    """Two outputs whose rule is right for both cotangents together, and drops one that is alone."""

    def vjp(inputs: Any, u: Any) -> Any:
        if not np.any(u[0]):
            return np.zeros_like(inputs[0])
        return u[0] * np.cos(inputs[0]) - u[1] * np.sin(inputs[0])

    return Rule(lambda x: (np.sin(x), np.cos(x)), vjp)


def _triangulated(sides: dict[str, Rule], *, alone: bool) -> Triangulation:
    problems = {key: problem_of(rule, (X,)) for key, rule in sides.items()}
    return triangulate(problems, Settings(), np.random.default_rng(0), alone=alone)


def test_an_ignored_cotangent_is_found() -> None:
    found = _triangulated({"good": _paired(1.0), "bad": _paired(0.0)}, alone=False)

    assert found.odd_one_out == "bad"


def test_a_cotangent_that_is_ignored_when_it_is_alone_is_found_alone() -> None:
    sides = {"good": _paired(1.0), "bad": _alone_only()}

    together, alone = (_triangulated(sides, alone=given) for given in (False, True))

    assert together.odd_one_out is None
    assert alone.odd_one_out == "bad"
    assert "with the cotangent of output[1] alone" in alone.findings[-1].message


def test_a_variant_is_compared_and_has_no_vote() -> None:
    sides = {"a": _rule(), "b": _rule(), "b, strided": _spoilt(lambda g: 2 * g)}

    assert _triangulated(sides, alone=False).odd_one_out == "b, strided"


def test_differences_are_told_for_every_pair_and_array() -> None:
    sides = {"a": _rule(), "b": _rule(1.25), "c": _rule()}

    found = _triangulated(sides, alone=False)

    told = {(d.pair, d.leaf): d.relative for d in found.differences}
    assert len(told) == 6
    assert told[("a", "b"), "input[0]"] == pytest.approx(0.2)
    assert told[("a", "c"), "input[0]"] == told[("a", "b"), "output"] == 0.0


class Scaled(torch.autograd.Function):
    """The identity, with a gradient `factor` times too large; in half precision only, if asked."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float, only_half: bool) -> torch.Tensor:
        ctx.factor = 1.0 if only_half and x.dtype is torch.float64 else factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u * ctx.factor, None, None


HALVES = (torch.bfloat16, torch.float16)


def _attentions(dtype: torch.dtype, factor: float, only_half: bool = False) -> Any:
    torch.manual_seed(0)
    x, w, b = (torch.randn(shape).to(dtype) for shape in ((5, 8), (24, 8), (24,)))

    def attention(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        q, k, v = torch.nn.functional.linear(x, 0.5 * w, b).chunk(3, -1)
        return torch.softmax(q @ k.T / 8**0.5, -1) @ v

    def mine(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> Any:
        scaled = Scaled.apply(w, factor, only_half)  # type: ignore[no-untyped-call]
        return attention(x, scaled, b)

    return gradcheck.compare({"theirs": attention, "mine": mine}, x, w, b)


@pytest.mark.parametrize("dtype", HALVES)
def test_right_implementations_agree_in_half_precision(dtype: torch.dtype) -> None:
    result = _attentions(dtype, 1.0)

    assert result.passed, str(result)
    assert max(finding.resolution for finding in result.findings) < 0.2


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("factor", "only_half"), [(1.1, False), (0.9, False), (-1.0, False), (2.0, True), (-1.0, True)]
)
def test_a_wrong_gradient_is_named_in_half_precision(
    dtype: torch.dtype, factor: float, only_half: bool
) -> None:
    result = _attentions(dtype, factor, only_half)

    assert result.verdict is Verdict.FAIL
    assert result.odd_one_out == "mine"
    assert {f.leaf for f in result.findings if f.verdict is Verdict.FAIL} == {"input[1]"}


def test_half_precision_that_does_not_run_in_float64_leaves_it_open() -> None:
    def kernel(x: torch.Tensor) -> torch.Tensor:
        assert x.dtype is torch.bfloat16
        return torch.tanh(x)

    x = torch.linspace(-1, 1, 8).to(torch.bfloat16)

    assert gradcheck.compare({"one": kernel, "two": torch.tanh}, x).verdict == "inconclusive"
