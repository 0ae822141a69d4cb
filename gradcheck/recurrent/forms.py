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
    sequences: Mapping[int, int]  # a leaf that is a sequence (integers are none) -> axis of time
    times: Mapping[int, int]  # an output that has an axis of time -> that axis
    states: Sequence[tuple[int, int]]  # pairs (leaf, output): what comes out goes in
    is_guessed: bool  # whether nobody said what the states are: they have the shapes of some
    cell: Problem | None = None  # if the target makes one step: the last one
    whole_integers: tuple[str, ...] = ()  # arguments that are not cut: lengths, or a mask, maybe


def form_of(
    pose: Pose,
    inputs: Sequence[Any],
    *,
    sequences: Mapping[int, int],
    state: tuple[int, ...] | None,
    cell: bool,
) -> Form:
    """Return the form of the target that `pose` gives.

    Args:
        sequences: which arguments they are, and the axis of time of each.
        state: which arguments are the initial states; None: those that look like it.

    Raises:
        InputError: the sequence or the state is not what it is said to be.
    """
    first = min(sequences)
    axis = sequences[first]
    steps = int(inputs[first].shape[axis])
    one = pose(0) if cell else pose(slice(0, steps))
    found = {
        k: axis
        for position, axis in sequences.items()
        for k, leaf in enumerate(one.leaves)
        if leaf.path == f"input[{position}]"
    }
    shorter = None if cell else _shorter(pose, steps)
    times = {} if cell else _times(one, shorter, steps, axis)
    states: tuple[tuple[int, int], ...] = ()
    if state is not None:
        states = _states(one, [state], times, first=min(state, default=first) < first)
        _require_states(one, inputs, state, states)
    elif times or cell:
        after = [k for k in range(first, len(inputs)) if k not in sequences]
        states = _states(one, [tuple(after[:2]), tuple(after[:1])], times, first=False)
    if cell and not states:
        raise InputError(_wanted_state(one, state, of="cell"))
    posed = {steps: one} | ({steps - 1: shorter} if shorter else {})

    def part(start: int, stop: int) -> Problem:
        """Parts of one length are one problem, which is compiled once, at two points."""
        if len(found) < len(sequences):
            return pose(slice(start, stop))
        length = stop - start
        if length not in posed:
            posed[length] = pose(slice(0, length))
        point = list(posed[length].point)
        for k, axis in found.items():
            point[k] = one.point[k][(slice(None),) * axis + (slice(start, stop),)]
        return replace(posed[length], point=tuple(point))

    form = Form(
        whole=one,
        steps=steps,
        pose=part,
        sequences=found,
        times=times,
        states=states,
        is_guessed=state is None,
        whole_integers=tuple(
            f"input[{k}]" for k, x in enumerate(inputs) if k not in sequences and _counts(x)
        ),
    )
    return _as_sequence(form, inputs, sequences) if cell else form


def _counts(value: Any) -> bool:
    """Whether it is an array of integers or of truth values."""
    dtype = str(getattr(value, "dtype", ""))
    return ("int" in dtype or "bool" in dtype) and len(getattr(value, "shape", ())) > 0


def _as_sequence(form: Form, inputs: Sequence[Any], sequences: Mapping[int, int]) -> Form:
    """The form of a cell that is run over a sequence."""
    if len(sequences) > 1:
        raise InputError(
            f"expected one sequence for a cell; got sequence={tuple(sequences)}. Wrap it in a "
            "function of one array that takes the step apart"
        )
    ((position, axis),) = sequences.items()
    xs = inputs[position]
    if not form.sequences:
        raise InputError(
            f"expected input[{position}] to be a leaf of the cell; {_unlike(xs, position)}. Embed "
            "tokens first, and check the cell over what they become"
        )
    ((x, _),) = form.sequences.items()
    cell = form.whole

    def pose(start: int, stop: int) -> Problem:
        part = held(xs[(slice(None),) * axis + (slice(start, stop),)])
        return unrolled(cell, part, x=x, axis=axis, states=form.states)

    whole = pose(0, form.steps)
    return replace(
        form,
        whole=whole,
        pose=pose,
        times=dict.fromkeys(range(len(whole.outputs)), 0),
        states=(),
        cell=replace(cell, point=_last(form, whole)),
    )


def _last(form: Form, whole: Problem) -> Arrays:
    """The point of a cell at the last step: with the state that flows into it."""
    values = whole.value(whole.point)
    point = list(form.whole.point)
    for x, axis in form.sequences.items():
        point[x] = np.take(whole.point[x], form.steps - 1, axis)
    for leaf, output in form.states:
        point[leaf] = values[output][form.steps - 2]
    return tuple(point)


def _require_states(
    one: Problem,
    inputs: Sequence[Any],
    state: tuple[int, ...],
    found: Sequence[tuple[int, int]],
) -> None:
    """Refuse arguments that are said to be the state and cannot be."""
    for k in state:
        if not _of_argument(one.leaves, (k,)):
            raise InputError(
                f"state={k}: expected floating arrays that a gradient is taken of; "
                f"{_unlike(inputs[k], k)}"
            )
    if state and not found:
        raise InputError(_wanted_state(one, state, of="target"))


def _wanted_state(one: Problem, state: tuple[int, ...] | None, *, of: str) -> str:
    returned = [f"{output.path} {output.shape}" for output in one.outputs]
    given = state if state is None or len(state) != 1 else state[0]
    return (
        f"expected the {of} to return new states of the shapes of the argument that is its state; "
        f"got state={given!r}, and it returns {returned}. Say which argument by state="
    )


def _unlike(value: Any, position: int) -> str:
    """Why an argument is no leaf."""
    dtype = getattr(value, "dtype", None)
    what = type(value).__name__ if dtype is None else f"{type(value).__name__} of {dtype}"
    asks = getattr(value, "requires_grad", None)
    hint = ", which requires no gradient where another input does" if asks is False else ""
    is_floating = "float" in str(dtype) or "complex" in str(dtype)
    return f"input[{position}] is a {what}{hint if is_floating else ''}"


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


def _states(
    problem: Problem,
    candidates: Sequence[tuple[int, ...]],
    times: Collection[int],
    *,
    first: bool,
) -> tuple[tuple[int, int], ...]:
    """Pairs (leaf, output) of the first candidate of whose shapes a group of outputs is."""
    for arguments in candidates:
        leaves = _of_argument(problem.leaves, arguments)
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


def _of_argument(leaves: Sequence[Leaf], positions: Sequence[int]) -> list[int]:
    """The leaves that lie in the arguments at `positions`."""
    return [
        k
        for k, leaf in enumerate(leaves)
        if any(re.fullmatch(rf"input\[{a}\]([\[.].*)?", leaf.path) for a in positions)
    ]


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
