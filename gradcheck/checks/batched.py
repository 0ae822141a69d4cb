"""Do cotangents that are pulled back as one batch give what they give one by one?

Hessians, Jacobians and per-example gradients are computed by `vmap` over cotangents. What a rule
does with one array it may not do with a batch of them: a callback, a custom batching rule, an
operation that looks at a shape.
"""

from functools import cache

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.entrywise import LINEAR, compared, floor, moved, rough
from gradcheck.errors import Unsupported
from gradcheck.problem import Arrays
from gradcheck.results import Finding
from gradcheck.settings import Settings

__all__ = ["check_batched"]

BATCH = 3  # more than two, and other than most axes: a batch that is taken for one shows


def check_batched(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf; its entries have the batch as their first axis.

    Raises:
        Unsupported: the target cannot be batched, or its framework cannot.
    """
    problem = answers.problem
    if problem.batched is None:
        raise Unsupported("a derivative written by hand takes one cotangent at a time")
    point = problem.point
    draws = [answers.cotangents(k) for k in range(BATCH)]
    loop = [answers.gradients(k) for k in range(BATCH)]
    batch = problem.batched(point, _stacked(draws))

    @cache
    def restless() -> Arrays:
        found = []
        for u, centre in zip(draws, loop, strict=True):
            sides = [
                [problem.vjp(point, beside) for beside in moved(rng, problem.outputs, u, LINEAR)]
                for _ in range(BATCH)
            ]
            found.append(
                tuple(
                    rough(g, [(a[k], b[k]) for a, b in sides]) + floor(g, problem.epsilon)
                    for k, g in enumerate(centre)
                )
            )
        return _stacked(found)

    findings = []
    for k, leaf in enumerate(problem.leaves):
        if not settings.wants(leaf.path):
            continue
        wanted = np.stack([gradients[k] for gradients in loop])
        findings.append(
            compared(
                batch[k],
                wanted,
                [lambda k=k: restless()[k]],  # type: ignore[misc]
                check="batched",
                leaf=leaf,
                outputs=problem.outputs,
                settings=settings,
                oracle="one by one",
                complaint="a batch of cotangents gives other gradients than each alone",
            )
        )
    return tuple(findings)


def _stacked(sets: list[Arrays]) -> Arrays:
    """Return one array for each position, with the set as its first axis."""
    return tuple(np.stack(arrays) for arrays in zip(*sets, strict=True))
