"""What code keeps between calls is seen, and what it reads, counts or overwrites is not."""

from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import Rule
from gradcheck.adapters.holdings import holdings

CACHE: dict[str, Any] = {}
COUNT = 0


class Kept:
    last: Any = None

    def __call__(self, x: Any) -> Any:
        if not hasattr(self, "own"):
            self.own = x * 2
        return self.own


class Overwriting:
    def __call__(self, x: Any) -> Any:
        self.x = x * 2
        return self.x


def of_global(x: Any) -> Any:
    return CACHE.setdefault("x", x * 2)


def of_class(x: Any) -> Any:
    if Kept.last is None:
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
    """Whether an array that the first call put somewhere is still there after the second."""
    CACHE.clear()
    Kept.last = None
    before = holdings(target)
    call(np.ones(3))
    first = holdings(target)
    call(np.ones(3))
    return bool((first.keys() - before.keys()) & holdings(target).keys())


@pytest.mark.parametrize("target", [of_global, of_class, of_closure(), Kept()])
def test_an_array_that_is_put_somewhere_is_seen(target: Any) -> None:
    assert _keeps(target, target)


def test_so_it_is_behind_a_rule_and_a_function_that_it_calls() -> None:
    rule = Rule(lambda x: of_global(x), lambda xs, u: u * 2)

    assert _keeps(rule, rule.forward)


@pytest.mark.parametrize("target", [counting, np.sin, lambda x: x + np.pi, Overwriting()])
def test_a_counter_a_pure_function_and_what_is_overwritten_keep_nothing(target: Any) -> None:
    assert not _keeps(target, target)


class Refusing(tuple[int, ...]):
    """As e3nn's irreps do."""

    def __len__(self) -> int:
        raise NotImplementedError


class Silent:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_what_refuses_to_be_looked_into_is_left_alone() -> None:
    refusing, silent = Refusing((1, 2)), Silent()

    def target(x: torch.Tensor) -> torch.Tensor:
        return x.sin() if refusing is not None and silent is not None else x

    result = gradcheck.check(target, torch.ones(2, dtype=torch.float64))

    assert result.passed, result
