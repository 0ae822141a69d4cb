"""The page: what it says, that it stays text, and that a real browser agrees."""

import html.parser
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gradcheck.errors import InputError
from gradcheck.records import decode, encode
from gradcheck.reports.html import PASSING_FINDINGS, PLOTS, page, result_fragment, write
from gradcheck.results import (
    Agreement,
    CheckResult,
    Entry,
    Finding,
    Report,
    SuiteRecord,
    Verdict,
)

VOID = {"br", "hr", "img", "input", "link", "meta"}
COLUMNS = ["check", "leaf", "verdict", "mismatch", "resolution", "tolerance", "oracle", "diagnosis"]
HOSTILE = "<script>alert(1)</script>\"'&amp;</pre><!--"


class Element:
    """One element of a parsed page."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: "Element | None") -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element | str] = []

    def all(self, tag: str, **attributes: str) -> "list[Element]":
        """Return the elements inside with `tag` and all of `attributes`; class is `of`."""
        wanted = {{"of": "class"}.get(k, k).replace("_", "-"): v for k, v in attributes.items()}
        inside = [child for child in self.children if isinstance(child, Element)]
        found = []
        for child in inside:
            same = all(child.attributes.get(name) == value for name, value in wanted.items())
            found += [child] if child.tag == tag and same else []
            found += child.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return "".join(parts)

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


class Reader(html.parser.HTMLParser):
    """A tree of the page, which must close every element that it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.root = self.open = Element("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.children.append(element)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.children.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.tag, f"</{tag}> closes <{self.open.tag}>"
        assert self.open.parent is not None
        self.open = self.open.parent

    def handle_data(self, data: str) -> None:
        self.open.children.append(data)


def parse(text: str) -> Element:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open is reader.root, f"<{reader.open.tag}> stays open"
    return reader.root


def rows(table: Element) -> list[list[str]]:
    return [
        [cell.words for cell in row.children if isinstance(cell, Element)]
        for row in table.all("tr")
    ]


def data(text: str) -> Report:
    (script,) = parse(text).all("script", id="gradcheck-report")
    return decode(script.text, Report)


# What the page says


def test_the_verdict_is_a_symbol_and_a_word(full: Report) -> None:
    (heading,) = parse(page(full)).all("h1")

    assert heading.words == "! Error nightly"


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict.PASS, "✓ Pass nightly"),
        (Verdict.INCONCLUSIVE, "? Inconclusive nightly"),
        (Verdict.FAIL, "✗ Fail nightly"),
        (Verdict.ERROR, "! Error nightly"),
    ],
)
def test_each_verdict_has_its_own_symbol(
    verdict: Verdict,
    said: str,
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
) -> None:
    shown = parse(page(report(results=(result(finding(verdict=verdict)),))))

    assert shown.all("h1")[0].words == said
    assert shown.all("title")[0].words == f"{said[0]} nightly · gradcheck"


def test_an_empty_report_does_not_read_like_a_pass(report: Callable[..., Report]) -> None:
    shown = parse(page(report()))

    assert shown.all("h1")[0].words == "– Nothing checked nightly"
    assert shown.all("title")[0].words == "– nightly · gradcheck"
    assert not shown.all("form")


def test_the_headline_says_what_happened_and_where_to_go(full: Report) -> None:
    (header,) = parse(page(full)).all("header")

    assert [paragraph.words for paragraph in header.all("p")[1:]] == [
        "1 check failed, 1 check raised an error, 1 check could not decide. 3 things not checked."
    ]
    assert [link.attributes["href"] for link in header.all("a")] == [
        "#not-checked",
        "#check-flash",
        "#check-lstm",
        "#check-softplus",
    ]


def test_the_counts_are_summed(full: Report) -> None:
    (counts,) = parse(page(full)).all("dl", of="counts")

    assert [line.words for line in counts.all("div")] == [
        "suites 2",
        "examples 1,200",
        "leaves compared 1,211",
        "single checks 3",
        "failures 1",
        "errors 1",
        "inconclusive 1",
        "not checked 3",
    ]


def test_a_run_without_suites_counts_none(
    wrong: Finding, result: Callable[..., CheckResult], report: Callable[..., Report]
) -> None:
    (counts,) = parse(page(report(results=(result(wrong),)))).all("dl", of="counts")

    assert [line.words for line in counts.all("div")] == [
        "single checks 1",
        "failures 1",
        "inconclusive 0",
        "not checked 0",
    ]


