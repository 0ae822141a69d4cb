"""Results in words, for a terminal: plain text, no colour, no escape sequence.

Numbers say no more than they know: error bars have one digit, differences two, and a pair of
values has as many as it takes to tell them apart.
"""

import cmath
import math
import textwrap
from collections.abc import Iterable, Sequence

from gradcheck.results import CheckResult, Entry, Finding, Report, SuiteRecord, Verdict, worst

__all__ = [
    "counted",
    "describe",
    "distinct",
    "largest",
    "plain",
    "question",
    "ratio",
    "scientific",
    "summarize",
    "worst_first",
]

WIDTH = 100  # columns; only a replay line, which must survive copying, may be longer
INDENT = " " * 6  # the width of "FAIL  "

# Together these keep `describe` within 25 lines, one screen of a small terminal:
# 2 findings of 8 lines, and 9 lines that say the rest.
FINDINGS_SHOWN = 2
ENTRIES_SHOWN = 3
MESSAGE_LINES = 3
TARGET_LINES = 2
NOT_CHECKED_SHOWN = 2

NOTHING = "NOTHING CHECKED"  # an empty set passes by definition, and must not read like a pass

# Of several failures these say what the others follow from.
TELLING = {"determinism": 3, "lag": 2, "implicit": 2, "vjp": 1}

FAILURES_SUMMARIZED = 10  # in a summary, which names failures and leaves the rest to the report


def describe(result: CheckResult) -> str:
    """Return what `result` found in at most 25 lines.

    First the worst findings: what, how sure, where, why, what to try. Then what else was asked,
    the target, how to run it again, and what was not checked.
    """
    ranked = worst_first(result.findings)
    bad = [finding for finding in ranked if finding.verdict is not Verdict.PASS]
    lines = [line for finding in bad[:FINDINGS_SHOWN] for line in _block(result, finding)]
    if not bad:
        lines = [_all_clear(result), *_proved(ranked), *_notes(ranked)]
    else:
        passed = [finding for finding in ranked if finding.verdict is Verdict.PASS]
        lines += _others(bad[FINDINGS_SHOWN:])
        lines += _did(passed) or _passed(passed)
    if result.target not in ("", result.name):
        lines += _wrapped("target: ", result.target, TARGET_LINES)
    if result.odd_one_out is not None:
        lines += _wrapped("odd one out: ", f"{result.odd_one_out} disagrees with all others", 1)
    elif _may_be_a_part(result):
        lines.append(f"{INDENT}which part: gradcheck.find_culprit, with the same arguments")
    if result.replay and not result.passed:
        lines.append(f"{INDENT}again: {plain(result.replay)}")
    return "\n".join([*lines, *_not_checked(result.not_checked)])


def summarize(report: Report) -> str:
    """Return what a run found: one line, a table of suites, and the first line of each failure."""
    failures = [result for suite in report.suites for result in suite.failures]
    bad = [result for result in (*failures, *report.results) if not result.passed]
    bad.sort(key=lambda result: -_rank(result.verdict))
    lines = [_headline(report)]
    if report.suites or report.results:
        lines += ["", *_table(report)]
    for result in bad[:FAILURES_SUMMARIZED]:
        lines += ["", describe(result).partition("\n")[0]]
        if result.odd_one_out is not None:
            lines.append(f"{INDENT}odd one out: {result.odd_one_out}")
        lines += [f"{INDENT}again: {plain(result.replay)}"] if result.replay else []
    if len(bad) > FAILURES_SUMMARIZED:
        lines += ["", f"{INDENT}and {len(bad) - FAILURES_SUMMARIZED} more"]
    parts: list[Report | SuiteRecord | CheckResult] = [report, *report.suites, *report.results]
    if left_out := dict.fromkeys(why for part in parts for why in part.not_checked):
        lines += ["", *_not_checked(list(left_out))]
    return "\n".join([*lines, "", f"{INDENT}seed {report.seed}   {plain(report.command)}".rstrip()])


