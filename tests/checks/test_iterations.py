"""What is solved to a tolerance is known up to that: no failure, and no excuse for what is more."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import jumps
from gradcheck.results import Verdict


class Equilibrium(torch.autograd.Function):
    """z = tanh(W z + x) and its adjoint, by iteration until a step is small; a factor in W's."""

    @staticmethod
    def forward(ctx: Any, w: torch.Tensor, x: torch.Tensor, tol: float, factor: float) -> Any:
        z = torch.zeros_like(x)
        while True:
            before, z = z, torch.tanh(z @ w + x)
            if (z - before).norm() <= tol * (1 + z.norm()):
                break
        ctx.save_for_backward(w, x, z)
        ctx.tol, ctx.factor = tol, factor
        return z

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        w, x, z = ctx.saved_tensors
        slope, adjoint = 1 - torch.tanh(z @ w + x) ** 2, u
        while True:
            before, adjoint = adjoint, u + (adjoint * slope) @ w.mT
            if (adjoint - before).norm() <= ctx.tol * (1 + adjoint.norm()):
                break
        inner = adjoint * slope
        return ctx.factor * z.mT @ inner, inner, None, None


def _checked(tol: float, factor: float, dtype: torch.dtype, seed: int) -> gradcheck.CheckResult:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 5, dtype=dtype, generator=generator) / 4
    x = torch.randn(3, 5, dtype=dtype, generator=generator)

    def layer(w: torch.Tensor, x: torch.Tensor) -> Any:
        return Equilibrium.apply(w, x, tol, factor)  # type: ignore[no-untyped-call]

    return gradcheck.check(layer, w, x, checks="vjp")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("tol", [1e-4, 1e-6])
def test_a_right_implicit_layer_is_not_accused_of_its_tolerance(
    tol: float, dtype: torch.dtype, seed: int
) -> None:
    result = _checked(tol, 1.0, dtype, seed)
    assert result.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE), result
    if result.verdict is Verdict.INCONCLUSIVE:
        assert "stops at a tolerance" in str(result).replace("\n      ", " ")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("tol", "factor"), [(1e-4, 1.1), (1e-6, 1.01)])
def test_an_error_larger_than_the_tolerance_is_found(
    tol: float, factor: float, dtype: torch.dtype
) -> None:
    verdicts = [_checked(tol, factor, dtype, seed).verdict for seed in range(6)]

    assert Verdict.PASS not in verdicts
    assert verdicts.count(Verdict.FAIL) >= 5


