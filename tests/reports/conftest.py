"""Records to show: each complete and plain, changed by the test that asks for it."""

import math
from collections.abc import Callable

import pytest

from gradcheck.results import (
    Agreement,
    CheckResult,
    Entry,
    Evaluations,
    Finding,
    Report,
    Step,
    SuiteRecord,
    Verdict,
)

ENVIRONMENT = (("numpy", "2.3.1"), ("torch", "2.13.0+cpu"))


def make_finding(**changes: object) -> Finding:
    plain = {
        "check": "vjp",
        "leaf": "params.weight",
        "verdict": Verdict.PASS,
        "mismatch": 3.14e-13,
        "resolution": 2e-12,
        "tolerance": 1e-5,
        "oracle": "finite differences, float64",
        "message": "",
    }
    return Finding(**(plain | changes))  # type: ignore[arg-type]


def make_result(*findings: Finding, **changes: object) -> CheckResult:
    plain = {
        "name": "Dense",
        "target": "Dense(inputs=3, outputs=2)",
        "seed": 7,
        "findings": findings,
        "environment": ENVIRONMENT,
        "evaluations": Evaluations(forward=84, vjp=9),
        "elapsed_s": 0.25,
    }
    return CheckResult(**(plain | changes))  # type: ignore[arg-type]


def make_report(**changes: object) -> Report:
    plain = {
        "title": "nightly",
        "command": "gradcheck run static",
        "created": "2026-03-02T09:14:05Z",
        "seed": 7,
        "elapsed_s": 12.25,
        "environment": ENVIRONMENT,
    }
    return Report(**(plain | changes))  # type: ignore[arg-type]


@pytest.fixture
def finding() -> Callable[..., Finding]:
    return make_finding


@pytest.fixture
def result() -> Callable[..., CheckResult]:
    return make_result


@pytest.fixture
def report() -> Callable[..., Report]:
    return make_report


@pytest.fixture
def wrong() -> Finding:
    """A weight gradient that is half of what it should be."""
    return make_finding(
        verdict=Verdict.FAIL,
        mismatch=0.5,
        message="Is the product rule applied to both factors?",
        diagnosis="constant factor 0.5",
        entries=(Entry(index=(2, 1), got=0.3, wanted=0.6, error_bar=2e-12),),
        steps=tuple(Step(h=10.0**-k, mismatch=0.5, error_bar=10.0 ** (-2 * k)) for k in range(7)),
    )


@pytest.fixture
def full(wrong: Finding) -> Report:
    """One of everything: suites that pass and fail, and single checks of all four verdicts."""
    lstm = make_result(
        wrong,
        make_finding(leaf="input[0]"),
        name="LSTM",
        target="LSTM(inputs=2, hidden=1)",
        replay="gradcheck replay --seed 7",
        odd_one_out="jax",
        not_checked=("second_order: no rule",),
    )
    raised = make_finding(
        verdict=Verdict.ERROR, mismatch=math.nan, resolution=math.nan, message="RuntimeError: no"
    )
    noisy = make_finding(
        verdict=Verdict.INCONCLUSIVE, mismatch=0.011, resolution=0.04, steps=wrong.steps
    )
    agreement = Agreement(
        layer="Dense", pair=("reference", "torch"), compared=1204, worst=2e-15, tolerance=1e-11
    )
    apart = Agreement(
        layer="LSTM", pair=("reference", "jax"), compared=7, worst=0.5, tolerance=1e-11
    )
    static = SuiteRecord(
        name="static",
        examples=1000,
        elapsed_s=10.2,
        agreements=(agreement,),
        failures=(),
        not_checked=("GroupNorm in jax: no twin",),
    )
    recurrent = SuiteRecord(
        name="recurrent", examples=200, elapsed_s=2.1, agreements=(apart,), failures=(lstm,)
    )
    return make_report(
        suites=(static, recurrent),
        results=(
            make_result(make_finding(), name="Dense of test_dense"),
            make_result(raised, name="Flash"),
            make_result(noisy, name="Softplus"),
        ),
        not_checked=("complex dtypes: no layer takes them",),
    )
