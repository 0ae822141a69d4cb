"""Sequence layers and cells: right ones pass, and of wrong ones the lag is named."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradcheck import CheckResult, InputError, Verdict, check_sequence

FLOAT64 = {"dtype": torch.float64}
STEPS, BATCH, INPUTS, HIDDEN = 11, 2, 3, 4


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, **FLOAT64)  # type: ignore[call-overload,no-any-return]


X, H = drawn(STEPS, BATCH, INPUTS), drawn(BATCH, HIDDEN, seed=1)


class Elman(nn.Module):
    """A recurrent layer whose steps may be spoilt."""

    def __init__(
        self,
        gain: float = 0.5,
        hand_over: Callable[[int, Tensor], Tensor] = lambda t, h: h,
        returned: int = -1,
    ) -> None:
        super().__init__()
        self.w = nn.Parameter(gain * drawn(HIDDEN, HIDDEN, seed=2))
        self.u = nn.Parameter(drawn(HIDDEN, INPUTS, seed=3))
        self.hand_over, self.returned = hand_over, returned

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for t, now in enumerate(x):
            h = torch.tanh(self.hand_over(t, h) @ self.w.T + now @ self.u.T)
            outputs.append(h)
        return torch.stack(outputs), outputs[max(self.returned, -len(outputs))]


class Linear(torch.autograd.Function):
    """h_t = r h_{t-1} + x_t, y = h, with the carry of the backward lost before step `LOST`."""

    LOST: int | None = None
    HEEDS_FINAL = True

    @staticmethod
    def forward(ctx: Any, x: Tensor, r: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        states = [h]
        for now in x:
            states.append(r * states[-1] + now)
        ctx.save_for_backward(torch.stack(states), r)
        return torch.stack(states[1:]), states[-1].clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor, final: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, r = ctx.saved_tensors
        carry = final if Linear.HEEDS_FINAL else torch.zeros_like(final)
        x_bar, r_bar = torch.zeros_like(u), torch.zeros_like(r)
        for t in reversed(range(len(u))):
            carry = carry + u[t]
            x_bar[t] = carry
            r_bar = r_bar + carry * states[t]
            carry = r * carry * float(t != Linear.LOST)
        return x_bar, r_bar, carry


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    return lambda t: monkeypatch.setattr(Linear, "LOST", t)


def found(result: CheckResult, check: str) -> list[Any]:
    return [finding for finding in result.findings if finding.check == check]


def failed(result: CheckResult) -> set[str]:
    return {finding.check for finding in result.findings if finding.verdict is Verdict.FAIL}


RIGHT = {
    "LSTM": lambda: check_sequence(
        nn.LSTM(INPUTS, HIDDEN).double(), X, (H[None], H[None].clone()), chunk=4
    ),
    "LSTM, batch first": lambda: check_sequence(
        nn.LSTM(INPUTS, HIDDEN, batch_first=True).double(), X.transpose(0, 1), time_axis=1
    ),
    "GRU, both directions": lambda: check_sequence(
        nn.GRU(INPUTS, HIDDEN, bidirectional=True).double(), X
    ),
    "RNN in float32": lambda: check_sequence(nn.RNN(INPUTS, HIDDEN), X.float(), H[None].float()),
    "LSTMCell": lambda: check_sequence(
        nn.LSTMCell(INPUTS, HIDDEN).double(), X, (H, H.clone()), cell=True
    ),
    "GRUCell": lambda: check_sequence(nn.GRUCell(INPUTS, HIDDEN).double(), X, H, cell=True),
    "relu": lambda: check_sequence(
        nn.RNN(INPUTS, HIDDEN, nonlinearity="relu").double(), X, H[None]
    ),
    "Conv1d": lambda: check_sequence(
        nn.Conv1d(INPUTS, HIDDEN, 3, padding=1).double(), X.permute(1, 2, 0), time_axis=2
    ),
    "Elman": lambda: check_sequence(Elman(), X, H, chunk=5),
    "truncated, as declared": lambda: check_sequence(
        Elman(hand_over=lambda t, h: h if t % 4 else h.detach()), X, H, truncation=4
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str) -> None:
    torch.manual_seed(14)

    result = RIGHT[name]()

    assert result.passed, result
    assert found(result, "lag")


@pytest.mark.parametrize(
    ("hand_over", "pattern"),
    [
        (lambda t, h: h.detach() if t == 5 else h, "carry lost: between steps 4 and 5"),
        (lambda t, h: h.detach(), "truncated: at lag 1"),
        (lambda t, h: h if t % 4 else h.detach(), "truncated: in blocks of 4"),
    ],
)
def test_a_state_that_is_detached_is_named_with_its_place(
    hand_over: Callable[[int, Tensor], Tensor], pattern: str
) -> None:
    (lag,) = found(check_sequence(Elman(hand_over=hand_over), X, H), "lag")

    assert lag.verdict is Verdict.FAIL
    assert lag.diagnosis == pattern
    assert "wrong from lag 1 on" in lag.message


def _part_detached(h: Tensor) -> Tensor:
    return 0.5 * h + 0.5 * h.detach()


def test_a_carry_that_is_spoilt_between_two_steps_is_not_called_lost() -> None:
    spoilt = Elman(hand_over=lambda t, h: _part_detached(h) if t == 5 else h)

    (lag,) = found(check_sequence(spoilt, X, H), "lag")

    assert lag.diagnosis == "carry spoilt: between steps 4 and 5"


@pytest.mark.parametrize("step", [0, 3])
def test_one_step_of_the_input_that_is_wrong_is_no_carry(step: int) -> None:
    class Detaching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.elman = Elman()

        def forward(self, x: Tensor, h: Tensor) -> Any:
            steps = [_part_detached(now) if t == step else now for t, now in enumerate(x)]
            return self.elman(torch.stack(steps), h)

    (lag,) = found(check_sequence(Detaching(), X, H), "lag")

    assert lag.diagnosis == f"one step: {step}"


@pytest.mark.parametrize("r", [0.9, 0.1, 1e-3, 1e-6])
def test_a_carry_that_is_lost_far_back_is_found_however_little_of_it_is_left(
    r: float, lost: Callable[[int | None], None]
) -> None:
    x, h, rs = drawn(40, 3), drawn(3, seed=1), torch.full((3,), r, **FLOAT64)  # type: ignore[call-overload]

    lost(21)
    result = check_sequence(Linear.apply, x, rs, h, state=2)

    patterns = {f.diagnosis for f in (*found(result, "lag"), *found(result, "memory"))}
    assert "carry lost: between steps 20 and 21" in patterns

    lost(None)
    assert check_sequence(Linear.apply, x, rs, h, state=2).passed


def test_what_forgets_is_asked_at_weights_that_remember(lost: Callable[[int | None], None]) -> None:
    lost(None)

    result = check_sequence(
        Linear.apply,
        drawn(40, 3),
        torch.full((3,), 1e-3, **FLOAT64),  # type: ignore[call-overload]
        drawn(3, seed=1),
        state=2,
    )

    (lag,) = found(result, "lag")
    assert "lags up to 2 of 39" in lag.message
    blocks = found(result, "memory")[0]
    assert "at input[1] × 1.02e+03 (gain 1 a step)" in blocks.message
    assert "all 40 lags seen and right" in blocks.message


def test_a_batch_that_is_taken_for_time_is_asked_about() -> None:
    layer = torch.nn.GRU(2, 3, batch_first=True).double()
    x = torch.randn(4, 7, 2, **FLOAT64)  # type: ignore[call-overload]

    (asked, _), (right, *_) = (
        found(check_sequence(layer, x, time_axis=axis), "lag") for axis in (0, 1)
    )
    assert "is time along axis 0?" in asked.message
    assert "all 7 lags seen and right" in right.message


@pytest.mark.parametrize("ahead", [0, 1])
def test_an_output_that_depends_on_later_steps_is_said_to(ahead: int) -> None:
    def attention(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.ones(len(x), len(x)).tril(ahead) == 0
        return (x @ x.mT).masked_fill(hidden, -torch.inf).softmax(-1) @ x

    said = str(check_sequence(attention, torch.randn(6, 4, **FLOAT64)))  # type: ignore[call-overload]
    assert ("it depends on later steps too" in said) is bool(ahead)


def test_the_cotangent_of_the_final_state_must_be_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Linear, "HEEDS_FINAL", False)

    result = check_sequence(
        Linear.apply,
        X[:, 0],
        torch.full((INPUTS,), 0.9, **FLOAT64),  # type: ignore[call-overload]
        drawn(INPUTS),
        state=2,
    )

    wrong = [f for f in found(result, "output") if f.verdict is Verdict.FAIL]
    assert wrong
    assert all("output[1] alone" in finding.message for finding in wrong)


def test_a_state_that_is_not_the_last_breaks_the_chunk_law_alone() -> None:
    result = check_sequence(Elman(returned=-2), X, H, state=1)

    assert failed(result) == {"chunk"}
    assert "a mask, a position or a random number" in found(result, "chunk")[0].message


class Pooled(nn.Module):
    """Returns attention, and what it pools by a query of the shape of a state."""

    def forward(self, x: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.softmax((x * query).sum(-1), 0)
        return weights, (weights[..., None] * x).sum(0)


class Placed(nn.Module):
    """Adds an embedding of the place of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(drawn(STEPS, 1, INPUTS, seed=4))
        self.inner = nn.GRU(INPUTS, HIDDEN).double()

    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.inner(x + self.places[: len(x)], h)


