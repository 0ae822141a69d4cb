"""One question asked in several manners: is the answer the same?

The plain answer is the measure, not the truth: whether that is right is for other checks. Answers
differ by rounding, since a kernel for another layout sums in another order; how much rounding
matters is measured at points an ulp away, in doubt only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.entrywise import (
    LINEAR,
    compared,
    floor,
    moved,
    narrowest,
    rough,
    rounded_away,
)
from gradcheck.errors import Unsupported, first_line, maybe_out_of_domain
from gradcheck.problem import Array, Arrays, Leaf, Manner, Problem, is_same_entrywise, norm
from gradcheck.results import Finding, Verdict
from gradcheck.rounding import natural
from gradcheck.settings import SIGNIFICANCE, Settings

__all__ = [
    "PLAIN",
    "Question",
    "Reply",
    "asked",
    "failing",
    "findings",
    "first_question",
    "is_random",
    "replied",
]

PLAIN = Manner()

UNSTEADY = "asked twice in the same manner, it gives two answers: a state hidden between calls"

PAIRS = 3  # of points on either side, at which rounding is measured

MUCH = 1e-2  # of an answer, that is worth another look before it is called rounding


@dataclass(frozen=True, kw_only=True)
class Question:
    """A point and cotangents, and what the target says if it is asked plainly."""

    problem: Problem
    rng: np.random.Generator
    point: Arrays
    u: Arrays
    known: Answers | None = None  # where this was asked before
    formula: Problem | None = None  # the same function in float64, where that runs

    @cached_property
    def answer(self) -> Arrays:
        """The outputs, then the gradients."""
        if self.known is not None:
            return (*self.known.value, *self.known.gradients(0))
        return self._at(self.point, self.u)

    @cached_property
    def unrest(self) -> Arrays:
        """How far rounding inside the target moves each entry of the answer.

        What is nearly all of the answer is measured once more: a framework that compiled the target
        meanwhile, or a call that went wrong, is no rounding.
        """
        unrest = self._measured()
        pairs = zip(unrest, self.answer, strict=True)
        if any(norm(moves) > MUCH * norm(np.nan_to_num(y)) for moves, y in pairs):
            unrest = tuple(map(np.minimum, unrest, self._measured()))
        return tuple(np.maximum(a, b) for a, b in zip(unrest, self._rounded(), strict=True))

    def _measured(self) -> Arrays:
        sides = []
        for _ in range(PAIRS):
            points = moved(self.rng, self.problem.leaves, self.point)
            us = moved(self.rng, self.problem.outputs, self.u, LINEAR)
            with maybe_out_of_domain():
                sides.append([self._at(x, u) for x, u in zip(points, us, strict=True)])
        if not sides:
            return tuple(np.zeros(y.shape) for y in self.answer)
        # Asked in the same way as they: what is known may have been computed in another.
        centre = self._at(self.point, self.u)
        unrest = [rough(y, [(a[k], b[k]) for a, b in sides]) for k, y in enumerate(centre)]
        for k in range(len(self.problem.outputs)):  # a value an ulp away is as good as this one
            with np.errstate(invalid="ignore"):
                steps = [np.nan_to_num(np.abs(a[k] - b[k]), posinf=0.0) / 2 for a, b in sides]
            unrest[k] = np.maximum(unrest[k], np.max(steps, axis=0))
        return tuple(unrest)

    @cached_property
    def truths(self) -> Arrays | None:
        """The gradients in float64."""
        if self.formula is None:
            return None
        pairs = zip(self.formula.leaves, self.point, strict=True)
        with np.errstate(all="ignore"):
            return self.formula.vjp(tuple(leaf.rounded(x) for leaf, x in pairs), self.u)

    def least(self, position: int, epsilon: float) -> float:
        """How far rounding moves an entry that cancels, at the least."""
        blur, count = floor(self.answer[position], epsilon), len(self.problem.outputs)
        if position >= count:
            x = self.point[position - count]
            share = natural(self.u, self.answer[:count], x) / max(x.size, 1) ** 0.5
            blur += 8 * epsilon * share
        return blur

    def _rounded(self) -> Sequence[Array | float]:
        """How far each entry lies from the same in float64; 0 where that is another function.

        Of (x + 1e4) - 1e4 in float32 a neighbour of x shows nothing.
        """
        wide = self.known and self.known.in_float64
        if not wide:
            return [0.0] * len(self.answer)
        pairs = zip(self.answer, (*wide.value, *wide.gradients(0)), strict=True)
        off = [(np.nan_to_num(np.abs(a - b), posinf=0.0), norm(b)) for a, b in pairs]
        most = self.problem.epsilon**0.25
        return [rounding if norm(rounding) <= most * size else 0.0 for rounding, size in off]

    def _at(self, point: Arrays, u: Arrays) -> Arrays:
        with np.errstate(all="ignore"):
            value, gradients = self.problem.value_and_vjp(point, u)
        return (*value, *gradients)


def first_question(answers: Answers, rng: np.random.Generator) -> Question:
    """The question that other checks have asked already."""
    wide = answers.in_float64
    is_same = wide and is_same_entrywise(answers.problem, answers.value, wide.value)
    return Question(
        formula=wide.problem if wide and is_same else None,
        problem=answers.problem,
        rng=rng,
        point=answers.problem.point,
        u=answers.cotangents(0),
        known=answers,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the target said in some manner."""

    question: Question
    manner: str
    complaint: str  # of a leaf whose gradient is another
    arrays: Mapping[int, Array]  # position among outputs and gradients -> answer
    base: Arrays = ()  # an answer in which nothing cancels
    is_repeat: bool = False  # the same computation again, which rounds alike
    again: Callable[[], Mapping[int, Array]] | None = None  # asks once more, in the same manner

    def unrest(self, position: int, epsilon: float) -> Sequence[Callable[[], Array]]:
        """How far rounding may move each entry of one array, guessed and measured.

        What is computed again is not measured: a state hidden in the target would excuse itself.
        """
        question = self.question

        @cache
        def guessed() -> Array:
            return np.asarray(question.least(position, epsilon))

        if self.is_repeat:
            return [guessed]
        # A median comes on top: half of the guess leaves the first below the second.
        return [lambda: guessed() / 2, lambda: guessed() + question.unrest[position]]


