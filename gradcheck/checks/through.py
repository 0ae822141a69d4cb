"""Through which cotangents a wrong gradient comes, if those of the others lead to a right one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradcheck.evidence import Probe
from gradcheck.oracles import ladder
from gradcheck.probes import known, side_by_side
from gradcheck.problem import Array, Arrays

__all__ = ["Passage", "passage"]

OUTPUTS = 8  # up to here each output's cotangent is asked about alone

SLICES = 32  # and the slices of an output along its axes, as long as there are so few


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Where a wrong gradient comes through: some outputs, or some slices of one."""

    places: tuple[str, ...] = ()  # "output['loss']", "output[:, 1:]"; none if it is all of them
    is_output: bool = False  # whether they are whole outputs
    is_lost: bool = False  # whether nothing at all comes through there


def passage(probe: Probe) -> Passage:
    """Which outputs' cotangents lead to a wrong gradient, or those of which slices."""
    outputs, u = probe.line.problem.outputs, probe.line.u
    if len(outputs) > OUTPUTS:
        return Passage()
    guilty = [0]
    if len(outputs) > 1:
        seen = _seen(probe, [_only(u, k, np.ones((), bool)) for k in range(len(outputs))])
        guilty = [k for k, each in enumerate(seen) if each.is_significant]
        if 0 < len(guilty) < len(outputs):
            return Passage(
                places=tuple(outputs[k].path for k in guilty),
                is_output=True,
                is_lost=_is_lost([seen[k] for k in guilty]),
            )
    return _slice(probe, guilty[0]) if len(guilty) == 1 else Passage()


def _slice(probe: Probe, output: int) -> Passage:
    """The slices along one axis of an output, of all axes the one that says most."""
    u = probe.line.u[output]
    least, found, asked = 1.0, Passage(), 0
    for axis, count in sorted(enumerate(u.shape), key=lambda item: item[1]):
        asked += count
        if asked > SLICES:
            break
        masks = [_slices(u, axis, k) for k in range(count)]
        seen = _seen(probe, [_only(probe.line.u, output, mask) for mask in masks])
        guilty = [k for k, each in enumerate(seen) if each.is_significant]
        if 0 < len(guilty) < least * count:
            least = len(guilty) / count
            place = probe.line.problem.outputs[output].path + _named(u, axis, guilty)
            found = Passage(places=(place,), is_lost=_is_lost([seen[k] for k in guilty]))
    return found


def _seen(probe: Probe, cotangents: Sequence[Arrays]) -> list[Probe]:
    """The same probe, seen through other cotangents; what is evaluated for one is for all."""
    problem = probe.line.problem
    lines = side_by_side(
        [
            replace(probe.line, u=u, asked=known(problem.vjp(problem.point, u)), beside=None)
            for u in cotangents
        ]
    )
    return [replace(probe, line=line, truth=ladder.estimate(line)) for line in lines]


def _is_lost(probes: Sequence[Probe]) -> bool:
    return not any(np.any(probe.line.gradients[probe.index]) for probe in probes)


def _only(us: Arrays, output: int, kept: Array) -> Arrays:
    """The cotangents, zero but for what is `kept` of one output's."""
    return tuple(
        np.where(kept, u, 0).astype(u.dtype) if k == output else np.zeros_like(u)
        for k, u in enumerate(us)
    )


def _slices(u: Array, axis: int, position: int) -> Array:
    """A mask of one slice along an axis, which broadcasts to the array."""
    mask = np.zeros([n if k == axis else 1 for k, n in enumerate(u.shape)], bool)
    mask.reshape(-1)[position] = True
    return mask


def _named(u: Array, axis: int, chosen: Sequence[int]) -> str:
    """The slices as they are written: [:, 1:], [0], [[0, 3]]."""
    first, last = chosen[0], chosen[-1]
    if first == last:
        place = str(first)
    elif len(chosen) <= last - first:
        place = str(list(chosen))
    else:
        place = f"{first or ''}:{last + 1 if last + 1 < u.shape[axis] else ''}"
    return f"[{', '.join([*[':'] * axis, place])}]"
