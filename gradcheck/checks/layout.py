"""Does the answer depend on how arrays lie in memory?

It must not. A kernel that takes a cotangent for contiguous is right in every test whose cotangent
is, and wrong after `sum()`, which hands out one number with stride 0, after `cat`, after a
transposition. Arrays are laid out sparsely with NaN between and around them, so that reading where
the strides do not lead shows. Every leaf is asked alone first: some kernels look at the layout of
one array and take it for that of another.

Inputs are not expanded: their entries would have to be equal, and ties and singular matrices are
other questions.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gradcheck.adapters.layouts import EXPANDED, differs
from gradcheck.answers import Answers
from gradcheck.checks.parity import (
    Question,
    Reply,
    asked,
    failing,
    findings,
    first_question,
    is_random,
)
from gradcheck.errors import first_line
from gradcheck.problem import Arrays, Leaf, Manner, Problem, listed
from gradcheck.results import Finding, Verdict
from gradcheck.settings import Settings

__all__ = ["check_layout"]

COMPLAINT = "the answer depends on how arrays lie in memory"

ORACLE = "other layouts"

GROUPS = 6  # how many backward passes are spent on one leaf at a time, or on groups of them


def check_layout(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf, and one for each output whose value differs.

    A target may refuse a layout of its inputs by an exception, which is said and no failure. A
    cotangent's layout is not the author's to choose: an exception there is a failure. JAX has no
    layouts that a function could see, and nothing is found.
    """
    problem = answers.problem
    if problem.session is None or not problem.layouts:
        return ()
    question = first_question(answers, rng)
    backward = list(_cotangents(problem, question))
    raised = [finding for finding in backward if isinstance(finding, Finding)]
    replies = [reply for reply in backward if isinstance(reply, Reply)]
    forward, remarks = _inputs(problem, question)
    found = findings(
        "layout", problem, settings, [*replies, *forward], oracle=ORACLE, remarks=remarks
    )
    if any(f.verdict is Verdict.FAIL for f in found) and (problem.is_random or is_random(question)):
        why = "random numbers are drawn in the order of memory: input layouts are not compared"
        remarks = {leaf.path: why for leaf in problem.leaves}
        found = findings("layout", problem, settings, replies, oracle=ORACLE, remarks=remarks)
    return (*raised, *found)


def _cotangents(problem: Problem, question: Question) -> Iterator[Reply | Finding]:
    for layout in problem.layouts:
        outputs = [y for y in problem.outputs if differs(layout, y.shape, y.dtype)]
        if not outputs:
            continue
        own = question
        if layout == EXPANDED:
            u = _constant(question.rng, problem.outputs)
            own = replace(question, u=u, known=None)
        name = f"cotangent {layout}"
        manner = Manner(layouts={y.path: layout for y in outputs})
        assert own.answer  # what it raises is not about the layout
        try:
            yield asked(own, manner, name, COMPLAINT, with_value=False, base=question.answer)
        except Exception as error:  # autograd hands out such cotangents
            yield failing("layout", problem, name, error)


def _inputs(problem: Problem, question: Question) -> tuple[list[Reply], dict[str, str]]:
    """The answers where leaves lie otherwise, and which layouts are refused."""
    replies: list[Reply] = []
    remarks: dict[str, str] = {}
    for layout, leaves in sweep(problem):
        name = f"{listed([leaf.path for leaf in leaves])} {layout}"
        manner = Manner(layouts={leaf.path: layout for leaf in leaves})
        try:
            replies.append(asked(question, manner, name, COMPLAINT))
        except Exception as error:  # a `view` of what must be contiguous: the author's right
            remarks |= {leaf.path: f"refuses {name}: {first_line(error)}" for leaf in leaves}
    return replies, remarks


def sweep(problem: Problem) -> Iterator[tuple[str, list[Leaf]]]:
    """The first layout for leaves one by one, if they are few; the others for all of them."""
    for position, layout in enumerate(problem.layouts):
        # A module makes its own parameters, as contiguous as its author wants them.
        leaves = [
            leaf
            for leaf in problem.leaves
            if differs(layout, leaf.shape, leaf.dtype) and not leaf.path.startswith("params.")
        ]
        if layout == EXPANDED or not leaves:
            continue
        if position:
            yield layout, leaves
            continue
        for start in range(min(GROUPS, len(leaves))):
            yield layout, leaves[start::GROUPS]


def _constant(rng: np.random.Generator, outputs: tuple[Leaf, ...]) -> Arrays:
    return tuple(
        leaf.rounded(np.full(leaf.shape, rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.5)))
        for leaf in outputs
    )
