"""The arithmetic under every verdict: inner products, norms, and rounding as the target does it."""

from math import inf, isnan, nan, sqrt
from typing import Any

import numpy as np
import pytest
import torch

from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.answers import Answers, answers_of
from gradcheck.problem import Leaf, extent, inner, is_same, label, norm

TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
X = np.random.default_rng(0).standard_normal((3, 4))


def _leaf(dtype: str) -> Leaf:
    return Leaf(path="x", shape=(), dtype=dtype)


INNER: list[tuple[Any, Any, float]] = [
    ([1.0, 2.0], [3.0, -4.0], -5.0),
    ([1 + 2j], [3 - 1j], 1.0),  # Re (1 - 2i)(3 - i)
    ([1j], [1.0], 0.0),
    ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]], 10.0),
    ([], [], 0.0),
    (
        np.array([4097], np.float32),
        np.array([4097], np.float32),
        4097.0**2,
    ),  # an odd number above 2²⁴
    (np.array([4097j], np.complex64), np.array([4097j], np.complex64), 4097.0**2),
]


@pytest.mark.parametrize(("a", "b", "wanted"), INNER)
def test_an_inner_product_is_real_and_summed_in_float64(a: Any, b: Any, wanted: float) -> None:
    assert inner(np.asarray(a), np.asarray(b)) == wanted


NORMS: list[tuple[Any, float]] = [
    ([3.0, 4.0], 5.0),
    ([3 + 4j], 5.0),
    (-2.0, 2.0),
    ([[1.0, 1.0], [1.0, 1.0]], 2.0),
    ([], 0.0),
    ([0.0, -0.0], 0.0),
    ([3e200, -4e200], 5e200),
    ([1e308, 1e308], sqrt(2) * 1e308),
    ([3e-200, 4e-200], 5e-200),
    ([5e-324], 5e-324),
    (np.array([3e30, 4e30], np.float32), 5e30),
    (np.array([3e30 + 4e30j], np.complex64), 5e30),
    ([1.0, -inf], inf),
]


@pytest.mark.parametrize(("a", "wanted"), NORMS)
def test_a_norm_neither_overflows_nor_underflows(a: Any, wanted: float) -> None:
    assert norm(np.asarray(a)) == pytest.approx(wanted, rel=1e-6, abs=0)


@pytest.mark.parametrize("seed", range(4))
def test_an_inner_product_of_millions_is_as_sharp_as_one_of_thousands(seed: int) -> None:
    """A sum in one go is off by 100 eps of the terms' norm: a random walk of a million steps."""
    a, b = np.random.default_rng(seed).standard_normal((2, 4_000_000))
    exact = float(np.sum(a.astype(np.longdouble) * b))
    assert abs(inner(a, b) - exact) <= 12 * 2.0**-52 * extent(a, b)


@pytest.mark.parametrize("size", [0, 1, 2**15, 2**15 + 1, 10**5])
def test_an_extent_is_the_norm_of_the_products(size: int) -> None:
    a, b = np.random.default_rng(size).standard_normal((2, size))
    assert extent(a, b) == pytest.approx(norm(a * b), rel=1e-12)
    assert extent(1j * a, b) == pytest.approx(norm(a * b), rel=1e-12)


def test_a_norm_of_nan_is_nan() -> None:
    assert isnan(norm(np.array([1.0, nan])))


def _float32s() -> Any:
    """All kinds of finite float32: any bits, ties of both formats, subnormals, the largest."""
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    ties = (bits & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    drawn = np.concatenate([bits, ties]).view(np.float32)
    edges = [0.0, -0.0, 65504, 65519, 65520, 2.0**-24, 2.0**-25, 3.3895e38, 3.4028235e38, 1e-40]
    chosen = np.array([*edges, *(1 + np.arange(99) * 2.0**-11)], np.float32)
    return np.concatenate([drawn[np.isfinite(drawn)], chosen])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_that_of_torch(dtype: str) -> None:
    x = _float32s()

    with np.errstate(over="ignore"):  # beyond 65504, float16 is infinite
        rounded = _leaf(dtype).rounded(x)

    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, torch.from_numpy(x).to(TORCH[dtype]).float().numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rounding_from_float64_is_that_of_torch(dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal((40, 5)).T

    rounded = _leaf(dtype).rounded(x)

    np.testing.assert_array_equal(rounded, torch.from_numpy(x).to(TORCH[dtype]).float().numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_rounding_keeps_nan(dtype: str, bits: int) -> None:
    x = np.array([bits], np.uint32).view(np.float32)

    assert np.isnan(_leaf(dtype).rounded(x)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_rounding_twice_is_rounding_once(dtype: str) -> None:
    once = _leaf(dtype).rounded(X)

    np.testing.assert_array_equal(_leaf(dtype).rounded(once), once)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "complex64"])
def test_epsilon_is_the_spacing_at_one(dtype: str) -> None:
    leaf = _leaf(dtype)

    assert leaf.rounded(np.array(1 + leaf.epsilon)) == 1 + leaf.epsilon
    assert leaf.rounded(np.array(1 + leaf.epsilon / 2)) == 1


def _widened(rule: Rule, dtype: str = "float32") -> Answers | None:
    """What `rule` says in float64, if that is the same function."""
    answers = answers_of(problem_of(rule, (X.astype(dtype),)), seed=0)
    wide = answers.in_float64
    return wide if wide and is_same(answers.problem, answers.value, wide.value) else None


def test_a_float32_problem_is_also_computed_in_float64() -> None:
    wide = _widened(Rule(np.sin, lambda i, u: u))

    assert wide is not None
    np.testing.assert_array_equal(wide.value[0], np.sin(X.astype(np.float32).astype(np.float64)))
    arrays = (*wide.problem.leaves, *wide.problem.outputs)
    assert [leaf.dtype for leaf in arrays] == ["float64", "float64"]


REFUSED = [
    lambda x: np.sin(x) if x.dtype == np.float32 else np.cos(x),
    lambda x: np.sin(x) if x.dtype == np.float32 else np.sin(x)[:1],
    lambda x: np.sin(x) if x.dtype == np.float32 else x.no_such_attribute,
    lambda x: np.sin(x) if x.dtype == np.float32 else x * np.nan,
]


@pytest.mark.parametrize("forward", REFUSED)
def test_a_problem_that_is_another_in_float64_is_not_widened(forward: Any) -> None:
    assert _widened(Rule(forward, lambda i, u: u)) is None


def test_a_float64_problem_is_not_widened() -> None:
    assert _widened(Rule(np.sin, lambda i, u: u), "float64") is None


def test_a_target_is_called_by_its_name() -> None:
    assert label(np.sin) == "sin"
    assert label(torch.nn.Identity()) == "Identity"
    assert label(np.sin, "sine") == "sine"
