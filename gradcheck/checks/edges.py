"""Entries at which there is no derivative: they are held still, and the others are looked at.

A zero under a root, a probability of one: a step beyond them gives no number, whatever the others
do. Where an entry lies on a threshold, the value jumps. Such entries are found by halving, so that
a few among many cost little.
"""

from itertools import chain, pairwise

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import line_of
from gradcheck.oracles.stairs import STEPPED
from gradcheck.probes import Line, direction, scale
from gradcheck.problem import Array, Arrays, Leaf

__all__ = ["leaps", "movable"]

# Steps that lead beyond an edge, in parts of the leaf's size. What rises along the finer as along
# the other, by more than a thousand roundings, jumps.
STEPS, ROUNDINGS = (2.0**-20, 2.0**-25), 2.0**10

# Those at which no stair of a narrow dtype inside is likely to begin, the last so fine that even
# the sine of 1e10 does not rise.
FINEST = (2.0**-34, 2.0**-39, 2.0**-44)

TESTS = 128  # of four evaluations; what is in doubt then counts as lying at an edge


def movable(answers: Answers, index: int, leaf: Leaf, rng: np.random.Generator) -> Array:
    """Which entries of a leaf may be moved, both ways and all at once, and nothing breaks."""
    unit = scale(answers.problem.point[index])
    v = direction(rng, leaf)
    within = np.zeros(leaf.shape, bool)

    def is_inside(part: slice) -> bool:
        only = np.zeros_like(v)
        only.flat[part] = v.flat[part]
        line = line_of(answers, 0, {index: only}, unit)
        return not any(_breaks(line, side * unit) for side in (1, -1))

    blocks, tests = [slice(0, v.size)], 0
    while blocks and tests < TESTS:
        block = blocks.pop(0)
        tests += 1
        if is_inside(block):
            within.flat[block] = True
        elif block.stop - block.start > 1:
            middle = (block.start + block.stop) // 2
            blocks += [slice(block.start, middle), slice(middle, block.stop)]
    return within


def leaps(line: Line) -> bool:
    """Whether the value jumps at the point, by more than what rounds inside leaves.

    That of numbers like one may be all that there is.
    """
    for side in (1, -1):
        values = [line.at(side * step * line.unit) for step in FINEST]
        height = abs(line.rise(values[-1], line.centre))
        if height <= ROUNDINGS * line.ulp:
            continue
        if all(_rises(line, far, near, STEPPED) for far, near in pairwise(values)):
            return True
    return False


def _breaks(line: Line, unit: float) -> bool:
    """Whether the value is not finite a step away, or jumps."""
    far, near = (line.at(step * unit) for step in STEPS)
    if not all(bool(np.all(np.isfinite(value))) for value in chain(far, near)):
        return True
    epsilon = max(output.epsilon for output in line.problem.outputs)
    return _rises(line, far, near, ROUNDINGS * epsilon)


def _rises(line: Line, far: Arrays, near: Arrays, part: float) -> bool:
    """Whether an output rises by as much to what is `near`, and by more than a `part` of it."""
    triples = zip(far, near, line.centre, strict=True)
    return any(
        bool(np.any(np.abs(b - f) > np.maximum(np.abs(a - f) / 2, part * np.abs(f))))
        for a, b, f in triples
    )
