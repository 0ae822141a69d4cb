"""The command line: words in, words and an exit status out.

Exit status 0: no divergence (what was inconclusive is said, and accuses nobody). 1: a divergence,
whatever else happened. 2: wrong usage or input. 3: something raised, or nothing could be checked.
"""

import contextlib
import difflib
import importlib.util
import sys
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from gradcheck.results import Report, Verdict

__all__ = ["main"]

# Interrupting a shell's command gives 128 + SIGINT; 1 would read as a divergence.
PASS, DIVERGENCE, MISUSE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 130

BACKENDS = ("torch", "jax")
EXAMPLES = 40  # networks a suite: all suites in two to three minutes on two cores
SEED = 0  # any number would do; a fixed one makes two runs of one commit agree


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gradcheck", message="gradcheck %(version)s")
def main() -> None:
    """Verify gradients, with an error bar on every verdict."""


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


def _writable(
    context: click.Context, option: click.Parameter, paths: Sequence[Path]
) -> tuple[Path, ...]:
    from gradcheck.reports.formats import unusable

    for path in paths:
        if (why := unusable(path)) is not None:
            raise click.BadParameter(why)
    return tuple(paths)


@main.command()
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
    default=SEED,
    show_default=True,
    help="The same seed draws the same networks.",
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    callback=_writable,
    metavar="PATH",
    help="Write a report, as .html or .json; repeat for both.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress, and a summary only of failures.")
@click.option("--debug", is_flag=True, help="Show the traceback when gradcheck itself breaks.")
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
    with _spoken(debug=debug):
        plan = _plan(suites, backends or BACKENDS, examples, seed)
        if not quiet:
            click.echo(plan.announcement, err=True)
        for notice in plan.missing:
            click.echo(notice, err=True)
        report = _carried_out(plan, quiet=quiet)
        status = _status(report)
        if not quiet or status != PASS:
            _summarize(report)
        _write(report, reports, quiet=quiet)
    sys.exit(status)


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


def _status(report: Report) -> int:
    verdicts = _verdicts(report)
    compared = sum(agreement.compared for suite in report.suites for agreement in suite.agreements)
    if Verdict.FAIL in verdicts:
        return DIVERGENCE
    if Verdict.ERROR in verdicts or not compared:
        return BROKEN  # what raised, or was never compared, neither agrees nor diverges
    return PASS


def _verdicts(report: Report) -> set[Verdict]:
    failures = (result for suite in report.suites for result in suite.failures)
    findings = (finding for result in (*failures, *report.results) for finding in result.findings)
    return {finding.verdict for finding in findings}


def _summarize(report: Report) -> None:
    from gradcheck.text import summarize

    click.echo(summarize(report))
    verdicts = _verdicts(report)
    if Verdict.ERROR in verdicts:
        click.echo("an error is no divergence: a layer, a framework or gradcheck raised", err=True)
    elif _status(report) == BROKEN:
        click.echo("nothing was checked; see above for what is missing", err=True)
    if Verdict.INCONCLUSIVE in verdicts:
        click.echo("inconclusive is no divergence: an oracle was too noisy to tell", err=True)


def _write(report: Report, paths: Sequence[Path], *, quiet: bool) -> None:
    from gradcheck.reports.formats import write

    for path in paths:
        write(report, path)
        if not quiet:
            click.echo(f"report: {path}")


@contextlib.contextmanager
def _spoken(*, debug: bool) -> Generator[None]:
    """Turn an exception into one line and the exit status it deserves."""
    from gradcheck.errors import InputError

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
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            click.echo(f"gradcheck broke: {_one_line(error)}", err=True)
            click.echo("run it again with --debug for the traceback", err=True)
        sys.exit(BROKEN)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
