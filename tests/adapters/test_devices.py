"""Targets beside the CPU, where there is such a device."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradcheck
from gradcheck.results import Verdict

DEVICES = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if not DEVICES[request.param]:
        pytest.skip(f"no device {request.param}")
    return str(request.param)


class Scaled(torch.autograd.Function):
    FACTOR = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        return Scaled.FACTOR * u * ctx.saved_tensors[0].cos()


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(3, 4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        return Scaled.apply(self.drop(self.inner(x)))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_a_module_with_dropout_is_checked_where_it_lives(
    device: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scaled, "FACTOR", factor)
    layer, x = Noisy().to(device), torch.randn(5, 3, device=device)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}

    result = gradcheck.check(layer, x)

    assert result.verdict is (Verdict.PASS if factor == 1 else Verdict.FAIL), result
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())


def test_the_culprit_is_named_where_it_lives(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scaled, "FACTOR", 1.1)

    blame = gradcheck.find_culprit(Noisy().to(device), torch.randn(5, 3, device=device))

    assert any(suspect.path.endswith("Scaled") for suspect in blame.suspects)
