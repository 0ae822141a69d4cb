"""Layers that relax to a fixed point: right ones pass, and a wrong gradient is named."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradcheck import CheckResult, InputError, Verdict, check, check_fixed_point

BATCH, INPUTS, HIDDEN = 2, 3, 4


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


X = drawn(BATCH, INPUTS)


class Cell(nn.Module):
    def __init__(self, gain: float = 0.7) -> None:
        super().__init__()
        w = drawn(HIDDEN, HIDDEN, seed=1)
        self.w = nn.Parameter(gain * w / torch.linalg.matrix_norm(w, 2))
        self.u = nn.Parameter(drawn(HIDDEN, INPUTS, seed=2))
        self.b = nn.Parameter(0.1 * drawn(HIDDEN, seed=3))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z @ self.w.T + x @ self.u.T + self.b)


Adjoint = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def settled(pull: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    w = u
    for _ in range(60):
        w = u + pull(w)
    return w


def stopped(pull: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    return u + pull(u + pull(u))


def negated(pull: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    w = u
    for _ in range(60):
        w = u - pull(w)
    return w


def transposed(pull: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    rows = [pull(e.reshape(u.shape)).reshape(-1) for e in torch.eye(u.numel(), dtype=u.dtype)]
    w: Tensor = torch.linalg.solve(torch.eye(u.numel()) - torch.stack(rows), u.reshape(-1))
    return w.reshape(u.shape)


def relaxed(pull: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """Halfway at every step, and stopped: near the solution and no partial sum."""
    w = torch.zeros_like(u)
    for _ in range(12):
        w = 0.5 * w + 0.5 * (u + pull(w))
    return w


class Equilibrium(nn.Module):
    """A deep equilibrium layer: relaxed without a graph, its gradient corrected by a hook."""

    def __init__(self, adjoint: Adjoint | None, steps: int = 80) -> None:
        super().__init__()
        self.cell, self.adjoint, self.steps = Cell(), adjoint, steps

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = x.new_zeros(len(x), HIDDEN)
            for _ in range(self.steps):
                z = self.cell(z, x)
        fixed: Tensor = self.cell(z, x)
        if self.adjoint is None:
            return fixed
        inside = z.clone().requires_grad_()
        with torch.enable_grad():
            again = self.cell(inside, x.detach())

        def pull(w: Tensor) -> Tensor:
            return torch.autograd.grad(again, inside, w, retain_graph=True)[0]

        adjoint = self.adjoint
        fixed.register_hook(lambda u: adjoint(pull, u))  # type: ignore[no-untyped-call]
        return fixed


def asked(layer: Equilibrium, x: Tensor = X, **options: Any) -> CheckResult:
    return check_fixed_point(layer, x, step=layer.cell, **options)


def found(result: CheckResult, check: str) -> list[Any]:
    return [finding for finding in result.findings if finding.check == check]


def test_a_right_layer_passes_every_question() -> None:
    result = asked(Equilibrium(settled))

    assert result.passed, result
    assert {f.leaf for f in found(result, "implicit")} == {
        "input[0]",
        "params.cell.w",
        "params.cell.u",
        "params.cell.b",
    }
    (residual,), (unrolled,) = found(result, "residual"), found(result, "unrolled")
    assert "spectral radius" in residual.message
    assert unrolled.mismatch < 1e-7
    assert found(result, "vjp")


def test_it_passes_as_any_layer_does_though_it_cannot_run_without_a_graph() -> None:
    result = check(Equilibrium(settled), X)

    assert result.passed, result


def test_in_float32() -> None:
    right, wrong = Equilibrium(settled).float(), Equilibrium(None).float()

    assert asked(right, X.float()).passed
    assert found(asked(wrong, X.float()), "implicit")[0].diagnosis == "one step"


WRONG = {
    "one step": None,
    "3 steps": stopped,
    "sign of the Jacobian": negated,
    "transposed": transposed,
    "sign": lambda pull, u: -settled(pull, u),
    "constant factor: 2": lambda pull, u: 2 * settled(pull, u),
    "not converged": relaxed,
    "zero": lambda pull, u: 0 * u,
}


@pytest.mark.parametrize("pattern", WRONG)
def test_a_wrong_gradient_is_named_for_what_it_is(pattern: str) -> None:
    result = asked(Equilibrium(WRONG[pattern]))

    wrong = found(result, "implicit")
    assert {f.diagnosis for f in wrong if f.verdict is Verdict.FAIL} == {pattern}
    assert any(f.verdict is Verdict.FAIL for f in found(result, "vjp"))  # differences say so too
    assert str(result).startswith("FAIL  implicit")


def test_an_error_in_one_leaf_alone_is_told_there() -> None:
    class Spoilt(Equilibrium):
        def forward(self, x: Tensor) -> Tensor:
            off = 1e-3 * self.cell.b
            z: Tensor = super().forward(x) + (off - off.detach())
            return z

    result = asked(Spoilt(settled))

    wrong = {f.leaf for f in found(result, "implicit") if f.verdict is Verdict.FAIL}
    assert wrong == {"params.cell.b"}


def test_a_relaxation_that_stops_early_is_held_to_the_equation() -> None:
    right, wrong = Equilibrium(settled, steps=6), Equilibrium(None, steps=6)

    result = asked(right)

    assert result.passed, result
    assert any("stops at a residual" in line for line in result.not_checked)
    assert found(asked(wrong), "implicit")[0].verdict is Verdict.FAIL


@pytest.mark.parametrize(("adjoint", "terms"), [(None, 1), (stopped, 3)])
def test_terms_that_are_declared_are_what_it_is_held_to(
    adjoint: Adjoint | None, terms: int
) -> None:
    assert asked(Equilibrium(adjoint), terms=terms).passed

    other = asked(Equilibrium(adjoint), terms=terms + 1)

    assert found(other, "implicit")[0].verdict is Verdict.FAIL


def test_another_map_than_the_layers_is_told() -> None:
    result = check_fixed_point(Equilibrium(settled), X, step=Cell(gain=0.1))

    (residual,) = found(result, "residual")
    assert residual.verdict is Verdict.FAIL
    assert "is it the layer's map" in residual.message
    assert not found(result, "implicit")


def test_a_map_without_the_parameters_is_asked_about_the_rest() -> None:
    layer = Equilibrium(settled)

    result = check_fixed_point(layer, X, step=lambda z, x: layer.cell(z, x))

    assert [f.leaf for f in found(result, "implicit")] == ["input[0]"]
    assert any("implicit at params.cell.w" in line for line in result.not_checked)


def map_of(z: Any, params: Any, x: Any) -> Any:
    return jnp.tanh(z @ params["w"] + x @ params["u"])


def layer_of(pull: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A layer in JAX whose VJP solves the adjoint with `pull` of (J, u)."""

    @jax.custom_vjp
    def layer(params: Any, x: Any) -> Any:
        z = jnp.zeros(params["w"].shape[0])
        return jax.lax.fori_loop(0, 100, lambda _, z: map_of(z, params, x), z)

    def forward(params: Any, x: Any) -> tuple[Any, Any]:
        z = layer(params, x)
        return z, (z, params, x)

    def backward(kept: Any, u: Any) -> Any:
        z, params, x = kept
        jacobian = jax.jacobian(map_of)(z, params, x)
        _, back = jax.vjp(map_of, z, params, x)
        return back(pull(jacobian, u))[1:]

    layer.defvjp(forward, backward)
    return layer


