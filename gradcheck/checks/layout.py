"""Does the answer depend on how arrays lie in memory?

It must not. A kernel that takes a cotangent for contiguous is right in every test whose cotangent
is, and wrong after `sum()`, which hands out one number with stride 0, after `cat`, after a
transposition. Arrays are laid out sparsely with NaN between and around them, so that reading where
the strides do not lead shows. Every leaf is asked alone first: some kernels look at the layout of
one array and take it for that of another. In the other layouts cotangents and inputs are asked
together, and apart where that shows something.

Inputs are not expanded: their entries would have to be equal, and ties and singular matrices are
other questions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np

from gradcheck.adapters.layouts import EXPANSIONS, differs
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
from gradcheck.probes import cotangent
from gradcheck.problem import Array, Leaf, Manner, Problem, listed
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
    asking = Asking(question=first_question(answers, rng), settings=settings)
    heard = list(asking.all())
    raised = [finding for finding in heard if isinstance(finding, Finding)]
    replies = [reply for reply in heard if isinstance(reply, Reply)]
    found = findings("layout", problem, settings, replies, oracle=ORACLE, remarks=asking.remarks)
    question = asking.question
    if any(f.verdict is Verdict.FAIL for f in found) and (problem.is_random or is_random(question)):
        why = "random numbers are drawn in the order of memory: input layouts are not compared"
        remarks = {leaf.path: why for leaf in problem.leaves}
        alone = [reply for reply in replies if 0 not in reply.arrays]  # of cotangents
        found = findings("layout", problem, settings, alone, oracle=ORACLE, remarks=remarks)
    return (*raised, *found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One question, asked with arrays that lie otherwise."""

    question: Question
    settings: Settings
    remarks: dict[str, str] = field(default_factory=dict)  # leaf -> the layout that is refused

    def all(self) -> Iterator[Reply | Finding]:
        """Every layout: the first of one array at a time, the others of several."""
        first, *others = (name for name in self.problem.layouts if name not in EXPANSIONS)
        for layout in (first, *(name for name in EXPANSIONS if name in self.problem.layouts)):
            yield from self.cotangents(layout)
        for leaves in groups(self.leaves(first)):
            yield from self.inputs(first, leaves)
        us = [layout for layout in others if self.outputs(layout)]
        xs = [layout for layout in others if self.leaves(layout)]
        # Each in another: a kernel that reads two arrays in the order of one is right if they lie
        # alike.
        for of_outputs, of_leaves in zip_longest(us, [*xs[1:], *xs[:1]]):
            reply = self.together(of_outputs, of_leaves)
            if reply is None or self.fails(reply):
                apart = list(self.cotangents(of_outputs))
                apart += self.inputs(of_leaves, self.leaves(of_leaves))
                yield from apart
                if reply is None or any(map(self.fails, apart)):
                    continue
            yield reply

    @property
    def problem(self) -> Problem:
        return self.question.problem

    def outputs(self, layout: str | None) -> Sequence[Leaf]:
        """The outputs that can lie so."""
        return _those(self.problem.outputs, layout)

    def leaves(self, layout: str | None) -> Sequence[Leaf]:
        """The leaves that can; a module makes its own parameters, as its author wants them."""
        given = [leaf for leaf in self.problem.leaves if not leaf.path.startswith("params.")]
        return _those(given, layout)

    def cotangents(self, layout: str | None) -> Iterator[Reply | Finding]:
        if layout is None or not (outputs := self.outputs(layout)):
            return
        own, name = self.question, f"cotangent {layout}"
        if layout in EXPANSIONS:
            us = cotangent(own.rng, self.problem.outputs)
            own = replace(own, u=tuple(_constant(u, layout) for u in us), known=None)
        assert own.answer  # what it raises is not about the layout
        manner = Manner(layouts={y.path: layout for y in outputs})
        base = self.question.answer
        try:
            yield asked(own, manner, name, COMPLAINT, with_value=False, base=base)
        except Exception as error:  # autograd hands out such cotangents
            yield failing("layout", self.problem, name, error)

    def inputs(self, layout: str | None, leaves: Sequence[Leaf]) -> Iterator[Reply]:
        if layout is None or not leaves:
            return
        name = f"{listed([leaf.path for leaf in leaves])} {layout}"
        manner = Manner(layouts={leaf.path: layout for leaf in leaves})
        try:
            yield asked(self.question, manner, name, COMPLAINT)
        except Exception as error:  # a `view` of what must be contiguous: the author's right
            why = f"refuses {name}: {first_line(error)}"
            self.remarks.update((leaf.path, why) for leaf in leaves)

    def fails(self, heard: Reply | Finding) -> bool:
        if isinstance(heard, Finding):
            return heard.verdict is Verdict.FAIL
        found = findings("layout", self.problem, self.settings, [heard], oracle=ORACLE)
        return any(finding.verdict is Verdict.FAIL for finding in found)

    def together(self, of_outputs: str | None, of_leaves: str | None) -> Reply | None:
        """The answer if outputs and leaves lie otherwise; None if it cannot be asked so."""
        if of_outputs is None or of_leaves is None:
            return None
        layouts = {y.path: of_outputs for y in self.outputs(of_outputs)}
        layouts |= {leaf.path: of_leaves for leaf in self.leaves(of_leaves)}
        name = f"cotangent {of_outputs}, inputs {of_leaves}"
        try:
            return asked(self.question, Manner(layouts=layouts), name, COMPLAINT)
        except Exception:  # who refused, and whether it may, shows apart
            return None


def groups(leaves: Sequence[Leaf]) -> list[Sequence[Leaf]]:
    """Leaves one by one, if they are few; else in groups."""
    return [leaves[start::GROUPS] for start in range(min(GROUPS, len(leaves)))]


def _those(arrays: Sequence[Leaf], layout: str | None) -> Sequence[Leaf]:
    return [a for a in arrays if layout is not None and differs(layout, a.shape, a.dtype)]


def _constant(u: Array, layout: str) -> Array:
    """The first entries of a cotangent in the place of all along the axes of an expansion."""
    first = u[
        tuple(
            slice(1) if axis in EXPANSIONS[layout](u.ndim) else slice(None)
            for axis in range(u.ndim)
        )
    ]
    return np.broadcast_to(first, u.shape).copy()
