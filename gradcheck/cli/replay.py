"""`gradcheck replay`: run again what failed in a report."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from gradcheck.cli import options
from gradcheck.cli.statuses import BROKEN, DIVERGENCE, INTERRUPTED, MISUSE, PASS, spoken
from gradcheck.results import Verdict

__all__ = ["replay"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@options.debug
def replay(file: Path, debug: bool) -> None:
    """Run again what failed in FILE, a report in JSON.

    Each failure holds the command that repeats it: gradcheck, pytest or python with arguments. They
    are shown and run in the current folder, without a shell; replay only reports that you trust.
    Exit status: 1 if one of them diverges again, else 3 if one broke, else 2 if one was refused or
    misused, else 0.
    """
    with spoken(debug=debug):
        from gradcheck.reports.json import read

        report = read(file)
        failures = [*report.results, *(bad for suite in report.suites for bad in suite.failures)]
        failures = [bad for bad in failures if bad.verdict in (Verdict.FAIL, Verdict.ERROR)]
        for bad in failures:
            if not bad.replay:
                click.echo(f"{bad.name}: no command that runs it again was recorded", err=True)
        commands = dict.fromkeys(bad.replay for bad in failures if bad.replay)
        if not failures:
            click.echo("nothing failed in this report")
        statuses = [_replayed(command) for command in commands]
        statuses += [BROKEN] if any(not bad.replay for bad in failures) else []
    sys.exit(min(statuses, key=SEVEREST.index, default=PASS))


SEVEREST = (INTERRUPTED, DIVERGENCE, BROKEN, MISUSE, PASS)


def _replayed(command: str) -> int:
    """Run one recorded command; return the status it ends with, as ours."""
    click.echo(f"$ {command}")
    try:
        program, *arguments = shlex.split(command)
    except ValueError:
        program, arguments = "", []
    match program:
        case "gradcheck":
            found = _run(["-m", "gradcheck", *arguments])[0]
            return found if found in SEVEREST else BROKEN
        case "pytest":
            found = _run(["-m", "pytest", *arguments])[0]
            return {0: PASS, 1: DIVERGENCE, 2: INTERRUPTED, 4: MISUSE}.get(found, BROKEN)
        case "python":  # it prints a result, and ends with 0 whatever that is
            found, text = _run(arguments)
            said = {"PASS": PASS, "INCONCLUSIVE": PASS, "FAIL": DIVERGENCE}
            return BROKEN if found else said.get(text.split(" ")[0], BROKEN)
        case _:
            click.echo("refused: it is no command of gradcheck, pytest or python", err=True)
            return MISUSE


def _run(arguments: Sequence[str]) -> tuple[int, str]:
    ran = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, check=False)
    text = ran.stdout.decode("utf-8", errors="replace")
    click.echo(text, nl=False)
    return ran.returncode, text
