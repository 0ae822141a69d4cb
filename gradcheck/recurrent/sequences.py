"""A layer that reads a sequence, or a cell that is run over one: is it right at every lag?

Beside what is asked of any layer, of all outputs and states jointly, it is asked: each output
alone, every block ∂y_t/∂x_s of the Jacobian, the same at weights that remember, in chunks with the
state handed over, and at the lengths at which a kernel that works in chunks goes another way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np

from gradcheck.adapters.select import problem_of
from gradcheck.answers import answers_of
from gradcheck.checks import CHECKS
from gradcheck.checks.parity import Question as Plain
from gradcheck.checks.parity import Reply, findings, is_random
from gradcheck.errors import GradcheckError, Unsupported, first_line
from gradcheck.inquiry import Question, conducted, left_open, of_checks, raised, unposed
from gradcheck.listeners import heard
from gradcheck.meter import Meter
from gradcheck.options import a_count, settled
from gradcheck.probes import cotangent, direction, scale
from gradcheck.problem import Problem, label, norm
from gradcheck.recurrent.arguments import Index, sequences, states
from gradcheck.recurrent.chunks import valued
from gradcheck.recurrent.forms import Form, form_of
from gradcheck.recurrent.gains import Place, normalised
from gradcheck.recurrent.lags import Lags, before_the_first, is_in_chunks, judged, moments, screened
from gradcheck.recurrent.slices import Part, seen
from gradcheck.results import CheckResult, Finding, Verdict
from gradcheck.settings import Settings
from gradcheck.trees import Keywords

__all__ = ["check_sequence"]

DEFAULT = tuple(key for key, check in CHECKS.items() if check.by_default)

# What is asked of a cell at one step; its VJP is asked through time.
OF_CELL = tuple(key for key in DEFAULT if key != "vjp")

SECONDARY = ("output", "memory", "chunk", "length")

# How far an initial state is moved, in units of its size, to see whether it is one: what moves with
# it by the first order is 1e-2, and what it is a part of (a logarithm, a norm) stays in its domain.
MOVED = 2.0**-8


@heard
def check_sequence(
    target: Any,
    *inputs: Any,
    sequence: Index = 0,
    time_axis: int = 0,
    state: Index | None = None,
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
    whether two parts, the state handed over, are the whole (of a target that neither looks ahead
    nor draws random numbers); "length", of the lengths 1, 2, and those next to `chunk` and twice as
    many. What cannot be asked is said under `not_checked`.

    Args:
        target: a layer `layer(x, *states)` that returns outputs with an axis of time, and its new
            states if it has any; or with `cell=True` one step of it, which is run over x.
        inputs: its arguments. Leaves are those of `check`.
        sequence: which argument is the sequence x: one array of at least two steps. Several, if
            they run side by side (queries and keys, a mask): they are cut at the same times.
        time_axis: of each sequence; an output may have its own elsewhere.
        state: which argument, or arguments, are the initial state; `()` if there is none. By
            default the one or two after the sequence, if the target returns arrays of their
            shapes: what only looks like a state is not held to the chunk law.
        cell: the target makes one step: `cell(x_t, state)` returns the new state, or that and
            outputs. It is run over x, and its VJP chained (BPTT).
        chunk: the length at which a kernel begins a new chunk; the target must run at the lengths
            next to it.
        truncation: the steps after which backpropagation through time is cut off on purpose,
            behind a moving window or at the borders of blocks, counted from any step: what
            reaches further is held to be zero, what is shorter to be right.
        rtol, seed, name, kwargs, budget_s: as in `check`.

    Raises:
        InputError: an argument cannot be used; the message names it.

    Sources:
        Werbos, Backpropagation through time, Proc. IEEE 78 (1990).
        Williams and Peng, An efficient gradient-based algorithm for on-line training of recurrent
        network trajectories, Neural Computation 2 (1990): truncation.
    """
    settings = settled(seed=seed, rtol=rtol, budget_s=budget_s)
    a_count("chunk", chunk, "steps")
    a_count("truncation", truncation, "steps")
    axes = sequences(inputs, sequence, time_axis)
    initial = states(inputs, state, axes)
    given = (*inputs, Keywords(kwargs)) if kwargs else inputs
    meter = Meter()

    def pose(time: slice | int) -> Problem:
        part = [
            x[(slice(None),) * axes[k] + (time,)] if k in axes else x for k, x in enumerate(given)
        ]
        return meter.around(problem_of(target, part, name=name, seed=seed))

    try:
        form = form_of(pose, inputs, sequences=axes, state=initial, cell=cell)
    except GradcheckError:
        raise
    except Exception as error:  # whatever the target raises is a finding about the target
        return unposed(label(target, name), error, settings, hint=_hint(pose, cell=cell))
    asked = Asked(form=form, settings=settings, chunk=chunk, truncation=truncation)
    questions = asked.questions()
    result = conducted(form.whole, settings, questions, meter, asked={"vjp", *asked.own()})
    return _but_open(replace(result, not_checked=(*result.not_checked, *asked.too_long())))


