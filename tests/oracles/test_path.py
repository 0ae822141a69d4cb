"""The path integral: values rise by the integral of a right gradient, and of no wrong one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradcheck
from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.oracles.path import Integral, integrate
from gradcheck.probes import Line, known, scale
from gradcheck.results import Finding

Function = Callable[[Any], Any]
GOAL = 1e-4


def _line(f: Function, derivative: Function, x: Any) -> Line:
    x = np.asarray(x)
    problem = problem_of(Rule(f, lambda inputs, u: u * derivative(inputs[0])), (x,))
    ones = tuple(np.ones(leaf.shape) for leaf in problem.outputs)
    return Line(
        problem=problem,
        v={0: np.ones(x.shape)},
        u=ones,
        asked=known(problem.vjp(problem.point, ones)),
        centre=problem.value(problem.point),
        unit=scale(problem.point[0]),
    )


def _integral(
    f: Function, derivative: Function, x: Any, reach: float = 1.0, level: float = 0.0
) -> Integral:
    found = integrate(_line(f, derivative, x), reach, goal=GOAL, level=level)
    assert found is not None
    return found


# (name, f, its derivative, the point)
SMOOTH: list[tuple[str, Function, Function, Any]] = [
    ("sin", np.sin, np.cos, 0.7),
    ("exp at 5", np.exp, np.exp, 5.0),
    ("cube", lambda x: x**3, lambda x: 3 * x**2, -1.3),
    ("1e6 + sin", lambda x: 1e6 + np.sin(x), np.cos, 0.7),
    ("a relu on the way", lambda x: np.maximum(x, 0.0), lambda x: 1.0 * (x > 0), 0.1),
    ("float32", np.tanh, lambda x: 1 - np.tanh(x) ** 2, np.float32(0.7)),
]


@pytest.mark.parametrize(
    ("name", "f", "derivative", "x"), SMOOTH, ids=[name for name, *_ in SMOOTH]
)
def test_a_right_gradient_integrates_to_the_rise(
    name: str, f: Function, derivative: Function, x: Any
) -> None:
    found = _integral(f, derivative, x)

    assert abs(found.claimed - found.slope) <= found.error_bar
    assert found.error_bar <= 1e-2 * found.size


@pytest.mark.parametrize("factor", [0.0, -1.0, 0.999, 2.0])
@pytest.mark.parametrize(
    ("name", "f", "derivative", "x"), SMOOTH[:4], ids=[name for name, *_ in SMOOTH[:4]]
)
def test_a_wrong_gradient_does_not(
    name: str, f: Function, derivative: Function, x: Any, factor: float
) -> None:
    found = _integral(f, lambda x: factor * derivative(x), x)

    assert abs(found.claimed - found.slope) > 10 * found.error_bar
    assert found.claimed == pytest.approx(factor * found.slope, rel=1e-5)


def test_in_float32_the_bar_is_a_few_roundings() -> None:
    found = _integral(np.sin, np.cos, np.full(64, 0.7, np.float32))

    assert found.error_bar <= 1e-6 * abs(found.slope)


def test_the_slope_is_the_mean_over_the_segment() -> None:
    found = _integral(np.exp, np.exp, 1.0, reach=0.5)

    low, high = 1 - 0.9 * 0.5, 1 + 0.5
    assert found.slope == pytest.approx((np.exp(high) - np.exp(low)) / (high - low), rel=1e-12)


def test_a_tiny_leaf_is_asked_along_a_long_way() -> None:
    line = _line(np.cos, lambda x: -np.sin(x), 1e-8)

    assert integrate(line, 1.0, goal=GOAL) is None
    assert integrate(line, 2.0**24, goal=GOAL) is not None


def test_from_a_tiny_leaf_a_long_way_goes_to_one_side() -> None:
    found = _integral(lambda x: x * x, lambda x: 2 * x, 1e-8, reach=2.0**24)

    assert found.claimed == pytest.approx(found.slope, rel=1e-12)
    assert found.slope > 0.05  # an even function would cancel on both sides


def test_noise_that_hides_the_goal_asks_for_no_gradient() -> None:
    asked = []

    def derivative(x: Any) -> Any:
        asked.append(1)
        return np.cos(x)

    line = _line(np.sin, derivative, 0.7)
    before = len(asked)

    assert integrate(line, 1.0, goal=GOAL, level=1e-2) is None
    assert len(asked) == before
    assert integrate(line, 1.0, goal=GOAL) is not None


@pytest.mark.filterwarnings("error")
def test_a_segment_that_leaves_the_domain_says_nothing() -> None:
    assert integrate(_line(np.log, lambda x: 1 / x, 0.5), 2.0**8, goal=GOAL) is not None
    assert integrate(_line(np.log, lambda x: 1 / x, -0.5), 1.0, goal=GOAL) is None


def test_a_gradient_that_is_not_finite_on_the_way_says_nothing() -> None:
    line = _line(np.sin, lambda x: np.where(x > 0.8, np.nan, np.cos(x)), 0.7)

    assert integrate(line, 1.0, goal=GOAL) is None


def _finding(factor: float, offset: float) -> Finding:
    """Of a rule that runs in float32 only, whose values lost what a difference needs."""
    big = np.float32(offset)

    def forward(x: Any) -> Any:
        if x.dtype != np.float32:
            raise TypeError("float32 only")
        return (big + np.sin(x)) - big

    rule = Rule(forward, lambda inputs, u: u * np.float32(factor) * np.cos(inputs[0]))
    x = np.linspace(0.1, 0.9, 50, dtype=np.float32)
    return gradcheck.check(rule, x, checks="vjp").findings[0]


@pytest.mark.parametrize("offset", [5e3, 1e4])
def test_a_check_that_differences_leave_open_passes_along_a_path(offset: float) -> None:
    finding = _finding(1.0, offset)

    assert finding.verdict == "pass"
    assert finding.oracle == "path integral"
    assert "along a segment" in finding.message


@pytest.mark.parametrize("offset", [1e3, 1e4])
@pytest.mark.parametrize("factor", [-1.0, 1.1, 2.0])
def test_no_path_passes_a_wrong_gradient(factor: float, offset: float) -> None:
    assert _finding(factor, offset).verdict == "fail"


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_no_path_passes_a_gradient_that_is_missing(offset: float) -> None:
    finding = _finding(0.0, offset)  # flat at the point: rounding, or a staircase

    assert finding.verdict == "inconclusive"
    assert "the gradient is missing" in finding.message
