"""Results survive JSON, whatever numbers they hold; what does not fit is refused."""

import json
import math
from collections.abc import Callable

import pytest

from gradcheck.errors import InputError
from gradcheck.records import decode, encode
from gradcheck.results import (
    SCHEMA_VERSION,
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


def result(mismatch: float = 0.5) -> CheckResult:
    finding = Finding(
        check="vjp",
        leaf="params['w']",
        verdict=Verdict.FAIL,
        mismatch=mismatch,
        resolution=1e-300,
        tolerance=1e-6,
        oracle="finite differences, float64",
        message="größer als ±1 \x1b \u2028",
        entries=(Entry(index=(2, 1), got=0.1, wanted=1 / 3, error_bar=5e-324), Entry(
            index=(), got=-0.0, wanted=1e308, error_bar=0.0)),
        diagnosis=None,
        steps=(Step(h=1e-6, mismatch=0.5, error_bar=1e-9),),
    )  # fmt: skip
    return CheckResult(
        name="layer",
        target="Layer()",
        seed=2**63 - 1,
        findings=(finding,),
        environment=(("python", "3.11"),),
        evaluations=Evaluations(forward=3, vjp=1),
        elapsed_s=0.25,
        odd_one_out="torch",
        not_checked=("input[1]: declared, on purpose",),
    )


def report() -> Report:
    agreement = Agreement(
        layer="LSTM", pair=("torch", "jax"), compared=3, worst=1e-12, tolerance=1e-6
    )
    suite = SuiteRecord(
        name="static", examples=3, elapsed_s=1.0, agreements=(agreement,), failures=(result(),)
    )
    return Report(
        title="A run",
        command="gradcheck run",
        created="2026-01-01T00:00:00Z",
        seed=0,
        elapsed_s=2.0,
        environment=(),
        suites=(suite,),
        results=(result(),),
    )


@pytest.mark.parametrize("record", [result(), report(), result().findings[0]], ids=type)
def test_record_comes_back_equal(record: object) -> None:
    assert decode(encode(record), type(record)) == record


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_number_that_is_not_finite_comes_back(value: float) -> None:
    text = encode(result(mismatch=value))

    back = decode(text, CheckResult).findings[0].mismatch
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_json_is_strict() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(encode(result(mismatch=math.nan)), parse_constant=refuse)


def changed(**changes: object) -> str:
    return json.dumps(json.loads(encode(report())) | changes)


MISUSE: list[tuple[str, Callable[[], object], str]] = [
    ("no JSON", lambda: decode("<html>", Report), "got no JSON"),
    ("empty", lambda: decode("", Report), "got no JSON"),
    ("newer", lambda: decode(changed(schema_version=SCHEMA_VERSION + 1), Report), "got 2"),
    ("list", lambda: decode("[]", Report), "schema version 1; got None"),
    ("other kind", lambda: decode(encode(report()), CheckResult), "gradcheck CheckResult"),
    ("field", lambda: decode(changed(seed="red"), Report), "$.seed"),
    ("verdict", lambda: decode(encode(result()).replace('"fail"', '"good"'), CheckResult), "good"),
]


@pytest.mark.parametrize(
    ("call", "message"), [row[1:] for row in MISUSE], ids=[r[0] for r in MISUSE]
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        call()

    assert message in str(raised.value)
