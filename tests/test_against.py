"""A layer against the reference's, at its own weights: right ones agree, wrong ones are named."""

from collections.abc import Callable
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
from gradcheck.weights import joined, part, reordered, transposed, with_axis, without_axis
from tests.own_layers import (
    FusedLSTMCell,
    HandLSTM,
    NormOfTwoVectors,
    PackedAttention,
    SeparateGRU,
    conv_nhwc,
)

Own = tuple[Any, Any, tuple[Any, ...], dict[str, Any]]  # layer, reference, inputs, options
Gates = tuple[torch.Tensor, ...]


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


def lstm() -> Recurrent:
    return Recurrent(cell=LSTMCell(), inputs=3, hidden=4)


HAND: dict[str, Any] = {
    "like": "torch.nn.LSTM, batch_first=True",
    "weights": {"weight_ih_l0": "W", "weight_hh_l0": "U", "bias_ih_l0": "b", "bias_hh_l0": 0.0},
}


def gates_of_fused(first: int, last: int | None) -> Any:
    return reordered(transposed(part("kernel", first, last)), "ifog", "ifgo")


def separate(reset: Any) -> Callable[[], Own]:
    def build() -> Own:
        return (
            SeparateGRU(3, 4, reset=reset),
            Recurrent(cell=GRUCell(reset=reset), inputs=3, hidden=4),
            (drawn(5, 2, 3), drawn(2, 4)),
            {
                "weights": {
                    "weight_ih_l0": joined("Wr", "Wz", "Wh"),
                    "weight_hh_l0": joined("Ur", "Uz", "Uh"),
                    "bias_ih_l0": joined("br", "bz", "bh"),
                    "bias_hh_l0": joined(np.zeros(8), "recurrent_bias"),
                },
                "arguments": ["input[0]", with_axis("input[1]")],
                "outputs": [without_axis("output[1]")],
            },
        )

    return build


def norm_of_arguments(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return nn.functional.layer_norm(x, (4,), gamma, beta)


def conv_params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"w": rng.standard_normal((2, 3, 2, 5)), "b": rng.standard_normal(5)}


def cell_of_equal_names() -> Own:
    layer = nn.ModuleDict({"inner": nn.LSTMCell(3, 4)}).double()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = layer["inner"]

        def forward(self, x: torch.Tensor) -> Any:
            return self.cell(x)[0]

    # No state is given: it is zero, and the last one is not returned.
    return Wrapped(), lstm(), (drawn(2, 3),), {"weights": "torch.nn.LSTMCell"}


OWN: dict[str, Callable[[], Own]] = {
    "an LSTM with a backward by hand": lambda: (HandLSTM(3, 4), lstm(), (drawn(2, 5, 3),), HAND),
    "a fused cell with another order of the gates": lambda: (
        FusedLSTMCell(3, 4),
        lstm(),
        (drawn(2, 3), drawn(2, 4), drawn(2, 4)),
        {
            "like": "torch.nn.LSTMCell",
            "weights": {
                "weight_ih_l0": gates_of_fused(0, 3),
                "weight_hh_l0": gates_of_fused(3, None),
                "bias_ih_l0": reordered("bias", "ifog", "ifgo"),
                "bias_hh_l0": 0.0,
            },
        },
    ),
    "a GRU that resets after the product": separate("after"),
    "a GRU that resets before the product": separate("before"),
    "a convolution with weights HWIO": lambda: (
        conv_nhwc,
        Convolution(inputs=2, outputs=5, kernel=(2, 3)),
        (conv_params(), np.random.default_rng(1).standard_normal((2, 6, 7, 2))),
        {
            "weights": {"weight": transposed("w", 3, 2, 0, 1), "bias": "b"},
            "arguments": [transposed("input[1]", 0, 3, 1, 2)],
            "outputs": [transposed("output", 0, 2, 3, 1)],
        },
    ),
    "the same, like Flax's": lambda: (
        conv_nhwc,
        Convolution(inputs=2, outputs=5, kernel=(2, 3)),
        (conv_params(), np.random.default_rng(1).standard_normal((2, 6, 7, 2))),
        {
            "like": "flax.linen.Conv",
            "weights": {"weight": transposed("w", 3, 2, 0, 1), "bias": "b"},
        },
    ),
    "a norm of gamma and beta": lambda: (
        NormOfTwoVectors(4),
        LayerNorm(shape=(4,)),
        (drawn(3, 4),),
        {"weights": {"weight": "gamma", "bias": "beta"}},
    ),
    "a norm of arguments": lambda: (
        norm_of_arguments,
        LayerNorm(shape=(4,)),
        (drawn(3, 4), drawn(4), drawn(4)),
        {"weights": {"weight": "input[1]", "bias": "input[2]"}},
    ),
    "attention with packed q, k and v": lambda: (
        PackedAttention(4, 2),
        MultiHeadAttention(features=4, heads=2),
        (drawn(2, 3, 4),),
        {"weights": {"in_proj_*": "qkv.*", "out_proj.*": "proj.*"}},
    ),
    "a wrapped cell without a state": cell_of_equal_names,
}


