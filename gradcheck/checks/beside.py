"""Other points and other draws of random numbers: what the point hides shows there."""

from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.differences import Kinks
from gradcheck.checks.here import at_point
from gradcheck.errors import maybe_out_of_domain
from gradcheck.finite import is_finite
from gradcheck.probes import direction
from gradcheck.problem import Array, Leaf, listed
from gradcheck.results import Finding, Verdict
from gradcheck.settings import Settings

__all__ = ["found_at", "off_defaults", "redrawn"]


def found_at(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[tuple[Finding, ...], Kinks] | None:
    """What is found elsewhere, or of other random numbers; None where that is out of the domain.

    There the value is not finite, or the target raises, or returns as much as it drew.
    """
    with maybe_out_of_domain():
        shapes = [y.shape for y in answers.problem.outputs]
        if is_finite(answers) and [y.shape for y in answers.value] == shapes:
            return at_point(answers, settings, rng)
    return None


# How far a leaf of zeros is moved, which has no size: about as much as a parameter is drawn.
OFF = 2.0**-3


def off_defaults(
    findings: tuple[Finding, ...], answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """The findings; failures, where the gradient is wrong once leaves as at first are moved.

    A gate, a low-rank update or a branch that starts at zero multiplies what is wrong by it; a
    factor of ones, the scale of a normalisation, is not missed, nor that an identity is transposed.
    """
    problem = answers.problem
    pairs = zip(problem.leaves, problem.point, strict=True)
    first = {k for k, (leaf, x) in enumerate(pairs) if _is_default(leaf, x)}
    if not first or settings.probes < 2:
        return findings
    moved = replace(
        problem,
        point=tuple(
            leaf.rounded(x + _off(rng, leaf, x)) if k in first else x
            for k, (leaf, x) in enumerate(zip(problem.leaves, problem.point, strict=True))
        ),
    )
    beside = found_at(answers.of(moved), settings, rng)
    if beside is None:
        return findings
    names = listed([problem.leaves[k].path for k in sorted(first)])
    where = f"at the point nothing is wrong; it is once {names}, of zeros or ones, is moved: "
    return tuple(
        replace(there, message=where + there.message) if there.verdict is Verdict.FAIL else here
        for here, there in zip(findings, beside[0], strict=True)
    )


def _off(rng: np.random.Generator, leaf: Leaf, x: Array) -> Array:
    """How far a leaf is moved; an input that is symmetric may have to be, as distances are."""
    v = direction(rng, leaf, OFF)
    is_square = x.ndim == 2 and x.shape[0] == x.shape[1]
    return (v + v.T) / 2 if is_square and not leaf.path.startswith("params.") else v


def _is_default(leaf: Leaf, x: Array) -> bool:
    """Whether it is as parameters begin: zeros, ones or an identity.

    An input that is an identity is more likely to be one class for each example.
    """
    if not x.size or x.flat[0] not in (0, 1):
        return False
    if leaf.path.startswith("params.") and x.ndim == 2 and np.array_equal(x, np.eye(*x.shape)):
        return True
    return bool(np.all(x == x.flat[0]))


# How often a target that draws random numbers is given others: one that is wrong for half of them,
# where a layer was dropped, say, is then passed once in 64 times.
DRAWS = 5


def redrawn(
    findings: tuple[Finding, ...], answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """The findings; failures, where the gradient is wrong for other random numbers."""
    problem = answers.problem
    if problem.redrawn is None or settings.probes < 2:
        return findings
    found = {finding.leaf: finding for finding in findings}
    for k in range(DRAWS):
        other = found_at(answers.of(problem.redrawn(k)), replace(settings, probes=1), rng)
        if other is None:
            continue
        there, kinked = other
        message = "right for some of the random numbers that it draws; for others, "
        found |= {
            f.leaf: replace(f, message=message + (f.message or "wrong"))
            for f in there
            if f.verdict is Verdict.FAIL and f.leaf not in kinked
        }
        if any(finding.verdict is Verdict.FAIL for finding in found.values()):
            break
    return tuple(found[finding.leaf] for finding in findings)
