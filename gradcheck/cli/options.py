"""What several commands take: where reports go, and where modules are found."""

import contextlib
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import click

from gradcheck.results import Report

__all__ = ["SEED", "current_folder_importable", "debug", "reports", "write"]

SEED = 0  # any number would do; a fixed one makes two runs of one commit agree


def _writable(
    context: click.Context, option: click.Parameter, paths: Sequence[Path]
) -> tuple[Path, ...]:
    from gradcheck.reports.formats import unusable

    for path in paths:
        if (why := unusable(path)) is not None:
            raise click.BadParameter(why)
    return tuple(paths)


reports = click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    callback=_writable,
    metavar="PATH",
    help="Write a report, as .html or .json; repeat for both.",
)

debug = click.option("--debug", is_flag=True, help="Show the traceback of what raised.")


def write(report: Report, paths: Sequence[Path], *, quiet: bool = False) -> None:
    """Write `report` to each of `paths`, and say so."""
    from gradcheck.reports.formats import write as write_to

    for path in paths:
        write_to(report, path)
        if not quiet:
            click.echo(f"report: {path}")


@contextlib.contextmanager
def current_folder_importable() -> Generator[None]:
    """Let modules be imported from where the command was given."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
