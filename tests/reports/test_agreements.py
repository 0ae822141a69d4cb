"""Who agrees with whom, as rows and columns."""

import math

import pytest

from gradcheck.reports.agreements import agrees, margin, table
from gradcheck.results import Agreement, SuiteRecord


def agreement(layer: str, one: str, other: str, worst: float = 1e-15) -> Agreement:
    return Agreement(layer=layer, pair=(one, other), compared=10, worst=worst, tolerance=1e-11)


def suite(*agreements: Agreement) -> SuiteRecord:
    return SuiteRecord(name="s", examples=1, elapsed_s=0, agreements=agreements, failures=())


def test_layers_are_rows_and_pairs_columns() -> None:
    dense = agreement("Dense", "reference", "torch")
    conv = agreement("Conv", "reference", "jax")

    shown = table(suite(dense, conv))

    assert shown.pairs == (("reference", "torch"), ("reference", "jax"))
    assert shown.rows == (("Dense", ((dense,), ())), ("Conv", ((), (conv,))))


def test_the_order_in_a_pair_does_not_matter() -> None:
    one, other = agreement("Dense", "torch", "jax"), agreement("Conv", "jax", "torch")

    shown = table(suite(one, other))

    assert shown.pairs == (("torch", "jax"),)
    assert shown.rows == (("Dense", ((one,),)), ("Conv", ((other,),)))


def test_an_empty_suite_has_an_empty_table() -> None:
    assert table(suite()).rows == ()


@pytest.mark.parametrize(
    ("worst", "said"),
    [
        (0.0, "equal to the last bit"),
        (1e-11, "1.0× under"),
        (2.3e-12, "4.3× under"),
        (2.3e-15, "4,300× under"),
        (2.3e-19, "4.3e+07× under"),
        (1.2e-11, "1.2× over"),
        (0.5, "5.0e+10× over"),
        (math.inf, "inf× over"),
        (math.nan, "not a number"),
    ],
)
def test_the_margin_is_a_factor_in_words(worst: float, said: str) -> None:
    assert margin(agreement("Dense", "torch", "jax", worst)) == said


def test_any_difference_is_over_a_tolerance_of_zero() -> None:
    strict = Agreement(layer="Copy", pair=("a", "b"), compared=1, worst=1e-16, tolerance=0)

    assert margin(strict) == "inf× over"


@pytest.mark.parametrize(
    ("worst", "answer"), [(1e-11, True), (1.1e-11, False), (math.nan, False), (0.0, True)]
)
def test_within_the_tolerance_is_agreement(worst: float, answer: bool) -> None:
    assert agrees(agreement("Dense", "torch", "jax", worst)) is answer
