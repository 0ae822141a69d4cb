"""Directions that miss no entry, points an ulp away, steps in units of the leaf."""

from typing import Any

import numpy as np
import pytest

from gradcheck import Rule
from gradcheck.adapters import problem_of
from gradcheck.probes import Line, cotangent, direction, disturbed, known, nudged, relative, scale
from gradcheck.problem import EPSILON, Leaf

REAL = ["float64", "float32", "float16", "bfloat16"]
ALL = sorted(EPSILON)
# Moving a bfloat16 by 2⁻⁸ of itself may round away: its spacing is 2⁻⁷.
NUDGEABLE = sorted(set(EPSILON) - {"bfloat16"})


def _leaf(dtype: str, *shape: int) -> Leaf:
    return Leaf(path="x", shape=shape, dtype=dtype)


def _drawn(leaf: Leaf, size: float = 1.0) -> Any:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(leaf.shape) + 1j * rng.standard_normal(leaf.shape)
    return leaf.rounded(size * (x if "complex" in leaf.dtype else x.real))


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_a_direction_misses_no_entry_and_prefers_none(dtype: str, seed: int) -> None:
    v = direction(np.random.default_rng(seed), _leaf(dtype, 100, 100))

    assert 0.5 - 1e-12 <= np.abs(v).min() <= np.abs(v).max() <= 1.5 + 1e-12
    assert abs(v.mean()) < 0.05
    assert len(np.unique(np.round(np.abs(v), 9))) > 900


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("h", [2.0**-7, 1.0, 8.0])
def test_a_power_of_two_times_a_direction_is_exact(dtype: str, h: float) -> None:
    leaf = _leaf(dtype, 500)
    v = direction(np.random.default_rng(0), leaf)

    np.testing.assert_array_equal(leaf.rounded(h * v), h * v)


@pytest.mark.parametrize("dtype", ALL)
def test_a_cotangent_is_signed_and_never_near_zero(dtype: str) -> None:
    leaf = _leaf(dtype, 50, 80)

    (u,) = cotangent(np.random.default_rng(0), (leaf,))

    np.testing.assert_array_equal(leaf.rounded(u), u)
    for part in (u.real, u.imag) if "complex" in dtype else (u,):
        assert part.mean() == pytest.approx(0, abs=0.06)
        assert np.all((np.abs(part) >= 0.5) & (np.abs(part) <= 1.5))


@pytest.mark.parametrize("dtype", ALL)
def test_sums_of_two_cotangents_are_exact(dtype: str) -> None:
    leaf = _leaf(dtype, 500)
    rng = np.random.default_rng(0)
    (u,), (w,) = cotangent(rng, (leaf,)), cotangent(rng, (leaf,))

    both = u.astype(np.complex128 if "complex" in dtype else np.float64) - 2 * w
    np.testing.assert_array_equal(leaf.rounded(both.astype(u.dtype)), both)


def test_a_cotangent_has_the_few_bits_of_a_leaf_that_has_fewer_digits_inside() -> None:
    inside = Leaf(path="x", shape=(), dtype="float64", inside="bfloat16")

    (u,) = cotangent(np.random.default_rng(0), (_leaf("float64", 500),), (inside,))

    np.testing.assert_array_equal(8 * u, np.round(8 * u))


def test_cotangents_of_two_outputs_are_independent() -> None:
    one, other = cotangent(np.random.default_rng(0), (_leaf("float64", 40), _leaf("float64", 40)))

    assert np.count_nonzero(one == other) < 3


SCALES: list[tuple[Any, float]] = [
    ([1.0, 1.0], 1.0),
    ([4.0], 4.0),
    ([3.0, -3.0], 4.0),
    (-0.25, 0.25),
    ([0.0, 0.0], 1.0),
    ([], 1.0),
    ([2.0**-500], 2.0**-500),
    ([2.0**900, 2.0**900], 2.0**900),
    ([1j, -1.0], 1.0),
    (np.array([2.0**100], np.float32), 2.0**100),
    ([np.nan], 1.0),
    ([np.inf], 1.0),
]


@pytest.mark.parametrize(("x", "wanted"), SCALES)
def test_a_scale_is_the_power_of_two_next_to_a_typical_entry(x: Any, wanted: float) -> None:
    assert scale(np.asarray(x)) == wanted


@pytest.mark.parametrize("size", [3e-6, 1.0, 7e11])
def test_a_scale_is_within_a_factor_of_root_two(size: float) -> None:
    x = size * np.random.default_rng(0).choice([-1.0, 1.0], 100)

    assert size / 2**0.5 <= scale(x) <= size * 2**0.5


def test_a_relative_direction_moves_each_entry_by_its_own_size() -> None:
    x = np.array([1e-6, -1.0, 1e6, 0.0])

    v = relative(np.ones(4), x)

    np.testing.assert_allclose(v * scale(x), [1e-6, 1.0, 1e6, 1e-6])


