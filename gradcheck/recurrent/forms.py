"""How a target reads a sequence: which leaf is it, where is time, what is handed on as a state."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradcheck.adapters.select import held
from gradcheck.errors import InputError
from gradcheck.problem import Arrays, Leaf, Problem
from gradcheck.recurrent.cells import unrolled

__all__ = ["Form", "form_of"]

# A target at its steps from `start` to `stop`; at one step, without the axis of time, if it is
# given only that.
Pose = Callable[[slice | int], Problem]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A target that reads a sequence, as a problem, and what its arrays are."""

    whole: Problem
    steps: int
    pose: Callable[[int, int], Problem]  # the same over a part of the sequence
    x: int | None  # the leaf that is the sequence; None: it is no leaf (integers)
    axis: int  # of time, of the sequence
    times: Mapping[int, int]  # an output that has an axis of time -> that axis
    states: Sequence[tuple[int, int]]  # pairs (leaf, output): what comes out goes in
    cell: Problem | None = None  # if the target makes one step: the last one


def form_of(
    pose: Pose,
    inputs: Sequence[Any],
    *,
    sequence: int,
    axis: int,
    state: int | Sequence[int] | None,
    cell: bool,
) -> Form:
    """Return the form of the target that `pose` gives.

    Raises:
        InputError: the sequence or the state is not what it is said to be.
    """
    steps = _steps(inputs, sequence, axis)
    one = pose(0) if cell else pose(slice(0, steps))
    x = next((k for k, a in enumerate(one.leaves) if a.path == f"input[{sequence}]"), None)
    shorter = None if cell else _shorter(pose, steps)
    times = {} if cell else _times(one, shorter, steps, axis)
    states = _states(one, _candidates(state, sequence), times, first=_is_before(state, sequence))
    returned = [f"{output.path} {output.shape}" for output in one.outputs]
    if not states and (state is not None or cell):
        raise InputError(
            "expected the target to return new states of the shapes of the argument that is its "
            f"state; got state={state!r}, and it returns {returned}. Say which argument by state="
        )
    posed = {steps: one} | ({steps - 1: shorter} if shorter else {})

    def part(start: int, stop: int) -> Problem:
        """Parts of one length are one problem, which is compiled once, at two points."""
        if x is None:
            return pose(slice(start, stop))
        length = stop - start
        if length not in posed:
            posed[length] = pose(slice(0, length))
        point = list(posed[length].point)
        point[x] = one.point[x][(slice(None),) * axis + (slice(start, stop),)]
        return replace(posed[length], point=tuple(point))

    form = Form(
        whole=one,
        steps=steps,
        pose=part,
        x=x,
        axis=axis,
        times=times,
        states=states,
    )
    return _as_sequence(form, inputs[sequence], sequence) if cell else form


def _as_sequence(form: Form, xs: Any, sequence: int) -> Form:
    """The form of a cell that is run over `xs`."""
    if form.x is None:
        raise InputError(f"expected input[{sequence}] to be floating, and so a leaf of the cell")
    cell = form.whole

    def pose(start: int, stop: int) -> Problem:
        part = held(xs[(slice(None),) * form.axis + (slice(start, stop),)])
        assert form.x is not None
        return unrolled(cell, part, x=form.x, axis=form.axis, states=form.states)

    whole = pose(0, form.steps)
    return Form(
        whole=whole,
        steps=form.steps,
        pose=pose,
        x=form.x,
        axis=form.axis,
        times=dict.fromkeys(range(len(whole.outputs)), 0),
        states=(),
        cell=replace(cell, point=_last(form, whole)),
    )


def _last(form: Form, whole: Problem) -> Arrays:
    """The point of a cell at the last step: with the state that flows into it."""
    values = whole.value(whole.point)
    point = list(form.whole.point)
    assert form.x is not None
    point[form.x] = np.take(whole.point[form.x], form.steps - 1, form.axis)
    for leaf, output in form.states:
        point[leaf] = values[output][form.steps - 2]
    return tuple(point)


