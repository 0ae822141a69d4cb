"""One question each; a check is a function of a problem, the settings and a generator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gradcheck.checks.vjp import check_vjp
from gradcheck.problem import Problem
from gradcheck.results import Finding
from gradcheck.settings import Settings

__all__ = ["CHECKS", "Check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one check asks, and whether it is asked by default.

    `ask` returns its findings; it raises `Unsupported` where the target cannot do what the
    question needs, which is said in the result and is no failure.
    """

    ask: Callable[[Problem, Settings, np.random.Generator], tuple[Finding, ...]]
    by_default: bool = True


CHECKS: Mapping[str, Check] = {
    "vjp": Check(ask=check_vjp),
}
