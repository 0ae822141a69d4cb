"""What rounding to half precision would hide is asked in float64 as well.

A bar of ten roundings is a third of an entry in bfloat16. That of a gradient which does not depend
on differences, but is compared with another that should be the same, is as large; and what is wrong
with the order of calls, the layout of an array or a large cotangent is mostly so in any dtype.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.problem import EPSILON, Problem
from gradcheck.results import Finding, Reason, Verdict
from gradcheck.settings import Settings

__all__ = ["widely"]

Ask = Callable[[Answers, Settings, np.random.Generator], tuple[Finding, ...]]


def widely(ask: Ask) -> Ask:
    """Return a check that asks the same in float64 of what is narrower than float32, if it can."""

    def asked(
        answers: Answers, settings: Settings, rng: np.random.Generator
    ) -> tuple[Finding, ...]:
        found = ask(answers, settings, rng)
        problem = answers.problem
        if problem.epsilon <= EPSILON["float32"] or answers.formula is None:
            return found
        if any(f.verdict in (Verdict.FAIL, Verdict.ERROR) for f in found):
            return found
        wide = answers.formula
        try:
            beside = ask(wide, settings, rng)
        except Exception:  # what it raises is not about the dtype that it was written for
            return found
        return tuple(_joined(found, beside, _of_float64(problem, wide)))

    return asked


def _of_float64(problem: Problem, wide: Answers) -> frozenset[str]:
    """Paths of what is no number of its narrow dtype: a rule may round to that itself."""
    leaves = (*problem.leaves, *problem.outputs)
    arrays = zip(leaves, (*wide.gradients(0), *wide.value), strict=True)
    return frozenset(leaf.path for leaf, a in arrays if not np.array_equal(a, leaf.rounded(a)))


def _joined(
    found: tuple[Finding, ...], beside: tuple[Finding, ...], fine: frozenset[str]
) -> Iterator[Finding]:
    """What was found in the narrow dtype; and in float64, where that failed or saw more.

    Only of what is `fine`, the others are rounded there, too.
    """
    said = "in float64, where rounding hides less: "
    failed = {f.leaf: f for f in beside if f.verdict is Verdict.FAIL and f.leaf in fine}
    passed = {f.leaf: f for f in beside if f.verdict is Verdict.PASS}
    for here in found:
        if there := failed.pop(here.leaf, None):
            yield replace(there, message=said + there.message)
        elif here.leaf in passed and not _says_enough(here):
            there = passed[here.leaf]
            yield replace(there, message=there.message or "seen in float64 only")
        else:
            yield here
    yield from (replace(there, message=said + there.message) for there in failed.values())


def _says_enough(finding: Finding) -> bool:
    return finding.verdict is Verdict.PASS and finding.reason is not Reason.VACUOUS
