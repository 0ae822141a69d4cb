"""Is the gradient linear in its cotangent?

vjp(u - 2w) = vjp(u) - 2 vjp(w), vjp(0) = 0, and vjp(1) is the sum of what its parts give. A rule
that ignores its cotangent, adds a constant or keeps a stale one is not linear, nor is one that
clips what is large or drops what is small: a mean loss may pull back a millionth of what is usual.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from gradcheck import jumps
from gradcheck.answers import Answers
from gradcheck.checks.entrywise import (
    LINEAR,
    ROUNDINGS,
    compared,
    floor,
    moved,
    narrowest,
    rough,
    rounded_away,
)
from gradcheck.checks.sums import Pose, Sum, large, ones, zeros
from gradcheck.errors import GradcheckError, first_line
from gradcheck.probes import direction
from gradcheck.problem import (
    EPSILON,
    Array,
    Arrays,
    Leaf,
    extent,
    has_digits_of_float32,
    inner,
    norm,
    widened,
)
from gradcheck.results import Finding, Reason, Verdict
from gradcheck.rounding import natural
from gradcheck.settings import Settings

__all__ = ["LINEARITY", "check_linearity"]

LINEARITY = "linearity"

DRAWS = 3  # pairs of points beside the one in doubt

TERMS = 3  # gradients of about the same rounding in a sum

# How many times a usual cotangent a large one is, and a small one is as much less. A rule that
# iterates to an absolute tolerance is linear at the first; the second is asked as well.
LARGE, FURTHER = 2.0**8, 2.0**20

# What a solver that stops early does not make of a large gradient: by so much less, or more. More
# is what PyTorch's `matrix_exp` makes of it in float32, where it loses digits beside a large
# cotangent: it was seen to be a fifth.
GROSS, GROSSER = 0.1, 0.5

# Numbers that many times the smallest of a dtype may be made of others that are smaller.
ABOVE = 2.0**10

# Of how small a mismatch jumps of the gradient may be the reason, by how many of them, and how far
# they are looked for. What is nothing beside the gradient is rounding.
SMALL, EACH, NEARBY, SHRUNK, NOTHING = 5e-2, 30.0, (2.0**-1, 2.0, 2.0**3), 0.99, 1e-12


def check_linearity(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> dict[int, Finding]:
    """Return by position of the leaf whether the gradients of cotangents add up."""
    problem = answers.problem
    asking = Asking(answers=answers, settings=settings, rng=rng)
    # In bfloat16 a sum of many ones stops at 256: that a rule knows ones is asked in float64.
    fine = answers.in_float64 if asking.is_coarse else answers
    wanted = [k for k, leaf in enumerate(problem.leaves) if settings.wants(leaf.path)]
    found: dict[int, list[Finding]] = {k: [] for k in wanted}
    refused = ""
    try:
        none = zeros(answers)
    except GradcheckError:
        raise
    except Exception as error:  # it took others
        none = None
        refused = f"for a cotangent of zeros, it raises {type(error).__name__}: {first_line(error)}"
    for k, finding in asking.far_and_near(partial(large, answers), wanted, may_clip=True):
        found[k].append(finding)
        if none is not None and np.any(none.got[k]):  # no rounding makes anything of nothing
            found[k].append(asking.of(none, k, is_exact=True))
    if fine is not None:
        pose = partial(ones, fine.problem, rng, answers.cotangents(0))
        for k, finding in asking.far_and_near(pose, wanted):
            found[k].append(finding)
    findings = {k: _most(own) for k, own in found.items()}
    for k, finding in findings.items():
        if not all(np.all(np.isfinite(answers.gradients(j)[k])) for j in (0, 1)):
            message, said = "the gradient is not finite", Verdict.INCONCLUSIVE
            findings[k] = replace(finding, verdict=said, message=message, entries=(), mismatch=0.0)
        elif refused and finding.verdict is Verdict.PASS:
            findings[k] = replace(finding, message=refused)
    if any(finding.reason is Reason.JUMP for finding in findings.values()):  # of one leaf, of all
        for k, finding in findings.items():
            if finding.verdict is Verdict.FAIL and finding.mismatch <= SMALL:
                findings[k] = _jumping(finding)
    return findings


def _most(found: Sequence[Finding]) -> Finding:
    """The first that failed, or was left open; else the first, whose resolution is that of all."""
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        for finding in found:
            if finding.verdict is verdict:
                return finding
    return found[0]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Whether sums add up, but for what rounding makes of usual cotangents.

    An answer to ones, or to large ones, must not excuse itself.
    """

    answers: Answers
    settings: Settings
    rng: np.random.Generator

    @property
    def is_coarse(self) -> bool:
        return self.answers.problem.epsilon > EPSILON["float32"]

    def far_and_near(
        self, pose: Pose, wanted: Sequence[int], *, may_clip: bool = False
    ) -> Iterator[tuple[int, Finding]]:
        """What is found far from a usual cotangent; in doubt, what is found nearer as well."""
        far, near = pose(FURTHER), None
        for k in wanted:
            finding = self.of(far, k)
            if may_clip and self.is_coarse:
                got, expected, size = far.got[k], far.expected[k], far.size[k]
                if self._is_clipped(k, got, expected, size):
                    left = norm(got - expected) / norm(expected)
                    finding = replace(finding, verdict=Verdict.FAIL, mismatch=left)
            if finding.verdict is Verdict.FAIL:
                near = near or pose(LARGE)
                nearer = self.of(near, k)
                finding = _far_off(far, k, self.answers.problem.leaves[k], finding, nearer)
                if nearer.verdict is Verdict.FAIL and finding.verdict is not Verdict.FAIL:
                    finding = _unless_it_jumps(self.answers, k, nearer, LARGE, self.rng)
            yield k, finding

    def of(self, asked: Sum, k: int, *, is_exact: bool = False) -> Finding:
        """Whether a sum adds up in the k-th leaf."""
        problem = self.answers.problem
        # A median is added to what is said, and half of it leaves the first below the second.
        unrest = [lambda: np.asarray(self._cancelled(k) / 2), lambda: self._restless[k]]
        finding = compared(
            asked.got[k],
            asked.expected[k],
            [] if is_exact else unrest,
            size=asked.size[k],
            check="adjoint",
            leaf=problem.leaves[k],
            outputs=problem.outputs,
            settings=self.settings,
            oracle=LINEARITY,
            complaint=asked.complaint,
        )
        return rounded_away(finding)

    def _cancelled(self, k: int) -> float:
        """What rounding leaves of an entry that is nothing beside the others of its leaf."""
        problem, x = self.answers.problem, self.answers.problem.point[k]
        epsilon = narrowest(problem.leaves[k], problem.outputs).epsilon
        sizes = [floor(self.answers.gradients(j)[k], epsilon) for j in (0, 1)]
        if epsilon <= EPSILON["float32"]:  # of a coarser one it would excuse anything
            cotangents = [self.answers.cotangents(j) for j in (0, 1)]
            sizes += [max(floor(u_, epsilon) for u_ in u) for u in cotangents]
            # A softmax that is sure of itself leaves nothing of numbers as large as the value, and
            # once in a while their rounding, which no other cotangent need show.
            share = ROUNDINGS * epsilon / max(x.size, 1) ** 0.5
            sizes += [share * natural(u, self.answers.value, x) for u in cotangents]
        return TERMS * sum(sizes)

    @cached_property
    def _restless(self) -> Arrays:
        """How far rounding moves each entry of the gradients of usual cotangents."""
        problem = self.answers.problem
        total = [np.full(x.shape, self._cancelled(k)) for k, x in enumerate(problem.point)]
        for j in (0, 1):
            u, centre = self.answers.cotangents(j), self.answers.gradients(j)
            sides = [
                [
                    problem.vjp(problem.point, beside)
                    for beside in moved(self.rng, problem.outputs, u, LINEAR)
                ]
                for _ in range(DRAWS)
            ]
            for k, array in enumerate(total):
                array += TERMS * rough(centre[k], [(a[k], b[k]) for a, b in sides])
        return tuple(total)

    def _is_clipped(self, k: int, got: Array, expected: Array, size: Array) -> bool:
        """Whether hardly anything is left of a large gradient as a whole.

        Ten error bars of an entry in bfloat16 are as large as the entry; over a leaf they average
        out.
        """
        if not np.all(np.isfinite(got)) or not np.all(np.isfinite(size)):
            return False
        if not inner(got, expected) < GROSS * inner(expected, expected):
            return False
        return norm(self._restless[k]) < norm(expected) / 2