def test_who_agrees_with_whom_is_a_table_per_suite(full: Report) -> None:
    static, recurrent = parse(page(full)).all("table", of="agreement")

    assert static.all("caption")[0].words == "✓ Pass static 1,000 examples, 10.2 s"
    assert rows(static) == [
        ["layer", "reference and torch"],
        ["Dense", "✓ 2.0e-155,000× under 1e-11 · n = 1,204"],
    ]
    assert recurrent.all("caption")[0].words == "✗ Fail recurrent 200 examples, 2.1 s"
    assert rows(recurrent) == [
        ["layer", "reference and jax"],
        ["LSTM", "✗ 5.0e-015.0e+10× over 1e-11 · n = 7"],
    ]


def test_a_pair_that_compared_nothing_does_not_agree(report: Callable[..., Report]) -> None:
    none = Agreement(layer="Dense", pair=("torch", "jax"), compared=0, worst=0.0, tolerance=1e-9)
    some = Agreement(layer="Conv", pair=("a", "b"), compared=1, worst=0.0, tolerance=1e-9)
    suite = SuiteRecord(name="s", examples=1, elapsed_s=1, agreements=(none, some), failures=())

    (table,) = parse(page(report(suites=(suite,)))).all("table", of="agreement")

    assert rows(table)[1] == ["Dense", "nothing compared", "–"]
    assert rows(table)[2] == ["Conv", "–", "✓ 0equal to the last bit · n = 1"]


def test_a_failure_is_open_and_tells_everything(full: Report) -> None:
    (card,) = parse(page(full)).all("article", id="check-lstm")

    assert "open" in card.all("details")[0].attributes
    assert card.all("summary")[0].words == "✗ Fail LSTM in recurrent #"
    assert card.all("p", of="facts")[0].words == (
        "Odd one out: jax seed 7 84 forward runs, 9 VJPs 0.2 s"
    )
    assert card.all("pre")[0].text == "LSTM(inputs=2, hidden=1)"
    assert card.all("div", of="replay")[0].all("code")[0].text == "gradcheck replay --seed 7"
    assert rows(card.all("table", of="findings")[0]) == [
        COLUMNS,
        [
            "vjp",
            "params.weight",
            "✗ Fail",
            "5.0e-01",
            "2e-12",
            "1e-05",
            "finite differences, float64",
            "constant factor 0.5",
        ],
        ["Is the product rule applied to both factors?"],
        [
            "vjp",
            "input[0]",
            "✓ Pass",
            "3.1e-13",
            "2e-12",
            "1e-05",
            "finite differences, float64",
            "–",
        ],
    ]
    assert rows(card.all("table", of="entries")[0]) == [
        ["entry", "got", "wanted", "got / wanted"],
        ["[2, 1]", "0.30", "0.60 ± 2e-12", "0.500"],
    ]
    assert len(card.all("svg")) == 1
    assert "Not checked here: second_order: no rule" in card.words


def test_an_error_shows_no_numbers(full: Report) -> None:
    (card,) = parse(page(full)).all("article", id="check-flash")

    assert rows(card.all("table")[0])[1][2:6] == ["! Error", "–", "–", "–"]
    assert rows(card.all("table")[0])[2] == ["RuntimeError: no"]


def test_nan_and_infinity_are_written_out(
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
) -> None:
    odd = finding(
        verdict=Verdict.FAIL,
        mismatch=math.nan,
        resolution=math.inf,
        entries=(Entry(index=(), got=math.nan, wanted=-math.inf, error_bar=math.nan),),
    )

    (card,) = parse(page(report(results=(result(odd),)))).all("article")

    assert rows(card.all("table", of="findings")[0])[1][3:5] == ["nan", "inf"]
    assert rows(card.all("table", of="entries")[0])[1] == ["[]", "nan", "-inf ± nan", "–"]


def test_the_order_is_from_bad_to_good(full: Report) -> None:
    shown = parse(page(full))

    assert [heading.words for heading in shown.all("h2")] == [
        "Summary",
        "Who agrees with whom",
        "Failed 2",
        "Inconclusive 1",
        "Passed 1",
        "Not checked",
        "How it was run",
    ]
    assert [card.attributes["id"] for card in shown.all("article")] == [
        "check-flash",
        "check-lstm",
        "check-softplus",
    ]


