"""A layer that reads a sequence, or a cell that is run over one: is it right at every lag?

Beside what is asked of any layer, of all outputs and states jointly, it is asked: each output
alone, every block ∂y_t/∂x_s of the Jacobian, the same at weights that remember, in chunks with the
state handed over, and at the lengths at which a kernel that works in chunks goes another way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np

from gradcheck.adapters.select import problem_of
from gradcheck.answers import answers_of
from gradcheck.api import settled
from gradcheck.checks import CHECKS
from gradcheck.checks.parity import Question as Plain
from gradcheck.checks.parity import Reply, findings
from gradcheck.errors import GradcheckError, InputError, Unsupported
from gradcheck.inquiry import Question, conducted, of_checks, unposed
from gradcheck.meter import Meter
from gradcheck.probes import cotangent
from gradcheck.problem import Problem, label, norm
from gradcheck.recurrent.chunks import answered
from gradcheck.recurrent.forms import Form, form_of
from gradcheck.recurrent.gains import Place, normalised
from gradcheck.recurrent.lags import Lags, judged, moments, screened
from gradcheck.recurrent.slices import Part, seen
from gradcheck.results import CheckResult, Finding, Verdict
from gradcheck.settings import Settings
from gradcheck.trees import Keywords

__all__ = ["check_sequence"]

DEFAULT = tuple(key for key, check in CHECKS.items() if check.by_default)

# What is asked of a cell at one step; its VJP is asked through time.
OF_CELL = tuple(key for key in DEFAULT if key != "vjp")

SECONDARY = ("output", "memory", "length")


def check_sequence(
    target: Any,
    *inputs: Any,
    sequence: int = 0,
    time_axis: int = 0,
    state: int | Sequence[int] | None = None,
    cell: bool = False,
    chunk: int | None = None,
    truncation: int | None = None,
    rtol: float | None = None,
    seed: int = 0,
    name: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    budget_s: float | None = None,
) -> CheckResult:
    """Return what is right and wrong about the gradients of a target that reads a sequence.

    The findings are, by the name of their check: "vjp" and the other default checks of `check`,
    of all outputs jointly; "output", of each output and state alone; "lag", of the blocks
    ∂y_t/∂x_s, with the first lag that is wrong; "memory", the VJP and the blocks at weights whose
    gain is near one a step, where long lags are too small to be seen at the given ones; "chunk",
    whether two parts, the state handed over, are the whole; "length", of the lengths 1, 2, and
    those next to `chunk` and twice as many.

    Args:
        target: a layer `layer(x, *states)` that returns outputs with an axis of time, and its new
            states if it has any; or with `cell=True` one step of it, which is run over x.
        inputs: its arguments. Leaves are those of `check`.
        sequence: which argument is the sequence x: one array of at least two steps.
        time_axis: of x; an output may have its own elsewhere.
        state: which argument, or arguments, are the initial state. By default the one or two after
            the sequence, if the target returns arrays of their shapes.
        cell: the target makes one step: `cell(x_t, state)` returns the new state, or that and
            outputs. It is run over x, and its VJP chained (BPTT).
        chunk: the length at which a kernel begins a new chunk.
        truncation: the steps after which backpropagation through time is cut off on purpose,
            behind a moving window or at the borders of blocks: what reaches further is held to be
            zero, what is shorter to be right.
        rtol, seed, name, kwargs, budget_s: as in `check`.

    Raises:
        InputError: an argument cannot be used; the message names it.

    Sources:
        Werbos, Backpropagation through time, Proc. IEEE 78 (1990).
        Williams and Peng, An efficient gradient-based algorithm for on-line training of recurrent
        network trajectories, Neural Computation 2 (1990): truncation.
    """
    settings = settled(seed=seed, rtol=rtol, budget_s=budget_s)
    for option, count in (("chunk", chunk), ("truncation", truncation)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise InputError(f"expected {option} to be a number of steps from 1; got {count!r}")
    given = (*inputs, Keywords(kwargs)) if kwargs else inputs
    meter = Meter()

    def pose(time: slice | int) -> Problem:
        cut = (slice(None),) * time_axis + (time,)
        part = [x[cut] if k == sequence else x for k, x in enumerate(given)]
        return meter.around(problem_of(target, part, name=name, seed=seed))

    try:
        form = form_of(pose, inputs, sequence=sequence, axis=time_axis, state=state, cell=cell)
    except GradcheckError:
        raise
    except Exception as error:  # whatever the target raises is a finding about the target
        return unposed(label(target, name), error, settings)
    asked = Asked(form=form, settings=settings, chunk=chunk, truncation=truncation)
    questions = asked.questions()
    result = conducted(form.whole, settings, questions, meter, asked={"vjp", *asked.own()})
    return _but_open(result)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A sequence under check, and one question a method."""

    form: Form
    settings: Settings
    chunk: int | None
    truncation: int | None

    def questions(self) -> dict[str, Question]:
        whole = self.form.whole
        if self.form.cell is None:
            asked = of_checks(whole, self.settings, DEFAULT)
        else:
            asked = of_checks(whole, self.settings, ("vjp", "adjoint"))
            asked |= {f"cell {k}": q for k, q in self.of_cell().items()}
        if self.truncation is not None:  # the joint VJP is no derivative, on purpose
            asked["vjp"] = self.before_truncation
            asked = {key: partial(self.but_cut_off, question) for key, question in asked.items()}
        return asked | self.own()

    def own(self) -> dict[str, Question]:
        return {
            "output": self.outputs,
            "lag": self.lags,
            "memory": self.memory,
            "chunk": self.chunks,
            "length": self.lengths,
        }

    def of_cell(self) -> dict[str, Question]:
        """What is asked of one step, at the state that flows into the last one."""
        assert self.form.cell is not None
        return of_checks(self.form.cell, self.settings, OF_CELL)

    def before_truncation(self) -> tuple[Finding, ...]:
        """The VJP over so few steps that nothing is cut off."""
        assert self.truncation is not None
        return self.vjp(self.form.pose(0, min(self.truncation, self.form.steps)), "vjp")

    def but_cut_off(self, question: Question) -> tuple[Finding, ...]:
        paths = {self.form.whole.leaves[k].path for k in self.cut_off}
        return tuple(finding for finding in question() if finding.leaf not in paths)

    @cached_property
    def cut_off(self) -> set[int]:
        """The initial states that a declared truncation cuts off too."""
        whole = self.form.whole
        if self.truncation is None:
            return set()
        gradients = whole.vjp(whole.point, cotangent(self.rng("cut off"), whole.outputs))
        return {k for k, _ in self.form.states if not np.any(gradients[k])}

    def outputs(self) -> tuple[Finding, ...]:
        """The VJP through each output alone."""
        whole = self.form.whole
        if self.truncation is not None:
            raise Unsupported("with a declared truncation the gradient is no derivative")
        if len(whole.outputs) == 1:
            raise Unsupported("there is one")
        leaves = [Part(position=k) for k in range(len(whole.leaves))]
        return tuple(
            finding
            for k, output in enumerate(whole.outputs)
            for finding in self.vjp(
                seen(whole, leaves, [Part(position=k)]), "output", f"of {output.path} alone"
            )
        )

    def lags(self) -> tuple[Finding, ...]:
        return tuple(self.judged(self.form.whole, lags, "lag") for lags in self.screened())

    def screened(self, problem: Problem | None = None) -> list[Lags]:
        form = self.form
        if form.x is None:
            raise Unsupported("the sequence is no leaf, so that there are no blocks of it")
        if not form.times:
            raise Unsupported("no output has an axis of time")
        size = int(np.prod(form.whole.leaves[form.x].shape))
        borders = [b for b in (self.chunk, self.truncation) if b is not None]
        times = moments(form.steps, size, borders)
        return [
            screened(
                problem or form.whole,
                self.rng("lag"),
                x=form.x,
                axis=form.axis,
                output=output,
                out_axis=axis,
                times=times,
            )
            for output, axis in form.times.items()
        ]

    def judged(self, problem: Problem, lags: Lags, check: str, where: str = "") -> Finding:
        form = self.form
        assert form.x is not None
        finding = judged(
            problem,
            lags,
            self.settings,
            x=form.x,
            axis=form.axis,
            out_axis=form.times[lags.output],
            truncation=self.truncation,
        )
        return replace(finding, check=check, message=where + finding.message)

    def memory(self) -> tuple[Finding, ...]:
        """The VJP and the blocks at weights that remember, if those given forget."""
        form = self.form
        unseen = [lags for lags in self.screened() if lags.unseen]
        if not unseen:
            raise Unsupported("every lag is seen at the given weights")
        assert form.x is not None
        output = unseen[0].output
        place = Place(
            x=form.x,
            axis=form.axis,
            output=output,
            to=form.times[output],
            size=max(norm(form.whole.value(form.whole.point)[output]), 1.0),
        )
        found = normalised(form.whole, self.rng("memory"), place)
        if found is None:
            raise Unsupported("no scaled or shifted leaf makes long lags larger")
        where = f"at {found.how} (gain {found.gain:.2g} a step): "
        blocks = [
            self.judged(found.problem, lags, "memory", where)
            for lags in self.screened(found.problem)
        ]
        if self.truncation is not None:
            return tuple(blocks)
        return (*blocks, *self.vjp(found.problem, "memory", where.rstrip(": ")))

    def chunks(self) -> tuple[Finding, ...]:
        """Whether two parts, the state handed over, are the whole."""
        form = self.form
        if form.cell is not None:
            raise Unsupported("a cell is run step by step anyway")
        if not form.states:
            raise Unsupported(
                "no argument was found to be an initial state that the target returns anew (state=)"
            )
        rng = self.rng("chunk")
        whole = form.whole
        free = {*form.times, *(output for _, output in form.states)}
        us = [
            u if k in free else np.zeros_like(u)
            for k, u in enumerate(cotangent(rng, whole.outputs))
        ]
        plain = Plain(problem=whole, rng=rng, point=whole.point, u=tuple(us))
        replies = []
        for borders in self.borders():
            values, gradients = answered(form, plain.u, borders, hands_back=self.truncation is None)
            sizes = " + ".join(str(b - a) for a, b in pairwise(borders))
            count = len(whole.outputs)
            replies.append(
                Reply(
                    question=plain,
                    manner=f"in parts of {sizes} steps",
                    complaint="run in parts, the state handed over, it gives another answer",
                    arrays=values
                    | {count + k: g for k, g in gradients.items() if k not in self.cut_off},
                )
            )
        return findings("chunk", whole, self.settings, replies, oracle="chunk law")

    def borders(self) -> list[tuple[int, ...]]:
        """Where to cut: into halves, next to the border of a chunk; or where it is truncated."""
        steps = self.form.steps
        if self.truncation is not None:
            return [(*range(0, steps, self.truncation), steps)]
        cuts = [1, steps // 2, steps - 1]
        if self.chunk is not None:
            cuts += [self.chunk - 1, self.chunk, self.chunk + 1]
        return [(0, cut, steps) for cut in sorted({c for c in cuts if 0 < c < steps})]

    def lengths(self) -> tuple[Finding, ...]:
        """The VJP at other lengths."""
        form, chunk = self.form, self.chunk
        if self.truncation is not None:
            raise Unsupported("with a declared truncation the gradient is no derivative")
        wanted = {1, 2}
        if chunk is not None:
            wanted |= {chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 1}
        return tuple(
            finding
            for length in sorted(n for n in wanted if 0 < n < form.steps)
            for finding in self.vjp(form.pose(0, length), "length", f"at {length} steps")
        )

    def vjp(self, problem: Problem, check: str, where: str = "") -> tuple[Finding, ...]:
        """What the check "vjp" finds about `problem`, under another name."""
        found = CHECKS["vjp"].ask(
            answers_of(problem, self.settings.seed), self.settings, self.rng(f"{check} {where}")
        )
        return tuple(_placed(finding, check, where) for finding in found)

    def rng(self, question: str) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *question.encode()])


def _placed(finding: Finding, check: str, where: str) -> Finding:
    """The finding of another check, at a place that a reader must know to understand it."""
    silent = finding.verdict is Verdict.PASS and not finding.message
    message = finding.message if silent or not where else f"{where}: {finding.message}"
    return replace(finding, check=check, message=message)


def _but_open(result: CheckResult) -> CheckResult:
    """What is too small to be seen through one output, or at one length, is said and left open.

    The last state depends on the first by as little as is left after all steps.
    """
    open_ = [
        f for f in result.findings if f.verdict is Verdict.INCONCLUSIVE and f.check in SECONDARY
    ]
    said = (f"{f.check} at {f.leaf}: {f.message}" for f in open_)
    return replace(
        result,
        findings=tuple(f for f in result.findings if f not in open_),
        not_checked=(*result.not_checked, *said),
    )