def _steps(inputs: Sequence[Any], sequence: int, axis: int) -> int:
    if not 0 <= sequence < len(inputs):
        raise InputError(f"sequence={sequence}: there are {len(inputs)} positional arguments")
    shape = getattr(inputs[sequence], "shape", None)
    if shape is None or not 0 <= axis < len(shape):
        raise InputError(
            f"expected input[{sequence}] to be one array with an axis {axis} of time; got "
            f"{type(inputs[sequence]).__name__} of shape {shape}. Say which by sequence= and "
            "time_axis="
        )
    if shape[axis] < 2:
        raise InputError(
            f"expected at least two steps along axis {axis} of input[{sequence}]; got {shape[axis]}"
        )
    return int(shape[axis])


def _shorter(pose: Pose, steps: int) -> Problem | None:
    """The target at one step less; None if it takes only the length that it was given."""
    try:
        return pose(slice(0, steps - 1))
    except Exception:  # whatever it raises
        return None


def _times(one: Problem, shorter: Problem | None, steps: int, axis: int) -> dict[int, int]:
    """The axis of time of every output that has one: it is shorter for a shorter sequence."""
    times = {}
    for k, output in enumerate(one.outputs):
        shape = output.shape
        if shorter is not None and len(shorter.outputs) == len(one.outputs):
            pairs = zip(shape, shorter.outputs[k].shape, strict=False)
            axes = [
                a for a, (long, short) in enumerate(pairs) if (long, short) == (steps, steps - 1)
            ]
        else:
            axes = [a for a in range(len(shape)) if shape[a] == steps]
            axes.sort(key=lambda a: a != axis)
        if axes:
            times[k] = axes[0]
    return times


def _candidates(state: int | Sequence[int] | None, sequence: int) -> list[tuple[int, ...]]:
    """The arguments that may be the state: what was said, or one or two after the sequence."""
    if state is None:
        return [(sequence + 1,), (sequence + 1, sequence + 2)]
    return [(state,) if isinstance(state, int) else tuple(state)]


def _is_before(state: int | Sequence[int] | None, sequence: int) -> bool:
    """Whether the state comes before the sequence, and so perhaps before the other outputs."""
    return state is not None and min(_candidates(state, sequence)[0]) < sequence


def _states(
    problem: Problem,
    candidates: Sequence[tuple[int, ...]],
    times: Collection[int],
    *,
    first: bool,
) -> tuple[tuple[int, int], ...]:
    """Pairs (leaf, output) of the first candidate of whose shapes a group of outputs is."""
    for arguments in candidates:
        leaves = [
            k
            for k, leaf in enumerate(problem.leaves)
            if any(re.fullmatch(rf"input\[{a}\]([\[.].*)?", leaf.path) for a in arguments)
        ]
        shapes = [problem.leaves[k].shape for k in leaves]
        groups = [
            group
            for group in _groups(problem.outputs)
            if leaves
            and not any(k in times for k in group)
            and [problem.outputs[k].shape for k in group] == shapes
        ]
        if groups:
            return tuple(zip(leaves, groups[0 if first else -1], strict=True))
    return ()


def _groups(outputs: Sequence[Leaf]) -> list[list[int]]:
    """The outputs by the element of what the target returns that they lie in; and all of them.

    Of arrays that are returned side by side, as many as are wanted may be the state: every run of
    them is a group too.
    """
    tops: dict[str, list[int]] = {}
    for k, output in enumerate(outputs):
        top = re.match(r"output(\[[^\]]*\]|\.\w+)?", output.path)
        tops.setdefault(top[0] if top else output.path, []).append(k)
    runs = [
        list(range(start, stop))
        for start in range(len(outputs))
        for stop in range(start + 2, len(outputs) + 1)
    ]
    return [*runs, *tops.values()]
