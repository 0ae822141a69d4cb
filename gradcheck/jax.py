"""`jax.test_util.check_grads`, `check_jvp` and `check_vjp`, answered by this package's engine.

    from gradcheck.jax import check_grads

Signatures and exceptions are JAX's: nothing is returned, and an AssertionError says what is wrong.
What differs is how a derivative is judged: against a measured error bar instead of `allclose`, and
in every entry instead of in one direction.

- `eps` is accepted and means nothing: steps are chosen from the data.
- `rtol` is this package's default when left out (1e-6 in float64, 1e-3 in float32), else it is
  honoured. `atol` is zero when left out; passed it excuses what is wrong by no more than
  `atol + rtol |entry|` in every entry of the Jacobian. Both may be dicts by dtype, as JAX has it.
- What the engine can neither confirm nor refute passes with an `InconclusiveWarning`.
- Integers, booleans and PRNG keys among the arguments are constants.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_flatten, tree_leaves, tree_map, tree_unflatten

from gradcheck.adapters import Rule, problem_of
from gradcheck.dropin import InconclusiveWarning, asked, bad, warn, warn_if_inconclusive
from gradcheck.problem import EPSILON, Problem
from gradcheck.results import Verdict
from gradcheck.settings import TOLERANCE, Settings

__all__ = ["InconclusiveWarning", "check_grads", "check_jvp", "check_vjp"]

EPS = 1e-4  # JAX's default, for the signature
MODES = ("fwd", "rev", "lin")

Tolerance = float | Mapping[Any, float] | None


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int,
    modes: Sequence[str] = ("fwd", "rev"),
    atol: Tolerance = None,
    rtol: Tolerance = None,
    eps: float | None = None,
) -> None:
    """Check the derivatives of `f` at `args` up to `order`, in all combinations of `modes`.

    Arguments are those of `jax.test_util.check_grads`.

    Raises:
        AssertionError: a derivative is wrong; the message says of which order, and where.
        TypeError: all arguments are integers, or other constants.
        ValueError: one of the modes is none.
    """
    _refuse_constants(args)
    wanted = tuple(mode for mode in MODES if mode in modes)  # of a string too, as in JAX
    if not wanted and modes:
        raise ValueError(f"expected modes among {MODES}; got {modes!r}")
    _checked(f, _canonical(tuple(args)), order, wanted, _Tolerances(atol, rtol), "")


def check_jvp(
    f: Callable[..., Any],
    f_jvp: Callable[..., Any],
    args: Sequence[Any],
    atol: Tolerance = None,
    rtol: Tolerance = None,
    eps: float = EPS,
    err_msg: str = "",
) -> None:
    """Check that `f_jvp(args, tangents)` returns `f(*args)` and its derivative along `tangents`.

    Arguments are those of `jax.test_util.check_jvp`.

    Raises:
        AssertionError: it does not.
        TypeError: all arguments are integers, or other constants.
    """
    _refuse_constants(args)
    _check_jvp(f, f_jvp, _canonical(tuple(args)), _Tolerances(atol, rtol), err_msg)


def check_vjp(
    f: Callable[..., Any],
    f_vjp: Callable[..., Any],
    args: Sequence[Any],
    atol: Tolerance = None,
    rtol: Tolerance = None,
    eps: float = EPS,
    err_msg: str = "",
) -> None:
    """Check that `f_vjp(*args)` returns `f(*args)` and a function that pulls cotangents back.

    Arguments are those of `jax.test_util.check_vjp`.

    Raises:
        AssertionError: it does not.
        TypeError: all arguments are integers, or other constants.
    """
    _refuse_constants(args)
    _check_vjp(f, f_vjp, _canonical(tuple(args)), _Tolerances(atol, rtol), err_msg)


def _refuse_constants(args: Any) -> None:
    leaves = tree_leaves(_canonical(tuple(args)))
    if leaves and not any(_is_floating(leaf) or _is_too_narrow(leaf) for leaf in leaves):
        dtypes = ", ".join(str(getattr(leaf, "dtype", type(leaf).__name__)) for leaf in leaves)
        raise TypeError(
            f"expected a floating or complex array among args; got {dtypes}: of "
            "constants there is no derivative to check"
        )


@dataclass(frozen=True, slots=True)
class _Tolerances:
    atol: Tolerance
    rtol: Tolerance

    def settings(self, args: Any) -> Settings:
        rtol = _number(self.rtol, args)
        return Settings(rtol=rtol if rtol else None)

    def absolute(self, args: Any) -> float | None:
        return _number(self.atol, args)


def _number(tolerance: Tolerance, args: Any) -> float | None:
    """The tolerance for `args`: that of the coarsest dtype among them which has one."""
    if not isinstance(tolerance, Mapping):
        return tolerance
    given = {np.dtype(key).name: value for key, value in tolerance.items()}
    names = {leaf.dtype.name for leaf in tree_leaves(args) if _is_floating(leaf)}
    return max((given[name] for name in names & given.keys()), default=None)


def _checked(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    order: int,
    modes: tuple[str, ...],
    tolerances: _Tolerances,
    words: str,
) -> None:
    """Check `f`, then, if the order says so, its derivatives as functions."""
    for mode, name in (("fwd", "JVP"), ("rev", "VJP"), ("lin", "LIN")):
        if mode not in modes:
            continue
        called = f"{name} of {words}" if words else name
        again: Callable[..., Any]
        if mode == "rev":
            _check_vjp(f, partial(jax.vjp, f), args, tolerances, called)
            again, arguments = partial(_pulled_back, f), args
        else:
            push = partial(jax.jvp if mode == "fwd" else _linearized, f)
            _check_jvp(f, push, args, tolerances, called)
            again, arguments = push, (args, _tangents(args))
        if order > 1:
            _checked(again, arguments, order - 1, modes, tolerances, called)


def _check_jvp(
    f: Callable[..., Any],
    f_jvp: Callable[..., Any],
    args: tuple[Any, ...],
    tolerances: _Tolerances,
    words: str,
) -> None:
    # What cannot be done is refused in JAX's own words, and what the rule raises is its own.
    value, tangents = f_jvp(args, _tangents(args))
    _compare_values(value, f(*args), tolerances, words)
    _compare_structures(tangents, value, f"{words} tangent".strip())
    _compare_dtypes(tangents, value, f"{words} tangent".strip())
    problem = _native(f, args) if _is_own(f_jvp, jax.jvp, f) else None
    if problem is None:
        problem = _posed(f, args, jvp=f_jvp)
    _ask(problem, "jvp", args, tolerances, f"{words} tangent".strip())


def _check_vjp(
    f: Callable[..., Any],
    f_vjp: Callable[..., Any],
    args: tuple[Any, ...],
    tolerances: _Tolerances,
    words: str,
) -> None:
    value, pullback = f_vjp(*args)
    _compare_values(value, f(*args), tolerances, words)
    _matched(pullback(_tangents(value)), args, f"{words} cotangent".strip())
    problem = _native(f, args) if _is_own(f_vjp, jax.vjp, f) else None
    if problem is None:
        problem = _posed(f, args, vjp=f_vjp)
    _ask(problem, "vjp", args, tolerances, f"{words} cotangent projection".strip())


def _ask(
    problem: Problem | None, check: str, args: Any, tolerances: _Tolerances, words: str
) -> None:
    """Let the engine answer; `words` name the derivative as JAX does.

    Raises:
        AssertionError: it is wrong.
        RuntimeError: the function raised beside its arguments.
        NotImplementedError: it has no derivative of this kind.
    """
    if narrower := {str(leaf.dtype) for leaf in tree_leaves(args) if _is_too_narrow(leaf)}:
        warn(f"{words}: not checked in {', '.join(sorted(narrower))}", InconclusiveWarning)
    if problem is None:  # nothing to differentiate, or nothing that could be
        return
    settings, atol = tolerances.settings(args), tolerances.absolute(args)
    result = asked(problem, check, settings, atol)
    if result.verdict is Verdict.ERROR:
        raise RuntimeError(str(result))
    if not result.findings:
        raise NotImplementedError(" ".join(result.not_checked))
    finding = bad(result)
    if finding is not None:
        raise AssertionError(
            f"\nNot equal to tolerance rtol={finding.tolerance:g}, atol={atol or 0:g}\n"
            f"{words}\n{result}"
        )
    warn_if_inconclusive(result)


def _compare_values(got: Any, wanted: Any, tolerances: _Tolerances, words: str) -> None:
    """A derivative returns the value too, and it is the function's.

    An output that is zero by cancellation has the rounding of the others.
    """
    primal = f"{words} primal".strip()
    _compare_structures(got, wanted, primal)
    _compare_dtypes(got, wanted, primal)
    pairs = zip(tree_leaves(got), tree_leaves(wanted), strict=True)
    floating = [(np.asarray(a), np.asarray(b)) for a, b in pairs if _is_floating(b)]
    largest = max((float(np.max(np.abs(b), initial=0.0)) for _, b in floating), default=0.0)
    for a, b in floating:
        limit = _number(tolerances.rtol, b) or TOLERANCE[b.dtype.name]
        wide = np.complex128 if np.iscomplexobj(b) else np.float64
        np.testing.assert_allclose(
            a.astype(wide),
            b.astype(wide),
            rtol=limit,
            atol=_number(tolerances.atol, b) or limit * largest,
            err_msg=primal,
        )


def _compare_structures(got: Any, wanted: Any, words: str) -> None:
    """Raise a ValueError where they are nested otherwise, as JAX does."""
    one: Any = tree_flatten(got)[1]
    other: Any = tree_flatten(wanted)[1]
    if one != other:
        raise ValueError(f"{words}: expected the structure {other}; got {one}")


def _matched(gradients: Any, args: Any, words: str = "cotangent") -> list[Any]:
    """The gradient of each leaf of `args`, None where a rule gives none."""
    leaves, tree = tree_flatten(args)
    structure: Any = tree
    try:
        found: list[Any] = structure.flatten_up_to(gradients)
    except ValueError as error:
        raise ValueError(f"{words}: expected the structure {structure}; {error}") from error
    for gradient, leaf in zip(found, leaves, strict=True):
        if gradient is not None:
            _compare_structures(gradient, leaf, words)
    return found


def _compare_dtypes(got: Any, wanted: Any, words: str) -> None:
    for a, b in zip(tree_leaves(got), tree_leaves(wanted), strict=True):
        if _is_floating(b) and np.asarray(a).dtype != b.dtype:
            raise AssertionError(f"{words}: expected {b.dtype}; got {np.asarray(a).dtype}")


def _native(f: Callable[..., Any], args: tuple[Any, ...]) -> Problem | None:
    """JAX's own derivative of `f`: the adapter knows how to compute it in float64 as well."""
    if not any(map(_is_floating, tree_leaves(args))) or not _has_outputs(f, args):
        return None
    is_module = any(isinstance(leaf, jax.Array) for leaf in tree_leaves(f))
    return problem_of((lambda *xs: f(*xs)) if is_module else f, args, name=_called(f))


