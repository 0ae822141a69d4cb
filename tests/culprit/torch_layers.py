"""Layers of PyTorch networks, each right or wrong in one way of its own."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

Rule = Any  # a class of autograd.Function, whose `apply` has no types


def elementwise(
    name: str, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]
) -> Rule:
    """An activation by a rule of its own."""

    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return value(x)

    def backward(ctx: Any, u: Tensor) -> Tensor:
        return u * slope(*ctx.saved_tensors)

    body = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (Function,), body)


def wave(factor: float) -> Rule:
    return elementwise("Wave", lambda x: x.sin() + x, lambda x: factor * (x.cos() + 1))


def swish(wrong: bool) -> Rule:
    """Wrong: the term by the product rule is missing."""

    def slope(x: Tensor) -> Tensor:
        s = x.sigmoid()
        return s if wrong else s + x * s * (1 - s)

    return elementwise("Swish", lambda x: x * x.sigmoid(), slope)


def gelu(wrong: bool) -> Rule:
    """Wrong: the derivative of the approximation by tanh, for the exact value."""

    def slope(x: Tensor) -> Any:
        if not wrong:
            density = (-x * x / 2).exp() / math.sqrt(2 * math.pi)
            return torch.special.ndtr(x) + x * density
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            y = nn.functional.gelu(leaf, approximate="tanh").sum()
        return torch.autograd.grad(y, leaf)[0]

    return elementwise("Gelu", lambda x: nn.functional.gelu(x), slope)


def signs(wrong: bool) -> Rule:
    """Wrong: the sign of one channel."""

    def slope(x: Tensor) -> Tensor:
        sign = torch.ones_like(x)
        if wrong:
            sign[:, 1] = -1
        return sign * (1 - x.tanh() ** 2)

    return elementwise("ChannelTanh", lambda x: x.tanh(), slope)


def clipped(wrong: bool) -> Rule:
    """Wrong: nothing passes where the value is only near the limit, as some steps are."""

    def slope(x: Tensor) -> Tensor:
        inside = x.abs() < (0.5 if wrong else 1.0)
        return inside.to(x.dtype)

    return elementwise("Clipped", lambda x: x.clamp(-1, 1), slope)


def dense(wrong: str) -> Rule:
    """x Wᵀ + b by hand; wrong in the "input" (W untransposed), "weight" or "bias"."""

    class Dense(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            ctx.save_for_backward(x, weight)
            return x @ weight.T + bias

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x, weight = ctx.saved_tensors
            flat = u.reshape(-1, u.shape[-1])
            in_x = u @ (weight.T if wrong == "input" else weight)
            in_weight = flat.T @ x.reshape(-1, x.shape[-1]) * (1.001 if wrong == "weight" else 1)
            return in_x, in_weight, flat.mean(0) if wrong == "bias" else flat.sum(0)

    return Dense


def softmax(wrong: bool) -> Rule:
    """Wrong: as if the normaliser were a constant."""

    class Softmax(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            y = x.softmax(-1)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> Any:
            (y,) = ctx.saved_tensors
            return y * (u if wrong else u - (u * y).sum(-1, keepdim=True))

    return Softmax


def normal(wrong: bool) -> Rule:
    """Layer normalisation; wrong: the mean takes no part in the derivative."""

    class Normal(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
            deviation = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
            y = (x - x.mean(-1, keepdim=True)) / deviation
            ctx.save_for_backward(y, deviation, weight)
            return y * weight

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
            y, deviation, weight = ctx.saved_tensors
            v = u * weight
            mean = 0 if wrong else v.mean(-1, keepdim=True)
            in_x = (v - mean - y * (v * y).mean(-1, keepdim=True)) / deviation
            return in_x, (u * y).flatten(0, -2).sum(0)

    return Normal


def halves(wrong: bool) -> Rule:
    """Two outputs; wrong: what comes back through the second is lost."""

    class Halves(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            a, b = x.chunk(2, -1)
            return a * 2, b.clone()

        @staticmethod
        def backward(ctx: Any, u: Tensor, v: Tensor) -> Tensor:
            return torch.cat([2 * u, 0 * v if wrong else v], -1)

    return Halves


def lookup(wrong: bool) -> Rule:
    """Rows of a table; wrong: of the uses of one row only the last counts."""

    class Lookup(Function):
        @staticmethod
        def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
            ctx.save_for_backward(rows)
            ctx.shape = table.shape
            return table[rows]

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None]:
            (rows,) = ctx.saved_tensors
            found = u.new_zeros(ctx.shape)
            return found.index_put((rows,), u, accumulate=not wrong), None

    return Lookup


def cross_entropy(wrong: bool) -> Rule:
    """Mean over a batch; wrong: the derivative is that of the sum."""

    class CrossEntropy(Function):
        @staticmethod
        def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
            ctx.save_for_backward(logits, labels)
            return nn.functional.cross_entropy(logits, labels)

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None]:
            logits, labels = ctx.saved_tensors
            p = logits.softmax(-1)
            hit = nn.functional.one_hot(labels, p.shape[-1])
            return u * (p - hit) / (1 if wrong else len(p)), None

    return CrossEntropy


def scaled(wrong: bool) -> Rule:
    """x·s by a rule with a context of its own, and a constant; wrong: the constant is lost."""

    class Scaled(Function):
        @staticmethod
        def forward(x: Tensor, s: Tensor, constant: float) -> Tensor:
            return constant * x * s

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            x, s, ctx.constant = inputs
            ctx.save_for_backward(x, s)

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor, None]:
            x, s = ctx.saved_tensors
            in_s = (u * x).sum_to_size(s.shape)
            return ctx.constant * u * s, in_s * (1 if wrong else ctx.constant), None

    return Scaled


class Applied(nn.Module):
    """A layer around a rule of one argument."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: Tensor) -> Any:
        return self.rule.apply(x)


