"""PyTorch twins of the recurrent networks: torch.nn.RNN, LSTM and GRU, packed where masked."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gradcheck.reference.cells import ElmanCell, GRUCell, LSTMCell
from gradcheck.reference.recurrent import Recurrent
from gradcheck.suites.twins.missing import NoTwin
from gradcheck.suites.twins.torch_.registry import Outputs, Params, apply

__all__: list[str] = []

State = tuple[torch.Tensor, ...]
Network = Callable[[torch.Tensor, State, torch.Tensor | None], tuple[torch.Tensor, State]]


@apply.register
def recurrent(layer: Recurrent, params: Params, x: torch.Tensor, *rest: torch.Tensor) -> Outputs:
    """Run chunk by chunk, the states detached in between; untruncated, there is one chunk."""
    state, lengths = (rest[:-1], rest[-1]) if layer.masked else (rest, None)
    if len(x) == 0:
        raise NoTwin(layer, "torch", "torch.nn.RNN, LSTM and GRU refuse sequences without steps")
    if lengths is not None and not lengths.any():
        raise NoTwin(layer, "torch", "pack_padded_sequence refuses a batch without a step")
    network = _network(layer, params)
    size = layer.truncation or len(x)
    ys = []
    for start in range(0, len(x), size):
        chunk = x[start : start + size]
        left = None if lengths is None else (lengths - start).clamp(0, len(chunk))
        if start:
            state = tuple(s.detach() for s in state)
        y, state = network(chunk, state, left)
        ys.append(y)
    return (torch.cat(ys), *state)


def _network(layer: Recurrent, params: Params) -> Network:
    settings: dict[str, Any] = {
        "input_size": layer.inputs,
        "hidden_size": layer.hidden,
        "num_layers": layer.layers,
        "bidirectional": layer.bidirectional,
        "bias": layer.bias,
        "device": "meta",  # the module brings the code, `params` the numbers
    }
    match layer.cell:
        case ElmanCell(nonlinearity=nonlinearity):
            return _of_module(torch.nn.RNN(nonlinearity=nonlinearity, **settings), params)
        case LSTMCell():
            return _of_module(torch.nn.LSTM(**settings), params)
        case GRUCell(reset="after"):
            return _of_module(torch.nn.GRU(**settings), params)
        case GRUCell(reset="before"):
            return _reset_before(layer, params)
    raise NoTwin(layer, "torch", f"no twin of {layer.cell}")


def _of_module(module: torch.nn.RNNBase, params: Params) -> Network:
    """Return `module` with the parameters `params`, one calling convention for all three."""

    def call(x: Any, state: State) -> tuple[Any, State]:
        first = state if isinstance(module, torch.nn.LSTM) else state[0]
        y, last = torch.func.functional_call(module, dict(params), (x, first))
        return y, last if isinstance(last, tuple) else (last,)

    def network(
        x: torch.Tensor, state: State, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, State]:
        if lengths is None:
            return call(x, state)
        # pack_padded_sequence refuses empty sequences and empty batches: run the others.
        width = module.hidden_size * (2 if module.bidirectional else 1)
        y = x.new_zeros(*x.shape[:2], width)
        (kept,) = lengths.nonzero(as_tuple=True)
        if len(kept) == 0:
            return y, state
        packed = pack_padded_sequence(x[:, kept], lengths[kept].cpu(), enforce_sorted=False)
        packed_y, last = call(packed, tuple(s[:, kept] for s in state))
        kept_y, _ = pad_packed_sequence(packed_y, total_length=len(x))
        merged = (s.index_copy(1, kept, k) for s, k in zip(state, last, strict=True))
        return y.index_copy(1, kept, kept_y), tuple(merged)

    return network


def _reset_before(layer: Recurrent, params: Params) -> Network:
    """Return the GRU of Cho et al. (2014), which torch lacks, out of torch.nn.functional."""

    def network(
        x: torch.Tensor, state: State, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, State]:
        steps, batch, _ = x.shape
        left = torch.full((batch,), steps) if lengths is None else lengths
        alive = (torch.arange(steps)[:, None] < left)[..., None]
        y, last = torch.where(alive, x, 0), []
        runs = iter(state[0])
        for depth in range(layer.layers):
            sides = []
            for suffix in (f"l{depth}", f"l{depth}_reverse")[: layer.directions]:
                a = F.linear(y, params[f"weight_ih_{suffix}"], params.get(f"bias_ih_{suffix}"))
                weight, bias = params[f"weight_hh_{suffix}"], params.get(f"bias_hh_{suffix}")
                h, hs = next(runs), [torch.empty(0)] * steps
                for t in reversed(range(steps)) if suffix.endswith("reverse") else range(steps):
                    h = torch.where(alive[t], _step(a[t], h, weight, bias), h)
                    hs[t] = torch.where(alive[t], h, 0)
                sides.append(torch.stack(hs))
                last.append(h)
            y = torch.cat(sides, dim=-1)
        return y, (torch.stack(last),)

    return network


def _step(
    a: torch.Tensor, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    split = 2 * h.shape[-1]
    w_rz, w_n = weight[:split], weight[split:]
    b_rz, b_n = (None, None) if bias is None else (bias[:split], bias[split:])
    r, z = torch.sigmoid(a[:, :split] + F.linear(h, w_rz, b_rz)).chunk(2, dim=-1)
    n = torch.tanh(a[:, split:] + F.linear(r * h, w_n, b_n))
    return torch.lerp(n, h, z)
