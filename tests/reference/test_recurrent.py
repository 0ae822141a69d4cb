"""Recurrent networks, against PyTorch, JAX and differences; chunks, masks and truncation."""

from typing import Any

import numpy as np
import pytest
import torch

from gradcheck.reference.cells import Cell, ElmanCell, GRUCell, LSTMCell
from gradcheck.reference.layer import Array, Params
from gradcheck.reference.recurrent import Recurrent
from gradcheck.suites.twins import torch_
from gradcheck.suites.twins.missing import NoTwin
from tests.reference.agreement import (
    assert_keeps_dtype,
    assert_mutates_nothing,
    assert_same_with_strides,
    assert_slopes_agree,
    assert_twins_agree,
    leaves,
    map_leaves,
    vjp,
)

CELLS: dict[str, Cell] = {
    "tanh": ElmanCell(),
    "relu": ElmanCell(nonlinearity="relu"),
    "lstm": LSTMCell(),
    "gru": GRUCell(),
    "cho": GRUCell(reset="before"),
}
FLAT: dict[str, dict[str, Any]] = {  # every combination that is allowed, one layer
    "plain": {},
    "both ways": {"bidirectional": True},
    "truncated": {"truncation": 2},
    "masked": {"masked": True},
    "masked both ways": {"masked": True, "bidirectional": True},
    "masked truncated": {"masked": True, "truncation": 2},
}
STACKED = {f"{name}, two layers": {**case, "layers": 2} for name, case in FLAT.items()}
cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
cases = pytest.mark.parametrize("case", (FLAT | STACKED).values(), ids=(FLAT | STACKED).keys())

LENGTHS = (5, 2, 4)  # the last step, the end of a chunk of two, and neither


def network(cell: Cell, **case: Any) -> Recurrent:
    return Recurrent(cell=cell, inputs=2, hidden=3, **case)


def draw(
    layer: Recurrent, *, steps: int = 5, batch: int = 3, lengths: tuple[int, ...] = LENGTHS
) -> tuple[Array, ...]:
    rng = np.random.default_rng(5)
    rows = layer.layers * (2 if layer.bidirectional else 1)
    x = rng.standard_normal((steps, batch, layer.inputs))
    states = [rng.standard_normal((rows, batch, layer.hidden)) for _ in range(layer.cell.states)]
    return (x, *states, *([np.array(lengths, dtype=np.int64)] if layer.masked else []))


def parameters(layer: Recurrent) -> Params:
    return layer.parameters(np.random.default_rng(0))


def assert_close(got: Any, wanted: Any) -> None:
    ours, theirs = dict(leaves(got)), dict(leaves(wanted))
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[path], rtol=1e-12, atol=1e-12, err_msg=path)


@cells
@cases
def test_torch_agrees(cell: Cell, case: dict[str, Any]) -> None:
    layer = network(cell, **case)
    assert_twins_agree(layer, *draw(layer), frameworks=("torch",))


# JAX compiles each case, which takes a second: all cells once, and each shape of network once.
@cells
def test_jax_agrees(cell: Cell) -> None:
    layer = network(cell, bidirectional=True, masked=True)
    assert_twins_agree(layer, *draw(layer), frameworks=("jax",))


def test_jax_agrees_in_two_layers() -> None:
    layer = network(LSTMCell(), layers=2)
    assert_twins_agree(layer, *draw(layer), frameworks=("jax",))


def test_jax_agrees_truncated() -> None:
    layer = network(LSTMCell(), masked=True, truncation=2)
    assert_twins_agree(layer, *draw(layer, steps=4, lengths=(4, 2, 3)), frameworks=("jax",))


@cells
@pytest.mark.parametrize("case", [c for c in (FLAT | STACKED).values() if "truncation" not in c])
def test_slopes_agree(cell: Cell, case: dict[str, Any]) -> None:
    layer = network(cell, **case)
    assert_slopes_agree(layer, *draw(layer))


@pytest.mark.parametrize(
    ("cell", "alone"),
    [(cell, k) for cell in CELLS.values() for k in range(1 + cell.states)],
    ids=[f"{name}-{y}" for name, c in CELLS.items() for y in ("y", "h", "c")[: 1 + c.states]],
)
@pytest.mark.parametrize("masked", [False, True])
def test_each_output_alone_pulls_back_as_in_torch(cell: Cell, alone: int, masked: bool) -> None:
    layer = network(cell, layers=2, bidirectional=True, masked=masked)
    params, inputs = parameters(layer), draw(layer)
    _, cotangents, _ = vjp(layer, params, *inputs)
    only = tuple(u if k == alone else np.zeros_like(u) for k, u in enumerate(cotangents))

    _, cache = layer.forward(params, *inputs)
    grads, inputs_bar = layer.backward(params, cache, *only)

    assert_close((grads, inputs_bar), torch_vjp(layer, params, inputs, only))
    assert np.any(np.asarray(inputs_bar[0]) != 0)


