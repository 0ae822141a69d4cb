"""The options that the public questions share, refused at once where they cannot be used."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

from gradcheck.checks import CHECKS
from gradcheck.errors import InputError
from gradcheck.problem import Problem
from gradcheck.settings import SEEDS, Settings

__all__ = [
    "a_count",
    "asked_by_name",
    "is_whole",
    "keywords",
    "names_of_checks",
    "require_known",
    "settled",
]


def settled(
    *,
    seed: int,
    rtol: float | None = None,
    wrt: Sequence[str] | str = (),
    declared: Mapping[str, str] | None = None,
    min_power: float | None = None,
    budget_s: float | None = None,
) -> Settings:
    """Return what a caller chose, as in `check`.

    Raises:
        InputError: an argument cannot be used; the message names it.
    """
    if not (is_whole(seed) and 0 <= seed < SEEDS):
        raise InputError(f"expected seed to be an integer from 0, below 2**63; got {seed!r}")
    return Settings(
        seed=int(seed),
        rtol=_positive("rtol", rtol, below=1.0),
        wrt=_names("wrt", wrt, "paths of leaves"),
        declared=_reasons(declared),
        min_power=_positive("min_power", min_power),
        budget_s=_positive("budget_s", budget_s),
    )


def names_of_checks(checks: Sequence[str] | str) -> tuple[str, ...]:
    """Return the checks that are meant.

    Raises:
        InputError: one of them is none.
    """
    if checks in ("default", "all"):
        return tuple(key for key, check in CHECKS.items() if check.by_default or checks == "all")
    chosen = _names("checks", checks, f"'default', 'all' or names among {sorted(CHECKS)}")
    if not chosen or any(key not in CHECKS for key in chosen):
        raise InputError(
            f"expected checks to be 'default', 'all' or names among {sorted(CHECKS)}; "
            f"got {checks!r}"
        )
    return chosen


def asked_by_name(checks: Sequence[str] | str) -> tuple[str, ...]:
    """Return the checks that must not be inconclusive."""
    return ("vjp",) if checks == "default" else names_of_checks(checks)


def keywords(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the keyword arguments of a target.

    Raises:
        InputError: they are none.
    """
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputError(f"expected kwargs to map names to arguments; got {kwargs!r:.80}")
    return dict(kwargs or {})


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


def a_count(option: str, given: Any, of: str, *, is_needed: bool = False) -> None:
    """Refuse what is no whole number from one; None, if it is needed."""
    if given is None and not is_needed:
        return
    if not is_whole(given) or given < 1:
        raise InputError(f"expected {option} to be a number of {of} from 1; got {given!r}")


def is_whole(given: Any) -> bool:
    return isinstance(given, Integral) and not isinstance(given, bool)


def _names(option: str, given: Any, of: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"expected {option} to be {of}; got {given!r}")
    return names


def _reasons(declared: Any) -> dict[str, str]:
    if declared is not None and not isinstance(declared, Mapping):
        raise InputError(
            f"expected declared to map paths of leaves to reasons; got {declared!r:.80}"
        )
    for path, reason in (declared or {}).items():
        if not (isinstance(path, str) and isinstance(reason, str) and reason.strip()):
            raise InputError(
                f"expected declared to say why the gradient of {path!r} deviates; got {reason!r}"
            )
    return dict(declared or {})


def _positive(option: str, value: Any, below: float = inf) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < below:
        limit = "above 0" if below == inf else f"between 0 and {below:g}"
        raise InputError(f"expected {option} to be a number {limit}; got {value!r}")
    return float(value)
