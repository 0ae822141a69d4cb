"""What a check costs: evaluations are counted, and end when their time is up."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import ParamSpec, TypeVar

from gradcheck.errors import OutOfTime
from gradcheck.problem import Arrays, Call, Caller, Manner, Problem
from gradcheck.results import Evaluations

__all__ = ["Meter"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class Meter:
    """Counts what is evaluated through it."""

    forward: int = 0
    vjp: int = 0
    deadline: float = float("inf")  # of `perf_counter`

    @property
    def evaluations(self) -> Evaluations:
        return Evaluations(forward=self.forward, vjp=self.vjp)

    def around(self, problem: Problem) -> Problem:
        """The same problem, counted; past the deadline, every evaluation raises `OutOfTime`."""

        def in_float64() -> Problem:
            assert problem.in_float64 is not None
            return self.around(problem.in_float64())

        def redrawn(k: int) -> Problem:
            assert problem.redrawn is not None
            return self.around(problem.redrawn(k))

        return replace(
            problem,
            value=self._counting(problem.value, 1, 0),
            vjp=self._counting(problem.vjp, 0, 1),
            both=problem.both and self._counting(problem.both, 1, 1),
            jvp=problem.jvp and self._counting(problem.jvp, 1, 0),
            second=problem.second and self._counting(problem.second, 0, 2),
            batched=problem.batched and self._counting(problem.batched, 0, 1),
            mapped=problem.mapped and self._counting(problem.mapped, 1, 1),
            session=problem.session and self._in_session(problem.session),
            audit=problem.audit and self._counting(problem.audit, 1, 1),
            in_float64=problem.in_float64 and in_float64,
            redrawn=problem.redrawn and redrawn,
            analytic=problem.analytic and self._counting(problem.analytic, 1, 0),
        )

    def _in_session(
        self, session: Callable[[Manner], AbstractContextManager[Caller]]
    ) -> Callable[[Manner], AbstractContextManager[Caller]]:
        @contextmanager
        def counted(manner: Manner) -> Iterator[Caller]:
            with session(manner) as caller:
                counting = self._counting(caller, 1, 0)

                def call(point: Arrays, *, another: bool = False) -> Call:
                    made = counting(point, another=another)
                    return replace(made, pull=self._counting(made.pull, 0, 1))

                yield call

        return counted

    def _counting(self, run: Callable[P, R], forward: int, vjp: int) -> Callable[P, R]:
        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            if perf_counter() > self.deadline:
                raise OutOfTime
            self.forward += forward
            self.vjp += vjp
            return run(*args, **kwargs)

        return counted
