"""What a pass would have caught: the faults it claims to see are seen."""

from typing import Any

import numpy as np
import pytest

import gradcheck
from gradcheck import Rule
from gradcheck.errors import InputError
from gradcheck.results import Finding

X = np.random.default_rng(0).standard_normal((4, 3))


def _finding(x: Any = X, part: Any = (), error: float = 0.0, **options: Any) -> Finding:
    """Of a sine whose gradient has a relative error in a part of it."""

    def vjp(inputs: Any, u: Any) -> Any:
        g = np.asarray(u * np.cos(inputs[0]))
        g[part] *= 1 + error
        return g

    return gradcheck.check(Rule(np.sin, vjp), x, checks="vjp", **options).findings[0]


def _power(finding: Finding) -> dict[str, float]:
    return {power.fault: power.smallest for power in finding.power}


def test_a_pass_says_what_it_would_have_caught() -> None:
    power = _power(_finding())

    assert list(power) == ["leaf", "slice of axis 0", "slice of axis 1", "entry"]
    assert all(1e-6 < smallest < 1e-4 for smallest in power.values())


def test_what_has_no_parts_has_no_faults_in_parts() -> None:
    assert list(_power(_finding(np.array(0.7)))) == ["leaf"]
    assert list(_power(_finding(np.array([0.7, 0.2])))) == ["leaf", "entry"]
    assert list(_power(_finding(X[:1]))) == ["leaf", "slice of axis 1", "entry"]


@pytest.mark.parametrize("seed", range(5))
def test_a_fault_of_ten_times_the_stated_power_fails(seed: int) -> None:
    power = _power(_finding(seed=seed))

    for fault, part in {"leaf": (), "slice of axis 0": (2,), "entry": (1, 1)}.items():
        assert _finding(part=part, error=10 * power[fault], seed=seed).verdict == "fail"


def test_a_fault_below_the_tolerance_is_none() -> None:
    assert _finding(error=1e-8).verdict == "pass"


def test_only_a_pass_has_power() -> None:
    assert _finding(error=1.0).power == ()


def test_the_power_stated_of_one_entry_in_many_is_there() -> None:
    x = np.random.default_rng(0).standard_normal(20_000)

    smallest = _power(_finding(x))["entry"]

    assert smallest < 1e-4
    assert _finding(x, part=777, error=10 * smallest).verdict == "fail"


def test_a_coarse_tolerance_is_the_least_power() -> None:
    assert _power(_finding(rtol=0.1))["leaf"] >= 0.1


def test_a_pass_as_strong_as_asked_for_passes() -> None:
    assert _finding(min_power=1e-2).verdict == "pass"


def test_a_pass_weaker_than_asked_for_fails() -> None:
    finding = _finding(rtol=0.1, min_power=1e-2)

    assert finding.verdict == "fail"
    assert "too weak" in finding.message
    assert "min_power" in finding.message


def test_a_vacuous_pass_proves_nothing_and_states_no_power() -> None:
    rule = Rule(lambda a, b: np.sin(a), lambda i, u: (u * np.cos(i[0]), None))
    finding = gradcheck.check(rule, X, X, checks="vjp").findings[1]

    assert "vacuous" in finding.message
    assert finding.power == ()


def test_a_power_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="min_power"):
        _finding(min_power=0.0)


def test_the_noise_of_a_value_costs_power() -> None:
    """Of a value that float32 rounds inside, differences see less than of a smooth one."""

    def forward(x: Any) -> Any:
        return np.sin(x).astype(np.float32).astype(np.float64)

    rule = Rule(forward, lambda i, u: u * np.cos(i[0]))
    noisy = gradcheck.check(rule, X, checks="vjp").findings[0]

    assert noisy.verdict == "pass"
    assert _power(noisy)["leaf"] > 10 * _power(_finding())["leaf"]
