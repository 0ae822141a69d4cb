"""`gradcheck report`: reports put together, and compared."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from gradcheck.cli import options
from gradcheck.cli.statuses import DIVERGENCE, PASS, spoken, status

__all__ = ["report"]

FILE = click.Path(path_type=Path)


@click.group()
def report() -> None:
    """Put reports in JSON together, or compare two of them."""


@report.command()
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@options.reports
@options.debug
def merge(files: Sequence[Path], reports: Sequence[Path], debug: bool) -> None:
    """Put the reports in FILEs together: shards of one run, or one run on several machines.

    What is equal is kept once; what has one name in two reports and differs is kept with the name
    of its file. Exit status: 0 no divergence, 1 a divergence, 2 wrong usage, 3 something raised or
    nothing was checked, in any of them.
    """
    with spoken(debug=debug):
        from gradcheck.reports.json import read
        from gradcheck.reports.merging import merge as merged
        from gradcheck.text import summarize

        whole = merged({str(file): read(file) for file in files})
        click.echo(summarize(whole))
        options.write(whole, reports)
    sys.exit(status(whole))


@report.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@options.debug
def diff(old: Path, new: Path, debug: bool) -> None:
    """Say what changed between the report OLD and the report NEW.

    \b
    worse    the verdict got worse
    gone     it was asked and is not any more
    new      it was not asked before
    coarser  it passes, but a larger error could hide now
    better   the verdict got better

    Exit status: 1 if something fails or raises now that did not, else 0; 2 wrong usage.
    """
    with spoken(debug=debug):
        from gradcheck.reports.changes import changes, listed
        from gradcheck.reports.json import read

        found = changes(read(old), read(new))
        for line in listed(found):
            click.echo(line)
    sys.exit(DIVERGENCE if any(change.is_regression for change in found) else PASS)
