"""Is the double backward the derivative of the backward?

The VJP is itself a function, of the point and of its cotangents, in which it is linear; what
differentiates it is the target's second derivative. So posed, it is a problem like any other: the
check of first derivatives answers, with its noise, kinks, location and verdicts. It is asked in
float64 where the target runs in it: a narrow VJP is rounded, and what it loses where it cancels is
no error of its derivative.
"""

from dataclasses import replace
from math import isfinite, nan

import numpy as np

from gradcheck.answers import Answers, answers_of
from gradcheck.checks.vjp import check_vjp
from gradcheck.errors import Unsupported, maybe_out_of_domain
from gradcheck.probes import direction, nudged, scale
from gradcheck.problem import Arrays, Problem, norm
from gradcheck.results import Finding, Reason, Verdict
from gradcheck.settings import Settings

__all__ = ["check_second_order"]

COTANGENTS = "cotangent of "

DETACHED = (
    "no gradient is connected to its inputs: a second derivative through this target is silently "
    "zero; mark its backward as differentiable once, so that it raises instead"
)


def check_second_order(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf and each cotangent, in which the VJP is differentiated.

    One probe settles what is right; what fails is asked again with all of them. A second
    derivative of zero, as that of a piecewise linear layer, passes without remark. A backward
    that is cut off as a whole, as every kernel's is, is inconclusive: that may be meant.

    Raises:
        Unsupported: the target is differentiable once.
    """
    problem = answers.problem
    if problem.second is None:
        raise Unsupported("a derivative written by hand has no second one")
    source = problem
    if answers.formula is not None:
        source = answers.formula.problem
        # Iterations of the target stop where its own dtype needs no more: it is held to that.
        arrays = (*problem.leaves, *problem.outputs)
        tolerance = max(settings.tolerance(array.digits) for array in arrays)
        settings = replace(settings, rtol=tolerance)
    posed = _derivative(source, answers.cotangents(0))
    remark = ""
    if _jumps(posed, rng):
        beside = replace(posed, point=nudged(rng, posed.leaves, posed.point))
        with maybe_out_of_domain():
            beside.value(beside.point)
            posed = beside
            remark = "the gradient jumps at this point, so its derivative was asked beside it"
    if settings.wrt:
        settings = replace(settings, wrt=(*settings.wrt, f"{COTANGENTS}*"))
    own = answers_of(posed, settings.seed)
    findings = check_vjp(own, replace(settings, probes=1), rng)
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        findings = check_vjp(own, settings, rng)
    return _detached(tuple(_renamed(finding, remark) for finding in findings))


def _derivative(problem: Problem, u: Arrays) -> Problem:
    """The VJP of `problem` as a function of the point and of the cotangents, at `u`."""
    second = problem.second
    assert second is not None
    count = len(problem.leaves)

    def value(point: Arrays) -> Arrays:
        return problem.vjp(point[:count], point[count:])

    def vjp(point: Arrays, w: Arrays) -> Arrays:
        in_point, in_cotangents = second(point[:count], point[count:], w)
        return (*in_point, *in_cotangents)

    return Problem(
        name=problem.name,
        target=problem.target,
        framework=problem.framework,
        leaves=(
            *problem.leaves,
            *(replace(leaf, path=COTANGENTS + leaf.path) for leaf in problem.outputs),
        ),
        outputs=tuple(replace(leaf, path=f"gradient of {leaf.path}") for leaf in problem.leaves),
        point=(*problem.point, *u),
        value=value,
        vjp=vjp,
    )


def _jumps(posed: Problem, rng: np.random.Generator) -> bool:
    """Whether the gradients do not settle near the point: the target has a kink there."""
    epsilon = posed.epsilon
    steps = [
        direction(rng, leaf, scale(x)) for leaf, x in zip(posed.leaves, posed.point, strict=True)
    ]
    centre = posed.value(posed.point)

    def change(h: float) -> float:
        lines = zip(posed.leaves, posed.point, steps, strict=True)
        with maybe_out_of_domain():
            there = posed.value(tuple(leaf.rounded(x + h * step) for leaf, x, step in lines))
            return norm(np.array([norm(a - b) for a, b in zip(there, centre, strict=True)]))
        return nan

    def settles(side: int) -> bool:
        """What is smooth changes by a factor of epsilon**0.25 less, a root by epsilon**0.125.

        Beyond the domain nothing is known.
        """
        near, far = change(side * epsilon**0.5), change(side * epsilon**0.25)
        return not isfinite(near + far) or near <= far * epsilon**0.125

    return not all(map(settles, (1, -1)))


def _renamed(finding: Finding, remark: str) -> Finding:
    if finding.reason is Reason.VACUOUS:  # a second derivative that is zero is nothing to remark on
        finding = replace(finding, message="", reason=None)
    said = "; ".join(part for part in (finding.message, remark) if part)
    return replace(finding, check="second_order", message=said)


def _detached(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """One finding instead of many where no gradient depends on anything."""
    moving = [f for f in findings if f.mismatch or f.verdict is not Verdict.PASS]
    failed = [finding for finding in findings if finding.verdict is Verdict.FAIL]
    if failed != moving or any(finding.diagnosis != "zero" for finding in failed):
        return findings
    if not any(finding.leaf.startswith(COTANGENTS) for finding in failed):
        return findings
    most = max(failed, key=lambda finding: finding.mismatch)
    return (
        replace(
            most,
            leaf="",
            verdict=Verdict.INCONCLUSIVE,
            message=DETACHED,
            diagnosis=None,
            entries=(),
        ),
    )