def _far_off(asked: Sum, k: int, leaf: Leaf, far: Finding, near: Finding) -> Finding:
    """The finding of a gradient that is linear near a usual cotangent, and not far from it.

    What is dropped below a threshold, or clipped above one, is wrong. Anything else may be the
    absolute tolerance of a solver. A dtype may end there, and that is no fault of the rule.
    """
    got, expected, size = asked.got[k], asked.expected[k], asked.size[k]
    times, part, is_small = asked.weight, asked.first()[k], asked.is_small
    with np.errstate(invalid="ignore"):
        apart = got - expected
    off = ~(np.abs(apart) <= far.tolerance * size)
    if is_small:
        off &= np.abs(times * widened(part) + apart) > ABOVE * leaf.tiny * times
    # No absolute tolerance makes a large gradient worse, but it makes a usual one: by a little. The
    # digits of float32 may be lost beside a large number: first those of small entries.
    usual = norm(expected) / max(expected.size, 1) ** 0.5
    much = np.where(np.abs(got) < np.abs(expected), GROSS, GROSSER)
    gross = ~(np.abs(apart) <= much * np.maximum(np.abs(expected), usual))
    lost = off & ((part == 0) if is_small else gross)
    if not np.any(off):
        return near
    which = "small" if is_small else "large"
    where = f"of a {which} cotangent, {asked.factor:.0e} of a usual one,"
    if np.any(lost):
        done = "lost below a threshold" if is_small else "another"
        if not np.all(np.isfinite(got)):
            done = "not finite, far from where its dtype ends"
        elif not is_small and np.all(np.abs(got[lost]) < np.abs(expected[lost])):
            done = "clipped"
        message = f"{where} the gradient is {done}: {np.sum(lost)} of {lost.size} entries"
        return replace(far, message=message)
    message = (
        f"{where} the gradient is another: digits that it loses, an epsilon in the rule, or a "
        "solver's tolerance"
    )
    return replace(far, verdict=Verdict.INCONCLUSIVE, message=message, entries=())


