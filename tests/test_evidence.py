"""What a probe says: how sharp it is, whether it sees anything, which of several says most."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.evidence import Probe, finest, relative_steps, telling
from gradcheck.oracles.ladder import estimate
from gradcheck.probes import Line, known, scale
from gradcheck.problem import EPSILON

Function = Callable[[Any], Any]
X = np.linspace(0.3, 1.1, 5)


def _probe(f: Function, gradient: Function, x: Any = X, **line: Any) -> Probe:
    problem = problem_of(Rule(f, lambda inputs, u: u * gradient(inputs[0])), (np.asarray(x),))
    ones = tuple(np.ones(leaf.shape) for leaf in problem.outputs)
    made = Line(
        problem=problem,
        v={0: np.ones(np.shape(x))},
        u=ones,
        asked=known(problem.vjp(problem.point, ones)),
        centre=problem.value(problem.point),
        unit=scale(problem.point[0]),
        **line,
    )
    return Probe(index=0, epsilon=EPSILON["float64"], line=made, truth=estimate(made))


RIGHT = _probe(np.sin, np.cos)


def _wrong(error: float) -> Probe:
    return _probe(np.sin, lambda x: (1 + error) * np.cos(x))


def test_a_right_claim_is_not_significant() -> None:
    assert not RIGHT.is_significant
    assert RIGHT.bars_off <= 10
    assert RIGHT.mismatch < 1e-12


@pytest.mark.parametrize("error", [1e-8, 1e-3, 1.0, -1.0, -2.0])
def test_a_wrong_claim_is_significant(error: float) -> None:
    probe = _wrong(error)

    assert probe.is_significant
    assert probe.excess == pytest.approx(abs(error) * abs(probe.truth.slope), rel=1e-3)
    assert not probe.is_vacuous


def test_the_resolution_is_the_smallest_error_that_is_significant() -> None:
    limit = RIGHT.resolution

    assert 0 < limit < 1e-9
    assert _wrong(30 * limit).is_significant
    assert not _wrong(limit / 30).is_significant


def test_a_value_that_is_noisy_has_a_coarser_resolution() -> None:
    noisy = _probe(lambda x: 1e8 + np.sin(x), np.cos)

    assert noisy.resolution > 1e3 * RIGHT.resolution
    assert not noisy.is_significant


def test_the_bar_holds_the_oracles_and_one_rounding_of_the_gradient() -> None:
    least = RIGHT.truth.error_bar + EPSILON["float64"] / 2 * RIGHT.line.size

    assert RIGHT.bar == RIGHT.sharp == pytest.approx(least)


def test_what_the_target_lost_to_rounding_excuses_only_a_claim_that_is_off() -> None:
    unrest = {0: np.full(5, 1e-3)}
    right, wrong = (replace(p, line=replace(p.line, unrest=unrest)) for p in (RIGHT, _wrong(1e-5)))

    assert right.bar == RIGHT.bar
    assert wrong.bar > 1e-3
    assert not wrong.is_significant
    assert _wrong(1e-5).is_significant


def test_no_excuse_covers_a_claim_that_is_far_off() -> None:
    probe = _wrong(1.0)

    assert replace(probe, line=replace(probe.line, unrest={0: np.full(5, 1e-3)})).is_significant


def test_a_value_that_does_not_depend_on_the_leaf_is_vacuous() -> None:
    probe = _probe(lambda x: np.full_like(x, 2.0), np.zeros_like)

    assert probe.is_vacuous
    assert not probe.is_significant


def test_terms_that_cancel_in_the_value_are_vacuous() -> None:
    """A shift before a softmax: its derivative is zero, and rounding is left of the claim."""

    def softmax(x: Any) -> Any:
        e = np.exp(x - x.max())
        return e / e.sum()

    def gradient(x: Any) -> Any:
        y = softmax(x)
        return y - y * y.sum()  # of the cotangent of ones

    assert _probe(softmax, gradient).is_vacuous


@pytest.mark.parametrize(
    ("f", "gradient"),
    [
        (np.sin, np.zeros_like),  # the gradient is missing
        (lambda x: np.full_like(x, 2.0), np.ones_like),  # there should be none
        (lambda x: 2 + 1e-6 * np.sin(x), np.zeros_like),  # a small one is missing
        (lambda x: 2 + 1e-6 * np.sin(x), lambda x: 1e-6 * np.cos(x)),  # a small one is right
    ],
    ids=["missing", "made up", "small and missing", "small"],
)
def test_what_has_a_gradient_or_claims_one_is_not_vacuous(f: Function, gradient: Function) -> None:
    assert not _probe(f, gradient).is_vacuous


def test_a_value_that_drowns_in_noise_is_not_vacuous() -> None:
    noise = np.random.default_rng(0)

    def f(x: Any) -> Any:
        return 1 + 1e-3 * noise.standard_normal(x.shape)

    assert not _probe(f, np.zeros_like, floor=1e-3).is_vacuous


def test_a_right_slope_at_a_kink_is_not_off_and_the_probe_not_smooth() -> None:
    probe = _probe(np.abs, lambda x: 0.5 * np.ones_like(x), np.zeros(3))

    assert probe.truth.kink > 0
    assert not probe.is_smooth
    assert not probe.is_outside(1e-6)
    assert RIGHT.is_smooth


def test_a_slope_outside_a_kink_is_outside() -> None:
    assert _probe(np.abs, lambda x: 1.5 * np.ones_like(x), np.zeros(3)).is_outside(1e-6)
    assert not _wrong(1.0).is_outside(1e-6)  # where there is no kink


def test_the_most_significant_probe_tells() -> None:
    small, large = _wrong(1e-4), _wrong(1.0)

    assert telling([small, large, RIGHT]) is large
    assert telling([]) is None


def test_the_finest_probe_is_one_that_sees() -> None:
    noisy = _probe(lambda x: 1e8 + np.sin(x), np.cos)
    vacuous = _probe(lambda x: np.full_like(x, 2.0), np.zeros_like)

    assert finest([noisy, RIGHT, vacuous]) is RIGHT
    assert finest([noisy, replace(RIGHT, is_aligned=True)]) is noisy
    assert finest([vacuous]) is None


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_steps_are_as_relative_as_the_mismatch(size: float) -> None:
    probe = _probe(lambda x: size * np.sin(x), lambda x: 0.5 * size * np.cos(x))

    assert all(step.mismatch == pytest.approx(0.5, rel=1e-3) for step in relative_steps(probe))