def scientific(value: float, digits: int = 2) -> str:
    """Return `value` with `digits` significant digits: "5.0e-01", "0", "nan", "inf"."""
    return "0" if value == 0 else f"{value:.{digits - 1}e}"


def distinct(one: float, other: float, *, digits: int = 2) -> tuple[str, str]:
    """Return both numbers with as many digits as tell them apart and one more, at least `digits`.

    Numbers that are equal get `digits`; 17 digits tell any two different float64 apart.
    """
    apart = next((n for n in range(1, 18) if _digits(one, n) != _digits(other, n)), 0)
    shown = max(digits, min(apart + 1, 17))
    return _digits(one, shown), _digits(other, shown)


def numbers(entry: Entry) -> tuple[str, str]:
    """Return got and wanted, with as many digits as tell them apart: "0.25", "0.25-1j"."""
    return _apart(*entry.pair) if entry.imaginary else distinct(entry.got, entry.wanted)


def ratio(entry: Entry) -> str:
    """Return got / wanted, with enough digits to tell it from one; "" where it means nothing."""
    got, wanted = entry.pair
    if not (cmath.isfinite(got) and cmath.isfinite(wanted)):
        return ""
    if abs(wanted) <= entry.error_bar:  # it may be zero
        return ""
    factor = got / wanted
    if abs(factor.imag) * abs(wanted) <= entry.error_bar:  # a number without an imaginary part
        return distinct(factor.real, 1.0, digits=3)[0]
    return _apart(factor, 1.0, digits=3)[0]


def _apart(one: complex, other: complex, *, digits: int = 2) -> tuple[str, str]:
    """The same as `distinct`, of complex numbers: the digits are those of the larger one."""
    size = max(abs(one), abs(other))
    if not (size and math.isfinite(size)):
        return f"{one:.{digits}g}", f"{other:.{digits}g}"
    off = abs(one - other) / size
    shown = min(max(digits, 2 - math.floor(math.log10(off))), 17) if off else digits
    places = shown - 1 - math.floor(math.log10(size))

    def spelled(number: complex) -> str:
        real, imaginary = (round(part, places) + 0.0 for part in (number.real, number.imag))
        return f"{complex(real, imaginary):.{shown}g}"

    return spelled(one), spelled(other)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 leaf" or "1,200 leaves"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def plain(text: str) -> str:
    """Return `text` on one line, with what is not printable (escapes, controls) spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def question(finding: Finding) -> str:
    """Return what the check asks about, as a noun: the VJP is what people call the gradient."""
    return "gradient" if finding.check == "vjp" else finding.check


def largest(values: Iterable[float]) -> float:
    """Return the largest of `values`; a NaN is worse than any number; NaN when there are none."""
    return max(values, key=lambda value: (math.isnan(value), value), default=math.nan)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return `findings`, the worst first: by verdict, what says most, the mismatch."""

    def badness(finding: Finding) -> tuple[int, int, bool, float]:
        unknown = math.isnan(finding.mismatch)
        size = 0.0 if unknown else finding.mismatch
        is_cut = finding.check == "contract" and finding.leaf.startswith("output")
        telling = 2 if is_cut else TELLING.get(finding.check, 0)
        return _rank(finding.verdict), telling, unknown, size

    return sorted(findings, key=badness, reverse=True)


def _rank(verdict: Verdict) -> int:
    return list(Verdict).index(verdict)


def _digits(value: float, digits: int) -> str:
    return f"{value:#.{digits}g}".removesuffix(".")


def _may_be_a_part(result: CheckResult) -> bool:
    """Whether a gradient is wrong of what is shown in several lines: a module with others in it."""
    wrong = (f.check == "vjp" and f.verdict is Verdict.FAIL for f in result.findings)
    return "\n" in result.target.strip() and any(wrong)


