"""Layers as users write them, each with one slip and beside it the layer that was meant."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from gradcheck import Rule

__all__ = ["SLIPS", "Slip"]

Array = Any  # of NumPy, as the rules below take and return them
Where = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slip:
    """A wrong layer, the right one, and what a check must say about the wrong one."""

    name: str
    wrong: Any
    right: Any
    inputs: tuple[Any, ...]
    leaf: str  # the one leaf whose gradient is wrong
    looks_like: str | None = None  # how the diagnosis begins, where the slip is in the dictionary
    wrong_entries: Where | None = None  # all of them, where they are few
    healthy: str | None = None  # a leaf that must pass beside the wrong one


def _normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def _tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(_normal(*shape, seed=seed))


# torch.autograd.Function


class Square(torch.autograd.Function):
    """y = x²,  x̄ = 2 x u."""

    factor = 2.0

    @classmethod
    def forward(cls, ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @classmethod
    def backward(cls, ctx: Any, u: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return cls.factor * x * u


class SquareWithoutItsTwo(Square):
    factor = 1.0


class Product(torch.autograd.Function):
    """Y = A B,  Ā = U Bᵀ,  B̄ = Aᵀ U."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        a, b = ctx.saved_tensors
        return u @ b.T, a.T @ u


class ProductWithTransposedGradient(Product):
    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        a, b = ctx.saved_tensors
        return b @ u.T, a.T @ u


class Exponential(torch.autograd.Function):
    """y = eˣ,  x̄ = u y: the result is what is saved."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        (saved,) = ctx.saved_tensors
        return u * saved


class ExponentialThatSavedItsInput(Exponential):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.exp()


class Ratio(torch.autograd.Function):
    """y = a / b,  ā = u / b,  b̄ = -u a / b²."""

    power = 2

    @classmethod
    def forward(cls, ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return a / b

    @classmethod
    def backward(cls, ctx: Any, u: torch.Tensor) -> Any:
        a, b = ctx.saved_tensors
        return u / b, -u * a / b**cls.power


class RatioWithoutTheSquare(Ratio):
    power = 1


class Reversal(torch.autograd.Function):
    """y_t = x_{T-t},  x̄_t = u_{T-t}."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.flip(0)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u.flip(0)


class ReversalReadForward(Reversal):
    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u


class Delay(torch.autograd.Function):
    """y_t = x_{t-1} on a ring,  x̄_t = u_{t+1}."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, 0)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u.roll(-1, 0)


class DelayOffByOne(Delay):
    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u


class Distance(torch.autograd.Function):
    """y = ½ (a - b)²,  ā = u (a - b),  b̄ = -ā."""

    sign = -1

    @classmethod
    def forward(cls, ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a - b)
        return (a - b) ** 2 / 2

    @classmethod
    def backward(cls, ctx: Any, u: torch.Tensor) -> Any:
        (difference,) = ctx.saved_tensors
        return u * difference, cls.sign * u * difference


class DistanceThatAttracts(Distance):
    sign = 1


class CumulativeSum(torch.autograd.Function):
    """y_t = Σ_{s ≤ t} x_s,  x̄_t = Σ_{s ≥ t} u_s."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(0)

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u.flip(0).cumsum(0).flip(0)


class CumulativeSumTheSameWayBack(CumulativeSum):
    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> Any:
        return u.cumsum(0)


# torch.nn.Module


