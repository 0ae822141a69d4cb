"""The chunk law: a sequence run in parts, the state handed over, is the sequence run at once.

run(x[:k]; h) = y₁, h₁ and run(x[k:]; h₁) = y₂, h₂ give the values; backward, the cotangent of the
state between two parts is what the later part gives its initial state, and parameters receive the
sum of both. A declared truncation cuts at the borders of its blocks: there nothing is handed back.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from gradcheck.problem import Array, Arrays
from gradcheck.recurrent.forms import Form

__all__ = ["answered"]


def answered(
    form: Form,
    cotangents: Arrays,
    borders: Sequence[int],
    *,
    hands_back: bool = True,
) -> tuple[dict[int, Array], dict[int, Array]]:
    """Return the outputs and gradients of the whole from runs over its parts, each by position.

    Args:
        cotangents: of the outputs of the whole; what is neither a state nor has an axis of time
            has none, and is not among what is returned.
        borders: 0, ..., the number of steps.
        hands_back: whether the cotangent of a state goes on to the part before.
    """
    handed = {output for _, output in form.states}
    parts = list(pairwise(borders))
    carried: dict[int, Array] = {leaf: form.whole.point[leaf] for leaf, _ in form.states}
    problems, values = [], []
    for start, stop in parts:
        posed = form.pose(start, stop)
        point = tuple(carried.get(k, array) for k, array in enumerate(posed.point))
        problems.append(replace(posed, point=point))
        values.append(posed.value(point))
        carried = {leaf: values[-1][output] for leaf, output in form.states}
    outputs = {
        k: np.concatenate([value[k] for value in values], axis) for k, axis in form.times.items()
    }
    outputs |= {output: values[-1][output] for output in handed}

    back = {output: cotangents[output] for output in handed}
    total: dict[int, Array] = {}
    pieces: list[Array] = []
    for (start, stop), problem, value in reversed(list(zip(parts, problems, values, strict=True))):
        us = [np.zeros_like(array) for array in value]
        for k, axis in form.times.items():
            us[k] = cotangents[k][(slice(None),) * axis + (slice(start, stop),)]
        for output, u in back.items():
            us[output] = u
        gradients = problem.vjp(problem.point, tuple(us))
        back = {o: gradients[k] * float(hands_back) for k, o in form.states}
        first = {k: gradients[k] for k, _ in form.states}
        for k, gradient in enumerate(gradients):
            if k == form.x:
                pieces.insert(0, gradient)
            elif k not in first:
                total[k] = total[k] + gradient if k in total else gradient
    if form.x is not None:
        total[form.x] = np.concatenate(pieces, form.axis)
    return outputs, total | first
