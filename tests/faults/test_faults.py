"""A checker is tested by what it must reject: every planted fault is found, and named."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from math import prod

import pytest

from gradcheck.reports import html
from gradcheck.results import CheckResult, Finding, Report, SuiteRecord, Verdict
from gradcheck.suites.run import Tally, draw_and_examine
from gradcheck.text import summarize
from tests.faults import reference_faults, twin_faults
from tests.faults.planting import FAMILIES, Fault, faulty_networks

FAULTS = (*reference_faults.FAULTS, *twin_faults.FAULTS)
EXAMPLES = 30  # of networks that hold the fault; most are found among the first five

# What a shrunk network may have: the smallest sequences are 3 steps of 2 rows, with two states.
NUMBERS = 12
CHARACTERS = 300  # three lines of a terminal


@pytest.fixture(scope="module", params=FAULTS, ids=lambda fault: fault.name)
def fault(request: pytest.FixtureRequest) -> Fault:
    chosen: Fault = request.param
    return chosen


@pytest.fixture(scope="module")
def failure(fault: Fault) -> CheckResult | None:
    """What the search finds among networks with the fault, as `gradcheck run` would."""
    return draw_and_examine(
        fault.family,
        faulty_networks(fault),
        Tally(),
        backends=fault.backends,
        examples=EXAMPLES,
        seed=0,
        tell=lambda done: None,
    )


def test_is_found(failure: CheckResult | None) -> None:
    assert failure is not None
    assert failure.verdict is Verdict.FAIL


def test_names_the_odd_one_out(fault: Fault, failure: CheckResult | None) -> None:
    assert failure is not None
    assert failure.odd_one_out == fault.odd, str(failure)


def test_names_the_leaf(fault: Fault, failure: CheckResult | None) -> None:
    assert failure is not None
    assert any(fnmatchcase(finding.leaf, fault.leaf) for finding in _wrong(failure))


def test_shrinks_to_a_small_network(failure: CheckResult | None) -> None:
    assert failure is not None

    shapes = re.findall(r"shape=\(([\d, ]+)\), reach", failure.target)

    assert sum(prod(map(int, re.findall(r"\d+", shape))) for shape in shapes) <= NUMBERS
    assert len(failure.target) <= CHARACTERS


def test_shows_an_entry_that_is_wrong(failure: CheckResult | None) -> None:
    assert failure is not None
    assert any(entry.got != entry.wanted for f in _wrong(failure) for entry in f.entries)


def test_is_named_in_the_page(fault: Fault, failure: CheckResult | None) -> None:
    assert failure is not None

    page = html.page(_report(fault, failure))

    assert fault.name in page
    assert any(f"<code>{finding.leaf}</code>" in page for finding in _wrong(failure))
    assert f"Odd one out: <strong>{fault.odd}</strong>" in page


def test_is_named_in_the_summary(fault: Fault, failure: CheckResult | None) -> None:
    assert failure is not None

    summary = summarize(_report(fault, failure))

    assert fault.name in summary
    assert any(f"at {finding.leaf}" in summary for finding in _wrong(failure))
    assert f"odd one out: {fault.odd}" in summary


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_found_where_nothing_is_planted(family: str) -> None:
    tally = Tally()

    failure = draw_and_examine(
        family,
        FAMILIES[family],
        tally,
        backends=("torch",),
        examples=12,
        seed=0,
        tell=lambda done: None,
    )

    assert failure is None
    assert tally.examples >= 6


def _wrong(failure: CheckResult) -> Iterator[Finding]:
    return (finding for finding in failure.findings if finding.verdict is Verdict.FAIL)


def _report(fault: Fault, failure: CheckResult) -> Report:
    suite = SuiteRecord(
        name=fault.family, examples=EXAMPLES, elapsed_s=1.0, agreements=(), failures=(failure,)
    )
    return Report(
        title="faults",
        command="",
        created="2026-01-01T00:00:00Z",
        seed=0,
        elapsed_s=1.0,
        environment=(),
        suites=(suite,),
    )
