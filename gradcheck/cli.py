"""The command line: words in, words and an exit status out.

Exit status 0: no divergence (what was inconclusive is said, and accuses nobody). 1: a divergence,
whatever else happened. 2: wrong usage or input. 3: something raised, or nothing could be checked.
"""

import ast
import contextlib
import difflib
import importlib.util
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gradcheck.results import CheckResult, Report, Verdict

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


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise click.BadParameter(
            f"expected a Python literal, as in 3, 0.5, True or \"'mean'\"; got {text!r}"
        ) from None


def _literals(
    context: click.Context, option: click.Parameter, texts: Sequence[str]
) -> tuple[Any, ...]:
    return tuple(map(_literal, texts))


def _keywords(
    context: click.Context, option: click.Parameter, texts: Sequence[str]
) -> dict[str, Any]:
    keywords = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise click.BadParameter(f"expected name=literal, as in bias=False; got {text!r}")
        keywords[name] = _literal(value)
    return keywords


@main.command()
@click.argument("target", metavar="MODULE:OBJECT")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SPEC",
    help="An array, as in float64[2,3], float32[4]:positive, float64[]:-1..1, int64[4]:0..9, "
    "bool[3]; or a Python literal. Repeat for each positional argument.",
)
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    callback=_literals,
    metavar="LITERAL",
    help="A positional argument of the class or builder; repeat.",
)
@click.option(
    "--kwarg",
    "keywords",
    multiple=True,
    callback=_keywords,
    metavar="NAME=LITERAL",
    help="A keyword argument of the class, builder or function; repeat.",
)
@click.option("--build", is_flag=True, help="OBJECT returns (target, inputs) when it is called.")
@click.option("--framework", type=click.Choice(("torch", "jax", "numpy")), help="Of the inputs.")
@click.option(
    "--checks",
    multiple=True,
    metavar="NAMES",
    help='Names with commas between, "default" or "all".',
)
@click.option(
    "--wrt", multiple=True, metavar="PATTERN", help="Leaves to check, as in 'params.*'; repeat."
)
@click.option("--rtol", type=float, help="How wrong an entry may be. Default: by its dtype.")
@click.option("--seed", type=click.IntRange(min=0), default=SEED, show_default=True)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    callback=_writable,
    metavar="PATH",
    help="Write a report, as .html or .json; repeat for both.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of what raised.")
def check(debug: bool, reports: Sequence[Path], **asked: Any) -> None:
    """Check the gradients of a function, module, class, autograd.Function or Rule.

    \b
    gradcheck check mypackage.ops:softplus --input float64[2,3]
    gradcheck check torch.nn:Linear --arg 3 --arg 4 --kwarg bias=False --input float64[2,3]
    gradcheck check mypackage.layers:example --build

    A class is constructed with --arg and --kwarg, a PyTorch module in the dtype of its first
    floating input. Modules are found in the current folder too. Exit status: 0 no divergence,
    1 a divergence, 2 wrong usage, 3 the target raised, or gradcheck broke.
    """
    with _spoken(debug=debug), _current_folder_importable():
        request = Asked(**asked)
        began = time.perf_counter()
        result = replace(_checked(request), replay=request.command)
        click.echo(str(result))
        report = Report(
            title=f"Gradients of {request.target}",
            command=request.command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=request.seed,
            elapsed_s=time.perf_counter() - began,
            environment=result.environment,
            results=(result,),
        )
        _write(report, reports, quiet=False)
        if result.verdict is Verdict.INCONCLUSIVE:
            click.echo("inconclusive is no divergence: an oracle was too noisy to tell", err=True)
    sys.exit(_status(report))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `gradcheck check` was asked, as it was written."""

    target: str
    inputs: tuple[str, ...]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    build: bool
    framework: str | None
    checks: tuple[str, ...]
    wrt: tuple[str, ...]
    rtol: float | None
    seed: int

    @property
    def command(self) -> str:
        """The line that runs this again."""
        words = [
            *(f"--input={text}" for text in self.inputs),
            *(f"--arg={value!r}" for value in self.arguments),
            *(f"--kwarg={name}={value!r}" for name, value in self.keywords.items()),
            *(["--build"] if self.build else []),
            *([f"--framework={self.framework}"] if self.framework else []),
            *(f"--checks={names}" for names in self.checks),
            *(f"--wrt={pattern}" for pattern in self.wrt),
            *([] if self.rtol is None else [f"--rtol={self.rtol!r}"]),
            f"--seed={self.seed}",
        ]
        return shlex.join(["gradcheck", "check", self.target, *words])

    @property
    def checks_wanted(self) -> tuple[str, ...] | str:
        names = [name.strip() for given in self.checks for name in given.split(",")]
        return tuple(names) if names and names not in (["all"], ["default"]) else "".join(names)


def _checked(asked: Asked) -> CheckResult:
    from gradcheck import specs
    from gradcheck.api import check

    request = specs.Request(
        reference=asked.target,
        inputs=tuple(map(specs.parsed, asked.inputs)),
        arguments=asked.arguments,
        options=asked.keywords,
        framework=asked.framework,
        build=asked.build,
        seed=asked.seed,
    )
    target, inputs = specs.posed(request)
    return check(
        target,
        *inputs,
        checks=asked.checks_wanted or "default",
        wrt=asked.wrt,
        rtol=asked.rtol,
        seed=asked.seed,
        name=request.name,
    )


@main.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--debug", is_flag=True, help="Show the traceback when gradcheck itself breaks.")
def replay(file: Path, debug: bool) -> None:
    """Run again what failed in FILE, a report in JSON.

    Each failure holds the command that repeats it: gradcheck, pytest or python with arguments. They
    are shown and run in the current folder, without a shell; replay only reports that you trust.
    Exit status: 1 if one of them diverges again, else 3 if one broke, else 2 if one was refused or
    misused, else 0.
    """
    with _spoken(debug=debug):
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


@main.command()
@click.argument("package")
@click.option(
    "--checked",
    "records",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What pytest --gradcheck-record wrote; repeat for several sessions.",
)
@click.option("--strict", is_flag=True, help="Status 1 if something listed was not checked.")
@click.option("--debug", is_flag=True, help="Show the traceback of what raised.")
def scan(package: str, records: Sequence[Path], strict: bool, debug: bool) -> None:
    """List what PACKAGE defines that has a derivative, and whether tests checked it.

    PACKAGE and its submodules are imported. Listed are autograd.Functions, custom operators with
    register_autograd, objects of jax.custom_vjp and jax.custom_jvp, and modules of PyTorch, Equinox
    and Flax. "checked" was handed to gradcheck itself, "within X" is a part of a target X that
    was. Exit status: 0, or with --strict 1 if something was not checked, 2 wrong usage, 3 if
    PACKAGE, or with --strict something in it, cannot be imported.
    """
    with _spoken(debug=debug), _current_folder_importable():
        from gradcheck import scan as scanning
        from gradcheck.specs import imported

        checked = scanning.checked(records) if records or strict else None
        imported(package)
        found = scanning.scan(package)
        for line in scanning.table(found, checked):
            click.echo(line)
        for module, why in found.broken.items():
            click.echo(f"not scanned  {module}: importing it raised {why}", err=True)
    unchecked = checked is not None and any(d.name not in checked for d in found.definitions)
    sys.exit(DIVERGENCE if strict and unchecked else BROKEN if strict and found.broken else PASS)


@contextlib.contextmanager
def _current_folder_importable() -> Generator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


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
    compared += sum(len(result.findings) for result in report.results)
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
