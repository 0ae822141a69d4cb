"""What changed between two reports: what got worse, what got better, what is checked no longer."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from gradcheck.results import Finding, Report, Verdict
from gradcheck.text import counted, plain, question, scientific

__all__ = ["Change", "Kind", "changes", "listed"]

# A resolution that is coarser by less than this may be the chance of other directions.
COARSER = 10.0


class Kind(StrEnum):
    """How an answer changed, in the order in which it is listed."""

    WORSE = "worse"
    GONE = "gone"  # it is not asked any more
    NEW = "new"
    COARSER = "coarser"  # it passed and passes, but a larger error could hide now
    BETTER = "better"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A question with another answer than before; None is the verdict where it was not asked."""

    kind: Kind
    asked: str  # "gradient of test_layer at input[0]"
    before: Verdict | None
    after: Verdict | None
    detail: str = ""

    @property
    def is_regression(self) -> bool:
        """Whether a gradient is wrong, or a target raises, that was or did not before."""
        bad = (Verdict.FAIL, Verdict.ERROR)
        return self.kind in (Kind.WORSE, Kind.NEW) and self.after in bad


@dataclass(frozen=True, slots=True)
class Answer:
    """What one report says to one question."""

    verdict: Verdict
    resolution: float = float("nan")
    detail: str = ""


def changes(old: Report, new: Report) -> tuple[Change, ...]:
    """Return what is different in `new`, the worst first.

    The same question is asked where the result's name, the check and the leaf are the same; a suite
    of generated networks is one question.
    """
    before, after = dict(_answers(old)), dict(_answers(new))
    compared = (_change(asked, before.get(asked), after.get(asked)) for asked in before | after)
    found = [change for change in compared if change is not None]
    return tuple(sorted(found, key=lambda change: list(Kind).index(change.kind)))


def listed(found: tuple[Change, ...]) -> list[str]:
    """Return one line for each change, and one that counts them."""
    rows = [(str(c.kind), _verdicts(c), plain(c.asked), plain(c.detail)) for c in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    worse = sum(change.is_regression for change in found)
    return [*lines, f"{counted(len(found), 'change')}, {counted(worse, 'regression')}"]


def _answers(report: Report) -> Iterator[tuple[str, Answer]]:
    for suite in report.suites:
        yield f"suite {suite.name}", Answer(suite.verdict)
    for result in report.results:
        for finding in result.findings:
            where = f" at {finding.leaf}" if finding.leaf else ""
            yield f"{question(finding)} of {result.name}{where}", _answer(finding)


def _answer(finding: Finding) -> Answer:
    details = {
        Verdict.PASS: "",
        Verdict.FAIL: f"off by {scientific(finding.mismatch)}",
    }
    detail = details.get(finding.verdict, finding.message.partition("\n")[0])
    return Answer(finding.verdict, finding.resolution, detail)


def _change(asked: str, before: Answer | None, after: Answer | None) -> Change | None:
    if (kind := _kind(before, after)) is None:
        return None
    detail = after.detail if after else ""
    if kind is Kind.COARSER and before and after:
        one, other = scientific(before.resolution, 1), scientific(after.resolution, 1)
        detail = f"resolution {one} -> {other}"
    return Change(
        kind=kind,
        asked=asked,
        before=before.verdict if before else None,
        after=after.verdict if after else None,
        detail=detail,
    )


def _kind(before: Answer | None, after: Answer | None) -> Kind | None:
    if before is None:
        return Kind.NEW
    if after is None:
        return Kind.GONE
    if before.verdict is not after.verdict:
        order = list(Verdict)
        is_worse = order.index(after.verdict) > order.index(before.verdict)
        return Kind.WORSE if is_worse else Kind.BETTER
    passes = after.verdict is Verdict.PASS
    is_coarser = after.resolution > COARSER * before.resolution > 0
    return Kind.COARSER if passes and is_coarser else None


def _verdicts(change: Change) -> str:
    both = [verdict for verdict in (change.before, change.after) if verdict is not None]
    said = (str(v) if v is Verdict.PASS else v.upper() for v in both)
    return " -> ".join(dict.fromkeys(said))