def test_what_passed_is_folded_but_there(full: Report) -> None:
    (folded,) = parse(page(full)).all("details", of="passing")

    assert "open" not in folded.attributes
    assert folded.all("summary")[0].words == "1 passing check"
    assert [body.attributes["id"] for body in folded.all("tbody")] == ["check-dense-of-test-dense"]
    assert rows(folded.all("table")[0])[1:] == [
        ["Dense of test_dense Dense(inputs=3, outputs=2)"],
        ["vjp", "params.weight", "3.1e-13", "2e-12", "1e-05", "finite differences, float64"],
    ]


def test_a_remark_on_a_pass_is_shown(
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
) -> None:
    noted = finding(diagnosis="kink", message="between both slopes.")

    shown = parse(page(report(results=(result(noted),))))

    assert [row.words for row in shown.all("tr", of="message")] == ["kink: between both slopes."]


def test_what_compared_nothing_is_not_among_what_passed(
    result: Callable[..., CheckResult], report: Callable[..., Report]
) -> None:
    shown = parse(page(report(results=(result(),))))

    (card,) = shown.all("article")
    assert card.attributes["data-status"] == "inconclusive"
    assert "Nothing was compared." in card.words
    assert not shown.all("table", of="passing")


def test_a_reason_is_given_once_with_its_sources(
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
) -> None:
    checks = tuple(result(finding(), name=f"n{i}", not_checked=("no rule",)) for i in range(5))

    (reasons,) = parse(page(report(results=checks, not_checked=("complex",)))).all(
        "ul", of="reasons"
    )

    assert [item.words for item in reasons.all("li")] == [
        "complex",
        "no rule n0, n1, n2 and 2 more",
    ]


def test_the_run_can_be_repeated_from_the_page(full: Report) -> None:
    run = parse(page(full)).all("section", aria_labelledby="run")[0]

    assert run.all("code")[0].text == "gradcheck run static"
    assert [line.words for line in run.all("dl")[0].all("div")] == [
        "seed 7",
        "created 2026-03-02T09:14:05Z",
        "took 12.2 s",
        "numpy 2.3.1",
        "torch 2.13.0+cpu",
    ]


def test_a_long_run_is_told_in_minutes(report: Callable[..., Report]) -> None:
    run = parse(page(report(elapsed_s=90.0))).all("section", aria_labelledby="run")[0]

    assert "took 1.5 min" in run.words


def test_an_environment_of_its_own_is_shown(
    wrong: Finding, result: Callable[..., CheckResult], report: Callable[..., Report]
) -> None:
    same, other = result(wrong), result(wrong, name="b", environment=(("numpy", "1.26"),))

    shown = parse(page(report(results=(same, other))))

    assert [box.words for box in shown.all("details", of="environment")] == [
        "Its own environment numpy 1.26"
    ]


def test_checks_of_one_name_have_ids_of_their_own(
    wrong: Finding, result: Callable[..., CheckResult], report: Callable[..., Report]
) -> None:
    shown = parse(page(report(results=(result(wrong), result(wrong), result(wrong, name="梯度")))))

    assert [card.attributes["id"] for card in shown.all("article")] == [
        "check-dense",
        "check-dense--2",
        "check",
    ]


def test_every_id_is_unique_and_every_link_has_its_target(full: Report) -> None:
    text = page(full)
    ids = re.findall(r'\bid="([^"]*)"', text)

    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_tables_name_their_rows_and_columns(full: Report) -> None:
    tables = parse(page(full)).all("table")

    assert tables
    for table in tables:
        assert len(table.all("caption")) == 1
        assert all(cell.attributes.get("scope") for cell in table.all("th"))
        assert table.all("th", scope="col")


# That it stays text


def hostile_report(
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
    verdict: Verdict,
    text: str = HOSTILE,
) -> Report:
    bad = finding(
        check=text,
        leaf=text,
        verdict=verdict,
        oracle=text,
        message=text,
        diagnosis=text,
        entries=(Entry(index=(0,), got=1.0, wanted=2.0, error_bar=0.1),),
    )
    check = result(
        bad,
        name=text,
        target=text,
        replay=text,
        odd_one_out=text,
        not_checked=(text,),
        environment=((text, text),),
    )
    pair = Agreement(layer=text, pair=(text, "b"), compared=1, worst=0.1, tolerance=1.0)
    return report(
        title=text,
        command=text,
        created=text,
        environment=((text, text),),
        suites=(
            SuiteRecord(name=text, examples=1, elapsed_s=1, agreements=(pair,), failures=(check,)),
        ),
        results=(check,),
        not_checked=(text,),
    )


