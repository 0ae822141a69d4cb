"""Is the JVP the derivative of the value?

Along one direction v of every leaf the target is a function f(x + Σ (tₖ - 1) vₖ) of a few numbers
tₖ, and its gradient in tₖ is ⟨u, J vₖ⟩: forward mode, taken for the VJP of that function. So the
check of VJPs answers for JVPs, leaf by leaf. A small leaf that fails is asked once more as itself,
its gradient put together from one JVP an entry: then the answer has entries and a pattern.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.tangents import not_linear
from gradcheck.checks.vjp import check_vjp
from gradcheck.errors import Unsupported
from gradcheck.probes import direction, scale
from gradcheck.problem import Arrays, Leaf, Problem, inner
from gradcheck.results import Finding, Verdict
from gradcheck.settings import Settings

__all__ = ["check_jvp"]

SMALL = 64  # entries of a leaf whose Jacobian may be asked column by column

Push = Callable[[Arrays], list[Arrays]]  # a point -> output tangents, one set a direction


def check_jvp(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf, about the tangents that it pushes forward.

    And one for each output whose tangents are not linear in them.

    Raises:
        Unsupported: the target, or something in it, has no forward mode.
    """
    problem = answers.problem
    if problem.jvp is None:
        raise Unsupported("the target has no forward mode")
    directions = tuple(
        direction(rng, leaf, scale(x))
        for leaf, x in zip(problem.leaves, problem.point, strict=True)
    )
    posed = answers.of(_along(problem, directions))
    findings = check_vjp(posed, replace(settings, probes=1), rng)
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        findings = check_vjp(posed, settings, rng)
    closer = tuple(_closer(answers, finding, settings, rng) for finding in findings)
    found = (*closer, *not_linear(answers, settings, rng))
    return tuple(replace(finding, check="jvp") for finding in found)


def _along(problem: Problem, directions: Arrays) -> Problem:
    """`problem` as a function of how far each leaf moved along its direction; one is its point.

    Not zero: an ulp of a number must move the leaf, for rounding to be measured.
    """

    def moved(t: Arrays) -> Arrays:
        return tuple(
            np.asarray(x + (float(t_) - 1.0) * v).astype(x.dtype)
            for x, v, t_ in zip(problem.point, directions, t, strict=True)
        )

    push = _pushing(problem, [_only(k, directions) for k in range(len(directions))])

    def vjp(t: Arrays, u: Arrays) -> Arrays:
        return tuple(
            np.asarray(_paired(u, pushed), dtype=t_.dtype)
            for t_, pushed in zip(t, push(moved(t)), strict=True)
        )

    def in_float64() -> Problem:
        assert problem.in_float64 is not None
        return _along(problem.in_float64(), directions)

    leaves = tuple(replace(leaf, shape=(), dtype=_real(leaf)) for leaf in problem.leaves)
    return Problem(
        name=problem.name,
        target=problem.target,
        framework=problem.framework,
        leaves=leaves,
        outputs=problem.outputs,
        point=tuple(np.asarray(1.0, dtype=_held(leaf)) for leaf in leaves),
        value=lambda t: problem.value(moved(t)),
        vjp=vjp,
        in_float64=problem.in_float64 and in_float64,
        is_native=problem.is_native,
    )


def _closer(
    answers: Answers, finding: Finding, settings: Settings, rng: np.random.Generator
) -> Finding:
    """The finding of a leaf that is off, from all its columns where it is small enough.

    Off by more than the error bar, that is: along one direction, an entry that is wrong may be off
    by less than the tolerance of all.
    """
    if not finding.mismatch > finding.resolution:
        return finding
    problem = answers.problem
    index = [leaf.path for leaf in problem.leaves].index(finding.leaf)
    if problem.point[index].size <= SMALL:
        (close,) = check_vjp(answers.of(_by_columns(problem, index)), settings, rng)
        if close.verdict is Verdict.FAIL:
            return close
        if close.verdict is Verdict.INCONCLUSIVE and finding.verdict is Verdict.FAIL:
            return close  # the one direction saw nothing of a jump
    if finding.verdict is not Verdict.FAIL:
        return finding
    return replace(finding, entries=(), message="the tangents of this leaf are pushed wrongly")


def _by_columns(problem: Problem, index: int) -> Problem:
    """`problem` as a function of one leaf, its VJP put together from JVPs."""
    leaf, x = problem.leaves[index], problem.point[index]
    units = [1.0, 1j] if "complex" in leaf.dtype else [1.0]
    zeros = tuple(np.zeros_like(other) for other in problem.point)
    columns = []
    for entry in range(x.size):
        for unit in units:
            one = np.zeros(x.size, dtype=x.dtype)
            one[entry] = unit
            columns.append((*zeros[:index], one.reshape(x.shape), *zeros[index + 1 :]))
    push = _pushing(problem, columns)

    def at(point: Arrays) -> Arrays:
        return (*problem.point[:index], *point, *problem.point[index + 1 :])

    def vjp(point: Arrays, u: Arrays) -> Arrays:
        slopes = np.array([_paired(u, pushed) for pushed in push(at(point))])
        parts = slopes.reshape(-1, len(units)) @ np.array(units)
        return (parts.astype(x.dtype).reshape(x.shape),)

    def in_float64() -> Problem:
        assert problem.in_float64 is not None
        return _by_columns(problem.in_float64(), index)

    return replace(
        problem,
        leaves=(leaf,),
        point=(x,),
        value=lambda point: problem.value(at(point)),
        vjp=vjp,
        both=None,
        in_float64=problem.in_float64 and in_float64,
        analytic=None,
    )


def _pushing(problem: Problem, directions: Sequence[Arrays]) -> Push:
    """JVPs along `directions`; what they are at the last point is kept for the next cotangent."""
    assert problem.jvp is not None
    jvp = problem.jvp
    kept: dict[tuple[bytes, ...], list[Arrays]] = {}

    def push(point: Arrays) -> list[Arrays]:
        key = tuple(x.tobytes() for x in point)
        if key not in kept:
            kept.clear()
            kept[key] = [jvp(point, tangents) for tangents in directions]
        return kept[key]

    return push


def _only(index: int, directions: Arrays) -> Arrays:
    return tuple(v if k == index else np.zeros_like(v) for k, v in enumerate(directions))


def _paired(u: Arrays, pushed: Arrays) -> float:
    return sum(inner(a, b) for a, b in zip(u, pushed, strict=True))


def _real(leaf: Leaf) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(leaf.dtype, leaf.dtype)


def _held(leaf: Leaf) -> str:
    """The dtype in which the engine holds `leaf`."""
    return "float64" if leaf.dtype == "float64" else "float32"
