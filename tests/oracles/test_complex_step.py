"""The complex step sharpens what differences say, and is trusted nowhere else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gradcheck
from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.oracles.complex_step import sharpened
from gradcheck.oracles.ladder import Estimate, estimate
from gradcheck.probes import Line, known, scale
from gradcheck.results import Finding

Function = Callable[[Any], Any]


def _line(f: Function, x: Any, claimed: Any = 1.0) -> Line:
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


def _sharp(f: Function, x: Any) -> Estimate | None:
    line = _line(f, x)
    return sharpened(line, estimate(line))


@pytest.mark.parametrize(
    ("f", "x", "slope"),
    [
        (np.sin, 0.7, np.cos(0.7)),
        (np.exp, 20.0, np.exp(20.0)),
        (np.tanh, 1.3, 1 - np.tanh(1.3) ** 2),
        (lambda x: x**3 - 2 * x, -0.4, 3 * 0.16 - 2),
        (lambda x: 1 / x, 3e-6, -1 / 3e-6**2),
        (np.sqrt, 1e-12, 0.5e6),
    ],
)
def test_the_slope_of_an_analytic_function_is_exact_to_rounding(
    f: Function, x: float, slope: float
) -> None:
    truth = _sharp(f, x)

    assert truth is not None
    assert abs(truth.slope - slope) <= truth.error_bar <= 1e-13 * abs(slope)


def test_it_is_sharper_than_the_differences() -> None:
    line = _line(lambda x: 1e6 + np.sin(x), 0.7)
    truth = estimate(line)
    sharp = sharpened(line, truth)

    assert sharp is not None
    assert sharp.error_bar < 0.1 * truth.error_bar
    assert sharp.slope == pytest.approx(np.cos(0.7), rel=1e-12)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.abs(x) ** 2,  # the modulus of a complex number
        lambda x: np.real(x) * 2.0,
        lambda x: x * np.conj(x),
        lambda x: np.where(np.isrealobj(x), x**2, x**3),  # another function where it is complex
    ],
    ids=["modulus", "real part", "conjugate", "asks for the type"],
)
def test_a_function_that_is_not_analytic_gets_no_complex_step(f: Function) -> None:
    assert _sharp(f, 0.7) is None


def test_a_slope_outside_the_bar_of_the_differences_is_not_taken() -> None:
    line = _line(np.sin, 0.7)
    truth = estimate(line)

    assert sharpened(line, truth) is not None
    assert sharpened(line, replace(truth, slope=truth.slope + 1e-6)) is None


def test_a_function_that_refuses_complex_numbers_gets_no_complex_step() -> None:
    def refuses(x: Any) -> Any:
        if np.iscomplexobj(x):
            raise TypeError("real numbers only")
        return np.sin(x)

    assert _sharp(refuses, 0.7) is None


def test_a_narrow_dtype_gets_no_complex_step() -> None:
    assert _sharp(np.sin, np.float32(0.7)) is None


def _noisy(factor: float, offset: float) -> Finding:
    """Of a rule whose value is far larger than what moves of it."""
    rule = Rule(lambda x: offset + np.sin(x), lambda i, u: u * factor * np.cos(i[0]))
    return gradcheck.check(rule, np.linspace(0.1, 0.9, 4), checks="vjp").findings[0]


@pytest.mark.parametrize("offset", [1e8, 1e10, 1e12])
def test_a_check_that_differences_leave_open_passes_by_complex_steps(offset: float) -> None:
    finding = _noisy(1.0, offset)

    assert finding.verdict == "pass"
    assert finding.oracle == "complex step"
    assert finding.resolution < 1e-12


@pytest.mark.parametrize("offset", [1e8, 1e10])
@pytest.mark.parametrize("factor", [0.0, -1.0, 1.1, 2.0])
def test_a_wrong_gradient_fails_where_complex_steps_are_at_hand(
    factor: float, offset: float
) -> None:
    assert _noisy(factor, offset).verdict == "fail"


def test_a_small_error_below_the_noise_is_left_open_and_does_not_pass() -> None:
    assert _noisy(1 + 1e-5, 1e12).verdict == "inconclusive"
