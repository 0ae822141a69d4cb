"""The chunk law: a sequence run in parts, the state handed over, is the sequence run at once.

run(x[:k]; h) = y₁, h₁ and run(x[k:]; h₁) = y₂, h₂ give the values; backward, the cotangent of the
state between two parts is what the later part gives its initial state, and parameters receive the
sum of both. A declared truncation cuts at the borders of its blocks: there nothing is handed back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from gradcheck.problem import Array, Arrays, Problem
from gradcheck.recurrent.forms import Form

__all__ = ["Parts", "valued"]


def valued(form: Form, point: Arrays, borders: Sequence[int]) -> "Parts":
    """Return the runs over the parts between `borders`, with the states of `point` before them.

    Args:
        point: of the whole, of which only the states are taken.
        borders: 0, ..., the number of steps.
    """
    carried = {leaf: point[leaf] for leaf, _ in form.states}
    problems, values = [], []
    for start, stop in pairwise(borders):
        posed = form.pose(start, stop)
        at = tuple(carried.get(k, array) for k, array in enumerate(posed.point))
        problems.append(replace(posed, point=at))
        values.append(posed.value(at))
        carried = {leaf: values[-1][output] for leaf, output in form.states}
    return Parts(form=form, borders=tuple(borders), problems=problems, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A sequence that was run part by part."""

    form: Form
    borders: tuple[int, ...]
    problems: Sequence[Problem]
    values: Sequence[Arrays]

    @property
    def outputs(self) -> dict[int, Array]:
        """Those of the whole, by position; of one that is no state and has no time, nothing."""
        joined = {
            k: np.concatenate([value[k] for value in self.values], axis)
            for k, axis in self.form.times.items()
        }
        return joined | {output: self.values[-1][output] for _, output in self.form.states}

    def gradients(self, cotangents: Arrays, *, hands_back: bool = True) -> dict[int, Array]:
        """The gradients of the whole, by position of the leaf.

        Args:
            cotangents: of the outputs of the whole; those that `outputs` has not are taken as zero.
            hands_back: whether the cotangent of a state goes on to the part before.
        """
        form = self.form
        back = {output: cotangents[output] for _, output in form.states}
        handed = {leaf for leaf, _ in form.states}
        pieces: dict[int, list[Array]] = {k: [] for k in form.sequences}
        total: dict[int, Array] = {}
        first: dict[int, Array] = {}
        parts = zip(pairwise(self.borders), self.problems, self.values, strict=True)
        for (start, stop), problem, value in reversed(list(parts)):
            us = [np.zeros_like(array) for array in value]
            for k, axis in form.times.items():
                us[k] = cotangents[k][(slice(None),) * axis + (slice(start, stop),)]
            for output, u in back.items():
                us[output] = u
            gradients = problem.vjp(problem.point, tuple(us))
            back = {o: gradients[k] * float(hands_back) for k, o in form.states}
            first = {k: gradients[k] for k in handed}
            for k, gradient in enumerate(gradients):
                if k in pieces:
                    pieces[k].insert(0, gradient)
                elif k not in handed:
                    total[k] = total[k] + gradient if k in total else gradient
        joined = {k: np.concatenate(found, form.sequences[k]) for k, found in pieces.items()}
        return total | joined | first
