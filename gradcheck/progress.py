"""How far a long run is, told on stderr: a bar to a terminal, a few plain lines to a log."""

import contextlib
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gradcheck.suites import Progress

__all__ = ["shown"]

Show = Callable[["Progress"], None]


@contextlib.contextmanager
def shown(*, quiet: bool) -> Generator[Show]:
    """Give a function that shows each step it is called with."""
    if quiet:
        yield lambda step: None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _lines()


@contextlib.contextmanager
def _bars() -> Generator[Show]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description:<12}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("{task.fields[layer]}", style="dim"),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, rich.TaskID] = {}

        def show(step: "Progress") -> None:
            if step.suite not in tasks:
                tasks[step.suite] = bars.add_task(step.suite, total=step.total, layer="")
            finished = step.done >= step.total
            bars.update(
                tasks[step.suite],
                completed=step.done,
                total=step.total,
                layer="" if finished else step.layer,
            )
            if finished:
                bars.stop_task(tasks[step.suite])

        yield show


def _lines() -> Show:
    said: dict[str, int] = {}

    def show(step: "Progress") -> None:
        quarter = 4 * step.done // max(step.total, 1)  # a log of CI wants signs of life, not a film
        if said.get(step.suite) != quarter:
            said[step.suite] = quarter
            click.echo(f"{step.suite}: {step.done} of {step.total}", err=True)

    return show
