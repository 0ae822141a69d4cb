"""One wrong layer is planted in a PyTorch network: it is named, and nobody else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradcheck.culprit import find_culprit

D = torch.float64


def _rule(factor: float) -> Any:
    class Wave(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.sin() + x

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return factor * u * (x.cos() + 1)

    return Wave


class Wavy(nn.Module):
    """An activation by a rule of its own."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.rule = _rule(factor)

    def forward(self, x: torch.Tensor) -> Any:
        return self.rule.apply(x)


class Scaled(nn.Module):
    """A layer that is wrong without a rule: it cuts a path off."""

    def __init__(self, is_wrong: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 4, dtype=D))
        self.is_wrong = is_wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = (x * x).mean(-1, keepdim=True)
        return self.weight * x / (1 + (size.detach() if self.is_wrong else size))


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.layers(x)


class Branches(nn.Module):
    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: torch.Tensor) -> Any:
        return {"sum": self.left(x) + self.right(x), "left": self.left(x)}


class Unrolled(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.cell, self.act = nn.Linear(4, 4).double(), act

    def forward(self, x: torch.Tensor) -> Any:
        h = x[0] * 0
        for x_t in x:
            h = self.act(self.cell(h) + x_t)
        return h


def _linear() -> nn.Module:
    return nn.Linear(4, 4).double()


def _chain(bad: nn.Module, at: int) -> nn.Module:
    layers: list[nn.Module] = [_linear(), nn.Tanh(), _linear(), nn.SiLU(), _linear(), nn.Tanh()]
    layers.insert(at, bad)
    return nn.Sequential(*layers)


Build = Callable[[nn.Module], tuple[nn.Module, str]]  # the part to plant -> network, its path
NETWORKS: dict[str, Build] = {
    "first": lambda bad: (_chain(bad, 0), "0"),
    "third": lambda bad: (_chain(bad, 2), "2"),
    "last": lambda bad: (_chain(bad, 6), "6"),
    "residual": lambda bad: (
        nn.Sequential(_linear(), Residual(_linear(), bad, _linear()), nn.Tanh(), _linear()),
        "1.layers.1",
    ),
    "branch": lambda bad: (
        Branches(nn.Sequential(_linear(), nn.Tanh()), nn.Sequential(_linear(), bad, _linear())),
        "right.1",
    ),
    "recurrent": lambda bad: (Unrolled(bad), "act"),
    "nested": lambda bad: (
        nn.Sequential(
            _linear(), nn.Sequential(nn.Tanh(), nn.Sequential(_linear(), bad)), _linear()
        ),
        "1.1.1",
    ),
    "normalized": lambda bad: (
        nn.Sequential(_linear(), nn.LayerNorm(4).double(), bad, nn.GELU(), _linear(), nn.Tanh()),
        "2",
    ),
}
BAD: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "rule doubled": (lambda: Wavy(2.0), lambda: Wavy(1.0)),
    "path cut off": (lambda: Scaled(True), lambda: Scaled(False)),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bad", BAD)
def test_the_culprit_is_named_and_proved(network: str, bad: str) -> None:
    torch.manual_seed(1)
    model, path = NETWORKS[network](BAD[bad][0]())
    x = torch.randn(3, 4, dtype=D)

    blame = find_culprit(model, x)

    wanted = path + (".Wave" if bad == "rule doubled" else "")
    assert [suspect.path for suspect in blame.culprits] == [wanted], blame
    assert len(blame.suspects) == 1


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bad", BAD)
def test_nobody_is_accused_in_a_healthy_network(network: str, bad: str) -> None:
    torch.manual_seed(1)
    model, _ = NETWORKS[network](BAD[bad][1]())

    blame = find_culprit(model, torch.randn(3, 4, dtype=D))

    assert blame.result.passed
    assert blame.suspects == ()


def test_what_is_wrong_between_the_parts_is_said() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = _linear(), _linear()

        def forward(self, x: torch.Tensor) -> Any:
            return self.two(torch.tanh(self.one(x)).detach() + x)

    blame = find_culprit(Cut(), torch.randn(3, 4, dtype=D))

    assert blame.suspects == ()
    assert "no part is wrong by itself" in str(blame)


def test_a_run_leaves_everything_as_it_was() -> None:
    model = _chain(Wavy(2.0), 2)
    apply, before = torch.autograd.Function.apply, [p.clone() for p in model.parameters()]

    find_culprit(model, torch.randn(3, 4, dtype=D))

    assert torch.autograd.Function.apply == apply
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(not m._forward_hooks and "forward" not in vars(m) for m in model.modules())
