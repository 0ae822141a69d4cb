"""Are the gradients the derivatives of the value at one point?

What is asked is the target in float64 where it can be run in it; its gradient in its own dtype is
then compared with that.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradcheck.answers import Answers
from gradcheck.checks.along import along
from gradcheck.checks.differences import Kinks, examined
from gradcheck.checks.question import Question
from gradcheck.probes import among, known
from gradcheck.problem import is_same_entrywise
from gradcheck.results import Finding, Verdict
from gradcheck.rounding import rounded
from gradcheck.settings import Settings

__all__ = ["at_point", "questions_of"]


def at_point(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[tuple[Finding, ...], Kinks]:
    """The findings at the problem's point, and the leaves along which it lies on a kink."""
    problem, questions = answers.problem, questions_of(answers, settings)
    if answers.formula is not None:
        return _of_formula(questions, answers, answers.formula, settings, rng)
    findings, kinked = examined(questions, answers, problem, settings, rng)
    another = answers.in_float64
    if another is not None and any(f.verdict is not Verdict.PASS for f in findings):
        others, _ = examined(questions, another, problem, settings, rng)
        findings = tuple(
            _second_opinion(q, finding, other, answers, another, rng)
            for q, finding, other in zip(questions, findings, others, strict=True)
        )
    return findings, kinked


def _of_formula(
    questions: Sequence[Question],
    answers: Answers,
    formula: Answers,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[tuple[Finding, ...], Kinks]:
    """The same of a narrow target: differences are taken in float64, where they are sharp.

    Its own gradient is then held to that of float64, rounded.
    """
    problem = answers.problem
    findings, kinked = examined(questions, formula, problem, settings, rng)
    judged = [
        _narrowed(q, finding, answers, formula, rng)
        for q, finding in zip(questions, findings, strict=True)
    ]
    accused = [
        q
        for q, finding in zip(questions, judged, strict=True)
        if finding.verdict is Verdict.FAIL and q.leaf.path in kinked
    ]
    if accused:
        # At a tie a narrow rule may choose another than the wide one: its own subgradient.
        chosen, _ = examined(accused, _as_claimed(answers, formula), problem, settings, rng)
        right = {f.leaf: f for f in chosen if f.verdict is not Verdict.FAIL}
        judged = [right.get(finding.leaf, finding) for finding in judged]
    own = [
        q
        for q, finding, wide in zip(questions, judged, findings, strict=True)
        if finding.verdict is Verdict.FAIL
        and wide.verdict is Verdict.PASS
        and _is_another(q, answers, formula, rng)
    ]
    if own:
        alone, _ = examined(own, answers, problem, settings, rng)
        said = {f.leaf: replace(f, message=f.message or ANOTHER) for f in alone}
        judged = [said.get(finding.leaf, finding) for finding in judged]
    return tuple(judged), kinked


def questions_of(answers: Answers, settings: Settings) -> list[Question]:
    """One for each leaf that is asked for."""
    return [
        Question(
            index=k,
            leaf=leaf,
            tolerance=settings.tolerance(leaf.digits),
            oracle=f"finite differences, {leaf.dtype}",
        )
        for k, leaf in enumerate(answers.problem.leaves)
        if settings.wants(leaf.path)
    ]


def _narrowed(
    question: Question,
    finding: Finding,
    narrow: Answers,
    formula: Answers,
    rng: np.random.Generator,
) -> Finding:
    """What was found in float64, or a failure if the narrow gradient is not that, rounded."""
    if finding.verdict is not Verdict.PASS or 0 in question.leaf.shape:
        return finding
    asked = sorted(formula.found)
    claims, truths = ([c.gradients(k)[question.index] for k in asked] for c in (narrow, formula))
    draws = [narrow.cotangents(k) for k in asked]
    pair = narrow.problem, formula.problem
    judged = rounded(finding, *pair, question.index, draws, claims, truths, rng)
    if judged.verdict is Verdict.FAIL and not is_same_entrywise(
        narrow.problem, narrow.value, formula.value
    ):
        message = (
            f"right in float64; in {question.leaf.digits} some entries of the value are others, as "
            "where a choice is made by rounded numbers, or other random numbers are drawn"
        )
        return replace(judged, verdict=Verdict.INCONCLUSIVE, message=message, entries=())
    return judged


ANOTHER = "in float64 the target is another function here: an epsilon goes by the dtype, maybe"


def _is_another(
    question: Question, narrow: Answers, formula: Answers, rng: np.random.Generator
) -> bool:
    """Whether the narrow value has the gradient that is claimed of it, and not that of float64.

    Asked along the entries in which the two gradients differ: differences of the narrow value
    must agree with the one and contradict the other.
    """
    index, leaf = question.index, question.leaf
    for k in sorted(formula.found):
        claim, truth = narrow.gradients(k)[index], formula.gradients(k)[index]
        largest = np.maximum(np.abs(claim), np.abs(truth))
        differs = np.abs(claim - truth) > question.tolerance * largest
        if not np.all(np.isfinite(claim)) or not np.any(differs):
            continue
        v = among(rng, leaf, narrow.problem.point[index], differs)
        own = along(narrow, k, index, v, careful=True)
        wide = replace(own, line=replace(own.line, asked=known(formula.gradients(k))))
        return own.is_smooth and not own.is_significant and wide.is_significant
    return False


def _as_claimed(narrow: Answers, formula: Answers) -> Answers:
    """The values of `formula`, with the gradients that the narrow target gave."""
    chosen = formula.of(formula.problem)
    chosen.found.update(
        (k, tuple(a.astype(b.dtype) for a, b in zip(gradients, formula.found[k], strict=True)))
        for k, gradients in narrow.found.items()
        if k in formula.found
    )
    return chosen


def _second_opinion(
    question: Question,
    here: Finding,
    wide: Finding,
    narrow: Answers,
    formula: Answers,
    rng: np.random.Generator,
) -> Finding:
    """What was found in the narrow dtype, unless float64 explains it as rounding of the value.

    (x + 1e8) - 1e8 stands still in float32, and its gradient is one. The rule is right if it is
    so in float64 and gives the same gradient in both.
    """
    if here.verdict is Verdict.PASS or wide.verdict is not Verdict.PASS:
        return here
    if _narrowed(question, wide, narrow, formula, rng).verdict is not Verdict.PASS:
        return here
    message = f"right in float64; of the value in {question.leaf.digits} only rounding is left"
    return replace(wide, message=message)
