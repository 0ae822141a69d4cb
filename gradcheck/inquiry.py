"""Problems in, results out: what runs the checks and counts what they cost."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from time import perf_counter

import numpy as np

from gradcheck.answers import answers_of
from gradcheck.checks import CHECKS
from gradcheck.environment import describe_environment
from gradcheck.errors import (
    GradcheckError,
    InputError,
    OutOfTime,
    ShapeMismatch,
    Unsupported,
    noted,
)
from gradcheck.meter import Meter
from gradcheck.problem import Problem
from gradcheck.results import CheckResult, Evaluations, Finding, Verdict
from gradcheck.settings import Settings
from gradcheck.triangulate import Difference, triangulate

__all__ = [
    "Question",
    "check_problem",
    "compare_problems",
    "conducted",
    "left_open",
    "not_corresponding",
    "of_checks",
    "raised",
    "unposed",
]


# A check that nobody asked for by name may take this long, and as many times as long as those
# before it took: no default is worth a wait that one did not ask for.
PATIENCE_S, PATIENCE = 5.0, 10.0

NOTHING = Evaluations(forward=0, vjp=0)

Question = Callable[[], tuple[Finding, ...]]


def check_problem(
    problem: Problem,
    settings: Settings,
    checks: Sequence[str] = ("vjp",),
    *,
    asked: Collection[str] = ("vjp",),
) -> CheckResult:
    """Return the findings of `checks` about `problem`; what the target raises is one of them.

    What the target does not support is said under `not_checked`, and so is what a check leaves
    open that is not among those `asked` for by name: it does not make a result inconclusive. Nor
    does what a budget leaves unfinished, once anything that was asked for is known.
    """
    meter = Meter()
    questions = of_checks(meter.around(problem), settings, checks)
    return conducted(problem, settings, questions, meter, asked=asked)


def of_checks(problem: Problem, settings: Settings, checks: Sequence[str]) -> dict[str, Question]:
    """Return what each of `checks` asks of `problem`, by the name of the check."""
    answers = answers_of(problem, settings.seed)
    return {
        key: partial(
            CHECKS[key].ask,
            answers,
            settings,
            np.random.default_rng([settings.seed, *key.encode()]),
        )
        for key in checks
    }


def conducted(
    problem: Problem,
    settings: Settings,
    questions: Mapping[str, Question],
    meter: Meter,
    *,
    asked: Collection[str],
) -> CheckResult:
    """Return what `questions` find, each by its name; `meter` counts what they evaluate.

    `asked` as in `check_problem`. A question raises `Unsupported` to say why it was not asked.
    """
    started = perf_counter()
    try:
        findings, unanswered = _asked(questions, settings, meter, started, asked)
    finally:
        problem.release()
    excepted = tuple(
        f"{leaf.path}: declared, {reason}"
        for leaf in problem.leaves
        if (reason := settings.reason(leaf.path)) is not None
    )
    cost = meter.evaluations
    result = _result(problem.name, problem.target, settings, tuple(findings), cost, started)
    return replace(result, not_checked=(*problem.notes, *excepted, *unanswered))


def _asked(
    questions: Mapping[str, Question],
    settings: Settings,
    meter: Meter,
    started: float,
    asked: Collection[str],
) -> tuple[list[Finding], list[str]]:
    """What is found, and what is left open that nobody asked for by name."""
    findings: list[Finding] = []
    unanswered: list[str] = []
    for key, question in questions.items():
        meter.deadline = _deadline(started, settings, is_asked=key in asked)
        try:
            with np.errstate(all="ignore"):  # what is not finite is said by the findings
                found = question()
        except Unsupported as refusal:
            unanswered.append(f"{key}: {refusal}")
            continue
        except OutOfTime:
            if any(finding.check in asked for finding in findings) or key not in asked:
                unanswered.append(f"{key}: {_unfinished(key, settings)}")
                continue
            found = (left_open(key, _unfinished(key, settings)),)  # no pass: nothing is known
        except ShapeMismatch as mismatch:
            found = (_misshapen(mismatch),)
            found = () if found[0].message in {f.message for f in findings} else found  # once
        except GradcheckError:
            raise
        except Exception as error:  # whatever the target raises is a finding about the target
            if key not in asked:  # its first derivative may be right, and that is what was asked
                unanswered.append(f"{key}: the target raised {type(error).__name__}: {error}")
                continue
            found = (raised(key, error),)
        for finding in found:
            if finding.verdict is Verdict.INCONCLUSIVE and key not in asked:
                unanswered.append(f"{key} at {finding.leaf}: {finding.message}")
            else:
                findings.append(finding)
    return findings, unanswered


def _deadline(started: float, settings: Settings, *, is_asked: bool) -> float:
    now = perf_counter()
    budget = inf if settings.budget_s is None else started + settings.budget_s
    patience = inf if is_asked else now + max(PATIENCE_S, PATIENCE * (now - started))
    return min(budget, patience)


def _unfinished(key: str, settings: Settings) -> str:
    if settings.budget_s is not None:
        return f"not finished within budget_s={settings.budget_s:g}"
    return f"it takes long, and was stopped; ask for it with checks={key!r}"


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
    meter = Meter()
    counted = {key: meter.around(problem) for key, problem in problems.items()}
    target = next(iter(problems.values())).target
    try:
        with np.errstate(all="ignore"):
            found = triangulate(
                counted,
                settings,
                np.random.default_rng(settings.seed),
                alone=alone,
                arbitrate=arbitrate,
            )
    except ShapeMismatch as mismatch:
        misshapen = (_misshapen(mismatch),)
        return _result(name, target, settings, misshapen, meter.evaluations, started), ()
    finally:
        for problem in problems.values():
            problem.release()
    result = _result(name, target, settings, found.findings, meter.evaluations, started)
    return replace(result, odd_one_out=found.odd_one_out), found.differences


def unposed(name: str, error: Exception, settings: Settings, *, hint: str = "") -> CheckResult:
    """Return the result of a target that raised before it could be made a problem."""
    finding = raised("value", error)
    if hint:
        finding = replace(finding, message=f"{finding.message}; {hint}")
    return _result(name, name, settings, (finding,), NOTHING, perf_counter())


def _result(
    name: str,
    target: str,
    settings: Settings,
    findings: tuple[Finding, ...],
    cost: Evaluations,
    started: float,
) -> CheckResult:
    return CheckResult(
        name=name,
        target=target,
        seed=settings.seed,
        findings=findings,
        environment=describe_environment(),
        evaluations=cost,
        elapsed_s=perf_counter() - started,
    )


def not_corresponding(name: str, error: InputError, settings: Settings) -> CheckResult:
    """Return the failure of implementations whose outputs have different shapes."""
    finding = replace(raised("shape", error), verdict=Verdict.FAIL, message=str(error))
    return _result(name, name, settings, (finding,), NOTHING, perf_counter())


def _misshapen(mismatch: ShapeMismatch) -> Finding:
    finding = raised("shape", mismatch)
    return replace(finding, leaf=mismatch.leaf, verdict=Verdict.FAIL, message=noted(mismatch))


def raised(stage: str, error: Exception) -> Finding:
    """Return the finding about a target that raised."""
    return Finding(
        check=stage,
        leaf="",
        verdict=Verdict.ERROR,
        mismatch=float("nan"),
        resolution=float("nan"),
        tolerance=float("nan"),
        oracle="",
        message=f"the target raised {type(error).__name__}: {noted(error)}",
    )


def left_open(check: str, message: str, leaf: str = "") -> Finding:
    """Return what is said of what could not be asked."""
    finding = raised(check, Exception())
    return replace(finding, leaf=leaf, verdict=Verdict.INCONCLUSIVE, message=message)