RNG = np.random.default_rng(9)
PARAMS = {"w": RNG.standard_normal((4, 4)) * 0.3, "u": RNG.standard_normal((3, 4))}


@pytest.mark.parametrize(
    ("pull", "pattern"),
    [
        (lambda j, u: jnp.linalg.solve(jnp.eye(4) - j.T, u), None),
        (lambda j, u: jnp.linalg.solve(jnp.eye(4) - j, u), "transposed"),
        (lambda j, u: u + j.T @ u, "2 steps"),
    ],
)
def test_in_jax(pull: Callable[[Any, Any], Any], pattern: str | None) -> None:
    x = RNG.standard_normal(3)

    result = check_fixed_point(layer_of(pull), PARAMS, x, step=map_of)

    assert {f.diagnosis for f in found(result, "implicit")} == {pattern}
    assert result.passed == (pattern is None), result


def test_two_arrays_of_state() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(0.3 * drawn(3, 3, seed=4))

        def step(self, z: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tanh(z[1] @ self.a + x), torch.sin(z[0] @ self.a.T)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z = torch.zeros_like(x), torch.zeros_like(x)
            for _ in range(80):
                z = self.step(z, x)
            return z

    layer = Pair()

    result = check_fixed_point(layer, drawn(2, 3), step=layer.step)

    assert result.passed, result
    assert {f.leaf for f in found(result, "implicit")} == {"input[0]", "params.a"}


MISUSE: list[tuple[dict[str, Any], str]] = [
    ({"step": 3}, "step to be a map"),
    ({"step": Cell(), "terms": 0}, "terms to be a number"),
    ({"step": lambda z, x: z @ torch.ones(HIDDEN, 1, dtype=z.dtype)}, "shapes that the layer"),
]


@pytest.mark.parametrize(("options", "message"), MISUSE)
def test_misuse_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_fixed_point(Equilibrium(settled), X, **options)
