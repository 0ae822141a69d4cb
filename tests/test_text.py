"""What a person reads in a terminal, line by line."""

import math

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck.results import (
    Agreement,
    CheckResult,
    Entry,
    Evaluations,
    Finding,
    Report,
    SuiteRecord,
    Verdict,
)
from gradcheck.text import (
    counted,
    describe,
    distinct,
    largest,
    plain,
    ratio,
    scientific,
    summarize,
    worst_first,
)


def finding(**changes: object) -> Finding:
    passing = {
        "check": "vjp",
        "leaf": "params.weight",
        "verdict": Verdict.PASS,
        "mismatch": 3.14e-13,
        "resolution": 2e-12,
        "tolerance": 1e-5,
        "oracle": "finite differences, float64",
        "message": "",
    }
    return Finding(**(passing | changes))  # type: ignore[arg-type]


def wrong(**changes: object) -> Finding:
    half = {
        "verdict": Verdict.FAIL,
        "mismatch": 0.5,
        "diagnosis": "constant factor 0.5",
        "message": "a factor of two is lost.",
        "entries": (Entry(index=(2, 1), got=0.3, wanted=0.6, error_bar=2e-12),),
    }
    return finding(**(half | changes))


def result(*findings: Finding, **changes: object) -> CheckResult:
    plainly = {
        "name": "Dense",
        "target": "Dense(inputs=3, outputs=2)",
        "seed": 7,
        "findings": findings,
        "environment": (),
        "evaluations": Evaluations(forward=84, vjp=9),
        "elapsed_s": 0.25,
        "replay": "gradcheck replay --seed 7",
    }
    return CheckResult(**(plainly | changes))  # type: ignore[arg-type]


def report(**changes: object) -> Report:
    empty = {
        "title": "nightly",
        "command": "gradcheck run static recurrent",
        "created": "2026-03-02T09:14:05Z",
        "seed": 7,
        "elapsed_s": 12.34,
        "environment": (),
    }
    return Report(**(empty | changes))  # type: ignore[arg-type]


def test_a_failure_says_what_where_how_sure_why_and_how_to_run_it_again() -> None:
    said = describe(
        result(
            finding(leaf="input[0]"),
            wrong(),
            odd_one_out="jax",
            not_checked=("second_order: the target has no rule for it",),
        )
    )

    assert said.splitlines() == [
        "FAIL  gradient of Dense at params.weight   off by 5.0e-01, resolution 2e-12 "
        "(finite differences, float64)",
        "      [2, 1]  got 0.30  wanted 0.60 ± 2e-12   ratio 0.500",
        "      looks like: constant factor 0.5 — a factor of two is lost.",
        "      passed: 1 finding, resolution 2e-12",
        "      target: Dense(inputs=3, outputs=2)",
        "      odd one out: jax disagrees with all others",
        "      again: gradcheck replay --seed 7",
        "      not checked: second_order: the target has no rule for it",
    ]


def test_a_pass_says_what_it_would_have_seen() -> None:
    said = describe(result(finding(), finding(leaf="input[0]", mismatch=4e-14, resolution=3e-12)))

    assert said.splitlines() == [
        "PASS  Dense   2 findings, largest mismatch 3.1e-13, resolution 3e-12 "
        "(finite differences, float64)",
        "      target: Dense(inputs=3, outputs=2)",
    ]


def test_a_pass_with_a_remark_keeps_it() -> None:
    noted = finding(leaf="input[0]", diagnosis="kink", message="between both slopes.")

    assert describe(result(noted)).splitlines()[1] == "      note: input[0]: between both slopes."


def test_an_inconclusive_check_says_what_it_could_not_see() -> None:
    noisy = finding(
        verdict=Verdict.INCONCLUSIVE,
        resolution=0.04,
        tolerance=1e-3,
        oracle="path integral, bfloat16",
        message="Run it in float32.",
    )

    assert describe(result(noisy, name="Softplus", target="Softplus")).splitlines() == [
        "INCONCLUSIVE  gradient of Softplus at params.weight   "
        "resolution 4e-02, tolerance 1e-03 (path integral, bfloat16)",
        "      Run it in float32.",
        "      again: gradcheck replay --seed 7",
    ]


def test_an_error_says_what_was_raised_and_no_numbers() -> None:
    raised = finding(
        leaf="",
        oracle="",
        verdict=Verdict.ERROR,
        mismatch=math.nan,
        resolution=math.nan,
        message="RuntimeError: expected one dtype\n  at layer.py:41",
    )

    assert describe(result(raised)).splitlines()[:2] == [
        "ERROR  gradient of Dense   nothing compared",
        "      RuntimeError: expected one dtype at layer.py:41",
    ]


