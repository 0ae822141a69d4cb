"""What a check costs is counted, and ends when its time is up."""

from dataclasses import replace
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pytest

import gradcheck
from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.errors import InputError, OutOfTime
from gradcheck.meter import Meter
from gradcheck.results import Evaluations

X = np.linspace(0.1, 0.9, 4)


def _counting(calls: list[str], seconds: float = 0.0) -> Rule:
    def forward(x: Any) -> Any:
        calls.append("forward")
        sleep(seconds)
        return np.sin(x)

    def vjp(inputs: Any, u: Any) -> Any:
        calls.append("vjp")
        return u * np.cos(inputs[0])

    return Rule(forward, vjp)


def test_every_value_and_vjp_is_counted() -> None:
    meter = Meter()
    problem = meter.around(problem_of(Rule(np.sin, lambda i, u: u * np.cos(i[0])), (X,)))

    problem.value(problem.point)
    problem.value(problem.point)
    gradients = problem.vjp(problem.point, (np.ones(4),))

    assert meter.evaluations == Evaluations(forward=2, vjp=1)
    np.testing.assert_allclose(gradients[0], np.cos(X))


def test_the_problem_in_float64_is_counted_by_the_same_meter() -> None:
    meter = Meter()
    rule = Rule(np.sin, lambda i, u: u * np.cos(i[0]))
    problem = meter.around(problem_of(rule, (X.astype(np.float32),)))
    assert problem.in_float64 is not None
    wide = problem.in_float64()

    wide.value(wide.point)

    assert meter.forward == 1


def test_what_the_target_cannot_do_stays_absent() -> None:
    problem = Meter().around(problem_of(Rule(np.sin, lambda i, u: u * np.cos(i[0])), (X,)))

    assert problem.jvp is None
    assert problem.second is None


def test_past_the_deadline_nothing_is_evaluated() -> None:
    calls: list[str] = []
    problem = problem_of(_counting(calls), (X,))
    meter = Meter(deadline=perf_counter() - 1)
    late, before = meter.around(problem), len(calls)

    with pytest.raises(OutOfTime):
        late.value(late.point)
    with pytest.raises(OutOfTime):
        late.vjp(late.point, (np.ones(4),))

    assert len(calls) == before
    assert meter.evaluations == Evaluations(forward=0, vjp=0)


def test_a_result_says_what_it_cost() -> None:
    calls: list[str] = []

    cost = gradcheck.check(_counting(calls), X, checks="vjp").evaluations

    assert cost.vjp == calls.count("vjp") > 0
    # To pose the problem takes one run, and a VJP runs its forward pass.
    assert cost.forward == calls.count("forward") - cost.vjp - 1


def test_what_is_not_finished_within_the_budget_is_said() -> None:
    started = perf_counter()

    result = gradcheck.check(_counting([], seconds=0.02), X, checks="vjp", budget_s=0.05)

    assert perf_counter() - started < 0.5
    assert result.verdict == "inconclusive"
    assert [f.message for f in result.findings] == ["not finished within budget_s=0.05"]


def test_of_what_was_answered_in_time_there_is_a_verdict() -> None:
    def jvp(inputs: Any, tangents: Any) -> Any:
        sleep(1.5)
        return np.cos(inputs[0]) * tangents[0]

    rule = replace(_counting([]), jvp=jvp)

    result = gradcheck.check(rule, X, checks=("vjp", "jvp"), budget_s=1.2)

    assert result.passed
    assert result.not_checked == ("jvp: not finished within budget_s=1.2",)


def test_a_budget_that_suffices_changes_nothing() -> None:
    with_budget, without = (
        gradcheck.check(_counting([]), X, checks="vjp", budget_s=budget) for budget in (60.0, None)
    )

    assert with_budget.findings == without.findings
    assert with_budget.not_checked == without.not_checked == ()


def test_a_wrong_gradient_within_the_budget_fails() -> None:
    rule = Rule(np.sin, lambda i, u: u * np.sin(i[0]))

    assert gradcheck.check(rule, X, checks="vjp", budget_s=60.0).verdict == "fail"


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="budget_s"):
        gradcheck.check(np.sin, X, budget_s=0.0)


@pytest.mark.parametrize("check", ["layout", "determinism", "state", "contract"])
def test_every_check_is_counted(check: str) -> None:
    calls: list[str] = []

    cost = gradcheck.check(_counting(calls), X, checks=check).evaluations

    assert cost.vjp == calls.count("vjp") > 0
