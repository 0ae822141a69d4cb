"""A result that tells when it is read is in all other respects that result."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gradcheck.reading import read_by
from gradcheck.records import encode
from gradcheck.results import CheckResult, Evaluations

RESULT = CheckResult(
    name="sine",
    target="sin",
    seed=7,
    findings=(),
    environment=(("numpy", "2.0"),),
    evaluations=Evaluations(forward=1, vjp=1),
    elapsed_s=0.5,
)


@pytest.mark.parametrize(
    "read",
    [lambda r: r.passed, lambda r: r.verdict, lambda r: r.findings, bool, str, repr, hash],
)
def test_reading_is_told(read: Callable[[CheckResult], Any]) -> None:
    told: list[bool] = []

    read(read_by(lambda: told.append(True), RESULT))

    assert told


@pytest.mark.parametrize(
    "same",
    [str, repr, hash, encode, copy.copy, copy.deepcopy, lambda r: r, lambda r: replace(r, seed=8)],
)
def test_it_is_that_result(same: Callable[[CheckResult], Any]) -> None:
    result = read_by(lambda: None, RESULT)

    assert isinstance(result, CheckResult)
    assert same(result) == same(RESULT)


def test_it_pickles_as_that_result() -> None:
    result = pickle.loads(pickle.dumps(read_by(lambda: None, RESULT)))

    assert type(result) is CheckResult
    assert result == RESULT
