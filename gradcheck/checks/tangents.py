"""Is the JVP linear in its tangents?

The question that is asked of the VJP and its cotangents, with both sides exchanged: what goes in
are tangents of the leaves, what comes out are those of the outputs. Only a rule that somebody wrote
may clip them, drop small ones, or multiply two of them; and random tangents do not show it.
"""

from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers, answers_of
from gradcheck.checks.linearity import check_linearity
from gradcheck.problem import Arrays, Problem, posed_in_float64
from gradcheck.results import Finding, Verdict
from gradcheck.settings import Settings

__all__ = ["not_linear"]


def not_linear(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return the failures of outputs whose tangents are not linear in those of the leaves.

    Raises:
        Unsupported: the target, or something in it, has no forward mode.
    """
    problem = answers.problem
    if problem.jvp is None or not problem.has_rules_of_its_own():
        return ()
    exchanged = answers_of(_exchanged(problem, answers.value), settings.seed)
    found = check_linearity(exchanged, replace(settings, wrt=(), declared={}), rng)
    return tuple(
        replace(
            finding,
            oracle="linearity, forward mode",
            message=f"in forward mode, of tangents for cotangents and gradients: {finding.message}",
        )
        for finding in found.values()
        if finding.verdict is Verdict.FAIL
    )


def _exchanged(problem: Problem, value: Arrays) -> Problem:
    """The JVP of `problem` at its point as the VJP of one whose leaves are the outputs."""
    assert problem.jvp is not None
    jvp, point = problem.jvp, problem.point

    def in_float64() -> Problem:
        wide = posed_in_float64(problem)
        assert wide is not None
        return _exchanged(wide, wide.value(wide.point))

    return Problem(
        name=problem.name,
        target=problem.target,
        framework=problem.framework,
        leaves=problem.outputs,
        outputs=problem.leaves,
        point=value,
        value=lambda y: point,
        vjp=lambda y, tangents: jvp(point, tangents),
        in_float64=problem.in_float64 and in_float64,
        is_native=problem.is_native,
    )
