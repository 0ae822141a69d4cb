"""Several reports as one: nothing is lost, nothing is counted twice, and the worst decides."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from gradcheck.errors import InputError
from gradcheck.reports.merging import merge
from gradcheck.results import CheckResult, Finding, Report, SuiteRecord, Verdict


@pytest.fixture
def passed(finding: Callable[..., Finding], result: Callable[..., CheckResult]) -> object:
    return result(finding(), name="passed")


@pytest.fixture
def failed(finding: Callable[..., Finding], result: Callable[..., CheckResult]) -> object:
    return result(finding(verdict=Verdict.FAIL, mismatch=math.nan), name="failed")


def test_shards_become_one_report(
    report: Callable[..., Report], passed: CheckResult, failed: CheckResult
) -> None:
    one, two = report(results=(passed,)), report(results=(failed,))

    merged = merge({"one.json": one, "two.json": two})

    assert [result.name for result in merged.results] == ["passed", "failed"]
    assert merged.verdict is Verdict.FAIL
    assert merged.elapsed_s == one.elapsed_s + two.elapsed_s


def test_what_is_equal_is_kept_once(report: Callable[..., Report], failed: CheckResult) -> None:
    one = report(results=(failed,), not_checked=("jax is not installed",))

    merged = merge({"one.json": one, "two.json": one})

    assert [result.name for result in merged.results] == ["failed"]
    assert merged.not_checked == ("jax is not installed",)
    assert merged.title == one.title


def test_same_check_on_two_machines_is_kept_twice_and_labelled(
    report: Callable[..., Report], passed: CheckResult
) -> None:
    elsewhere = replace(passed, environment=(("numpy", "1.26.0"), ("torch", "2.4.0")))
    reports = {
        "new": report(results=(passed,)),
        "old": report(results=(elsewhere,), environment=elsewhere.environment),
    }

    merged = merge(reports)

    assert [result.name for result in merged.results] == ["passed (new)", "passed (old)"]
    assert merged.environment == (("numpy", "2.3.1, 1.26.0"), ("torch", "2.13.0+cpu, 2.4.0"))


def test_suites_are_merged_like_results(report: Callable[..., Report]) -> None:
    def suite(examples: int) -> SuiteRecord:
        return SuiteRecord(
            name="static", examples=examples, elapsed_s=1.0, agreements=(), failures=()
        )

    reports = {label: report(suites=(suite(n),)) for label, n in (("a", 3), ("b", 5))}

    assert [s.name for s in merge(reports).suites] == ["static (a)", "static (b)"]


def test_one_report_is_itself(report: Callable[..., Report], passed: CheckResult) -> None:
    one = report(results=(passed,))

    assert merge({"one.json": one}) == one


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(InputError, match="at least one report"):
        merge({})