def torch_vjp(layer: Recurrent, params: Params, inputs: Any, cotangents: Any) -> Any:
    """Return (param grads, input grads) of the torch twin; lengths, integers, get None."""
    tensors = map_leaves(lambda a: torch.from_numpy(a.copy()), (params, inputs))
    everything: list[Any] = [t for _, t in leaves(tensors)]
    moving = [t.requires_grad_() for t in everything if t.is_floating_point()]
    outputs = torch_.apply(layer, tensors[0], *tensors[1])
    torch.autograd.backward(outputs, [torch.from_numpy(u) for u in cotangents], inputs=moving)
    return map_leaves(lambda t: None if t.grad is None else t.grad.numpy(), tensors)


@cells
@pytest.mark.parametrize("masked", [False, True])
def test_two_runs_with_the_state_passed_on_are_one_run(cell: Cell, masked: bool) -> None:
    layer = network(cell, layers=2, masked=masked)
    params, (x, *rest) = parameters(layer), draw(layer)
    lengths = rest[cell.states :]
    outputs, (u, *last_bar), wanted = vjp(layer, params, x, *rest)

    (y_1, *s_1), cache_1 = layer.forward(
        params, x[:2], *rest[: cell.states], *(np.minimum(n, 2) for n in lengths)
    )
    (y_2, *s_2), cache_2 = layer.forward(
        params, x[2:], *s_1, *(np.maximum(n - 2, 0) for n in lengths)
    )
    s_1_bar: Any
    grads_2, (x_2_bar, *s_1_bar) = layer.backward(params, cache_2, u[2:], *last_bar)
    grads_1, (x_1_bar, *s_0_bar) = layer.backward(params, cache_1, u[:2], *s_1_bar[: cell.states])

    assert_close((np.concatenate([y_1, y_2]), *s_2), outputs)
    x_bar = np.concatenate([x_1_bar, x_2_bar])
    assert_close((map_leaves(np.add, grads_1, grads_2), (x_bar, *s_0_bar)), wanted)


@cells
@pytest.mark.parametrize("masked", [False, True])
def test_truncation_drops_the_cotangent_between_chunks_and_nothing_else(
    cell: Cell, masked: bool
) -> None:
    layer = network(cell, layers=2, masked=masked)
    params, (x, *rest) = parameters(layer), draw(layer)
    first, lengths = rest[: cell.states], rest[cell.states :]
    outputs, (u, *last_bar), got = vjp(
        network(cell, layers=2, masked=masked, truncation=2), params, x, *rest
    )

    grads: Any = map_leaves(np.zeros_like, params)
    x_bar, state = np.zeros_like(x), first
    first_bar: list[Any] = []
    for t in (0, 2, 4):
        left = (np.clip(n - t, 0, len(x[t : t + 2])) for n in lengths)
        (_, *state), cache = layer.forward(params, x[t : t + 2], *state, *left)
        arriving = last_bar if t == 4 else [np.zeros_like(s) for s in last_bar]
        share, (x_bar[t : t + 2], *bars) = layer.backward(params, cache, u[t : t + 2], *arriving)
        grads = map_leaves(np.add, grads, share)
        first_bar = first_bar or bars

    assert_close(got, (grads, (x_bar, *first_bar)))
    assert_close(outputs[1:], tuple(state))


@cells
@pytest.mark.parametrize("k", [5, 6])
def test_truncation_at_no_less_than_the_length_is_full_backpropagation(cell: Cell, k: int) -> None:
    full, cut = network(cell, layers=2), network(cell, layers=2, truncation=k)

    assert_close(vjp(cut, parameters(cut), *draw(cut)), vjp(full, parameters(full), *draw(full)))


@cells
def test_truncation_keeps_values_and_changes_cotangents(cell: Cell) -> None:
    full, cut = network(cell), network(cell, truncation=4)
    wanted, _, (grads, inputs_bar) = vjp(full, parameters(full), *draw(full))
    got, _, (cut_grads, cut_bar) = vjp(cut, parameters(cut), *draw(cut))

    assert_close(got, wanted)
    for name, grad in grads.items():
        assert not np.allclose(grad, cut_grads[name]), name
    for bar, other in zip(inputs_bar, cut_bar, strict=True):
        assert not np.allclose(np.asarray(bar), np.asarray(other))


