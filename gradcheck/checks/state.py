"""Does the answer depend on what was asked before, beside or apart?

A forward pass leaves behind what its backward pass needs. If it leaves that in the wrong place (an
attribute of the class or the module, a global, a buffer used again), the next call takes it away,
and the gradient of the first is that of the second. No single call shows it; gradient accumulation,
shared layers and every network that uses a layer twice do.

What is asked in part must be the same part of the answer: outputs that nobody pulls back count as
zero, and a leaf that is frozen changes nothing for the others.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.elsewhere import kept_elsewhere
from gradcheck.checks.parity import (
    PLAIN,
    Question,
    Reply,
    asked,
    failing,
    findings,
    first_question,
    replied,
)
from gradcheck.errors import Unsupported, first_line, maybe_out_of_domain
from gradcheck.probes import cotangent, direction
from gradcheck.problem import Arrays, Call, Caller, Manner
from gradcheck.results import Finding
from gradcheck.settings import Settings

__all__ = ["check_state", "groups"]

STALE = (
    "the gradient is that of another call: what it needs is kept on the layer or its class, and "
    "not with the call, on ctx or in a cache that forward returns"
)
TWICE = "a second backward pass over the same graph gives another gradient"
UNDEFINED = "the gradients of single outputs, the others undefined, do not add up to that of all"
FROZEN = "with other leaves frozen the gradient is another"

STEPPED = (
    "after another point was written into the same arrays, as an optimiser does, the answer is "
    "another: something is kept for an array, and not for what is in it"
)

PARTS = 3  # how many outputs are pulled back alone


def check_state(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf, and one for each output whose value differs."""
    problem, question = answers.problem, first_question(answers, rng)
    assert question.answer  # what a plain call raises is not about the state
    remarks: dict[str, str] = {}
    other = _other(question)
    if other.point is question.point:
        remarks[problem.leaves[0].path] = ALONE
    found = list(_parts(question)) if problem.session is not None else []
    covered = {k for reply in found if isinstance(reply, Reply) for k in reply.arrays}
    if len(covered) < len(question.answer):  # else it was called again
        arrays = (*problem.value(question.point), *problem.vjp(question.point, question.u))
        found.append(_again(question, "after another call", STALE, arrays, 0))
    if problem.session is not None:
        found += _interleaved(question, other, remarks)
        # A second backward pass that runs, after that of the other call, has said as much.
        if not any(isinstance(reply, Reply) and reply.complaint == TWICE for reply in found):
            found += _reversed(question, other)
        found += _stepped(question, other)
    found += kept_elsewhere(answers, settings, rng)
    replies = [reply for reply in found if isinstance(reply, Reply)]
    raised = [finding for finding in found if isinstance(finding, Finding)]
    passed = findings(
        "state", problem, settings, replies, oracle="beside other calls", remarks=remarks
    )
    return (*raised, *passed)


ALONE = "the target refuses every other point that was tried: it was called again at the same one"


def _other(question: Question) -> Question:
    """Another call, at another point at which the target runs, and was run; or at the same one."""
    problem, rng = question.problem, question.rng
    for point in chain(_elsewhere(question), [question.point]):
        u = cotangent(rng, problem.outputs)
        other = Question(problem=problem, rng=rng, point=point, u=u)
        with maybe_out_of_domain():
            if [y.shape for y in other.answer] == [y.shape for y in question.answer]:
                break
    return other


def _elsewhere(question: Question) -> Iterator[Arrays]:
    """Other points, the farther the better; then the same numbers in another order.

    Of probabilities, or of an orthogonal matrix, only the latter may be in the domain.
    """
    leaves = question.problem.leaves
    for size in (0.25, 2.0**-8):
        yield tuple(
            leaf.rounded(x * (1 + size * direction(question.rng, leaf)))
            for leaf, x in zip(leaves, question.point, strict=True)
        )
    for axis in (-1, 0):
        yield tuple(np.flip(x, axis) if x.ndim else x for x in question.point)


def _again(
    question: Question, manner: str, complaint: str, arrays: Sequence[np.ndarray], first: int
) -> Reply:
    placed = dict(enumerate(arrays, start=first))
    # Compiled, a target rounds otherwise.
    is_repeat = not question.problem.is_compiled
    return replied(question, manner, complaint, placed, is_repeat=is_repeat)


