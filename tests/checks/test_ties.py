"""At a tie: any subgradient is right, and one that gives all of them all, or nothing, is not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule, Verdict

Back = Callable[[Any, Any], Any]

TIED = np.array([[1.0, 1.0, 0.0], [3.0, 2.0, 1.0], [0.0, 5.0, 5.0], [2.0, 2.0, 2.0]])


def _all(x: Any, u: Any) -> Any:
    return (x == x.max(-1, keepdims=True)) * u[..., None]


def _none(x: Any, u: Any) -> Any:
    is_largest = x == x.max(-1, keepdims=True)
    return is_largest * (is_largest.sum(-1, keepdims=True) == 1) * u[..., None]


def _part(x: Any, u: Any) -> Any:
    is_largest = x == x.max(-1, keepdims=True)
    return is_largest / is_largest.sum(-1, keepdims=True) * u[..., None]


def _first(x: Any, u: Any) -> Any:
    return np.eye(x.shape[-1])[x.argmax(-1)] * u[..., None]


def _largest(back: Back) -> Rule:
    return Rule(lambda x: x.max(-1), lambda inputs, u: (back(inputs[0], u),))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("back", [_part, _first])
def test_each_its_part_or_one_all_of_it_is_right(back: Back, seed: int) -> None:
    result = gradcheck.check(_largest(back), TIED, checks="vjp", seed=seed)

    assert result.verdict is Verdict.PASS, result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("back", [_all, _none])
@pytest.mark.parametrize(
    "x", [TIED, TIED - 2.0, np.zeros((2, 3))], ids=["rows", "shifted", "zeros"]
)
def test_all_of_it_to_all_of_them_fails(back: Back, x: Any, seed: int) -> None:
    result = gradcheck.check(_largest(back), x, checks="vjp", seed=seed)

    assert result.verdict is Verdict.FAIL, result
    assert "at a tie" in str(result)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("beside", "verdict"),
    [("a", Verdict.PASS), ("both", Verdict.FAIL), ("neither", Verdict.FAIL)],
)
def test_two_arrays_that_are_equal(beside: str, verdict: Verdict, seed: int) -> None:
    def vjp(inputs: Any, u: Any) -> Any:
        a, b = inputs
        ahead = {"a": (a >= b, b > a), "both": (a >= b, b >= a), "neither": (a > b, b > a)}
        return tuple(u * mask for mask in ahead[beside])

    a, b = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 3.0])
    result = gradcheck.check(Rule(np.maximum, vjp), a, b, checks="vjp", seed=seed)

    assert result.verdict is verdict, result


@pytest.mark.parametrize("seed", range(4))
def test_a_kink_of_its_own_is_no_tie(seed: int) -> None:
    """Zeros under a relu are equal, and stay at a kink wherever they are moved together."""
    rule = Rule(lambda x: np.maximum(x, 0), lambda inputs, u: (u * (inputs[0] > 0),))

    result = gradcheck.check(rule, np.array([0.0, 0.0, 0.0, 1.0, -1.0]), checks="vjp", seed=seed)

    assert result.passed, result


@pytest.mark.parametrize("seed", range(8))
def test_what_is_flat_up_to_a_kink_nearby_is_no_staircase(seed: int) -> None:
    """Beside a tie the smaller of the two moves nothing until it is the larger."""
    a, b = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([1.0, 0.0, 3.0]).double()

    result = gradcheck.check(torch.maximum, a, b, checks="vjp", seed=seed)

    assert result.passed, result


EQUAL = np.array([1.0, 2.0, 2.0, 0.0, 3.0, 2.0, -1.0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: x.kthvalue(3).values, [2.0] * 5),
        (lambda x: x.topk(2).values, [5.0, 5.0, 5.0, 1.0, 1.0, 1.0, 3.0]),
        (lambda x: x.median(), [2.0] * 5),
    ],
    ids=["kthvalue", "topk", "median"],
)
def test_what_pytorch_chooses_among_many_equal_numbers_passes(
    f: Any, x: list[float], seed: int
) -> None:
    assert gradcheck.check(f, torch.tensor(x).double(), checks="vjp", seed=seed).passed


def _places(x: Any) -> Any:
    return np.argsort(np.argsort(x, kind="stable"), kind="stable")


def _sorted(x: Any, u: Any) -> Any:
    return u[_places(x)]


def _median(x: Any, u: Any) -> Any:
    g = np.zeros_like(x)
    g[np.argsort(x, kind="stable")[3]] = u
    return g


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("f", "rule"), [(np.sort, _sorted), (lambda x: np.sort(x)[3], _median)], ids=["sort", "median"]
)
def test_of_three_equal_numbers_the_gradient_of_one_side_is_right(
    f: Any, rule: Any, seed: int
) -> None:
    def verdict(spoilt: Any) -> str:
        target = Rule(f, lambda inputs, u: spoilt(inputs[0], rule(inputs[0], u)))
        return gradcheck.check(target, EQUAL, checks="vjp", seed=seed).verdict.value

    assert verdict(lambda x, g: g) == "pass"
    assert verdict(lambda x, g: 1.01 * g) == "fail"
    assert verdict(lambda x, g: np.where(x == 2, 0, g)) != "pass"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_one_in_the_middle_of_equal_numbers_that_none_moves_alone(count: int, seed: int) -> None:
    """Along any line through an odd number of them the median is straight: no kink tells."""

    def middle(x: Any) -> Any:
        return np.sort(x)[(x.size - 1) // 2]

    def verdict(rule: Callable[[Any], Any]) -> str:
        target = Rule(middle, lambda inputs, u: (u * rule(inputs[0] == middle(inputs[0])),))
        x = np.full(count, 0.7)
        return gradcheck.check(target, x, checks="vjp", seed=seed).verdict.value

    assert verdict(lambda tied: tied.astype(float)) == "fail"
    assert verdict(lambda tied: tied / tied.sum()) != "fail"


def _network(x: Any, w: Any, b: Any, v: Any) -> Any:
    return np.maximum(x @ w + b, 0) @ v


def _network_rule(at_zero: float) -> Rule:
    """Of two layers; `at_zero` is the slope of the rectifier there: zero and one are right."""

    def vjp(inputs: Any, u: Any) -> Any:
        x, w, b, v = inputs
        z = x @ w + b
        down = (u @ v.T) * np.where(z == 0, at_zero, z > 0)
        return down @ w.T, x.T @ down, down.sum(0), np.maximum(z, 0).T @ u

    return Rule(_network, vjp)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("hidden", [2, 8, 16])
def test_a_row_of_zeros_under_rectifiers_of_both_signs(hidden: int, dtype: Any) -> None:
    """A padded row: all hidden numbers are zero, and a line leads to some side of each."""
    rng = np.random.default_rng(hidden)
    x = rng.normal(size=(4, 3))
    x[1] = 0
    shapes = (3, hidden), (hidden, 2)
    w, v = (rng.normal(size=shape) for shape in shapes)
    inputs = [a.astype(dtype) for a in (x, w, np.zeros(hidden), v)]

    def verdict(at_zero: float) -> str:
        return gradcheck.check(_network_rule(at_zero), *inputs, checks="vjp").verdict.value

    assert [verdict(at_zero) for at_zero in (0.0, 1.0)] == ["pass", "pass"]
    assert verdict(7.0) != "pass"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [3, 6, 10])
def test_what_is_wrong_only_where_numbers_are_equal(count: int, seed: int) -> None:
    """t / (eᵗ - 1) of differences, whose rule has a branch at t = 0, as at a constant potential."""
    weights = np.random.default_rng(seed).normal(size=count - 1)

    def slope(t: Any, at_zero: float) -> Any:
        far = np.where(np.abs(t) < 1e-5, 1.0, t)
        right = (np.expm1(far) - far * np.exp(far)) / np.expm1(far) ** 2
        return np.where(t == 0, at_zero, np.where(far == t, right, -0.5 + t / 6))

    def value(p: Any) -> Any:
        t = np.diff(p)
        return weights * np.where(t == 0, 1.0, t / np.expm1(np.where(t == 0, 1.0, t)))

    def verdict(at_zero: float) -> str:
        def vjp(inputs: Any, u: Any) -> Any:
            down = u * weights * slope(np.diff(inputs[0]), at_zero)
            return (np.diff(down, prepend=0.0, append=0.0) * -1.0,)

        target = Rule(value, vjp)
        return gradcheck.check(target, np.full(count, 0.7), checks="vjp", seed=seed).verdict.value

    assert verdict(-0.5) == "pass"
    assert verdict(30.0) == "fail"
    assert verdict(0.0) == "fail"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "x", [[0.0, 0.0, 1.3], [0.0] * 3, [0.0, 1.5, 1.5]], ids=["two", "all", "others"]
)
def test_a_wrong_branch_for_small_numbers_is_no_side_of_a_kink(x: Any, seed: int) -> None:
    """(eˣ - 1) / x is smooth at zero, where its slope is a half."""

    def value(x: Any) -> Any:
        return np.where(x == 0, 1.0, np.expm1(x) / np.where(x == 0, 1.0, x))

    def verdict(at_zero: float) -> str:
        def vjp(inputs: Any, u: Any) -> Any:
            (x,) = inputs
            far = np.where(np.abs(x) < 1e-6, 1.0, x)
            slope = (far * np.exp(far) - np.expm1(far)) / far**2
            return (u * np.where(far == x, slope, at_zero),)

        target = Rule(value, vjp)
        return gradcheck.check(target, np.array(x), checks="vjp", seed=seed).verdict.value

    assert verdict(0.5) == "pass"
    assert [verdict(at_zero) for at_zero in (0.0, 0.33, 1.0)] == ["fail"] * 3


@pytest.mark.parametrize("seed", range(12))
def test_a_median_of_equal_numbers_beside_one_without(seed: int) -> None:
    """The framework's passes, one that shares evenly is not accused, and one that gives all is."""
    x = np.array([[1.0, 2.0, 2.0, 2.0, 5.0], [0.2, 0.7, 0.7, 0.3, -0.7]])

    def verdict(share: Callable[[Any], Any]) -> str:
        def vjp(inputs: Any, u: Any) -> Any:
            (x,) = inputs
            return (u[:, None] * share(x == np.median(x, -1, keepdims=True)),)

        target = Rule(lambda x: np.median(x, -1), vjp)
        return gradcheck.check(target, x, checks="vjp", seed=seed).verdict.value

    assert gradcheck.check(
        lambda x: x.median(-1).values, torch.tensor(x), checks="vjp", seed=seed
    ).passed
    assert verdict(lambda tied: tied / tied.sum(-1, keepdims=True)) != "fail"
    assert verdict(lambda tied: tied.astype(float)) == "fail"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "first", [lambda x: (x > 0) * 1.0, np.floor, lambda x: 1e-4 * np.tanh(1e4 * x)]
)
def test_where_nothing_is_known_of_a_side_it_excuses_nothing(first: Any, seed: int) -> None:
    """A jump, or a slope that ends at once, beside sines whose rule is wrong near zero."""

    def vjp(inputs: Any, u: Any) -> Any:
        (x,) = inputs
        slopes = np.where(np.abs(x) < 1e-4, 2.0, np.cos(x))
        slopes[0] = 1 - np.tanh(1e4 * x[0]) ** 2 if first(0.5) == 1e-4 else 0
        return (u * slopes,)

    target = Rule(lambda x: np.array([first(x[0]), *np.sin(x[1:])]), vjp)
    for x in (np.zeros(3), np.array([0, 0, 0.3])):
        assert gradcheck.check(target, x, checks="vjp", seed=seed).verdict is not Verdict.PASS