@cells
def test_the_last_state_reaches_only_the_last_chunk(cell: Cell) -> None:
    layer = network(cell, layers=2, truncation=2)
    params, inputs = parameters(layer), draw(layer)
    (y, *last), cache = layer.forward(params, *inputs)

    x_bar: Any
    _, (x_bar, *first_bar) = layer.backward(params, cache, 0 * y, *map(np.ones_like, last))

    assert np.all(x_bar[:4] == 0)
    assert np.any(x_bar[4] != 0)
    assert all(np.all(s == 0) for s in first_bar)


@cells
@pytest.mark.parametrize("case", [{"truncation": 1}, {"truncation": 2}])
def test_truncated_steps_that_end_with_a_chunk_agree(cell: Cell, case: dict[str, Any]) -> None:
    layer = network(cell, **case)
    assert_twins_agree(layer, *draw(layer, steps=4), frameworks=("torch",))


@cells
def test_full_lengths_mask_nothing(cell: Cell) -> None:
    plain, masked = (
        network(cell, bidirectional=True),
        network(cell, bidirectional=True, masked=True),
    )
    outputs, _, (grads, inputs_bar) = vjp(plain, parameters(plain), *draw(plain))

    got = vjp(masked, parameters(masked), *draw(masked, lengths=(5, 5, 5)))

    assert_close((got[0], got[2]), (outputs, (grads, (*inputs_bar, None))))


@cells
def test_each_masked_sequence_runs_as_if_alone(cell: Cell) -> None:
    masked = network(cell, layers=2, bidirectional=True, masked=True)
    alone = network(cell, layers=2, bidirectional=True)
    params, (x, *first, lengths) = parameters(masked), draw(masked)
    (y, *last), _ = masked.forward(params, x, *first, lengths)

    for b, n in enumerate(LENGTHS):
        own, _ = alone.forward(params, x[:n, [b]], *(s[:, [b]] for s in first))

        assert_close((y[:n, [b]], *(s[:, [b]] for s in last)), own)
        assert np.all(y[n:, b] == 0)


@cells
def test_padding_may_hold_nan(cell: Cell) -> None:
    layer = network(cell, layers=2, bidirectional=True, masked=True)
    x, *rest = draw(layer)
    wanted = vjp(layer, parameters(layer), x, *rest)

    assert_close(vjp(layer, parameters(layer), spoil(x), *rest), wanted)
    assert_twins_agree(layer, spoil(x), *rest, frameworks=("torch",))


def test_padding_may_hold_nan_in_jax() -> None:
    layer = network(ElmanCell(), masked=True)
    x, *rest = draw(layer)

    assert_twins_agree(layer, spoil(x), *rest, frameworks=("jax",))


def spoil(x: Array) -> Array:
    """Return `x` with NaN in its padding."""
    return np.where(np.arange(5)[:, None, None] < np.array(LENGTHS)[:, None], x, np.nan)


@cells
@pytest.mark.parametrize("case", [{}, {"truncation": 2}])
def test_a_sequence_without_steps_hands_its_state_through(cell: Cell, case: dict[str, Any]) -> None:
    layer = network(cell, masked=True, **case)
    params, inputs = parameters(layer), draw(layer, lengths=(3, 0, 5))
    (y, *last), (_, *last_bar), (_, (x_bar, *first_bar, _)) = vjp(layer, params, *inputs)

    assert np.all(y[:, 1] == 0)
    assert np.all(x_bar[:, 1] == 0)
    assert_close([s[:, 1] for s in last], [s[:, 1] for s in inputs[1:-1]])
    if not case:
        assert_close([s[:, 1] for s in first_bar], [s[:, 1] for s in last_bar])
    assert_twins_agree(layer, *inputs, frameworks=("torch",))


@cells
@pytest.mark.parametrize(("steps", "batch"), [(1, 2), (2, 1), (2, 0), (1, 0)])
def test_few_steps_and_small_batches_agree(cell: Cell, steps: int, batch: int) -> None:
    layer = network(cell, layers=2, bidirectional=True)
    assert_twins_agree(layer, *draw(layer, steps=steps, batch=batch), frameworks=("torch",))


@cells
def test_sizes_of_one_agree(cell: Cell) -> None:
    layer = Recurrent(cell=cell, inputs=1, hidden=1, layers=3, bias=False)
    assert_twins_agree(layer, *draw(layer), frameworks=("torch",))


def test_jax_agrees_without_bias() -> None:
    layer = Recurrent(cell=ElmanCell(), inputs=1, hidden=1, bias=False)
    assert_twins_agree(layer, *draw(layer, steps=1), frameworks=("jax",))