QUERY = drawn(BATCH, INPUTS, seed=5)
MASK = (torch.arange(STEPS) % 3 > 0).double()[:, None, None]
CELL = Elman()

# Right layers that are not the layer run in parts, and why that is not asked of them.
PARTLESS: dict[str, tuple[Callable[[], CheckResult], str]] = {
    "attention that pools": (lambda: check_sequence(Pooled(), X, QUERY), "later steps"),
    "a bias": (
        lambda: check_sequence(lambda x, b: (x.cumsum(0) + b, b * x.sum(0)), X, QUERY),
        "input[1] looks like an initial state by its shape",
    ),
    "a bias of zero": (
        lambda: check_sequence(lambda x, b: (x + b, b * x.sum(0)), X, QUERY * 0),
        "input[1] looks like an initial state by its shape",
    ),
    "nothing with time": (
        lambda: check_sequence(lambda x, b: x.sum(0).tanh() * b, X, QUERY),
        "no argument was found",
    ),
    "both directions": (
        lambda: check_sequence(
            nn.GRU(INPUTS, HIDDEN, bidirectional=True).double(), X, H.expand(2, -1, -1), state=1
        ),
        "later steps",
    ),
    "both directions, of tokens": (
        lambda: check_sequence(
            lambda t, h: (h + t.cumsum(0).flip(0)[..., None], h + t.sum(0)[..., None]),
            torch.arange(6)[:, None].expand(6, BATCH),
            H,
            state=1,
        ),
        "later steps",
    ),
    "dropout": (
        lambda: check_sequence(
            nn.LSTM(INPUTS, HIDDEN, num_layers=2, dropout=0.3).double(),
            X,
            (H.expand(2, -1, -1), H.expand(2, -1, -1)),
            state=1,
        ),
        "random numbers",
    ),
    "a mask in a closure": (
        lambda: check_sequence(lambda x, h: CELL(x * MASK[: len(x)], h), X, H),
        "input[1] looks like an initial state by its shape",
    ),
    "places": (
        lambda: check_sequence(Placed(), X, H[None]),
        "input[1] looks like an initial state by its shape",
    ),
    "a mask beside": (
        lambda: check_sequence(lambda x, h, m: CELL(x * m, h), X, H, MASK > 0),
        "the target raised RuntimeError: The size of tensor a",
    ),
    "no state, as it is said": (
        lambda: check_sequence(Elman(returned=-2), X, H, state=()),
        "state=()",
    ),
}


