"""One question each; a check is a function of a problem, the settings and a generator."""

from collections.abc import Callable, Mapping

import numpy as np

from gradcheck.checks.vjp import check_vjp
from gradcheck.problem import Problem
from gradcheck.results import Finding
from gradcheck.settings import Settings

__all__ = ["CHECKS"]

Check = Callable[[Problem, Settings, np.random.Generator], tuple[Finding, ...]]

CHECKS: Mapping[str, Check] = {"vjp": check_vjp}
