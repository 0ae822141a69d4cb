"""Several implementations of one function: where they disagree, and which of them is wrong.

Two right implementations differ by rounding, and how much rounding matters is measured, entry by
entry: every implementation is run again at points that differ by one ulp, and what its values and
gradients do there is the error bar. An entry disagrees when it differs by more than ten bars and
by more than the tolerance of its own size. A finite difference along the disagreement then tells
which side is right: it is the direction in which the candidates differ most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from gradcheck.answers import answers_of
from gradcheck.errors import InputError
from gradcheck.evidence import entries_of
from gradcheck.oracles import ladder
from gradcheck.probes import Line, cotangent, disturbed, known, nudged, scale
from gradcheck.problem import EPSILON, Array, Arrays, Leaf, Problem, inner, norm
from gradcheck.results import Finding, Reason, Verdict
from gradcheck.rounding import natural, restless, rounded
from gradcheck.settings import SIGNIFICANCE, Settings

__all__ = ["Difference", "Triangulation", "triangulate"]

# Points an ulp away. That all of them leave an entry ten times calmer than it is has probability
# 0.08⁴ = 4e-5, and matters only where terms cancel to less than the tolerance.
DISTURBED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far apart two implementations are in one array, relative to its norm."""

    pair: tuple[str, str]
    leaf: str
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Triangulation:
    findings: tuple[Finding, ...]
    odd_one_out: str | None
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one implementation says at a point: outputs and gradients, each with its unrest."""

    arrays: Arrays  # outputs, then the gradient of every leaf
    unrest: Arrays  # the largest change of each entry when the point moves by an ulp


def triangulate(
    problems: Mapping[str, Problem],
    settings: Settings,
    rng: np.random.Generator,
    *,
    alone: bool = False,
    arbitrate: bool = True,
) -> Triangulation:
    """Compare values and gradients of `problems`, which must have corresponding leaves.

    With `alone`, every output's cotangent is also given alone, the others zero: a rule that
    ignores the cotangent of one output may be right for the sum of all by accident. Without
    `arbitrate`, finite differences do not decide who is wrong, but the majority: for gradients
    that by declaration are not derivatives.

    A problem named "torch, strided" is a variant of "torch": it is compared with all others, but
    has no vote of its own.

    Raises:
        InputError: leaves or outputs differ in number or shape.
    """
    _corresponding(problems)
    first = next(iter(problems.values()))
    if (wide := _in_float64(problems)) is not None:
        formula = triangulate(wide, settings, rng, alone=alone, arbitrate=arbitrate)
        return _also_narrow(formula, problems, settings, rng) if _passes(formula) else formula
    u = cotangent(rng, first.outputs)
    found = _at(problems, first.point, u, settings, rng, arbitrate)
    if any(finding.reason is Reason.KINK for finding in found.findings):
        beside = nudged(rng, first.leaves, first.point)
        there = _at(problems, beside, u, settings, rng, arbitrate)
        found = there if _passes(found) and not _passes(there) else found
    if not alone or len(u) == 1:
        return found
    for k, output in enumerate(first.outputs):
        if not _passes(found):
            break
        single = tuple(u_ if k == j else np.zeros_like(u_) for j, u_ in enumerate(u))
        found = _at(problems, first.point, single, settings, rng, arbitrate)
        if not _passes(found):
            found = _noted(found, f"with the cotangent of {output.path} alone")
    return found


def _in_float64(problems: Mapping[str, Problem]) -> Mapping[str, Problem] | None:
    """The same implementations in float64: half precision would hide any error but a gross one.

    None where they have more digits, or one of them does not run in float64 or is another there.
    """
    arrays = [array for p in problems.values() for array in (*p.leaves, *p.outputs)]
    if max(array.epsilon for array in arrays) < EPSILON["float16"]:
        return None
    wide = {}
    for key, problem in problems.items():
        if not problem.is_narrow:
            wide[key] = problem
            continue
        formula = answers_of(problem, 0).formula
        if formula is None:
            return None
        wide[key] = formula.problem
    return wide


def _also_narrow(
    formula: Triangulation,
    problems: Mapping[str, Problem],
    settings: Settings,
    rng: np.random.Generator,
) -> Triangulation:
    """What was found in float64, unless an implementation's own gradient is not that, rounded."""
    findings = list(formula.findings)
    guilty = []
    for key, problem in problems.items():
        answers = answers_of(problem, settings.seed)
        wide = answers.in_float64
        if wide is None:
            continue
        claims, truths = answers.gradients(0), wide.gradients(0)
        for k, leaf in enumerate(problem.leaves):
            position = len(problem.outputs) + k
            finding = replace(formula.findings[position], tolerance=settings.tolerance(leaf.digits))
            draws, pair = [answers.cotangents(0)], ([claims[k]], [truths[k]])
            judged = rounded(finding, problem, wide.problem, k, draws, *pair, rng)
            if judged.verdict is Verdict.FAIL:
                message = f"{key} differs from itself in float64: {judged.message}"
                findings[position] = replace(judged, message=message)
                guilty.append(key)
            elif findings[position].verdict is Verdict.PASS:
                findings[position] = judged
    odd = guilty[0] if len(set(guilty)) == 1 else None
    return replace(formula, findings=tuple(findings), odd_one_out=odd)


