"""Progress: a bar to a terminal, a few lines to a log, nothing when asked for nothing."""

import os
import pty
import subprocess
import sys

import pytest

from gradcheck.progress import shown
from gradcheck.suites import Progress


def step(suite: str, done: int, total: int) -> Progress:
    return Progress(suite=suite, done=done, total=total, layer="Dense")


def test_log_gets_a_line_for_each_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(quiet=False) as show:
        for done in range(1, 101):
            show(step("static", done, 100))

    assert capsys.readouterr().err.splitlines() == [
        "static: 1 of 100",
        "static: 25 of 100",
        "static: 50 of 100",
        "static: 75 of 100",
        "static: 100 of 100",
    ]


def test_log_gets_lines_for_each_suite(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(quiet=False) as show:
        show(step("static", 1, 1))
        show(step("recurrent", 1, 1))

    assert capsys.readouterr().err.splitlines() == ["static: 1 of 1", "recurrent: 1 of 1"]


def test_suite_without_examples_is_no_division_by_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(quiet=False) as show:
        show(step("static", 0, 0))

    assert capsys.readouterr().err == "static: 0 of 0\n"


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(quiet=True) as show:
        show(step("static", 1, 1))

    assert capsys.readouterr() == ("", "")


def test_terminal_gets_a_bar() -> None:
    script = (
        "from types import SimpleNamespace as Step\n"
        "from gradcheck.progress import shown\n"
        "with shown(quiet=False) as show:\n"
        "    show(Step(suite='static', done=1, total=2, layer='Dense'))\n"
        "    show(Step(suite='static', done=2, total=2, layer='LSTM'))\n"
    )
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", script], stderr=terminal, env=environment, check=True)
    os.close(terminal)
    screen = os.read(master, 100_000).decode()
    os.close(master)

    assert "static" in screen
    assert "2/2" in screen
    assert "\x1b[" in screen
