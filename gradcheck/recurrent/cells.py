"""A cell run over a sequence: one step, and its VJP, chained through time (BPTT).

Forward, with h the state:  y_t, h_{t+1} = cell(x_t, h_t; θ).
Backward, with ȳ_t the cotangents and h̄_T = 0, from the last step to the first:
x̄_t, h̄_t, θ̄ += VJP_t(ȳ_t, h̄_{t+1}).

The chain is ours and the steps are the target's: a cell whose VJP is right gives the derivative of
the sequence, at the states that really flow, and an error of a long memory is amplified.

Sources:
    Werbos, Backpropagation through time: what it does and how to do it, Proc. IEEE 78 (1990).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gradcheck.problem import Array, Arrays, Problem

__all__ = ["unrolled"]


def unrolled(
    cell: Problem, xs: Array, *, x: int, axis: int, states: Sequence[tuple[int, int]]
) -> Problem:
    """Return the problem of `cell` run over `xs`.

    Its leaves are those of the cell, with the sequence in the place of one step of it; each of its
    outputs has every step's, stacked along a new first axis.

    Args:
        cell: one step, posed at any of them.
        xs: the sequence; time is its `axis`.
        x: the leaf of the cell that one step of `xs` goes into.
        states: pairs (leaf, output) of the cell: what comes out goes in at the next step.
    """
    steps = xs.shape[axis]

    def at(point: Arrays, time: int, carried: Sequence[Array]) -> Arrays:
        arrays = list(point)
        arrays[x] = np.take(point[x], time, axis)
        for (leaf, _), state in zip(states, carried, strict=True):
            arrays[leaf] = state
        return tuple(arrays)

    def run(point: Arrays) -> tuple[list[Arrays], list[Arrays]]:
        """The point of every step, and its outputs."""
        carried = [point[leaf] for leaf, _ in states]
        points, outputs = [], []
        for time in range(steps):
            points.append(at(point, time, carried))
            outputs.append(cell.value(points[-1]))
            carried = [outputs[-1][output] for _, output in states]
        return points, outputs

    def stacked(outputs: Sequence[Arrays]) -> Arrays:
        return tuple(np.stack(arrays) for arrays in zip(*outputs, strict=True))

    def vjp(point: Arrays, cotangents: Arrays) -> Arrays:
        points, _ = run(point)
        total = [np.zeros_like(array) for array in point]
        carried = [np.zeros_like(point[leaf]) for leaf, _ in states]
        for time in reversed(range(steps)):
            us = [u[time] for u in cotangents]
            for (_, output), u in zip(states, carried, strict=True):
                us[output] = us[output] + u
            gradients = cell.vjp(points[time], tuple(us))
            carried = [gradients[leaf] for leaf, _ in states]
            _add(total, gradients, states, x, axis, time)
        for (leaf, _), u in zip(states, carried, strict=True):
            total[leaf] = u
        return tuple(total)

    def jvp(point: Arrays, tangents: Arrays) -> Arrays:
        assert cell.jvp is not None
        points, _ = run(point)
        carried = [tangents[leaf] for leaf, _ in states]
        moves = []
        for time in range(steps):
            moves.append(cell.jvp(points[time], at(tangents, time, carried)))
            carried = [moves[-1][output] for _, output in states]
        return stacked(moves)

    def in_float64() -> Problem:
        assert cell.in_float64 is not None
        return unrolled(cell.in_float64(), xs, x=x, axis=axis, states=states)

    forward_mode: Callable[[Arrays, Arrays], Arrays] | None = jvp if cell.jvp else None
    return Problem(
        name=cell.name,
        target=cell.target,
        framework=cell.framework,
        leaves=tuple(
            replace(leaf, shape=xs.shape) if k == x else leaf for k, leaf in enumerate(cell.leaves)
        ),
        outputs=tuple(replace(o, shape=(steps, *o.shape)) for o in cell.outputs),
        point=tuple(xs if k == x else array for k, array in enumerate(cell.point)),
        value=lambda point: stacked(run(point)[1]),
        vjp=vjp,
        jvp=forward_mode,
        in_float64=cell.in_float64 and in_float64,
        notes=cell.notes,
    )


def _add(
    total: list[Array],
    gradients: Arrays,
    states: Sequence[tuple[int, int]],
    x: int,
    axis: int,
    time: int,
) -> None:
    """Add the gradients of one step; what a state receives goes on to the step before."""
    handed_on = {leaf for leaf, _ in states}
    for k, gradient in enumerate(gradients):
        if k == x:
            total[k][(slice(None),) * axis + (time,)] += gradient
        elif k not in handed_on:
            total[k] = total[k] + gradient