@pytest.mark.parametrize("build", OWN.values(), ids=OWN)
def test_a_right_layer_of_ones_own_agrees(build: Callable[[], Own]) -> None:
    layer, reference, inputs, options = build()

    result = against_reference(layer, reference, *inputs, **options)

    assert result.passed, result
    assert max(finding.mismatch or 0.0 for finding in result.findings) < 1e-12, result


def swapped(gates: Gates) -> Gates:
    i, f, g, o = gates
    return f, i, g, o


def without_forget(gates: Gates) -> Gates:
    i, f, g, o = gates
    return i, 0 * f, g, o


def loud_bias(gates: Gates) -> Gates:
    return gates


loud_bias.bias = 1.01  # type: ignore[attr-defined]  # LSTMStep multiplies with it

WRONG: list[tuple[Any, set[str]]] = [
    (swapped, {"params.W", "params.U", "params.b", "input[0]"}),
    (without_forget, {"params.W", "params.U", "params.b", "input[0]"}),
    (loud_bias, {"params.b"}),
]


@pytest.mark.parametrize(("fault", "leaves"), WRONG, ids=lambda x: getattr(x, "__name__", ""))
def test_a_wrong_backward_is_told_in_its_leaves(fault: Any, leaves: set[str]) -> None:
    result = against_reference(HandLSTM(3, 4, fault), lstm(), drawn(2, 5, 3), **HAND)

    assert result.verdict is Verdict.FAIL
    assert {f.leaf for f in result.findings if f.verdict is Verdict.FAIL} == leaves
    assert result.odd_one_out == "layer"


UNCLEAR: list[tuple[str, dict[str, Any], str]] = [
    (
        "an LSTM with a backward by hand",
        {"weights": "torch.nn.LSTM", "like": None},
        r"the layer has no 'weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0', it has "
        r"params.W \(16, 3\), params.U \(16, 4\), params.b \(16,\), input\[0\] \(2, 5, 3\)\. Say",
    ),
    (
        "an LSTM with a backward by hand",
        {"like": "torch.nn.LSTM, batchfirst"},
        r"is it one of \['torch.nn.LSTM, batch_first=True'",
    ),
    (
        "an LSTM with a backward by hand",
        {"weights": "torch.nn.LSTM"},
        "expected weights= to be a mapping beside like=",
    ),
    (
        "a fused cell with another order of the gates",
        {"like": None},
        r"expected x of shape \(time, batch, 3\); got \(2, 3\)\. .* Say with arguments=",
    ),
    (
        "a fused cell with another order of the gates",
        {"weights": {"weight_ih_l0": reordered(part("kernel", 0, 3), "ifog", "ifgo")}},
        r"weights\['weight_ih_l0'\]: reordered.* 4 equal blocks; axis=1 does",
    ),
    (
        "a GRU that resets after the product",
        {"arguments": None},
        r"expected initial states of shape \(1, 2, 4\), .* got \[\(2, 4\)\]",
    ),
    (
        "a norm of gamma and beta",
        {"outputs": ["result"]},
        r"outputs\[0\]: the name 'result' is none of output\[0\]\. Those are of LayerNorm",
    ),
    (
        "attention with packed q, k and v",
        {"weights": {"in_proj_*": "qkv.*"}},
        r"'out_proj.weight' is none of .*\. Say what it is made of",
    ),
]


@pytest.mark.parametrize(("name", "change", "message"), UNCLEAR)
def test_what_is_left_out_is_said(name: str, change: dict[str, Any], message: str) -> None:
    layer, reference, inputs, options = OWN[name]()

    with pytest.raises(InputError, match=message):
        against_reference(layer, reference, *inputs, **options | change)


def test_a_batch_that_is_taken_for_time_is_another_function() -> None:
    layer, reference, inputs, options = OWN["an LSTM with a backward by hand"]()

    result = against_reference(layer, reference, *inputs, **options | {"like": None})

    assert result.verdict is Verdict.FAIL
    assert "input, output and constant" in " ".join(str(result).split())
