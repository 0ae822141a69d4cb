"""A report as one HTML page that opens by a double click, and a result as a notebook cell.

Nothing is loaded: style, script, pictures and data are inside, and the page's own security
policy forbids everything else. Without JavaScript all of it can be read.
"""

import base64
import functools
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gradcheck.records import encode
from gradcheck.reports import agreements, plots
from gradcheck.reports.files import write_text
from gradcheck.results import CheckResult, Finding, Report, SuiteRecord, Verdict
from gradcheck.text import counted, numbers, plain, question, ratio, scientific, worst_first

__all__ = ["page", "result_fragment", "write"]

# A page stays under a megabyte for a thousand checks. Beyond these numbers it says what it
# leaves out; the JSON file leaves out nothing.
PLOTS = 20  # of about 8 kB
PASSING_FINDINGS = 1000  # rows of about 0.2 kB; above it, one for every check that passed
DATA = 400_000  # characters of JSON; above it, without the checks that passed
ENTRIES = 8  # rows of located entries per finding; the pattern is plain by then
SOURCES = 3  # names behind one reason why something was not checked

SYMBOLS = {Verdict.PASS: "✓", Verdict.INCONCLUSIVE: "?", Verdict.FAIL: "✗", Verdict.ERROR: "!"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One check as the page shows it."""

    anchor: str
    suite: str  # "" for a single check
    result: CheckResult
    findings: tuple[tuple[Finding, Markup], ...]  # the worst first, with its plot or ""

    @property
    def verdict(self) -> Verdict:
        return self.result.verdict


def page(report: Report) -> str:
    """Return `report` as one self-contained HTML page; the same record gives the same bytes."""
    shown = list(_shown(report))
    passing, left_out = _cut([check for check in shown if check.verdict is Verdict.PASS])
    data, complete = _data(report)
    script = Markup(_source("page.js"))
    template = _templates().get_template("page.html.jinja")
    return template.render(
        report=report,
        empty=not (report.suites or report.results),
        failing=[check for check in shown if check.verdict in (Verdict.FAIL, Verdict.ERROR)],
        inconclusive=[check for check in shown if check.verdict is Verdict.INCONCLUSIVE],
        passing=passing,
        statuses=[verdict for verdict in reversed(Verdict) if _any_of(verdict, shown)],
        tables=[(suite, agreements.table(suite)) for suite in report.suites],
        compared=sum(item.compared for suite in report.suites for item in suite.agreements),
        not_checked=_reasons(report),
        left_out=left_out,
        data=data,
        complete=complete,
        style=Markup(_source("page.css")),
        script=script,
        script_hash=_hash(script),
        ENTRIES=ENTRIES,
        PLOTS=PLOTS,
        SOURCES=SOURCES,
    )


def write(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the page of `report` to `path`, whole or not at all.

    Raises:
        InputError: the folder of `path` does not exist.
    """
    write_text(page(report), path)


def result_fragment(result: CheckResult) -> str:
    """Return `result` as a fragment for a notebook: no script, no ids, its own inline style."""
    template = _templates().get_template("fragment.html.jinja")
    return template.render(result=result, findings=worst_first(result.findings), ENTRIES=ENTRIES)


def _shown(report: Report) -> Iterator[Shown]:
    """Yield every check, the worst verdict first, otherwise in the order of the record."""
    found = [(suite.name, result) for suite in report.suites for result in suite.failures]
    found += [("", result) for result in report.results]
    found.sort(key=lambda pair: -list(Verdict).index(pair[1].verdict))
    taken: Counter[str] = Counter()
    drawn = 0
    for suite, result in found:
        anchor = _anchor(result.name, taken)
        rows = []
        for number, finding in enumerate(worst_first(result.findings)):
            plot = ""
            if finding.verdict is not Verdict.PASS and finding.steps and drawn < PLOTS:
                plot = plots.error_against_step(finding, key=f"{anchor}-plot-{number}")
                drawn += bool(plot)
            rows.append((finding, Markup(plot)))
        yield Shown(anchor=anchor, suite=suite, result=result, findings=tuple(rows))


def _cut(passing: list[Shown]) -> tuple[list[Shown], int]:
    """Return `passing` with only the worst finding of each where there are too many, and how many
    were left out."""
    number = sum(len(check.findings) for check in passing)
    if number <= PASSING_FINDINGS:
        return passing, 0
    cut = [replace(check, findings=check.findings[:1]) for check in passing]
    return cut, number - sum(len(check.findings) for check in cut)


def _anchor(name: str, taken: Counter[str]) -> str:
    """Return an id made of the letters and digits in `name`, numbered from its second use on."""
    slug = "-".join(["check", *re.findall("[a-z0-9]+", name.lower())])[:80]
    taken[slug] += 1
    return slug if taken[slug] == 1 else f"{slug}--{taken[slug]}"


def _any_of(verdict: Verdict, shown: Iterable[Shown]) -> bool:
    return any(check.verdict is verdict for check in shown)


def _reasons(report: Report) -> list[tuple[str, list[str]]]:
    """Return why something was not checked, each reason once, with the names of its sources."""
    sources: dict[str, dict[str, None]] = {why: {} for why in report.not_checked}
    parts: list[SuiteRecord | CheckResult] = [*report.suites, *report.results]
    parts += [bad for suite in report.suites for bad in suite.failures]
    for part in parts:
        for why in part.not_checked:
            sources.setdefault(why, {})[part.name] = None
    return [(why, list(names)) for why, names in sources.items()]


def _data(report: Report) -> tuple[Markup, bool]:
    """Return `report` as JSON in ASCII that no HTML parser takes for markup, and whether all of it.

    Above DATA the checks that passed are left out; the verdict stays the same.
    """
    failed = tuple(result for result in report.results if not result.passed)
    whole = _compact(report)
    if len(whole) <= DATA or len(failed) == len(report.results):
        return Markup(whole), True
    return Markup(_compact(replace(report, results=failed))), False


def _compact(report: Report) -> str:
    compact = json.dumps(json.loads(encode(report)), separators=(",", ":"))
    for sign in "<>&":
        compact = compact.replace(sign, f"\\u{ord(sign):04x}")
    return compact


def _hash(script: str) -> str:
    """Return what the page's policy calls the one script that may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _source(name: str) -> str:
    return files("gradcheck.reports").joinpath("templates", name).read_text("utf-8")


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("gradcheck.reports"),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        agrees=agreements.agrees,
        bar=lambda value: scientific(value, 1),
        counted=counted,
        distinct=numbers,
        explain=plots.explain,
        margin=agreements.margin,
        number=scientific,
        question=question,
        ratio=ratio,
        seconds=_seconds,
        symbol=SYMBOLS.__getitem__,
    )
    return environment


def _printable(value: object) -> object:
    """Spell out control characters and lone surrogates, which a page cannot hold or would hide."""
    if type(value) is not str:  # markup of ours, numbers, verdicts
        return value
    return "\n".join(plain(line.replace("\t", "    ")) for line in value.split("\n"))


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{value / 60:.1f} min"