def _interleaved(
    question: Question, other: Question, remarks: dict[str, str]
) -> Iterator[Reply | Finding]:
    problem, count = question.problem, len(question.problem.outputs)
    assert problem.session is not None
    name = "two forward passes, then their backward passes"
    with problem.session(Manner(is_retained=True)) as call:
        try:
            one, two = _both(call, question, other)
            read, after = one.pull(question.u), two.pull(other.u)
            # Read late: a backward pass that hands out a buffer of its own has overwritten it.
            yield _again(question, name, STALE, read(), count)
            # Not where it drew others, or goes on where the last call stopped.
            if all(map(np.array_equal, two.value, other.answer)):
                yield _again(other, f"{name}: the second", STALE, after(), count)
        except Unsupported as refusal:  # of what is kept for it
            remarks[problem.leaves[0].path] = str(refusal)
            return
        except Exception as error:
            yield failing("state", problem, name, error)
            return
        try:
            again = one.pull(question.u)()
            yield _again(question, "backward twice", TWICE, again, count)
        except Exception as error:  # what is freed cannot be used again, and says so
            remarks[problem.leaves[0].path] = f"refuses a second backward: {first_line(error)}"
        if not _is_same(call(question.point).value, question.answer):
            why = "a second call gives another output: the target keeps a state on its module"
            remarks.setdefault(problem.leaves[0].path, why)


def _both(call: Caller, question: Question, other: Question) -> tuple[Call, Call]:
    one, two = call(question.point), call(other.point, another=True)
    if [y.shape for y in two.value] != [u.shape for u in other.u]:  # by the numbers that it drew
        two = call(other.point)
    return one, two


def _is_same(values: Arrays, answer: Arrays) -> bool:
    pairs = zip(values, answer, strict=False)
    return bool(values) and all(np.allclose(a, b, equal_nan=True) for a, b in pairs)


def _reversed(question: Question, other: Question) -> Iterator[Reply | Finding]:
    problem, count = question.problem, len(question.problem.outputs)
    assert problem.session is not None
    name = "two forward passes, then their backward passes in reverse order"
    with problem.session(PLAIN) as call:
        try:
            one, two = _both(call, question, other)
            two.pull(other.u)
            yield _again(question, name, STALE, one.pull(question.u)(), count)
        except Unsupported:  # said already
            return
        except Exception as error:
            yield failing("state", problem, name, error)


def _stepped(question: Question, other: Question) -> Iterator[Reply | Finding]:
    """The other call, with its numbers in the arrays of the first one.

    In doubt it is asked in arrays of its own: where the answer is as it was then, the target keeps
    a state, which is another matter.
    """
    problem, name = question.problem, "after a step in place"
    if other.point is question.point:
        return

    def after(manner: Manner) -> Arrays:
        assert problem.session is not None
        with problem.session(manner) as call:
            one = call(question.point)
            one.pull(question.u)()
            two = call(other.point)
            # Another value says enough; of one that was kept the graph may be gone.
            is_right = _is_same(two.value, other.answer)
            arrays = (*two.value, *(two.pull(other.u)() if is_right else ()))
            del one  # what may be known by its address must live until here
            return arrays

    stepped: Arrays = ()
    try:
        stepped = after(Manner(is_in_place=True))
        said: Reply | Finding = _again(other, name, STEPPED, stepped, 0)
    except Unsupported:
        return
    except Exception as error:
        said = failing("state", problem, name, error)
    if not _is_same(stepped, other.answer):
        try:
            apart = after(PLAIN)
        except Exception:  # said already
            return
        if stepped and _is_same(stepped, apart):
            return
    yield said


def _parts(question: Question) -> Iterator[Reply | Finding]:
    """Outputs one by one, whose gradients add up to that of all; leaves with the others frozen.

    A rule is then given undefined cotangents, or told that nobody needs a gradient.
    """
    problem, count = question.problem, len(question.problem.outputs)
    parts = _alone(count)
    try:
        if len(parts) > 1:
            total = [np.zeros_like(x) for x in question.answer[count:]]
            for outputs in parts:
                reply = asked(question, Manner(outputs=outputs), "", "", with_value=False)
                total = [g + reply.arrays[count + k] for k, g in enumerate(total)]
            placed = dict(enumerate(total, start=count))
            yield replied(question, "outputs one by one", UNDEFINED, placed)
        for some in groups(len(problem.leaves)):
            yield asked(question, Manner(leaves=some), "some leaves only", FROZEN)
    except Unsupported:  # a rule that gives all of its gradients or none
        return
    except Exception as error:
        yield failing("state", problem, "outputs one by one, some leaves only", error)


def groups(count: int) -> Iterator[tuple[int, ...]]:
    """Groups of leaves such that of any two each is in one without the other.

    Those whose positions have a bit, and those whose positions lack it: a rule may compute the
    gradient of one leaf only if that of another is needed.
    """
    for bit in range((count - 1).bit_length()):
        for is_set in (0, 1):
            yield tuple(k for k in range(count) if k >> bit & 1 == is_set)


def _alone(count: int) -> list[tuple[int, ...]]:
    """Each of the first outputs; all others together."""
    parts: list[tuple[int, ...]] = [(k,) for k in range(min(count, PARTS))]
    return [*parts, tuple(range(PARTS, count))] if count > PARTS else parts
