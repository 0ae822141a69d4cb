"""One direction that moves all leaves: it settles the right ones and hides none that is wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule
from gradcheck.adapters.torch_posed import Posed
from gradcheck.results import CheckResult

RNG = np.random.default_rng(0)
POINT = [RNG.standard_normal((3, 4)) for _ in range(6)]
SEEDS = range(3)


def _checked(
    errors: Mapping[int, float], sizes: Mapping[int, float] | None = None, **options: Any
) -> CheckResult:
    """Of Σ sin(xₖ / sₖ) of six leaves of size sₖ, the gradient of some with a relative error."""
    s = [(sizes or {}).get(k, 1.0) for k in range(6)]

    def forward(*xs: Any) -> Any:
        return np.sum([np.sin(x / s[k]) for k, x in enumerate(xs)], axis=0)

    def vjp(xs: Any, u: Any) -> Any:
        return [u * np.cos(x / s[k]) / s[k] * (1 + errors.get(k, 0.0)) for k, x in enumerate(xs)]

    point = [x * s[k] for k, x in enumerate(POINT)]
    return gradcheck.check(Rule(forward, vjp), *point, checks="vjp", **options)


def _wrong(result: CheckResult) -> list[str]:
    return [finding.leaf for finding in result.findings if finding.verdict != "pass"]


@pytest.mark.parametrize("seed", SEEDS)
def test_right_leaves_are_settled_together(seed: int) -> None:
    result = _checked({}, seed=seed)

    assert result.passed, str(result)
    assert len(result.findings) == 6
    assert result.evaluations.vjp <= 3  # one for each cotangent, none for each leaf


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("error", [-2.0, -1.0, 1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("leaf", [0, 3, 5])
def test_a_wrong_leaf_among_many_is_named(leaf: int, error: float, seed: int) -> None:
    assert _wrong(_checked({leaf: error}, seed=seed)) == [f"input[{leaf}]"]


@pytest.mark.parametrize("seed", SEEDS)
def test_two_wrong_leaves_are_both_named(seed: int) -> None:
    assert _wrong(_checked({1: 1e-3, 4: -1e-3}, seed=seed)) == ["input[1]", "input[4]"]


@pytest.mark.parametrize("seed", SEEDS)
def test_all_leaves_wrong_are_all_named(seed: int) -> None:
    assert len(_wrong(_checked(dict.fromkeys(range(6), 0.5), seed=seed))) == 6


@pytest.mark.parametrize("small", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("large", [1.0, 1e6])
def test_a_tiny_leaf_beside_a_large_one_is_judged_by_its_own_size(
    small: float, large: float
) -> None:
    sizes = {2: small, 3: large}

    assert _checked({}, sizes).passed
    assert _wrong(_checked({2: 1e-2}, sizes)) == ["input[2]"]
    assert _wrong(_checked({3: 1e-2}, sizes)) == ["input[3]"]


@pytest.mark.parametrize("weight", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("factor", [0.0, -1.0, 0.9, 2.0])
def test_a_leaf_that_hardly_counts_beside_others_is_not_lost(weight: float, factor: float) -> None:
    def vjp(xs: Any, u: Any) -> Any:
        return u * np.cos(xs[0]), factor * weight * u * np.cos(xs[1])

    def finding(rule: Rule) -> Any:
        return gradcheck.check(rule, *POINT[:2], checks="vjp").findings

    main, minor = finding(Rule(lambda a, b: np.sin(a) + weight * np.sin(b), vjp))

    assert main.verdict == "pass"
    assert minor.verdict == "fail"


def test_a_leaf_with_a_gradient_of_zero_is_said_to_be_vacuous() -> None:
    rule = Rule(
        lambda a, b, c: np.sin(a) * np.cos(c),
        lambda i, u: (
            u * np.cos(i[0]) * np.cos(i[2]),
            np.zeros_like(i[1]),
            -u * np.sin(i[0]) * np.sin(i[2]),
        ),
    )

    first, unused, last = gradcheck.check(rule, *POINT[:3], checks="vjp").findings

    assert [f.verdict for f in (first, unused, last)] == ["pass"] * 3
    assert "vacuous" in unused.message
    assert "vacuous" not in first.message + last.message


class Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, b: torch.Tensor, error: float) -> torch.Tensor:
        ctx.error = error
        return x + b

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u, u.sum((0, 1)) + ctx.error, None


class Attention(torch.nn.Module):
    """A softmax takes no notice of the bias of its keys: terms cancel, and rounding is left."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(8, 8, dtype=torch.float64) for _ in range(3))
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys = Shifted.apply(x @ self.k.weight.T, self.k.bias, self.error)  # type: ignore[no-untyped-call]
        weights = torch.softmax(self.q(x) @ keys.mT, -1)
        found: torch.Tensor = weights @ self.v(x)
        return found