@pytest.mark.parametrize("name", PARTLESS)
def test_what_is_right_and_not_its_parts_is_not_accused(name: str) -> None:
    ask, reason = PARTLESS[name]

    result = ask()

    assert result.passed, result
    assert not found(result, "chunk")
    assert any("chunk" in line and reason in line for line in result.not_checked)


def test_a_state_that_nobody_named_is_held_to_the_chunk_law_where_its_values_obey() -> None:
    detached = lambda x, h: (lambda y, last: (y, last.detach() + 0 * last))(*CELL(x, h))  # noqa: E731

    assert "chunk" in failed(check_sequence(detached, X, H))


def test_sequences_side_by_side_are_cut_together() -> None:
    def layer(x: Tensor, mask: Tensor, h: Tensor) -> Any:
        return CELL(x * mask, h)

    def spoilt(x: Tensor, mask: Tensor, h: Tensor) -> Any:
        return layer(x, torch.cat([mask[:5], mask[5:].detach()]), h)

    right = check_sequence(layer, X, MASK, H, sequence=(0, 1))
    wrong = check_sequence(spoilt, X, MASK, H, sequence=[0, 1])
    whole = check_sequence(layer, X, MASK > 0, H, sequence=(0, 1))

    assert right.passed, right
    assert {f.leaf for f in found(right, "lag")} == {"input[0]", "input[1]"}
    assert found(right, "chunk")
    assert {f.leaf for f in found(wrong, "lag") if f.verdict is Verdict.FAIL} == {"input[1]"}
    assert whole.passed, whole
    assert found(whole, "chunk")


