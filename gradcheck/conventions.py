"""How libraries store the weights of the layers that the reference has: one entry a layer.

An entry says how the parameters of a reference layer are made of those of the library's, how its
inputs are made of what the library's layer is called with, and how the outputs of the library's
are made of the reference's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np

from gradcheck.errors import InputError
from gradcheck.reference.attention import MultiHeadAttention
from gradcheck.reference.cells import ElmanCell, GRUCell, LSTMCell
from gradcheck.reference.convolution import Convolution
from gradcheck.reference.dense import Dense
from gradcheck.reference.embedding import Embedding
from gradcheck.reference.layer import Layer
from gradcheck.reference.normalization import BatchNorm, LayerNorm, RMSNorm
from gradcheck.reference.recurrent import Recurrent
from gradcheck.weights import (
    Expression,
    joined,
    shaped,
    transposed,
    with_axis,
    without_axis,
)

__all__ = ["CONVENTIONS", "Convention", "attended", "convention_of", "typed"]

Weights = Mapping[str, Expression]


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """How one library writes one kind of layer.

    `weights` speaks of what is stored otherwise than in the reference; the rest goes by its name.
    """

    kinds: tuple[type, ...]  # of the reference layer
    cell: type | None = None  # if that is a recurrent one
    weights: Callable[..., Weights] = lambda layer: {}
    # The reference's inputs, of the names of the arrays that the layer is called with, in order.
    arguments: Callable[..., Sequence[Expression]] = lambda layer, arrays: list(arrays)
    # For each output of the layer, how it is made of the reference's; more are not compared.
    outputs: Callable[..., Sequence[Expression]] | None = None  # None: the same


def convention_of(name: str, layer: Layer) -> Convention:
    """Return the convention called `name`, for the reference layer `layer`.

    Raises:
        InputError: there is none, or it is one for another kind of layer.
    """
    fitting = [name for name, convention in CONVENTIONS.items() if _fits(convention, layer)]
    there_are = (
        f"For {typed(layer)} there are {fitting}"
        if fitting
        else f"There is none for {typed(layer)}: say of each parameter what it is made of"
    )
    if name not in CONVENTIONS:
        near = get_close_matches(name, fitting, 3)
        raise InputError(
            f"{name!r} is no convention; {f'is it one of {near}? ' if near else ''}{there_are}"
        )
    found = CONVENTIONS[name]
    if name not in fitting:
        wanted = " or ".join(kind.__name__ for kind in found.kinds)
        wanted += f" of {found.cell.__name__}" if found.cell else ""
        raise InputError(
            f"the convention {name!r} is for the reference layer {wanted}. {there_are}"
        )
    return found


def typed(layer: Layer) -> str:
    """Return `layer` as it would be typed, without what is as it is by default."""
    if not is_dataclass(layer):
        return repr(layer)
    said = [
        f"{field.name}={value!r}"
        for field in fields(layer)
        if (value := getattr(layer, field.name)) is not field.default and value != field.default
    ]
    return f"{type(layer).__name__}({', '.join(said)})"


def _fits(convention: Convention, layer: Layer) -> bool:
    is_kind = isinstance(layer, convention.kinds)
    cell = convention.cell
    return is_kind and (cell is None or isinstance(getattr(layer, "cell", None), cell))


def attended(layer: MultiHeadAttention, arrays: Sequence[str]) -> list[Expression]:
    """Queries without keys attend to themselves; keys without values are those too."""
    own = len(arrays) - layer.masked
    query, *rest = arrays[:own] if own else arrays
    key, *rest = rest or [query]
    return [query, key, *(rest or [key]), *arrays[max(own, 1) :]]


def _batch_first(layer: Layer, arrays: Sequence[str]) -> list[Expression]:
    x, *rest = arrays
    return [transposed(x, 1, 0, 2), *rest]


def _all_batch_first(layer: Layer, arrays: Sequence[str]) -> list[Expression]:
    """The first three, that is; a mask has the batch first everywhere."""
    return [*(transposed(name, 1, 0, 2) for name in arrays[:3]), *arrays[3:]]


def _one_step(layer: Layer, arrays: Sequence[str]) -> list[Expression]:
    """x (B, inputs) and states (B, hidden) as a sequence of one step."""
    return [with_axis(name) for name in arrays]


def _of_one(layer: Layer, arrays: Sequence[str]) -> list[Expression]:
    """What has no axis for the batch as a batch of one."""
    return _one_step(layer, arrays)


def _one_step_of_one(layer: Layer, arrays: Sequence[str]) -> list[Expression]:
    return [with_axis(with_axis(name)) for name in arrays]


def _flax_states(layer: Layer, arrays: Sequence[str]) -> list[Expression]:
    """Flax calls a cell with its state first, that of an LSTM as (c, h)."""
    *states, x = arrays
    return [with_axis(name) for name in (x, *reversed(states))]


def _statistics(layer: BatchNorm, arrays: Sequence[str]) -> list[Expression]:
    is_trained = layer.mode == "training" or len(arrays) > 1
    return [*arrays, *(() if is_trained else ("running_mean", "running_var"))]


def _channels_first(layer: Convolution, arrays: Sequence[str]) -> list[Expression]:
    axes = range(1, 1 + len(layer.kernel))
    return [transposed(name, 0, axes.stop, *axes) for name in arrays]


def _cell(layer: Recurrent) -> Weights:
    """The names of a cell, without the number of a layer."""
    names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if layer.bias else ()))
    return {f"{name}_l0": name for name in names}


def _equinox_lstm(layer: Recurrent) -> Weights:
    found: dict[str, Expression] = {"weight_ih_l0": "weight_ih", "weight_hh_l0": "weight_hh"}
    return found | ({"bias_ih_l0": "bias", "bias_hh_l0": 0.0} if layer.bias else {})


def _equinox_gru(layer: Recurrent) -> Weights:
    found: dict[str, Expression] = {"weight_ih_l0": "weight_ih", "weight_hh_l0": "weight_hh"}
    if layer.bias:
        hidden = joined(np.zeros(2 * layer.hidden), "bias_n")
        found |= {"bias_ih_l0": "bias", "bias_hh_l0": hidden}
    return found


def _flax_gates(side: str, gates: str) -> Expression:
    return transposed(joined(*(f"{side}{gate}.kernel" for gate in gates), axis=1))


def _flax_lstm(layer: Recurrent) -> Weights:
    """One matrix a gate; the bias of a gate is that of its hidden half."""
    biases = joined(*(f"h{gate}.bias" for gate in "ifgo"))
    return {
        "weight_ih_l0": _flax_gates("i", "ifgo"),
        "weight_hh_l0": _flax_gates("h", "ifgo"),
        **({"bias_ih_l0": 0.0, "bias_hh_l0": biases} if layer.bias else {}),
    }


def _flax_gru(layer: Recurrent) -> Weights:
    """Of the hidden halves only that of the candidate has a bias."""
    found = {"weight_ih_l0": _flax_gates("i", "rzn"), "weight_hh_l0": _flax_gates("h", "rzn")}
    if layer.bias:
        found["bias_ih_l0"] = joined(*(f"i{gate}.bias" for gate in "rzn"))
        found["bias_hh_l0"] = joined(np.zeros(2 * layer.hidden), "hn.bias")
    return found


def _nnx_lstm(layer: Recurrent) -> Weights:
    """As in Linen, but for the name of one: `if` is a word of Python."""
    found = _flax_lstm(layer)
    inputs = (f"{gate}.kernel" for gate in ("ii", "if_", "ig", "io"))
    return {**found, "weight_ih_l0": transposed(joined(*inputs, axis=1))}


def _nnx_fused(layer: Recurrent, *, bias: str) -> Weights:
    """All gates of a side in one matrix; the bias of a gate is at the side `bias`."""
    found: dict[str, Expression] = {
        "weight_ih_l0": transposed("dense_i.kernel"),
        "weight_hh_l0": transposed("dense_h.kernel"),
    }
    if layer.bias:
        found |= {"bias_ih_l0": 0.0, "bias_hh_l0": 0.0, f"bias_{bias}h_l0": f"dense_{bias}.bias"}
    return found


def _flax_simple(layer: Recurrent) -> Weights:
    found: dict[str, Expression] = {
        "weight_ih_l0": transposed("i.kernel"),
        "weight_hh_l0": transposed("h.kernel"),
    }
    return found | ({"bias_ih_l0": "i.bias", "bias_hh_l0": 0.0} if layer.bias else {})


def _flax_attention(layer: MultiHeadAttention) -> Weights:
    n = layer.features
    parts = ("query", "key", "value")
    found: dict[str, Expression] = {
        "in_proj_weight": joined(*(transposed(shaped(f"{p}.kernel", n, n)) for p in parts)),
        "out_proj.weight": transposed(shaped("out.kernel", n, n)),
    }
    if layer.bias:
        found["in_proj_bias"] = joined(*(shaped(f"{p}.bias", n) for p in parts))
        found["out_proj.bias"] = "out.bias"
    return found


def _flax_convolution(layer: Convolution) -> Weights:
    axes = len(layer.kernel)
    return {"weight": transposed("kernel", axes + 1, axes, *range(axes))}


def _channels_last(layer: Convolution) -> Sequence[Expression]:
    return (transposed("output[0]", 0, *range(2, 2 + len(layer.kernel)), 1),)


def _equinox_convolution(layer: Convolution) -> Weights:
    return {"bias": shaped("bias", layer.outputs)} if layer.bias else {}


def _equinox_attention(layer: MultiHeadAttention) -> Weights:
    parts = ("query_proj", "key_proj", "value_proj")
    found: dict[str, Expression] = {
        "in_proj_weight": joined(*(f"{part}.weight" for part in parts)),
        "out_proj.weight": "output_proj.weight",
    }
    if layer.bias:
        found["in_proj_bias"] = joined(*(f"{part}.bias" for part in parts))
        found["out_proj.bias"] = "output_proj.bias"
    return found


def _states(layer: Recurrent) -> list[str]:
    return [f"output[{k + 1}]" for k in range(layer.cell.states)]


def _after_one_step(layer: Recurrent) -> Sequence[Expression]:
    return [without_axis(name) for name in _states(layer)]


def _after_one_step_of_one(layer: Recurrent) -> Sequence[Expression]:
    return [without_axis(without_axis(name)) for name in _states(layer)]


def _flax_after(layer: Recurrent) -> Sequence[Expression]:
    """The state as Flax takes it, then h again."""
    return [without_axis(name) for name in (*reversed(_states(layer)), "output[0]")]


def _time_after_batch(layer: Recurrent) -> Sequence[Expression]:
    return [transposed("output[0]", 1, 0, 2), *_states(layer)]


def _of_batch_of_one(layer: Layer) -> Sequence[Expression]:
    return [without_axis("output[0]")]


def _recurrent(cell: type, **how: Any) -> Convention:
    return Convention(kinds=(Recurrent,), cell=cell, **how)


def _torch_recurrent(cell: type, name: str) -> dict[str, Convention]:
    return {
        f"torch.nn.{name}": _recurrent(cell),
        f"torch.nn.{name}, batch_first=True": _recurrent(
            cell, arguments=_batch_first, outputs=_time_after_batch
        ),
        f"torch.nn.{name}Cell": _recurrent(
            cell, weights=_cell, arguments=_one_step, outputs=_after_one_step
        ),
    }


def _first(layer: Layer) -> Sequence[Expression]:
    return ("output[0]",)


PLAIN = {
    "torch.nn.Linear": Dense,
    "torch.nn.LayerNorm": LayerNorm,
    "torch.nn.RMSNorm": RMSNorm,
    "torch.nn.Embedding": Embedding,
    "torch.nn.Conv1d": Convolution,
    "torch.nn.Conv2d": Convolution,
    "torch.nn.Conv3d": Convolution,
    "equinox.nn.Linear": Dense,
    "equinox.nn.LayerNorm": LayerNorm,
    "equinox.nn.RMSNorm": RMSNorm,
    "equinox.nn.Embedding": Embedding,
}


def _flax_cell(cell: type, weights: Callable[..., Weights]) -> Convention:
    return _recurrent(cell, weights=weights, arguments=_flax_states, outputs=_flax_after)


def _flax(home: str) -> dict[str, Convention]:
    """The layers that Linen and NNX store alike, but for the name of the module."""
    is_nnx = home == "flax.nnx"
    return {
        f"{home}.{'Linear' if is_nnx else 'Dense'}": Convention(
            kinds=(Dense,), weights=lambda layer: {"weight": transposed("kernel")}
        ),
        f"{home}.LayerNorm": Convention(
            kinds=(LayerNorm,), weights=lambda layer: {"weight": "scale"} if layer.affine else {}
        ),
        f"{home}.RMSNorm": Convention(kinds=(RMSNorm,), weights=lambda layer: {"weight": "scale"}),
        f"{home}.Embed": Convention(
            kinds=(Embedding,), weights=lambda layer: {"weight": "embedding"}
        ),
        f"{home}.Conv": Convention(
            kinds=(Convolution,),
            weights=_flax_convolution,
            arguments=_channels_first,
            outputs=_channels_last,
        ),
        f"{home}.{'MultiHeadAttention' if is_nnx else 'MultiHeadDotProductAttention'}": Convention(
            kinds=(MultiHeadAttention,), weights=_flax_attention, arguments=attended
        ),
    }


LINEN_CELLS = {
    "SimpleCell": _flax_cell(ElmanCell, _flax_simple),
    "LSTMCell": _flax_cell(LSTMCell, _flax_lstm),
    "OptimizedLSTMCell": _flax_cell(LSTMCell, _flax_lstm),
    "GRUCell": _flax_cell(GRUCell, _flax_gru),
}
NNX_CELLS = {
    "SimpleCell": _flax_cell(ElmanCell, partial(_nnx_fused, bias="i")),
    "LSTMCell": _flax_cell(LSTMCell, _nnx_lstm),
    "OptimizedLSTMCell": _flax_cell(LSTMCell, partial(_nnx_fused, bias="h")),
    "GRUCell": _flax_cell(GRUCell, partial(_nnx_fused, bias="i")),
}

CONVENTIONS: Mapping[str, Convention] = {
    **{name: Convention(kinds=(kind,)) for name, kind in PLAIN.items()},
    **{
        f"torch.nn.BatchNorm{n}d": Convention(kinds=(BatchNorm,), arguments=_statistics)
        for n in (1, 2, 3)
    },
    **_torch_recurrent(ElmanCell, "RNN"),
    **_torch_recurrent(LSTMCell, "LSTM"),
    **_torch_recurrent(GRUCell, "GRU"),
    "torch.nn.MultiheadAttention": Convention(
        kinds=(MultiHeadAttention,),
        arguments=_all_batch_first,
        outputs=lambda layer: (transposed("output[0]", 1, 0, 2),),
    ),
    "torch.nn.MultiheadAttention, batch_first=True": Convention(
        kinds=(MultiHeadAttention,), outputs=_first
    ),
    "equinox.nn.LSTMCell": _recurrent(
        LSTMCell,
        weights=_equinox_lstm,
        arguments=_one_step_of_one,
        outputs=_after_one_step_of_one,
    ),
    "equinox.nn.GRUCell": _recurrent(
        GRUCell,
        weights=_equinox_gru,
        arguments=_one_step_of_one,
        outputs=_after_one_step_of_one,
    ),
    **{
        f"equinox.nn.{name}": Convention(
            kinds=(Convolution,),
            weights=_equinox_convolution,
            arguments=_of_one,
            outputs=_of_batch_of_one,
        )
        for name in ("Conv", "Conv1d", "Conv2d", "Conv3d")
    },
    "equinox.nn.MultiheadAttention": Convention(
        kinds=(MultiHeadAttention,),
        weights=_equinox_attention,
        arguments=_of_one,
        outputs=_of_batch_of_one,
    ),
    **_flax("flax.linen"),
    **{f"flax.linen.{name}": convention for name, convention in LINEN_CELLS.items()},
    **_flax("flax.nnx"),
    **{f"flax.nnx.{name}": convention for name, convention in NNX_CELLS.items()},
}