def _of_attention(error: float) -> CheckResult:
    torch.manual_seed(0)
    return gradcheck.check(Attention(error), torch.randn(2, 5, 8, dtype=torch.float64))


def test_a_bias_that_cancels_is_vacuous_in_every_check() -> None:
    result = _of_attention(0.0)

    own = [finding for finding in result.findings if finding.leaf == "params.k.bias"]
    assert {finding.verdict for finding in own} == {"pass"}
    assert {f.check for f in own if "vacuous" in f.message} >= {"vjp", "adjoint"}
    assert max(finding.mismatch for finding in result.findings) < 1e-9
    assert not result.not_checked
    assert result.evaluations.forward < 100  # 1,400 where it was looked at from all sides


@pytest.mark.parametrize("error", [1e-3, 1e-9])
def test_a_bias_that_cancels_has_no_gradient(error: float) -> None:
    failed = {f.leaf for f in _of_attention(error).findings if f.verdict == "fail"}

    assert failed == {"params.k.bias"}


def test_a_gradient_of_zero_that_should_be_one_fails() -> None:
    rule = Rule(
        lambda a, b: np.sin(a) + np.sin(b),
        lambda i, u: (u * np.cos(i[0]), np.zeros_like(i[1])),
    )

    assert _wrong(gradcheck.check(rule, *POINT[:2], checks="vjp")) == ["input[1]"]


def test_gradients_that_two_leaves_exchanged_fail() -> None:
    rule = Rule(
        lambda a, b: np.sin(a) + np.cos(b),
        lambda i, u: (-u * np.sin(i[1]), u * np.cos(i[0])),
    )

    assert len(_wrong(gradcheck.check(rule, *POINT[:2], checks="vjp"))) == 2


def _posed(target: Any, x: torch.Tensor) -> Posed:
    return Posed(target=target, inputs=(x,), named={"input[0]": x}, seed=0).watched()[0]


def _written(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(2).sin_()


def _drawn(x: torch.Tensor) -> torch.Tensor:
    return x.sin() * torch.rand_like(x)


def _written_and_drawn(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(torch.rand_like(x)).sin()


@pytest.mark.parametrize(
    ("target", "writes", "draws"),
    [
        (torch.sin, False, False),
        (_written, True, False),
        (_drawn, False, True),
        (_written_and_drawn, True, True),
    ],
)
def test_a_target_that_writes_or_draws_keeps_its_values_and_the_callers_arrays(
    target: Any, writes: bool, draws: bool
) -> None:
    x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    before = x.clone()
    posed = _posed(target, x)
    point = (x.numpy().copy(),)

    (once,), (again,) = posed.value(point), posed.value(point)
    assert (posed.writes, posed.draws["forward"]) == (writes, draws)

    assert np.array_equal(once, again)
    assert np.array_equal(point[0], before.numpy())
    assert torch.equal(x, before)
    assert gradcheck.check(target, x, checks="vjp").passed
    assert torch.equal(x, before)


def test_the_value_of_a_target_that_writes_is_that_of_its_input() -> None:
    x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)

    (value,) = _posed(_written, x).value((x.numpy().copy(),))

    np.testing.assert_array_equal(value, np.sin(2 * x.numpy()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_what_moves_near_the_point_only_is_not_vacuous(centre: float, seed: int) -> None:
    """Slopes like one, within a thousandth of the leaf's size; a gradient of zero is given."""

    def bump(x: Any) -> Any:
        z = (x - centre) / 1e-3
        return 1 + z * np.exp(-(z**2))

    rule = Rule(bump, lambda xs, u: (0 * u,))

    assert gradcheck.check(rule, np.array([centre]), seed=seed).verdict == "fail"


def test_what_a_target_keeps_of_a_step_stays_as_it_was() -> None:
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def f(x: torch.Tensor) -> torch.Tensor:
        kept.append((x.detach(), x.detach().clone()))
        return x * x

    x = torch.randn(2**14, dtype=torch.float64)  # large: memory of a step is used again
    assert gradcheck.check(f, x, checks="vjp").passed

    assert len(kept) > 5
    assert all(torch.equal(x, copy) for x, copy in kept)