def _posed(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    vjp: Callable[..., Any] | None = None,
    jvp: Callable[..., Any] | None = None,
) -> Problem | None:
    """A derivative that came as a function, of the floating leaves of `args`.

    JAX's cotangents are those of the bilinear product Σ u f, a rule's of Re Σ ū f: they are
    conjugated on the way in and out.
    """
    flat, tree = tree_flatten(args)
    places = [k for k, leaf in enumerate(flat) if _is_floating(leaf)]
    if not places or not _has_outputs(f, args):
        return None

    def filled(leaves: Sequence[Any]) -> Any:
        moved = list(flat)
        for place, leaf in zip(places, leaves, strict=True):
            moved[place] = leaf
        return tree_unflatten(tree, moved)

    def forward(*leaves: Any) -> tuple[Any, ...]:
        return tuple(y for y in tree_leaves(f(*filled(leaves))) if _is_floating(y))

    def pull(leaves: Any, cotangents: Any) -> tuple[Any, ...]:
        assert vjp is not None
        value, pullback = vjp(*filled(leaves))
        outputs, structure = tree_flatten(value)
        given = iter(cotangents)
        us = [next(given).conj() if _is_floating(y) else _nothing(y) for y in outputs]
        gradients = _matched(pullback(tree_unflatten(structure, us)), args)
        return tuple(
            jax.numpy.zeros_like(flat[k])
            if gradients[k] is None
            else jax.numpy.asarray(gradients[k]).conj()
            for k in places
        )

    def push(leaves: Any, tangents: Any) -> tuple[Any, ...]:
        assert jvp is not None
        moved = [_nothing(leaf) for leaf in flat]
        for place, tangent in zip(places, tangents, strict=True):
            moved[place] = tangent
        value, pushed = jvp(filled(leaves), tree_unflatten(tree, moved))
        pairs = zip(tree_leaves(value), tree_leaves(pushed), strict=True)
        return tuple(tangent for y, tangent in pairs if _is_floating(y))

    rule = Rule(forward, pull, push if jvp is not None else None)
    return problem_of(rule, [flat[place] for place in places], name=_called(f))


