"""Each convention for PyTorch against PyTorch's own layer: the same values, the same gradients."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradcheck.conventions import CONVENTIONS
from gradcheck.reference import (
    BatchNorm,
    Convolution,
    Dense,
    ElmanCell,
    Embedding,
    GRUCell,
    LayerNorm,
    LSTMCell,
    MultiHeadAttention,
    Recurrent,
    RMSNorm,
)
from gradcheck.weights import spelled
from tests.matching import Pair, drawn, require_the_same, sizes

Rng = np.random.Generator
Build = Callable[[Rng, bool], Pair]  # of the sizes it draws, with a bias or without

BIASES = (True, False)
CELLS: dict[str, Any] = {"RNN": ElmanCell(), "LSTM": LSTMCell(), "GRU": GRUCell()}


def tensor(rng: Rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(drawn(rng, *shape))


def filled(layer: nn.Module, rng: Rng) -> nn.Module:
    """`layer` in float64 with no two entries alike, biases and gains among them."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(tensor(rng, *parameter.shape))
    return layer


def linear(rng: Rng, bias: bool) -> Pair:
    batch, inputs, outputs = sizes(rng, 3)
    return Pair(
        layer=nn.Linear(inputs, outputs, bias=bias),
        reference=Dense(inputs=inputs, outputs=outputs, bias=bias),
        inputs=(tensor(rng, batch, inputs),),
    )


def layer_norm(rng: Rng, affine: bool) -> Pair:
    batch, *shape = sizes(rng, 3)
    return Pair(
        layer=nn.LayerNorm(shape, elementwise_affine=affine),
        reference=LayerNorm(shape=tuple(shape), affine=affine),
        inputs=(tensor(rng, batch, *shape),),
    )


def rms_norm(rng: Rng, _: bool) -> Pair:
    batch, features = sizes(rng, 2)
    return Pair(
        layer=nn.RMSNorm(features, eps=1e-5),
        reference=RMSNorm(shape=(features,)),
        inputs=(tensor(rng, batch, features),),
    )


def embedding(rng: Rng, _: bool) -> Pair:
    vocabulary, features, batch = sizes(rng, 3)
    return Pair(
        layer=nn.Embedding(vocabulary, features),
        reference=Embedding(vocabulary=vocabulary, features=features),
        inputs=(torch.from_numpy(rng.integers(0, vocabulary, (batch, 2))),),
    )


def convolution(axes: int) -> Build:
    def build(rng: Rng, bias: bool) -> Pair:
        inputs, outputs = 2 * rng.permutation(np.arange(1, 4))[:2]
        kernel = tuple(int(k) for k in rng.permutation([1, 2, 3])[:axes])
        how: dict[str, Any] = {
            "stride": tuple(int(s) for s in rng.integers(1, 3, axes)),
            "padding": tuple(int(p) for p in rng.integers(0, 2, axes)),
            "dilation": tuple(int(d) for d in rng.integers(1, 3, axes)),
            "groups": 2,
            "bias": bias,
        }
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        return Pair(
            layer=kind(int(inputs), int(outputs), kernel, **how),  # type: ignore[arg-type]
            reference=Convolution(inputs=int(inputs), outputs=int(outputs), kernel=kernel, **how),
            inputs=(tensor(rng, 2, int(inputs), *range(6, 6 + axes)),),
        )

    return build


def batch_norm(axes: int) -> Build:
    def build(rng: Rng, is_training: bool) -> Pair:
        features, batch, *space = sizes(rng, 2 + axes)
        kind = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1]
        layer = kind(features)
        layer.running_mean = tensor(rng, features)
        layer.running_var = tensor(rng, features).exp()
        return Pair(
            layer=layer.train(is_training),
            reference=BatchNorm(features=features, mode="training" if is_training else "inference"),
            inputs=(tensor(rng, batch, features, *space),),
        )

    return build