def asked(
    question: Question,
    manner: Manner,
    name: str,
    complaint: str,
    *,
    with_value: bool = True,
    is_repeat: bool = False,
    base: Arrays = (),
) -> Reply:
    """Return the answer in `manner`: one forward and one backward pass."""

    def ask() -> Mapping[int, Array]:
        problem = question.problem
        assert problem.session is not None
        with problem.session(manner) as call, np.errstate(all="ignore"):
            called = call(question.point)
            gradients = called.pull(question.u)()
        count = len(problem.outputs)
        chosen = range(len(gradients)) if manner.leaves is None else manner.leaves
        arrays = {count + k: gradients[k] for k in chosen}
        return arrays | dict(enumerate(called.value)) if with_value else arrays

    reply = replied(question, name, complaint, ask(), base=base, is_repeat=is_repeat)
    return replace(reply, again=ask)


def replied(
    question: Question,
    manner: str,
    complaint: str,
    arrays: Mapping[int, Array],
    *,
    base: Arrays = (),
    is_repeat: bool = False,
) -> Reply:
    """Return a reply; what is equal to the plain answer is that, and takes no room of its own."""
    plain = question.answer
    return Reply(
        question=question,
        manner=manner,
        complaint=complaint,
        arrays={k: plain[k] if np.array_equal(a, plain[k]) else a for k, a in arrays.items()},
        base=base,
        is_repeat=is_repeat,
    )


def findings(
    check: str,
    problem: Problem,
    settings: Settings,
    replies: Sequence[Reply],
    *,
    oracle: str,
    remarks: Mapping[str, str] | None = None,
) -> tuple[Finding, ...]:
    """Return one finding for each leaf, and one for each output that differs.

    Args:
        oracle: all manners in a word, for what passes; what fails names its own.
        remarks: by path, what is to be said even if it passes.
    """
    found = []
    labels = (*problem.outputs, *problem.leaves)
    for position, label in enumerate(labels):
        is_output = position < len(problem.outputs)
        if not is_output and not settings.wants(label.path):
            continue
        answers = [
            _compared(check, problem, settings, reply, position, label)
            for reply in replies
            if position in reply.arrays
        ]
        failed = [finding for finding in answers if finding.verdict is Verdict.FAIL]
        if failed:
            found.append(failed[0])
        elif not is_output and answers:
            worst = max(answers, key=_gravity)
            mismatch = max(finding.mismatch for finding in answers)
            message = worst.message or (remarks or {}).get(label.path, "")
            found.append(replace(worst, oracle=oracle, mismatch=mismatch, message=message))
    return tuple(found)


def _gravity(finding: Finding) -> tuple[bool, bool, float]:
    """Of answers that did not fail, the one to show is open, or says something, or is blurred."""
    return finding.verdict is not Verdict.PASS, bool(finding.message), finding.resolution


