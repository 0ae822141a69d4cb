"""The picture of error against step: every number has a place, every reader a way in."""

import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from gradcheck.reports.plots import error_against_step, explain
from gradcheck.results import Finding, Step

SVG = "{http://www.w3.org/2000/svg}"
Make = Callable[..., Finding]


def words(svg: str) -> list[str]:
    """Return the text in the picture, but for the labels of the axes' ticks."""
    texts = [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]
    return [text for text in texts if not text[0].isdigit()]


def steps(*mismatches: float) -> tuple[Step, ...]:
    return tuple(
        Step(h=10.0**-k, mismatch=mismatch, error_bar=1e-9) for k, mismatch in enumerate(mismatches)
    )


def test_mismatch_error_bar_and_tolerance_are_drawn(wrong: Finding) -> None:
    svg = error_against_step(wrong, key="p")

    assert words(svg) == ["step h", "relative error", "mismatch", "error bar", "tolerance"]


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "exactly zero"), (math.inf, "infinite"), (math.nan, "not a number")]
)
def test_a_number_without_a_place_gets_a_marker_of_its_own(
    value: float, said: str, finding: Make
) -> None:
    odd = error_against_step(finding(steps=steps(0.5, value, 0.5)), key="p")
    even = error_against_step(finding(steps=steps(0.5, 0.5, 0.5)), key="p")

    assert said in words(odd)
    assert said not in words(even)


@pytest.mark.parametrize(
    "mismatches",
    [(0.5,), (0.0,), (math.nan,), (math.inf, -math.inf), (0.0, 0.0), (1e-320, 1e308)],
    ids=str,
)
def test_no_number_is_too_odd_to_draw(mismatches: tuple[float, ...], finding: Make) -> None:
    svg = error_against_step(finding(steps=steps(*mismatches)), key="p")

    assert ET.fromstring(svg).tag == f"{SVG}svg"
    assert "nan" not in svg.partition("<g>")[2]


@pytest.mark.parametrize("bar", [0.0, math.nan, math.inf])
def test_an_error_bar_without_a_place_is_drawn_on_the_edge(bar: float, finding: Make) -> None:
    odd = (Step(h=1e-3, mismatch=0.5, error_bar=bar), Step(h=1e-4, mismatch=0.5, error_bar=1e-9))

    svg = error_against_step(finding(steps=odd), key="p")

    assert "nan" not in svg.partition("<g>")[2]


@pytest.mark.parametrize("h", [0.0, -1.0, math.nan, math.inf])
def test_a_step_without_a_place_is_left_out(h: float, finding: Make) -> None:
    impossible = finding(steps=(Step(h=h, mismatch=0.5, error_bar=1e-9),))

    assert error_against_step(impossible, key="p") == ""
    assert explain(impossible) == "No step can be drawn."


def test_no_steps_no_picture(finding: Make) -> None:
    assert error_against_step(finding(), key="p") == ""


def test_the_picture_is_told_in_words(finding: Make) -> None:
    drawn = finding(
        steps=(
            Step(h=1e-2, mismatch=0.51, error_bar=1e-4),
            Step(h=1e-3, mismatch=0.5, error_bar=1e-8),
            Step(h=1e-4, mismatch=0.49, error_bar=math.nan),
        )
    )

    root = ET.fromstring(error_against_step(drawn, key="p"))
    title, description = root[0], root[1]

    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "gradient at params.weight: error against step"
    assert description.text == (
        "Steps from 1.0e-04 to 1.0e-02. The oracle is sharpest at h = 1.0e-03, where its error "
        "bar is 1.0e-08 and the mismatch 5.0e-01."
    )


def test_a_single_step_is_told_without_a_range(finding: Make) -> None:
    assert explain(finding(steps=steps(0.5))).startswith("Steps 1.0e+00. ")


def test_a_hostile_leaf_stays_text(finding: Make) -> None:
    svg = error_against_step(finding(leaf="</svg><script>$x$\x1b", steps=steps(0.5)), key="p")

    assert "<script" not in svg
    assert ET.fromstring(svg)[0].text == ("gradient at </svg><script>$x$\\x1b: error against step")


def test_the_page_decides_on_colours_and_fonts(wrong: Finding) -> None:
    svg = error_against_step(wrong, key="p")

    assert "currentColor" in svg
    assert "#010101" not in svg
    assert "#020202" not in svg
    assert "#030303" not in svg
    assert "DejaVu" not in svg
    assert "<style" not in svg


def test_the_ids_of_two_pictures_in_one_page_differ(wrong: Finding) -> None:
    def ids(key: str) -> set[str]:
        root = ET.fromstring(error_against_step(wrong, key=key))
        return {name for element in root.iter() if (name := element.get("id"))}

    assert ids("one")
    assert not ids("one") & ids("two")


def test_every_reference_has_its_target(wrong: Finding) -> None:
    root = ET.fromstring(error_against_step(wrong, key="p"))
    ids = {element.get("id") for element in root.iter()}
    used = {element.get("href", "")[1:] for element in root.iter(f"{SVG}use")}
    clips = {c[5:-1] for element in root.iter() if (c := element.get("clip-path"))}

    assert used
    assert clips
    assert used | clips <= ids


@pytest.mark.parametrize(
    ("exponents", "labels"),
    [
        ((-3.0, -2.7), ["5e-04", "1e-03", "2e-03", "5e-03"]),
        ((-3.0, -1.0), ["1e-03", "1e-02", "1e-01"]),
        ((-12.0, 0.0), ["1e-12", "1e-09", "1e-06", "1e-03", "1e+00"]),
    ],
    ids=["half a decade", "two decades", "twelve decades"],
)
def test_the_steps_have_two_to_six_ticks(
    exponents: tuple[float, float], labels: list[str], finding: Make
) -> None:
    drawn = tuple(Step(h=10**e, mismatch=0.5, error_bar=0.5) for e in exponents)

    root = ET.fromstring(error_against_step(finding(steps=drawn, tolerance=0.5), key="p"))

    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert texts[: texts.index("step h")] == labels


def test_the_picture_is_small(wrong: Finding) -> None:
    assert len(error_against_step(wrong, key="p")) < 10_000


def test_the_readers_settings_change_nothing(wrong: Finding) -> None:
    import matplotlib

    shipped = error_against_step(wrong, key="p")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.grid": True}):
        assert error_against_step(wrong, key="p") == shipped


def test_drawing_leaves_matplotlib_as_it_was(wrong: Finding) -> None:
    import matplotlib

    def settings() -> dict[str, object]:  # asking for the backend would choose one
        shared: Any = matplotlib.rcParams
        return dict(dict.items(shared))

    before = settings()
    error_against_step(wrong, key="p")

    assert settings() == before


def test_pyplot_is_never_imported_and_matplotlib_only_to_draw() -> None:
    program = """
import sys
from gradcheck.reports import html, plots
from gradcheck.results import Finding, Step, Verdict
assert "matplotlib" not in sys.modules
finding = Finding(check="vjp", leaf="w", verdict=Verdict.FAIL, mismatch=1, resolution=0,
                  tolerance=0, oracle="", message="", steps=(Step(h=1, mismatch=1, error_bar=1),))
plots.error_against_step(finding, key="p")
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""

    subprocess.run([sys.executable, "-c", program], check=True)
