"""Is the gradient linear in its cotangent?

vjp(u - 2w) = vjp(u) - 2 vjp(w), vjp(0) = 0, and vjp(1) is the sum of what its parts give. A rule
that ignores its cotangent, adds a constant or keeps a stale one is not linear, nor is one that
clips what is large or drops what is small: a mean loss may pull back a millionth of what is usual.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

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
from gradcheck.errors import GradcheckError, first_line
from gradcheck.probes import direction
from gradcheck.problem import (
    EPSILON,
    Array,
    Arrays,
    Leaf,
    Problem,
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

# The same for what is asked in float64 of a target in float16, which ends at 65504.
WITHIN = 2.0**5

# What a solver that stops early does not make of a large gradient: by so much less, or more. More
# is what PyTorch's `matrix_exp` makes of it in float32, where it loses digits beside a large
# cotangent: it was seen to be a fifth.
GROSS, GROSSER = 0.1, 0.5

# Below this nothing overflows in float32 or bfloat16, with room for what is summed on the way.
ENDS = 2.0**100

# Numbers that many times the smallest of a dtype may be made of others that are smaller.
ABOVE = 2.0**10


# Of how small a mismatch jumps of the gradient may be the reason, by how many of them, and how far
# they are looked for. What is nothing beside the gradient is rounding.
SMALL, EACH, NEARBY, SHRUNK, NOTHING = 5e-2, 30.0, (2.0**-1, 2.0, 2.0**3), 0.99, 1e-12


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

    def along(step: Arrays) -> Callable[[float], float]:
        def change(t: float) -> float:
            moved = tuple(
                output.rounded(a + t * b)
                for output, a, b in zip(problem.outputs, u, step, strict=True)
            )
            return inner(problem.vjp(problem.point, moved)[index] - base, v)

        return change

    size = extent(base, v)
    least = max(NOTHING * size, finding.mismatch * size / (EACH * times))
    away, down = along(w), along(tuple(-u_ for u_ in u))
    for change, low, high in [*((away, -reach, reach) for reach in NEARBY), (down, 0.0, SHRUNK)]:
        if jumps.highest(change, low, high, least).height:
            return _jumping(finding)
    return finding


JUMPS = (
    "the gradient jumps as its cotangent moves, as that of an iteration which stops at a tolerance"
)


def _jumping(finding: Finding) -> Finding:
    verdict = Verdict.INCONCLUSIVE
    return replace(finding, verdict=verdict, message=JUMPS, entries=(), reason=Reason.JUMP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Weighted cotangents that add up to the first of them, and the gradients of each."""

    complaint: str
    whole: tuple[float, Arrays, Arrays]  # weight, cotangents, gradients
    parts: tuple[tuple[float, Arrays, Arrays], ...]

    def at(self, k: int) -> tuple[Array, Array, Array]:
        """Of the k-th leaf the gradient of the whole, the sum of the parts, the size of both."""
        weight, _, gradients = self.whole
        (factor, _, part), *others = self.parts
        total = factor * widened(part[k])
        size = np.abs(total)
        with np.errstate(invalid="ignore"):  # infinities are said
            for factor, _, part in others:
                term = factor * widened(part[k])
                total += term
                size += np.abs(term)
            return weight * widened(gradients[k]), total, size


Unrest = Callable[[int], Array]  # of a leaf, how far rounding moves each entry


