"""Entries whose gradient is so small that others hide what is wrong with it."""

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import along, line_of
from gradcheck.checks.question import Question
from gradcheck.probes import among, scale
from gradcheck.problem import Array, blocks, norm
from gradcheck.results import Finding

__all__ = ["hidden", "is_nothing", "is_suspect", "through_what_moves"]

# Below this part of the usual size of a gradient an entry may be wrong by all of itself and not be
# seen among the others; so many of the entries must be for another look.
SMALL, MANY = 1e-5, 1e-2

LEVELS = 4  # from 1e8 to 1e-8 it is three

# Below this part of the whole gradient an entry is nothing but what rounding in float64 leaves of
# larger numbers: behind a saturated softmax they are as small as one likes, and as wrong.
NOTHING = 2.0**-54


def hidden(gradient: Array) -> tuple[list[Array], int]:
    """Which entries are so small that the others hide them, if it is not by chance; and of those.

    So do, among them, the larger ones hide the smaller; and last those that are claimed to be zero.
    Counted are those that are so small that they may be rounding.
    """
    levels: list[Array] = []
    whole, count, nothing = norm(gradient), gradient.size, 0
    least = NOTHING * whole
    for level in range(LEVELS):
        small = np.zeros(gradient.shape, bool)
        limit = SMALL * whole / max(count, 1) ** 0.5
        for found, part in blocks(small, gradient):
            sizes = np.abs(part)
            np.less(sizes, limit, out=found)
            if np.any(found):
                nothing += int(np.count_nonzero((sizes > 0) & (sizes <= least))) if not level else 0
                found &= sizes > least
        fewer = int(np.count_nonzero(small))
        if not fewer or fewer < MANY * gradient.size:
            break
        levels.append(small)
        whole, count = norm(gradient[small]), fewer
    zeros = gradient.size - np.count_nonzero(gradient)
    if MANY * gradient.size <= zeros < gradient.size:
        levels.append(gradient == 0)
    return levels, nothing


def is_nothing(finding: Finding, gradient: Array) -> bool:
    """Whether all that is wrong is so small beside the others that it may be rounding."""
    least = NOTHING * norm(gradient)
    return bool(finding.entries) and all(entry.size <= least for entry in finding.entries)


def through_what_moves(
    question: Question, answers: Answers, few: Array, rng: np.random.Generator
) -> Answers:
    """The answers for cotangents of those outputs that are seen to move with `few` entries.

    Of the others, which may be larger by any factor, rounding may hide as much of the slope.
    """
    index, x = question.index, answers.problem.point[question.index]
    v = among(rng, question.leaf, x, few)
    there = line_of(answers, 0, {index: v}, scale(x)).at(MOVED * scale(x))
    moves = [a != f for a, f in zip(there, answers.value, strict=True)]
    return answers.to(
        lambda k: tuple(
            np.where(m, u, 0).astype(u.dtype)
            for m, u in zip(moves, answers.cotangents(k), strict=True)
        )
    )


MOVED = 2.0**-7  # a step of the first rung: a value that stands still there is rounded


def is_suspect(question: Question, answers: Answers, few: Array, rng: np.random.Generator) -> bool:
    """Whether `few` entries, moved together, show that something is wrong."""
    index, x = question.index, answers.problem.point[question.index]
    v = among(rng, question.leaf, x, few)
    probe = along(answers, 0, index, v)
    return probe.is_significant and not probe.is_vacuous
