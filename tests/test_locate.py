"""Wrong entries are found, all of them, at their cost."""

from typing import Any

import numpy as np
import pytest

from gradcheck import Rule, check
from gradcheck.adapters import problem_of
from gradcheck.locate import Location, locate
from gradcheck.probes import Line, direction, known, scale

RNG = 7


def _location(wrong: Any, x: Any, rtol: float = 1e-6) -> tuple[Location, int]:
    """Where the gradient of a sum of sines is wrong, and what it cost to say so."""
    count = []

    def forward(x: Any) -> Any:
        count.append(1)
        return np.sin(x)

    def vjp(inputs: Any, u: Any) -> Any:
        g = u * np.cos(inputs[0])
        wrong(g)
        return g

    rng = np.random.default_rng(RNG)
    problem = problem_of(Rule(forward, vjp), (x,))
    u = (rng.standard_normal(x.shape),)
    line = Line(
        problem=problem,
        v={0: direction(rng, problem.leaves[0])},
        u=u,
        asked=known(problem.vjp(problem.point, u)),
        centre=problem.value(problem.point),
        unit=scale(problem.point[0]),
    )
    before = len(count)
    return locate(line, rtol=rtol, rng=rng), len(count) - before


def _normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape)


def _times(index: Any, factor: float) -> Any:
    def spoil(g: Any) -> None:
        g[index] *= factor

    return spoil


def test_a_small_leaf_is_read_entry_by_entry() -> None:
    location, _ = _location(_times((1, 2), 1.5), _normal(3, 4))

    (entry,) = location.entries
    assert entry.index == (1, 2)
    assert entry.got / entry.wanted == pytest.approx(1.5)
    assert abs(entry.got / 1.5 - entry.wanted) <= entry.error_bar
    assert len(location.read) == 12
    assert location.complete


@pytest.mark.parametrize("index", [0, 777, 9999])
def test_one_entry_of_ten_thousand_is_found_in_a_few_hundred_evaluations(index: int) -> None:
    location, cost = _location(_times(index, 1.001), _normal(10_000))

    assert [entry.index for entry in location.entries] == [(index,)]
    assert cost < 600


def test_three_entries_of_a_thousand_are_found() -> None:
    location, _ = _location(_times([3, 500, 501], 0.0), _normal(1000))

    assert sorted(entry.index for entry in location.entries) == [(3,), (500,), (501,)]


def test_a_fault_everywhere_is_seen_in_a_sample() -> None:
    location, cost = _location(_times(slice(None), 2.0), _normal(5000))

    assert len(location.entries) == location.tested < 20
    assert not location.complete
    assert cost < 300


def test_a_right_gradient_has_no_wrong_entry() -> None:
    location, _ = _location(_times(0, 1.0), _normal(30))

    assert location.entries == ()


def test_an_error_below_the_tolerance_is_read_and_not_wrong() -> None:
    location, _ = _location(_times(2, 1 + 1e-7), _normal(5))

    assert location.entries == ()
    assert len(location.read) == 5


def test_a_small_entry_beside_large_ones_is_read_with_small_steps() -> None:
    x = np.array([1e-9, 1.0, 100.0])

    location, _ = _location(_times(0, 1.01), x)

    assert [entry.index for entry in location.entries] == [(0,)]


def test_the_largest_relative_error_comes_first() -> None:
    def spoil(g: Any) -> None:
        g *= [1.1, 3.0, 1.5]

    location, _ = _location(spoil, _normal(3))

    assert [entry.index for entry in location.entries] == [(1,), (2,), (0,)]


@pytest.mark.parametrize("index", [1, 4321, 9998])
def test_one_entry_of_ten_thousand_takes_less_than_four_hundred_evaluations(index: int) -> None:
    location, cost = _location(_times(index, 0.0), _normal(10_000))

    assert [entry.index for entry in location.entries] == [(index,)]
    assert location.complete
    assert cost < 400


@pytest.mark.parametrize("axis", [0, 1])
def test_a_whole_row_or_column_is_found(axis: int) -> None:
    index = (17, slice(None)) if axis == 0 else (slice(None), 3)

    location, _ = _location(_times(index, 1.1), _normal(40, 8) if axis == 0 else _normal(12, 40))

    assert {entry.index[axis] for entry in location.entries} == {index[axis]}
    assert location.block == (axis, index[axis])


def test_all_entries_of_a_small_leaf_are_wrong() -> None:
    location, _ = _location(_times(slice(None), -1.0), _normal(4, 5))

    assert {entry.index for entry in location.entries} == set(np.ndindex(4, 5))


def test_errors_that_cancel_in_a_sum_are_found() -> None:
    def spoil(g: Any) -> None:
        g[100] += 1e-3
        g[101] -= 1e-3

    location, _ = _location(spoil, _normal(1000))

    assert sorted(entry.index for entry in location.entries) == [(100,), (101,)]


def test_what_was_got_and_what_is_wanted_are_told() -> None:
    x = _normal(2000)

    location, _ = _location(_times(1234, 3.0), x)

    (entry,) = location.entries
    u = np.random.default_rng(RNG).standard_normal(x.shape)  # the first draw of `_location`
    assert entry.wanted == pytest.approx(u[1234] * np.cos(x[1234]), rel=1e-9)
    assert entry.got == pytest.approx(3 * entry.wanted, rel=1e-9)


def test_the_only_entry_is_found() -> None:
    location, _ = _location(_times(0, 2.0), np.array([[0.7]]))

    assert [entry.index for entry in location.entries] == [(0, 0)]


@pytest.mark.parametrize(
    ("entry", "off", "is_wrong"),
    [(1.0, 2e-6, True), (1e-5, 2e-6, False), (1e-5, 1e-3, True), (1e-8, 2e-3, True)],
)
def test_a_small_entry_is_held_to_what_a_solver_leaves(
    entry: float, off: float, is_wrong: bool
) -> None:
    """Of a leaf whose other entries are like one; never to more than a thousandth of itself."""
    slopes = np.ones(8)
    slopes[3] = entry
    claimed = slopes.copy()
    claimed[3] *= 1 + off
    rule = Rule(lambda x: np.sum(slopes * x), lambda inputs, u: u * claimed)

    result = check(rule, np.linspace(0.5, 1.5, 8), checks="vjp")

    assert result.passed is not is_wrong, result


def test_a_search_that_was_stopped_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradcheck.locate.DIRECTIONS", 60)
    wrong = np.random.default_rng(1).choice(8192, 20, replace=False)

    location, _ = _location(_times(wrong, 1.5), _normal(8192))

    assert 0 < len(location.entries) < 20
    assert not location.complete