def test_nothing_checked_does_not_read_like_a_pass() -> None:
    assert describe(result()).splitlines()[0] == "NOTHING CHECKED  Dense"
    assert summarize(report()).splitlines() == [
        "NOTHING CHECKED  nightly   12.3 s",
        "",
        "      seed 7   gradcheck run static recurrent",
    ]


def test_the_check_is_named_unless_it_is_the_gradient() -> None:
    said = describe(result(wrong(check="adjoint")))

    assert said.startswith("FAIL  adjoint of Dense at params.weight ")


def test_the_worst_comes_first_and_the_rest_is_named() -> None:
    said = describe(
        result(
            wrong(leaf="small", mismatch=0.1),
            finding(leaf="noisy", verdict=Verdict.INCONCLUSIVE),
            wrong(leaf="unknown", mismatch=math.nan),
            wrong(leaf="large", mismatch=0.9),
        )
    )

    heads = [line.split("   ")[0] for line in said.splitlines() if not line.startswith(" ")]
    assert heads == ["FAIL  gradient of Dense at unknown", "FAIL  gradient of Dense at large"]
    assert "      and 2 more: gradient at small, gradient at noisy" in said.splitlines()


def test_what_a_failing_target_did_beside_computing_is_said() -> None:
    wrote = finding(check="contract", leaf="params.w", message="forward writes into it")
    said = describe(result(wrong(), wrote))

    assert "      note: params.w: forward writes into it" in said.splitlines()


@pytest.mark.parametrize("words", ["word " * 500, "x" * 5000, "line\n" * 500])
def test_a_description_fits_25_lines(words: str) -> None:
    entry = Entry(index=(0, 1, 2), got=1.0, wanted=2.0, error_bar=1e-9)
    talkative = wrong(message=words, diagnosis=words, entries=(entry,) * 50)

    said = describe(
        result(
            *[talkative] * 9,
            finding(),
            target=words,
            odd_one_out=words,
            not_checked=(words,) * 30,
        )
    )

    assert len(said.splitlines()) == 25
    assert "      not checked: 28 more" in said.splitlines()


def test_the_replay_line_is_never_cut() -> None:
    replay = f"gradcheck replay --example '{'A' * 300}'"

    assert f"      again: {replay}" in describe(result(wrong(), replay=replay)).splitlines()


def test_what_steers_a_terminal_is_spelled_out() -> None:
    said = describe(result(wrong(leaf="\x1b[2J\u202e", message="bell \x07\x9b"), name="a\nb"))

    assert said.startswith("FAIL  gradient of a\\nb at \\x1b[2J\\u202e ")
    assert "bell \\x07\\x9b" in said
    assert said.replace("\n", "").isprintable()


def test_str_of_a_result_is_its_description() -> None:
    assert str(result(wrong())) == describe(result(wrong()))


def test_a_summary_is_a_table_of_suites_and_the_failures() -> None:
    agreed = Agreement(
        layer="Dense", pair=("torch", "jax"), compared=9, worst=1.23e-13, tolerance=1e-9
    )
    said = summarize(
        report(
            suites=(
                SuiteRecord(
                    name="static",
                    examples=1000,
                    elapsed_s=10.2,
                    agreements=(agreed,),
                    failures=(),
                    not_checked=("GroupNorm in jax: no twin",),
                ),
                SuiteRecord(
                    name="recurrent",
                    examples=200,
                    elapsed_s=2.1,
                    agreements=(),
                    failures=(result(wrong(), name="LSTM"),),
                ),
                SuiteRecord(name="empty", examples=0, elapsed_s=0, agreements=(), failures=()),
            ),
            results=(
                result(finding()),
                result(
                    finding(verdict=Verdict.ERROR, mismatch=math.nan, oracle=""),
                    name="Flash",
                    replay="",
                ),
            ),
            not_checked=("complex dtypes: none taken",),
        )
    )

    assert said.splitlines() == [
        "ERROR  nightly   3 suites, 1,200 examples, 2 checks, 2 failed   12.3 s",
        "",
        "      suite       verdict   examples   worst mismatch   seconds",
        "      static      pass         1,000          1.2e-13      10.2",
        "      recurrent   FAIL           200          5.0e-01       2.1",
        "      empty       pass             0                -       0.0",
        "      (checks)    ERROR            2          3.1e-13       0.5",
        "",
        "ERROR  gradient of Flash at params.weight   nothing compared",
        "",
        "FAIL  gradient of LSTM at params.weight   off by 5.0e-01, resolution 2e-12 "
        "(finite differences, float64)",
        "      again: gradcheck replay --seed 7",
        "",
        "      not checked: complex dtypes: none taken",
        "      not checked: GroupNorm in jax: no twin",
        "",
        "      seed 7   gradcheck run static recurrent",
    ]