def recurrent(name: str, *, batch_first: bool) -> Build:
    def build(rng: Rng, bias: bool) -> Pair:
        steps, batch, inputs, hidden = sizes(rng, 4)
        two_ways = bool(rng.integers(2))
        reference = Recurrent(
            cell=CELLS[name],
            inputs=inputs,
            hidden=hidden,
            layers=2,
            bidirectional=two_ways,
            bias=bias,
        )
        layer = getattr(nn, name)(
            inputs,
            hidden,
            num_layers=2,
            bidirectional=two_ways,
            bias=bias,
            batch_first=batch_first,
        )
        x = (batch, steps, inputs) if batch_first else (steps, batch, inputs)
        states = [
            tensor(rng, 2 * reference.directions, batch, hidden)
            for _ in range(reference.cell.states)
        ]
        return Pair(
            layer=layer,
            reference=reference,
            inputs=(tensor(rng, *x), tuple(states) if len(states) > 1 else states[0]),
        )

    return build


def cell(name: str) -> Build:
    def build(rng: Rng, bias: bool) -> Pair:
        batch, inputs, hidden = sizes(rng, 3)
        reference = Recurrent(cell=CELLS[name], inputs=inputs, hidden=hidden, bias=bias)
        states = tuple(tensor(rng, batch, hidden) for _ in range(reference.cell.states))
        return Pair(
            layer=getattr(nn, f"{name}Cell")(inputs, hidden, bias=bias),
            reference=reference,
            inputs=(tensor(rng, batch, inputs), states if len(states) > 1 else states[0]),
        )

    return build


def attention(*, batch_first: bool) -> Build:
    def build(rng: Rng, bias: bool) -> Pair:
        batch, queries, keys, heads = sizes(rng, 4)
        features = 2 * heads
        shapes = [(batch, time, features) for time in (queries, keys, keys)]
        if not batch_first:
            shapes = [(time, batch, features) for batch, time, features in shapes]
        return Pair(
            layer=nn.MultiheadAttention(features, heads, bias=bias, batch_first=batch_first),
            reference=MultiHeadAttention(features=features, heads=heads, bias=bias),
            inputs=tuple(tensor(rng, *shape) for shape in shapes),
            alone=1,  # the weights of the heads
        )

    return build


