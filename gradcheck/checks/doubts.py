"""What more is measured of a probe whose mismatch may be noise, a kink or rounding."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np

from gradcheck.checks.edges import leaps
from gradcheck.evidence import CLEARLY, Probe
from gradcheck.oracles import ladder
from gradcheck.oracles.stairs import is_staircase
from gradcheck.problem import EPSILON, Array, inner
from gradcheck.rounding import beside, spread, unrest_of
from gradcheck.settings import RIPPLE, SIGNIFICANCE

__all__ = [
    "confirmed",
    "equally_noisy",
    "folded",
    "is_clear",
    "leaping",
    "measured",
    "rippled",
    "unrested",
]

# Ulps of the value over the leaf's size that a gradient's own rounding may be. A tanh that
# saturates is at 16 times its scale in float64, where 1 - y² is off by an ulp of one; a softmax
# is a dozen roundings. In a narrow dtype sixteen ulps would hide a tenth of the gradient.
REUSE, REUSE_NARROW = 16.0, 2.0


def is_clear(probe: Probe) -> bool:
    """Whether no noise can explain the mismatch, of as many steps as `Probe.is_clear` wants to see.

    Nor do the multiples of a step scatter, of which the value of a bisection is one. And steps that
    are no halves of others say the same: what a rounding inside leaves is a saw, and one time in
    eight the teeth of halved steps have one phase.
    """
    climbed = replace(probe, truth=ladder.estimate(probe.line, whole=True))
    if not climbed.is_clear or is_staircase(probe.line):
        return False
    finest, slope = min(step.h for step in climbed.truth.steps), climbed.truth.slope
    others = (probe.line.sample(part * finest) for part in BETWEEN)
    return all(abs(other.central - slope) <= AGREES * climbed.excess for other in others)


BETWEEN, AGREES = (0.83, 0.59, 0.37), 0.1  # of the finest step; of the mismatch


def confirmed(probe: Probe) -> Probe:
    """The same probe at the finest steps, where those confirm a claim that others contradict."""
    if not probe.is_significant:
        return probe
    truth = ladder.confirmed(probe.line, probe.excess)
    return probe if truth is None else replace(probe, truth=truth)


def measured(probe: Probe) -> Probe:
    """The same probe, with the noise of the values measured."""
    return replace(probe, truth=ladder.estimate(probe.line, careful=True))


def unrested(probe: Probe, rng: np.random.Generator) -> Probe:
    """The same probe, with the noise of the target's own gradient measured.

    Terms may have cancelled inside the target; moving the point by an ulp shows how much rounding
    that leaves. It does not show the rounding of a value that the rule uses again (the derivative
    1 - y² of a saturated tanh): a few ulps of the value over the size of the leaf.
    """
    line, problem, index = probe.line, probe.line.problem, probe.index
    unrest = unrest_of(problem, index, line.u, line.gradients[index], rng)
    ulps = REUSE if probe.epsilon <= EPSILON["float32"] else REUSE_NARROW
    reuse = ulps * probe.epsilon / line.unit
    noisy = replace(probe, line=replace(line, unrest={index: unrest}, reuse=reuse))
    if probe.excess > CLEARLY * probe.sharp and not noisy.is_significant:
        right = _right_ones(probe, rng)
        if len(right) >= AGREEING:
            return replace(noisy, line=replace(noisy.line, unrest={index: spread(right)}))
    return noisy


# Of so many gradients up to so many ulps away, so many must agree with the truth: a rule that is
# wrong where two entries are equal is right at nearly all of those points. Of the median of three
# equal numbers a third of them would agree by chance.
NEIGHBOURS, AGREEING, ULPS = 12, 10, 2**10


def _right_ones(probe: Probe, rng: np.random.Generator) -> list[Array]:
    """The gradients a few ulps away that are as the differences say; that at the point is not."""
    line, index = probe.line, probe.index
    return [
        gradient
        for gradient in beside(line.problem, index, line.u, rng, NEIGHBOURS, ulps=ULPS)
        if abs(probe.truth.excess(inner(gradient, line.v[index]))) <= SIGNIFICANCE * probe.sharp
    ]


def leaping(probe: Probe) -> Probe:
    """The same probe, with a jump if the value jumps at the point: what else jumps hides it."""
    if probe.truth.jump or not leaps(probe.line):
        return probe
    return replace(probe, truth=replace(probe.truth, jump=True, error_bar=inf))


def equally_noisy(probes: Sequence[Probe]) -> list[Probe]:
    """The probes, each at least a quarter as noisy as any other: their values are rounded alike.

    A table of differences may miss noise along one line that it sees along another: where the value
    stands still, or by chance where there is one number only. What is more than the rounding of a
    number like one counts if jumps were seen, or if it is less, relative to the value, than that of
    a narrow dtype, which is looked at by itself.
    """
    levels = [
        p.truth.level
        for p in probes
        if p.truth.level <= p.line.ulp
        or p.truth.is_saw
        or p.truth.level < min(RIPPLE.values()) * p.line.weight
    ]
    level = max(levels, default=0.0)

    def leveled(probe: Probe) -> Probe:
        line = replace(probe.line, floor=max(level, probe.line.floor))
        if not probe.truth.level < level / 4:
            return replace(probe, line=line)
        return replace(probe, line=line, truth=ladder.estimate(line, careful=True))

    return [leveled(probe) for probe in probes]


def rippled(probe: Probe, ripple: float) -> Probe:
    line = replace(probe.line, ripple=ripple)
    return replace(probe, line=line, truth=ladder.estimate(line, careful=True))


def folded(probe: Probe) -> Probe:
    """The same probe, with the kinks of all outputs counted, which may cancel in their sum."""
    return replace(probe, truth=ladder.folded(probe.line, probe.truth))
