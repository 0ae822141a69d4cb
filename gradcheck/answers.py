"""What a target says at its point: asked once, and shared by all checks of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from weakref import ref

import numpy as np

from gradcheck.probes import cotangent
from gradcheck.problem import Array, Arrays, Problem, is_same, posed_in_float64

__all__ = ["Answers", "answers_of"]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The value of a problem at its point, and its gradients for some cotangents.

    Each is evaluated when it is first asked for; whatever the target raises then is raised. Of a
    large problem only the first gradients are kept: the others are as large, and looked at once.
    """

    problem: Problem
    cotangents: Callable[[int], Arrays]  # the k-th, the same at every call
    found: dict[int, Arrays] = field(default_factory=dict, init=False)
    # Those that somebody may hold yet, array by array.
    lent: dict[int, list[ref[Array]]] = field(default_factory=dict, init=False)

    @cached_property
    def value(self) -> Arrays:
        return self._evaluated()

    @cached_property
    def again(self) -> Arrays:
        """The value once more: where it differs, it is no function of the point."""
        return self._evaluated()

    def gradients(self, k: int) -> Arrays:
        """The gradients of all leaves for the k-th cotangent."""
        if k in self.found:
            return self.found[k]
        alive = tuple(array for held in self.lent.get(k, ()) if (array := held()) is not None)
        if len(alive) == len(self.problem.leaves):
            return alive
        with np.errstate(all="ignore"):
            gradients = self.problem.vjp(self.problem.point, self.cotangents(k))
        if k and self.problem.is_large:
            self.lent[k] = [ref(array) for array in gradients]
        else:
            self.found[k] = gradients
        return gradients

    def of(self, problem: Problem) -> "Answers":
        """What `problem` says when it is asked the same."""
        return replace(self, problem=problem)

    def to(self, cotangents: Callable[[int], Arrays]) -> "Answers":
        """The same value, and the gradients for other cotangents."""
        other = replace(self, cotangents=cotangents)
        vars(other).update(value=self.value, again=self.again)
        return other

    @cached_property
    def in_float64(self) -> "Answers | None":
        """What the target says when it is run in float64, if it runs there."""
        wide = posed_in_float64(self.problem)
        if wide is None:
            return None
        answers = self.of(wide)
        try:
            answers.value, answers.gradients(0)
        except Exception:  # whatever it raises, an attribute that stayed narrow for one
            return None
        return answers

    @cached_property
    def formula(self) -> "Answers | None":
        """The same, if the target is the same function there."""
        wide = self.in_float64
        is_it = wide is not None and is_same(self.problem, self.value, wide.value)
        return wide if is_it else None

    def _evaluated(self) -> Arrays:
        with np.errstate(all="ignore"):
            return self.problem.value(self.problem.point)


def answers_of(problem: Problem, seed: int) -> Answers:
    """Return what `problem` says at its point, for cotangents drawn from `seed`."""

    @cache
    def drawn(k: int) -> Arrays:
        rng = np.random.default_rng([seed, *b"cotangent", k])
        return cotangent(rng, problem.outputs, problem.leaves)

    return Answers(problem=problem, cotangents=drawn)