def _is_own(derivative: Any, maker: Any, f: Any) -> bool:
    """Whether it is `partial(jax.vjp, f)`, which is how JAX's documentation writes it."""
    return (
        isinstance(derivative, partial)
        and derivative.func is maker
        and derivative.args == (f,)
        and not derivative.keywords
    )


def _pulled_back(f: Callable[..., Any], *args: Any) -> list[Any]:
    """The gradients of `f`, its own value for a cotangent: a function to differentiate again."""
    value, pullback = jax.vjp(f, *args)
    gradients = pullback(tree_map(lambda y: y if _is_floating(y) else _nothing(y), value))
    return [gradient for gradient in tree_leaves(gradients) if _is_floating(gradient)]


def _linearized(f: Callable[..., Any], primals: Any, tangents: Any) -> tuple[Any, Any]:
    value, push = jax.linearize(f, *primals)
    return value, push(*tangents)


def _tangents(args: Any) -> Any:
    """The arguments themselves as tangents, and nothing where nothing can move."""
    return tree_map(lambda leaf: leaf if _is_floating(leaf) else _nothing(leaf), args)


def _nothing(leaf: Any) -> Any:
    """The tangent and cotangent of what has none."""
    return np.zeros(np.shape(leaf), jax.dtypes.float0)


def _canonical(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Python's and NumPy's numbers as JAX would take them: in float32 unless x64 is on."""
    canonical: tuple[Any, ...] = tree_map(
        lambda leaf: (
            jax.numpy.asarray(leaf)
            if isinstance(leaf, (float, complex, np.ndarray, np.generic))
            else leaf
        ),
        args,
    )
    return canonical


def _has_outputs(f: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    return any(map(_is_floating, tree_leaves(f(*args))))


def _is_floating(leaf: Any) -> bool:
    return getattr(getattr(leaf, "dtype", None), "name", "") in EPSILON


def _is_too_narrow(leaf: Any) -> bool:
    """Whether it is floating, in a dtype of a byte: not one of ours."""
    dtype = getattr(leaf, "dtype", None)
    is_inexact = dtype is not None and jax.numpy.issubdtype(dtype, np.inexact)
    return bool(is_inexact) and not _is_floating(leaf)


def _called(f: Any) -> str:
    return str(getattr(f, "__name__", None) or getattr(f, "func", type(f)).__name__)
