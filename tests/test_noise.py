"""Noise is measured where there is some, and not invented where a function bends."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gradcheck.noise import measure

Function = Callable[[float], float]


def _about(f: Function, x: float = 0.7) -> Function:
    return lambda t: f(x + t) - f(x)


def _float32(x: float) -> float:
    return float(np.sin(np.float32(x)))


def _float16(x: float) -> float:
    return float(np.sin(np.float16(x)))


# (function, standard deviation of its noise): rounding to p bits has 2⁻ᵖ/√12 of the binade.
NOISY = [
    (np.sin, 1e-16),
    (lambda x: 1e8 + np.sin(x), 1.5e-8 / 12**0.5),
    (_float32, 6e-8 / 12**0.5),
    (_float16, 5e-4 / 12**0.5),
    (lambda x: np.sin(x) + _float16(x), 5e-4 / 12**0.5),
]


@pytest.mark.parametrize(("f", "deviation"), NOISY)
def test_a_noisy_function_is_found_so_within_a_decade(f: Function, deviation: float) -> None:
    level = measure(_about(f), 1.0).level

    assert deviation / 10 <= level <= 10 * deviation


SMOOTH = [
    np.exp,
    lambda x: 1e-9 * np.cos(x),
    lambda x: abs(x - 0.7003),
    lambda x: max(x, 0.7 + 1e-7),
    lambda x: np.sin(200 * x),
    lambda x: x,
    lambda x: 3.0,
]


@pytest.mark.parametrize("f", SMOOTH)
def test_a_smooth_or_bent_function_has_the_noise_of_float64(f: Function) -> None:
    assert measure(_about(f), 1.0).level <= 1e-14


def test_noise_at_all_spacings_is_told_from_noise_on_a_smooth_function() -> None:
    assert measure(_about(_float32), 1.0).throughout
    assert not measure(_about(lambda x: np.sin(x) + 1e-4 * _float16(x)), 1.0).throughout


def test_a_function_without_finite_values_has_no_noise() -> None:
    assert measure(lambda t: float("nan"), 1.0).level == 0.0


def _bfloat16(x: float) -> float:
    return torch.tensor(x, dtype=torch.bfloat16).double().sin().item()


@pytest.mark.parametrize("size", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("narrow", "step"), [(_float32, 6e-8), (_float16, 5e-4), (_bfloat16, 4e-3)]
)
def test_a_narrow_dtype_inside_is_found_at_any_scale(
    narrow: Function, step: float, unit: float, size: float
) -> None:
    deviation = size * step / 12**0.5

    level = measure(_about(lambda x: size * narrow(x / unit), 0.7 * unit), unit).level

    assert deviation / 10 <= level <= 10 * deviation


SILENT: list[tuple[str, Function]] = [
    ("tanh", np.tanh),
    ("polynomial", lambda x: x**5 - 3 * x**2),
    ("reciprocal", lambda x: 1 / x),
    ("relu at its kink", lambda x: max(x - 0.7, 0.0)),
    ("abs at its kink", lambda x: abs(x - 0.7)),
    ("kink near by", lambda x: abs(x - 0.7 - 1e-5)),
    ("jump", lambda x: float(x > 0.7003)),
    ("jump on a slope", lambda x: x + (x > 0.70004)),
    ("sin 200 t", lambda x: np.sin(200 * x)),
    ("sin 2000 t", lambda x: np.sin(2000 * x)),
    ("a slow wave with a fast one", lambda x: np.sin(x) + 1e-3 * np.sin(2000 * x)),
    ("zero", lambda x: 0.0),
]


@pytest.mark.parametrize(("name", "f"), SILENT, ids=[name for name, _ in SILENT])
@pytest.mark.parametrize("x", [0.7, 0.7 + 1e-3 / 7, 0.71])
def test_structure_is_no_noise(name: str, f: Function, x: float) -> None:
    assert measure(_about(f, x), 1.0).level <= 1e-12  # an ulp of 2000 t is 3e-13


@pytest.mark.parametrize("size", [1e-250, 1e250])
def test_extreme_sizes_neither_overflow_nor_vanish(size: float) -> None:
    smooth = measure(_about(lambda x: size * np.sin(x)), 1.0).level
    noisy = measure(_about(lambda x: size * _float16(x)), 1.0).level

    assert smooth <= 1e-14 * size
    assert noisy >= 1e-5 * size
