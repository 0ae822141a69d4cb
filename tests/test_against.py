"""A layer against the reference's, at its own weights: right ones agree, wrong ones are named."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from gradcheck import InputError, Verdict, against_reference
from gradcheck.reference import (
    Convolution,
    Dense,
    ElmanCell,
    Embedding,
    GRUCell,
    LayerNorm,
    LSTMCell,
    MultiHeadAttention,
    Recurrent,
)


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


SEQUENCE = drawn(5, 2, 3)

RIGHT: dict[str, tuple[nn.Module, Any, tuple[Any, ...]]] = {
    "torch.nn.Linear": (nn.Linear(3, 4), Dense(inputs=3, outputs=4), (drawn(2, 3),)),
    "torch.nn.RNN": (nn.RNN(3, 4), Recurrent(cell=ElmanCell(), inputs=3, hidden=4), (SEQUENCE,)),
    "torch.nn.LSTM": (nn.LSTM(3, 4), Recurrent(cell=LSTMCell(), inputs=3, hidden=4), (SEQUENCE,)),
    "torch.nn.GRU, batch_first=True": (
        nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True),
        Recurrent(cell=GRUCell(), inputs=3, hidden=4, layers=2, bidirectional=True),
        (SEQUENCE,),
    ),
    "torch.nn.LayerNorm": (nn.LayerNorm(4), LayerNorm(shape=(4,)), (drawn(3, 4),)),
    "torch.nn.Embedding": (
        nn.Embedding(6, 3),
        Embedding(vocabulary=6, features=3),
        (torch.tensor([1, 4, 1]),),
    ),
}


@pytest.mark.parametrize("convention", RIGHT)
def test_a_right_layer_agrees_with_the_reference(convention: str) -> None:
    layer, reference, inputs = RIGHT[convention]

    result = against_reference(layer.double(), reference, *inputs, weights=convention)

    assert result.passed, result
    leaves = {finding.leaf for finding in result.findings}
    assert {f"params.{name}" for name, _ in layer.named_parameters()} <= leaves


class Off(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: torch.Tensor) -> torch.Tensor:
        return w.clone()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        u = u.clone()
        u[4:8] *= 0.5  # the forget gate
        return u


class Spoilt(nn.Module):
    """An LSTM whose recurrent weight has half the gradient of its forget gate."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4).double()

    def forward(self, x: torch.Tensor) -> Any:
        own: dict[str, Any] = dict(self.lstm.named_parameters())
        own["weight_hh_l0"] = Off.apply(own["weight_hh_l0"])  # type: ignore[no-untyped-call]
        return torch.func.functional_call(self.lstm, own, (x,))


def test_a_wrong_gradient_is_told_in_the_leaf_and_entries_of_the_layer() -> None:
    reference = Recurrent(cell=LSTMCell(), inputs=3, hidden=4)

    result = against_reference(Spoilt(), reference, SEQUENCE, weights="torch.nn.LSTM")

    (wrong,) = [f for f in result.findings if f.verdict is Verdict.FAIL]
    assert wrong.leaf == "params.lstm.weight_hh_l0"
    assert {entry.index[0] for entry in wrong.entries} <= set(range(4, 8))
    assert result.odd_one_out == "layer"


def test_gates_in_another_order_are_another_function() -> None:
    layer = nn.LSTM(3, 4).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(drawn(*parameter.shape))

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = layer

        def forward(self, x: torch.Tensor) -> Any:
            order = [*range(4, 8), *range(4), *range(8, 16)]
            own = {name: p[order] for name, p in self.lstm.named_parameters()}
            return torch.func.functional_call(self.lstm, own, (x,))

    reference = Recurrent(cell=LSTMCell(), inputs=3, hidden=4)

    result = against_reference(Swapped(), reference, SEQUENCE, weights="torch.nn.LSTM")

    assert result.verdict is Verdict.FAIL
    assert "is each weight in its place?" in str(result)


def test_names_that_are_given_one_by_one_in_jax() -> None:
    from gradcheck.weights import transposed

    def dense(params: Any, x: Any) -> Any:
        return x @ params["kernel"] + params["b"]

    params = {"kernel": np.random.default_rng(1).standard_normal((3, 4)), "b": jnp.ones(4)}

    result = against_reference(
        dense,
        Dense(inputs=3, outputs=4),
        {**params, "b": np.ones(4)},
        np.random.default_rng(2).standard_normal((2, 3)),
        weights={"weight": transposed("kernel"), "bias": "b"},
    )

    assert result.passed, result


MISUSE: list[tuple[Any, dict[str, Any], str]] = [
    (Dense(inputs=3, outputs=4), {"weights": "torch.nn.Lineer"}, "is no convention"),
    (Dense(inputs=3, outputs=4), {"weights": "torch.nn.LSTM"}, "is for the reference layer"),
    (Dense(inputs=3, outputs=4), {"weights": {"wait": "weight"}}, "wait"),
    (Dense(inputs=3, outputs=4, bias=False), {}, "nothing in"),
    (nn.Linear(3, 4), {}, "reference to be a layer"),
]


@pytest.mark.parametrize(("reference", "options", "message"), MISUSE)
def test_misuse_is_refused_by_name(reference: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        against_reference(nn.Linear(3, 4).double(), reference, drawn(2, 3), **options)


def test_attention_and_convolution() -> None:
    attention = nn.MultiheadAttention(4, 2).double()
    conv = nn.Conv2d(2, 3, (2, 2), stride=2).double()
    q = drawn(3, 2, 4)

    for layer, reference, inputs, name in (
        (
            attention,
            MultiHeadAttention(features=4, heads=2),
            (q, q, q),
            "torch.nn.MultiheadAttention",
        ),
        (
            conv,
            Convolution(inputs=2, outputs=3, kernel=(2, 2), stride=(2, 2)),
            (drawn(1, 2, 4, 4),),
            "torch.nn.Conv2d",
        ),
    ):
        result = against_reference(layer, reference, *inputs, weights=name)
        assert result.passed, result