@pytest.mark.parametrize("seed", range(3))
def test_a_minimum_of_maxima_may_take_pieces_that_nowhere_meet(seed: int) -> None:
    """An opening (Serra, 1982) of an image with equal pixels: what autograd gives is no
    subgradient, and nobody's error; right beside the point, it passes."""

    def opening(x: torch.Tensor) -> torch.Tensor:
        eroded = -torch.nn.functional.max_pool2d(-x, 3, stride=1, padding=1)
        return torch.nn.functional.max_pool2d(eroded, 3, stride=1, padding=1)

    rows = [[0.27, 0.04, 0, 0, 0.54], [0.47, 0.86, 0.04, 0, 0.88], [1, 0.26, 1, 0.99, 0]]
    x = torch.tensor([[*rows, [1, 0.57, 0.74, 1, 0]]], dtype=torch.float64)

    assert gradcheck.check(opening, x, checks="vjp", seed=seed).verdict is not Verdict.FAIL


@pytest.mark.parametrize("seed", range(3))
def test_a_kink_of_one_entry_is_no_excuse_for_another(seed: int) -> None:
    """A branch for zeros that autograd takes for a constant, beside an absolute value at zero."""

    def branched(x: torch.Tensor) -> torch.Tensor:
        some = x[:2]
        sines = torch.where(some == 0, torch.zeros_like(some), some.sin())
        return torch.cat([sines, x[2:].abs()])

    x = torch.tensor([0.7, 0.0, -0.4, 0.0], dtype=torch.float64)
    result = gradcheck.check(branched, x, checks="vjp", seed=seed)

    assert result.verdict is Verdict.FAIL, result
