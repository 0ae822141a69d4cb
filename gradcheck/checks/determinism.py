"""Asked twice, does the target give the same answer?

Random numbers are common to all calls, so dropout is the same function every time. Atomic additions
on a GPU are not, by a rounding or two: how far two gradients lie apart is measured and said, and no
failure. What differs by more has a hidden state, or randomness that no seed governs, and then no
difference quotient of it means anything. What can be compiled must say the same when it is, and so
must a backward pass that is recorded.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.parity import PLAIN, Question, Reply, asked, findings, first_question, replied
from gradcheck.errors import Unsupported
from gradcheck.problem import Arrays, Manner, is_same_entrywise, norm
from gradcheck.results import Finding
from gradcheck.settings import Settings

__all__ = ["check_determinism"]

COMPLAINT = (
    "same input, different answer: a state hidden between calls, or randomness that no seed governs"
)

OTHER = (
    "the value computed to be differentiated is another than that of a plain call: the forward of "
    "a rule (`fwd`, the primal output of a `jvp`) does not return what the function returns"
)

RECORDED = "with create_graph=True, as for a gradient penalty, the gradient is another"


def check_determinism(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf, and one for each output whose value differs."""
    problem, question = answers.problem, first_question(answers, rng)
    replies = [_again(question)]
    if _differentiates_another(answers, replies[0]):
        replies = [replace(replies[0], manner="differentiated", complaint=OTHER)]
    if problem.session is not None:
        name, complaint = "compiled", "compiled, the target gives another answer"
        with suppress(Unsupported):  # it cannot be, or it is already
            replies.append(asked(question, Manner(is_compiled=True), name, complaint))
        with suppress(Exception):  # what has no second derivative says so where that is asked for
            manner = Manner(is_recorded=True)
            replies.append(asked(question, manner, "recorded", RECORDED, with_value=False))
    return findings(
        "determinism",
        problem,
        settings,
        replies,
        oracle=", ".join(reply.manner for reply in replies),
        remarks=_spread(replies[0]),
    )


def _again(question: Question) -> Reply:
    problem, name = question.problem, "asked again"
    assert question.answer  # asked first
    if problem.session is not None:
        # Compiled, a target rounds otherwise: XLA keeps digits that a bfloat16 inside would lose.
        is_repeat = not problem.is_compiled
        return asked(question, PLAIN, name, COMPLAINT, is_repeat=is_repeat)
    arrays = (*problem.value(question.point), *problem.vjp(question.point, question.u))
    return replied(question, name, COMPLAINT, dict(enumerate(arrays)), is_repeat=True)


def _differentiates_another(answers: Answers, reply: Reply) -> bool:
    """Whether the value that is differentiated differs, where both kinds of call repeat."""
    problem = answers.problem
    if reply.again is None:
        return False

    def value(arrays: Mapping[int, np.ndarray]) -> Arrays:
        return tuple(arrays[k] for k in range(len(problem.outputs)))

    same, differentiated = partial(is_same_entrywise, problem), value(reply.arrays)
    if same(differentiated, answers.value) or not same(answers.again, answers.value):
        return False
    return same(value(reply.again()), differentiated)


def _spread(reply: Reply) -> dict[str, str]:
    """What to say of gradients that are not the same to the last bit."""
    problem, remarks = reply.question.problem, {}
    for k, leaf in enumerate(problem.leaves):
        position = len(problem.outputs) + k
        first, other = reply.question.answer[position], reply.arrays[position]
        if other is first:
            continue
        finite = np.isfinite(first) & np.isfinite(other)
        off, size = norm(other[finite] - first[finite]), norm(first[finite])
        if off and size:
            remarks[leaf.path] = f"two runs differ by {off / size:.0e}, relative to the gradient"
    return remarks
