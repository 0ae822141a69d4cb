"""The command line: what it says where, and with which exit status it ends."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import gradcheck
from gradcheck import suites
from gradcheck.cli import main
from gradcheck.records import decode
from gradcheck.reference.dense import Dense
from gradcheck.results import Report

QUICK = ("run", "static", "--examples", "3")

# Installed or not, a framework whose entry is None cannot be imported.
WITHOUT_FRAMEWORKS = """
import sys
sys.modules["torch"] = sys.modules["jax"] = None
from gradcheck.cli import main
main()
"""


def gradcheck_command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def broken_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a sign error into the bias of the reference."""
    right = Dense.backward

    def wrong(self: Dense, params: Any, cache: Any, u: Any) -> Any:
        grads, inputs = right(self, params, cache, u)
        return {name: -g if name == "bias" else g for name, g in grads.items()}, inputs

    monkeypatch.setattr(Dense, "backward", wrong)


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Report], Report]], None]:
    """Return a function that alters the report of the campaign before the command line sees it."""
    real = suites.run

    def alter(change: Callable[[Report], Report]) -> None:
        monkeypatch.setattr(suites, "run", lambda *a, **k: change(real(*a, **k)))

    return alter


def test_version_is_that_of_the_package() -> None:
    assert gradcheck_command("--version").output == f"gradcheck {gradcheck.__version__}\n"


def test_module_runs_like_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "gradcheck", "--version"], capture_output=True, text=True, check=True
    )

    assert run.stdout == f"gradcheck {gradcheck.__version__}\n"


def test_help_describes_every_suite() -> None:
    described = {
        line.split()[0]
        for line in gradcheck_command("run", "--help").output.splitlines()
        if line.split()
    }

    assert set(suites.NAMES) <= described


def test_agreement_is_status_0() -> None:
    result = gradcheck_command(*QUICK)

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PASS")


def test_seed_is_said() -> None:
    assert "seed 0" in gradcheck_command(*QUICK).stdout


def test_summary_goes_to_stdout_and_progress_to_stderr() -> None:
    result = gradcheck_command(*QUICK)

    assert result.stdout.startswith("PASS")
    assert "\nstatic: " in result.stderr
    assert "static: " not in result.stdout


def test_quiet_run_that_passes_says_nothing() -> None:
    assert gradcheck_command(*QUICK, "--quiet").output == ""


@pytest.mark.usefixtures("broken_dense")
def test_divergence_is_status_1() -> None:
    assert gradcheck_command("run", "static", "--examples", "30").exit_code == 1


@pytest.mark.usefixtures("broken_dense")
def test_quiet_run_that_fails_says_what() -> None:
    result = gradcheck_command("run", "static", "--examples", "30", "--quiet")

    assert result.stdout.startswith("FAIL")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "statc"), "there is no suite 'statc'. Did you mean 'static'?"),
        (("run", "quantum"), "There are: static, recurrent, fixed_point, training."),
        (("run", "--backend", "tensorflow"), "'tensorflow' is not one of 'torch', 'jax'"),
        (("run", "--examples", "0"), "0 is not in the range x>=1"),
        (("run", "--seed", "-1"), "-1 is not in the range x>=0"),
        (("run", "--report", "report.txt"), "expected a path ending in .html or .json"),
        (("run", "--report", "absent/report.html"), "does not exist. Create it first."),
        (("rum",), "No such command 'rum'"),
    ],
)
def test_misuse_is_status_2(arguments: tuple[str, ...], message: str) -> None:
    result = gradcheck_command(*arguments)

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_folder_is_no_report(tmp_path: Path) -> None:
    folder = tmp_path / "report.html"
    folder.mkdir()

    result = gradcheck_command("run", "--report", str(folder))

    assert result.exit_code == 2
    assert "is a folder" in result.stderr


class TestBroken:
    """Status 3: not the gradients are at fault, and nobody is accused."""

    @pytest.fixture(autouse=True)
    def breakage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(*names: Any, **options: Any) -> Report:
            raise RuntimeError("the disk\nis full")

        monkeypatch.setattr(suites, "run", run)

    def test_status_is_3(self) -> None:
        assert gradcheck_command(*QUICK).exit_code == 3

    def test_one_line_says_what_and_one_how_to_see_more(self) -> None:
        assert gradcheck_command(*QUICK, "--quiet").stderr.splitlines() == [
            "gradcheck broke: RuntimeError: the disk is full",
            "run it again with --debug for the traceback",
        ]

    def test_debug_shows_the_traceback(self) -> None:
        result = gradcheck_command(*QUICK, "--debug")

        assert "Traceback (most recent call last)" in result.stderr
        assert result.exit_code == 3


