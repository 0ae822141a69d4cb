"""Entries at which there is no derivative hide nothing that is wrong in the others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradcheck
from gradcheck import Rule
from gradcheck.results import Finding

Function = Callable[[Any], Any]


def _finding(f: Function, slope: Function, x: list[float], factor: float) -> Finding:
    rule = Rule(f, lambda xs, u: (factor * u * slope(xs[0]),))
    with np.errstate(invalid="ignore"):
        return gradcheck.check(rule, np.array(x), checks="vjp").findings[0]


# (f, its derivative, a point, the entries there that have none)
EDGES: dict[str, tuple[Function, Function, list[float], set[int]]] = {
    "root at zero": (lambda x: x**1.5, lambda x: 1.5 * x**0.5, [0.0, 0.4, 0.9], {0}),
    "both ends": (
        lambda x: (x * (1 - x)) ** 1.5,
        lambda x: 1.5 * (x * (1 - x)) ** 0.5 * (1 - 2 * x),
        [0.3, 1.0, 0.2, 0.0, 0.6],
        {1, 3},
    ),
    "a threshold": (
        lambda x: np.where(x >= 0, x + 1, np.sin(x)),
        lambda x: np.where(x >= 0, 1, np.cos(x)),
        [0.5, -0.9, 0.0, 0.3],
        {2},
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_what_is_right_beside_an_edge_is_said_to_be(name: str) -> None:
    f, slope, x, held = EDGES[name]

    finding = _finding(f, slope, x, 1.0)

    assert finding.verdict == "inconclusive"
    assert f"{len(held)} of {len(x)} entries lie where the value jumps" in finding.message


@pytest.mark.parametrize("name", EDGES)
def test_what_is_wrong_beside_an_edge_fails(name: str) -> None:
    f, slope, x, held = EDGES[name]

    finding = _finding(f, slope, x, 1.01)

    assert finding.verdict == "fail"
    assert not {entry.index[0] for entry in finding.entries} & held


def test_one_edge_among_many_entries_is_found() -> None:
    x = np.random.default_rng(0).uniform(0.1, 1, 3000)
    x[1234] = 0
    slope = 1.5 * x**0.5
    wrong = slope.copy()
    wrong[77] *= 1.01

    right = _finding(lambda x: x**1.5, lambda _: slope, list(x), 1.0)
    finding = _finding(lambda x: x**1.5, lambda _: wrong, list(x), 1.0)

    assert "1 of 3000 entries lie" in right.message
    assert finding.verdict == "fail"
    assert [entry.index for entry in finding.entries] == [(77,)]


def test_where_every_entry_lies_at_an_edge_nothing_is_known() -> None:
    finding = _finding(lambda x: x**1.5, lambda x: 1.5 * x**0.5, [0.0, 0.0], 1.0)

    assert finding.verdict == "inconclusive"
    assert "entries lie" not in finding.message