@pytest.mark.parametrize("sequence", [(0, 2), (2, 0)])
def test_a_state_between_two_sequences_is_found(sequence: tuple[int, int]) -> None:
    result = check_sequence(lambda x, h, m: CELL(x * m, h), X, H, MASK > 0, sequence=sequence)

    assert result.passed, result
    assert found(result, "chunk")


def test_a_length_that_nobody_declared_may_be_refused() -> None:
    def fixed(x: Tensor) -> Tensor:
        return x.reshape(STEPS, BATCH, INPUTS).cumsum(0)

    result = check_sequence(fixed, X)
    declared = check_sequence(fixed, X, chunk=4)

    assert result.passed, result
    assert any("length at 1 steps: the target raised RuntimeErr" in s for s in result.not_checked)
    assert {f.message.partition(":")[0] for f in found(declared, "length")} == {
        f"at {n} steps" for n in (3, 4, 5, 8, 9)
    }
    assert declared.verdict is Verdict.ERROR


class Chunky(nn.Module):
    """Right up to eight steps; beyond, the second chunk of eight has a gradient that is off."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cumsum(x, 0)
        return torch.cat([y[:8], y[8:].detach() + 0.5 * (y[8:] - y[8:].detach())])


def test_the_lengths_next_to_a_chunk_are_tried() -> None:
    result = check_sequence(Chunky(), drawn(20, 2), chunk=8)

    wrong = [f for f in found(result, "length") if f.verdict is Verdict.FAIL]
    assert {f.message.partition(":")[0] for f in wrong} == {
        "at 9 steps",
        "at 16 steps",
        "at 17 steps",
    }


@pytest.mark.parametrize("declared", [3, 4])
def test_what_is_declared_truncated_must_be_so_and_there(declared: int) -> None:
    result = check_sequence(Elman(), X, H, truncation=declared)

    (lag,) = found(result, "lag")
    assert lag.verdict is Verdict.FAIL
    assert lag.diagnosis == "not truncated"


def test_a_gradient_that_flows_where_no_value_does_is_acausal() -> None:
    class Leaky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.cumsum(x, 0)
            future = x.flip(0).cumsum(0).flip(0)
            return y + 0.1 * (future - future.detach())

    (lag,) = found(check_sequence(Leaky(), drawn(6, 2)), "lag")

    assert lag.verdict is Verdict.FAIL
    assert lag.diagnosis == "acausal" or "wrong from lag 0" in lag.message


class WrongCell(nn.Module):
    """A cell whose gradient in the state is a tenth too large."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRUCell(INPUTS, HIDDEN).double()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        new: Tensor = self.inner(x, h + 0.1 * (h - h.detach()))
        return new


def test_a_wrong_cell_fails_from_the_first_lag_on() -> None:
    result = check_sequence(WrongCell(), X, H, cell=True)

    (lag,) = found(result, "lag")
    assert lag.verdict is Verdict.FAIL
    assert "wrong from lag 1 on" in lag.message


