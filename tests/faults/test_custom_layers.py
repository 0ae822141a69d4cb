"""Layers as users write them: a slip is found at its leaf, and the layer that was meant passes."""

import pytest

import gradcheck
from gradcheck.results import CheckResult, Finding, Verdict
from tests.faults.custom_layers import SLIPS, Slip


@pytest.fixture(scope="module", params=SLIPS, ids=lambda slip: slip.name)
def slip(request: pytest.FixtureRequest) -> Slip:
    chosen: Slip = request.param
    return chosen


@pytest.fixture(scope="module")
def verdict(slip: Slip) -> CheckResult:
    return gradcheck.check(slip.wrong, *slip.inputs)


def test_is_found_at_its_leaf(slip: Slip, verdict: CheckResult) -> None:
    assert _finding(verdict, slip.leaf).verdict is Verdict.FAIL, str(verdict)


def test_the_layer_that_was_meant_passes(slip: Slip) -> None:
    result = gradcheck.check(slip.right, *slip.inputs)

    assert result.verdict is Verdict.PASS, str(result)


def test_names_its_entries(slip: Slip, verdict: CheckResult) -> None:
    found = tuple(sorted(entry.index for entry in _finding(verdict, slip.leaf).entries))

    assert found == slip.wrong_entries if slip.wrong_entries is not None else found


def test_says_what_it_looks_like(slip: Slip, verdict: CheckResult) -> None:
    diagnosis = _finding(verdict, slip.leaf).diagnosis

    assert (diagnosis or "").startswith(slip.looks_like or "")


def test_leaves_the_healthy_leaf_in_peace(slip: Slip, verdict: CheckResult) -> None:
    passed = {f.leaf for f in verdict.findings if f.verdict is Verdict.PASS}

    assert slip.healthy is None or slip.healthy in passed


def test_text_shows_leaf_and_verdict(slip: Slip, verdict: CheckResult) -> None:
    first, *_ = str(verdict).splitlines()

    assert first.startswith("FAIL  gradient of ")
    assert slip.leaf in str(verdict)


def _finding(result: CheckResult, leaf: str) -> Finding:
    return next(finding for finding in result.findings if finding.leaf == leaf)