TORCH: dict[str, Build] = {
    "torch.nn.Linear": linear,
    "torch.nn.LayerNorm": layer_norm,
    "torch.nn.RMSNorm": rms_norm,
    "torch.nn.Embedding": embedding,
    **{f"torch.nn.Conv{n}d": convolution(n) for n in (1, 2, 3)},
    **{f"torch.nn.BatchNorm{n}d": batch_norm(n) for n in (1, 2, 3)},
    **{f"torch.nn.{name}": recurrent(name, batch_first=False) for name in CELLS},
    **{f"torch.nn.{name}, batch_first=True": recurrent(name, batch_first=True) for name in CELLS},
    **{f"torch.nn.{name}Cell": cell(name) for name in CELLS},
    "torch.nn.MultiheadAttention": attention(batch_first=False),
    "torch.nn.MultiheadAttention, batch_first=True": attention(batch_first=True),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("bias", BIASES, ids=("biased", "unbiased"))
@pytest.mark.parametrize("convention", TORCH)
def test_a_layer_of_torch_is_what_its_convention_says(
    convention: str, bias: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pair = TORCH[convention](rng, bias)
    filled(pair.layer, rng)

    require_the_same(pair, convention)


def deep(rng: Rng) -> Pair:
    """Three layers, no state given."""
    return Pair(
        layer=nn.LSTM(3, 4, num_layers=3),
        reference=Recurrent(cell=LSTMCell(), inputs=3, hidden=4, layers=3),
        inputs=(tensor(rng, 5, 2, 3),),
    )


def rectified(rng: Rng) -> Pair:
    return Pair(
        layer=nn.RNN(3, 4, nonlinearity="relu"),
        reference=Recurrent(cell=ElmanCell(nonlinearity="relu"), inputs=3, hidden=4),
        inputs=(tensor(rng, 5, 2, 3), tensor(rng, 1, 2, 4)),
    )


def step_without_state(rng: Rng) -> Pair:
    return Pair(
        layer=nn.GRUCell(3, 4),
        reference=Recurrent(cell=GRUCell(), inputs=3, hidden=4),
        inputs=(tensor(rng, 2, 3),),
    )


def with_a_row_for_padding(rng: Rng) -> Pair:
    return Pair(
        layer=nn.Embedding(5, 3, padding_idx=1),
        reference=Embedding(vocabulary=5, features=3, padding_index=1),
        inputs=(torch.tensor([[1, 4], [0, 1]]),),
        alone=1,  # the padding, which is said to be left out of the gradient
    )


def with_padding_of_keys(*, batch_first: bool) -> Callable[[Rng], Pair]:
    def build(rng: Rng) -> Pair:
        pair = attention(batch_first=batch_first)(rng, True)
        key = pair.inputs[1]
        batch, keys = key.shape[:2] if batch_first else (key.shape[1], key.shape[0])
        padding = torch.arange(keys) >= torch.arange(1, batch + 1)[:, None]  # never all of them
        return replace(
            pair,
            reference=replace(pair.reference, masked=True),  # type: ignore[type-var]
            inputs=(*pair.inputs, padding),
        )

    return build


OPTIONS: list[tuple[str, Callable[[Rng], Pair]]] = [
    ("torch.nn.LSTM", deep),
    ("torch.nn.RNN", rectified),
    ("torch.nn.GRUCell", step_without_state),
    ("torch.nn.Embedding", with_a_row_for_padding),
    ("torch.nn.MultiheadAttention", with_padding_of_keys(batch_first=False)),
    ("torch.nn.MultiheadAttention, batch_first=True", with_padding_of_keys(batch_first=True)),
]


@pytest.mark.parametrize(("convention", "build"), OPTIONS)
def test_so_it_is_with_other_options(convention: str, build: Callable[[Rng], Pair]) -> None:
    rng = np.random.default_rng(0)
    pair = build(rng)
    filled(pair.layer, rng)

    require_the_same(pair, convention)


def test_every_convention_of_torch_is_verified_here() -> None:
    assert {name for name in CONVENTIONS if name.startswith("torch.")} == set(TORCH)


SMALL: dict[type, Any] = {
    Dense: Dense(inputs=2, outputs=3),
    LayerNorm: LayerNorm(shape=(3,)),
    RMSNorm: RMSNorm(shape=(3,)),
    BatchNorm: BatchNorm(features=3),
    Embedding: Embedding(vocabulary=2, features=3),
    Convolution: Convolution(inputs=2, outputs=7, kernel=(2, 2)),
    MultiHeadAttention: MultiHeadAttention(features=7),
}


HALVES = "an array of shape (14,)"  # of r and z, which have no bias on that side


def written(name: str) -> str:
    """How the reference's parameters are made, as the page of conventions has it."""
    convention = CONVENTIONS[name]
    if convention.cell is not None:
        layer: Any = Recurrent(cell=convention.cell(), inputs=2, hidden=7)
    else:
        layer = SMALL[convention.kinds[0]]
    made = {key: spelled(x) for key, x in convention.weights(layer).items()}
    changed = {key: text.replace(HALVES, "zeros").replace("7", "n") for key, text in made.items()}
    return "; ".join(f"`{key}`: `{text}`" for key, text in changed.items()) or "the same names"


def test_the_page_of_conventions_has_every_one() -> None:
    page = Path(__file__).parents[1].joinpath("docs", "conventions.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]

    assert {row[0].strip("`"): row[3] for row in rows} == {n: written(n) for n in CONVENTIONS}