def _passes(found: Triangulation) -> bool:
    return all(finding.verdict is Verdict.PASS for finding in found.findings)


def _noted(found: Triangulation, note: str) -> Triangulation:
    findings = tuple(
        replace(f, message=f"{f.message} ({note})") if f.verdict is not Verdict.PASS else f
        for f in found.findings
    )
    return replace(found, findings=findings)


def _at(
    problems: Mapping[str, Problem],
    point: Arrays,
    u: Arrays,
    settings: Settings,
    rng: np.random.Generator,
    arbitrate: bool,
) -> Triangulation:
    first = next(iter(problems.values()))
    around = [disturbed(rng, first.leaves, point) for _ in range(DISTURBED)]
    answers = {key: _answers(problem, point, around, u) for key, problem in problems.items()}
    findings: list[Finding] = []
    differences: list[Difference] = []
    suspects: set[str] = set()
    labels = (*first.outputs, *first.leaves)
    for position, label in enumerate(labels):
        own = [_label(problem, position) for problem in problems.values()]
        coarsest = max(own, key=lambda leaf: leaf.epsilon)
        arrays = {key: answer.arrays[position] for key, answer in answers.items()}
        bar = _bar(coarsest, [answer.unrest[position] for answer in answers.values()], arrays)
        if position >= len(first.outputs):
            x = point[position - len(first.outputs)]
            values = next(iter(answers.values())).arrays[: len(u)]
            bar = bar + 8 * coarsest.epsilon * natural(u, values, x)
        differences += _differences(arrays, bar, label.path)
        tolerance = settings.tolerance(coarsest.digits)
        wrong = _disagreeing(arrays, bar, tolerance)
        finding = _finding(label, arrays, bar, wrong, tolerance)
        if np.any(wrong):
            index = position - len(first.outputs)
            odd, why = (
                _judged(problems, point, u, index, arrays, wrong)
                if arbitrate and index >= 0 and not _values_differ(findings)
                else _outvoted(arrays, wrong)
            )
            suspects.add(_accused(odd))
            finding = _named(finding, arrays, wrong, bar, odd, why)
        findings.append(finding)
    unanimous = suspects.pop() if len(suspects) == 1 else ""
    return Triangulation(
        findings=tuple(findings), odd_one_out=unanimous or None, differences=tuple(differences)
    )


def _accused(odd: Sequence[str]) -> str:
    """Who is named: a variant ("torch, strided") of one that is accused is not named apart."""
    own = [key for key in odd if not any(key.startswith(f"{other}, ") for other in odd)]
    return " and ".join(own)


