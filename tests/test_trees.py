"""Nested containers: every leaf has its path, and a rebuilt tree has the same shape."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from gradcheck.trees import leaves, rebuild


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True, slots=True)
class Record:
    w: Any
    b: Any = None


@dataclass
class Checked:
    x: Any
    twice: Any = field(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.x


TREES: list[tuple[str, Any, list[tuple[str, Any]]]] = [
    ("leaf", 1.0, [("", 1.0)]),
    ("none", None, [("", None)]),
    ("text", "abc", [("", "abc")]),
    ("list", [1, 2], [("[0]", 1), ("[1]", 2)]),
    ("tuple", (1, (2,)), [("[0]", 1), ("[1][0]", 2)]),
    ("dict", {"b": 1, "a": 2, 0: 3}, [("['b']", 1), ("['a']", 2), ("[0]", 3)]),
    ("ordered", OrderedDict(b=1, a=2), [("['b']", 1), ("['a']", 2)]),
    ("named tuple", Pair(1, [2]), [(".left", 1), (".right[0]", 2)]),
    ("dataclass", Record(1), [(".w", 1), (".b", None)]),
    ("init=False", Checked(1), [(".x", 1), (".twice", 2)]),
    ("dataclass type", Record, [("", Record)]),
    ("empty", {"a": [], "b": ()}, []),
    ("deep", {"a": [Record(Pair(1, 2))]}, [
        ("['a'][0].w.left", 1), ("['a'][0].w.right", 2), ("['a'][0].b", None),
    ]),
]  # fmt: skip

CASES = pytest.mark.parametrize(
    ("tree", "expected"), [row[1:] for row in TREES], ids=[row[0] for row in TREES]
)


@CASES
def test_leaves_have_paths_that_read_like_python(
    tree: Any, expected: list[tuple[str, Any]]
) -> None:
    assert list(leaves(tree)) == expected


@CASES
def test_rebuilt_with_its_own_leaves_is_equal(tree: Any, expected: list[tuple[str, Any]]) -> None:
    assert rebuild(tree, lambda _, leaf: leaf) == tree


@CASES
def test_rebuild_visits_the_same_paths(tree: Any, expected: list[tuple[str, Any]]) -> None:
    seen = []

    rebuild(tree, lambda path, leaf: seen.append((path, leaf)), "x")

    assert seen == [("x" + path, leaf) for path, leaf in expected]


@pytest.mark.parametrize("tree", [[1], (1,), Pair(1, 1), Record(1), {"a": 1}])
def test_rebuild_keeps_the_type(tree: Any) -> None:
    assert type(rebuild(tree, lambda _, leaf: leaf)) is type(tree)


def test_rebuild_leaves_the_tree_alone() -> None:
    tree = {"a": [1, Record(2)]}

    new = rebuild(tree, lambda _, leaf: 0)

    assert new == {"a": [0, Record(0, 0)]}
    assert tree == {"a": [1, Record(2)]}


def test_post_init_does_not_run_again() -> None:
    assert rebuild(Checked(1), lambda path, leaf: 5 if path == ".x" else leaf).twice == 2
