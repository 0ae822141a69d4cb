"""Is what differences say of a wrong gradient consistent: along entries, and along directions?

Where slopes do not add up the value has no derivative, and what entries are off by proves nothing.
"""

from dataclasses import replace

import numpy as np

from gradcheck.checks.along import closer
from gradcheck.checks.doubts import folded
from gradcheck.errors import maybe_out_of_domain
from gradcheck.evidence import Probe
from gradcheck.locate import Location
from gradcheck.oracles import ladder
from gradcheck.probes import Line, direction, scale
from gradcheck.problem import inner
from gradcheck.results import Entry
from gradcheck.settings import SIGNIFICANCE

__all__ = ["is_absorbed", "is_cleared", "is_torn", "repeats"]

# Other directions along which a mismatch that no entry explains must show once more. One that is
# wrong as a whole, as when both of two tied maxima get the cotangent, shows in half of them.
AGAIN = 3

LOOKED_AT = 8  # wrong entries, along which slopes must add up

NEAR = (2.0**-18, 2.0**-26)  # the steps, in sizes of the leaf

TRIES = 8  # directions: of three equal numbers a third of them show nothing of one

TORN = 0.1  # of what an entry is off by, what slopes that do not add up miss at the least

SIGNS = np.array([-1.0, 1.0])


def is_cleared(probe: Probe, location: Location) -> bool:
    """Whether every entry was read, and what they may be off by is not the mismatch."""
    v, read = probe.line.v[probe.index], location.read
    if len(read) < v.size:
        return False
    room = sum(abs(v[e.index]) * (e.off + SIGNIFICANCE * e.error_bar) for e in read)
    return bool(room < probe.excess / 2) and not any(_hides(probe, e) for e in read)


def _hides(probe: Probe, entry: Entry) -> bool:
    """Whether the steps at which an entry was read lead over what is wrong with it."""
    v = np.zeros_like(probe.line.v[probe.index])
    v[entry.index] = 1.0
    line = probe.line.along({probe.index: v})
    alone = replace(probe, line=line, truth=ladder.estimate(line, careful=True))
    return closer([alone])[0].is_significant


def repeats(probe: Probe, tolerance: float, rng: np.random.Generator) -> bool:
    """Whether a mismatch that no entry explains shows along another direction as well."""
    for _ in range(AGAIN):
        v = probe.line.v[probe.index]
        other = rng.uniform(0.5, 1.5, v.shape) if probe.is_aligned else rng.choice(SIGNS, v.shape)
        line = probe.line.along({probe.index: v * other})
        again = folded(replace(probe, line=line, truth=ladder.estimate(line, careful=True)))
        if again.is_significant and again.mismatch > tolerance:
            return True
    return False


def is_absorbed(probe: Probe) -> bool:
    """Whether all that is wrong comes through outputs that stand still, in no rule but autograd's.

    A score that is added to -1e9 is rounded away: the value does not depend on it, and autograd,
    which knows nothing of rounding, says that it does.
    """
    line, problem = probe.line, probe.line.problem
    if problem.has_rules_of_its_own():
        return False
    moved = [line.at(side * step * line.unit) for side in SIGNS for step in (STILL, STILL**2)]
    u = tuple(
        np.where(np.all([there[k] == f for there in moved], axis=0), u_, 0).astype(u_.dtype)
        for k, (f, u_) in enumerate(zip(line.centre, line.u, strict=True))
    )
    if not any(map(np.any, u)):  # a rule may make something of nothing
        return False
    with np.errstate(all="ignore"):
        still = problem.vjp(problem.point, u)
    lost = sum(inner(still[k], v) for k, v in line.v.items())
    left = abs(probe.truth.excess(probe.claimed - lost))
    return bool(left <= max(SIGNIFICANCE * probe.bar, ALIKE * probe.excess))


# A step in parts of the leaf's size, and another, by which what stands still is not moved; and what
# part of a mismatch may be left of it.
STILL, ALIKE = 2.0**-7, 1e-3


def is_torn(probe: Probe, location: Location, rng: np.random.Generator) -> bool:
    """Whether slopes do not add up where entries are wrong: the value has no derivative there.

    Of the middle one of three equal numbers no single one moves the value, and all together do.
    """
    if np.iscomplexobj(probe.line.v[probe.index]):
        return False
    line, index = probe.line, probe.index
    asked = location.entries[:LOOKED_AT]
    torn = [e for e in asked if any(_tears(line, index, e, rng) for _ in range(TRIES))]
    # Of a kink along an entry itself more is known, but for a rule that nobody but the framework
    # has a say in: of a minimum of maxima it may take pieces that nowhere meet.
    is_kink = location.kinks or torn or probe.truth.kink > 0
    if is_kink and not line.problem.has_rules_of_its_own():
        return all(e in torn or _is_right_beside(line, index, e, rng) for e in asked)
    return len(torn) == len(asked) and not any(e.index in location.kinks for e in torn)


def _is_right_beside(line: Line, index: int, entry: Entry, rng: np.random.Generator) -> bool:
    """Whether the gradient of an entry is what differences want, once all others have moved a bit.

    Then it was they that it is tied with. What is wrong by its own number, as beside a `where` of
    zeros, stays so.
    """
    problem = line.problem
    for _ in range(TRIES):
        pairs = zip(problem.leaves, problem.point, strict=True)
        steps = tuple(np.asarray(min(NEAR) * direction(rng, leaf, scale(x))) for leaf, x in pairs)
        steps[index][entry.index] = 0.0
        with maybe_out_of_domain(), np.errstate(all="ignore"):
            there = problem.vjp(problem.moved(steps).point, line.u)[index][entry.index]
            if abs(there - entry.wanted) <= TORN * entry.off:
                continue
        return False
    return True


def _tears(line: Line, index: int, entry: Entry, rng: np.random.Generator) -> bool:
    """Whether the slope along all entries is not the sum of those along one and the others.

    By as much at small steps and at smaller ones, where what is curved has become straight.
    """
    v = direction(rng, line.problem.leaves[index])
    own, others = np.zeros_like(v), v.copy()
    own[entry.index], others[entry.index] = v[entry.index], 0.0
    lines = [line.along({index: part}) for part in (v, own, others)]
    least = TORN * float(abs(v[entry.index])) * entry.off
    offs = []
    for step in NEAR:
        whole, one, rest = (each.sample(step * line.unit) for each in lines)
        offs.append(abs(whole.central - one.central - rest.central))
        if not offs[-1] > max(
            SIGNIFICANCE * (whole.rounding + one.rounding + rest.rounding), least
        ):
            return False
    return min(offs) > max(offs) / 2