def _corresponding(problems: Mapping[str, Problem]) -> None:
    (first_name, first), *others = problems.items()
    for name, problem in others:
        for what in ("leaves", "outputs"):
            ours = [leaf.shape for leaf in getattr(first, what)]
            theirs = [leaf.shape for leaf in getattr(problem, what)]
            if ours != theirs:
                raise InputError(
                    f"expected {first_name} and {name} to have corresponding {what}; "
                    f"their shapes are {ours} and {theirs}"
                )


def _answers(problem: Problem, point: Arrays, around: Sequence[Arrays], u: Arrays) -> Answers:
    def ask(at: Arrays) -> Arrays:
        with np.errstate(all="ignore"):
            outputs, gradients = problem.value_and_vjp(at, u)
            return (*outputs, *gradients)

    arrays = ask(point)
    moved = [ask(at) for at in around]
    with np.errstate(invalid="ignore"):
        unrest = tuple(
            np.max([np.abs(other[k] - array) for other in moved], axis=0)
            for k, array in enumerate(arrays)
        )
    return Answers(arrays=arrays, unrest=unrest)


def _label(problem: Problem, position: int) -> Leaf:
    return (*problem.outputs, *problem.leaves)[position]


def _bar(label: Leaf, unrest: Sequence[Array], arrays: Mapping[str, Array]) -> Array:
    """The error bar of each entry, from the most restless of the implementations."""
    if 0 in label.shape:
        return np.zeros(label.shape)
    largest = np.max([np.abs(array) for array in arrays.values()], axis=0)
    return restless(np.max(unrest, axis=0), largest, label.epsilon)