def test_interruption_is_neither_a_divergence_nor_a_breakage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*names: Any, **options: Any) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(suites, "run", run)

    assert gradcheck_command(*QUICK).exit_code == 130


def test_nothing_compared_is_status_3(campaign: Any) -> None:
    def idle(report: Report) -> Report:
        return replace(report, suites=tuple(replace(s, agreements=()) for s in report.suites))

    campaign(idle)

    result = gradcheck_command(*QUICK)

    assert result.exit_code == 3
    assert "nothing was checked" in result.stderr


def result_of(*verdicts: gradcheck.Verdict) -> gradcheck.CheckResult:
    """Return a result with one finding of each of `verdicts`."""
    findings = (
        gradcheck.Finding(
            check="vjp",
            leaf="input[0]",
            verdict=verdict,
            mismatch=0.01,
            resolution=0.04,
            tolerance=0.001,
            oracle="finite differences",
            message="made up",
        )
        for verdict in verdicts
    )
    plain = gradcheck.check(Dense(inputs=1, outputs=1), np.ones((1, 1)))
    return replace(plain, findings=tuple(findings))


def test_inconclusive_is_status_0_and_said(campaign: Any) -> None:
    unresolved = result_of(gradcheck.Verdict.INCONCLUSIVE)
    campaign(lambda report: replace(report, results=(unresolved,)))

    result = gradcheck_command(*QUICK)

    assert result.exit_code == 0
    assert result.stdout.startswith("INCONCLUSIVE")
    assert "inconclusive is no divergence" in result.stderr


def test_what_raised_is_status_3_and_said(campaign: Any) -> None:
    raised = result_of(gradcheck.Verdict.ERROR)
    campaign(lambda report: replace(report, results=(raised,)))

    result = gradcheck_command(*QUICK)

    assert result.exit_code == 3
    assert "an error is no divergence" in result.stderr


def test_divergence_is_status_1_whatever_raised_besides(campaign: Any) -> None:
    both = result_of(gradcheck.Verdict.ERROR, gradcheck.Verdict.FAIL)
    campaign(lambda report: replace(report, results=(both,)))

    assert gradcheck_command(*QUICK).exit_code == 1


def test_input_that_cannot_be_used_is_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*names: Any, **options: Any) -> Report:
        raise gradcheck.InputError("expected a seed that fits into 32 bits; got 2**40")

    monkeypatch.setattr(suites, "run", run)

    result = gradcheck_command(*QUICK, "--quiet")

    assert result.exit_code == 2
    assert result.stderr == "Error: expected a seed that fits into 32 bits; got 2**40\n"


def test_json_report_holds_the_run(tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    gradcheck_command(*QUICK, "--seed", "5", "--report", str(path))

    report = decode(path.read_text(), Report)
    assert report.seed == 5
    assert [suite.name for suite in report.suites] == ["static"]


def test_both_reports_are_written_and_named(tmp_path: Path) -> None:
    html, json = tmp_path / "report.html", tmp_path / "report.json"

    result = gradcheck_command(*QUICK, "--report", str(html), "--report", str(json))

    assert html.read_text().lower().startswith("<!doctype html>")
    assert json.exists()
    assert result.stdout.splitlines()[-2:] == [f"report: {html}", f"report: {json}"]


def test_missing_framework_is_said_and_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    path = tmp_path / "report.json"

    result = gradcheck_command(*QUICK, "--report", str(path))

    said = "jax is not installed, nothing is compared with it: pip install 'gradcheck[jax]'"
    assert result.exit_code == 0, result.output
    assert said in result.stderr
    assert said in decode(path.read_text(), Report).not_checked


def test_without_any_framework_the_reference_is_checked_by_differences(tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_FRAMEWORKS, *QUICK, "--report", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    (suite,) = decode(path.read_text(), Report).suites
    pairs = {agreement.pair for agreement in suite.agreements}
    assert ("reference", "finite differences") in pairs
    assert not {source for pair in pairs for source in pair} & {"torch", "jax"}
