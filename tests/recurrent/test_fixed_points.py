"""Layers that relax to a fixed point: right ones pass, and a wrong gradient is named."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradcheck import CheckResult, InputError, Rule, Verdict, check, check_fixed_point

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


def damped(pull: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    return settled(lambda w: 0.9 * pull(w), u)


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


def test_a_layer_that_runs_in_float32_only_beside_a_map_that_runs_in_float64() -> None:
    class Only(Equilibrium):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            z: Tensor = super().forward(x)
            return z

    right, wrong = Only(settled).float(), Only(None).float()

    assert asked(right, X.float()).passed, asked(right, X.float())
    assert found(asked(wrong, X.float()), "implicit")[0].diagnosis == "one step"


def test_an_adjoint_that_cannot_be_solved_for_nothing_is_asked_in_float64_too() -> None:
    def divided(pull: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        if not u.any():
            raise ValueError("nothing to solve for")
        return settled(pull, u)

    result = asked(Equilibrium(divided).float(), X.float())

    assert result.passed, result
    assert found(result, "residual")[0].mismatch < 1e-12


def test_of_an_empty_batch_nothing_is_said() -> None:
    result = asked(Equilibrium(settled), X[:0])

    assert result.passed, result
    assert {
        f"{check}: the state is empty" for check in ("residual", "implicit", "unrolled")
    } <= set(result.not_checked)


def solved(x: Tensor, w: Tensor) -> Tensor:
    """The fixed point of z ↦ z w + x, by a solver."""
    z: Tensor = torch.linalg.solve(torch.eye(len(w), dtype=w.dtype) - w.T, x.T)
    return z.T


def test_a_fixed_point_at_zero_has_no_gradient_to_fall_short_of() -> None:
    w = 0.5 * torch.eye(INPUTS, dtype=X.dtype)

    result = check_fixed_point(lambda x, w: 0 * solved(x, w), X, w, step=lambda z, x, w: z @ w)

    assert result.passed, result


def test_a_map_that_settles_slowly_is_not_unrolled() -> None:
    w = torch.diag(torch.tensor([0.999, -0.5, 0.9], dtype=X.dtype))

    right = check_fixed_point(solved, X, w, step=lambda z, x, w: z @ w + x)
    wrong = check_fixed_point(
        lambda x, w: solved(x, w.detach()) + 0 * w.sum(), X, w, step=lambda z, x, w: z @ w + x
    )

    assert right.passed, right
    assert any("unrolled: of spectral radius 0.999" in line for line in right.not_checked)
    assert [f.leaf for f in found(wrong, "implicit") if f.verdict is Verdict.FAIL] == ["input[1]"]


def test_a_step_that_cannot_be_differentiated_is_told_from_the_layer() -> None:
    layer = Equilibrium(settled)

    def step(z: Tensor, x: Tensor) -> Tensor:
        y = torch.tanh(z)
        kept: Tensor = layer.cell(z, x) + y**2
        y.mul_(0)  # what the backward needs is overwritten
        return kept

    with pytest.raises(InputError, match=r"step to be a map .* differentiated, it raised Runtime"):
        check_fixed_point(layer, X, step=step)


WRONG = {
    "one step": None,
    "3 steps": stopped,
    "sign of the Jacobian": negated,
    "scaled Jacobian: 0.9": damped,
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

    (wrong,) = [f for f in found(result, "implicit") if f.verdict is Verdict.FAIL]
    assert wrong.leaf == "params.cell.b"
    assert wrong.diagnosis == "this leaf alone"  # an adjoint that stopped early would show in all


def test_a_factor_of_one_leaf_alone_is_no_adjoint_that_stopped() -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, b: Tensor) -> Tensor:
            return b.clone()

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> Tensor:
            return 1.001 * u

    class Spoilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Equilibrium(settled)

        def forward(self, x: Tensor) -> Tensor:
            b = Scaled.apply(self.layer.cell.b)  # type: ignore[no-untyped-call]
            z: Tensor = torch.func.functional_call(self.layer, {"cell.b": b}, (x,))
            return z

    layer = Spoilt()
    result = check_fixed_point(layer, X, step=layer.layer.cell)

    (wrong,) = [f for f in found(result, "implicit") if f.verdict is Verdict.FAIL]
    assert wrong.diagnosis == "constant factor: 1.001"


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


def test_an_exact_gradient_that_is_declared_to_be_cut_off_is_told() -> None:
    implicit = found(asked(Equilibrium(settled), terms=1), "implicit")

    assert {f.diagnosis for f in implicit if f.verdict is Verdict.FAIL} == {"whole"}
    assert "leave out terms" in implicit[0].message


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


Solver = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def until(tolerance: float) -> Solver:
    """A relaxation that stops when a step moves the state by less than that."""

    def solved(step: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        for _ in range(500):
            old, z = z, step(z)
            if (z - old).norm() <= tolerance * z.norm():
                break
        return z

    return solved


class Tolerant(nn.Module):
    """The usual layer: both relaxations stop at a tolerance; its adjoint is what `spoil` makes."""

    def __init__(self, tolerance: float, spoil: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.cell, self.solve, self.spoil = Cell(), until(tolerance), spoil

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.solve(lambda z: self.cell(z, x), x.new_zeros(len(x), HIDDEN))
        fixed: Tensor = self.cell(z, x)
        if fixed.requires_grad:
            inside = z.clone().requires_grad_()
            again = self.cell(inside, x.detach())

            def pulled(u: Tensor) -> Tensor:
                def step(w: Tensor) -> Tensor:
                    return u + torch.autograd.grad(again, inside, w, retain_graph=True)[0]

                return self.spoil(u, self.solve(step, u))

            fixed.register_hook(pulled)  # type: ignore[no-untyped-call]
        return fixed


@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-5, 1e-6, 1e-8])
def test_a_solver_with_an_ordinary_tolerance_is_held_to_that(tolerance: float) -> None:
    right = Tolerant(tolerance, lambda u, w: w)
    wrong = Tolerant(tolerance, lambda u, w: u)

    result = check_fixed_point(right, X, step=right.cell)

    assert result.passed, result
    assert any("adjoint: the layer stops at a residual" in line for line in result.not_checked)
    implicit = found(check_fixed_point(wrong, X, step=wrong.cell), "implicit")
    assert {f.verdict for f in implicit if f.leaf == "params.cell.u"} == {Verdict.FAIL}


def test_what_is_off_by_more_than_a_tolerance_explains_does_not_pass() -> None:
    wrong = Tolerant(1e-2, lambda u, w: 1.03 * w)

    result = check_fixed_point(wrong, X, step=wrong.cell)

    assert result.verdict is Verdict.INCONCLUSIVE, result
    assert "take more steps, forward and backward" in str(result).replace("\n      ", " ")


def test_what_neither_map_nor_differences_say_anything_about_is_inconclusive() -> None:
    layer = Tolerant(1e-5, lambda u, w: w)

    result = check_fixed_point(layer, X, step=lambda z, x: layer.cell(z, x))

    assert result.verdict is Verdict.INCONCLUSIVE
    open_ = [f for f in found(result, "implicit") if f.verdict is Verdict.INCONCLUSIVE]
    assert {f.leaf for f in open_} == {"params.cell.w", "params.cell.u", "params.cell.b"}
    assert "give step the module" in str(result)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_state_has_the_dtype_that_the_layer_gives_it(dtype: torch.dtype) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = nn.Parameter(drawn(5, 3, seed=6).to(dtype))
            self.w = nn.Parameter(0.3 * drawn(3, 3, seed=7).to(dtype))

        def step(self, z: Tensor, tokens: Tensor) -> Tensor:
            return torch.tanh(z @ self.w + self.inputs[tokens])

        def forward(self, tokens: Tensor) -> Tensor:
            z = self.w.new_zeros(len(tokens), 3)
            for _ in range(60):
                z = self.step(z, tokens)
            return z

    layer = Tokens()

    for tokens in (torch.arange(4), np.arange(4)):
        result = check_fixed_point(layer, tokens, step=layer.step)
        assert result.passed, result
        assert {f.leaf for f in found(result, "implicit")} == {"params.inputs", "params.w"}


class Named(NamedTuple):
    h: Tensor
    g: Tensor


class Nested(nn.Module):
    """Two arrays of state, nested as it is said."""

    def __init__(self, nest: Callable[[Tensor, Tensor], Any], take: Callable[[Any], Any]) -> None:
        super().__init__()
        self.nest, self.take = nest, take
        self.a = nn.Parameter(0.3 * drawn(3, 3, seed=4))

    def step(self, z: Any, x: Tensor) -> Any:
        h, g = self.take(z)
        return self.nest(torch.tanh(g @ self.a + x), torch.sin(h @ self.a.T))

    def forward(self, x: Tensor) -> Any:
        z = self.nest(torch.zeros_like(x), torch.zeros_like(x))
        for _ in range(80):
            z = self.step(z, x)
        return z


NESTED: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], Any]]] = {
    "a dict": (lambda h, g: {"h": h, "g": g}, lambda z: (z["h"], z["g"])),
    "a dict in a list": (lambda h, g: [h, {"g": (g,)}], lambda z: (z[0], z[1]["g"][0])),
    "tuples": (lambda h, g: ((h,), g), lambda z: (z[0][0], z[1])),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_state_is_nested_as_the_layer_nests_it(name: str) -> None:
    layer = Nested(*NESTED[name])

    result = check_fixed_point(layer, drawn(2, 3), step=layer.step)

    assert result.passed, result
    assert {f.leaf for f in found(result, "implicit")} == {"input[0]", "params.a"}


def test_what_the_map_returns_in_another_order_is_found_by_its_name() -> None:
    layer = Nested(*NESTED["a dict"])

    def step(z: Any, x: Tensor) -> Any:
        return dict(reversed(layer.step(z, x).items()))

    result = check_fixed_point(layer, drawn(2, 3), step=step)

    assert result.passed, result
    assert found(result, "residual")[0].mismatch < 1e-12


def test_a_state_in_a_class_is_refused() -> None:
    layer = Nested(Named, lambda z: z)

    with pytest.raises(InputError, match=r"tuples and dicts of arrays; got one at output\.h"):
        check_fixed_point(layer, drawn(2, 3), step=layer.step)


MISUSE: list[tuple[dict[str, Any], str]] = [
    ({"step": 3}, "step to be a map"),
    ({"step": Cell(), "terms": 0}, "terms to be a number"),
    ({"step": Cell(), "terms": True}, "terms to be a number"),
    ({"step": lambda z: z}, "called with 2 arguments .* it raised TypeError"),
    ({"step": lambda z, x: z[1]["h"]}, r"z all that the layer returns; .* \(z \(2, 4\) and"),
    ({"step": lambda z, x: z @ torch.ones(HIDDEN, 1, dtype=z.dtype)}, "shapes that the layer"),
]


@pytest.mark.parametrize(("options", "message"), MISUSE)
def test_misuse_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_fixed_point(Equilibrium(settled), X, **options)


@pytest.mark.parametrize(("terms", "verdict"), [(None, "pass"), (1, "fail")])
def test_a_layer_and_its_map_may_be_written_by_hand(terms: int | None, verdict: str) -> None:
    w = 0.2 * drawn(4, 4, seed=1).numpy()

    def step(z: Any, x: Any) -> Any:
        return np.tanh(z @ w.T + x)

    def pulled(inputs: Any, u: Any) -> Any:
        p = u * (1 - step(*inputs) ** 2)
        return p @ w, p

    def relaxed(x: Any) -> Any:
        z = np.zeros_like(x)
        for _ in range(100):
            z = step(z, x)
        return z

    def implicit(inputs: Any, u: Any) -> Any:
        z, total = relaxed(*inputs), u
        for _ in range(100 if terms is None else 0):
            total = u + pulled((z, *inputs), total)[0]
        return (pulled((z, *inputs), total)[1],)

    layer, x = Rule(relaxed, implicit), drawn(2, 4).numpy()
    assert check_fixed_point(layer, x, step=Rule(step, pulled)).verdict == verdict


def test_far_from_rest_nothing_is_sure_and_nothing_passes() -> None:
    """One step there and one back: what is left of the way hides what is wrong."""
    result = asked(Equilibrium(lambda pull, u: u + 0.5 * pull(u), steps=1), rtol=1e-6)
    (implicit, *_) = found(result, "implicit")

    assert implicit.mismatch > 1e-2
    assert implicit.verdict is not Verdict.PASS, result


class Stopping(nn.Module):
    """Both solvers stop at 1e-10 of the state, and of the adjoint."""

    def __init__(self, cell: Cell, factor: float) -> None:
        super().__init__()
        self.cell, self.factor = cell, factor

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = _solved(lambda z: self.damped(z, x), x.new_zeros(len(x), len(self.cell.b)))
        fixed = self.damped(z, x)
        if not fixed.requires_grad:
            return fixed
        inside = fixed.detach().requires_grad_()
        again = self.damped(inside, x.detach())

        def solve(u: Tensor) -> Tensor:
            def step(w: Tensor) -> Tensor:
                return u + torch.autograd.grad(again, inside, w, retain_graph=True)[0]

            return self.factor * _solved(step, torch.zeros_like(u))

        fixed.register_hook(solve)  # type: ignore[no-untyped-call]
        return fixed

    def damped(self, z: Tensor, x: Tensor) -> Tensor:
        moved: Tensor = self.cell(z, x)
        return 0.5 * (z + moved)


def _solved(step: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    for _ in range(500):
        new = step(z)
        if (new - z).norm() <= 1e-10 * new.norm():
            return new
        z = new
    return z


FLOAT64: Any = {"dtype": torch.float64}


@pytest.mark.parametrize("seed", range(2))
def test_what_solvers_leave_is_no_wrong_entry(seed: int) -> None:
    cell = Cell()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        cell.w = nn.Parameter(0.2 * torch.randn(5, 5, **FLOAT64))
        cell.u = nn.Parameter(torch.randn(5, 3, **FLOAT64))
        cell.b = nn.Parameter(0.1 * torch.randn(5, **FLOAT64))
        x = torch.randn(2, 3, **FLOAT64)
    layer, wrong = Stopping(cell, 1.0), Stopping(cell, 1 + 1e-5)
    result = check_fixed_point(layer, x, step=layer.damped)
    assert result.verdict is not Verdict.FAIL, str(result)
    assert check_fixed_point(wrong, x, step=wrong.damped).verdict is Verdict.FAIL
