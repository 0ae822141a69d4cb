"""What a passing check would have caught: faults put into its gradient, the verdict asked again.

It costs no run of the target: what is true along each probe is known, and a fault changes only
what is claimed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gradcheck.evidence import Probe
from gradcheck.problem import Array, inner
from gradcheck.results import Power
from gradcheck.settings import SIGNIFICANCE

__all__ = ["prove"]

# Faults grow by this factor until one is caught, from just above the tolerance: what is smaller
# than that is no fault by definition.
GROWTH, ABOVE = 10.0, 1.01

SEARCHED = 10**4  # entries among which one of typical size is looked for

LARGEST = 1e6  # a gradient a million times too large that is not caught: nothing is


def prove(probes: Sequence[Probe], tolerance: float) -> tuple[Power, ...]:
    """Return the smallest relative error of each kind that `probes` would reject."""
    first = probes[0]
    if first.mean:  # of a segment, nothing smaller than the whole leaf is held
        changes = [probe.claimed for probe in probes]
        return (Power(fault="leaf", smallest=_smallest(probes, changes, tolerance)),)
    gradient = first.line.gradients[first.index]

    def smallest(part: Any) -> float:
        seen = _smallest([first], _changes([first], part), tolerance)
        if seen <= ABOVE * tolerance:  # the gradients of the others need not be asked for
            return seen
        return _smallest(probes, _changes(probes, part), tolerance)

    return tuple(Power(fault=name, smallest=smallest(part)) for name, part in _faults(gradient))


def _faults(gradient: Array) -> Iterator[tuple[str, Any]]:
    """What is scaled: all of the leaf, a slice of every axis, an entry; each of typical size."""
    yield "leaf", ...
    if gradient.ndim > 1 and gradient.size <= SEARCHED:
        for axis, length in enumerate(gradient.shape):
            if length > 1:
                sizes = np.abs(gradient).sum(
                    axis=tuple(k for k in range(gradient.ndim) if k != axis)
                )
                yield f"slice of axis {axis}", (slice(None),) * axis + (_typical(sizes),)
    if gradient.size > 1:
        yield "entry", np.unravel_index(_typical(gradient.ravel()), gradient.shape)


def _typical(sizes: Array) -> int:
    """The position of the median of those that are not zero."""
    stride = 1 + len(sizes) // SEARCHED
    sample = np.abs(sizes[::stride])
    positions = np.flatnonzero(sample)
    if not len(positions):
        return 0
    middle = len(positions) // 2
    return stride * int(positions[np.argpartition(sample[positions], middle)[middle]])


def _changes(probes: Sequence[Probe], part: Any) -> list[float]:
    """What each probe's claim changes by, per relative error, if a part of the leaf is scaled."""
    if part is ...:
        return [probe.line.claims[probe.index].slope for probe in probes]
    return [
        inner(
            np.asarray(probe.line.gradients[probe.index][part]),
            np.asarray(probe.line.v[probe.index][part]),
        )
        for probe in probes
    ]


def _smallest(probes: Sequence[Probe], changes: Sequence[float], tolerance: float) -> float:
    error = ABOVE * tolerance
    while error < LARGEST:
        for probe, change in zip(probes, changes, strict=True):
            off = abs(probe.truth.excess(probe.claimed + error * change))
            if off > SIGNIFICANCE * probe.bar * (1 + error):  # significantly
                return error
        error *= GROWTH
    return float("inf")
