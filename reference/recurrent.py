"""Recurrent networks: any cell, unrolled in time, stacked, in one direction or in both."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.cells import Cell, State
from gradcheck.reference.layer import Array, Cache, Cotangents, Outputs, Params

__all__ = ["Recurrent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrent:
    """s_t = cell(W_ih x_t + b_ih, s_{t-1}) for t = 0, ..., T - 1, and y_t, the hidden part of s_t.

    Backpropagation through time walks back over the steps. The cotangent of s_t is what step t + 1
    sent back (after the last step: the cotangent of s_n) plus that of y_t in its hidden part. The
    cell's VJP takes it to ā_t, s̄_{t-1} and its share of W̄_hh, b̄_hh, which add up over time, and

        x̄_t = ā_t W_ih,   W̄_ih = Σ_t ā_tᵀ x_t,   b̄_ih = Σ_t ā_t.

    The cotangent that leaves the first step is that of s_0.

    *Stacked*: layer l reads the y of layer l - 1. *Bidirectional*: a second run, with its own
    parameters, starts at the end of time; y_t joins both, x̄_t adds both.

    *Masked*: one more input, `lengths`, and step t of a sequence is alive if t < its length. A dead
    step reads nothing, writes y_t = 0 and hands on its state, so s_n is the state at the sequence's
    own end, and the reverse direction starts there. Padding may hold anything, NaN too.

    *Truncated* at k: the states that enter the steps k, 2k, 3k, ..., of every layer, are constants.
    Values stay; the cotangent s̄ sent back across such a step is dropped. So x_t reaches y only up
    to the end of its own chunk of k steps, s_0 only the first chunk, and s_n only the last, whether
    or not a masked sequence ended before. What crosses layers within a step is kept.

    Inputs: x (T, B, inputs); s_0, one (layers * directions, B, hidden) array for each of the
    cell's states; if masked, lengths (B,) of integers from 0 to T.
    Outputs: y (T, B, directions * hidden), and s_n, shaped like s_0.
    Parameters: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, then _l1, ..., each followed by
    its _reverse; names, layouts and the order of the gates are PyTorch's.

    Sources:
        Werbos, Backpropagation through time: what it does and how to do it, Proceedings of the
        IEEE 78 (1990), pp. 1550-1560.
        Williams and Peng, An efficient gradient-based algorithm for on-line training of recurrent
        network trajectories, Neural Computation 2 (1990), pp. 490-501: BPTT(h; h') at h = h' = k.
        Schuster and Paliwal, Bidirectional recurrent neural networks, IEEE Transactions on Signal
        Processing 45 (1997), pp. 2673-2681.
    """

    cell: Cell
    inputs: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    masked: bool = False
    truncation: int | None = None  # k; None: through all of time

    def __post_init__(self) -> None:
        for name in ("inputs", "hidden", "layers", "truncation"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} to be at least 1, got {value}")
        if self.bidirectional and self.truncation is not None:
            raise ValueError(
                "expected truncation=None with bidirectional=True: the reverse direction has no "
                f"earlier chunk to carry a state from; got truncation={self.truncation}; drop one"
            )

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        """Draw weights of variance 1/columns, so that states keep their scale, and small biases."""
        rows = self.cell.gates * self.hidden
        params = {}
        for layer, runs in enumerate(self._grid()):
            columns = self.directions * self.hidden if layer else self.inputs
            for _, suffix, _ in runs:
                weight_ih = rng.standard_normal((rows, columns)) / math.sqrt(columns)
                weight_hh = rng.standard_normal((rows, self.hidden)) / math.sqrt(self.hidden)
                params[f"weight_ih_{suffix}"] = weight_ih.astype(dtype)
                params[f"weight_hh_{suffix}"] = weight_hh.astype(dtype)
                if self.bias:
                    params[f"bias_ih_{suffix}"] = (0.1 * rng.standard_normal(rows)).astype(dtype)
                    params[f"bias_hh_{suffix}"] = (0.1 * rng.standard_normal(rows)).astype(dtype)
        return params

    def forward(self, params: Params, x: Array, *rest: Array) -> tuple[Outputs, Cache]:
        first, alive = self._states_and_life(x, rest)
        y = np.where(alive, x, 0)
        last, caches = [], []
        for layer in self._grid():
            level, sides = y, []
            for row, suffix, run in layer:
                h, state, cache = run.forward(
                    _own(params, suffix), level, tuple(s[row] for s in first), alive
                )
                sides.append(h)
                last.append(state)
                caches.append(cache)
            y = np.concatenate(sides, axis=-1)
        return (y, *(np.stack(s) for s in zip(*last, strict=True))), caches

    def backward(
        self, params: Params, caches: Cache, u: Array, *last: Array
    ) -> tuple[Params, Cotangents]:
        first = tuple(np.empty(s.shape, s.dtype) for s in last)
        grads: dict[str, Array] = {}
        for layer in reversed(self._grid()):
            sides = np.split(u, len(layer), axis=-1)
            xs_bar = []
            for side, (row, suffix, run) in zip(sides, layer, strict=True):
                own_grads, x_bar, state_bar = run.backward(
                    _own(params, suffix), caches[row], side, tuple(s[row] for s in last)
                )
                grads |= {f"{name}_{suffix}": grad for name, grad in own_grads.items()}
                xs_bar.append(x_bar)
                for s, s_bar in zip(first, state_bar, strict=True):
                    s[row] = s_bar
            u = sum(xs_bar[1:], start=xs_bar[0])
        lengths = (None,) if self.masked else ()
        return {name: grads[name] for name in params}, (u, *first, *lengths)

    def _grid(self) -> list[list[tuple[int, str, "_Direction"]]]:
        """Return, layer by layer, the row in s_0, the suffix of the names, and the run itself."""
        directions = [
            _Direction(cell=self.cell, reverse=reverse, truncation=self.truncation)
            for reverse in (False, True)[: self.directions]
        ]
        return [
            [
                (layer * self.directions + d, f"l{layer}" + "_reverse" * run.reverse, run)
                for d, run in enumerate(directions)
            ]
            for layer in range(self.layers)
        ]

    def _states_and_life(self, x: Array, rest: tuple[Array, ...]) -> tuple[State, Array]:
        """Return s_0, and which steps of which sequence are alive: (T, B, 1)."""
        if x.ndim != 3 or x.shape[2] != self.inputs:
            raise ValueError(
                f"expected x of shape (time, batch, {self.inputs}); got {x.shape}. One step is a "
                "sequence of length one"
            )
        if len(rest) != self.cell.states + self.masked:
            raise ValueError(
                f"expected {self.cell.states} initial state(s)"
                f"{' and lengths' if self.masked else ''} after x, got {len(rest)} array(s)"
            )
        steps, batch, _ = x.shape
        rows = (self.layers * self.directions, batch, self.hidden)
        shapes = [state.shape for state in rest[: self.cell.states]]
        if any(shape != rows for shape in shapes):
            raise ValueError(
                f"expected initial states of shape {rows}, (layers * directions, batch, hidden), "
                f"for x of shape {x.shape}; got {shapes}. One layer has its axis "
                "too, and the batch comes second"
            )
        if not self.masked:
            return rest, np.ones((steps, batch, 1), bool)
        *first, lengths = rest
        if lengths.shape != (batch,) or np.any(lengths < 0) or np.any(lengths > steps):
            raise ValueError(
                f"expected lengths of shape ({batch},), one for each sequence of x, from 0 to "
                f"{steps}; got {lengths} of shape {lengths.shape}"
            )
        return tuple(first), (np.arange(steps)[:, None] < lengths)[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Direction:
    """One direction of one layer; `alive` (T, B, 1) says which steps of a sequence happen."""

    cell: Cell
    reverse: bool
    truncation: int | None

    def forward(
        self, params: Params, x: Array, state: State, alive: Array
    ) -> tuple[Array, State, Cache]:
        weight, bias = params["weight_hh"], params.get("bias_hh")
        a = x @ params["weight_ih"].T  # all steps at once
        if bias is not None:
            a = a + params["bias_ih"]
        h = np.empty((*x.shape[:2], weight.shape[1]), a.dtype)
        tape: list[Cache] = [None] * len(x)
        for t in self._steps(len(x)):
            after, tape[t] = self.cell.forward(a[t], state, weight, bias)
            state = _choose(alive[t], after, state)
            h[t] = np.where(alive[t], after[0], 0)
        return h, state, (x, alive, tape)

    def backward(
        self, params: Params, cache: Cache, u: Array, state_bar: State
    ) -> tuple[dict[str, Array], Array, State]:
        x, alive, tape = cache
        weight = params["weight_hh"]
        a_bar = np.empty((*u.shape[:2], len(weight)), u.dtype)
        weight_bar, bias_bar = np.zeros_like(weight), np.zeros_like(weight[:, 0])
        for t in reversed(self._steps(len(x))):
            h_bar, *others = state_bar
            after_bar = (np.where(alive[t], s, 0) for s in (h_bar + u[t], *others))
            a_bar[t], shares, before_bar = self.cell.backward(weight, tape[t], *after_bar)
            weight_bar += shares[0]
            bias_bar += shares[1]
            state_bar = _choose(alive[t], before_bar, state_bar)
            if self.truncation and t and t % self.truncation == 0:
                state_bar = tuple(np.zeros_like(s) for s in state_bar)
        rows = a_bar.reshape(-1, len(weight))
        grads = {
            "weight_ih": rows.T @ x.reshape(-1, x.shape[2]),
            "weight_hh": weight_bar,
            "bias_ih": rows.sum(axis=0),
            "bias_hh": bias_bar,
        }
        return grads, a_bar @ params["weight_ih"], state_bar

    def _steps(self, length: int) -> range:
        return range(length)[::-1] if self.reverse else range(length)


def _own(params: Params, suffix: str) -> Params:
    """Return the parameters of one direction of one layer, without the suffix of their names."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {name: params[f"{name}_{suffix}"] for name in names if f"{name}_{suffix}" in params}


def _choose(alive: Array, stepped: State, held: State) -> State:
    """Return the state after a step that only the living take."""
    return tuple(np.where(alive, s, h) for s, h in zip(stepped, held, strict=True))
