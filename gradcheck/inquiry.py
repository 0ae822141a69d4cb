"""Problems in, results out: what runs the checks and counts what they cost."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import ParamSpec, TypeVar

import numpy as np

from gradcheck.checks import CHECKS
from gradcheck.environment import describe_environment
from gradcheck.errors import GradcheckError, InputError, ShapeMismatch, Unsupported
from gradcheck.problem import Problem
from gradcheck.results import CheckResult, Evaluations, Finding, Verdict
from gradcheck.settings import Settings
from gradcheck.triangulate import Difference, triangulate

__all__ = ["check_problem", "compare_problems", "not_corresponding", "unposed"]


P = ParamSpec("P")
R = TypeVar("R")


def check_problem(
    problem: Problem,
    settings: Settings,
    checks: Sequence[str] = ("vjp",),
    *,
    asked: Collection[str] = ("vjp",),
) -> CheckResult:
    """Return the findings of `checks` about `problem`; what the target raises is one of them.

    What the target does not support is said under `not_checked`, and so is what a check leaves
    open that is not among those `asked` for by name: it does not make a result inconclusive.
    """
    started = perf_counter()
    counted, counts = _counted(problem)
    findings: list[Finding] = []
    left_open: list[str] = []
    for key in checks:
        rng = np.random.default_rng([settings.seed, *key.encode()])
        try:
            found = CHECKS[key].ask(counted, settings, rng)
        except Unsupported as refusal:
            left_open.append(f"{key}: {refusal}")
            continue
        except ShapeMismatch as mismatch:
            found = (_misshapen(mismatch),)
        except GradcheckError:
            raise
        except Exception as error:  # whatever the target raises is a finding about the target
            found = (_raised(key, error),)
        for finding in found:
            if finding.verdict is Verdict.INCONCLUSIVE and key not in asked:
                left_open.append(f"{key} at {finding.leaf}: {finding.message}")
            else:
                findings.append(finding)
    excepted = tuple(
        f"{leaf.path}: declared, {reason}"
        for leaf in problem.leaves
        if (reason := settings.reason(leaf.path)) is not None
    )
    result = _result(problem.name, problem.target, settings, tuple(findings), counts, started)
    return replace(result, not_checked=(*problem.notes, *excepted, *left_open))


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

    def counting(run: Callable[P, R], forward: int, vjp: int) -> Callable[P, R]:
        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            counts[0] += forward
            counts[1] += vjp
            return run(*args, **kwargs)

        return counted

    def around(problem: Problem) -> Problem:
        def in_float64() -> Problem:
            assert problem.in_float64 is not None
            return around(problem.in_float64())

        return replace(
            problem,
            value=counting(problem.value, 1, 0),
            vjp=counting(problem.vjp, 0, 1),
            both=problem.both and counting(problem.both, 1, 1),
            jvp=problem.jvp and counting(problem.jvp, 1, 0),
            second=problem.second and counting(problem.second, 0, 2),
            in_float64=problem.in_float64 and in_float64,
            analytic=problem.analytic and counting(problem.analytic, 1, 0),
        )

    return around(problem), counts


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
