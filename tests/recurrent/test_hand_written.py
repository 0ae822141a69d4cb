"""Layers whose backward is written by hand, as they are in the wild: right ones and wrong twins."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradcheck import Rule, Verdict, check_fixed_point, check_sequence
from gradcheck.problem import Array

RNG = np.random.default_rng(11)


def drawn(*shape: int) -> Tensor:
    return torch.from_numpy(RNG.standard_normal(shape))


class Gated(torch.autograd.Function):
    """A GRU over time; `every` steps the carry of the backward is lost, if that is not zero."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h: Tensor, wi: Tensor, wh: Tensor, every: int
    ) -> tuple[Tensor, Tensor]:
        kept, outputs = [], []
        for now in x:
            (ir, iz, new), (hr, hz, old) = (now @ wi.T).chunk(3, -1), (h @ wh.T).chunk(3, -1)
            r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
            n = torch.tanh(new + r * old)
            kept.append((h, r, z, n, old))
            h = (1 - z) * n + z * h
            outputs.append(h)
        ctx.every = every
        ctx.save_for_backward(x, wi, wh, *map(torch.stack, zip(*kept, strict=True)))
        return torch.stack(outputs), h.clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor, carry: Tensor) -> tuple[Tensor | None, ...]:
        x, wi, wh, *kept = ctx.saved_tensors
        x_bar, wi_bar, wh_bar = map(torch.zeros_like, (x, wi, wh))
        for t in reversed(range(len(x))):
            h, r, z, n, old = (array[t] for array in kept)
            g = u[t] + carry
            dz, dn = g * (h - n) * z * (1 - z), g * (1 - z) * (1 - n**2)
            dr = dn * old * r * (1 - r)
            inward, onward = torch.cat([dr, dz, dn], -1), torch.cat([dr, dz, dn * r], -1)
            x_bar[t] = inward @ wi
            wi_bar, wh_bar = wi_bar + inward.T @ x[t], wh_bar + onward.T @ h
            carry = g * z + onward @ wh
            if ctx.every and t and t % ctx.every == 0:
                carry = torch.zeros_like(carry)
        return x_bar, carry, wi_bar, wh_bar, None


class Layer(nn.Module):
    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.wi, self.wh = nn.Parameter(drawn(12, 3) / 2), nn.Parameter(drawn(12, 4) / 2)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        return Gated.apply(x, h, self.wi, self.wh, self.every)  # type: ignore[no-untyped-call]


def test_a_gru_whose_carry_is_lost_every_four_steps() -> None:
    x, h = drawn(10, 2, 3), drawn(2, 4)

    right = check_sequence(Layer(0), x, h)
    wrong = check_sequence(Layer(4), x, h)
    declared = check_sequence(Layer(4), x, h, truncation=4)

    assert right.passed, right
    assert {"chunk", "lag"} <= {f.check for f in right.findings}
    (lag,) = [f for f in wrong.findings if f.check == "lag"]
    assert lag.diagnosis == "truncated: in blocks of 4"
    assert "chunk" in {f.check for f in wrong.findings if f.verdict is Verdict.FAIL}
    assert declared.passed, declared


class Cells(nn.Module):
    """An LSTM whose cell is detached after every step, or is not."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.cell, self.detached = nn.LSTMCell(3, 4).double(), detached

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        h, c = state
        outputs = []
        for now in x:
            h, c = self.cell(now, (h, c.detach() if self.detached else c))
            outputs.append(h)
        return torch.stack(outputs), (h, c)


def test_a_cell_that_is_detached_is_a_part_of_the_carry() -> None:
    x, state = drawn(6, 2, 3), (drawn(2, 4), drawn(2, 4))

    right = check_sequence(Cells(detached=False), x, state)
    wrong = check_sequence(Cells(detached=True), x, state)

    assert right.passed, right
    (lag,) = [f for f in wrong.findings if f.check == "lag"]
    assert lag.diagnosis == "carry: from lag 1 on"
    assert "a part of the state that is detached" in lag.message


class Tanh(torch.autograd.Function):
    """h_t = tanh(h_{t-1} W + x_t); a carry backwards that is changed on its way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, w: Tensor, handed: Any) -> Any:
        states = [h]
        for now in x:
            states.append(torch.tanh(states[-1] @ w + now))
        ctx.handed = handed
        ctx.save_for_backward(w, *states)
        return torch.stack(states[1:]), states[-1].clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor, carry: Tensor) -> Any:
        w, *states = ctx.saved_tensors
        x_bar, w_bar = torch.zeros_like(u), torch.zeros_like(w)
        for t in reversed(range(len(u))):
            inward = (u[t] + carry) * (1 - states[t + 1] ** 2)
            x_bar[t], w_bar = inward, w_bar + states[t].mT @ inward
            carry = ctx.handed(t, inward, w)
        return x_bar, carry, w_bar, None


@pytest.mark.parametrize(
    ("handed", "pattern"),
    [
        (lambda t, inward, w: inward @ w.mT, None),
        (lambda t, inward, w: inward @ w, "carry: from lag 1 on"),
        (
            lambda t, inward, w: (0.9 if t and t % 4 == 0 else 1.0) * inward @ w.mT,
            "carry spoilt: in blocks of 4",
        ),
    ],
)
def test_a_carry_that_is_changed_on_its_way_is_named(handed: Any, pattern: str | None) -> None:
    def layer(x: Tensor, h: Tensor, w: Tensor) -> Any:
        return Tanh.apply(x, h, w, handed)  # type: ignore[no-untyped-call]

    result = check_sequence(layer, drawn(10, 2, 4), drawn(2, 4), drawn(4, 4) / 2)

    (lag,) = [f for f in result.findings if f.check == "lag"]
    assert result.passed is (pattern is None), result
    assert lag.diagnosis == pattern