def failing(check: str, problem: Problem, manner: str, error: BaseException) -> Finding:
    """Return the failure of a target that raises where it must not."""
    return Finding(
        check=check,
        leaf=problem.leaves[0].path,
        verdict=Verdict.FAIL,
        mismatch=float("nan"),
        resolution=0.0,
        tolerance=0.0,
        oracle=manner,
        message=f"raises {type(error).__name__} ({manner}): {first_line(error)}",
    )


def is_random(question: Question) -> bool:
    """Whether other random numbers give other values."""
    assert question.problem.session is not None
    try:
        with question.problem.session(Manner(is_reseeded=True)) as call:
            values = call(question.point).value
    except Unsupported:
        return False
    pairs = zip(values, question.answer, strict=False)
    return not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def _compared(
    check: str, problem: Problem, settings: Settings, reply: Reply, position: int, label: Leaf
) -> Finding:
    got, wanted = reply.arrays[position], reply.question.answer[position]
    epsilon = narrowest(label, problem.outputs).epsilon
    against = partial(
        compared,
        got,
        check=check,
        leaf=label,
        outputs=problem.outputs,
        settings=settings,
        oracle=reply.manner,
    )
    bars = reply.unrest(position, epsilon)
    finding = against(wanted, bars, complaint=f"{reply.complaint} ({reply.manner})")
    if finding.verdict is not Verdict.PASS and reply.again is not None and not reply.is_repeat:
        # Before what is off is taken for rounding, or for what the manner has made of it.
        again = against(reply.again()[position], bars[:1], complaint=UNSTEADY)
        if again.verdict is Verdict.FAIL:
            return again
    if finding.verdict is Verdict.INCONCLUSIVE and position >= len(problem.outputs):
        finding = _by_float64(finding, reply, position - len(problem.outputs))
        finding = _as_a_whole(finding, reply, got.size)
    finding = rounded_away(finding)
    if finding.verdict is Verdict.PASS or not reply.base or not np.all(np.isfinite(got)):
        return finding
    # What is left of a gradient that cancels is compared with its size at other cotangents.
    off = norm((got - wanted)[np.isfinite(wanted)])
    if off > finding.tolerance * norm(reply.base[position]):
        return finding
    resolution = min(finding.resolution, finding.tolerance)
    return replace(finding, verdict=Verdict.PASS, message="", resolution=resolution, entries=())


def _by_float64(finding: Finding, reply: Reply, leaf: int) -> Finding:
    """What is open of a narrow gradient, judged by how far both answers are from float64.

    Guesses of what may have cancelled hide a factor of two in bfloat16. Of two right answers none
    is off by much more than the other, over all entries of a leaf.
    """
    truths, question = reply.question.truths, reply.question
    position = len(question.problem.outputs) + leaf
    if truths is None or truths[leaf].size < FEW:
        return finding
    truth, plain, got = truths[leaf], question.answer[position], reply.arrays[position]
    size, usual, off = norm(truth), norm(plain - truth), norm(got - truth)
    usual += finding.tolerance / 8 * size
    least = finding.tolerance * size + SIGNIFICANCE * usual
    if not np.isfinite(off) or not size or least >= size:
        return finding
    if off <= least:
        return replace(finding, verdict=Verdict.PASS, message="", resolution=least / size)
    message = f"{reply.complaint} ({reply.manner}): off by {off / size:.0e} of what float64 gives"
    return replace(finding, verdict=Verdict.FAIL, message=message, mismatch=off / size)


FEW = 3  # entries of a leaf; that rounding is nothing in all of fewer happens too often


def _as_a_whole(finding: Finding, reply: Reply, size: int) -> Finding:
    """What is open of many entries, none of which is sure to be off: a failure if all of them are.

    Ten bars of one entry in bfloat16 may be twice the entry. Rounding makes up one of them in an
    entry as often as not, and over many it averages out.
    """
    most = max(GROSS, TOGETHER * finding.resolution)
    if finding.verdict is not Verdict.INCONCLUSIVE or size < MANY or not finding.mismatch > most:
        return finding
    message = f"{reply.complaint} ({reply.manner}): as a whole, by {finding.mismatch:.0e} of it"
    return replace(finding, verdict=Verdict.FAIL, message=message)


# Of so many entries, the part of a resolution (ten bars) that rounding does not reach; and the part
# of a gradient below which it is left open.
MANY, TOGETHER, GROSS = 16, 0.35, 0.25
