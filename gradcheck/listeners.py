"""Who is told of what is checked: the pytest plugin, for its record and its report.

Told are the targets, before they are checked, and the results of the functions that people call:
not of those that these call to answer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec

from gradcheck.results import CheckResult

__all__ = ["RESULTS", "TARGETS", "heard", "told", "unheard"]

TARGETS: list[Callable[[Any], object]] = []
RESULTS: list[Callable[[CheckResult], object]] = []

P = ParamSpec("P")

_IS_WITHIN: ContextVar[bool] = ContextVar("whether a function that is heard has been called")


def heard(function: Callable[P, CheckResult]) -> Callable[P, CheckResult]:
    """Have every result of `function` told that it is called for."""

    @wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> CheckResult:
        __tracebackhide__ = True
        with unheard():
            result = function(*args, **kwargs)
        told(result)
        return result

    return asked


@contextmanager
def unheard() -> Iterator[None]:
    """Tell of no result that is found within."""
    token = _IS_WITHIN.set(True)
    try:
        yield
    finally:
        _IS_WITHIN.reset(token)


def told(result: CheckResult) -> None:
    """Tell all listeners of `result`, unless it is found on the way to another."""
    if not _IS_WITHIN.get(False):
        for listener in RESULTS:
            listener(result)
