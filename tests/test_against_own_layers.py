"""More layers as their authors write them, wrong twins of one, and what misuse is told."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from gradcheck import InputError, Verdict, against_reference
from gradcheck.reference import (
    Convolution,
    Dense,
    GRUCell,
    LayerNorm,
    LSTMCell,
    Recurrent,
    RMSNorm,
)
from gradcheck.weights import (
    block,
    joined,
    part,
    reordered,
    scaled,
    summed,
    transposed,
    with_axis,
    without_axis,
)
from tests.own_layers import NormOfTwoVectors, conv_nhwc, parameter, tensor

Tensor = torch.Tensor


def array(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


class GateByGate(nn.Module):
    """An LSTM with a matrix for each gate, batch first, that returns the hidden states."""

    def __init__(self) -> None:
        super().__init__()
        for k, gate in enumerate("ifgo"):
            self.register_parameter(f"W_{gate}", parameter(3, 4, seed=3 * k))
            self.register_parameter(f"U_{gate}", parameter(4, 4, seed=3 * k + 1))
            self.register_parameter(f"b_{gate}", parameter(4, seed=3 * k + 2))

    def gate(self, name: str, x: Tensor, h: Tensor) -> Tensor:
        w, u, b = (getattr(self, f"{kind}_{name}") for kind in "WUb")
        found: Tensor = x @ w + h @ u + b
        return found

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 4)
        hs = []
        for step in x.unbind(1):
            i, f, g, o = (self.gate(name, step, h) for name in "ifgo")
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hs.append(h)
        return torch.stack(hs, 1)


class Fused(nn.Module):
    """An LSTM with one matrix for [x, h], the gates in the order i, f, o, g, and f + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = parameter(7, 16, seed=1)
        self.bias = parameter(16, seed=2)

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.kernel, self.bias

    def forget(self, f: Tensor) -> Tensor:
        return (f + 1).sigmoid()

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        (h, c), hs = state, []
        kernel, bias = self.weights()
        for step in x:
            i, f, o, g = (torch.cat([step, h], -1) @ kernel + bias).chunk(4, -1)
            c = self.forget(f) * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hs.append(h)
        return torch.stack(hs), (h, c)


