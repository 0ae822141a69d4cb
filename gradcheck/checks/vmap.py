"""Does a batch of examples give what each of them gives alone?

`vmap` of a target runs its batching rules, some of which an author may have written: for leaves of
which some have the batch axis and others have not, or have it elsewhere than in front. Values and
gradients are compared with those of a loop.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.entrywise import compared, rounded_away
from gradcheck.checks.parity import Question, failing
from gradcheck.checks.state import groups
from gradcheck.errors import Unsupported
from gradcheck.probes import direction
from gradcheck.problem import Array, Arrays, Problem, listed
from gradcheck.results import Finding, Verdict
from gradcheck.settings import Settings

__all__ = ["check_vmap"]

BATCH = 3  # more than two, and other than most axes: a batch that is taken for one shows

DRAWS = (
    "random numbers are drawn, in a batch maybe others for each example: a rule of one's own "
    "must do as info.randomness says"
)

APART = 2.0**-4  # how far examples are from the point, of each entry: a zero stays one


def check_vmap(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf, and one for each output that differs.

    Entries have the batch as their first axis, but for the gradient of a leaf that had none.

    A target that has a batching rule of its own, which raises anything but a NotImplementedError,
    fails.

    Raises:
        Unsupported: the target cannot be batched, or its framework cannot.
    """
    problem = answers.problem
    if problem.mapped is None:
        raise Unsupported("a derivative written by hand takes one example at a time")
    others = [
        tuple(
            leaf.rounded(x * (1 + APART * direction(rng, leaf)))
            for leaf, x in zip(problem.leaves, problem.point, strict=True)
        )
        for _ in range(BATCH - 1)
    ]
    asked = partial(_asked, answers, (problem.point, *others), settings, rng)
    everything = range(len(problem.leaves))
    try:
        found, refused = list(asked(everything, 0)), ""
    except Unsupported as refusal:
        why = refusal.__cause__
        if not problem.has_vmap_rule or why is None or isinstance(why, NotImplementedError):
            raise
        return (failing("vmap", problem, "all leaves batched", why),)  # by a rule of its own
    for some, axis in ((everything, -1), *((some, 0) for some in groups(len(problem.leaves)))):
        try:
            found += asked(some, axis)
        except Unsupported as refusal:  # a limit of the framework, or of the rule
            refused = f"{_over(problem, some, axis)}: {refusal}"
    paths = [leaf.path for leaf in problem.leaves if settings.wants(leaf.path)]
    outputs = {output.path for output in problem.outputs}
    paths += [f.leaf for f in found if f.leaf in outputs and f.verdict is Verdict.FAIL]
    findings = []
    for path in dict.fromkeys(paths):
        own = [finding for finding in found if finding.leaf == path]
        failed = [finding for finding in own if finding.verdict is Verdict.FAIL]
        worst = max(own, key=lambda f: (f.verdict is not Verdict.PASS, f.resolution))
        if failed and problem.is_random:
            worst = replace(failed[0], verdict=Verdict.INCONCLUSIVE, message=DRAWS, entries=())
            failed = []
        findings.append(failed[0] if failed else replace(worst, message=worst.message or refused))
    return tuple(findings)


def _asked(
    answers: Answers,
    examples: Sequence[Arrays],
    settings: Settings,
    rng: np.random.Generator,
    some: Collection[int],
    axis: int,
) -> Iterator[Finding]:
    """What is found of each array where only `some` leaves differ from example to example."""
    problem = answers.problem
    assert problem.mapped is not None
    loop = [
        Question(
            problem=problem,
            rng=rng,
            point=tuple(x if k in some else problem.point[k] for k, x in enumerate(point)),
            u=answers.cotangents(b),
        )
        for b, point in enumerate(examples)
    ]
    axes = tuple(axis if k in some else None for k in range(len(problem.leaves)))
    stacked = tuple(
        x if at is None else np.stack([q.point[k] for q in loop], at)
        for k, (x, at) in enumerate(zip(problem.point, axes, strict=True))
    )
    us = tuple(np.stack(parts) for parts in zip(*(q.u for q in loop), strict=True))
    with np.errstate(all="ignore"):
        values, gradients = problem.mapped(stacked, axes, us)
    over = _over(problem, some, axis)
    labels = (*problem.outputs, *problem.leaves)
    lies = (*[0] * len(values), *axes)
    for position, (label, got) in enumerate(zip(labels, (*values, *gradients), strict=True)):
        at = lies[position]
        join = _added if at is None else np.stack
        own = [q.answer[position] for q in loop]
        finding = compared(
            got if at is None else np.moveaxis(got, at, 0),
            join(own),
            [partial(_unrest, join, loop, position, label.epsilon)],
            size=join([np.abs(array) for array in own]),
            check="vmap",
            leaf=label,
            outputs=problem.outputs,
            settings=settings,
            oracle="one by one",
            complaint=f"vmap {over} gives another answer than a loop",
        )
        yield rounded_away(finding)


def _added(arrays: Sequence[Array]) -> Array:
    return np.asarray(np.sum(arrays, axis=0))


def _unrest(
    join: Callable[[Sequence[Array]], Array],
    loop: Sequence[Question],
    position: int,
    epsilon: float,
) -> Array:
    """How far rounding may move each entry."""
    return join([q.unrest[position] + q.least(position, epsilon) for q in loop])


def _over(problem: Problem, some: Collection[int], axis: int) -> str:
    return f"over axis {axis} of {listed([problem.leaves[k].path for k in some])}"