def test_what_jumps_along_one_leaf_is_no_excuse_for_another() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(5, 5, dtype=torch.float64, generator=generator) / 4
    x = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    scale = torch.ones(5, dtype=torch.float64)

    def layer(w: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = Equilibrium.apply(w, x, 1e-4, 1.0)  # type: ignore[no-untyped-call]
        return z * (1.05 * scale - (0.05 * scale).detach())

    findings = gradcheck.check(layer, w, x, scale, checks="vjp").findings

    assert [f.leaf for f in findings if f.verdict is Verdict.FAIL] == ["input[2]"]


class Splats(torch.autograd.Function):
    """Sums bells, and leaves out of each what is below a threshold; a factor in the gradient."""

    @staticmethod
    def forward(ctx: Any, centres: torch.Tensor, factor: float) -> torch.Tensor:
        off = torch.linspace(-1, 1, 40, dtype=centres.dtype)[:, None] - centres
        bells = 0.5 * torch.exp(-4 * off**2)
        bells = bells * (bells > 1 / 255)
        ctx.save_for_backward(8 * off * bells)
        ctx.factor = factor
        return bells.sum(-1)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return ctx.factor * (u[:, None] * ctx.saved_tensors[0]).sum(0), None


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.05])
@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_is_no_excuse_for_a_factor(seed: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(6, dtype=torch.float64, generator=generator)

    def layer(x: torch.Tensor) -> Any:
        return Splats.apply(x, factor)  # type: ignore[no-untyped-call]

    wanted = Verdict.PASS if factor == 1 else Verdict.FAIL
    assert gradcheck.check(layer, centres, checks="vjp").verdict is wanted


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step", ["a threshold", "a quantiser"])
def test_a_term_that_is_cut_off_is_not_excused_by_its_steps(step: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(6, 8, dtype=torch.float64, generator=generator)
    x = torch.randn(5, 6, dtype=torch.float64, generator=generator)

    def layer(x: torch.Tensor) -> torch.Tensor:
        z = x @ w
        shares = torch.softmax(z, -1)
        if step == "a threshold":
            return z.tanh() + (shares * (shares > 0.02)).detach()
        return z.tanh() + (z.sin() + 1e-3 * torch.round(64 * z.sin())).detach()

    assert gradcheck.check(layer, x, checks="vjp").verdict is Verdict.FAIL


class Bisected(torch.autograd.Function):
    """y + y³ = x, between ends that depend on x: its jumps lie as near as its tolerance."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        low, high = -x.abs() - 1, x.abs() + 1
        while (high - low).max() > 1e-3:
            y = (low + high) / 2
            below = y + y**3 < x
            low, high = torch.where(below, y, low), torch.where(below, high, y)
        y = (low + high) / 2
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u / (1 + 3 * ctx.saved_tensors[0] ** 2)


@pytest.mark.parametrize("seed", range(3))
def test_many_jumps_are_looked_past(seed: int) -> None:
    x = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(200 + seed))

    assert gradcheck.check(Bisected, x, checks="vjp").verdict is not Verdict.FAIL


@pytest.mark.parametrize(
    ("phi", "wanted"),
    [
        (lambda t: np.sin(3 * t) + 1e-6 * (t > 0.123), 1e-6),
        (lambda t: np.sin(3 * t) + 1e-6 * np.floor(7 * t), 1e-6),
        (lambda t: np.sin(3 * t), 0.0),
        (lambda t: np.exp(t) * np.abs(t - 0.123), 0.0),
        (lambda t: max(t, 0.123) + 0.1 * max(t, -0.2), 0.0),
    ],
    ids=["one jump", "several", "smooth", "a kink", "two kinks"],
)
def test_a_jump_is_told_from_a_bend(phi: Callable[[float], float], wanted: float) -> None:
    height = jumps.highest(lambda t: float(phi(t) - phi(0.0)), -0.5, 0.5).height
    assert height == pytest.approx(wanted, rel=1e-2, abs=1e-12)


class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        ctx.factor = factor
        return y

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return ctx.factor * u * (1 - ctx.saved_tensors[0] ** 2), None


STEPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a mask": lambda x: x * (x > 0.05),
    "signs": lambda x: x + x.sign(),
    "a router": lambda x: x * (x == x.amax(-1, keepdim=True)),
    "a quantiser": lambda x: x + torch.round(256 * x) / 256,
}


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.001])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_steps_nearby_are_no_excuse(
    step: Callable[[torch.Tensor], torch.Tensor], factor: float
) -> None:
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def layer(x: torch.Tensor) -> torch.Tensor:
        return step(Tanh.apply(x, factor))  # type: ignore[no-untyped-call]

    wanted = Verdict.PASS if factor == 1 else Verdict.FAIL
    assert gradcheck.check(layer, x, checks="vjp").verdict is wanted


@pytest.mark.parametrize("eps", [1e-4, 1e-6, 1e-7])
def test_a_slope_that_only_the_finest_steps_see_is_not_that_of_the_coarse(eps: float) -> None:
    """A row of zeros, as of padding, under x / (|x| + eps): its gradient is 1 / eps."""
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[1] = 0
    result = gradcheck.check(lambda x: x / (x.norm(dim=-1, keepdim=True) + eps), x, checks="vjp")
    assert result.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE), result


class Relaxed(torch.nn.Module):
    """z = tanh(W z + U x), by iteration; its adjoint by a hook, of which a part may be lost."""

    def __init__(self, tol: float, kept: float) -> None:
        super().__init__()
        self.w, self.u = (torch.nn.Linear(6, 6, dtype=torch.float64) for _ in range(2))
        self.tol, self.kept = tol, kept

    def settled(self, step: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> Any:
        while True:
            before, z = z, step(z)
            if (z - before).norm() <= self.tol * (1e-5 + z.norm()):
                return z

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def step(z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.w(z) + self.u(x))

        with torch.no_grad():
            z = self.settled(step, torch.zeros_like(x))
        z = step(z)
        if z.requires_grad:
            z_ = z.detach().requires_grad_()
            y = step(z_)

            def relaxed(g: torch.Tensor) -> Any:
                def back(a: torch.Tensor) -> torch.Tensor:
                    return torch.autograd.grad(y, z_, a, retain_graph=True)[0] + self.kept * g

                return self.settled(back, torch.zeros_like(g))

            z.register_hook(relaxed)  # type: ignore[no-untyped-call]
        return z


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kept", [1.0, 0.99])
def test_a_tolerance_that_shows_along_one_leaf_is_that_of_all(kept: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = Relaxed(1e-6, kept)

    result = gradcheck.check(layer, torch.randn(3, 6, dtype=torch.float64), checks="vjp", seed=seed)

    if kept == 1.0:
        assert result.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE), result
        assert "an iteration that stops" in str(result)
    else:
        assert result.verdict is Verdict.FAIL, result
