"""A report as a JSON file, for machines: CI steps, dashboards, the next run's comparison."""

import os
from pathlib import Path

from gradcheck.errors import InputError
from gradcheck.records import decode, encode
from gradcheck.reports.files import write_text
from gradcheck.results import Report

__all__ = ["read", "write_json"]


def write_json(report: Report, path: str | os.PathLike[str]) -> None:
    """Write everything in `report` to `path`, whole or not at all.

    Raises:
        InputError: the folder of `path` does not exist.
    """
    write_text(encode(report) + "\n", path)


def read(path: str | os.PathLike[str]) -> Report:
    """Return the report in the JSON file at `path`, equal to the one that was written.

    NaN comes back as NaN, which equals nothing; compare such reports by their JSON.

    Raises:
        InputError: there is no such file, it holds no report, or one of a newer schema.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"expected a gradcheck report in JSON; {str(file)!r} is not a file.")
    try:
        return decode(file.read_text("utf-8"), Report)
    except UnicodeDecodeError as error:
        raise InputError(f"expected a gradcheck report in UTF-8; {str(file)!r}: {error}") from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