@pytest.mark.parametrize("verdict", list(Verdict))
def test_hostile_text_stays_text(
    verdict: Verdict,
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
) -> None:
    written = hostile_report(finding, result, report, verdict)

    shown = parse(page(written))

    assert len(shown.all("script")) == 2  # the page's own, and the data
    assert shown.all("h1")[0].words.endswith(HOSTILE)
    assert data(page(written)).title == HOSTILE
    fragment = parse(result_fragment(written.results[0]))
    assert not fragment.all("script")
    assert HOSTILE in fragment.text


def test_the_data_in_the_page_cannot_close_its_element(report: Callable[..., Report]) -> None:
    text = page(report(title="</script><!--<script>]]>&lt;"))
    inside = text.partition('id="gradcheck-report">')[2].partition("</script>")[0]

    assert not set("<>&") & set(inside)
    assert data(text).title == "</script><!--<script>]]>&lt;"


def test_what_cannot_be_seen_is_spelled_out(report: Callable[..., Report], tmp_path: Path) -> None:
    write(report(title="a\x00\x1b\u202e\ud800z γ"), tmp_path / "run.html")

    text = (tmp_path / "run.html").read_text("utf-8")

    assert parse(text).all("h1")[0].words.endswith(r"a\x00\x1b\u202e\ud800z γ")
    assert data(text).title == "a\x00\x1b\u202e\ud800z γ"


def test_the_lines_of_a_network_are_kept(
    wrong: Finding, result: Callable[..., CheckResult], report: Callable[..., Report]
) -> None:
    network = "Sequential(\n    Dense(),\n\tReLU(),\n)"

    (code,) = parse(page(report(results=(result(wrong, target=network),)))).all("pre")

    assert code.text == "Sequential(\n    Dense(),\n    ReLU(),\n)"


# That it is one file, the same each time, and small


def test_the_page_loads_nothing(full: Report) -> None:
    text = page(full)
    outside = [url for url in re.findall(r"""(?:src|href)=["']([^"']*)""", text) if url[0] != "#"]

    assert outside == ["data:,"]  # the icon, so that nobody asks a server for one
    assert "url(http" not in text
    assert "@import" not in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_the_same_record_gives_the_same_bytes(full: Report) -> None:
    assert page(full) == page(full)
    assert page(decode(encode(full), Report)) == page(full)


def test_the_data_in_the_page_is_the_record(full: Report) -> None:
    assert encode(data(page(full))) == encode(full)


def thousand_checks(
    wrong: Finding,
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
) -> Report:
    noisy = finding(verdict=Verdict.INCONCLUSIVE, mismatch=1 / 90, resolution=0.04)
    leaves = ("params.encoder.weight", "params.encoder.bias", "input[0]", "input[1]")
    fine = tuple(
        finding(leaf=leaf, mismatch=1 / (3e12 + i), resolution=1 / 7e11, steps=wrong.steps)
        for i, leaf in enumerate(leaves)
    )

    def check(i: int) -> CheckResult:
        found = (wrong, *fine) if i % 33 == 0 else (noisy, *fine) if i % 33 == 1 else fine
        name = f"tests/test_layers.py::test_gradients[encoder-{i}-float64]"
        replay = f"gradcheck check tests.layers:encoder_{i} --input 'float64[2,3]' --seed {i}"
        return result(*found, name=name, target=f"Encoder(width={i}, heads=4)", replay=replay)

    return report(results=tuple(check(i) for i in range(1000)))


def test_a_thousand_checks_stay_under_a_megabyte(
    wrong: Finding,
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
) -> None:
    big = thousand_checks(wrong, finding, result, report)

    text = page(big)

    assert len(text.encode()) <= 1_000_000
    assert len(parse(text).all("svg")) == PLOTS
    assert text.count(f"No picture: a page draws {PLOTS}.") == 31 - PLOTS
    assert "schema 1, without the checks that passed." in parse(text).all("footer")[0].words
    assert data(text).verdict is big.verdict
    assert data(text).results == tuple(check for check in big.results if not check.passed)


