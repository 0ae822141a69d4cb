"""How far a long run is, told on stderr: a bar to a terminal, a few plain lines to a log."""

import contextlib
import sys
from collections.abc import Callable, Generator
from typing import Protocol

import click

__all__ = ["Step", "shown"]


class Step(Protocol):
    """What is told: in `suite`, `done` of `total` examples are through; the last drew `layer`."""

    @property
    def suite(self) -> str: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def layer(self) -> str: ...


@contextlib.contextmanager
def shown(*, quiet: bool) -> Generator[Callable[[Step], None]]:
    """Give a function that shows each step it is called with."""
    if quiet:
        yield lambda step: None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _lines()


@contextlib.contextmanager
def _bars() -> Generator[Callable[[Step], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[layer]}", style="dim"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def show(step: Step) -> None:
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


def _lines() -> Callable[[Step], None]:
    said: dict[str, int] = {}

    def show(step: Step) -> None:
        quarter = 4 * step.done // max(step.total, 1)  # a log of CI wants signs of life, not a film
        if said.get(step.suite) != quarter:
            said[step.suite] = quarter
            click.echo(f"{step.suite}: {step.done} of {step.total}", err=True)

    return show
