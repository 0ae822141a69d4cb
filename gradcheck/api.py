"""The public questions: `check`, `assert_gradients`, `compare`."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradcheck.adapters import Rule, problem_of
from gradcheck.errors import GradcheckError, GradientMismatch, InputError
from gradcheck.inquiry import check_problem, compare_problems, unposed
from gradcheck.listeners import TARGETS, heard
from gradcheck.options import asked_by_name, keywords, names_of_checks, require_known, settled
from gradcheck.problem import Problem, label
from gradcheck.results import CheckResult
from gradcheck.trees import Keywords

__all__ = ["Rule", "assert_gradients", "check", "compare"]


@heard
def check(
    target: Any,
    *inputs: Any,
    checks: Sequence[str] | str = "default",
    wrt: Sequence[str] | str = (),
    rtol: float | None = None,
    seed: int = 0,
    name: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    params: Any = None,
    declared: Mapping[str, str] | None = None,
    min_power: float | None = None,
    budget_s: float | None = None,
) -> CheckResult:
    """Return what is right and wrong about the gradients of `target` at `inputs`.

    A wrong gradient is a finding, never an exception; a target that raises is one too, with the
    verdict "error".

    Args:
        target: a callable on arrays, a PyTorch module or `autograd.Function`, a JAX function or
            module, a layer of `gradcheck.reference`, or a `Rule`.
        inputs: its positional arguments, nested as it likes. Floating and complex arrays are
            leaves (PyTorch: those that require a gradient, if any does); the rest is passed on.
        checks: names of checks, "default" or "all".
        wrt: leaf paths or shell patterns, `"params.*"`; all leaves when empty.
        rtol: how wrong an entry may be relative to itself; by default 1e-6 in float64, 1e-3 in
            float32, 8e-3 in float16, 4e-2 in bfloat16.
        seed: of all random directions, and of the target's own randomness.
        name: what to call the target in results.
        kwargs: keyword arguments of the target; floating arrays among them are leaves too, by
            path `input.name`.
        params: parameters of a reference layer; drawn from `seed` when left out.
        declared: leaf path or pattern -> why its gradient deviates on purpose (straight-through,
            stop-gradient, clipped); output path or pattern -> why it has none (a metric that is
            detached). Those are not checked, and the result says so.
        min_power: a relative error; a pass that was proved to miss one as large fails.
        budget_s: seconds of wall-clock time; what is not finished then is said to be not checked.

    Raises:
        InputError: an argument cannot be used; the message names it.
    """
    settings = settled(
        seed=seed,
        rtol=rtol,
        wrt=wrt,
        declared=declared,
        min_power=min_power,
        budget_s=budget_s,
    )
    chosen, given = names_of_checks(checks), keywords(kwargs)
    for listener in TARGETS:
        listener(target)
    if given:
        inputs = (*inputs, Keywords(given))
    try:
        problem = problem_of(
            target, inputs, params=params, name=name, seed=seed, excepted=settings.reason_of_output
        )
    except GradcheckError:
        raise
    except Exception as error:  # whatever the target raises is a finding about the target
        return unposed(label(target, name), error, settings)
    require_known(settings, problem)
    asked = asked_by_name(checks)
    if checks == "default" and problem.has_vmap_rule:
        chosen = (*chosen, "vmap")
    return check_problem(problem, settings, chosen, asked=asked)


def assert_gradients(target: Any, *inputs: Any, **options: Any) -> CheckResult:
    """Return `check(target, *inputs, **options)` if it passed.

    Raises:
        GradientMismatch: it did not, or nothing could be checked; the message is the result's
            text.
        InputError: an argument cannot be used.
    """
    __tracebackhide__ = True
    result = check(target, *inputs, **options)
    if not result.passed:
        raise GradientMismatch(str(result))
    return result


@heard
def compare(
    implementations: Mapping[str, Any],
    *inputs: Any,
    rtol: float | None = None,
    seed: int = 0,
    name: str | None = None,
) -> CheckResult:
    """Return where implementations of one function disagree, in value and gradient.

    Each is run at the same inputs (NumPy arrays, or arrays of its own framework), with the same
    cotangents; where two differ, a finite difference along their difference names the odd one out.
    Leaves, parameters of modules among them, have the values that they have in the first.

    Args:
        implementations: name -> target; two or more. Their leaves must correspond in number,
            order and shape.
        inputs: positional arguments, given to every implementation.
        rtol, seed, name: as in `check`.

    Raises:
        InputError: fewer than two implementations, or their leaves do not correspond.
    """
    if not isinstance(implementations, Mapping) or len(implementations) < 2:
        raise InputError(
            f"expected implementations to map at least two names to targets; "
            f"got {type(implementations).__name__} of "
            f"{len(implementations) if hasattr(implementations, '__len__') else 'no'} entries"
        )
    settings = settled(seed=seed, rtol=rtol)
    called, key = name or " = ".join(implementations), ""
    problems: dict[str, Problem] = {}
    try:
        for key, target in implementations.items():
            problems[key] = problem_of(target, inputs, name=key, seed=seed)
        key = ""
        return compare_problems(problems, settings, name=called)[0]
    except GradcheckError:
        raise
    except Exception as error:  # whatever one of them raises is a finding about it
        raising = key or next(filter(lambda k: _raises(problems[k]), problems), "one of them")
        return unposed(called, error, settings, hint=f"it was {raising}")


def _raises(problem: Problem) -> bool:
    try:
        problem.vjp(problem.point, problem.value(problem.point))
    except Exception:  # whatever it is, it was said
        return True
    return False