def _block(result: CheckResult, finding: Finding) -> list[str]:
    """Return one finding in at most 8 lines: the verdict, the entries, the reason."""
    where = f" at {finding.leaf}" if finding.leaf else ""
    head = f"{finding.verdict.upper()}  {question(finding)} of {result.name}{where}"
    entries = [_entry(entry) for entry in finding.entries[:ENTRIES_SHOWN]]
    if len(finding.entries) > ENTRIES_SHOWN:
        more = counted(len(finding.entries) - ENTRIES_SHOWN, "more entry", "more entries")
        entries.append(f"{INDENT}and {more}")
    why = " — ".join(part for part in (finding.diagnosis, finding.message) if part)
    label = "looks like: " if finding.diagnosis else ""
    reason = _wrapped(label, why, MESSAGE_LINES) if why else []
    return [f"{plain(head)}   {plain(_how_sure(finding))}", *entries, *reason]


def _how_sure(finding: Finding) -> str:
    resolution = f"resolution {scientific(finding.resolution, 1)}"
    oracle = f" ({finding.oracle})" if finding.oracle else ""
    match finding.verdict:
        case Verdict.INCONCLUSIVE if not math.isnan(finding.tolerance):
            return f"{resolution}, tolerance {scientific(finding.tolerance, 1)}{oracle}"
        case Verdict.ERROR if finding.check == "test":  # which failed for another reason
            return "its checks passed"
        case Verdict.INCONCLUSIVE | Verdict.ERROR:
            return f"nothing compared{oracle}"
        case Verdict.FAIL if math.isnan(finding.mismatch):  # a shape, or what was raised
            return f"nothing to compare{oracle}"
        case Verdict.FAIL if finding.diagnosis == "not finite":
            return f"not finite{oracle}"
        case Verdict.FAIL if not finding.mismatch and not finding.resolution:  # what it does
            return f"seen{oracle}"
        case _:
            return f"off by {scientific(finding.mismatch)}, {resolution}{oracle}"


def _entry(entry: Entry) -> str:
    got, wanted = numbers(entry)
    factor = ratio(entry)
    bar = scientific(entry.error_bar, 1)
    line = f"{INDENT}{list(entry.index)}  got {got}  wanted {wanted} ± {bar}"
    return f"{line}   ratio {factor}" if factor else line


def _all_clear(result: CheckResult) -> str:
    if not result.findings:
        return f"{NOTHING}  {plain(result.name)}"
    off = scientific(largest(finding.mismatch for finding in result.findings))
    named = [part for finding in result.findings for part in finding.oracle.split(", ")]
    oracles = ", ".join(dict.fromkeys(named))
    found = counted(len(result.findings), "finding")
    seen = f"largest mismatch {off}, resolution {scientific(result.resolution, 1)}"
    return plain(f"PASS  {result.name}   {found}, {seen} ({oracles})")


def _proved(findings: Iterable[Finding]) -> list[str]:
    """Return how small a fault of each kind is that was proved to be caught, in any leaf."""
    weakest: dict[str, float] = {}
    for power in (power for finding in findings for power in finding.power):
        kind = power.fault.partition(" of ")[0]
        weakest[kind] = max(weakest.get(kind, 0.0), power.smallest)
    if not weakest:
        return []
    named = {("an " if kind == "entry" else "a ") + kind: size for kind, size in weakest.items()}
    finite = {kind: size for kind, size in named.items() if math.isfinite(size)}
    hidden = ", ".join(kind for kind in named if kind not in finite)  # of a gradient of zero, say
    if not finite:
        return _wrapped("would catch no error, however large, in ", hidden, 1)
    faults = ", ".join(f"{scientific(size, 1)} in {kind}" for kind, size in finite.items())
    usual = " of usual size" * (set(finite) != {"a leaf"})
    none = f"; none, however large, in {hidden}" if hidden else ""
    return _wrapped("would catch an error of ", faults + usual + none, 1)


def _notes(findings: Iterable[Finding]) -> list[str]:
    """Return the remarks on what passed: a kink, a leaf of no influence, a slip too small."""
    noted = [finding for finding in findings if finding.message]
    return [
        line
        for finding in noted[:FINDINGS_SHOWN]
        for line in _wrapped("note: ", f"{finding.leaf}: {finding.message}", MESSAGE_LINES)
    ]


