"""Several reports as one: the shards of a CI run, or one run on several machines."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from gradcheck.errors import InputError
from gradcheck.records import encode
from gradcheck.results import CheckResult, Report, SuiteRecord

__all__ = ["merge"]

Part = TypeVar("Part", CheckResult, SuiteRecord)


def merge(reports: Mapping[str, Report]) -> Report:
    """Return everything that `reports` hold, as one report.

    What is equal in two reports is kept once. Results or suites that share a name and differ (a
    check that ran on two machines) are all kept, each with the label of its report behind its
    name: the verdict of the whole is the worst of all.

    Args:
        reports: label -> report; the label is what tells them apart, as a file's name does.

    Raises:
        InputError: there are none.
    """
    if not reports:
        raise InputError("expected at least one report to merge; got none")
    every = list(reports.values())
    return Report(
        title=_joined([report.title for report in every]),
        command=_joined([report.command for report in every]),
        created=max(report.created for report in every),
        seed=every[0].seed,
        elapsed_s=sum(report.elapsed_s for report in every),
        environment=_environment(every),
        suites=tuple(_labelled({key: report.suites for key, report in reports.items()})),
        results=tuple(_labelled({key: report.results for key, report in reports.items()})),
        not_checked=tuple(dict.fromkeys(why for report in every for why in report.not_checked)),
    )


def _labelled(parts: Mapping[str, tuple[Part, ...]]) -> list[Part]:
    found: dict[
        str, dict[str, tuple[str, Part]]
    ] = {}  # name -> what it says -> the first to say it
    for label, several in parts.items():
        for part in several:
            found.setdefault(part.name, {}).setdefault(encode(part), (label, part))
    return [
        part if len(same) == 1 else replace(part, name=f"{part.name} ({label})")
        for same in found.values()
        for label, part in same.values()
    ]


def _environment(reports: list[Report]) -> tuple[tuple[str, str], ...]:
    values: dict[str, list[str]] = {}
    for report in reports:
        for key, value in report.environment:
            values.setdefault(key, []).append(value)
    return tuple((key, _joined(several, ", ")) for key, several in values.items())


def _joined(texts: list[str], between: str = "; ") -> str:
    return between.join(dict.fromkeys(texts))
