"""What changed between two reports: each way in which an answer can change, and none."""

from collections.abc import Callable

import pytest

from gradcheck.reports.changes import Kind, changes, listed
from gradcheck.results import CheckResult, Finding, Report, SuiteRecord, Verdict

Made = Callable[..., Report]


@pytest.fixture
def found(
    finding: Callable[..., Finding], result: Callable[..., CheckResult], report: Made
) -> Made:
    """Return a report of one result, `test_layer`, with findings that are changed as asked."""

    def made(*findings: dict[str, object]) -> Report:
        return report(results=(result(*(finding(**f) for f in findings), name="test_layer"),))

    return made


PASSES = {"verdict": Verdict.PASS}
FAILS = {"verdict": Verdict.FAIL, "mismatch": 0.75}
UNKNOWN = {"verdict": Verdict.INCONCLUSIVE, "message": "noise hides it"}
RAISES = {"verdict": Verdict.ERROR, "message": "the target raised ValueError: no\nmore"}


@pytest.mark.parametrize(
    ("before", "after", "kind", "is_regression"),
    [
        (PASSES, FAILS, Kind.WORSE, True),
        (PASSES, RAISES, Kind.WORSE, True),
        (PASSES, UNKNOWN, Kind.WORSE, False),  # nobody is accused
        (UNKNOWN, FAILS, Kind.WORSE, True),
        (FAILS, PASSES, Kind.BETTER, False),
        (RAISES, FAILS, Kind.BETTER, False),
        ({"resolution": 1e-12}, {"resolution": 1e-3}, Kind.COARSER, False),
    ],
)
def test_change_is_named(
    found: Made,
    before: dict[str, object],
    after: dict[str, object],
    kind: Kind,
    is_regression: bool,
) -> None:
    (change,) = changes(found(before), found(after))

    assert change.kind is kind
    assert change.is_regression is is_regression


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PASSES, PASSES),
        (FAILS, {**FAILS, "mismatch": 0.5}),
        ({"resolution": 1e-12}, {"resolution": 5e-12}),
        ({"resolution": 1e-3}, {"resolution": 1e-12}),
        ({"resolution": 0.0}, {"resolution": 1e-12}),
        ({"resolution": float("nan")}, {"resolution": float("nan")}),
    ],
)
def test_no_change_is_none(
    found: Made, before: dict[str, object], after: dict[str, object]
) -> None:
    assert changes(found(before), found(after)) == ()


def test_check_that_is_no_longer_asked_is_gone(found: Made) -> None:
    (change,) = changes(found(PASSES, {"check": "adjoint"}), found(PASSES))

    assert (change.kind, change.asked) == (Kind.GONE, "adjoint of test_layer at params.weight")
    assert not change.is_regression


@pytest.mark.parametrize(("after", "is_regression"), [(PASSES, False), (FAILS, True)])
def test_new_question_is_a_regression_if_it_fails(
    found: Made, after: dict[str, object], is_regression: bool
) -> None:
    (change,) = changes(found(), found(after))

    assert change.kind is Kind.NEW
    assert change.is_regression is is_regression


def test_suite_is_one_question(
    report: Made, result: Callable[..., CheckResult], finding: Callable[..., Finding]
) -> None:
    def of(*failures: CheckResult) -> Report:
        suite = SuiteRecord(
            name="static", examples=5, elapsed_s=1.0, agreements=(), failures=failures
        )
        return report(suites=(suite,))

    (change,) = changes(of(), of(result(finding(**FAILS))))

    assert (change.kind, change.asked) == (Kind.WORSE, "suite static")


def test_list_begins_with_the_worst_and_ends_with_a_count(found: Made) -> None:
    before = found(FAILS, {"leaf": "input[0]"}, {"leaf": "input[1]"}, {"leaf": "input[2]"})
    after = found(PASSES, {"leaf": "input[0]", **FAILS}, {"leaf": "input[1]", **RAISES})

    assert listed(changes(before, after)) == [
        "worse    pass -> FAIL    gradient of test_layer at input[0]        off by 7.5e-01",
        "worse    pass -> ERROR   gradient of test_layer at input[1]        "
        "the target raised ValueError: no",
        "gone     pass            gradient of test_layer at input[2]",
        "better   FAIL -> pass    gradient of test_layer at params.weight",
        "4 changes, 2 regressions",
    ]


def test_list_of_no_change_says_so(found: Made) -> None:
    assert listed(changes(found(PASSES), found(PASSES))) == ["0 changes, 0 regressions"]


def test_coarser_resolution_is_shown(found: Made) -> None:
    (line, _) = listed(changes(found({"resolution": 1e-12}), found({"resolution": 1e-3})))

    assert line.endswith("resolution 1e-12 -> 1e-03")