def test_a_summary_of_suites_alone_has_no_row_for_checks() -> None:
    suite = SuiteRecord(name="static", examples=3, elapsed_s=0.2, agreements=(), failures=())

    assert summarize(report(suites=(suite,))).splitlines() == [
        "PASS  nightly   1 suite, 3 examples   12.3 s",
        "",
        "      suite    verdict   examples   worst mismatch   seconds",
        "      static   pass             3                -       0.2",
        "",
        "      seed 7   gradcheck run static recurrent",
    ]


def test_a_summary_names_ten_failures_and_counts_the_rest() -> None:
    said = summarize(report(results=(result(wrong()),) * 12))

    assert said.count("FAIL  gradient of Dense") == 10
    assert "      and 2 more" in said.splitlines()


def test_a_summary_counts_inconclusive_checks_apart() -> None:
    doubt = result(finding(verdict=Verdict.INCONCLUSIVE))

    assert summarize(report(results=(doubt,))).startswith(
        "INCONCLUSIVE  nightly   1 check, 1 inconclusive   12.3 s\n"
    )


@pytest.mark.parametrize(
    ("got", "wanted", "said"),
    [
        (0.3, 0.6, ("0.30", "0.60")),
        (1.0, 1.0000001, ("1.00000000", "1.00000010")),
        (1.0, 1.0 + 2**-52, ("1.0000000000000000", "1.0000000000000002")),
        (12.0, 34.0, ("12", "34")),
        (3e-9, 4e-9, ("3.0e-09", "4.0e-09")),
        (2.0, 2.0, ("2.0", "2.0")),
        (0.0, 0.125, ("0.0", "0.12")),
        (-0.5, 0.5, ("-0.50", "0.50")),
        (math.nan, 1.0, ("nan", "1.0")),
        (math.inf, -math.inf, ("inf", "-inf")),
        (math.nan, math.nan, ("nan", "nan")),
    ],
)
def test_two_numbers_have_the_digits_that_tell_them_apart(
    got: float, wanted: float, said: tuple[str, str]
) -> None:
    assert distinct(got, wanted) == said


@pytest.mark.parametrize(
    ("got", "wanted", "said"),
    [
        (0.3, 0.6, "0.500"),
        (-0.6, 0.6, "-1.00"),
        (0.0, 0.6, "0.00"),
        (0.99999 * 0.6, 0.6, "0.999990"),
        (1.0, 0.0, ""),
        (math.nan, 1.0, ""),
        (1.0, math.inf, ""),
    ],
)
def test_the_ratio_never_rounds_to_one_unless_it_is(got: float, wanted: float, said: str) -> None:
    assert ratio(Entry(index=(), got=got, wanted=wanted, error_bar=0.0)) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (0.5, "5.0e-01"), (2.34e-12, "2.3e-12"), (math.nan, "nan"), (math.inf, "inf")],
)
def test_a_number_has_two_digits(value: float, said: str) -> None:
    assert scientific(value) == said


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 leaves"), (1, "1 leaf"), (1200, "1,200 leaves")]
)
def test_a_count_agrees_with_its_noun(number: int, said: str) -> None:
    assert counted(number, "leaf", "leaves") == said


def test_nan_is_the_largest_mismatch() -> None:
    assert math.isnan(largest([1.0, math.nan, math.inf]))
    assert largest([1.0, math.inf]) == math.inf
    assert math.isnan(largest([]))


@pytest.mark.parametrize("order", [(3, 0, 4, 1, 2), (4, 3, 2, 1, 0)])
def test_findings_are_ranked_by_verdict_then_mismatch(order: tuple[int, ...]) -> None:
    ranked = [
        wrong(verdict=Verdict.ERROR, mismatch=0.0),
        wrong(mismatch=0.9),
        wrong(mismatch=0.1),
        finding(verdict=Verdict.INCONCLUSIVE, mismatch=5.0),
        finding(mismatch=9.0),
    ]

    assert worst_first(ranked[i] for i in order) == ranked


def test_printable_text_of_any_script_stays() -> None:
    assert plain("∂y/∂x — γ, 梯度") == "∂y/∂x — γ, 梯度"


def test_what_nothing_would_catch_is_said_in_words() -> None:
    x = torch.zeros(3, dtype=torch.float64)
    text = str(gradcheck.check(torch.relu, x, checks="vjp"))
    assert "would catch no error, however large, in a leaf, an entry" in text
    assert "inf" not in text


def test_a_gradient_of_another_shape_is_said_once_and_without_numbers() -> None:
    rule = gradcheck.Rule(lambda x: 2 * x, lambda inputs, u: (2 * u.T,))
    result = gradcheck.check(rule, np.ones((4, 3)))
    assert [f.check for f in result.findings if f.verdict is Verdict.FAIL] == ["shape"]
    assert "nan" not in str(result)
    assert "Is it transposed?" in str(result)
