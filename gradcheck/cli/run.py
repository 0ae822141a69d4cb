"""`gradcheck run`: the suites that come with the package."""

import difflib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from gradcheck.cli import options
from gradcheck.cli.statuses import BROKEN, PASS, spoken, status, verdicts
from gradcheck.results import Report, Verdict

__all__ = ["run"]

BACKENDS = ("torch", "jax")
EXAMPLES = 40  # networks a suite: all suites in two to three minutes on two cores


def _known_suites(
    context: click.Context, option: click.Parameter, names: Sequence[str]
) -> list[str]:
    from gradcheck.suites import NAMES

    for name in names:
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(NAMES)}."
            raise click.BadParameter(f"there is no suite {name!r}. {hint}")
    return [name for name in NAMES if name in names] or list(NAMES)


@click.command()
@click.argument("suites", metavar="[SUITE]...", nargs=-1, callback=_known_suites)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(BACKENDS),
    help="Compare with this framework; repeat for both. Default: all that are installed.",
)
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    default=EXAMPLES,
    show_default=True,
    help="Networks to draw in each suite.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=options.SEED,
    show_default=True,
    help="The same seed draws the same networks.",
)
@options.reports
@click.option("--quiet", "-q", is_flag=True, help="No progress, and a summary only of failures.")
@options.debug
def run(
    suites: Sequence[str],
    backends: Sequence[str],
    examples: int,
    seed: int,
    reports: Sequence[Path],
    quiet: bool,
    debug: bool,
) -> None:
    """Check the NumPy reference against finite differences, PyTorch and JAX.

    \b
    static       feed-forward networks
    recurrent    networks unrolled through time
    fixed_point  networks relaxed to a fixed point
    training     trajectories of training on the handwritten digits

    Without a SUITE, all of them. Exit status: 0 no divergence, 1 a divergence, 2 wrong usage,
    3 something of gradcheck's or the machine's broke.
    """
    with spoken(debug=debug):
        plan = _plan(suites, backends or BACKENDS, examples, seed)
        if not quiet:
            click.echo(plan.announcement, err=True)
        for notice in plan.missing:
            click.echo(notice, err=True)
        report = _carried_out(plan, quiet=quiet)
        ended = status(report)
        if not quiet or ended != PASS:
            _summarize(report)
        options.write(report, reports, quiet=quiet)
    sys.exit(ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be run, once it is known which frameworks are installed."""

    suites: tuple[str, ...]
    backends: tuple[str, ...]
    missing: tuple[str, ...]  # a notice for each framework that was wanted and is not installed
    examples: int
    seed: int

    @property
    def command(self) -> str:
        """The line that runs this again, with nothing left to defaults."""
        backends = (f"--backend={name}" for name in self.backends)
        numbers = (f"--examples={self.examples}", f"--seed={self.seed}")
        return " ".join(("gradcheck run", *self.suites, *backends, *numbers))

    @property
    def announcement(self) -> str:
        sources = ", ".join(("finite differences", *self.backends))
        return (
            f"{', '.join(self.suites)}: the NumPy reference against {sources}; "
            f"{self.examples} examples a suite, seed {self.seed}"
        )


def _plan(suites: Sequence[str], wanted: Sequence[str], examples: int, seed: int) -> Plan:
    installed = {name: importlib.util.find_spec(name) is not None for name in wanted}
    return Plan(
        suites=tuple(suites),
        backends=tuple(name for name, there in installed.items() if there),
        missing=tuple(
            f"{name} is not installed, nothing is compared with it: pip install 'gradcheck[{name}]'"
            for name, there in installed.items()
            if not there
        ),
        examples=examples,
        seed=seed,
    )


def _carried_out(plan: Plan, *, quiet: bool) -> Report:
    from gradcheck import suites
    from gradcheck.progress import shown

    with shown(quiet=quiet) as progress:
        report = suites.run(
            plan.suites,
            backends=plan.backends,
            examples=plan.examples,
            seed=plan.seed,
            progress=progress,
        )
    not_checked = (*plan.missing, *report.not_checked)
    return replace(report, command=plan.command, not_checked=not_checked)


def _summarize(report: Report) -> None:
    from gradcheck.text import summarize

    click.echo(summarize(report))
    found = verdicts(report)
    if Verdict.ERROR in found:
        click.echo("an error is no divergence: a layer, a framework or gradcheck raised", err=True)
    elif status(report) == BROKEN:
        click.echo("nothing was checked; see above for what is missing", err=True)
    if Verdict.INCONCLUSIVE in found:
        click.echo("inconclusive is no divergence: an oracle was too noisy to tell", err=True)
