"""Recurrent backpropagation: the state settles, the adjoint settles, the gradient is right."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.test_util
import numpy as np
import pytest
import torch

from gradcheck.reference.fixed_point import (
    Damped,
    FixedPoint,
    NotSettled,
    TanhTransition,
    Unrolled,
    spectral_radius,
)
from gradcheck.reference.layer import Array, Cache, Cotangents, Layer, Outputs, Params
from gradcheck.suites.twins import torch_
from gradcheck.suites.twins.jax_.equilibrium import by_custom_root, by_custom_vjp
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
    leaves,
    vjp,
)

TANH = TanhTransition(inputs=3, hidden=5, gain=0.9)
LAYERS = [
    FixedPoint(transition=TANH),
    FixedPoint(transition=Damped(transition=TANH, rate=0.7)),
    Unrolled(transition=TANH, steps=1),
    Unrolled(transition=TANH, steps=4),
    Unrolled(transition=Damped(transition=TANH, rate=0.7), steps=3),
]
SHAPES = [(4, 3), (2, 4, 3), (3,), (1, 3), (0, 3)]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def settled(layer: FixedPoint, x: Array, seed: int = 0) -> tuple[Params, Array, Cache]:
    params = layer.parameters(np.random.default_rng(seed), x.dtype)
    (z,), cache = layer.forward(params, x)
    return params, z, cache


def one_unit(weight: float, bias: float = 0.3) -> Params:
    return {
        "recurrent_weight": np.array([[weight]]),
        "input_weight": np.array([[1.0]]),
        "bias": np.array([bias]),
    }


def jacobian(transition: Any, params: Params, cache: Cache, z: Array) -> Array:
    """Return J = ∂F/∂z over all entries of z, row by row from VJPs."""
    rows = np.eye(z.size).reshape(-1, *z.shape)
    pulled = [transition.backward(params, cache, row)[1][0].ravel() for row in rows]
    return np.array(pulled).reshape(z.size, z.size)


# --- the gradient agrees with PyTorch, with JAX, with differences, with long unrolling


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_twins_agree(layer: Layer) -> None:
    assert_twins_agree(layer, draw(4, 3))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_twins_agree_on_every_shape(shape: tuple[int, ...]) -> None:
    assert_twins_agree(FixedPoint(transition=TANH), draw(*shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_slopes_agree(layer: Layer, shape: tuple[int, ...]) -> None:
    assert_slopes_agree(layer, draw(*shape))


@pytest.mark.parametrize("transition", [TANH, Damped(transition=TANH)], ids=str)
def test_transition_agrees_with_twins_and_slopes(transition: Layer) -> None:
    assert_twins_agree(transition, draw(4, 5), draw(4, 3, seed=1))
    assert_slopes_agree(transition, draw(4, 5), draw(4, 3, seed=1))


@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (1, 4), (4, 1)])
def test_width_one_is_no_special_case(inputs: int, hidden: int) -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=inputs, hidden=hidden))

    assert_twins_agree(layer, draw(3, inputs))
    assert_slopes_agree(layer, draw(3, inputs))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_float32_stays_float32(layer: Layer) -> None:
    assert_keeps_dtype(layer, draw(4, 3))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_mutates_nothing(layer: Layer) -> None:
    assert_mutates_nothing(layer, draw(4, 3))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_strides_do_not_matter(layer: Layer) -> None:
    assert_same_with_strides(layer, draw(4, 3))


def test_gradient_equals_that_of_long_unrolling() -> None:
    params = TANH.parameters(np.random.default_rng(0))

    implicit = vjp(FixedPoint(transition=TANH), params, draw(4, 3))
    explicit = vjp(Unrolled(transition=TANH, steps=300), params, draw(4, 3))

    wanted = dict(leaves(explicit[2]))
    for path, got in leaves(implicit[2]):
        np.testing.assert_allclose(got, wanted[path], rtol=1e-12, atol=1e-13, err_msg=path)


def test_adjoint_solves_the_transposed_linear_system() -> None:
    layer = FixedPoint(transition=TANH)
    params, z, cache = settled(layer, draw(2, 3))
    u = draw(2, 5, seed=1)

    w = layer.adjoint(params, cache, u).z

    transposed = np.eye(z.size) - jacobian(TANH, params, cache, z).T
    np.testing.assert_allclose(w.ravel(), np.linalg.solve(transposed, u.ravel()), rtol=1e-13)


def test_float32_gradient_is_that_of_float64_to_seven_digits() -> None:
    layer = FixedPoint(transition=TANH)
    wide = layer.parameters(np.random.default_rng(0))
    narrow = {name: value.astype(np.float32) for name, value in wide.items()}
    u = draw(4, 5, seed=1)

    wanted, _ = layer.backward(wide, layer.forward(wide, draw(4, 3))[1], u)
    _, cache = layer.forward(narrow, draw(4, 3).astype(np.float32))
    got, _ = layer.backward(narrow, cache, u.astype(np.float32))

    for name, value in wanted.items():
        assert np.abs(got[name] - value).max() < 2e-6 * np.abs(value).max()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_adjoint_is_linear_over_the_whole_range_of_the_dtype(scale: float) -> None:
    layer = FixedPoint(transition=TANH)
    params, _, cache = settled(layer, draw(4, 3))
    u = draw(4, 5, seed=1)

    scaled = layer.adjoint(params, cache, scale * u).z

    np.testing.assert_allclose(scaled / scale, layer.adjoint(params, cache, u).z, rtol=1e-12)


# --- what must be rejected


def jacobian_untransposed(layer: FixedPoint, params: Params, cache: Cache, u: Array) -> Array:
    j = jacobian(layer.transition, params, cache, u)
    w = u.ravel()
    for _ in range(600):  # 0.9^600 is far below the rounding of every dtype
        w = j @ w + u.ravel()
    return w.reshape(u.shape)


def weight_untransposed(layer: FixedPoint, params: Params, cache: Cache, u: Array) -> Array:
    turned = {**params, "recurrent_weight": params["recurrent_weight"].T}
    return layer.adjoint(turned, cache, u).z


def adjoint_not_run(layer: FixedPoint, params: Params, cache: Cache, u: Array) -> Array:
    return u


def adjoint_iterated_once(layer: FixedPoint, params: Params, cache: Cache, u: Array) -> Array:
    pulled = layer.transition.backward(params, cache, u)[1][0]
    assert pulled is not None
    return pulled + u


def adjoint_without_source(layer: FixedPoint, params: Params, cache: Cache, u: Array) -> Array:
    w = u
    for _ in range(300):
        pulled = layer.transition.backward(params, cache, w)[1][0]
        assert pulled is not None
        w = pulled
    return w


def adjoint_at_the_start(layer: FixedPoint, params: Params, cache: Cache, u: Array) -> Array:
    z, x, _ = cache
    return layer.adjoint(params, layer.transition.forward(params, np.zeros_like(z), x)[1], u).z


Adjoint = Callable[[FixedPoint, Params, Cache, Array], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """`layer` with another adjoint in its backward."""

    layer: FixedPoint
    adjoint: Adjoint
    symmetric: bool = False

    def parameters(self, rng: np.random.Generator, dtype: Any = np.float64) -> Params:
        params = self.layer.parameters(rng, dtype)
        weight = params["recurrent_weight"]
        return {**params, "recurrent_weight": (weight + weight.T) / 2} if self.symmetric else params

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Cache]:
        return self.layer.forward(params, x)

    def backward(self, params: Params, cache: Cache, u: Array) -> tuple[Params, Cotangents]:
        w = self.adjoint(self.layer, params, cache, u)
        grads, (_, x_bar) = self.layer.transition.backward(params, cache, w)
        return grads, (x_bar,)


MUTANTS = [
    jacobian_untransposed,
    weight_untransposed,
    adjoint_not_run,
    adjoint_iterated_once,
    adjoint_without_source,
    adjoint_at_the_start,
]


@pytest.mark.parametrize("adjoint", MUTANTS, ids=lambda adjoint: adjoint.__name__)
def test_differences_reject(adjoint: Adjoint) -> None:
    mutant = Mutant(layer=FixedPoint(transition=TANH), adjoint=adjoint)

    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_slopes_agree(mutant, draw(4, 3), rtol=1e-3)


def test_symmetric_weight_hides_an_untransposed_weight() -> None:
    mutant = Mutant(layer=FixedPoint(transition=TANH), adjoint=weight_untransposed, symmetric=True)

    assert_slopes_agree(mutant, draw(4, 3))


def test_symmetric_weight_does_not_hide_an_untransposed_jacobian() -> None:
    mutant = Mutant(
        layer=FixedPoint(transition=TANH), adjoint=jacobian_untransposed, symmetric=True
    )

    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_slopes_agree(mutant, draw(4, 3), rtol=1e-3)


def test_single_unit_hides_an_untransposed_jacobian() -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=3, hidden=1))

    assert_slopes_agree(Mutant(layer=layer, adjoint=jacobian_untransposed), draw(4, 3))


def test_drawn_weight_has_the_spectral_norm_gain_and_no_symmetry() -> None:
    weight = TANH.parameters(np.random.default_rng(0))["recurrent_weight"]

    assert np.linalg.norm(weight, 2) == pytest.approx(0.9, rel=1e-14)
    assert np.linalg.norm(weight - weight.T) > 0.5 * np.linalg.norm(weight)


# --- the relaxation


@pytest.mark.parametrize("hidden", [1, 5, 40])
def test_state_is_a_fixed_point(hidden: int) -> None:
    transition = TanhTransition(inputs=3, hidden=hidden, gain=0.95)
    params, z, _ = settled(FixedPoint(transition=transition), draw(4, 3))

    (fresh,), _ = transition.forward(params, z, draw(4, 3))

    np.testing.assert_allclose(fresh, z, rtol=0, atol=1e-15)


def test_residuals_contract_by_the_gain() -> None:
    layer = FixedPoint(transition=TANH)
    params, z, _ = settled(layer, draw(4, 3))

    residuals = layer.relaxation(params, draw(4, 3)).residuals

    rounding = 4 * np.finfo(float).eps * np.linalg.norm(z)
    assert all(after <= TANH.gain * before + rounding for before, after in pairwise(residuals))


def test_first_residual_is_the_first_state() -> None:
    layer = FixedPoint(transition=TANH)
    params, _, _ = settled(layer, draw(4, 3))

    (first,), _ = Unrolled(transition=TANH, steps=1).forward(params, draw(4, 3))

    wanted = np.linalg.norm(first)
    assert layer.relaxation(params, draw(4, 3)).residuals[0] == pytest.approx(wanted, rel=1e-14)


def test_tolerance_is_relative_to_the_state_and_ends_the_relaxation_at_once() -> None:
    layer = FixedPoint(transition=TANH, tolerance=1e-3)
    params, _, _ = settled(layer, draw(4, 3))

    rest = layer.relaxation(params, draw(4, 3))

    *earlier, last = rest.residuals
    assert last <= 1e-3 * np.linalg.norm(rest.z) < earlier[-1]


def test_adjoint_tolerance_is_its_own() -> None:
    layer = FixedPoint(transition=TANH, adjoint_tolerance=1e-3)
    params, _, cache = settled(layer, draw(4, 3))

    rest = layer.adjoint(params, cache, draw(4, 5))

    *earlier, last = rest.residuals
    assert last <= 1e-3 * np.linalg.norm(rest.z) < earlier[-1]
    assert len(rest.residuals) < len(layer.relaxation(params, draw(4, 3)).residuals)


def roughness(layer: FixedPoint) -> float:
    """Return the largest second difference of z* on a line of inputs, in steps of 1e-6."""
    params = layer.parameters(np.random.default_rng(0))
    line = (draw(1, 3) + t * 1e-6 for t in range(-10, 11))
    path = np.stack([layer.forward(params, x)[0][0] for x in line])
    return float(np.abs(np.diff(path, n=2, axis=0)).max())


def test_without_tolerance_the_state_moves_without_jumps() -> None:
    assert roughness(FixedPoint(transition=TANH)) < 1e-11  # the square of 1e-6, times curvature


def test_with_a_tolerance_the_state_jumps_where_the_number_of_steps_changes() -> None:
    params = TANH.parameters(np.random.default_rng(0))
    residual = FixedPoint(transition=TANH).relaxation(params, draw(1, 3)).residuals[9]
    (z,), _ = Unrolled(transition=TANH, steps=10).forward(params, draw(1, 3))
    borderline = residual / float(np.linalg.norm(z))

    assert roughness(FixedPoint(transition=TANH, tolerance=borderline)) > 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_spectral_radius_is_that_of_the_true_jacobian(seed: int) -> None:
    layer = FixedPoint(transition=TANH)
    x = draw(2, 3, seed=seed)
    params, z, cache = settled(layer, x, seed=seed)
    wanted = np.abs(np.linalg.eigvals(jacobian(TANH, params, cache, z))).max()

    got = spectral_radius(TANH, params, z, x, rng=np.random.default_rng(1), steps=1000)

    assert got == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("seed", range(4))
def test_both_relaxations_tell_the_spectral_radius_roughly(seed: int) -> None:
    layer = FixedPoint(transition=TANH)
    params, z, cache = settled(layer, draw(2, 3, seed=seed), seed=seed)
    wanted = np.abs(np.linalg.eigvals(jacobian(TANH, params, cache, z))).max()

    forward = layer.relaxation(params, draw(2, 3, seed=seed)).spectral_radius
    adjoint = layer.adjoint(params, cache, draw(2, 5)).spectral_radius

    assert forward == pytest.approx(wanted, rel=0.1)
    assert adjoint == pytest.approx(wanted, rel=0.1)


def test_spectral_radius_of_one_unit_is_its_slope() -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=1, hidden=1))
    (z,), _ = layer.forward(one_unit(0.7), np.ones((1, 1)))

    got = layer.relaxation(one_unit(0.7), np.ones((1, 1))).spectral_radius

    assert got == pytest.approx(0.7 * (1 - z.item() ** 2), rel=1e-2)


def test_empty_batch_settles_at_once_and_has_no_spectral_radius_to_fit() -> None:
    layer = FixedPoint(transition=TANH)
    params, z, _ = settled(layer, np.empty((0, 3)))

    rest = layer.relaxation(params, np.empty((0, 3)))

    assert rest.residuals == (0.0,)
    assert math.isnan(rest.spectral_radius)
    rng = np.random.default_rng(0)
    assert spectral_radius(TANH, params, z, np.empty((0, 3)), rng=rng) == 0


def test_transition_without_feedback_rests_after_one_step() -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=3, hidden=5, gain=0))
    params, _, _ = settled(layer, draw(4, 3))

    assert layer.relaxation(params, draw(4, 3)).residuals[1:] == (0.0,)


def test_damping_changes_neither_state_nor_gradient() -> None:
    params = TANH.parameters(np.random.default_rng(0))
    damped = Damped(transition=TANH, rate=0.3)

    plain = vjp(FixedPoint(transition=TANH), params, draw(4, 3))
    slow = vjp(FixedPoint(transition=damped), params, draw(4, 3))

    wanted = dict(leaves(plain))
    for path, got in leaves(slow):
        np.testing.assert_allclose(got, wanted[path], rtol=1e-11, atol=1e-13, err_msg=path)


# --- no equilibrium


def test_state_that_flips_for_ever_does_not_settle() -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=1, hidden=1, gain=4))

    with pytest.raises(NotSettled) as caught:
        layer.forward(one_unit(-4, bias=0), np.array([[0.5]]))

    assert str(caught.value).splitlines() == [
        "the state did not settle in 1000 steps: expected a residual of at most 1.42e-14; got 2",
        "  residuals: first 0.462, last 2, 2, 2; ratio 1",
        "  The transition does not contract here. Lower its gain (below 1 settles surely), "
        "or damp it: Damped(transition=..., rate=0.5)",
    ]


def test_damping_settles_a_state_that_flips() -> None:
    transition = TanhTransition(inputs=1, hidden=1, gain=4)
    layer = FixedPoint(transition=Damped(transition=transition, rate=0.2))

    (z,), _ = layer.forward(one_unit(-4), np.array([[0.5]]))

    assert z.item() == pytest.approx(math.tanh(-4 * z.item() + 0.8), rel=1e-14)


def test_drawn_network_of_gain_four_does_not_settle() -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=3, hidden=20, gain=4))

    with pytest.raises(NotSettled, match="does not contract"):
        settled(layer, 0.1 * draw(4, 3))


def test_slow_contraction_says_how_many_steps_are_missing() -> None:
    transition = TanhTransition(inputs=1, hidden=1)
    patient = FixedPoint(transition=transition, tolerance=1e-12)
    steps = len(patient.relaxation(one_unit(0.9), np.array([[0.0]])).residuals)

    with pytest.raises(NotSettled) as caught:
        FixedPoint(transition=transition, tolerance=1e-12, limit=20).forward(
            one_unit(0.9), np.array([[0.0]])
        )

    found = str(caught.value).split("about ")[1].split(" steps more")[0]
    assert int(found) == pytest.approx(steps - 20, rel=0.1)


def test_adjoint_may_need_more_steps_than_it_has() -> None:
    layer = FixedPoint(transition=TANH, adjoint_limit=5)
    params, _, cache = settled(layer, draw(4, 3))

    with pytest.raises(NotSettled, match="the adjoint did not settle in 5 steps"):
        layer.backward(params, cache, draw(4, 5))


def test_adjoint_diverges_at_an_unstable_equilibrium() -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=1, hidden=1, gain=3))
    params = one_unit(3, bias=0)
    (z,), cache = layer.forward(params, np.array([[0.0]]))  # rests at 0, where the slope is 3

    with pytest.raises(NotSettled) as caught:
        layer.backward(params, cache, np.array([[1.0]]))

    assert z.item() == 0
    first, path, advice = str(caught.value).splitlines()
    assert first == "the adjoint did not settle in 647 steps: it is no longer finite"
    assert path.endswith("ratio 3")
    assert "does not contract" in advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Jitter:
    """One and its successor, in turn: a state that rounding keeps awake."""

    def parameters(self, rng: np.random.Generator, dtype: Any = np.float64) -> Params:
        return {}

    def state_shape(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        return x_shape

    def forward(self, params: Params, z: Array, x: Array) -> tuple[Outputs, Cache]:
        one = np.ones_like(x)
        return (np.where(z > one, one, np.nextafter(one, 2 * one)),), None

    def backward(self, params: Params, cache: Cache, u: Array) -> tuple[Params, Cotangents]:
        return {}, (0 * u, 0 * u)


def test_tolerance_finer_than_the_dtype_is_named_as_the_cause() -> None:
    layer = FixedPoint(transition=Jitter(), tolerance=1e-12)

    with pytest.raises(NotSettled, match="the tolerance is finer than the dtype"):
        layer.forward({}, np.ones((1, 1), np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_default_tolerance_is_above_the_rounding_of_every_dtype(dtype: Any) -> None:
    (z,), _ = FixedPoint(transition=Jitter()).forward({}, np.ones((1, 1), dtype))

    assert z.item() == pytest.approx(1)


def test_nan_is_not_an_equilibrium() -> None:
    layer = FixedPoint(transition=TANH)
    params = layer.parameters(np.random.default_rng(0))

    with pytest.raises(NotSettled, match="did not settle in 1 steps"):
        layer.forward(params, np.full((1, 3), np.nan))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TanhTransition(inputs=1, hidden=1, gain=-1), "gain of at least 0; got gain=-1"),
        (lambda: TanhTransition(inputs=1, hidden=1, gain=math.nan), "a finite gain"),
        (lambda: Damped(transition=TANH, rate=0), "above 0 and at most 1; got rate=0"),
        (lambda: Damped(transition=TANH, rate=1.5), "got rate=1.5"),
        (lambda: FixedPoint(transition=TANH, tolerance=0), "got tolerance=0"),
        (lambda: FixedPoint(transition=TANH, adjoint_tolerance=1), "got adjoint_tolerance=1"),
        (lambda: FixedPoint(transition=TANH, limit=0), "at least one step; got limit=0"),
        (lambda: FixedPoint(transition=TANH, adjoint_limit=-1), "got adjoint_limit=-1"),
        (lambda: Unrolled(transition=TANH, steps=0), "at least one step; got steps=0"),
    ],
)
def test_misuse_is_told(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- the twins themselves


def test_torch_twin_is_right_to_second_order() -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=2, hidden=2, gain=0.5))
    params, _, _ = settled(layer, draw(2, 2))
    tensors = [torch.tensor(value, requires_grad=True) for value in (draw(2, 2), *params.values())]

    def f(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch_.apply(layer, dict(zip(params, values, strict=True)), x)[0]

    assert torch.autograd.gradgradcheck(f, tensors)


def test_torch_twin_raises_where_the_reference_does() -> None:
    layer = FixedPoint(transition=TANH, limit=3)
    params = {
        name: torch.from_numpy(value)
        for name, value in layer.parameters(np.random.default_rng(0)).items()
    }

    with pytest.raises(NotSettled, match="the PyTorch twin did not settle in 3 steps"):
        torch_.apply(layer, params, torch.from_numpy(draw(4, 3)))


def test_both_jax_twins_agree() -> None:
    layer = FixedPoint(transition=TANH)
    params = layer.parameters(np.random.default_rng(0))

    with jax.enable_x64(True):
        u = jax.numpy.asarray(draw(4, 5, seed=1))
        got, wanted = (
            jax.vjp(lambda params, x, twin=twin: twin(layer, params, x)[0], params, draw(4, 3))
            for twin in (by_custom_vjp, by_custom_root)
        )

        assert jax.numpy.allclose(got[0], wanted[0], rtol=1e-14)
        pairs = zip(jax.tree.leaves(got[1](u)), jax.tree.leaves(wanted[1](u)), strict=True)
        assert all(jax.numpy.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in pairs)


def test_jax_root_is_right_to_second_order() -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=1, hidden=2, gain=0.5))
    params = layer.parameters(np.random.default_rng(0))

    with jax.enable_x64(True):
        jax.test_util.check_grads(  # type: ignore[no-untyped-call]
            jax.jit(lambda params, x: by_custom_root(layer, params, x)[0]),
            (params, draw(2, 1)),
            order=2,
            modes=["rev"],
        )


@pytest.mark.parametrize("twin", [by_custom_root, by_custom_vjp])
def test_jax_twin_is_nan_where_the_reference_raises(twin: Callable[..., Any]) -> None:
    layer = FixedPoint(transition=TANH, limit=3)

    (z,) = twin(
        layer, layer.parameters(np.random.default_rng(0), np.float32), np.ones((4, 3), np.float32)
    )

    assert np.isnan(z).all()
