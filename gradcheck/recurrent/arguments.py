"""Which arguments of a call are the sequences, where their time is, and which are the states."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from gradcheck.adapters.select import framework_of
from gradcheck.errors import InputError
from gradcheck.options import is_whole

__all__ = ["Index", "sequences", "states"]

Index = int | Sequence[int]


def sequences(inputs: Sequence[Any], chosen: Index, time_axis: int) -> dict[int, int]:
    """Return the position of every sequence among the arguments, and its axis of time.

    Raises:
        InputError: what is chosen is no array with that axis, or they differ in length.
    """
    positions = _positions("sequence", chosen, len(inputs))
    if not positions:
        raise InputError(f"expected sequence to name an argument; got {chosen!r}")
    axes = {k: _axis(inputs[k], k, time_axis) for k in positions}
    lengths = {f"input[{k}]": int(inputs[k].shape[axis]) for k, axis in axes.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"expected sequences of one length; got {lengths} along their time_axis")
    if min(lengths.values()) < 2:
        raise InputError(f"expected at least two steps along time_axis={time_axis}; got {lengths}")
    framework = framework_of(None, inputs)
    for k in positions:
        if framework == "torch" and isinstance(inputs[k], np.ndarray):
            raise InputError(
                f"expected input[{k}] to be a tensor, since other inputs are; got a NumPy array of "
                f"{inputs[k].dtype}. Say torch.from_numpy(x)"
            )
    return axes


def states(
    inputs: Sequence[Any], chosen: Index | None, sequences: Collection[int]
) -> tuple[int, ...] | None:
    """Return the positions of the initial states; () if there is none, None if nobody said.

    Raises:
        InputError: there is no such argument, or it is a sequence.
    """
    if chosen is None:
        return None
    positions = _positions("state", chosen, len(inputs))
    for k in positions:
        if k in sequences:
            raise InputError(
                f"state={chosen!r}: input[{k}] is a sequence; say which is by sequence="
            )
    return positions


def _positions(option: str, chosen: Any, count: int) -> tuple[int, ...]:
    """Positions counted from the front; from the end they may be given."""
    given = (chosen,) if np.ndim(chosen) == 0 else tuple(chosen)
    for k in given:
        if not is_whole(k):
            raise InputError(f"expected {option} to be the position of an argument; got {k!r}")
        if not -count <= k < count:
            raise InputError(f"{option}={chosen!r}: there are {count} positional arguments")
    return tuple(int(k) % count for k in given)


def _axis(x: Any, position: int, time_axis: Any) -> int:
    shape = getattr(x, "shape", None)
    if shape is None or not is_whole(time_axis) or not -len(shape) <= time_axis < len(shape):
        hint = (
            "Wrap the layer in a function that packs a padded sequence inside"
            if type(x).__name__ == "PackedSequence"
            else "Say which by sequence= and time_axis="
        )
        raise InputError(
            f"expected input[{position}] to be one array with an axis {time_axis!r} of time; got "
            f"{type(x).__name__} of shape {shape}. {hint}"
        )
    return int(time_axis) % len(shape)