@jax.custom_vjp
def product(h: Any, x: Any, w: Any) -> Any:
    return jnp.tanh(h @ w + x)


def _kept(h: Any, x: Any, w: Any) -> tuple[Any, Any]:
    y = jnp.tanh(h @ w + x)
    return y, (h, w, y)


def _pulled(kept: Any, u: Any) -> tuple[Any, Any, Any]:
    h, w, y = kept
    a = u * (1 - y**2)
    return a @ w, a, h.T @ a  # should be a @ w.T


product.defvjp(_kept, _pulled)


def scanned(step: Callable[..., Any]) -> Callable[..., Any]:
    def layer(params: Any, x: Any, h: Any) -> Any:
        def body(h: Any, now: Any) -> tuple[Any, Any]:
            new = step(h, now, params["w"])
            return new, new

        final, ys = jax.lax.scan(body, h, x)
        return ys, final

    return layer


PARAMS = {"w": 0.5 * np.random.default_rng(5).standard_normal((HIDDEN, HIDDEN))}
XS, HS = (np.random.default_rng(s).standard_normal((n, HIDDEN)) for s, n in ((6, 8), (7, 1)))


def test_a_scan_in_jax() -> None:
    right = scanned(lambda h, x, w: jnp.tanh(h @ w + x))

    result = check_sequence(right, PARAMS, XS[:, None], HS, sequence=1)
    wrong = check_sequence(scanned(product), PARAMS, XS[:, None], HS, sequence=1)

    assert result.passed, result
    assert found(result, "chunk")
    (lag,) = found(wrong, "lag")
    assert "wrong from lag 1 on" in lag.message


def test_a_step_of_a_scan_as_a_cell() -> None:
    def step(h: Any, x: Any, w: Any) -> tuple[Any, Any]:
        new = jnp.tanh(h @ w + x)
        return new, {"y": 2 * new}

    result = check_sequence(step, HS, XS[:, None], PARAMS["w"], sequence=1, state=0, cell=True)

    assert result.passed, result
    assert len(found(result, "lag")) == 2  # of the state, and of what is returned beside it


def test_what_cannot_be_asked_is_said() -> None:
    tokens = torch.arange(6)
    embedded = nn.Sequential(nn.Embedding(8, 3), nn.Linear(3, 2)).double()

    result = check_sequence(embedded, tokens)

    assert result.passed
    said = "\n".join(result.not_checked)
    assert "lag: the sequence is no leaf" in said
    assert "chunk: no argument was found" in said


def test_what_the_target_raises_is_a_finding() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("out of order")

    result = check_sequence(broken, X)

    assert result.verdict is Verdict.ERROR
    assert "out of order" in str(result)


MISUSE = [
    ({"sequence": 3}, "sequence=3: there are 2"),
    ({"time_axis": 5}, "axis 5 of time"),
    ({"chunk": 0}, "chunk to be a number of steps"),
    ({"truncation": 1.5}, "truncation to be a number of steps"),
    ({"state": 0}, "state=0: input[0] is a sequence"),
    ({"state": (0, 1)}, "state=(0, 1): input[0] is a sequence"),
    ({"sequence": 1, "state": 0}, "got state=0, and it returns"),
    ({"state": 9}, "state=9: there are 2"),
    ({"state": True}, "state to be the position of an argument; got True"),
    ({"sequence": ()}, "sequence to name an argument"),
    ({"sequence": (0, 1), "state": ()}, "sequences of one length"),
    ({"time_axis": -4}, "axis -4 of time"),
    ({"chunk": True}, "chunk to be a number of steps"),
    ({"truncation": False}, "truncation to be a number of steps"),
]


@pytest.mark.parametrize(("options", "message"), MISUSE)
def test_misuse_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_sequence(Elman(), X, H, **options)


def test_positions_and_axes_count_from_the_end_too() -> None:
    result = check_sequence(CELL, X, H, sequence=-2, time_axis=-3, state=-1)

    assert result.passed, result
    assert found(result, "lag")
    assert found(result, "chunk")