def test_a_relative_direction_at_zero_is_the_direction() -> None:
    np.testing.assert_array_equal(relative(np.array([0.5, -1.5]), np.zeros(2)), [0.5, -1.5])


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_a_disturbed_entry_moves_by_an_ulp_of_relative_size(dtype: str, size: float) -> None:
    leaf = _leaf(dtype, 1000)
    x = _drawn(leaf, size)

    (moved,) = disturbed(np.random.default_rng(0), [leaf], (x,))

    off = np.abs(moved.astype(np.complex128) - x.astype(np.complex128))
    np.testing.assert_array_equal(leaf.rounded(moved), moved)
    normal = np.abs(x) >= 2.0**-13  # below that, float16 has fewer digits
    assert np.all(off[normal] > 0)
    # The factor 1 ± epsilon, and half an ulp for rounding the product.
    assert np.all(off[normal] <= 1.5 * leaf.epsilon * np.abs(x[normal]) * (1 + 1e-6))


def test_a_disturbed_zero_stays() -> None:
    (moved,) = disturbed(np.random.default_rng(0), [_leaf("float64", 3)], (np.zeros(3),))

    np.testing.assert_array_equal(moved, np.zeros(3))


@pytest.mark.parametrize("dtype", NUDGEABLE)
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 300.0])
def test_a_nudged_entry_has_moved_by_a_part_of_the_leaf(dtype: str, size: float) -> None:
    leaf = _leaf(dtype, 1000)
    x = _drawn(leaf, size)

    (moved,) = nudged(np.random.default_rng(0), [leaf], (x,))

    off = np.abs(moved.astype(np.complex128) - x.astype(np.complex128))
    rounding = leaf.epsilon * (np.abs(x) + 2.0**-8 * scale(x))
    np.testing.assert_array_equal(leaf.rounded(moved), moved)
    assert np.all(off >= 0.25 * 2.0**-8 * scale(x) - rounding)
    assert np.all(off <= 1.5 * 2.0**-8 * scale(x) + rounding)


@pytest.mark.parametrize("dtype", REAL)
def test_a_nudged_zero_has_moved(dtype: str) -> None:
    leaf = _leaf(dtype, 100)

    (moved,) = nudged(np.random.default_rng(0), [leaf], (leaf.rounded(np.zeros(100)),))

    assert np.all(moved != 0)


def _line(forward: Any, x: Any, gradient: Any) -> Line:
    problem = problem_of(Rule(forward, lambda i, u: u), (x,))
    ones = tuple(np.ones(leaf.shape) for leaf in problem.outputs)
    return Line(
        problem=problem,
        v={0: np.ones(x.shape)},
        u=ones,
        asked=known((gradient,)),
        centre=problem.value(problem.point),
        unit=scale(problem.point[0]),
    )


def test_a_line_claims_the_slope_of_its_gradient() -> None:
    assert _line(np.sin, np.zeros(3), np.array([1.0, 2.0, -4.0])).slope == -1.0


def test_a_difference_along_a_parabola_is_its_slope() -> None:
    sample = _line(lambda x: x * x, np.array([3.0]), np.array([6.0])).sample(2.0**-7)

    assert sample.central == 6.0
    assert sample.fold == 2 * 2.0**-7


def test_a_fold_across_a_kink_is_the_jump_of_the_slope() -> None:
    sample = _line(np.abs, np.zeros(2), np.zeros(2)).sample(2.0**-20)

    assert sample.central == 0.0
    assert sample.fold == sample.crease == 4.0


def test_folds_that_cancel_leave_a_crease() -> None:
    sample = _line(lambda x: np.abs(x) * [1.0, -1.0], np.zeros(2), np.zeros(2)).sample(0.5)

    assert sample.fold == 0.0
    assert sample.crease == 4.0


def test_outputs_that_stand_still_weigh_nothing() -> None:
    line = _line(lambda x: np.stack([x[0], 1e6 + 0 * x[0]]), np.array([1.0]), np.array([1.0]))

    sample = line.sample(0.5)

    assert sample.moving == 1
    assert sample.weight == 1.0


@pytest.mark.parametrize("x", [0.7, 1e6 + 0.3])
def test_a_step_that_rounds_away_is_corrected_by_the_gradient(x: float) -> None:
    sample = _line(lambda x: 3 * x, np.array([x], np.float32), np.array([3.0], np.float32)).sample(
        1e-3
    )

    assert sample.central == pytest.approx(3.0, abs=10 * sample.rounding)


def test_values_of_another_shape_are_not_finite() -> None:
    line = _line(lambda x: x[x > 0.5], np.array([0.5 + 1e-9]), np.array([1.0]))

    assert np.isnan(line.change(-1e-3))


def test_a_step_out_of_the_dtype_is_not_finite_and_warns_of_nothing() -> None:
    line = _line(lambda x: x, np.array([3e38], np.float32), np.array([1.0], np.float32))

    assert not np.isfinite(line.change(1e38))


@pytest.mark.parametrize("seed", range(4))
def test_a_nudged_entry_keeps_its_sign(seed: int) -> None:
    x = np.array([1e-3, -1e-3, 1e-9, 1.0, 1e3, -1e3])

    (moved,) = nudged(np.random.default_rng(seed), [_leaf("float64", 6)], (x,))

    np.testing.assert_array_equal(np.sign(moved), np.sign(x))