def _unless_it_jumps(
    answers: Answers, index: int, finding: Finding, times: float, rng: np.random.Generator
) -> Finding:
    """The finding; not a failure if the gradient jumps as its cotangent moves.

    So does that of an iteration which stops at a tolerance: it is linear up to that, and up to as
    many `times` that as a small cotangent counts for.
    """
    if finding.verdict is not Verdict.FAIL or not 0 < finding.mismatch <= SMALL:
        return finding
    fine = answers.in_float64 or answers
    problem, u, w = fine.problem, fine.cotangents(0), fine.cotangents(1)
    v = direction(rng, problem.leaves[index])
    base = fine.gradients(0)[index]
    if has_digits_of_float32(base):
        return finding

    def along(step: Arrays) -> Callable[[float], Array]:
        def at(t: float) -> Array:
            moved = tuple(
                output.rounded(a + t * b)
                for output, a, b in zip(problem.outputs, u, step, strict=True)
            )
            return problem.vjp(problem.point, moved)[index]

        return at

    size = extent(base, v)
    least = max(NOTHING * size, finding.mismatch * size / (EACH * times))
    away, down = along(w), along(tuple(-u_ for u_ in u))
    for at, low, high in [*((away, -reach, reach) for reach in NEARBY), (down, 0.0, SHRUNK)]:
        jump = jumps.highest(lambda t, at=at: inner(at(t) - base, v), low, high, least)  # type: ignore[misc]
        if jump.height:
            return finding if _is_branch(at, jump) else _jumping(finding)
    return finding


def _is_branch(at: Callable[[float], Array], jump: jumps.Jump) -> bool:
    """Whether the rule decides by its cotangent, where its gradient jumps.

    Then one entry is another, or all are by one factor. An iteration that takes another step moves
    those of an example, each as it will, and little.
    """
    near = (jump.high - jump.low) * NEAR
    below = at(jump.low)
    slope = (at(jump.low + near) - below) / near  # between jumps it is linear
    apart = at(jump.high) - below - slope * (jump.high - jump.low)
    largest = norm(apart)
    moves = np.abs(apart) > ALIKE * largest
    if apart.size < FEW or largest <= LITTLE * norm(below[moves]):
        return False
    factor = inner(below, apart) / inner(below, below) if np.any(below) else 0.0
    return bool(np.count_nonzero(moves) == 1 or norm(apart - factor * below) <= ALIKE * largest)


# How near it is to the jump that the slope is looked at, in parts of the way to it; what part of a
# jump is rounding, or what the gradient moves on the way; from how many entries on one is no
# example; and the part of the gradient that an iteration leaves.
NEAR, ALIKE, FEW, LITTLE = 2.0**-4, 1e-2, 4, 1e-4


JUMPS = (
    "the gradient jumps as its cotangent moves, as that of an iteration which stops at a tolerance"
)


def _jumping(finding: Finding) -> Finding:
    verdict = Verdict.INCONCLUSIVE
    return replace(finding, verdict=verdict, message=JUMPS, entries=(), reason=Reason.JUMP)