def _disagreeing(arrays: Mapping[str, Array], bar: Array, tolerance: float) -> Array:
    """A mask of the entries at which some two implementations differ, NaN and infinity too."""
    wrong = np.zeros(bar.shape, dtype=bool)
    for a, b in combinations(arrays.values(), 2):
        with np.errstate(invalid="ignore"):
            off = np.abs(a - b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        real = (off > SIGNIFICANCE * bar) & (off > tolerance * np.maximum(np.abs(a), np.abs(b)))
        wrong |= ~same & (real | ~np.isfinite(off))
    return wrong


def _differences(arrays: Mapping[str, Array], bar: Array, leaf: str) -> list[Difference]:
    found = []
    for (one, a), (other, b) in combinations(arrays.items(), 2):
        finite = np.isfinite(a) & np.isfinite(b)
        size = max(norm(a[finite]), norm(b[finite]))
        is_zero = size <= SIGNIFICANCE * norm(bar)  # what is left of it is rounding
        relative = 0.0 if is_zero else norm(a[finite] - b[finite]) / size
        found.append(Difference(pair=(one, other), leaf=leaf, relative=relative))
    return found


def _finding(
    label: Leaf, arrays: Mapping[str, Array], bar: Array, wrong: Array, tolerance: float
) -> Finding:
    size = max(norm(np.where(np.isfinite(array), array, 0)) for array in arrays.values())
    resolution = SIGNIFICANCE * norm(bar) / size if size else 0.0
    is_half = label.epsilon >= EPSILON["float16"]
    verdict, message, reason = Verdict.FAIL if np.any(wrong) else Verdict.PASS, "", None
    if is_half and resolution > tolerance and verdict is Verdict.PASS:
        verdict = Verdict.INCONCLUSIVE
        message = f"rounding hides errors below {resolution:.0e}: compare in float32 or float64"
    elif not is_half and size > 0 and norm(bar) > np.sqrt(label.epsilon) * size:
        message, reason = "the point lies on a kink; compared beside it too", Reason.KINK
    differences = [difference.relative for difference in _differences(arrays, bar, label.path)]
    return Finding(
        check="agreement",
        leaf=label.path,
        verdict=verdict,
        mismatch=max(differences),
        resolution=resolution,
        tolerance=tolerance,
        oracle=", ".join(arrays),
        message=message,
        reason=reason,
    )


def _values_differ(findings: Sequence[Finding]) -> bool:
    return any(f.verdict is Verdict.FAIL and f.leaf.startswith("output") for f in findings)


def _judged(
    problems: Mapping[str, Problem],
    point: Arrays,
    u: Arrays,
    index: int,
    arrays: Mapping[str, Array],
    wrong: Array,
) -> tuple[list[str], str]:
    """Who is wrong, by a finite difference along the disagreement; or by majority."""
    if not all(np.all(np.isfinite(array)) for array in arrays.values()):
        return _outvoted(arrays, wrong)
    first = next(iter(problems.values()))
    v = _apart(arrays, wrong)
    line = Line(
        problem=replace(first, point=point),
        v={index: v},
        u=u,
        asked=known(
            tuple(
                next(iter(arrays.values())) if k == index else np.zeros(leaf.shape)
                for k, leaf in enumerate(first.leaves)
            )
        ),
        centre=first.value(point),
        unit=scale(point[index]),
    )
    truth = ladder.estimate(line)
    claims = {key: inner(array, v) for key, array in arrays.items()}
    off = {key: abs(truth.excess(claim)) for key, claim in claims.items()}
    limit = max(SIGNIFICANCE * truth.error_bar, 0.1 * max(off.values()))
    odd = [key for key, distance in off.items() if distance > limit]
    if not odd or len(odd) == len(arrays):
        return _outvoted(arrays, wrong)
    return odd, "finite differences side with " + ", ".join(k for k in arrays if k not in odd)


def _apart(arrays: Mapping[str, Array], wrong: Array) -> Array:
    """The direction in which the two that are farthest apart differ most, entry by entry.

    Signs, so that errors which sum to zero (the keys of a softmax) do not cancel.
    """
    a, b = max(combinations(arrays.values(), 2), key=lambda pair: norm((pair[0] - pair[1])[wrong]))
    difference = np.where(wrong, np.real(a - b), 0.0)
    large = np.abs(difference) >= np.median(np.abs(difference[wrong]))
    return np.asarray(np.sign(difference) * large)


def _outvoted(arrays: Mapping[str, Array], wrong: Array) -> tuple[list[str], str]:
    """Those far from the median of the sources; variants are asked, but have no vote."""
    values = {key: _countable(array[wrong]) for key, array in arrays.items()}
    voters = [key for key in arrays if ", " not in key]
    middle = np.median([values[key] for key in voters], axis=0)
    far = {key: float(np.max(np.abs(value - middle))) for key, value in values.items()}
    odd = [key for key in arrays if far[key] > 0.5 * max(far.values())]
    if len(voters) < 3 and any(key in voters for key in odd):
        return [], "two sides, and no third to decide"
    agreeing = ", ".join(key for key in arrays if key not in odd)
    return odd, f"{agreeing} agree" if agreeing else "no two agree"


def _countable(values: Array) -> Array:
    """NaN and infinity as numbers that are farther from every other than those are apart."""
    far = np.finfo(np.float64).max / 8
    return np.nan_to_num(np.real(values).astype(np.float64), nan=far, posinf=far, neginf=-far)


def _named(
    finding: Finding,
    arrays: Mapping[str, Array],
    wrong: Array,
    bar: Array,
    odd: Sequence[str],
    why: str,
) -> Finding:
    keys = list(arrays)
    accused = odd[0] if odd else keys[-1]
    trusted = next((key for key in keys if key not in odd and key != accused), keys[0])
    found = entries_of(wrong, arrays[accused], arrays[trusted], bar)
    who = f"{_accused(odd)} differs" if odd else f"{' and '.join(keys)} differ"
    message = f"{who} in {int(wrong.sum())} of {wrong.size} entries; {why}"
    return replace(finding, entries=found, message=message)