class ResetAfter(nn.Module):
    """A GRU as in Keras: gates z, r, n, both biases in one matrix, batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = parameter(3, 12, seed=1)
        self.recurrent_kernel = parameter(4, 12, seed=2)
        self.bias = parameter(2, 12, seed=3)

    def forward(self, x: Tensor) -> Tensor:
        h, hs = x.new_zeros(len(x), 4), []
        for step in x.unbind(1):
            x_z, x_r, x_n = (step @ self.kernel + self.bias[0]).chunk(3, -1)
            h_z, h_r, h_n = (h @ self.recurrent_kernel + self.bias[1]).chunk(3, -1)
            z, n = (x_z + h_z).sigmoid(), (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
            h = z * h + (1 - z) * n
            hs.append(h)
        return torch.stack(hs, 1)


def original_gru(params: Any, x: Any) -> Any:
    """A GRU as in the paper: the reset before the product, z the other way round."""

    def step(h: Any, x: Any) -> Any:
        z = jax.nn.sigmoid(x @ params["wz"] + h @ params["uz"] + params["bz"])
        r = jax.nn.sigmoid(x @ params["wr"] + h @ params["ur"] + params["br"])
        n = jnp.tanh(x @ params["wn"] + (r * h) @ params["un"] + params["bn"])
        h = (1 - z) * h + z * n
        return h, h

    return jax.lax.scan(step, jnp.zeros((x.shape[1], 4), x.dtype), x)[1]


class GainMinusOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = parameter(4, seed=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.weight)


class BothWays(nn.Module):
    """Two cells, one of which reads from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.fw, self.bw = nn.LSTMCell(3, 4).double(), nn.LSTMCell(3, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for cell, steps in ((self.fw, range(len(x))), (self.bw, range(len(x))[::-1])):
            h = c = x.new_zeros(x.shape[1], 4)
            hs = {}
            for t in steps:
                hs[t] = h, c = cell(x[t], (h, c))
            sides.append(torch.stack([hs[t][0] for t in range(len(x))]))
        return torch.cat(sides, -1)


def affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x @ w + b


LSTM = Recurrent(cell=LSTMCell(), inputs=3, hidden=4)
TIME, BATCH_FIRST = tensor(5, 2, 3), tensor(2, 5, 3)
BATCH_FIRST_AS_IN_TIME: dict[str, Any] = {
    "arguments": [transposed("input[0]", 1, 0, 2)],
    "outputs": [transposed("output[0]", 1, 0, 2)],
}


def of_fused(name: str, side: Any) -> Any:
    return reordered(transposed(side) if name == "kernel" else side, "ifog", "ifgo")


FUSED: dict[str, Any] = {
    "weights": {
        "weight_ih_l0": of_fused("kernel", part("kernel", 0, 3)),
        "weight_hh_l0": of_fused("kernel", part("kernel", 3, None)),
        "bias_ih_l0": of_fused("bias", "bias"),
        "bias_hh_l0": np.repeat([0.0, 1.0, 0.0, 0.0], 4),
    },
    "arguments": ["input[0]", with_axis("input[1][0]"), with_axis("input[1][1]")],
    "outputs": ["output[0]", without_axis("output[1]"), without_axis("output[2]")],
}
FUSED_INPUTS = TIME, (tensor(2, 4, seed=1), tensor(2, 4, seed=2))


def of_gru(side: str) -> Any:
    return transposed(joined(f"{side}r", scaled(f"{side}z", -1), f"{side}n", axis=1))


RIGHT: dict[str, tuple[Any, Any, tuple[Any, ...], dict[str, Any]]] = {
    "a matrix for each gate": (
        GateByGate(),
        LSTM,
        (BATCH_FIRST,),
        {
            "weights": {
                "weight_ih_l0": transposed(joined("W_i", "W_f", "W_g", "W_o", axis=1)),
                "weight_hh_l0": transposed(joined("U_i", "U_f", "U_g", "U_o", axis=1)),
                "bias_ih_l0": joined("b_i", "b_f", "b_g", "b_o"),
                "bias_hh_l0": 0.0,
            },
            **BATCH_FIRST_AS_IN_TIME,
        },
    ),
    "gates fused in another order": (Fused(), LSTM, FUSED_INPUTS, FUSED),
    "reset after": (
        ResetAfter(),
        Recurrent(cell=GRUCell(), inputs=3, hidden=4),
        (BATCH_FIRST,),
        {
            "weights": {
                "weight_ih_l0": reordered(transposed("kernel"), "zrn", "rzn"),
                "weight_hh_l0": reordered(transposed("recurrent_kernel"), "zrn", "rzn"),
                "bias_ih_l0": reordered(without_axis(block("bias", 0, of=2)), "zrn", "rzn"),
                "bias_hh_l0": reordered(without_axis(block("bias", 1, of=2)), "zrn", "rzn"),
            },
            **BATCH_FIRST_AS_IN_TIME,
        },
    ),
    "reset before, in JAX": (
        original_gru,
        Recurrent(cell=GRUCell(reset="before"), inputs=3, hidden=4),
        (
            {
                f"{side}{gate}": array(*shape, seed=3 * k + ord(gate))
                for k, (side, shape) in enumerate({"w": (3, 4), "u": (4, 4), "b": (4,)}.items())
                for gate in "rzn"
            },
            array(5, 2, 3),
        ),
        {
            "weights": {
                "weight_ih_l0": of_gru("w"),
                "weight_hh_l0": of_gru("u"),
                "bias_ih_l0": joined("br", scaled("bz", -1), "bn"),
                "bias_hh_l0": 0.0,
            }
        },
    ),
    "a gain stored as γ - 1": (
        GainMinusOne(),
        RMSNorm(shape=(4,), epsilon=1e-6),
        (tensor(3, 4),),
        {"weights": {"weight": summed("weight", 1.0)}},
    ),
    "two cells, one backwards": (
        BothWays(),
        Recurrent(cell=LSTMCell(), inputs=3, hidden=4, bidirectional=True),
        (TIME,),
        {"weights": {"*_l0": "fw.*", "*_l0_reverse": "bw.*"}},
    ),
    "weights as arguments": (
        affine,
        Dense(inputs=4, outputs=5),
        (tensor(3, 4), tensor(4, 5, seed=1), tensor(5, seed=2)),
        {"weights": {"weight": transposed("input[1]"), "bias": "input[2]"}},
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_layer_passes(name: str) -> None:
    layer, reference, inputs, options = RIGHT[name]

    result = against_reference(layer, reference, *inputs, **options)

    assert result.passed, result
    assert all(finding.mismatch is None or finding.mismatch < 1e-13 for finding in result.findings)


class Spoilt(torch.autograd.Function):
    """The identity, with a gradient that `spoil` changes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spoil: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.spoil = spoil
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        return ctx.spoil(u), None


def spoilt(x: Tensor, spoil: Callable[[Tensor], Tensor]) -> Tensor:
    found: Tensor = Spoilt.apply(x, spoil)  # type: ignore[no-untyped-call]
    return found


class GatesSwapped(Fused):
    """The right values; the gradients of i and f change places."""

    def weights(self) -> tuple[Tensor, Tensor]:
        order = [*range(4, 8), *range(4), *range(8, 16)]
        return spoilt(self.kernel, lambda u: u[:, order]), self.bias


class BiasOff(Fused):
    def weights(self) -> tuple[Tensor, Tensor]:
        return self.kernel, spoilt(self.bias, lambda u: 1.01 * u)


class ForgetGateDetached(Fused):
    def forget(self, f: Tensor) -> Tensor:
        return super().forget(f).detach()


@pytest.mark.parametrize(
    ("layer", "leaves", "columns"),
    [
        (GatesSwapped(), {"params.kernel"}, range(8)),
        (BiasOff(), {"params.bias"}, range(16)),
        (
            ForgetGateDetached(),
            {"params.kernel", "params.bias", "input[0]", "input[1][0]", "input[1][1]"},
            range(16),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_twin_fails_at_the_leaf(layer: nn.Module, leaves: set[str], columns: range) -> None:
    result = against_reference(layer, LSTM, *FUSED_INPUTS, **FUSED)

    wrong = {f.leaf: f for f in result.findings if f.verdict is Verdict.FAIL}
    assert result.verdict is Verdict.FAIL
    assert set(wrong) <= leaves
    assert {leaf for leaf in leaves if leaf.startswith("params.")} <= set(wrong)
    assert result.odd_one_out == "layer"
    assert all(
        entry.index[-1] in columns
        for leaf, finding in wrong.items()
        if leaf.startswith("params.")
        for entry in finding.entries
    )


MISUSE: dict[str, tuple[Any, Any, tuple[Any, ...], dict[str, Any], str]] = {
    "a convention for names that the layer does not have": (
        NormOfTwoVectors(4),
        LayerNorm(shape=(4,)),
        (tensor(3, 4),),
        {"weights": "torch.nn.LayerNorm"},
        r"stands for the names of the reference; the layer has no 'weight', 'bias', "
        r"it has params.gamma \(4,\), params.beta \(4,\)",
    ),
    "another convention for such names": (
        conv_nhwc,
        Convolution(inputs=2, outputs=4, kernel=(3, 2)),
        ({"w": array(3, 2, 2, 4), "b": array(4)}, array(2, 6, 5, 2)),
        {"weights": "flax.linen.Conv"},
        r"stands for \{'weight': transposed\('kernel', 3, 2, 0, 1\)\}; the layer has no 'kernel'",
    ),
    "a bias that the layer does not have": (
        nn.Linear(3, 4, bias=False).double(),
        Dense(inputs=3, outputs=4),
        (tensor(2, 3),),
        {},
        r"the name 'bias' is none of params.weight \(4, 3\).*does not have is 0\.0",
    ),
    "many names that the layer does not have": (
        BothWays(),
        Recurrent(cell=LSTMCell(), inputs=3, hidden=4, bidirectional=True),
        (TIME,),
        {"weights": "torch.nn.LSTM"},
        "'bias_hh_l0' and 4 more",
    ),
    "a name of several": (BothWays(), LSTM, (TIME,), {"weights": "torch.nn.LSTMCell"}, "several"),
    "axes in another order": (
        GateByGate(),
        LSTM,
        (BATCH_FIRST,),
        RIGHT["a matrix for each gate"][3] | {"outputs": None},
        r"transposed\('output\[0\]', 1, 0, 2\)",
    ),
    "a weight in another order": (
        conv_nhwc,
        Convolution(inputs=2, outputs=4, kernel=(3, 2)),
        ({"w": array(3, 2, 2, 4), "b": array(4)}, array(2, 6, 5, 2)),
        {"weights": {"weight": "w", "bias": "b"}, "like": "flax.linen.Conv"},
        "3, 1, 0, 2.* or transposed.*3, 2, 0, 1",
    ),
    "an axis too many": (
        Fused(),
        LSTM,
        FUSED_INPUTS,
        FUSED | {"outputs": ["output[0]", "output[1]", "output[2]"]},
        r"one too many\? without_axis\('output\[1\]', 0\)",
    ),
    "an axis too few": (
        affine,
        Dense(inputs=4, outputs=1),
        (tensor(3, 4), tensor(4), tensor(1)),
        {"weights": {"weight": "input[1]", "bias": "input[2]"}},
        r"an axis missing\? with_axis\('input\[1\]', 0\)",
    ),
    "states without the axis of layers": (
        Fused(),
        LSTM,
        FUSED_INPUTS,
        FUSED | {"arguments": None},
        r"expected initial states of shape \(1, 2, 4\).*got \[\(2, 4\), \(2, 4\)\]",
    ),
    "no batch": (
        nn.LSTM(3, 4).double(),
        LSTM,
        (tensor(5, 3),),
        {"weights": "torch.nn.LSTM"},
        r"expected x of shape \(time, batch, 3\); got \(5, 3\)",
    ),
    "batch first": (
        nn.LSTM(3, 4, batch_first=True).double(),
        LSTM,
        (TIME,),
        {"weights": "torch.nn.LSTM"},
        "Or is it 'torch.nn.LSTM, batch_first=True'",
    ),
    "channels last": (
        conv_nhwc,
        Convolution(inputs=2, outputs=4, kernel=(3, 2)),
        ({"w": array(3, 2, 2, 4), "b": array(4)}, array(2, 6, 5, 2)),
        {"weights": {"weight": transposed("w", 3, 2, 0, 1), "bias": "b"}},
        r"expected x of shape \(batch, 2, \*size\)",
    ),
    "the weight itself": (
        nn.Linear(3, 4).double(),
        Dense(inputs=3, outputs=4),
        (tensor(2, 3),),
        {"weights": {"weight": tensor(4, 3)}},
        r"got a Tensor of shape \(4, 3\). Write its name",
    ),
    "weights as a list": (Fused(), LSTM, FUSED_INPUTS, {"weights": ["kernel"]}, "to be a mapping"),
    "one name for arguments": (
        Fused(),
        LSTM,
        FUSED_INPUTS,
        FUSED | {"arguments": "input[0]"},
        "expected arguments= to be a list",
    ),
    "one name for outputs": (
        Fused(),
        LSTM,
        FUSED_INPUTS,
        FUSED | {"outputs": "output[0]"},
        "expected outputs= to be a list",
    ),
    "an output that is no expression": (
        Fused(),
        LSTM,
        FUSED_INPUTS,
        FUSED | {"outputs": [("output[0]",)]},
        r"expected outputs\[0\] to be a name",
    ),
    "an output that there is not": (
        Fused(),
        LSTM,
        FUSED_INPUTS,
        FUSED | {"outputs": ["y"]},
        r"outputs\[0\]: the name 'y' is none of output\[0\]",
    ),
    "blocks of unequal size": (
        NormOfTwoVectors(4),
        LayerNorm(shape=(4,)),
        (tensor(3, 4),),
        {"weights": {"weight": block("gamma", 0, of=3), "bias": "beta"}},
        "axis=0 does not fall into 3 equal blocks",
    ),
    "another name for a convention": (
        Fused(),
        LSTM,
        FUSED_INPUTS,
        {"weights": "LSTM"},
        "no convention; .*For Recurrent.*there are.*'torch.nn.LSTM'",
    ),
    "a reference without a convention": (
        Fused(),
        RIGHT["two cells, one backwards"][1].cell,
        FUSED_INPUTS,
        {"weights": "torch.nn.LSTM"},
        "reference to be a layer",
    ),
    "the class of a reference": (Fused(), Dense, FUSED_INPUTS, {}, r"Make one: Dense\(\.\.\.\)"),
    "a name as reference": (Fused(), "torch.nn.LSTM", FUSED_INPUTS, {}, "are for weights="),
    "a layer of PyTorch as reference": (
        Fused(),
        nn.LSTM(3, 4),
        FUSED_INPUTS,
        {},
        "got LSTM of torch.nn.modules.rnn. gradcheck.compare takes",
    ),
    "the class of a layer": (Fused, LSTM, FUSED_INPUTS, {}, r"got the class Fused. Make one"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_told_with_what_to_do(name: str) -> None:
    layer, reference, inputs, options, message = MISUSE[name]

    with pytest.raises(InputError, match=message):
        against_reference(layer, reference, *inputs, **options)


def test_another_epsilon_is_asked_about() -> None:
    result = against_reference(
        GainMinusOne(),
        RMSNorm(shape=(4,)),
        tensor(3, 4),
        weights={"weight": summed("weight", 1.0)},
    )

    assert result.verdict is Verdict.FAIL
    assert "constant, such as epsilon" in " ".join(str(result).split())
