"""Slopes with error bars: the truth lies within, and the bar is small where it can be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.oracles.ladder import Estimate, estimate, fold
from gradcheck.probes import Line

Function = Callable[[Any], Any]


def _line(f: Function, x: Any, claimed: Any) -> Line:
    problem = problem_of(Rule(f, lambda inputs, u: u * claimed), (np.asarray(x),))
    ones = tuple(np.ones(leaf.shape) for leaf in problem.outputs)
    return Line(
        problem=problem,
        index=0,
        v=np.ones(np.shape(x)),
        u=ones,
        gradient=problem.vjp(problem.point, ones)[0],
        centre=problem.value(problem.point),
    )


def _off(truth: Estimate, slope: float) -> float:
    return abs(truth.excess(slope))


# (name, f, x, slope, a bar that must be reached, relative to the slope)
SMOOTH: list[tuple[str, Function, Any, float, float]] = [
    ("sin", np.sin, 0.7, np.cos(0.7), 1e-11),
    ("exp at 20", np.exp, 20.0, np.exp(20), 1e-9),
    ("reciprocal at 3e-6", lambda x: 1 / x, 3e-6, -1 / 3e-6**2, 1e-9),
    ("1e6 + sin", lambda x: 1e6 + np.sin(x), 0.7, np.cos(0.7), 1e-7),
    ("1e12 + x", lambda x: 1e12 + x, 0.7, 1.0, 1e-7),
    ("sin 200 x", lambda x: np.sin(200 * x), 0.7, 200 * np.cos(140), 1e-9),
    ("1e-10 sin", lambda x: 1e-10 * np.sin(x), 0.7, 1e-10 * np.cos(0.7), 1e-11),
    ("sqrt at 1e-12", np.sqrt, 1e-12, 0.5e6, 1e-9),
    ("x**3 at 1e80", lambda x: x**3, 1e80, 3e160, 1e-9),
    ("kink 1e-4 away", lambda x: abs(x - 0.7001), 0.7, -1.0, 1e-9),
    ("kink 1e-7 away", lambda x: abs(x - 0.7 - 1e-7), 0.7, -1.0, 1e-6),
]


@pytest.mark.parametrize(("name", "f", "x", "slope", "bar"), SMOOTH, ids=[s[0] for s in SMOOTH])
def test_the_truth_lies_within_a_small_bar(
    name: str, f: Function, x: float, slope: float, bar: float
) -> None:
    truth = estimate(_line(f, x, slope))

    assert _off(truth, slope) <= truth.error_bar
    assert truth.error_bar <= bar * abs(slope)
    assert truth.kink == 0


def test_a_smooth_slope_costs_eight_evaluations() -> None:
    count = []

    def counted(x: Any) -> Any:
        count.append(1)
        return np.tanh(x)

    line = _line(counted, 0.3, 1 - np.tanh(0.3) ** 2)
    before = len(count)
    estimate(line)

    assert len(count) - before == 8


def test_a_kink_nearer_than_any_step_leaves_its_own_side_free() -> None:
    truth = estimate(_line(lambda x: np.maximum(x - 1.0, 0), 1.0 + 1e-11, 1.0))

    assert truth.kink == pytest.approx(1.0, abs=0.01)
    assert _off(truth, 1.0) <= 10 * truth.error_bar


def test_a_kink_at_the_point_leaves_the_interval_of_its_slopes() -> None:
    truth = estimate(_line(lambda x: np.maximum(x - 1.0, 0), 1.0, 1.0))

    assert truth.kink == pytest.approx(1.0, abs=1e-6)
    assert max(_off(truth, 0.0), _off(truth, 1.0)) <= 10 * truth.error_bar
    assert _off(truth, 1.1) == pytest.approx(0.1, abs=1e-5)
    assert _off(truth, -0.1) == pytest.approx(0.1, abs=1e-5)


def test_two_kinks_at_different_distances_are_told_from_one() -> None:
    x = np.array([0.0, 1e-6, 1.0])

    truth = estimate(_line(lambda x: np.maximum(x, 0), x, np.array([0.0, 1.0, 1.0])))

    assert _off(truth, 2.0) <= 10 * truth.error_bar
    assert _off(truth, 3.0) <= 10 * truth.error_bar
    assert _off(truth, 1.5) > 10 * truth.error_bar


def test_a_jump_at_the_point_is_said() -> None:
    assert estimate(_line(lambda x: np.floor(x), 2.0, 0.0)).jump


def test_a_jump_elsewhere_is_not() -> None:
    assert not estimate(_line(lambda x: np.floor(x), 2.3, 1.0)).jump


def test_a_value_that_is_nowhere_finite_has_no_slope() -> None:
    truth = estimate(_line(lambda x: np.where(x == 1.0, 1.0, np.nan), 1.0, 0.0))

    assert truth.error_bar == np.inf
    assert truth.kink == 0


def test_a_domain_that_ends_near_the_point_is_approached() -> None:
    x = np.array([1e-6, 1.0])

    truth = estimate(_line(np.log, x, 1 / x))

    assert _off(truth, 1e6 + 1) <= truth.error_bar < 1e-3 * 1e6


def test_outputs_that_change_their_shape_have_no_slope() -> None:
    truth = estimate(_line(lambda x: x[x > 0.5] if x[0] == 1.0 else x[:0], np.array([1.0]), 1.0))

    assert truth.error_bar == np.inf


def test_noise_that_is_known_is_in_the_bar() -> None:
    line = _line(np.sin, 0.7, np.cos(0.7))

    assert estimate(replace(line, floor=1e-6)).error_bar > 1e-8


@pytest.mark.parametrize("narrow", [np.float32, np.float16])
def test_a_staircase_is_not_taken_for_its_steps(narrow: Any) -> None:
    def inside(x: Any) -> Any:
        return np.sin(x.astype(narrow)).astype(np.float64)

    truth = estimate(_line(inside, 0.7, np.cos(0.7)), careful=True)

    assert _off(truth, np.cos(0.7)) <= 10 * truth.error_bar < 0.3


def test_kinks_of_two_outputs_that_cancel_in_the_sum_are_folded() -> None:
    x = np.array([0.0, 0.0])

    line = _line(lambda x: np.abs(x) * np.array([1.0, -1.0]), x, np.zeros(2))

    assert estimate(line).kink == 0
    assert fold(line) == pytest.approx(4.0, rel=1e-3)


def test_a_smooth_function_has_no_fold() -> None:
    assert fold(_line(np.sin, 0.7, 1.0)) == 0.0
