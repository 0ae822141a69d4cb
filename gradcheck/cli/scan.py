"""`gradcheck scan`: what a package defines, and what of it was checked."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from gradcheck.cli import options
from gradcheck.cli.statuses import BROKEN, DIVERGENCE, PASS, spoken

__all__ = ["scan"]


@click.command()
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
@options.debug
def scan(package: str, records: Sequence[Path], strict: bool, debug: bool) -> None:
    """List what PACKAGE defines that has a derivative, and whether tests checked it.

    PACKAGE and its submodules are imported; those that cannot be are named, with the reason, and
    what they print goes to standard error. Listed are autograd.Functions, custom operators with
    register_autograd, objects of jax.custom_vjp and jax.custom_jvp, and modules of PyTorch,
    Equinox, Flax and Haiku. "checked" was handed to gradcheck itself, "within X" is a part of a
    target X that was. Exit status: 0, or with --strict 1 if something was not checked, 2 wrong
    usage, 3 if PACKAGE, or with --strict something in it, cannot be imported.
    """
    with spoken(debug=debug), options.current_folder_importable():
        from gradcheck import scan as scanning
        from gradcheck.specs import imported

        checked = scanning.checked(records) if records or strict else None
        with contextlib.redirect_stdout(sys.stderr):  # what the package itself prints
            imported(package)
        found = scanning.scan(package)
        for line in scanning.table(found, checked):
            click.echo(line)
        for module, why in found.broken.items():
            click.echo(f"not scanned  {module}: importing it raised {why}", err=True)
    unchecked = checked is not None and any(d.name not in checked for d in found.definitions)
    sys.exit(DIVERGENCE if strict and unchecked else BROKEN if strict and found.broken else PASS)
