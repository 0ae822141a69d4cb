"""What the pytest plugin makes of a session: one summary and one report, of all its workers.

It imports pytest and the standard library; the engine and the reports only once there are results.

PYTEST_DONT_REWRITE: there is no assertion here whose values anybody wants to see.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from gradcheck.results import CheckResult, Report

__all__ = ["CHECKED", "PAYLOAD", "Collector", "Options"]

# On a TestReport: every result so far of this test, each as JSON, and the names of those unread.
PAYLOAD = "_gradcheck"
CHECKED = "_gradcheck_checked"  # on a TestReport: names of targets, as `scan.Targets` drains them


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked of the plugin, on the command line and in the configuration file."""

    seed: int
    reports: tuple[Path, ...]
    record: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The last run of one test that used the fixture, or that checked something itself."""

    outcome: Literal["passed", "failed", "skipped", "xfailed"]
    reason: str  # the first line of why it did not pass
    results: tuple[CheckResult, ...]
    unread: frozenset[str]  # names of results that the test did not look at

    @property
    def is_skipped(self) -> bool:
        """Whether the test was skipped before it had checked anything."""
        return self.outcome == "skipped" and not self.results

    def remark(self, result: CheckResult) -> str | None:
        """Return why the verdict of `result`, which did not pass, is not that of its test."""
        if self.outcome == "xfailed":
            return f"as expected: the test is marked xfail{self.reason and f': {self.reason}'}"
        if self.outcome == "passed" and result.name in self.unread:
            return "the test passed all the same: it does not assert this result"
        return None


class Collector:
    """Gathers the results of all workers; prints and writes them when the session ends."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.config = config
        self.options = options
        self.began = time.perf_counter()
        self.tests: dict[str, Run] = {}
        self.crashed: list[str] = []
        self.unwritten: dict[Path, str] = {}
        self.checked: list[tuple[str, str]] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give each xdist worker what it needs; `config` itself does not travel."""
        node.workerinput["gradcheck_seed"] = self.options.seed
        node.workerinput["gradcheck_record"] = self.options.record is not None
        node.workerinput["gradcheck_reports"] = bool(self.options.reports)

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> str | None:
        if self.config.get_verbosity() < 0 or not any(map(_uses_fixture, items)):
            return None
        return f"gradcheck: seed {self.options.seed}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when not in ("setup", "call", "teardown"):  # xdist: a worker died in this test
            self.crashed.append(report.nodeid)
        self.checked += map(tuple, getattr(report, CHECKED, ()))
        if report.when == "setup":
            self.tests.pop(report.nodeid, None)  # a rerun replaces what it reran
            if report.passed:
                return  # it may be interrupted yet
        if (payload := getattr(report, PAYLOAD, None)) is None:
            return
        from gradcheck.records import decode
        from gradcheck.results import CheckResult

        texts, unread = payload
        results = tuple(decode(text, CheckResult) for text in texts)
        is_expected = report.skipped and hasattr(report, "wasxfail")
        outcome, reason = "xfailed" if is_expected else report.outcome, _reason(report)
        last, is_quiet = self.tests.get(report.nodeid), report.when == "teardown" and report.passed
        if last is not None and (is_quiet or last.outcome == "failed"):
            outcome, reason = last.outcome, last.reason  # a subtest that failed fails its test
        if outcome == "failed" and results and all(result.passed for result in results):
            results = (*results[:-1], _stopped(results[-1], reason))
        self.tests[report.nodeid] = Run(outcome, reason, results, frozenset(unread))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.options.record is not None:
            self._record(self.options.record)
        if self.options.reports:
            self._write_reports(session.exitstatus)
        if self.unwritten:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def _record(self, path: Path) -> None:
        from gradcheck.reports.files import write_text
        from gradcheck.scan import recorded

        try:
            write_text(recorded(self.checked), path)
        except OSError as error:
            self.unwritten[path] = str(error)

    def _write_reports(self, status: int) -> None:
        from gradcheck.errors import InputError
        from gradcheck.reports.formats import write

        report = self._report(status)
        for path in self.options.reports:
            try:
                write(report, path)
            except (InputError, OSError) as error:
                self.unwritten[path] = str(error)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        record = self.options.record
        if not (self.tests or self.options.reports or record):
            return
        terminalreporter.section("gradcheck")
        if self.tests or self.options.reports:
            terminalreporter.write_line(self._tally())
        for run in self.tests.values():
            for result in run.results:
                if not result.passed:
                    _say(terminalreporter, result, run)
        for line in self._not_checked():
            terminalreporter.write_line(f"not checked  {line}")
        for path in self.options.reports:
            if path in self.unwritten:
                terminalreporter.write_line(f"no report: {self.unwritten[path]}", red=True)
            else:
                terminalreporter.write_line(f"report: {path}")
        if record is not None:
            terminalreporter.write_line(self._recorded(record), red=record in self.unwritten)

    def _recorded(self, path: Path) -> str:
        if path in self.unwritten:
            return f"no record: {self.unwritten[path]}"
        return f"record of what was checked: {path}"

    def _results(self) -> tuple[CheckResult, ...]:
        return tuple(result for test in self.tests.values() for result in test.results)

    def _tally(self) -> str:
        counts = Counter(result.verdict.value for result in self._results())
        total, tests = counts.total(), len(self.tests)
        counts["skipped"] = sum(run.is_skipped for run in self.tests.values())
        words = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()) if count)
        return (
            f"{total} check{'s' * (total != 1)} in {tests} test{'s' * (tests != 1)}: "
            f"{words or 'nothing was checked'}; seed {self.options.seed}"
        )

    def _not_checked(self) -> tuple[str, ...]:
        crashed = (f"{nodeid}: its worker crashed" for nodeid in self.crashed)
        idle = (
            f"{nodeid}: {run.outcome} without a check{run.reason and f': {run.reason}'}"
            for nodeid, run in self.tests.items()
            if not run.results and nodeid not in self.crashed
        )
        return (*crashed, *idle)

    def _report(self, status: int) -> Report:
        from datetime import UTC, datetime

        from gradcheck.results import Report

        results = tuple(
            _noted(r, run.remark(r)) for run in self.tests.values() for r in run.results
        )
        if status not in GREEN and results and all(result.passed for result in results):
            results += (_left_open(status, self.options.seed),)
        return Report(
            title="Gradients under pytest",
            command=shlex.join(["pytest", *map(str, self.config.invocation_params.args)]),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=self.options.seed,
            elapsed_s=time.perf_counter() - self.began,
            environment=tuple(dict(pair for r in results for pair in r.environment).items()),
            results=results,
            not_checked=self._not_checked(),
        )


def _uses_fixture(item: pytest.Item) -> bool:
    return "gradcheck" in getattr(item, "fixturenames", ())


GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def _reason(report: pytest.TestReport) -> str:
    """Return the first line of why a test did not pass."""
    why: Any = getattr(report, "wasxfail", report.longrepr) or ""
    if isinstance(why, tuple):  # of a skip: where and why
        why = why[-1].removeprefix("Skipped: ")
    crash = getattr(why, "reprcrash", None)
    return str(crash.message if crash else why).strip().partition("\n")[0]


def _stopped(result: CheckResult, reason: str) -> CheckResult:
    """Return a result that passed, of a test that failed: no report of it may read as a pass."""
    from gradcheck.results import Finding, Verdict

    unknown = float("nan")
    finding = Finding(
        check="test",
        leaf="",
        verdict=Verdict.ERROR,
        mismatch=unknown,
        resolution=unknown,
        tolerance=unknown,
        oracle="pytest",
        message=f"the test failed for another reason: {reason}",
    )
    return replace(result, findings=(*result.findings, finding))


def _noted(result: CheckResult, remark: str | None) -> CheckResult:
    """Return `result` with a remark on all of it that did not pass."""
    from gradcheck.results import Verdict

    if remark is None:
        return result
    findings = (
        f
        if f.verdict is Verdict.PASS
        else replace(f, message=f"{remark}; {f.message}".removesuffix("; "))
        for f in result.findings
    )
    return replace(result, findings=tuple(findings))


def _left_open(status: int, seed: int) -> CheckResult:
    """Return what stands for all that went wrong in a session beside what it checked."""
    from gradcheck.results import CheckResult, Evaluations

    ended = getattr(status, "name", str(status)).lower().replace("_", " ")
    why = f"pytest did not pass ({ended}): a test that is not listed here failed or did not run"
    return CheckResult(
        name="pytest",
        target="",
        seed=seed,
        findings=(),
        environment=(),
        evaluations=Evaluations(forward=0, vjp=0),
        elapsed_s=0.0,
        not_checked=(why,),
    )


def _say(terminal: pytest.TerminalReporter, result: CheckResult, run: Run) -> None:
    from gradcheck.errors import GradientMismatch
    from gradcheck.results import Verdict
    from gradcheck.text import describe

    is_open = result.verdict is Verdict.INCONCLUSIVE or run.outcome == "xfailed"
    colour = "yellow" if is_open else "red"
    lines: int | None = 1
    if result.verdict is Verdict.ERROR:
        lines = 2  # the second says what was raised
    elif run.outcome == "failed" and GradientMismatch.__name__ not in run.reason:
        lines = None  # nobody has shown it: of `assert check(...)` pytest shows one line
    for line in describe(result).split("\n")[:lines]:
        terminal.write_line(line, **{colour: True})
    if remark := run.remark(result):
        terminal.write_line(f"      {remark}")
