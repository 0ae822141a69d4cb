"""What code keeps between calls is seen, and what it only reads or counts is not."""

from typing import Any

import numpy as np
import pytest

from gradcheck import Rule
from gradcheck.adapters.holdings import has_kept, inventory

CACHE: dict[str, Any] = {}
COUNT = 0


class Kept:
    last: Any = None

    def __call__(self, x: Any) -> Any:
        self.own = x * 2
        return self.own


def of_global(x: Any) -> Any:
    return CACHE.setdefault("x", x * 2)


def of_class(x: Any) -> Any:
    Kept.last = x * 2
    return Kept.last


def counting(x: Any) -> Any:
    global COUNT
    COUNT += 1
    return x * 2


def of_closure() -> Any:
    kept: list[Any] = []

    def f(x: Any) -> Any:
        kept.append(x * 2)
        return kept[0]

    return f


def _keeps(target: Any, call: Any) -> bool:
    CACHE.clear()
    Kept.last = None
    before = inventory(target)
    call(np.ones(3))
    return has_kept(before, inventory(target))


@pytest.mark.parametrize("target", [of_global, of_class, of_closure(), Kept()])
def test_an_array_that_is_put_somewhere_is_seen(target: Any) -> None:
    assert _keeps(target, target)


def test_so_it_is_behind_a_rule_and_a_function_that_it_calls() -> None:
    rule = Rule(lambda x: of_global(x), lambda xs, u: u * 2)

    assert _keeps(rule, rule.forward)


@pytest.mark.parametrize("target", [counting, np.sin, lambda x: x + np.pi])
def test_a_counter_and_a_pure_function_keep_nothing(target: Any) -> None:
    assert not _keeps(target, target)