class Weighted(nn.Module):
    """A layer around a rule of an input and weights."""

    def __init__(self, rule: Rule, *weights: Tensor) -> None:
        super().__init__()
        self.rule, self.weights = rule, nn.ParameterList(map(nn.Parameter, weights))

    def forward(self, x: Tensor) -> Any:
        return self.rule.apply(x, *self.weights)


def dense_layer(wrong: str, d: int = 3) -> nn.Module:
    return Weighted(dense(wrong), torch.randn(d, d) / 2, torch.randn(d) / 2)


class RootMean(nn.Module):
    """x / rms(x); wrong: the path through the size is cut off."""

    def __init__(self, wrong: bool, d: int = 3) -> None:
        super().__init__()
        self.weight, self.wrong = nn.Parameter(torch.linspace(0.5, 1.5, d)), wrong

    def forward(self, x: Tensor) -> Tensor:
        size = (x * x).mean(-1, keepdim=True)
        return self.weight * x / (0.1 + (size.detach() if self.wrong else size)).sqrt()


class Frozen(nn.Linear):
    """Wrong: the weight is taken as data, and does not learn."""

    def __init__(self, wrong: bool, inner: int = 3, outer: int = 3) -> None:
        super().__init__(inner, outer)
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.data if self.wrong else self.weight
        return nn.functional.linear(x, weight, self.bias)


class GroupNorm(nn.Module):
    """Wrong: the variance is computed without a gradient."""

    def __init__(self, wrong: bool, channels: int) -> None:
        super().__init__()
        self.weight, self.wrong = nn.Parameter(torch.linspace(0.5, 1.5, channels)), wrong

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.wrong):
            variance = x.var((1, 2, 3), correction=0, keepdim=True)
        y = (x - x.mean((1, 2, 3), keepdim=True)) / (variance + 1e-5).sqrt()
        return y * self.weight[:, None, None]


