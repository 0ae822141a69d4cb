"""The public questions: `check`, `assert_gradients`, `compare`."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from gradcheck.adapters import Rule, problem_of
from gradcheck.checks import CHECKS
from gradcheck.errors import GradcheckError, GradientMismatch, InputError
from gradcheck.inquiry import check_problem, compare_problems, unposed
from gradcheck.listeners import TARGETS, heard
from gradcheck.problem import Problem, label
from gradcheck.results import CheckResult
from gradcheck.settings import Settings
from gradcheck.trees import Keywords

__all__ = ["Rule", "assert_gradients", "check", "compare", "settled"]


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
        wrt=_patterns(wrt),
        declared=dict(declared or {}),
        min_power=min_power,
        budget_s=budget_s,
    )
    chosen = _checks(checks)
    for listener in TARGETS:
        listener(target)
    if kwargs:
        inputs = (*inputs, Keywords(kwargs))
    try:
        problem = problem_of(
            target, inputs, params=params, name=name, seed=seed, excepted=settings.reason_of_output
        )
    except GradcheckError:
        raise
    except Exception as error:  # whatever the target raises is a finding about the target
        return unposed(label(target, name), error, settings)
    require_known(settings, problem)
    asked = ("vjp",) if checks == "default" else chosen
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
    if not result.passed or not result.findings:
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


def settled(
    *,
    seed: int,
    rtol: float | None = None,
    wrt: tuple[str, ...] = (),
    declared: Mapping[str, str] | None = None,
    min_power: float | None = None,
    budget_s: float | None = None,
) -> Settings:
    """Return what a caller chose, as in `check`.

    Raises:
        InputError: an argument cannot be used; the message names it.
    """
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"expected seed to be an integer of at least 0; got {seed!r}")
    return Settings(
        seed=seed,
        rtol=_positive("rtol", rtol, below=1.0),
        wrt=wrt,
        declared=declared or {},
        min_power=_positive("min_power", min_power),
        budget_s=_positive("budget_s", budget_s),
    )


def _checks(checks: Sequence[str] | str) -> tuple[str, ...]:
    if checks in ("default", "all"):
        return tuple(key for key, check in CHECKS.items() if check.by_default or checks == "all")
    chosen = (checks,) if isinstance(checks, str) else tuple(checks)
    unknown = [key for key in chosen if key not in CHECKS]
    if unknown or not chosen:
        raise InputError(
            f"expected checks to be 'default', 'all' or names among {sorted(CHECKS)}; "
            f"got {checks!r}"
        )
    return chosen


def _patterns(wrt: Sequence[str] | str) -> tuple[str, ...]:
    return (wrt,) if isinstance(wrt, str) else tuple(wrt)


def require_known(settings: Settings, problem: Problem) -> None:
    """Refuse a leaf name that matches nothing: it would silently check nothing."""
    leaves = [leaf.path for leaf in problem.leaves]
    for option, patterns in (("wrt", settings.wrt), ("declared", tuple(settings.declared))):
        known = [*leaves, *problem.excepted] if option == "declared" else leaves
        for pattern in patterns:
            alone = Settings(wrt=(pattern,))
            if not any(alone.wants(path) for path in known):
                outputs = ", ".join(output.path for output in problem.outputs)
                others = f", the outputs {outputs}" * (option == "declared")
                raise InputError(
                    f"{option}={pattern!r} matches no leaf; the leaves are {leaves}{others}"
                )


def _positive(option: str, value: float | None, below: float = inf) -> float | None:
    if value is not None and not 0 < value < below:
        limit = "above 0" if below == inf else f"between 0 and {below:g}"
        raise InputError(f"expected {option} to be a number {limit}; got {value!r}")
    return value