def test_a_state_must_be_a_leaf() -> None:
    h = H.clone().requires_grad_()

    with pytest.raises(InputError, match=r"state=2: .*; input\[2\] is a Tensor of torch.int64"):
        check_sequence(lambda x, h, n: CELL(x, h), X, H, torch.arange(3), state=2)
    with pytest.raises(InputError, match=r"input\[2\] is a Tensor .*requires no gradient where"):
        check_sequence(lambda x, h, b: CELL(x, h + b), X, h, H, state=2)


@pytest.mark.parametrize("x", [X, X[:, 0]])
def test_a_cell_that_is_not_said_to_be_one_is_asked_about(x: Tensor) -> None:
    h = H if x.ndim == 3 else H[0]

    result = check_sequence(nn.GRUCell(INPUTS, HIDDEN).double(), x, h)

    assert result.verdict is Verdict.ERROR
    assert "; it runs on one step: did you mean cell=True?" in " ".join(str(result).split())


def test_a_layer_that_is_said_to_be_a_cell_is_asked_about() -> None:
    result = check_sequence(
        nn.LSTM(INPUTS, HIDDEN).double(), X, (H[None], H[None].clone()), cell=True
    )

    assert result.verdict is Verdict.ERROR
    assert "it runs on the whole sequence: did you mean cell=False?" in " ".join(
        str(result).split()
    )


def test_a_packed_sequence_is_to_be_packed_inside() -> None:
    packed = nn.utils.rnn.pack_sequence([X[:, 0], X[:4, 1]])

    with pytest.raises(InputError, match=r"PackedSequence.* packs a padded sequence inside"):
        check_sequence(nn.GRU(INPUTS, HIDDEN).double(), packed)


def test_numpy_beside_tensors_is_refused() -> None:
    with pytest.raises(InputError, match=r"NumPy array of float64. Say torch.from_numpy"):
        check_sequence(nn.GRUCell(INPUTS, HIDDEN).double(), X.numpy(), H, cell=True)


def test_tokens_are_no_leaf_of_a_cell() -> None:
    tokens = torch.arange(6)[:, None]

    with pytest.raises(InputError, match=r"input\[0\] is a Tensor of torch.int64. Embed tokens"):
        check_sequence(lambda t, h: torch.tanh(h + t), tokens, H, cell=True)


def test_a_cell_takes_one_sequence() -> None:
    with pytest.raises(InputError, match=r"one sequence for a cell; got sequence=\(0, 1\)"):
        check_sequence(lambda x, m, h: h + x * m, X, MASK, QUERY, sequence=(0, 1), cell=True)


def test_of_an_empty_batch_no_lag_is_seen() -> None:
    result = check_sequence(CELL, X[:, :0], H[:0])

    assert not found(result, "lag")
    assert any("lag: the sequence or an output is empty" in line for line in result.not_checked)


def test_one_step_is_no_sequence() -> None:
    with pytest.raises(InputError, match="at least two steps"):
        check_sequence(Elman(), X[:1], H)


def test_a_cell_without_a_state_is_refused() -> None:
    with pytest.raises(InputError, match="new state"):
        check_sequence(nn.Linear(INPUTS, HIDDEN).double(), X, cell=True)


def test_the_callers_objects_stay_as_they_are() -> None:
    layer, x = nn.LSTM(INPUTS, HIDDEN).double(), X.clone()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    random = torch.get_rng_state()

    check_sequence(layer, x)

    assert torch.equal(x, X)
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_budget_ends_it_and_says_so() -> None:
    result = check_sequence(nn.LSTM(INPUTS, HIDDEN).double(), X, budget_s=0.05)

    assert any("budget_s" in line for line in result.not_checked)


