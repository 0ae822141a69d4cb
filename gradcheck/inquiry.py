"""Problems in, results out: what runs the checks and counts what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np

from gradcheck.checks import CHECKS
from gradcheck.environment import describe_environment
from gradcheck.errors import GradcheckError, InputError, ShapeMismatch
from gradcheck.problem import Arrays, Problem
from gradcheck.results import CheckResult, Evaluations, Finding, Verdict
from gradcheck.settings import Settings
from gradcheck.triangulate import Difference, triangulate

__all__ = ["check_problem", "compare_problems", "not_corresponding", "unposed"]


def check_problem(
    problem: Problem, settings: Settings, checks: Sequence[str] = ("vjp",)
) -> CheckResult:
    """Return the findings of `checks` about `problem`; what the target raises is one of them."""
    started = perf_counter()
    counted, counts = _counted(problem)
    findings: list[Finding] = []
    for key in checks:
        rng = np.random.default_rng([settings.seed, *key.encode()])
        try:
            findings += CHECKS[key](counted, settings, rng)
        except ShapeMismatch as mismatch:
            findings.append(_misshapen(mismatch))
        except GradcheckError:
            raise
        except Exception as error:  # whatever the target raises is a finding about the target
            findings.append(_raised(key, error))
    excepted = tuple(
        f"{leaf.path}: declared, {reason}"
        for leaf in problem.leaves
        if (reason := settings.reason(leaf.path)) is not None
    )
    result = _result(problem.name, problem.target, settings, tuple(findings), counts, started)
    return replace(result, not_checked=(*problem.notes, *excepted))


def compare_problems(
    problems: Mapping[str, Problem],
    settings: Settings,
    *,
    name: str,
    alone: bool = False,
    arbitrate: bool = True,
) -> tuple[CheckResult, tuple[Difference, ...]]:
    """Return where `problems` disagree, and how close every pair came in every array.

    `alone` and `arbitrate` as in `triangulate`.

    Raises:
        InputError: their leaves or outputs do not correspond.
    """
    started = perf_counter()
    counted = {key: _counted(problem) for key, problem in problems.items()}
    target = next(iter(problems.values())).target
    try:
        found = triangulate(
            {key: problem for key, (problem, _) in counted.items()},
            settings,
            np.random.default_rng(settings.seed),
            alone=alone,
            arbitrate=arbitrate,
        )
    except ShapeMismatch as mismatch:
        return _result(name, target, settings, (_misshapen(mismatch),), (0, 0), started), ()
    counts = [sum(spent[k] for _, spent in counted.values()) for k in (0, 1)]
    result = _result(name, target, settings, found.findings, counts, started)
    return replace(result, odd_one_out=found.odd_one_out), found.differences


def unposed(name: str, error: Exception, settings: Settings) -> CheckResult:
    """Return the result of a target that raised before it could be made a problem."""
    return _result(name, name, settings, (_raised("value", error),), (0, 0), perf_counter())


def _result(
    name: str,
    target: str,
    settings: Settings,
    findings: tuple[Finding, ...],
    counts: Sequence[int],
    started: float,
) -> CheckResult:
    return CheckResult(
        name=name,
        target=target,
        seed=settings.seed,
        findings=findings,
        environment=describe_environment(),
        evaluations=Evaluations(forward=counts[0], vjp=counts[1]),
        elapsed_s=perf_counter() - started,
    )


def _counted(problem: Problem) -> tuple[Problem, list[int]]:
    """The same problem, and a running count of (forward, vjp) evaluations."""
    counts = [0, 0]

    def value(point: Arrays) -> Arrays:
        counts[0] += 1
        return problem.value(point)

    def vjp(point: Arrays, cotangents: Arrays) -> Arrays:
        counts[1] += 1
        return problem.vjp(point, cotangents)

    def both(point: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        counts[0] += 1
        counts[1] += 1
        return problem.value_and_vjp(point, cotangents)

    def wide(point: Arrays) -> Arrays:
        counts[0] += 1
        assert problem.wide is not None
        return problem.wide(point)

    return replace(
        problem, value=value, vjp=vjp, both=both, wide=None if problem.wide is None else wide
    ), counts


def not_corresponding(name: str, error: InputError, settings: Settings) -> CheckResult:
    """Return the failure of implementations whose outputs have different shapes."""
    finding = replace(_raised("shape", error), verdict=Verdict.FAIL, message=str(error))
    return _result(name, name, settings, (finding,), (0, 0), perf_counter())


def _misshapen(mismatch: ShapeMismatch) -> Finding:
    finding = _raised("shape", mismatch)
    message = str(mismatch)
    return replace(finding, leaf=mismatch.leaf, verdict=Verdict.FAIL, message=message)


def _raised(stage: str, error: Exception) -> Finding:
    return Finding(
        check=stage,
        leaf="",
        verdict=Verdict.ERROR,
        mismatch=float("nan"),
        resolution=float("nan"),
        tolerance=float("nan"),
        oracle="",
        message=f"the target raised {type(error).__name__}: {error}",
    )