def _others(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    named = ", ".join(f"{question(finding)} at {finding.leaf}" for finding in findings)
    return _wrapped(f"and {len(findings)} more: ", named, 1)


def _did(findings: Sequence[Finding]) -> list[str]:
    """What the target did beside computing, in one line: it may be why something else is wrong."""
    deeds = (f for f in findings if f.check == "contract" and f.message)
    return [line for f in deeds for line in _wrapped("note: ", f"{f.leaf}: {f.message}", 1)][:1]


def _passed(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    seen = scientific(largest(finding.resolution for finding in findings), 1)
    return [f"{INDENT}passed: {counted(len(findings), 'finding')}, resolution {seen}"]


def _not_checked(reasons: Sequence[str]) -> list[str]:
    shown = [
        line for why in reasons[:NOT_CHECKED_SHOWN] for line in _wrapped("not checked: ", why, 1)
    ]
    more = len(reasons) - NOT_CHECKED_SHOWN
    return [*shown, f"{INDENT}not checked: {more} more"] if more > 0 else shown


def _wrapped(label: str, text: str, lines: int) -> list[str]:
    """Return `text` after `label` in at most `lines` lines of WIDTH columns, then an ellipsis."""
    return textwrap.wrap(
        label + " ".join(plain(word) for word in text.split()),
        WIDTH,
        initial_indent=INDENT,
        subsequent_indent=INDENT + " " * len(label),
        max_lines=lines,
        placeholder=" …",
        break_on_hyphens=False,
    )


def _headline(report: Report) -> str:
    results = (*report.results, *(bad for suite in report.suites for bad in suite.failures))
    verdicts = [result.verdict for result in results]
    failed = verdicts.count(Verdict.FAIL) + verdicts.count(Verdict.ERROR)
    examples = sum(suite.examples for suite in report.suites)
    counts = [
        counted(len(report.suites), "suite") if report.suites else "",
        counted(examples, "example") if report.suites else "",
        counted(len(report.results), "check") if report.results else "",
        f"{failed:,} failed" if failed else "",
        f"{verdicts.count(Verdict.INCONCLUSIVE):,} inconclusive"
        if Verdict.INCONCLUSIVE in verdicts
        else "",
    ]
    said = ", ".join(filter(None, counts))
    verdict = report.verdict.upper() if said else NOTHING
    parts = (f"{verdict}  {report.title}", said, f"{report.elapsed_s:.1f} s")
    return plain("   ".join(filter(None, parts)))


def _table(report: Report) -> list[str]:
    """Return the suites, then the single checks as one more row, in columns."""
    rows = [("suite", "verdict", "examples", "worst mismatch", "seconds")]
    rows += [_row(suite) for suite in report.suites]
    if report.results:
        rows.append(_single_checks(report.results))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{INDENT}{name:<{widths[0]}}   {verdict:<{widths[1]}}   "
        + "   ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[2:], strict=True))
        for name, verdict, *cells in rows
    ]


def _row(suite: SuiteRecord) -> tuple[str, str, str, str, str]:
    mismatches = [agreement.worst for agreement in suite.agreements if agreement.compared]
    mismatches += _mismatches(suite.failures)
    return _cells(suite.name, suite.verdict, suite.examples, mismatches, suite.elapsed_s)


def _single_checks(results: Sequence[CheckResult]) -> tuple[str, str, str, str, str]:
    verdict = worst(result.verdict for result in results)
    seconds = sum(result.elapsed_s for result in results)
    return _cells("(checks)", verdict, len(results), _mismatches(results), seconds)


def _mismatches(results: Iterable[CheckResult]) -> list[float]:
    """Return the mismatch of every finding but errors: a target that raised has none."""
    findings = (finding for result in results for finding in result.findings)
    return [finding.mismatch for finding in findings if finding.verdict is not Verdict.ERROR]


def _cells(
    name: str, verdict: Verdict, examples: int, mismatches: Sequence[float], seconds: float
) -> tuple[str, str, str, str, str]:
    shouted = verdict if verdict is Verdict.PASS else verdict.upper()
    off = scientific(largest(mismatches)) if mismatches else "-"
    return plain(name), str(shouted), f"{examples:,}", off, f"{seconds:.1f}"