@cells
def test_no_steps_return_the_state(cell: Cell) -> None:
    layer = network(cell, layers=2, bidirectional=True)
    inputs = draw(layer, steps=0)
    (y, *last), (_, *last_bar), (grads, (_, *first_bar)) = vjp(layer, parameters(layer), *inputs)

    assert y.shape == (0, 3, 6)
    assert_close(last, list(inputs[1:]))
    assert_close(first_bar, last_bar)
    assert all(np.all(grad == 0) for grad in grads.values())


def test_jax_agrees_on_no_steps() -> None:
    layer = network(LSTMCell(), truncation=2)
    assert_twins_agree(layer, *draw(layer, steps=0), frameworks=("jax",))


@cells
@pytest.mark.parametrize("masked", [False, True])
def test_float32_stays_float32(cell: Cell, masked: bool) -> None:
    layer = network(cell, layers=2, bidirectional=True, masked=masked)
    assert_keeps_dtype(layer, *draw(layer))


@cells
@pytest.mark.parametrize("case", [{"masked": True, "bidirectional": True}, {"truncation": 2}])
def test_nothing_is_mutated(cell: Cell, case: dict[str, Any]) -> None:
    layer = network(cell, layers=2, **case)
    assert_mutates_nothing(layer, *draw(layer))


@cells
def test_strides_do_not_matter(cell: Cell) -> None:
    layer = network(cell, layers=2, bidirectional=True, masked=True)
    assert_same_with_strides(layer, *draw(layer))


@cells
def test_huge_inputs_saturate_without_overflow(cell: Cell) -> None:
    layer = network(cell)
    x, *first = draw(layer)

    outputs, _, grads = vjp(layer, parameters(layer), 1e30 * x, *first)

    assert all(np.all(np.isfinite(leaf)) for _, leaf in leaves((outputs, grads)))


def test_relu_at_its_kink_passes_nothing() -> None:
    layer = network(CELLS["relu"])
    params = map_leaves(np.zeros_like, parameters(layer))

    _, _, (grads, (x_bar, h_bar)) = vjp(layer, params, *draw(layer))

    assert all(np.all(grad == 0) for grad in grads.values())
    assert np.all(x_bar == 0)
    assert np.all(h_bar == 0)


def test_the_two_resets_differ() -> None:
    after, before = network(CELLS["gru"]), network(CELLS["cho"])
    params = parameters(after)

    (y, _), _ = after.forward(params, *draw(after))
    (other, _), _ = before.forward(params, *draw(before))

    assert not np.allclose(y, other)


def test_parameters_are_named_and_shaped_as_in_torch() -> None:
    layer = network(LSTMCell(), layers=2, bidirectional=True)
    module = torch.nn.LSTM(2, 3, num_layers=2, bidirectional=True, device="meta")

    got = {name: array.shape for name, array in parameters(layer).items()}

    assert list(got.items()) == [(name, tuple(p.shape)) for name, p in module.named_parameters()]


@pytest.mark.parametrize(
    ("layer", "lengths"),
    [
        (network(LSTMCell(), masked=True), (0, 0, 0)),
        (network(LSTMCell()), ()),
    ],
    ids=["no sequence has a step", "no steps at all"],
)
def test_torch_has_no_twin_without_steps(layer: Recurrent, lengths: tuple[int, ...]) -> None:
    inputs = draw(layer, steps=5 if lengths else 0, lengths=lengths)
    tensors = [torch.from_numpy(a) for a in inputs]

    with pytest.raises(NoTwin, match="refuse"):
        torch_.apply(layer, map_leaves(torch.from_numpy, parameters(layer)), *tensors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "expected layers to be at least 1, got 0"),
        ({"truncation": 0}, "expected truncation to be at least 1, got 0"),
        ({"truncation": 2, "bidirectional": True}, "expected truncation=None with bidirectional"),
    ],
)
def test_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(LSTMCell(), **settings)


def test_cells_refuse_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"nonlinearity to be one of .* got 'gelu'"):
        ElmanCell(nonlinearity="gelu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"reset to be one of .* got 'never'"):
        GRUCell(reset="never")  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", [(5, 5), (5, 6, 5), (5, -1, 5)])
def test_refuses_lengths(lengths: tuple[int, ...]) -> None:
    layer = network(LSTMCell(), masked=True)

    with pytest.raises(ValueError, match="expected lengths of shape"):
        layer.forward(parameters(layer), *draw(layer, lengths=lengths))


def test_refuses_a_missing_state() -> None:
    layer = network(LSTMCell())
    x, h, _ = draw(layer)

    with pytest.raises(ValueError, match=r"expected 2 initial state\(s\) after x, got 1"):
        layer.forward(parameters(layer), x, h)
