"""A checker is tested by what it must reject: every planted fault is found, and named."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import pytest

from gradcheck import reference
from gradcheck.reports import html
from gradcheck.results import CheckResult, Finding, Report, SuiteRecord, Verdict
from gradcheck.suites.run import Tally, draw_and_examine
from gradcheck.text import summarize
from tests.faults import reference_faults, twin_faults
from tests.faults.planting import FAMILIES, Fault, faulty_networks

FAULTS = (*reference_faults.FAULTS, *twin_faults.FAULTS)
MISSHAPEN = (*reference_faults.MISSHAPEN, *twin_faults.MISSHAPEN)
EXAMPLES = 30  # of networks that hold the fault; most are found among the first five

# What a shrunk network may have: the smallest sequences are 3 steps of 2 rows, with two states.
NUMBERS = 12
CHARACTERS = 340  # four lines of a terminal

LAYERS = [
    value
    for value in vars(reference).values()
    if is_dataclass(value) and hasattr(value, "backward")
]


@pytest.fixture(scope="module", params=FAULTS, ids=lambda fault: fault.name)
def fault(request: pytest.FixtureRequest) -> Fault:
    chosen: Fault = request.param
    return chosen


@pytest.fixture(scope="module")
def failure(fault: Fault) -> CheckResult | None:
    return _searched(fault)


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
    assert _accusation("Odd one out: <strong>{}</strong>", fault, page)


def test_is_named_in_the_summary(fault: Fault, failure: CheckResult | None) -> None:
    assert failure is not None

    summary = summarize(_report(fault, failure))

    assert fault.name in summary
    assert any(f"at {finding.leaf}" in summary for finding in _wrong(failure))
    assert _accusation("odd one out: {}", fault, summary)


@pytest.mark.parametrize("fault", MISSHAPEN, ids=lambda fault: fault.name)
def test_a_wrong_shape_is_a_finding_too(fault: Fault) -> None:
    failure = _searched(fault)

    assert failure is not None
    assert failure.verdict in (Verdict.FAIL, Verdict.ERROR)
    assert any("shape" in finding.message for finding in failure.findings)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_every_layer_has_a_fault(layer: type[Any]) -> None:
    assert any(fault.right is layer for fault in reference_faults.FAULTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_found_where_nothing_is_planted(family: str) -> None:
    tally = Tally()

    failure = draw_and_examine(
        family,
        FAMILIES[family],
        tally,
        backends=("torch",),
        examples=6,
        seed=0,
        tell=lambda done: None,
    )

    assert failure is None
    assert tally.examples >= 4


def _searched(fault: Fault) -> CheckResult | None:
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


def _wrong(failure: CheckResult) -> Iterator[Finding]:
    return (finding for finding in failure.findings if finding.verdict is Verdict.FAIL)


def _accusation(sentence: str, fault: Fault, text: str) -> bool:
    """Whether `text` accuses whom it should, and no one where there is no one to accuse."""
    start, _ = sentence.split("{}")
    return start not in text if fault.odd is None else sentence.format(fault.odd) in text


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
