"""What a pass stores on its module is there until its backward pass has run, and is then undone."""

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcheck
from gradcheck import Verdict


def _x(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Scaled(nn.Module):
    """A rule that reads in its backward pass what the forward pass put on the module."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> Any:
        module = self
        self.scale = torch.arange(3, dtype=x.dtype) + 1

        class Times(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                return x * module.scale

            @staticmethod
            def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
                return module.factor * u * module.scale

        return Times.apply(x)  # type: ignore[no-untyped-call]


class Equilibrium(nn.Module):
    """A hook that solves for the gradient, and takes itself away before it asks for one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * _x(4, 4))
        self.hook: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(60):
                z = torch.tanh(z @ self.weight + x)
        if not torch.is_grad_enabled():
            return z
        z.requires_grad_()
        found = torch.tanh(z @ self.weight + x)

        def solve(u: torch.Tensor) -> torch.Tensor:
            self.hook.remove()
            y = u
            for _ in range(60):
                y = torch.autograd.grad(found, z, y, retain_graph=True)[0] + u
            return y

        self.hook = found.register_hook(solve)  # type: ignore[no-untyped-call]
        return found


def test_what_the_forward_pass_leaves_is_there_in_the_backward_pass() -> None:
    module = Scaled()
    assert gradcheck.check(module, _x(2, 3), checks="all").passed
    assert not hasattr(module, "scale")
    assert gradcheck.check(Scaled(1.1), _x(2, 3)).verdict is Verdict.FAIL


def test_a_hook_finds_its_handle() -> None:
    """A second forward pass would take it away: two at a time are not tried, which is said."""
    result = gradcheck.check(Equilibrium(), _x(2, 4))
    assert result.passed, str(result)
    assert any("the handle of a hook" in finding.message for finding in result.findings)


STORES: dict[str, Callable[[torch.Tensor], Any]] = {
    "list": lambda h: [h],
    "dict": lambda h: {0: h},
    "deque": lambda h: deque([h]),
    "tensor": lambda h: h,
}


@pytest.mark.parametrize("kind", STORES)
def test_a_state_is_undone_wherever_it_is_kept(kind: str) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(3, 4).double()
            self.state = STORES[kind](torch.zeros(2, 4, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.cell(x, self.state.clone() if kind == "tensor" else self.state[0])
            if kind == "tensor":
                self.state.copy_(h.detach())
            else:
                self.state[0] = h.detach()
            return h  # type: ignore[no-any-return]

    module = Recurrent()
    result = gradcheck.check(module, _x(2, 3))
    assert result.passed, str(result)
    kept = module.state if kind == "tensor" else module.state[0]
    assert not torch.any(kept)


GENERATORS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.Generator().manual_seed(5),
    "numpy": lambda: np.random.default_rng(5),
    "numpy, old": lambda: np.random.RandomState(5),
    "python": lambda: random.Random(5),
}


def _mask(generator: Any) -> torch.Tensor:
    if isinstance(generator, torch.Generator):
        return torch.rand(12, generator=generator, dtype=torch.float64)
    if isinstance(generator, np.random.Generator):
        return torch.from_numpy(generator.random(12))
    if isinstance(generator, np.random.RandomState):
        return torch.from_numpy(generator.rand(12))
    return torch.tensor([generator.random() for _ in range(12)], dtype=torch.float64)


class Noisy(nn.Module):
    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * _mask(self.generator)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("on_module", [True, False])
def test_a_generator_of_its_own_draws_the_same_and_goes_on(kind: str, on_module: bool) -> None:
    generator = GENERATORS[kind]()

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x * _mask(generator)

    result = gradcheck.check(Noisy(generator) if on_module else noisy, _x(12))
    assert result.passed, str(result)
    assert torch.equal(_mask(generator), _mask(GENERATORS[kind]()))


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modules_of_torchscript_are_modules(how: str) -> None:
    jit: Any = torch.jit
    compiled = jit.script if how == "script" else partial(jit.trace, example_inputs=_x(2, 3))
    module = compiled(nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double())
    inside = nn.Sequential(compiled(nn.Linear(3, 4).double()), nn.Tanh())
    for target in (module, inside):
        result = gradcheck.check(target, _x(2, 3))
        assert result.passed, str(result)
        assert {"params.0.weight", "params.0.bias"} <= {f.leaf for f in result.findings}


def test_hooks_that_do_not_run_are_said() -> None:
    layer: Any = nn.Linear(3, 2).double()
    layer.weight.register_hook(lambda g: 2 * g)
    assert any(
        "hooks on params.weight" in why for why in gradcheck.check(layer, _x(2, 3)).not_checked
    )


def test_a_target_that_takes_tangents_itself_has_no_forward_mode() -> None:
    def hessian(x: torch.Tensor) -> Any:
        return torch.func.hessian(lambda x: (x**3).sum())(x)

    result = gradcheck.check(hessian, _x(3), checks="all")
    assert result.verdict is Verdict.PASS, str(result)
    assert any(why.startswith("jvp: forward mode is not supported") for why in result.not_checked)