class Banded(torch.autograd.Function):
    """y_t = Σ 0.8ᵗ⁻ˢ x_s, whose gradient keeps the lags that `KEPT` says."""

    KEPT: Callable[[int], bool] = staticmethod(lambda lag: True)

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        states = [h]
        for row in x:
            states.append(0.8 * states[-1] + row)
        return torch.stack(states[1:]), states[-1].clone()

    @classmethod
    def backward(cls, ctx: Any, u: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        u = torch.cat([u[:-1], u[-1:] + final])
        steps = range(-1, len(u))
        given = [
            sum(0.8 ** (t - s) * u[t] for t in range(max(s, 0), len(u)) if cls.KEPT(t - max(s, 0)))
            + torch.zeros_like(final)
            for s in steps
        ]
        return torch.stack(given[1:]), given[0]


class Window(Banded):
    KEPT = staticmethod(lambda lag: lag < 4)


class Hole(Banded):
    KEPT = staticmethod(lambda lag: lag != 3)


def test_a_declared_window_that_moves_is_no_failure() -> None:
    x, h = drawn(10, 2), drawn(2, seed=1)

    assert check_sequence(Window.apply, x, h, truncation=4).passed
    assert check_sequence(Window.apply, x, h, truncation=5).verdict is Verdict.FAIL


def test_one_lag_that_is_lost_is_named() -> None:
    (lag,) = found(check_sequence(Hole.apply, drawn(10, 2), drawn(2, seed=1)), "lag")

    assert lag.diagnosis == "one lag: 3"


def _detached_at(step: int, t: int, h: Tensor) -> Tensor:
    return h.detach() if t == step else h


def test_the_place_of_a_lost_carry_is_said_as_closely_as_it_was_looked_at() -> None:
    """Of many steps not all are: the border lies between two that are."""
    network = Elman(hand_over=partial(_detached_at, 29))
    (lag,) = found(check_sequence(network, drawn(60, BATCH, INPUTS), H), "lag")
    before, after = map(int, re.findall(r"between steps (\d+) and (\d+)", lag.diagnosis)[0])

    assert before < 29 <= after


def test_lengths_next_to_a_chunk_that_are_not_there_are_said() -> None:
    result = check_sequence(
        lambda x: torch.tanh(x).cumsum(0), torch.randn(5, 2, dtype=torch.float64), chunk=4
    )

    assert result.passed, result
    assert "length: at 8, 9 steps: the sequence has 5, give a longer one" in result.not_checked


def test_a_state_of_two_arguments_is_found() -> None:
    cell = torch.nn.LSTMCell(3, 4, dtype=torch.float64)

    def lstm(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
        ys = []
        for x_t in x:
            h, c = cell(x_t, (h, c))
            ys.append(h)
        return torch.stack(ys), h, c

    x, h, c = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, 2, 3), (2, 4), (2, 4)))
    result = check_sequence(lstm, x, h, c)

    assert result.passed, result
    assert any(finding.check == "chunk" for finding in result.findings)


class Distant(nn.Module):
    """y_t = relu(x_t) + Σ ½ᵗ⁻ˢ sin x_s, of which what lies far back is detached."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for t, now in enumerate(x):
            past = [x[s] if t - s < self.reach else x[s].detach() for s in range(t)]
            memory = [0.5 ** (t - s) * z.sin() for s, z in enumerate(past)]
            outputs.append(torch.relu(now) + sum(memory, torch.zeros_like(now)))
        return torch.stack(outputs)


def test_kinks_of_a_padding_hide_no_memory_that_is_lost() -> None:
    x = drawn(16, 3)
    x[4:12] = 0

    (lag,) = found(check_sequence(Distant(8), x), "lag")
    assert lag.diagnosis == "truncated: at lag 8"
    (lag,) = found(check_sequence(Distant(99), x), "lag")
    assert lag.verdict is Verdict.PASS
    assert "8 blocks of output differ, and none of the 1 does" in lag.message


class Padded(nn.Module):
    """An Elman layer that stands still beyond the lengths of its examples."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(0.5 * drawn(HIDDEN, HIDDEN, seed=2))
        self.u = nn.Parameter(drawn(INPUTS, HIDDEN, seed=3))

    def forward(self, x: Tensor, h: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for t, now in enumerate(x):
            goes_on = (t < lengths)[:, None]
            h = torch.where(goes_on, torch.tanh(h @ self.w + now @ self.u), h)
            outputs.append(torch.where(goes_on, h, 0.0))
        return torch.stack(outputs), h


def test_lengths_that_are_given_whole_to_every_part_accuse_nobody() -> None:
    result = check_sequence(Padded(), X, H, torch.tensor([STEPS, 4]), state=1)

    assert result.passed, result
    assert any("chunk: every part is given the whole of input[2]" in n for n in result.not_checked)
