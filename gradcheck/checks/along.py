"""Probes along one leaf: at steps that suit it, or at finer ones where those contradict them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.entrywise import narrowest
from gradcheck.evidence import Probe
from gradcheck.oracles import ladder
from gradcheck.oracles.rungs import NARROW
from gradcheck.oracles.stairs import is_staircase
from gradcheck.probes import Line, known, relative, scale
from gradcheck.problem import EPSILON, Array, norm
from gradcheck.settings import SIGNIFICANCE

__all__ = ["aligned", "along", "closer", "epsilon_of", "finer", "line_of", "sharper"]


def line_of(
    answers: Answers, k: int, v: Mapping[int, Array], unit: float = 1.0, *, keeps: bool = True
) -> Line:
    """The line along `v` seen through the k-th cotangent; it `keeps` the gradients, or asks."""
    us = answers.cotangents(k)
    spread = zip(us, answers.value, answers.again, strict=True)
    return Line(
        problem=answers.problem,
        v=v,
        u=us,
        asked=known(answers.gradients(k)) if keeps else partial(answers.gradients, k),
        centre=answers.value,
        unit=unit,
        floor=sum(norm(u * (a - b)) for u, a, b in spread),
    )


def epsilon_of(answers: Answers, index: int) -> float:
    """Of the narrowest dtype that the gradient of a leaf passes through: it has no more digits."""
    return narrowest(answers.problem.leaves[index], answers.problem.outputs).epsilon


def along(answers: Answers, k: int, index: int, v: Array, *, careful: bool = False) -> Probe:
    """What the k-th cotangent sees along a direction of one leaf, at steps of the leaf's size."""
    line = line_of(answers, k, {index: v}, scale(answers.problem.point[index]))
    truth = (None if careful else ladder.still(line)) or ladder.estimate(line, careful=careful)
    return Probe(index=index, epsilon=epsilon_of(answers, index), line=line, truth=truth)


def sharper(answers: Answers, k: int, index: int, v: Array, tolerance: float) -> Probe:
    """What is true along `v`; or along a direction that moves each entry by a part of its size."""
    probe = along(answers, k, index, v)
    if probe.resolution <= tolerance or probe.truth.kink or probe.truth.jump or probe.is_vacuous:
        return probe
    other = along(answers, k, index, relative(v, answers.problem.point[index]))
    return min(probe, other, key=lambda p: p.resolution)


# A step far below those of the ladder, and how much closer that then begins. A smaller part of the
# slope is left to curvature, and to the noise of an evaluation that nobody has measured.
CLOSE, CLOSER, SEEN = 2.0**-20, 2.0**-10, 1e-4


def closer(probes: Sequence[Probe]) -> list[Probe]:
    """The probes, of one direction, at much finer steps where one of those contradicts them.

    The ladder walks down no farther than it must. Of a value that is flat within a thousandth of
    the leaf's size, and straight beyond (a dead zone, the gate of a quantiser), its steps see what
    lies beyond.
    """
    line = probes[0].line
    if any(line.problem.leaves[k].epsilon > EPSILON["float64"] for k in line.v):
        return list(probes)
    if not all(p.is_smooth and p.truth.steps and not p.is_significant for p in probes):
        return list(probes)
    h = CLOSE * line.unit
    close = line.at(h)
    return [_contradicted(probe, probe.line.rise(close, line.centre) / h, h) for probe in probes]


def _contradicted(probe: Probe, slope: float, h: float) -> Probe:
    """The probe, or one at finer steps if the `slope` at step `h` contradicts it, and they do."""
    line, truth = probe.line, probe.truth
    reached = min(step.h for step in truth.steps)
    # What jumps somewhere is noise to a ladder that steps over it, and none to a small step.
    is_noisy = truth.is_saw or truth.level <= line.ulp or is_staircase(line)
    level = truth.level if is_noisy else line.ulp
    bar = truth.error_bar * max(reached / h, 1.0) + (level + line.ulp) / h
    if not abs(slope - truth.slope) > max(SIGNIFICANCE * bar, SEEN * line.size):
        return probe
    other = _in_units(probe, CLOSER * line.unit, careful=True)
    return other if other.is_significant and other.is_smooth else probe


def finer(probes: Sequence[Probe]) -> list[Probe]:
    """The same probes at steps that suit the smallest entry, unless they say the same.

    Steps of the leaf's usual size may lead over a pole of a small entry again and again, and then
    seem to converge to what lies beyond. One probe of which they say the same speaks for all.
    """
    found: list[Probe] = []
    for k, probe in enumerate(probes):
        found.append(_finer(probe) if probe.is_significant else probe)
        if probe.is_significant and found[-1] is probe:
            return [*found, *probes[k + 1 :]]
    return found


def _finer(probe: Probe) -> Probe:
    line = probe.line
    sizes = np.abs(line.problem.point[probe.index])
    smallest = float(np.min(sizes, initial=line.unit, where=sizes > 0))
    if smallest >= NARROW * line.unit:
        return probe
    other = _in_units(probe, scale(np.asarray(smallest)))
    apart = abs(other.truth.slope - probe.truth.slope)
    contradicts = apart > SIGNIFICANCE * (other.truth.error_bar + probe.truth.error_bar)
    return other if contradicts and not other.is_significant else probe


def _in_units(probe: Probe, unit: float, *, careful: bool = False) -> Probe:
    """The same probe, at steps of another size."""
    line = replace(probe.line, unit=unit, beside=None)
    return replace(probe, line=line, truth=ladder.estimate(line, careful=careful))


def aligned(answers: Answers, index: int, v: Array) -> Probe:
    """A probe along the claimed gradient: its signs, and magnitudes as in any direction."""
    gradient = answers.gradients(0)[index]
    sizes = np.abs(gradient)
    phases = np.divide(gradient, sizes, out=np.ones_like(gradient), where=sizes > 0)
    return replace(along(answers, 0, index, np.abs(v) * phases), is_aligned=True)
