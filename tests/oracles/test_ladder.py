"""Slopes with error bars: the truth lies within, and the bar is small where it can be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.oracles.creases import fold
from gradcheck.oracles.ladder import Estimate, estimate, still
from gradcheck.probes import Line, known, scale

Function = Callable[[Any], Any]


def _line(f: Function, x: Any, claimed: Any) -> Line:
    problem = problem_of(Rule(f, lambda inputs, u: u * claimed), (np.asarray(x),))
    ones = tuple(np.ones(leaf.shape) for leaf in problem.outputs)
    return Line(
        problem=problem,
        v={0: np.ones(np.shape(x))},
        u=ones,
        asked=known(problem.vjp(problem.point, ones)),
        centre=problem.value(problem.point),
        unit=scale(problem.point[0]),
    )


def _off(truth: Estimate, slope: float) -> float:
    return abs(truth.excess(slope))


# (name, f, x, slope, a bar that must be reached, relative to the slope)
SMOOTH: list[tuple[str, Function, Any, float, float]] = [
    ("sin", np.sin, 0.7, np.cos(0.7), 1e-11),
    ("exp at 20", np.exp, 20.0, np.exp(20), 1e-9),
    ("reciprocal at 3e-6", lambda x: 1 / x, 3e-6, -1 / 3e-6**2, 1e-9),
    ("1e6 + sin", lambda x: 1e6 + np.sin(x), 0.7, np.cos(0.7), 1e-7),
    ("1e12 + x", lambda x: 1e12 + x, 0.7, 1.0, 2e-7),
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


def _softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum()


# Moved are all entries by the same amount.
@pytest.mark.parametrize("f", [_softmax, lambda x: 3 + (x - x)])
def test_a_value_that_stands_still_but_for_rounding_is_still(f: Function) -> None:
    truth = still(_line(f, np.array([0.1, 0.7, -0.4]), 0.0))

    assert truth is not None
    assert _off(truth, 0.0) <= 10 * truth.error_bar <= 1e-14


@pytest.mark.parametrize(
    ("f", "x", "claimed"),
    [
        (np.sin, 0.7, 0.0),
        (lambda x: 1e3 + 1e-10 * x, 0.7, 0.0),
        (lambda x: 1e3 + 0 * x, 0.7, 1e-10),
        (lambda x: 1 + np.maximum(x - 0.7, 0), 0.7, 0.0),
        (lambda x: 1 + np.array([1, -1]) * abs(x - 0.7), np.full(2, 0.7), 0.0),
        (lambda x: 1 + np.round(4 * x), 0.7, 0.0),
        (lambda x: 1 + np.cos(x), 0.0, 0.0),
    ],
)
def test_what_moves_or_is_claimed_to_is_not_still(f: Function, x: Any, claimed: float) -> None:
    assert still(_line(f, x, claimed)) is None


def test_a_smooth_slope_costs_six_evaluations() -> None:
    count = []

    def counted(x: Any) -> Any:
        count.append(1)
        return np.tanh(x)

    line = _line(counted, 0.3, 1 - np.tanh(0.3) ** 2)
    before = len(count)
    estimate(line)

    assert len(count) - before == 6


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
    assert fold(line).width == pytest.approx(4.0, rel=1e-3)


def test_a_smooth_function_has_no_fold() -> None:
    assert fold(_line(np.sin, 0.7, 1.0)).width == 0.0


ORDINARY: list[tuple[str, Function, Function]] = [
    ("sin", np.sin, np.cos),
    ("exp", np.exp, np.exp),
    ("tanh", np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    ("softplus", lambda x: np.logaddexp(0, x), lambda x: 1 / (1 + np.exp(-x))),
    ("square", lambda x: x * x, lambda x: 2 * x),
    ("cubic", lambda x: x**3 - 4 * x + 1, lambda x: 3 * x**2 - 4),
    ("degree nine", lambda x: x**9, lambda x: 9 * x**8),
    ("Lorentz", lambda x: 1 / (1 + x * x), lambda x: -2 * x / (1 + x * x) ** 2),
    ("Gauss", lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x)),
    ("arctan", np.arctan, lambda x: 1 / (1 + x * x)),
    ("straight", lambda x: 3 * x, lambda x: 3 + 0 * x),
    ("sin 20 x", lambda x: np.sin(20 * x), lambda x: 20 * np.cos(20 * x)),
]
POINTS = [0.3, -1.1, 2.4, 1e-3]


@pytest.mark.parametrize(("name", "f", "slope"), ORDINARY, ids=[row[0] for row in ORDINARY])
@pytest.mark.parametrize("x", POINTS)
@pytest.mark.parametrize("claim", [1.0, 1 + 1e-7, 1.5, 0.0, -1.0])
def test_the_truth_of_an_ordinary_function_lies_within_a_tiny_bar(
    name: str, f: Function, slope: Function, x: float, claim: float
) -> None:
    true = float(slope(np.longdouble(x)))

    truth = estimate(_line(f, x, claim * true))

    assert _off(truth, true) <= truth.error_bar
    # A claim that is far off needs no finer bar than a hundredth of what tells it apart.
    assert truth.error_bar <= max(1e-8, 1e-2 * abs(claim - 1)) * abs(true)
    assert truth.kink == 0


HARD: list[tuple[str, Function, float, float]] = [
    ("square at 0", lambda x: x * x, 0.0, 0.0),
    ("cube at 0", lambda x: x**3, 0.0, 0.0),
    ("cos at 0", np.cos, 0.0, 0.0),
    ("constant", lambda x: 7 + 0 * x, 0.7, 0.0),
    ("sqrt near 0", np.sqrt, 1e-8, 0.5e4),
    ("log near 0", np.log, 1e-9, 1e9),
    ("reciprocal at -3e-6", lambda x: 1 / x, -3e-6, -1 / 9e-12),
    ("exp at 300", np.exp, 300.0, np.exp(300)),
    ("exp of exp", lambda x: np.exp(np.exp(x)), 2.0, np.exp(2 + np.exp(2))),
    ("1e6 + sin at 1e3", lambda x: 1e6 + np.sin(x), 1e3, np.cos(1e3)),
    ("sin 2000 x", lambda x: np.sin(2000 * x), 0.7, 2000 * np.cos(1400)),
    ("sharp corner", lambda x: np.sqrt(x * x + 1e-8), 1e-4, 1 / 2**0.5),
    ("resonance", lambda x: 1 / ((x - 1) ** 2 + 1e-6), 1.001, -2e-3 / 4e-12),
    ("lost in one", lambda x: 1 + np.exp(-x * x), 6.0, -12 * np.exp(-36)),
    ("steep sigmoid", lambda x: np.tanh(1e4 * (x - 1)), 1.0, 1e4),
    ("1e200 sin", lambda x: 1e200 * np.sin(x), 0.7, 1e200 * np.cos(0.7)),
    ("1e-200 sin", lambda x: 1e-200 * np.sin(x), 0.7, 1e-200 * np.cos(0.7)),
    ("kink 1e-3 away", lambda x: abs(x - 0.701), 0.7, -1.0),
    ("kink 1e-6 away", lambda x: x + abs(x - 0.7 - 1e-6), 0.7, 0.0),
    ("kink 1e-3 away on a curve", lambda x: np.sin(x) + abs(x - 0.701), 0.7, np.cos(0.7) - 1),
    ("jump 1e-3 away", lambda x: np.sin(x) + (x > 0.701), 0.7, np.cos(0.7)),
    ("jump 1e-6 away", lambda x: np.sin(x) + (x > 0.7 + 1e-6), 0.7, np.cos(0.7)),
]


@pytest.mark.parametrize(("name", "f", "x", "slope"), HARD, ids=[row[0] for row in HARD])
@pytest.mark.parametrize("claim", [1.0, 1.01, 0.0])
@pytest.mark.parametrize("careful", [False, True])
def test_the_truth_of_a_hard_function_lies_within_the_bar(
    name: str, f: Function, x: float, slope: float, claim: float, careful: bool
) -> None:
    truth = estimate(_line(f, x, claim * slope), careful=careful)

    assert _off(truth, slope) <= truth.error_bar
    assert truth.error_bar <= max(1e-5, 1e-2 * abs(claim - 1)) * max(abs(slope), 1)


# (name, f, x, slope on the left, slope on the right)
KINKS: list[tuple[str, Function, float, float, float]] = [
    ("relu at 0", lambda x: np.maximum(x, 0), 0.0, 0.0, 1.0),
    ("abs at 0", np.abs, 0.0, -1.0, 1.0),
    ("abs at 3", lambda x: abs(x - 3), 3.0, -1.0, 1.0),
    ("leaky relu", lambda x: np.maximum(x, 0.2 * x), 0.0, 0.2, 1.0),
    ("on a curve", lambda x: np.exp(x) + abs(x), 0.0, 0.0, 2.0),
    ("beside 1e3", lambda x: 1e3 + abs(x - 1), 1.0, -1.0, 1.0),
    ("tiny", lambda x: 1e-9 * np.abs(x - 1), 1.0, -1e-9, 1e-9),
]


@pytest.mark.parametrize(("name", "f", "x", "left", "right"), KINKS, ids=[k[0] for k in KINKS])
def test_at_a_kink_both_slopes_lie_in_the_interval_and_little_else(
    name: str, f: Function, x: float, left: float, right: float
) -> None:
    truth = estimate(_line(f, x, left))

    width = right - left
    assert max(_off(truth, left), _off(truth, right)) <= 10 * truth.error_bar
    assert _off(truth, (left + right) / 2) == 0
    assert min(_off(truth, left - width / 10), _off(truth, right + width / 10)) > 0.09 * width


@pytest.mark.parametrize(
    ("f", "x"),
    [(np.sign, 0.0), (np.floor, 2.0), (lambda x: x + 1.0 * (x > 1), 1.0), (np.round, 0.5)],
)
def test_a_jump_at_the_point_is_flagged(f: Function, x: float) -> None:
    assert estimate(_line(f, x, 1.0)).jump


# (f, its derivative), smooth and tame, so that compositions stay in range.
PARTS: list[tuple[Function, Function]] = [
    (np.sin, np.cos),
    (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    (np.arctan, lambda x: 1 / (1 + x * x)),
    (lambda x: x / (1 + x * x), lambda x: (1 - x * x) / (1 + x * x) ** 2),
    (lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x)),
    (lambda x: np.sqrt(1 + x * x), lambda x: x / np.sqrt(1 + x * x)),
    (lambda x: np.log1p(x * x), lambda x: 2 * x / (1 + x * x)),
    (lambda x: x - 0.3 * x * x, lambda x: 1 - 0.6 * x),
]
Part = tuple[int, float, float]


@st.composite
def _parts(draw: st.DrawFn) -> list[Part]:
    coefficient = st.floats(0.25, 4).map(lambda a: round(a, 3))
    shift = st.floats(-2, 2).map(lambda b: round(b, 3))
    part = st.tuples(st.integers(0, len(PARTS) - 1), coefficient, shift)
    return draw(st.lists(part, min_size=1, max_size=4))


def _composed(parts: list[Part], x: Any) -> tuple[Any, Any]:
    """f(x) and f′(x) of the composition of a · part + b, by the chain rule."""
    slope = x * 0 + 1
    for which, a, b in parts:
        f, derivative = PARTS[which]
        slope = slope * a * derivative(x)
        x = a * f(x) + b
    return x, slope


@given(
    parts=_parts(),
    x=st.floats(0.01, 8),
    sign=st.sampled_from([1, -1]),
    claim=st.sampled_from([1.0, 1.001, 0.0, -1.0]),
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_the_truth_of_a_random_composition_lies_within_the_bar(
    parts: list[Part], x: float, sign: int, claim: float
) -> None:
    true = float(_composed(parts, np.longdouble(sign * x))[1])

    truth = estimate(_line(lambda x: _composed(parts, x)[0], sign * x, claim * true))

    # Ten bars are what the engine calls real; and the slope itself is rounded once.
    assert _off(truth, true) <= 10 * truth.error_bar + 2.0**-52 * abs(true)