def _hint(pose: Callable[[slice | int], Problem], *, cell: bool) -> str:
    """What to say of a target that raised, if it runs on one step and not on all, or on all."""
    try:
        pose(slice(None) if cell else 0)
    except Exception:  # whatever it raises
        return ""
    if cell:
        return "it runs on the whole sequence: did you mean cell=False?"
    return "it runs on one step: did you mean cell=True?"


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
        few = self.form.pose(0, min(self.uncut(self.truncation), self.form.steps))
        paths = {few.leaves[k].path for k in self.cut_off_from(few)}
        return tuple(finding for finding in self.vjp(few, "vjp") if finding.leaf not in paths)

    def but_cut_off(self, question: Question) -> tuple[Finding, ...]:
        paths = {self.form.whole.leaves[k].path for k in self.cut_off}
        return tuple(finding for finding in question() if finding.leaf not in paths)

    @cached_property
    def cut_off(self) -> set[int]:
        """The initial states that a declared truncation cuts off too."""
        return set() if self.truncation is None else self.cut_off_from(self.form.whole)

    def cut_off_from(self, problem: Problem) -> set[int]:
        gradients = problem.vjp(problem.point, cotangent(self.rng("cut off"), problem.outputs))
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
        return tuple(self.judged(self.form.whole, lags, "lag") for lags in self.given)

    @cached_property
    def given(self) -> list[Lags]:
        """The blocks at the given weights."""
        return self.screened(self.form.whole)

    def screened(self, problem: Problem) -> list[Lags]:
        form = self.form
        if not form.sequences:
            raise Unsupported("the sequence is no leaf, so that there are no blocks of it")
        if not form.times:
            raise Unsupported("no output has an axis of time")
        leaves, outputs = form.whole.leaves, form.whole.outputs
        size = max(int(np.prod(leaves[x].shape)) for x in form.sequences)
        if not size or not all(0 not in outputs[k].shape for k in form.times):
            raise Unsupported("the sequence or an output is empty")
        borders = [b for b in (self.chunk, self.truncation) if b is not None]
        times = moments(form.steps, size, borders)
        answers = answers_of(problem, self.settings.seed)
        return [
            screened(
                answers,
                self.rng("lag"),
                x=x,
                axis=axis,
                output=output,
                out_axis=out_axis,
                times=times,
            )
            for x, axis in form.sequences.items()
            for output, out_axis in form.times.items()
        ]

    def judged(self, problem: Problem, lags: Lags, check: str, where: str = "") -> Finding:
        finding = judged(problem, lags, self.settings, truncation=self.truncation)
        return replace(finding, check=check, message=where + finding.message)

    def memory(self) -> tuple[Finding, ...]:
        """The VJP and the blocks at weights that remember, if those given forget."""
        form = self.form
        unseen = next((lags for lags in self.given if lags.unseen), None)
        if unseen is None:
            raise Unsupported("every lag is seen at the given weights")
        place = Place(
            x=unseen.x,
            axis=unseen.axis,
            output=unseen.output,
            to=unseen.out_axis,
            size=max(norm(form.whole.value(form.whole.point)[unseen.output]), 1.0),
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
        form, whole = self.form, self.form.whole
        if form.cell is not None:
            raise Unsupported("a cell is run step by step anyway")
        if not form.states:
            raise Unsupported(
                "no argument was found to be an initial state that the target returns anew (state=)"
                if form.is_guessed
                else "there is no state, as state=() says"
            )
        plain = self.plain()
        if whole.session is not None and is_random(plain):
            raise Unsupported("the target draws random numbers, others for parts: say eval()")
        if self.truncation is not None and not self.is_in_chunks(self.truncation):
            raise Unsupported(
                "with a truncation that is not at the borders of parts, they have other gradients"
            )
        questions, replies, refusals = self.besides(plain), [], []
        for borders in self.borders():
            cuts = borders[1:-1]
            try:
                if any(self.looks_ahead(plain, cut) for cut in cuts):
                    continue
                replies += [self.in_parts(question, borders) for question in questions]
            except GradcheckError:
                raise
            except Exception as error:  # whatever the target raises
                if any(self.is_declared(cut) for cut in cuts):
                    raise
                refusals.append(f"cut at {cuts[0]}: {_said(error)}")
        if not replies:
            raise Unsupported(refusals[0] if refusals else "the outputs depend on later steps")
        found = findings("chunk", whole, self.settings, replies, oracle="chunk law")
        values = [f for f in found if f.verdict is Verdict.FAIL and f.leaf in self.outputs_at]
        if values and form.is_guessed:
            places = " and ".join(whole.leaves[leaf].path for leaf, _ in form.states)
            raise Unsupported(
                f"{places} looks like an initial state by its shape, but run in parts the values "
                f"differ; say state= if it is one, state=() if not; {CAUSES}"
            )
        if values and form.whole_integers:
            given = " and ".join(form.whole_integers)
            raise Unsupported(
                f"every part is given the whole of {given}, and run in parts the values differ: if "
                f"these are lengths or a mask, cut them (sequence=), or pack the parts; {CAUSES}"
            )
        open_ = tuple(left_open("chunk", refusal) for refusal in refusals)
        if values:  # and so the gradients do, being those of another function
            return (*(replace(f, message=f"{f.message}; {CAUSES}") for f in values), *open_)
        return (*found, *open_)

    def uncut(self, truncation: int) -> int:
        """How many of the first steps a declared truncation leaves together, if that is seen."""
        if not self.form.sequences or not self.form.times:
            return truncation
        return min(before_the_first(lags.blocks, truncation) for lags in self.given)

    def is_in_chunks(self, truncation: int) -> bool:
        """Whether the declared truncation is at the borders of parts, as far as is seen."""
        if not self.form.sequences or not self.form.times:
            return True
        return any(is_in_chunks(lags.blocks, truncation) for lags in self.given)

    def plain(self) -> Plain:
        """The whole, asked with cotangents of what has an axis of time and of the states."""
        form, rng = self.form, self.rng("chunk")
        free = {*form.times, *(output for _, output in form.states)}
        us = enumerate(cotangent(rng, form.whole.outputs))
        masked = tuple(u if k in free else np.zeros_like(u) for k, u in us)
        return Plain(problem=form.whole, rng=rng, point=form.whole.point, u=masked)

    def besides(self, plain: Plain) -> list[Plain]:
        """The question; and that at other states, if they are guessed: a zero is any zero."""
        if not self.form.is_guessed:
            return [plain]
        moved = list(plain.point)
        for k, _ in self.form.states:
            v = direction(plain.rng, self.form.whole.leaves[k])
            moved[k] = self.form.whole.leaves[k].rounded(moved[k] + MOVED * scale(moved[k]) * v)
        return [plain, replace(plain, point=tuple(moved))]

    def in_parts(self, question: Plain, borders: tuple[int, ...]) -> Reply:
        count = len(question.problem.outputs)
        parts = valued(self.form, question.point, borders)
        gradients = parts.gradients(question.u, hands_back=self.truncation is None)
        sizes = " + ".join(str(b - a) for a, b in pairwise(borders))
        return Reply(
            question=question,
            manner=f"in parts of {sizes} steps",
            complaint="run in parts, the state handed over, it gives another answer",
            arrays=parts.outputs
            | {count + k: g for k, g in gradients.items() if k not in self.cut_off},
        )

    def looks_ahead(self, plain: Plain, cut: int) -> bool:
        """Whether what is returned of the steps before `cut` depends on those after it.

        Seen where those are moved; of integers, where they are left out.
        """
        form = self.form
        if form.sequences:
            point = list(plain.point)
            for x, axis in form.sequences.items():
                later = (slice(None),) * axis + (slice(cut, None),)
                v = direction(plain.rng, form.whole.leaves[x]) * scale(point[x])
                point[x] = point[x].copy()
                point[x][later] += v[later]
                point[x] = form.whole.leaves[x].rounded(point[x])
            values = form.whole.value(tuple(point))
        else:
            values = form.pose(0, cut).value(form.pose(0, cut).point)
        for k, axis in form.times.items():
            before = (slice(None),) * axis + (slice(0, cut),)
            here, there = plain.answer[k][before], values[k][before]
            # Half of the digits: kernels sum otherwise at other values and lengths.
            if norm(here - there) > form.whole.outputs[k].epsilon ** 0.5 * norm(here):
                return True
        return False

    @cached_property
    def outputs_at(self) -> set[str]:
        return {output.path for output in self.form.whole.outputs}

    def is_declared(self, length: int) -> bool:
        """Whether a length is next to the one of a chunk, or of two: the target must run at it."""
        return self.chunk is not None and length in _next_to(self.chunk)

    def borders(self) -> list[tuple[int, ...]]:
        """Where to cut: into halves, next to the border of a chunk; or where it is truncated."""
        steps = self.form.steps
        if self.truncation is not None:
            return [(*range(0, steps, self.truncation), steps)]
        cuts = {1, steps // 2, steps - 1}
        if self.chunk is not None:
            cuts |= {self.chunk - 1, self.chunk, self.chunk + 1}
        return [(0, cut, steps) for cut in sorted(c for c in cuts if 0 < c < steps)]

    def lengths(self) -> tuple[Finding, ...]:
        """The VJP at other lengths."""
        if self.truncation is not None:
            raise Unsupported("with a declared truncation the gradient is no derivative")
        lengths = sorted(n for n in {1, 2} | self.next_to_chunk if 0 < n < self.form.steps)
        return tuple(finding for length in lengths for finding in self.at_length(length))

    @cached_property
    def next_to_chunk(self) -> set[int]:
        return set() if self.chunk is None else _next_to(self.chunk)

    def too_long(self) -> tuple[str, ...]:
        """What is said of lengths at which a kernel may go another way, and that are not there."""
        lengths = sorted(n for n in self.next_to_chunk if n > self.form.steps)
        if not lengths:
            return ()
        steps = ", ".join(map(str, lengths))
        return (f"length: at {steps} steps: the sequence has {self.form.steps}, give a longer one",)

    def at_length(self, length: int) -> tuple[Finding, ...]:
        where = f"at {length} steps"
        try:
            return self.vjp(self.form.pose(0, length), "length", where)
        except GradcheckError:
            raise
        except Exception as error:  # whatever the target raises
            if self.is_declared(length):
                return (replace(raised("length", error), message=f"{where}: {_said(error)}"),)
            return (left_open("length", f"{where}: {_said(error)}"),)

    def vjp(self, problem: Problem, check: str, where: str = "") -> tuple[Finding, ...]:
        """What the check "vjp" finds about `problem`, under another name."""
        found = CHECKS["vjp"].ask(
            answers_of(problem, self.settings.seed), self.settings, self.rng(f"{check} {where}")
        )
        return tuple(_placed(finding, check, where) for finding in found)

    def rng(self, question: str) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *question.encode()])


CAUSES = "is there a mask, a position or a random number that is not cut with the steps?"


def _next_to(chunk: int) -> set[int]:
    return {chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 1}


def _said(error: Exception) -> str:
    return f"the target raised {type(error).__name__}: {first_line(error)}"


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
    said = (
        f"{f.check} at {f.leaf}: {f.message}" if f.leaf else f"{f.check} {f.message}" for f in open_
    )
    return replace(
        result,
        findings=tuple(f for f in result.findings if f not in open_),
        not_checked=(*result.not_checked, *said),
    )
