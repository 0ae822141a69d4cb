"""`gradcheck check`: one target, named on the command line."""

import ast
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gradcheck.cli import options
from gradcheck.cli.statuses import spoken, status
from gradcheck.results import CheckResult, Report, Verdict

__all__ = ["check"]


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


@click.command()
@click.argument("target", metavar="MODULE:OBJECT")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SPEC",
    help="An array, as in float64[2,3], float32[4]:positive, float64[]:-1..1, int64[4]<10, "
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
@click.option("--seed", type=click.IntRange(min=0), default=options.SEED, show_default=True)
@options.reports
@options.debug
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
    with spoken(debug=debug), options.current_folder_importable():
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
        options.write(report, reports)
        if result.verdict is Verdict.INCONCLUSIVE:
            click.echo("inconclusive is no divergence: an oracle was too noisy to tell", err=True)
    sys.exit(status(report))


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
    with specs.default_dtype(request.inputs):
        return check(
            target,
            *inputs,
            checks=asked.checks_wanted or "default",
            wrt=asked.wrt,
            rtol=asked.rtol,
            seed=asked.seed,
            name=request.name,
        )