def test_a_large_page_says_what_it_leaves_out(
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
) -> None:
    better, worse = finding(leaf="a", mismatch=1e-14), finding(leaf="b", mismatch=1e-12)
    big = report(results=(result(better, worse),) * (PASSING_FINDINGS // 2 + 1))

    text = page(big)

    (table,) = parse(text).all("table", of="passing")
    assert table.all("caption")[0].words == (
        f"The worst finding of each check; {PASSING_FINDINGS // 2 + 1} better ones left out"
    )
    assert {row[1] for row in rows(table)[1:] if len(row) > 1} == {"b"}


def test_the_page_is_written_whole(full: Report, tmp_path: Path) -> None:
    write(full, tmp_path / "run.html")

    assert [file.name for file in tmp_path.iterdir()] == ["run.html"]
    assert (tmp_path / "run.html").read_text("utf-8") == page(full)


def test_a_missing_folder_is_refused(full: Report, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected an existing folder to write run\.html in"):
        write(full, tmp_path / "nowhere" / "run.html")


# Colours


def themes() -> list[dict[str, str]]:
    """Return the colours of the light and of the dark theme, by name."""
    source = Path(__file__, "../../../reports/templates/page.css").resolve().read_text("utf-8")
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", source)
    return [{name: pair[i] for name, *pair in pairs} for i in (0, 1)]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2.2 defines it, between 1 and 21."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "panel"])
@pytest.mark.parametrize("ink", ["ink", "soft", *(verdict.value for verdict in Verdict)])
def test_text_can_be_read_in_both_themes(theme: int, ground: str, ink: str) -> None:
    colours = themes()[theme]

    assert contrast(colours[ink], colours[ground]) >= 4.5


# The fragment for notebooks


def test_the_fragment_tells_a_failure(
    wrong: Finding, finding: Callable[..., Finding], result: Callable[..., CheckResult]
) -> None:
    failed = result(
        finding(leaf="input[0]"), wrong, replay="gradcheck replay", not_checked=("jvp: no rule",)
    )

    shown = parse(failed._repr_html_())

    assert rows(shown.all("table")[0]) == [
        [column for column in COLUMNS if column != "tolerance"],
        [
            "vjp",
            "params.weight",
            "✗ fail",
            "5.0e-01",
            "2e-12",
            "finite differences, float64",
            "constant factor 0.5",
        ],
        [
            "Is the product rule applied to both factors? "
            "[2, 1] got 0.30, wanted 0.60 ± 2e-12, ratio 0.500"
        ],
        ["vjp", "input[0]", "✓ pass", "3.1e-13", "2e-12", "finite differences, float64", "–"],
    ]
    assert shown.words.startswith("✗ Fail Dense · 2 findings, resolution 2e-12, 0.2 s")
    assert shown.words.endswith("again: gradcheck replay not checked: jvp: no rule")


def test_the_fragment_of_nothing_does_not_read_like_a_pass(
    result: Callable[..., CheckResult],
) -> None:
    assert parse(result_fragment(result())).words == "– Nothing checked Dense"


def test_the_fragment_changes_nothing_around_it(
    wrong: Finding, result: Callable[..., CheckResult]
) -> None:
    fragment = result_fragment(result(wrong))

    assert not re.search(r"<style|<script|<svg|\bid=|\bclass=", fragment)
    assert len(fragment) < 5000


def test_a_long_fragment_is_cut_and_says_so(
    wrong: Finding, result: Callable[..., CheckResult]
) -> None:
    assert "and 12 more" in parse(result_fragment(result(*[wrong] * 20))).words


# A real browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")

# No network, no first run, and a profile that nobody else has touched.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
)


def browse(file: Path, *flags: str, anchor: str = "") -> tuple[str, list[str]]:
    """Return the document after its scripts have run, and what the console said."""
    profile = file.with_suffix(".profile")
    url = file.as_uri() + anchor
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def operate(text: str, script: str) -> str:
    """Return the page with a hand that runs `script`; the page's policy is lifted for it."""
    policy = re.compile(r"<meta http-equiv=[^>]*>")
    assert policy.search(text)
    hand = f"<script>addEventListener('DOMContentLoaded', () => {{ {script} }});</script>"
    return policy.sub("", text).replace("</head>", f"{hand}</head>")


@browser
def test_a_browser_runs_the_page_without_complaint(full: Report, tmp_path: Path) -> None:
    write(full, tmp_path / "run.html")

    document, console = browse(tmp_path / "run.html")

    shown = parse(document)
    assert console == []
    assert "hidden" not in shown.all("form", id="filter")[0].attributes
    assert shown.all("output", id="shown")[0].words == "all 4 checks shown"
    assert shown.all("button", id="theme")[0].words == "Theme: system"
    assert [button.words for button in shown.all("div", of="replay")[0].all("button")] == ["Copy"]


@browser
def test_the_browser_would_have_complained(full: Report, tmp_path: Path) -> None:
    (tmp_path / "run.html").write_text(
        page(full).replace("</head>", "<script>document.title = 'owned'</script></head>"), "utf-8"
    )

    document, console = browse(tmp_path / "run.html")

    assert "owned" not in parse(document).all("title")[0].text
    assert any("Content Security Policy" in line for line in console)


@browser
def test_hostile_text_does_nothing_in_a_browser(
    finding: Callable[..., Finding],
    result: Callable[..., CheckResult],
    report: Callable[..., Report],
    tmp_path: Path,
) -> None:
    attack = "</script></title><img src=x onerror=\"document.title='owned'\"><script>1</script>"
    # Without the policy, so that escaping alone has to hold.
    text = operate(page(hostile_report(finding, result, report, Verdict.FAIL, attack)), "")
    (tmp_path / "run.html").write_text(text, "utf-8")

    document, console = browse(tmp_path / "run.html")

    assert console == []
    assert not parse(document).all("img")
    assert parse(document).all("title")[0].text == f"✗ {attack} · gradcheck"


@browser
def test_filtering_by_text_hides_the_rest_and_says_how_many(full: Report, tmp_path: Path) -> None:
    script = """
        text.value = "PRODUCT rule";
        text.dispatchEvent(new Event("input", {bubbles: true}));
    """
    (tmp_path / "run.html").write_text(operate(page(full), script), "utf-8")

    document, console = browse(tmp_path / "run.html")

    shown = parse(document)
    visible = [a.attributes["id"] for a in shown.all("article") if "hidden" not in a.attributes]
    assert console == []
    assert visible == ["check-lstm"]
    assert shown.all("output")[0].words == "1 of 4 checks shown"
    assert "hidden" in shown.all("section", aria_labelledby="passing")[0].attributes


@browser
def test_filtering_by_status_opens_what_passed(full: Report, tmp_path: Path) -> None:
    script = """
        for (const box of document.querySelectorAll("[name=status]"))
          if (box.value !== "pass") box.click();
    """
    (tmp_path / "run.html").write_text(operate(page(full), script), "utf-8")

    document, _ = browse(tmp_path / "run.html")

    shown = parse(document)
    assert all("hidden" in card.attributes for card in shown.all("article"))
    assert shown.all("output")[0].words == "1 of 4 checks shown"
    assert "open" in shown.all("details", of="passing")[0].attributes


@browser
def test_a_link_to_a_check_opens_it(full: Report, tmp_path: Path) -> None:
    write(full, tmp_path / "run.html")

    document, console = browse(tmp_path / "run.html", anchor="#check-dense-of-test-dense")

    assert console == []
    assert "open" in parse(document).all("details", of="passing")[0].attributes


@browser
def test_the_theme_button_goes_round(full: Report, tmp_path: Path) -> None:
    script = """
        const button = document.getElementById("theme");
        const seen = [];
        for (let i = 0; i < 3; i++) {
          button.click();
          const paper = getComputedStyle(document.body).backgroundColor;
          seen.push(`${button.textContent} ${document.documentElement.dataset.theme} ${paper}`);
        }
        document.title = seen.join("; ");
    """
    (tmp_path / "run.html").write_text(operate(page(full), script), "utf-8")

    document, console = browse(tmp_path / "run.html")

    assert console == []
    assert parse(document).all("title")[0].text.split("; ")[:2] == [
        "Theme: light light rgb(255, 255, 255)",
        "Theme: dark dark rgb(20, 22, 26)",
    ]
    assert parse(document).all("title")[0].text.split("; ")[2].startswith("Theme: system undefined")


@browser
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_never_wider_than_the_window(width: int, full: Report, tmp_path: Path) -> None:
    script = """
        document.querySelector("details.passing").open = true;
        document.title = `${document.documentElement.scrollWidth} ${innerWidth}`;
    """
    (tmp_path / "run.html").write_text(operate(page(full), script), "utf-8")

    # Headless windows are at least 500 wide; a frame is not.
    (tmp_path / "frame.html").write_text(
        f'<!DOCTYPE html><iframe src="run.html" width="{width}" height="900"></iframe>'
        "<script>onload = () => { document.title = frames[0].document.title; };</script>",
        "utf-8",
    )
    document, _ = browse(
        tmp_path / "frame.html", "--allow-file-access-from-files", "--window-size=1400,1000"
    )

    content, window = map(int, parse(document).all("title")[0].text.split())
    assert window == width
    assert content <= window
