"""The command line: words in, words and an exit status out. One command a module."""

import click

from gradcheck.cli.check import check
from gradcheck.cli.replay import replay
from gradcheck.cli.report import report
from gradcheck.cli.run import run
from gradcheck.cli.scan import scan

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gradcheck", message="gradcheck %(version)s")
def main() -> None:
    """Verify gradients, with an error bar on every verdict."""


for command in (run, check, replay, report, scan):
    main.add_command(command)
