"""The JSON file gives back the report that was written, or says why it cannot."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from gradcheck.errors import InputError
from gradcheck.records import encode
from gradcheck.reports.json import read, write_json
from gradcheck.results import SCHEMA_VERSION, CheckResult, Finding, Report

Make = Callable[..., Report]


def test_a_report_comes_back_equal(
    full: Report, wrong: Finding, result: Callable[..., CheckResult], report: Make, tmp_path: Path
) -> None:
    # NaN equals nothing: the errors, which hold one, are left to the next test.
    written = report(suites=full.suites, results=(result(wrong),), not_checked=("a", "b"))

    write_json(written, tmp_path / "run.json")

    assert read(tmp_path / "run.json") == written


def test_a_report_with_nan_comes_back_the_same(full: Report, tmp_path: Path) -> None:
    write_json(full, tmp_path / "run.json")

    back = read(tmp_path / "run.json")

    assert math.isnan(back.results[1].findings[0].mismatch)
    assert encode(back) == encode(full)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e-300, 5e-324, 0.1 + 0.2, -0.0])
def test_a_number_comes_back_to_the_last_bit(
    value: float,
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Make,
    tmp_path: Path,
) -> None:
    write_json(report(results=(result(finding(mismatch=value)),)), tmp_path / "run.json")

    back = read(tmp_path / "run.json").results[0].findings[0].mismatch

    assert back.hex() == value.hex()


@pytest.mark.parametrize("title", ["γράδιεντ ∂y/∂x", "nan", "null", "\x00\x1b[31m", "\ud800", ""])
def test_a_text_comes_back_the_same(title: str, report: Make, tmp_path: Path) -> None:
    write_json(report(title=title), tmp_path / "run.json")

    assert read(tmp_path / "run.json").title == title


def test_the_file_is_strict_json(full: Report, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    write_json(full, tmp_path / "run.json")

    json.loads((tmp_path / "run.json").read_text("utf-8"), parse_constant=refuse)


def test_a_newer_schema_is_refused(report: Make, tmp_path: Path) -> None:
    newer = SCHEMA_VERSION + 1
    write_json(report(schema_version=newer), tmp_path / "run.json")

    with pytest.raises(InputError) as refused:
        read(tmp_path / "run.json")

    assert str(refused.value) == (
        f"{tmp_path / 'run.json'}: expected a report of schema version {SCHEMA_VERSION}; "
        f"got {newer}. Read it with the gradcheck that wrote it, or a newer one."
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got no JSON"),
        (b"\xff\xfe", "expected a gradcheck report in UTF-8"),
        (b'{"schema_version": 1, "title": 3}', "expected a gradcheck Report"),
        (b'{"title": "half"}', "missing required field"),
    ],
)
def test_what_is_no_report_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)

    with pytest.raises(InputError, match=said):
        read(tmp_path / "run.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json' is not a file"):
        read(tmp_path / "no.json")


def test_a_missing_folder_is_refused(report: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected an existing folder to write run\.json in"):
        write_json(report(), tmp_path / "nowhere" / "run.json")

    assert not (tmp_path / "nowhere").exists()


def test_a_folder_is_not_overwritten(report: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got the folder"):
        write_json(report(), tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_draft(
    report: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(self: Path, data: bytes) -> int:
        with open(self, "wb") as half:
            half.write(data[:10])
        raise OSError("no space left on device")

    write_json(report(title="old"), tmp_path / "run.json")
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_json(report(title="new"), tmp_path / "run.json")

    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert read(tmp_path / "run.json").title == "old"
