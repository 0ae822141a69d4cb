"""Wrong rules that only PyTorch can have: layouts, state, saved values, modules, low precision."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from benchmarks.corpus.case import Case

__all__ = ["TORCH", "scaled"]

Build = Callable[[torch.dtype, bool], tuple[Any, tuple[Any, ...]]]  # (dtype, is_wrong)


def _draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(
        dtype
    )


def both(name: str, slice: str, source: str, build: Build, *dtypes: str) -> tuple[Case, Case]:
    """The wrong one and its right twin from one builder."""

    def made(is_wrong: bool) -> Case:
        return Case(
            name=name,
            slice=slice,
            framework="torch",
            source=source,
            is_wrong=is_wrong,
            make=lambda dtype: build(getattr(torch, dtype), is_wrong),
            dtypes=dtypes or ("float64", "float32"),
        )

    return made(True), made(False)


def _by_storage(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Square(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            if is_wrong:  # a kernel that walks the memory of the cotangent with the strides of x
                if u.untyped_storage().size() // u.element_size() < u.storage_offset() + x.numel():
                    u = u.expand_as(x).clone()[..., :1].expand_as(x)
                else:
                    u = u.as_strided(x.shape, x.contiguous().stride(), u.storage_offset())
            return 2 * x * u

    return Square, (_draw(4, 6, dtype=dtype),)


def _input_by_storage(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Scaled(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            if is_wrong:
                size = x.untyped_storage().size() // x.element_size() - x.storage_offset()
                if size >= x.numel():
                    shape = torch.empty(x.shape).stride()
                    x = x.as_strided(x.shape, shape, x.storage_offset())
            return u * x.cos()

    return Scaled, (_draw(4, 6, dtype=dtype),)


def _cotangent_written(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Tripled(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return 3 * x

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            return u.mul_(3) if is_wrong else 3 * u

    return Tripled, (_draw(5, dtype=dtype),)


def _saved_on_the_class(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Sine(Function):
        last: torch.Tensor

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            Sine.last = x.detach().clone()
            return x.sin()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return u * (Sine.last if is_wrong else x).cos()

    return Sine, (_draw(5, dtype=dtype),)


def _input_written(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Sine(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            y = x.sin()
            ctx.save_for_backward(x)
            return y

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            found = u * x.cos()
            if is_wrong:
                x.data.add_(1.0)
            return found

    return Sine, (_draw(5, dtype=dtype),)


class _Counting(nn.Module):
    def __init__(self, is_wrong: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(_draw(4))
        self.is_wrong = is_wrong
        self.calls = [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global _CALLS
        _CALLS += 1
        return x * self.weight * (1 + 0.1 * (_CALLS % 3) * self.is_wrong)


_CALLS = 0


def _hidden_state(dtype: torch.dtype, is_wrong: bool) -> Any:
    return _Counting(is_wrong).to(dtype), (_draw(3, 4, dtype=dtype),)


def _random_backward(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Noisy(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            mask = (torch.rand_like(x) > 0.5).to(x.dtype)
            ctx.save_for_backward(mask)
            return x * mask

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (mask,) = ctx.saved_tensors
            return u * ((torch.rand_like(u) > 0.5).to(u.dtype) if is_wrong else mask)

    return Noisy, (_draw(40, dtype=dtype),)


def _detached_output(dtype: torch.dtype, is_wrong: bool) -> Any:
    def two(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sin(), (x.cos().detach() if is_wrong else x.cos())

    return two, (_draw(5, dtype=dtype),)


def _detached_statistics(dtype: torch.dtype, is_wrong: bool) -> Any:
    def norm(x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        return x - (mean.detach() if is_wrong else mean)

    return norm, (_draw(3, 5, dtype=dtype),)


def _module_bias_forgotten(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(_draw(4, 3))
            self.bias = nn.Parameter(_draw(4) + 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bias = self.bias.data if is_wrong else self.bias
            return x @ self.weight.T + bias

    return Affine().to(dtype), (_draw(2, 3, dtype=dtype),)


def _tied_once(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(_draw(4, 4) / 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.weight.detach() if is_wrong else self.weight
            return torch.tanh(x @ first) @ self.weight.T

    return Tied().to(dtype), (_draw(3, 4, dtype=dtype),)


def _final_state_ignored(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Rnn(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor) -> Any:
            h, states = torch.zeros_like(x[0]), []
            for x_t in x:
                h = a * h + x_t
                states.append(h)
            ctx.save_for_backward(x, a, torch.stack(states))
            return torch.stack(states), h.clone()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, u: torch.Tensor, u_last: torch.Tensor) -> Any:
            x, a, h = ctx.saved_tensors
            total = torch.zeros_like(x[0]) if is_wrong else u_last
            g_a, g_x = torch.zeros_like(a), []
            for t in reversed(range(len(x))):
                total = total + u[t]
                g_x.append(total)
                if t:
                    g_a = g_a + total * h[t - 1]
                total = a * total
            return torch.stack(g_x[::-1]), g_a

    a = torch.tensor([0.9, 0.5, 0.99], dtype=dtype)
    return Rnn, (_draw(7, 3, dtype=dtype), a)


# Second order: the first derivative is right.
def _intermediate_on_ctx(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Exp(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            if is_wrong:
                ctx.slope = x.detach().exp()
            else:
                ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            return u * (ctx.slope if is_wrong else ctx.saved_tensors[0].exp())

    return Exp, (_draw(5, dtype=dtype),)


def _wrong_double(factor: float) -> Build:
    def build(dtype: torch.dtype, is_wrong: bool) -> Any:
        class Back(Function):
            @staticmethod
            def forward(ctx: Any, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
                ctx.save_for_backward(u, x)
                return u * x.cos()

            @staticmethod
            def backward(ctx: Any, w: torch.Tensor) -> Any:
                u, x = ctx.saved_tensors
                return w * x.cos(), -(factor if is_wrong else 1.0) * w * u * x.sin()

        class Sine(Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                ctx.save_for_backward(x)
                return x.sin()

            @staticmethod
            def backward(ctx: Any, u: torch.Tensor) -> Any:
                return Back.apply(u, *ctx.saved_tensors)

        return Sine, (_draw(6, dtype=dtype),)

    return build


def _one_detached(dtype: torch.dtype, is_wrong: bool) -> Any:
    class Product(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, y)
            return x * x * y

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> Any:
            x, y = ctx.saved_tensors
            g = u * x * x
            return 2 * u * x * y, (g.detach() if is_wrong else g)

    return Product, (_draw(4, dtype=dtype), _draw(4, dtype=dtype) + 2)


# Low precision: one leaf off by as much as its dtype must show.
class scaled(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u * ctx.factor, None


OFF = {torch.bfloat16: 1.05, torch.float16: 1.01}


class _Part(nn.Module):
    """A module, one parameter of which has a gradient that is off."""

    def __init__(
        self, inner: nn.Module, leaf: str, factor: float, call: Callable[..., Any]
    ) -> None:
        super().__init__()
        self.inner, self.leaf, self.factor, self.call = inner, leaf, factor, call

    def forward(self, x: torch.Tensor) -> Any:
        state = dict(self.inner.named_parameters())
        state[self.leaf] = scaled.apply(state[self.leaf], self.factor)
        return self.call(lambda *a, **k: torch.func.functional_call(self.inner, state, a, k), x)


def _low(make: Callable[[], nn.Module], leaf: str, call: Callable[..., Any], *shape: int) -> Build:
    def build(dtype: torch.dtype, is_wrong: bool) -> Any:
        torch.manual_seed(7)
        part = _Part(make(), leaf, OFF[dtype] if is_wrong else 1.0, call).to(dtype)
        return part, (_draw(*shape, dtype=dtype),)

    return build


def _cells(run: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    h = c = torch.zeros(x.shape[1], 8, dtype=x.dtype)
    for x_t in x:
        h, c = run(x_t, (h, c))
    return h


def _attend(run: Callable[..., Any], x: torch.Tensor) -> Any:
    return run(x, x, x, need_weights=False)[0]


LOW = ("bfloat16", "float16")

TORCH: tuple[Case, ...] = (
    *both("cotangent by its storage", "layout", "FP9", _by_storage),
    *both("input by its storage", "layout", "P39", _input_by_storage),
    *both("cotangent written into", "state", "FP10", _cotangent_written),
    *both("saved on the class", "state", "P137", _saved_on_the_class),
    *both("saved input written into", "state", "P50", _input_written),
    *both("hidden state", "state", "P98", _hidden_state),
    *both("mask drawn again", "state", "P100", _random_backward),
    *both("one output detached", "gross", "FP7", _detached_output),
    *both("statistics detached", "gross", "P130", _detached_statistics),
    *both("bias by its data", "gross", "P126", _module_bias_forgotten),
    *both("tied weight counted once", "gross", "P110", _tied_once),
    *both("final state ignored", "recurrent", "FP15", _final_state_ignored),
    *both("intermediate on ctx", "second order", "P51", _intermediate_on_ctx),
    *both("double backward doubled", "second order", "P52", _wrong_double(2.0)),
    *both("double backward 1 % off", "second order", "P52", _wrong_double(1.01)),
    *both("double backward negated", "second order", "P51", _wrong_double(-1.0)),
    *both("one gradient detached", "second order", "FP8", _one_detached),
    *both(
        "attention",
        "low precision",
        "P17",
        _low(
            lambda: nn.MultiheadAttention(8, 2, batch_first=True),
            "in_proj_weight",
            _attend,
            2,
            5,
            8,
        ),
        *LOW,
    ),
    *both(
        "layer norm",
        "low precision",
        "P1",
        _low(lambda: nn.LayerNorm(16), "weight", lambda run, x: run(x), 6, 16),
        *LOW,
    ),
    *both(
        "LSTM",
        "low precision",
        "P8",
        _low(lambda: nn.LSTMCell(6, 8), "weight_hh", _cells, 4, 3, 6),
        *LOW,
    ),
    *both(
        "linear",
        "low precision",
        "P9",
        _low(lambda: nn.Linear(16, 8), "weight", lambda run, x: F.silu(run(x)), 10, 16),
        *LOW,
    ),
)
