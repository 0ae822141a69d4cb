"""One layer of a PyTorch network is wrong: it is named and proved, and nobody else is."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradcheck.culprit import find_culprit
from tests.culprit.torch_layers import Applied, Frozen, RootMean, dense, dense_layer, swish, wave
from tests.culprit.torch_networks import NETWORKS, Build, batch, linears, random_and_counting

pytestmark = pytest.mark.usefixtures("_double")
NAMES = [build.__name__ for build in NETWORKS]


@pytest.fixture
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize(("build", "planted"), NETWORKS.items(), ids=NAMES)
def test_the_culprit_is_named_and_proved(build: Build, planted: str) -> None:
    model, inputs = build(True)

    blame = find_culprit(model, *inputs)

    assert [suspect.path for suspect in blame.culprits] == [planted], blame
    assert len(blame.suspects) == 1


@pytest.mark.parametrize("build", NETWORKS, ids=NAMES)
def test_nobody_is_accused_in_its_right_twin(build: Build) -> None:
    model, inputs = build(False)

    blame = find_culprit(model, *inputs)

    assert blame.result.passed
    assert blame.suspects == ()


def test_two_culprits_are_proved_together_and_an_innocent_is_not() -> None:
    unused = Applied(wave(2.0))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(RootMean(True), *linears(2), dense_layer("bias"))
            self.unused = unused

        def forward(self, x: Tensor) -> Any:
            return self.body(x) + 0 * self.unused(x)

    blame = find_culprit(Network(), *batch())

    assert {suspect.path for suspect in blame.culprits} == {"body.0", "body.5.Dense"}, blame
    assert [s.path for s in blame.suspects if not s.proved] == ["unused.Wave"]


def test_what_is_wrong_between_the_parts_is_said() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Any:
            return self.two(torch.tanh(self.one(x)).detach() + x)

    blame = find_culprit(Cut(), *batch())

    assert blame.suspects == ()
    assert "no part is wrong by itself" in str(blame)


def test_a_culprit_is_proved_beside_what_is_cut_off_on_purpose() -> None:
    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.teacher = nn.Sequential(*linears(1), RootMean(True)), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Any:
            return self.body(x) - self.teacher(x).detach()

    purpose = {"params.teacher.*": "the teacher is data", "input[0]": "and so is what it says"}

    alone = find_culprit(Student(), *batch())
    told = find_culprit(Student(), *batch(), declared=purpose)

    assert [(s.path, s.proved) for s in alone.suspects] == [("body.2", False)]
    assert [(s.path, s.proved) for s in told.suspects] == [("body.2", True)]


def test_a_rule_that_is_too_large_for_differences_is_proved_by_its_forward() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = nn.Linear(2, 70, bias=False), nn.Linear(70, 1, bias=False)
            self.rule, self.weight = dense("bias"), torch.eye(70)

        def forward(self, x: Tensor) -> Any:
            y = self.rule.apply(
                self.narrow(x).tanh(), self.weight.clone().requires_grad_(), x.sum()
            )
            return self.wide(y)

    blame = find_culprit(Wide(), *batch(3, 2))

    assert [suspect.path for suspect in blame.culprits] == ["Dense"], blame


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()


class Laid(Sine):
    """A sine that takes its input for contiguous."""

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return u * (x.cos() if x.is_contiguous() else x.t().cos())


class Summed(Sine):
    """A sine that takes its cotangent for contiguous."""

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        return u * ctx.saved_tensors[0].cos() * (2 if 0 in u.stride() else 1)


class Around(nn.Module):
    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


@pytest.mark.parametrize(
    ("run", "named"),
    [
        (lambda x: Laid.apply(x.t()).t(), "2.Laid"),  # type: ignore[no-untyped-call]
        (lambda x: Summed.apply(x).sum(0).expand(3, 3) * 1.0, "2.Summed"),  # type: ignore[no-untyped-call]
    ],
)
def test_a_rule_that_is_wrong_as_its_arrays_lie_is_named_and_not_what_is_around_it(
    run: Callable[[Tensor], Tensor], named: str
) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 3), nn.Tanh(), Around(run), nn.Linear(3, 3), nn.Sigmoid()]
    blame = find_culprit(nn.Sequential(*layers).double(), torch.randn(3, 3, dtype=torch.float64))
    assert [(s.path, s.proved) for s in blame.suspects] == [(named, True)], blame


def test_of_a_large_rule_in_numpy_it_is_said_that_it_is_not_proved() -> None:
    class InNumpy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return torch.from_numpy(np.sin(x.numpy()))

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> Any:
            return 1.1 * u * ctx.saved_tensors[0].cos()

    apply: Callable[[Tensor], Tensor] = InNumpy.apply
    model = nn.Sequential(nn.Linear(2, 70), Around(apply), nn.Linear(70, 1)).double()
    blame = find_culprit(model, torch.ones(70, 2, dtype=torch.float64))
    assert [(s.path, s.proved) for s in blame.suspects] == [("1.InNumpy", None)], blame


def test_a_module_that_is_too_large_for_differences_is_a_suspect() -> None:
    model = nn.Sequential(nn.Linear(2, 70), Frozen(True, 70, 70), nn.Linear(70, 1))

    blame = find_culprit(model, *batch(1, 2))

    assert [(s.path, s.proved) for s in blame.suspects] == [("1", None)]
    assert "suspect, not proved: 1 (module)" in str(blame)


def test_modules_that_a_function_finds_by_itself_are_parts() -> None:
    inner = nn.Sequential(nn.Linear(3, 3), Applied(swish(True)), nn.Linear(3, 3))

    blame = find_culprit(lambda x: inner(x).tanh(), *batch())

    assert [s.path for s in blame.culprits] == ["Sequential.Applied.Swish"], blame


def test_a_run_leaves_everything_as_it_was() -> None:
    model, inputs = random_and_counting(True)
    call, apply = nn.Module.__call__, torch.autograd.Function.apply
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    randomness = torch.get_rng_state()

    find_culprit(model, *inputs)

    assert nn.Module.__call__ is call
    assert torch.autograd.Function.apply == apply
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), randomness)
    assert all(not m._forward_hooks and "forward" not in vars(m) for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        raise ValueError("broken")


def test_a_part_whose_backward_raises_is_the_culprit() -> None:
    blame = find_culprit(nn.Sequential(nn.Linear(3, 3), Applied(Broken), nn.Tanh()), *batch(2, 3))

    assert blame.result.verdict == "error"
    assert [suspect.path for suspect in blame.suspects] == ["1.Broken"], blame
    assert "broken" in str(blame)


def test_a_network_that_does_not_run_is_an_error_and_no_exception() -> None:
    blame = find_culprit(nn.Linear(3, 3), *batch(2, 5))

    assert blame.result.verdict == "error"
    assert "shapes cannot be multiplied" in str(blame.result)


def test_a_module_that_is_run_by_its_forward_is_a_part() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ (self.w + self.w.detach()) / 2)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), Half(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            return self.c(self.b.forward(self.a(x)))

    network = Network()
    blame = find_culprit(network, torch.randn(3, 4))

    assert [suspect.path for suspect in blame.culprits] == ["b"]
    assert "forward" not in vars(network.b)