class Scale(torch.nn.Module):
    """y = γ x + β."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.detached = detached
        self.gain = torch.nn.Parameter(1 + _tensor(3, seed=1))
        self.bias = torch.nn.Parameter(_tensor(3, seed=2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.gain.detach() if self.detached else self.gain) + self.bias


class Block(torch.nn.Module):
    """y = x + tanh(W x)."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.detached = detached
        self.weight = torch.nn.Parameter(_tensor(3, 3, seed=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.detach() if self.detached else x) + torch.tanh(F.linear(x, self.weight))


class UnitWeight(torch.nn.Module):
    """y = x wᵀ / ‖w‖."""

    def __init__(self, *, constant_norm: bool) -> None:
        super().__init__()
        self.constant_norm = constant_norm
        self.weight = torch.nn.Parameter(_tensor(1, 4, seed=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.weight.norm()
        return F.linear(x, self.weight / (norm.item() if self.constant_norm else norm))


class Elman(torch.nn.Module):
    """h_t = tanh(x_t + W h_{t-1}); returns the last."""

    def __init__(self, *, forgets: bool) -> None:
        super().__init__()
        self.forgets = forgets
        self.weight = torch.nn.Parameter(_tensor(2, 2, seed=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros_like(x[0])
        for x_t in x:
            h = torch.tanh(x_t + F.linear(h.detach() if self.forgets else h, self.weight))
        return h


# jax.custom_vjp, custom_jvp and plain functions


def _log_sum_exp(backward: Callable[..., Any]) -> Any:
    """log Σ eˣ, whose VJP is u times the softmax."""

    @jax.custom_vjp
    def log_sum_exp(x: Any) -> Any:
        return jax.nn.logsumexp(x)

    log_sum_exp.defvjp(lambda x: (log_sum_exp(x), x), backward)
    return log_sum_exp


def _huber(limit: float) -> Any:
    """½ x² up to |x| = 2, then linear: its derivative is x clipped at ±2."""

    @jax.custom_vjp
    def huber(x: Any) -> Any:
        return jnp.where(jnp.abs(x) <= 2, x * x / 2, 2 * jnp.abs(x) - 2)

    huber.defvjp(lambda x: (huber(x), x), lambda x, u: (u * jnp.clip(x, -limit, limit),))
    return huber


def _softplus(sign: float) -> Any:
    @jax.custom_jvp
    def softplus(x: Any) -> Any:
        return jnp.logaddexp(x, 0.0)

    @softplus.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return softplus(*primals), jax.nn.sigmoid(sign * primals[0]) * tangents[0]

    return softplus


def sinc_guarded_once(x: Any) -> Any:
    return jnp.where(x == 0, 1.0, jnp.sin(x) / x)


def sinc_guarded_twice(x: Any) -> Any:
    safe = jnp.where(x == 0, 1.0, x)
    return jnp.where(x == 0, 1.0, jnp.sin(safe) / safe)


def _scanned(keep: Callable[[Any], Any]) -> Any:
    """The last of h_t = sin(w h_{t-1} + x_t)."""

    def last(w: Any, x: Any) -> Any:
        def step(h: Any, x_t: Any) -> Any:
            return jnp.sin(w * keep(h) + x_t), None

        return jax.lax.scan(step, jnp.zeros_like(x[0]), x)[0]

    return jax.jit(last)  # or the scan would be compiled at every call


# gradcheck.Rule, in NumPy


def _lookup(add: Callable[[Array, Array, Array], None]) -> Rule:
    def vjp(inputs: Any, u: Array) -> Any:
        table, indices = inputs
        table_bar = np.zeros_like(table)
        add(table_bar, indices, u)
        return table_bar, None

    return Rule(lambda table, indices: table[indices], vjp)


def _overwrite(table: Array, indices: Array, u: Array) -> None:
    table[indices] = u


def _correlation(borders: bool) -> Rule:
    """y_t = Σ_k w_k x_{t+k}, where kernel and signal overlap whole."""

    def vjp(inputs: Any, u: Array) -> Any:
        w, x = inputs
        x_bar = np.convolve(u, w)
        if not borders:
            reach = len(w) - 1
            x_bar[:reach] = x_bar[-reach:] = 0
        return np.correlate(x, u, "valid"), x_bar

    return Rule(lambda w, x: np.correlate(x, w, "valid"), vjp)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _lstm_step(*order: int) -> Rule:
    """c' = σ(p_f) c + σ(p_i) tanh(p_g), from p in the order i, f, g."""

    def forward(p: Array, c: Array) -> Array:
        i, f, g = np.split(p, 3)
        return _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)

    def vjp(inputs: Any, u: Array) -> Any:
        p, c = inputs
        (i, f), g = map(_sigmoid, np.split(p, 3)[:2]), np.tanh(np.split(p, 3)[2])
        bars = [u * g * i * (1 - i), u * c * f * (1 - f), u * i * (1 - g * g)]
        return np.concatenate([bars[k] for k in order]), u * f

    return Rule(forward, vjp)


def _trapezoid(ends: float) -> Rule:
    """The integral of x² over a grid of unit steps: its two ends count half."""

    def weights(x: Array, ends: float) -> Array:
        w = np.ones_like(x)
        w[0] = w[-1] = ends
        return w

    return Rule(
        lambda x: np.sum(weights(x, 0.5) * x * x),
        lambda inputs, u: 2 * weights(inputs[0], ends) * inputs[0] * u,
    )


def _cubic(slip: tuple[int, int] | None) -> Rule:
    """y = Σ x³, over an array too large to be read entry by entry."""

    def vjp(inputs: Any, u: Array) -> Array:
        x_bar = 3 * inputs[0] ** 2 * u
        if slip is not None:
            x_bar[slip] *= 1.001
        return x_bar

    return Rule(lambda x: np.sum(x**3), vjp)


def _single(factor: float) -> Rule:
    """y = W x in float32, W̄ off by one per cent."""

    def vjp(inputs: Any, u: Array) -> Any:
        weight, x = inputs
        return np.float32(factor) * np.outer(u, x), weight.T @ u

    return Rule(lambda weight, x: weight @ x, vjp)


def _rotation(conjugate: Callable[[Array], Array]) -> Rule:
    """y = z w of complex numbers; the cotangents are u times the conjugates of w and z."""

    def vjp(inputs: Any, u: Array) -> Any:
        z, w = inputs
        return u * conjugate(w), u * z.conj()

    return Rule(lambda z, w: z * w, vjp)


def _mean(count: Callable[[Array], int]) -> Rule:
    """y, the means of the rows of x."""

    def vjp(inputs: Any, u: Array) -> Array:
        (x,) = inputs
        return np.broadcast_to(u[:, None], x.shape) / count(x)

    return Rule(lambda x: x.mean(axis=1), vjp)


def _variance(mean_moves: bool) -> Rule:
    """y = mean x² - (mean x)²."""

    def vjp(inputs: Any, u: Array) -> Array:
        (x,) = inputs
        return 2 * u * (x - (x.mean() if mean_moves else 0)) / x.size

    return Rule(lambda x: np.mean(x * x) - np.mean(x) ** 2, vjp)


INDICES = np.array([0, 2, 0, 1])
ONES_AND_ZERO = np.array([-1.5, 0.0, 0.7])

SLIPS = (
    Slip(
        name="Function: factor two lost",
        wrong=SquareWithoutItsTwo,
        right=Square,
        inputs=(_tensor(4),),
        leaf="input[0]",
        looks_like="constant factor: got / wanted = 0.5",
    ),
    Slip(
        name="Function: gradient of a square factor transposed",
        wrong=ProductWithTransposedGradient,
        right=Product,
        inputs=(_tensor(3, 3), _tensor(3, 3, seed=1)),
        leaf="input[0]",
        looks_like="transposed: axes 0 and 1",
        healthy="input[1]",
    ),
    Slip(
        name="Function: input saved for output",
        wrong=ExponentialThatSavedItsInput,
        right=Exponential,
        inputs=(_tensor(5),),
        leaf="input[0]",
    ),
    Slip(
        name="Function: quotient rule without its square",
        wrong=RatioWithoutTheSquare,
        right=Ratio,
        inputs=(_tensor(4), _tensor(4, seed=1)),
        leaf="input[1]",
        healthy="input[0]",
    ),
    Slip(
        name="Function: sequence not turned back",
        wrong=ReversalReadForward,
        right=Reversal,
        inputs=(_tensor(5, 2),),
        leaf="input[0]",
        looks_like="reversed: axis 0",
    ),
    Slip(
        name="Function: time off by one",
        wrong=DelayOffByOne,
        right=Delay,
        inputs=(_tensor(5, 2),),
        leaf="input[0]",
        looks_like="shifted: by -1 along axis 0",
    ),
    Slip(
        name="Function: sign of the second argument",
        wrong=DistanceThatAttracts,
        right=Distance,
        inputs=(_tensor(4), _tensor(4, seed=1)),
        leaf="input[1]",
        looks_like="sign",
        healthy="input[0]",
    ),
    Slip(
        name="Function: cumulative sum not reversed",
        wrong=CumulativeSumTheSameWayBack,
        right=CumulativeSum,
        inputs=(_tensor(5),),
        leaf="input[0]",
    ),
    Slip(
        name="Module: parameter detached",
        wrong=Scale(detached=True),
        right=Scale(detached=False),
        inputs=(_tensor(2, 3),),
        leaf="params.gain",
        looks_like="zero",
        healthy="params.bias",
    ),
    Slip(
        name="Module: shortcut detached",
        wrong=Block(detached=True),
        right=Block(detached=False),
        inputs=(_tensor(2, 3),),
        leaf="input[0]",
        healthy="params.weight",
    ),
    Slip(
        name="Module: norm turned into a number",
        wrong=UnitWeight(constant_norm=True),
        right=UnitWeight(constant_norm=False),
        inputs=(_tensor(2, 4),),
        leaf="params.weight",
        healthy="input[0]",
    ),
    Slip(
        name="Module: hidden state detached",
        wrong=Elman(forgets=True),
        right=Elman(forgets=False),
        inputs=(_tensor(3, 2, 2),),
        leaf="input[0]",
        looks_like="part missing",
    ),
    Slip(
        name="custom_vjp: softmax without its sum",
        wrong=_log_sum_exp(lambda x, u: (u * jnp.exp(x),)),
        right=_log_sum_exp(lambda x, u: (u * jax.nn.softmax(x),)),
        inputs=(_normal(4),),
        leaf="input[0]",
        looks_like="constant factor",
    ),
    Slip(
        name="custom_vjp: clipped at the wrong limit",
        wrong=_huber(1.0),
        right=_huber(2.0),
        inputs=(np.array([0.5, -1.5, 3.0, -0.1]),),
        leaf="input[0]",
        wrong_entries=((1,), (2,)),
    ),
    Slip(
        name="custom_jvp: sign inside of the slope",
        wrong=_softplus(-1.0),
        right=_softplus(1.0),
        inputs=(_normal(4),),
        leaf="input[0]",
    ),
    Slip(
        name="jax: where with an infinite branch",
        wrong=sinc_guarded_once,
        right=sinc_guarded_twice,
        inputs=(ONES_AND_ZERO,),
        leaf="input[0]",
        looks_like="not finite",
        wrong_entries=((1,),),
    ),
    Slip(
        name="jax: gradient stopped in a scan",
        wrong=_scanned(jax.lax.stop_gradient),
        right=_scanned(lambda h: h),
        inputs=(np.array(0.8), _normal(4, 2)),
        leaf="input[1]",
        looks_like="part missing",
    ),
    Slip(
        name="Rule: repeated index overwrites",
        wrong=_lookup(_overwrite),
        right=_lookup(np.add.at),
        inputs=(_normal(3, 1), INDICES),
        leaf="input[0]",
        wrong_entries=((0, 0),),
    ),
    Slip(
        name="Rule: border of a convolution",
        wrong=_correlation(borders=False),
        right=_correlation(borders=True),
        inputs=(_normal(3), _normal(7, seed=1)),
        leaf="input[1]",
        looks_like="part missing",
        wrong_entries=((0,), (1,), (5,), (6,)),
        healthy="input[0]",
    ),
    Slip(
        name="Rule: gates of an LSTM in another order",
        wrong=_lstm_step(1, 0, 2),
        right=_lstm_step(0, 1, 2),
        inputs=(_normal(6), _normal(2, seed=1)),
        leaf="input[0]",
        wrong_entries=((0,), (1,), (2,), (3,)),
        healthy="input[1]",
    ),
    Slip(
        name="Rule: ends of an integral",
        wrong=_trapezoid(1.0),
        right=_trapezoid(0.5),
        inputs=(_normal(9),),
        leaf="input[0]",
        wrong_entries=((0,), (8,)),
    ),
    Slip(
        name="Rule: one entry of ten thousand, off by a thousandth",
        wrong=_cubic((37, 41)),
        right=_cubic(None),
        inputs=(_normal(100, 100),),
        leaf="input[0]",
        wrong_entries=((37, 41),),
    ),
    Slip(
        name="Rule: one per cent in float32",
        wrong=_single(1.01),
        right=_single(1.0),
        inputs=(_normal(4, 3).astype(np.float32), _normal(3, seed=1).astype(np.float32)),
        leaf="input[0]",
        looks_like="constant factor: got / wanted = 1.01",
        healthy="input[1]",
    ),
    Slip(
        name="Rule: complex factor not conjugated",
        wrong=_rotation(lambda w: w),
        right=_rotation(np.conj),
        inputs=(_normal(3) + 1j * _normal(3, seed=1), _normal(3) - 1j * _normal(3, seed=2)),
        leaf="input[0]",
        healthy="input[1]",
    ),
    Slip(
        name="Rule: mean over the wrong count",
        wrong=_mean(lambda x: x.shape[0]),
        right=_mean(lambda x: x.shape[1]),
        inputs=(_normal(2, 5),),
        leaf="input[0]",
        looks_like="constant factor: got / wanted = 2.5",
    ),
    Slip(
        name="Rule: mean held constant in a variance",
        wrong=_variance(mean_moves=False),
        right=_variance(mean_moves=True),
        inputs=(10 + _normal(6),),
        leaf="input[0]",
    ),
)
