"""With which status the command line ends.

0: no divergence (what was inconclusive is said, and accuses nobody). 1: a divergence, whatever else
happened. 2: wrong usage or input. 3: something raised, or nothing could be checked.
"""

import contextlib
import sys
import traceback
from collections.abc import Generator

import click

from gradcheck.results import Report, Verdict

__all__ = ["BROKEN", "DIVERGENCE", "INTERRUPTED", "MISUSE", "PASS", "spoken", "status", "verdicts"]

# Interrupting a shell's command gives 128 + SIGINT; 1 would read as a divergence.
PASS, DIVERGENCE, MISUSE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 130


def status(report: Report) -> int:
    """Return the status that a report deserves."""
    found = verdicts(report)
    compared = sum(agreement.compared for suite in report.suites for agreement in suite.agreements)
    compared += sum(len(result.findings) for result in report.results)
    if Verdict.FAIL in found:
        return DIVERGENCE
    if Verdict.ERROR in found or not compared:
        return BROKEN  # what raised, or was never compared, neither agrees nor diverges
    return PASS


def verdicts(report: Report) -> set[Verdict]:
    """Return the verdicts of all findings, also of a result whose own verdict is a worse one."""
    failures = (result for suite in report.suites for result in suite.failures)
    findings = (finding for result in (*failures, *report.results) for finding in result.findings)
    return {finding.verdict for finding in findings}


@contextlib.contextmanager
def spoken(*, debug: bool) -> Generator[None]:
    """Turn an exception into one line and the exit status it deserves."""
    from gradcheck.errors import GradcheckError, InputError

    try:
        yield
    except click.ClickException:
        raise
    except KeyboardInterrupt:
        click.echo("interrupted: nothing was written", err=True)
        sys.exit(INTERRUPTED)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(MISUSE)
    except GradcheckError as error:  # on purpose: what raised was the target
        if debug:
            traceback.print_exc()
        click.echo(f"Error: {error}", err=True)
        sys.exit(BROKEN)
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            click.echo(f"gradcheck broke: {_one_line(error)}", err=True)
            click.echo("run it again with --debug for the traceback", err=True)
        sys.exit(BROKEN)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
