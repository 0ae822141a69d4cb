"""Training: the reference learns, PyTorch and JAX learn alike, and a slip parts their ways."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from gradcheck.errors import InputError, MissingFrameworkError
from gradcheck.reference.layer import Array, Cache, Cotangents, Layer, Outputs, Params
from gradcheck.reference.learning import Momentum
from gradcheck.suites.training import (
    Backend,
    RowReader,
    Training,
    Trajectory,
    accuracy,
    digits,
    digits_trajectory,
    first_divergence,
    pixel_reader,
)
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_slopes_agree,
)

NETWORKS: tuple[Layer, ...] = (pixel_reader(), RowReader(hidden=8))


@cache
def reference(index: int) -> Trajectory:
    return digits_trajectory("reference", Training(network=NETWORKS[index]))


# --- the paths are one


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize("index", [0, 1], ids=["pixels", "rows"])
def test_twenty_steps_lead_to_the_same_parameters(index: int, backend: Backend) -> None:
    theirs = digits_trajectory(backend, Training(network=NETWORKS[index]))

    assert first_divergence(reference(index), theirs) is None


@pytest.mark.parametrize("index", [0, 1], ids=["pixels", "rows"])
def test_every_step_has_a_loss_and_moves_the_parameters(index: int) -> None:
    trajectory = reference(index)

    assert len(trajectory.losses) == len(trajectory.path) == 20
    assert trajectory.losses[-1] < trajectory.losses[0]
    assert trajectory.parameters is trajectory.path[-1]


def test_seed_decides_everything() -> None:
    again = digits_trajectory("reference", Training(seed=0))
    other = digits_trajectory("reference", Training(seed=1))

    assert first_divergence(reference(0), again, rtol=0) is None
    found = first_divergence(reference(0), other)
    assert found is not None
    assert (found.step, found.leaf) == (1, "loss")


def test_reference_learns_the_digits() -> None:
    four_epochs = Training(steps=4 * 44)
    before = digits_trajectory("reference", replace(four_epochs, steps=1)).parameters
    after = digits_trajectory("reference", four_epochs).parameters

    assert accuracy(pixel_reader(), before, *digits()[1]) < 0.3
    assert accuracy(pixel_reader(), after, *digits()[1]) > 0.93


def test_held_out_digits_are_not_learned_from() -> None:
    (learned, _), (held_out, _) = digits()

    assert len(learned) + len(held_out) == 1797
    assert not {image.tobytes() for image in learned} & {image.tobytes() for image in held_out}


# --- a slip parts the ways, and is named


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """The pixel network, with its gradients spoilt."""

    spoil: Callable[[Any], Params]

    def parameters(self, rng: np.random.Generator, dtype: Any = np.float64) -> Params:
        return pixel_reader().parameters(rng, dtype)

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Cache]:
        return pixel_reader().forward(params, x)

    def backward(self, params: Params, cache: Cache, u: Array) -> tuple[Params, Cotangents]:
        grads, inputs = pixel_reader().backward(params, cache, u)
        return self.spoil(grads), inputs


SLIPS: dict[str, Callable[[Any], Params]] = {
    "params.0.bias": lambda g: {**g, "0": {**g["0"], "bias": g["0"]["bias"] / 2}},
    "params.0.weight": lambda g: {**g, "0": {**g["0"], "weight": g["0"]["weight"] * (1 + 1e-6)}},
    "params.2.weight": lambda g: {**g, "2": {**g["2"], "weight": g["2"]["weight"][::-1]}},
    "params.2.bias": lambda g: {**g, "2": {**g["2"], "bias": 0 * g["2"]["bias"]}},
}


@pytest.mark.parametrize("leaf", SLIPS)
def test_wrong_gradient_is_found_at_the_first_step_in_its_leaf(leaf: str) -> None:
    mutant = Mutant(spoil=SLIPS[leaf])
    wrong = digits_trajectory("reference", Training(network=mutant))

    found = first_divergence(reference(0), wrong)

    assert found is not None
    assert (found.step, found.leaf) == (1, leaf)


def test_slip_of_a_millionth_still_learns_and_is_found_all_the_same() -> None:
    mutant = Mutant(spoil=SLIPS["params.0.weight"])
    wrong = digits_trajectory("reference", Training(network=mutant))

    assert wrong.losses[-1] == pytest.approx(reference(0).losses[-1], rel=1e-4)
    assert first_divergence(reference(0), wrong) is not None


def test_forgotten_momentum_is_found_at_the_second_step() -> None:
    forgetful = Training(optimizer=Momentum(rate=0.1, momentum=0))

    found = first_divergence(reference(0), digits_trajectory("reference", forgetful))

    assert found is not None
    assert (found.step, found.leaf) == (2, "params.0.weight")


def trajectory(*values: float, backend: str = "reference", loss: float = 1.0) -> Trajectory:
    path = tuple({"a": {"w": np.array([value, 4.0])}} for value in values)
    return Trajectory(backend=backend, losses=(loss,) * len(path), path=path)


def test_divergence_says_who_when_where_and_how_far() -> None:
    found = first_divergence(trajectory(1, 2, 3), trajectory(1, 2.5, 9, backend="jax"))

    assert str(found) == (
        "reference and jax part at step 2, in params.a.w: 1.2e-01 apart, allowed 1e-10"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_agrees_with_nothing(value: float) -> None:
    found = first_divergence(trajectory(value), trajectory(value))

    assert found is not None
    assert found.step == 1


def test_loss_is_compared_before_the_parameters() -> None:
    found = first_divergence(trajectory(1), trajectory(2, loss=1.5))

    assert found is not None
    assert (found.leaf, found.mismatch) == ("loss", 0.5)


def test_zero_agrees_with_zero_and_with_nothing_else() -> None:
    assert first_divergence(trajectory(1, loss=0), trajectory(1, loss=0)) is None
    found = first_divergence(trajectory(1, loss=0), trajectory(1, loss=1e-300))
    assert found is not None
    assert found.mismatch == np.inf


# --- the reader of rows is a layer like any other


def test_slopes_of_the_row_reader_agree() -> None:
    assert_slopes_agree(RowReader(hidden=3), np.random.default_rng(0).random((2, 64)))


def test_row_reader_keeps_float32_and_mutates_nothing() -> None:
    assert_keeps_dtype(RowReader(hidden=3), np.ones((2, 64)))
    assert_mutates_nothing(RowReader(hidden=3), np.ones((2, 64)))


def test_rows_are_read_from_top_to_bottom() -> None:
    reader = RowReader(hidden=3)
    params = reader.parameters(np.random.default_rng(0))
    top = np.zeros((1, 8, 8))
    top[0, 0] = 1

    late, early = (
        np.abs(
            reader.forward(params, image.reshape(1, 64))[0][0]
            - reader.forward(params, np.zeros((1, 64)))[0][0]
        ).max()
        for image in (top[:, ::-1], top)
    )

    assert late > 2 * early  # an LSTM forgets what it read first


# --- misuse, and what is missing


@pytest.mark.parametrize(
    ("module", "backend", "package"),
    [
        ("sklearn.datasets", "reference", "scikit-learn"),
        ("torch", "torch", "torch"),
        ("jax", "jax", "jax"),
    ],
)
def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, module: str, backend: Backend, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingFrameworkError, match=f"not checked: {package} is missing"):
        digits_trajectory(backend)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: digits_trajectory("keras"), "among reference, torch, jax; got 'keras'"),  # type: ignore[arg-type]
        (lambda: Training(steps=0), "expected steps of at least one; got steps=0"),
        (lambda: Training(batch=0), "got batch=0"),
        (
            lambda: first_divergence(trajectory(1), trajectory(1, 2)),
            "got 1 steps of reference and 2 of reference",
        ),
    ],
)
def test_misuse_is_told(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
