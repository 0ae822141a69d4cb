"""Pictures of the evidence, as SVG that takes its colours from the page around it.

Matplotlib is imported when the first picture is drawn, and pyplot, with its global state, never.
Only our own words reach Matplotlib, whose text is markup; a user's words go into the title and
the description, where they are escaped.
"""

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gradcheck.results import Finding, Step
from gradcheck.text import plain, question, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["error_against_step", "explain"]

SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"

# Colours that no theme uses stand for those of the page's style sheet.
INK, SOFT, MISMATCH = "#010101", "#020202", "#030303"
COLOURS = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    MISMATCH: "var(--fail)",
}

SIZE = (5.2, 3.0)  # inches; drawn at its own size on a telephone, a third larger on a desk
# Where the axes lie in the picture: labels to the left and below, two rows of legend above.
ROOM = {"left": 0.14, "right": 0.98, "bottom": 0.17, "top": 0.8}
FONT = 9.5  # points; one step below the text
TICKS = 6  # labelled powers of ten per axis; more than this touch each other in SIZE
MARGIN = 3.0  # the axes reach this factor beyond the outermost point

# Everything that would make two drawings of one record differ is fixed.
RC = {
    "svg.fonttype": "none",  # text stays text: searchable, spoken, in the page's font
    "svg.hashsalt": "gradcheck",
    "font.size": FONT,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def error_against_step(finding: Finding, *, key: str) -> str:
    """Return the mismatch and the oracle's error bar of every step, both axes logarithmic.

    The shaded region lies below the error bar, where nothing can be seen. A mismatch that stays
    above it while it falls is a wrong gradient; one that falls with it is truncation. Zeros lie
    on the lower edge, infinities and NaN on the upper one, each with a marker of its own.

    Args:
        key: unique in the page; the ids inside the picture begin with it.

    Returns:
        One <svg> element, or "" when no step can be drawn.
    """
    steps = _drawable(finding.steps)
    if not steps:
        return ""
    where = f" at {finding.leaf}" if finding.leaf else ""
    title = f"{question(finding)}{where}: error against step"
    svg = _draw(lambda axes: _curves(axes, steps, finding.tolerance))
    return _for_page(svg, key=key, title=plain(title), description=explain(finding))


def explain(finding: Finding) -> str:
    """Return in one or two sentences what the picture shows."""
    steps = _drawable(finding.steps)
    if not steps:
        return "No step can be drawn."
    sharpest = min(steps, key=lambda step: (math.isnan(step.error_bar), step.error_bar))
    first, last = steps[0].h, steps[-1].h
    span = f"from {scientific(first)} to {scientific(last)}" if first < last else scientific(first)
    return (
        f"Steps {span}. The oracle is sharpest at h = {scientific(sharpest.h)}, where its error "
        f"bar is {scientific(sharpest.error_bar)} and the mismatch {scientific(sharpest.mismatch)}."
    )


def _drawable(steps: Sequence[Step]) -> list[Step]:
    """Return the steps that have a place on a logarithmic axis, the smallest first."""
    return sorted((step for step in steps if _has_place(step.h)), key=lambda step: step.h)


def _has_place(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _draw(paint: Callable[["Axes"], None]) -> str:
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = io.StringIO()
    # Not the user's settings but the shipped ones: a record looks the same on every machine.
    with matplotlib.style.context(["default", RC]):
        figure = Figure(figsize=SIZE)
        FigureCanvasSVG(figure)
        paint(figure.subplots(gridspec_kw=ROOM))
        figure.legend(loc="upper left", ncols=3, frameon=False, handlelength=1.6)
        figure.savefig(
            text,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return text.getvalue()


def _curves(axes: "Axes", steps: Sequence[Step], tolerance: float) -> None:
    h = [step.h for step in steps]
    heights = [value for step in steps for value in (step.mismatch, step.error_bar)]
    low, high = _limits([*heights, tolerance])
    _logarithmic(axes, _limits(h), (low, high))
    axes.set_xlabel("step h")
    axes.set_ylabel("relative error")

    # A gap in the line is a mismatch without a place; a marker on the edge stands for it.
    line = [step.mismatch if _has_place(step.mismatch) else math.nan for step in steps]
    style: dict[str, Any] = {"color": MISMATCH, "markersize": 4.5, "zorder": 3, "clip_on": False}
    axes.plot(h, line, linewidth=1.4, marker="o", label="mismatch", **style)
    bars = [_placed(step.error_bar, low, high) for step in steps]
    axes.plot(h, bars, color=SOFT, linewidth=1, linestyle=(0, (4, 2)), label="error bar")
    axes.fill_between(h, bars, low, color=SOFT, alpha=0.18, linewidth=0)
    if low < tolerance < high:
        axes.axhline(tolerance, color=INK, linewidth=0.8, linestyle=":", label="tolerance")
    for marker, label, belongs in MARKERS:
        chosen = [step for step in steps if belongs(step.mismatch)]
        if chosen:
            places = [_placed(step.mismatch, low, high) for step in chosen]
            x = [step.h for step in chosen]
            axes.plot(x, places, linestyle="", marker=marker, label=label, **style)


# Shape, not only place, says that a number has no place on a logarithmic axis.
MARKERS: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    ("v", "exactly zero", lambda value: value == 0),
    ("^", "infinite", math.isinf),
    ("X", "not a number", math.isnan),
)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return limits around the positive finite `values`, or a decade around 1 without any."""
    shown = [value for value in values if _has_place(value)] or [1.0]
    # The divisor keeps the lower limit a normal number, the factor the upper one finite.
    return max(min(shown) / MARGIN, 1e-300), min(max(shown) * MARGIN, 1e300)


def _placed(value: float, low: float, high: float) -> float:
    """Return where `value` lies on an axis from `low` to `high`; NaN like infinity on top."""
    return high if math.isnan(value) else min(max(value, low), high)


def _logarithmic(axes: "Axes", x: tuple[float, float], y: tuple[float, float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(xscale="log", yscale="log", xlim=x, ylim=y)
    for axis, limits in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_major_locator(FixedLocator(_ticks(limits)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        axis.set_minor_locator(NullLocator())


def _ticks(limits: tuple[float, float]) -> list[float]:
    """Return at most TICKS powers of ten inside `limits`, evenly spaced in the exponent; where
    there are fewer than two, the numbers that begin with 1, 2 or 5."""
    low, high = limits
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    if last <= first:
        near = (m * 10.0**e for e in range(first - 1, last + 2) for m in (1, 2, 5))
        return [tick for tick in near if low <= tick <= high]
    stride = math.ceil((last - first + 1) / TICKS)
    return [10.0**exponent for exponent in range(first, last + 1, stride)]


def _for_page(svg: str, *, key: str, title: str, description: str) -> str:
    """Return `svg` as part of a page: lean, themed, named for who cannot see it."""
    ET.register_namespace("", SVG)
    root = ET.fromstring(svg)
    _drop_invisible(root)
    _rename_ids(root, key)
    for element in root.iter():
        _restyle(element)
        _shorten(element)
    for position, (tag, said) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{key}-{tag}"})
        element.text = said
        root.insert(position, element)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{key}-title {key}-desc")
    return ET.tostring(root, encoding="unicode")


def _drop_invisible(root: ET.Element) -> None:
    """Drop the empty backgrounds, and the style sheet, which would restyle the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            sheet = child.find(f"{{{SVG}}}style") is not None
            if sheet or child.tag.endswith("metadata") or child.get("style") == "fill: none":
                parent.remove(child)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.endswith("}g") and not len(child)]:
            parent.remove(child)


def _rename_ids(root: ET.Element, key: str) -> None:
    """Keep only the ids that something refers to, and make them unique in the page."""
    text = ET.tostring(root, encoding="unicode")
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name is not None and f"#{name}" in text:
            element.set("id", f"{key}-{name}")
        if target := element.attrib.pop(XLINK, None):
            element.set("href", f"#{key}-{target.removeprefix('#')}")
        if clip := element.attrib.get("clip-path"):
            element.set("clip-path", clip.replace("url(#", f"url(#{key}-"))


def _restyle(element: ET.Element) -> None:
    """Give the colours to the page, and the fonts: Matplotlib's are not those of the page."""
    style = element.attrib.get("style", "")
    declared = dict(part.strip().split(": ", 1) for part in style.split(";") if part.strip())
    # Newer versions write the size alone, older ones "font: 9.5px 'DejaVu Sans'".
    declared.setdefault("font-size", declared.pop("font", "").split(" ", 1)[0])
    declared.pop("font-family", None)
    kept = {name: COLOURS.get(value, value) for name, value in declared.items() if value}
    if kept:
        element.set("style", ";".join(f"{name}:{value}" for name, value in kept.items()))


def _shorten(element: ET.Element) -> None:
    """Round coordinates to a tenth of a point, which nobody sees, and drop blank space."""
    for name in ("d", "x", "y", "transform"):
        if value := element.attrib.get(name):
            rounded = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}", value)
            element.set(name, " ".join(rounded.split()))
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    if not (element.text or "").strip():
        element.text = None
    element.tail = None