def check_linearity(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> dict[int, Finding]:
    """Return by position of the leaf whether the gradients of cotangents add up."""
    problem, point = answers.problem, answers.problem.point
    cotangents = answers.cotangents(0), answers.cotangents(1)
    gradients = answers.gradients(0), answers.gradients(1)
    sums = [partial(_large, problem, cotangents, gradients)]
    # In bfloat16 a sum of many ones stops at 256: that a rule knows ones is asked in float64.
    is_coarse = problem.epsilon > EPSILON["float32"]
    fine = answers.in_float64 if is_coarse else answers
    if fine is not None:
        sums.append(partial(_ones, fine.problem, rng, cotangents[0]))
    zero = tuple(np.zeros_like(u) for u in cotangents[0])
    nothing: list[Array | None] = [None] * len(point)
    refused = ""
    try:
        nothing = [a if np.any(a) else None for a in problem.vjp(point, zero)]
    except GradcheckError:
        raise
    except Exception as error:  # it took others
        refused = f"for a cotangent of zeros, it raises {type(error).__name__}: {first_line(error)}"

    def cancelled(k: int) -> float:
        """What rounding leaves of an entry that is nothing beside the others of its leaf."""
        epsilon = narrowest(problem.leaves[k], problem.outputs).epsilon
        sizes = [floor(centre[k], epsilon) for centre in gradients]
        if epsilon <= EPSILON["float32"]:  # of a coarser one it would excuse anything
            sizes += [max(floor(u_, epsilon) for u_ in u) for u in cotangents]
            # A softmax that is sure of itself leaves nothing of numbers as large as the value, and
            # once in a while their rounding, which no other cotangent need show.
            share = ROUNDINGS * epsilon / max(point[k].size, 1) ** 0.5
            sizes += [share * natural(u, answers.value, point[k]) for u in cotangents]
        return TERMS * sum(sizes)

    @cache
    def restless() -> Arrays:
        """Of usual cotangents: an answer to ones, or to large ones, must not excuse itself."""
        total = [np.full(x.shape, cancelled(k)) for k, x in enumerate(point)]
        for u, centre in zip(cotangents, gradients, strict=True):
            sides = [
                [problem.vjp(point, beside) for beside in moved(rng, problem.outputs, u, LINEAR)]
                for _ in range(DRAWS)
            ]
            for k, array in enumerate(total):
                array += TERMS * rough(centre[k], [(a[k], b[k]) for a, b in sides])
        return tuple(total)

    def restless_of(k: int) -> Array:
        return restless()[k]

    wanted = {k: leaf for k, leaf in enumerate(problem.leaves) if settings.wants(leaf.path)}
    found: dict[int, list[Finding]] = {k: [] for k in wanted}
    endless = set()

    def ask(k: int, sides: tuple[Array, Array, Array], complaint: str, *unrest: Unrest) -> Finding:
        got, expected, size = sides
        finding = compared(
            got,
            expected,
            [partial(say, k) for say in unrest],
            size=size,
            check="adjoint",
            leaf=wanted[k],
            outputs=problem.outputs,
            settings=settings,
            oracle=LINEARITY,
            complaint=complaint,
        )
        return rounded_away(finding)

    # A median is added to what is said, and half of it leaves the first below the second.
    unrest: tuple[Unrest, ...] = (
        lambda k: np.asarray(cancelled(k) / 2),
        restless_of,
    )

    for position, pose in enumerate(sums):  # one by one: each holds gradients of all leaves
        far, near = pose(FURTHER), None
        for k, leaf in wanted.items():
            sides = far.at(k)
            finding = ask(k, sides, far.complaint, *unrest)
            if not position and is_coarse and _is_clipped(*sides, partial(restless_of, k)):
                left = norm(sides[0] - sides[1]) / norm(sides[1])
                finding = replace(finding, verdict=Verdict.FAIL, mismatch=left)
            if finding.verdict is Verdict.FAIL:
                near = near or pose(LARGE)
                nearer = ask(k, near.at(k), near.complaint, *unrest)
                finding = _far_off(far, k, leaf, finding, nearer)
                if nearer.verdict is Verdict.FAIL and finding.verdict is not Verdict.FAIL:
                    finding = _unless_it_jumps(answers, k, nearer, LARGE, rng)
            found[k].append(finding)
            if position:
                continue
            size = sides[2]
            if not np.all(np.isfinite(size)):
                endless.add(k)
            unasked = nothing[k]
            if unasked is not None:  # no rounding makes anything of nothing
                none = np.zeros_like(size)
                complaint = "the gradient of a zero cotangent is not zero"
                found[k].append(ask(k, (unasked, none, size), complaint))
    findings = {}
    for k, answered in found.items():
        # The first that failed, or was left open; else the first, whose resolution is that of all.
        failed = [f for f in answered if f.verdict is Verdict.FAIL]
        unsure = [f for f in answered if f.verdict is Verdict.INCONCLUSIVE]
        finding = (failed or unsure or answered)[0]
        if k in endless:
            message, said = "the gradient is not finite", Verdict.INCONCLUSIVE
            finding = replace(finding, verdict=said, message=message, entries=(), mismatch=0.0)
        if refused and finding.verdict is Verdict.PASS:
            finding = replace(finding, message=refused)
        findings[k] = finding
    if any(finding.reason is Reason.JUMP for finding in findings.values()):  # of one leaf, of all
        for k, finding in findings.items():
            if finding.verdict is Verdict.FAIL and finding.mismatch <= SMALL:
                findings[k] = _jumping(finding)
    return findings


def _is_clipped(got: Array, expected: Array, size: Array, unrest: Callable[[], Array]) -> bool:
    """Whether hardly anything is left of a large gradient as a whole.

    Ten error bars of an entry in bfloat16 are as large as the entry; over a leaf they average out.
    """
    if not np.all(np.isfinite(got)) or not np.all(np.isfinite(size)):
        return False
    if not inner(got, expected) < GROSS * inner(expected, expected):
        return False
    return norm(unrest()) < norm(expected) / 2


def _far_off(asked: Sum, k: int, leaf: Leaf, far: Finding, near: Finding) -> Finding:
    """The finding of a gradient that is linear near a usual cotangent, and not far from it.

    What is dropped below a threshold, or clipped above one, is wrong. Anything else may be the
    absolute tolerance of a solver. A dtype may end there, and that is no fault of the rule.
    """
    got, expected, size = asked.at(k)
    times, _, part = asked.parts[0]
    is_small = times > 1
    with np.errstate(invalid="ignore"):
        apart = got - expected
    off = ~(np.abs(apart) <= far.tolerance * size)
    if is_small:
        off &= np.abs(times * widened(part[k]) + apart) > ABOVE * leaf.tiny * times
    # No absolute tolerance makes a large gradient worse, but it makes a usual one: by a little. The
    # digits of float32 may be lost beside a large number: first those of small entries.
    usual = norm(expected) / max(expected.size, 1) ** 0.5
    much = np.where(np.abs(got) < np.abs(expected), GROSS, GROSSER)
    gross = ~(np.abs(apart) <= much * np.maximum(np.abs(expected), usual))
    lost = off & ((part[k] == 0) if is_small else gross)
    if not np.any(off):
        return near
    which = "small" if is_small else "large"
    factor = 1 / times if is_small else 1 / asked.whole[0]
    where = f"of a {which} cotangent, {factor:.0e} of a usual one,"
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


def _large(
    problem: Problem,
    cotangents: tuple[Arrays, Arrays],
    gradients: tuple[Arrays, Arrays],
    times: float,
) -> Sum:
    """A large cotangent, made of two: a rule may clip what is large."""
    # A quarter, so that a sum does not overflow where its terms do not.
    both = tuple((u - 2 * w) / 4 for u, w in zip(*cotangents, strict=True))
    digits = {array.digits for array in (*problem.leaves, *problem.outputs)}
    times = min(times, WITHIN) if "float16" in problem.written_for else times
    factor = 1.0 if "float16" in digits else times
    much = tuple(factor * z for z in both)
    summed = problem.vjp(problem.point, much)
    largest = max(float(np.max(np.abs(g), initial=0.0)) for g in (*gradients[0], *gradients[1]))
    # Inside of what has the digits of bfloat16 there may be float16, which ends at 65504.
    ends = not factor * largest < ENDS or "bfloat16" in digits
    if factor > 1 and ends and not all(np.all(np.isfinite(g)) for g in summed):  # it overflows
        factor, much, summed = 1.0, both, problem.vjp(problem.point, both)
    return Sum(
        complaint="the gradient is not linear in the cotangent",
        whole=(4.0 / factor, much, summed),
        parts=((1.0, cotangents[0], gradients[0]), (-2.0, cotangents[1], gradients[1])),
    )


def _ones(problem: Problem, rng: np.random.Generator, u: Arrays, times: float) -> Sum:
    """Ones, which every loss is pulled back from, made of a small cotangent and the rest.

    A rule may know better what to do with ones, drop what is small, and stumble over zeros: of some
    entries, or of whole examples that are in no loss.
    """
    kept = [_some(rng, u_.shape) for u_ in u]
    part = tuple(np.where(mask, u_, 0).astype(u_.dtype) for mask, u_ in zip(kept, u, strict=True))
    ones = tuple(np.ones_like(u_) for u_ in u)
    rest = tuple(one - p for one, p in zip(ones, part, strict=True))
    small = tuple(p / times for p in part)
    whole, less, more = (problem.vjp(problem.point, z) for z in (ones, small, rest))
    return Sum(
        complaint="the gradient of a cotangent of ones is not the sum of those of its parts",
        whole=(1.0, ones, whole),
        parts=((times, small, less), (1.0, rest, more)),
    )


def _some(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Which entries are kept: about half of those of half of the examples; of a loss, all of it."""
    kept = np.asarray(rng.random(shape) < 0.5)
    if kept.ndim:
        order = rng.permutation(len(kept))
        kept[order[: len(kept) // 2]] = False
        kept[order[-1:]] |= not np.any(kept)
        return kept
    return np.ones_like(kept)
