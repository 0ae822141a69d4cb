"""A result that tells when it is read: a test that reads none of it cannot have asserted it."""

from collections.abc import Callable
from typing import Any

from gradcheck.results import CheckResult

__all__ = ["read_by"]


def read_by(tell: Callable[[], object], result: CheckResult) -> CheckResult:
    """Return what is in all respects `result`, and calls `tell` when it is asked for anything."""

    class Read(CheckResult):
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            tell()
            return getattr(result, name)

    return object.__new__(Read)
