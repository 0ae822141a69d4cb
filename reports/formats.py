"""The formats of a report, chosen by the suffix of its file; a new format is a new line here."""

import os
from collections.abc import Callable
from pathlib import Path

from gradcheck.results import Report

__all__ = ["FORMATS", "unusable", "write"]


def _html(report: Report, path: Path) -> None:
    from gradcheck.reports.html import write as write_html  # loads Jinja2 and Matplotlib

    write_html(report, path)


def _json(report: Report, path: Path) -> None:
    from gradcheck.reports.json import write_json

    write_json(report, path)


FORMATS: dict[str, Callable[[Report, Path], None]] = {".html": _html, ".json": _json}


def unusable(path: Path) -> str | None:
    """Return why no report can be written to `path`, None if it can: ask before a long run."""
    if path.suffix not in FORMATS:
        return f"expected a path ending in {' or '.join(FORMATS)}; got {str(path)!r}."
    if path.is_dir():
        return f"expected a file; {str(path)!r} is a folder."
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"the folder {str(folder)!r} of {path.name!r} does not exist. Create it first."
    if not os.access(folder, os.W_OK):
        return f"the folder {str(folder)!r} of {path.name!r} cannot be written to."
    return None


def write(report: Report, path: Path) -> None:
    """Write `report` to `path` in the format of its suffix, all of it or nothing.

    Raises:
        OSError: no room, no permission.
    """
    FORMATS[path.suffix](report, path)