def test_declared_blocks_may_be_counted_from_any_step() -> None:
    steps = 8
    inputs = drawn(steps, 2, 4), drawn(2, 4), drawn(4, 4) / 2

    def asked(is_cut: Callable[[int], bool], truncation: int, factor: float = 1.0) -> Any:
        def handed(t: int, inward: Tensor, w: Tensor) -> Tensor:
            return (0.0 if is_cut(t) else factor) * inward @ w.mT

        def layer(x: Tensor, h: Tensor, w: Tensor) -> Any:
            return Tanh.apply(x, h, w, handed)  # type: ignore[no-untyped-call]

        return check_sequence(layer, *inputs, truncation=truncation)

    def from_the_last(t: int) -> bool:
        return (steps - t) % 3 == 0

    right = asked(from_the_last, 3)

    assert right.passed, right
    assert max(f.mismatch for f in right.findings) < 1e-9  # what is declared is no mismatch
    assert asked(lambda t: (t + 1) % 3 == 0, 3).passed
    assert asked(from_the_last, 4).verdict is Verdict.FAIL
    assert asked(from_the_last, 3, factor=1.01).verdict is Verdict.FAIL


def relaxed(step: Callable[[Any], Any], z: Any, tolerance: float) -> Any:
    def moves(carry: Any) -> Any:
        z, old = carry
        return jnp.linalg.norm(z - old) > tolerance * jnp.linalg.norm(z)

    return jax.lax.while_loop(moves, lambda carry: (step(carry[0]), carry[0]), (step(z), z))[0]


def step(z: Any, params: Any, x: Any) -> Any:
    return jnp.tanh(z @ params["w"] + x @ params["u"])


def layer_of(is_transposed: bool, tolerance: float) -> Any:
    """Forward and adjoint stop at a tolerance; the adjoint with Jᵀ, or with J in its place."""

    @jax.custom_vjp
    def layer(params: Any, x: Any) -> Any:
        z = jnp.zeros((len(x), len(params["w"])))
        return relaxed(lambda z: step(z, params, x), z, tolerance)

    def forward(params: Any, x: Any) -> Any:
        z = layer(params, x)
        return z, (z, params, x)

    def backward(kept: Any, u: Any) -> Any:
        z, params, x = kept
        _, pulled = jax.vjp(step, z, params, x)
        pushed: Any = jax.linearize(lambda z: step(z, params, x), z)[1]
        times = pushed if is_transposed else lambda w: pulled(w)[0]
        return pulled(relaxed(lambda w: u + times(w), u, tolerance))[1:]

    layer.defvjp(forward, backward)
    return layer


W, U = RNG.standard_normal((5, 5)), RNG.standard_normal((3, 5))
PARAMS = {"w": 0.7 * W / np.linalg.norm(W, 2), "u": U}


@pytest.mark.parametrize("tolerance", [1e-5, 1e-13])
def test_an_equilibrium_whose_adjoint_takes_the_jacobian_for_its_transpose(
    tolerance: float,
) -> None:
    x = RNG.standard_normal((2, 3))

    right = check_fixed_point(layer_of(False, tolerance), PARAMS, x, step=step)
    wrong = check_fixed_point(layer_of(True, tolerance), PARAMS, x, step=step)

    assert right.passed, right
    found = {f.diagnosis for f in wrong.findings if f.check == "implicit"}
    assert found == {"transposed"}


def _relaxed(w: Array, b: Array) -> Array:
    z = np.zeros_like(b)
    for _ in range(5):
        z = np.tanh(w @ z + b)
    return z


def _implicit(terms: int) -> Rule:
    """A relaxation cut off after five steps, with so many terms of the series of its adjoint."""

    def vjp(inputs: Any, u: Array) -> Any:
        w, b = inputs
        z = _relaxed(w, b)
        slope, y = 1 - np.tanh(w @ z + b) ** 2, u
        for _ in range(terms):
            y = u + w.T @ (slope * y)
        return np.outer(slope * y, z), slope * y

    return Rule(_relaxed, vjp)


def _step_back(inputs: Any, u: Array) -> Any:
    z, w, b = inputs
    slope = u * (1 - np.tanh(w @ z + b) ** 2)
    return w.T @ slope, np.outer(slope, z), slope


@pytest.mark.parametrize("terms", [6, 200])
def test_so_far_from_rest_only_the_gradient_of_the_equation_passes(terms: int) -> None:
    """What is known there is less than a tenth, and what is off by less is neither right."""
    rng = np.random.default_rng(11)
    w, b = 0.3 * rng.standard_normal((4, 4)), rng.standard_normal(4)
    step = Rule(lambda z, w, b: np.tanh(w @ z + b), _step_back)

    result = check_fixed_point(_implicit(terms), w, b, step=step)

    wanted = Verdict.PASS if terms == 200 else Verdict.INCONCLUSIVE
    assert result.verdict is wanted, result