class Attention(nn.Module):
    """One head; wrong: the keys are cut off, or the softmax is as its rule is."""

    def __init__(self, d: int = 3, rule: Rule = None, cut: bool = False) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.out, self.rule, self.cut = nn.Linear(d, d, bias=False), rule, cut

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        keys = self.keys(x)
        scores = self.queries(x) @ (keys.detach() if self.cut else keys).mT / x.shape[-1] ** 0.5
        scores = scores if mask is None else scores + mask
        weights = scores.softmax(-1) if self.rule is None else self.rule.apply(scores)
        return self.out(weights @ self.values(x))


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Any:
        return x + self.layers(x)


class Block(nn.Module):
    """A transformer's: attention and a perceptron, each after a norm."""

    def __init__(
        self,
        *,
        attention: nn.Module | None = None,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
        d: int = 3,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), norm or nn.LayerNorm(d)
        self.attention = attention or Attention(d)
        self.mlp = nn.Sequential(nn.Linear(d, d), act or nn.GELU(), nn.Linear(d, d, bias=False))

    def forward(self, x: Tensor, **named: Any) -> Any:
        x = x + self.attention(self.norm1(x), **named)
        return x + self.mlp(self.norm2(x))


class LSTMCell(nn.Module):
    def __init__(self, act: nn.Module, d: int = 2) -> None:
        super().__init__()
        self.gates, self.act = nn.Linear(2 * d, 4 * d), act

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        h, c = state
        i, f, g, o = self.gates(torch.cat([x, h], -1)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * self.act(g)
        return o.sigmoid() * c.tanh(), c


class GRUCell(nn.Module):
    """Wrong: the reset gate is cut off."""

    def __init__(self, wrong: bool, d: int = 2) -> None:
        super().__init__()
        self.gates, self.new, self.wrong = nn.Linear(2 * d, 2 * d), nn.Linear(2 * d, d), wrong

    def forward(self, x: Tensor, h: Tensor) -> Any:
        r, z = self.gates(torch.cat([x, h], -1)).sigmoid().chunk(2, -1)
        n = self.new(torch.cat([x, (r.detach() if self.wrong else r) * h], -1)).tanh()
        return (1 - z) * n + z * h


def doubled(wrong: bool) -> Rule:
    """Every entry twice, as an image is enlarged; wrong: only the first of two comes back."""

    class Doubled(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.repeat_interleave(2, -1)

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> Tensor:
            first, second = u[..., ::2], u[..., 1::2]
            return first.clone() if wrong else first + second

    return Doubled


def filtered(wrong: bool) -> Rule:
    """A spectrum times a filter; wrong: the filter is not conjugated on the way back."""

    class Filtered(Function):
        @staticmethod
        def forward(ctx: Any, spectrum: Tensor, weight: Tensor) -> Tensor:
            ctx.save_for_backward(spectrum, weight)
            return spectrum * weight

        @staticmethod
        def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
            spectrum, weight = ctx.saved_tensors
            in_weight = (u * spectrum.conj()).sum_to_size(weight.shape)
            return u * (weight if wrong else weight.conj()), in_weight

    return Filtered


class Coupling(nn.Module):
    """Half of a vector, scaled and shifted by the other; wrong: the determinant is cut off."""

    def __init__(self, wrong: bool, d: int = 4) -> None:
        super().__init__()
        self.net, self.wrong = nn.Linear(d // 2, d), wrong

    def forward(self, x: Tensor, logdet: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, -1)
        scale, shift = self.net(a).tanh().chunk(2, -1)
        found = scale.sum(-1)
        y = torch.cat([b * scale.exp() + shift, a], -1)
        return y, logdet + (found.detach() if self.wrong else found)


class Router(nn.Module):
    """How much each of the two best experts counts; wrong: their probabilities are data."""

    def __init__(self, wrong: bool, d: int = 3, experts: int = 3) -> None:
        super().__init__()
        self.scores, self.wrong = nn.Linear(d, experts), wrong

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found, chosen = self.scores(x).softmax(-1).topk(2, -1)
        return (found.detach() if self.wrong else found), chosen
