"""Slips in the NumPy reference: one wrong term, factor, index or sign in each."""

from dataclasses import replace
from typing import Any

import numpy as np

from gradcheck.reference.activations import (
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    sigmoid,
)
from gradcheck.reference.attention import MultiHeadAttention, ScaledDotProductAttention
from gradcheck.reference.cells import ElmanCell, GRUCell, LSTMCell
from gradcheck.reference.composition import Residual, Sequential
from gradcheck.reference.convolution import Convolution
from gradcheck.reference.dense import Dense
from gradcheck.reference.dropout import Dropout
from gradcheck.reference.embedding import Embedding
from gradcheck.reference.fixed_point import Damped, FixedPoint, Relaxation, TanhTransition, Unrolled
from gradcheck.reference.layer import Array, Cache, Cotangents, Outputs, Params
from gradcheck.reference.losses import (
    BinaryCrossEntropyWithLogits,
    CrossEntropy,
    CrossEntropyProbabilities,
    MeanSquaredError,
)
from gradcheck.reference.normalization import BatchNorm, LayerNorm, RMSNorm
from gradcheck.reference.pooling import AveragePool, MaxPool
from gradcheck.reference.recurrent import Recurrent
from gradcheck.suites.chunks import Chunked
from tests.faults.planting import Fault, faultless

__all__ = ["FAULTS", "MISSHAPEN"]

Backward = tuple[Params, Cotangents]


class BiasAveragedOverBatch(Dense):
    """b̄ is the mean of the rows of u, not their sum."""

    def backward(self, params: Params, x: Array, u: Array) -> Backward:
        grads, bars = super().backward(params, x, u)
        rows = max(u.size // self.outputs, 1)
        return {name: g / rows if name == "bias" else g for name, g in grads.items()}, bars


class WeightOfLastRowOnly(Dense):
    """In the loop over rows W̄ is assigned where it should be added to."""

    def backward(self, params: Params, x: Array, u: Array) -> Backward:
        grads, bars = super().backward(params, x, u)
        rows, xs = u.reshape(-1, self.outputs)[-1:], x.reshape(-1, self.inputs)[-1:]
        return {**grads, "weight": rows.T @ xs}, bars


class WeightNotTransposed(Dense):
    """x̄ = u Wᵀ, which has the right shape when W is square."""

    def backward(self, params: Params, x: Array, u: Array) -> Backward:
        grads, bars = super().backward(params, x, u)
        square = self.inputs == self.outputs
        return grads, (u @ params["weight"].T,) if square else bars


class WeightGradientTransposed(Dense):
    """W̄ = xᵀu: the shape itself is wrong, unless W is square."""

    def backward(self, params: Params, x: Array, u: Array) -> Backward:
        grads, bars = super().backward(params, x, u)
        return {**grads, "weight": grads["weight"].T}, bars


class SlopeOneAtZero(ReLU):
    """relu'(0) = 1: a subgradient, but not the one of everybody else."""

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        return (np.maximum(x, 0),), x >= 0


class SlopeLost(LeakyReLU):
    """x̄ = 0 where x < 0, as for ReLU."""

    def backward(self, params: Params, positive: Array, u: Array) -> Backward:
        return {}, (u * positive,)


class GateHeldConstant(GELU):
    """x̄ = u g: the term x g' of the product rule is missing."""

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Array]:
        outputs, _ = super().forward(params, x)
        gate = np.divide(outputs[0], x, out=np.full_like(x, 0.5), where=x != 0)
        return outputs, gate


class SwishWithoutItsProduct(SiLU):
    """x̄ = u σ(x): the term x σ' is missing."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        _, s = cache
        return {}, (u * s,)


class SquareLost(Tanh):
    """1 - y for 1 - y²."""

    def backward(self, params: Params, y: Array, u: Array) -> Backward:
        return {}, (u * (1 - y),)


class DerivativeAtTheOutput(Sigmoid):
    """σ' is taken at y = σ(x), where it wants x."""

    def backward(self, params: Params, y: Array, u: Array) -> Backward:
        s = sigmoid(y)
        return {}, (u * s * (1 - s),)


class SaturatesTooEarly(Softplus):
    """Above 5 the derivative is taken to be one; it is 0.993."""

    def backward(self, params: Params, x: Array, u: Array) -> Backward:
        return {}, (u * np.where(x > 5, 1.0, sigmoid(x)),)


class DiagonalOnly(Softmax):
    """x̄ = u y (1 - y): a softmax differentiated like a sigmoid."""

    def backward(self, params: Params, y: Array, u: Array) -> Backward:
        return {}, (u * y * (1 - y),)


class SummedAlongLastAxis(Softmax):
    """The sum of the VJP runs along the last axis, whatever the axis of the softmax."""

    def backward(self, params: Params, y: Array, u: Array) -> Backward:
        return {}, (y * (u - (u * y).sum(axis=-1, keepdims=True)),)


class SumOfCotangentForgotten(LogSoftmax):
    """x̄ = u - eʸ, right only where the cotangents sum to one."""

    def backward(self, params: Params, y: Array, u: Array) -> Backward:
        return {}, (u - np.exp(y),)


class TwoLost(MeanSquaredError):
    """x̄ = (x - t) ℓ̄."""

    def backward(self, params: Params, difference: Array, u: Array) -> Backward:
        _, (x_bar, t_bar) = super().backward(params, difference, u)
        return {}, (_half(x_bar), _half(t_bar))


class AveragedOverClassesToo(CrossEntropy):
    """The mean is taken over N C numbers, of which there are N."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        _, (x_bar, nothing) = super().backward(params, cache, u)
        assert x_bar is not None
        return {}, (x_bar / (x_bar.shape[1] if self.reduction == "mean" else 1), nothing)


class TargetsTakenToSumToOne(CrossEntropyProbabilities):
    """x̄ = (p - t) ℓ̄: the factor Σ t is missing, which is one for a distribution."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        log_p, t = cache
        _, (_, t_bar) = super().backward(params, cache, u)
        each = u / len(t) if self.reduction == "mean" else u
        return {}, ((np.exp(log_p) - t) * np.broadcast_to(each, t.shape[:1])[:, None], t_bar)


class SoftTargetHeldConstant(CrossEntropyProbabilities):
    """t̄ = 0, as if a target could not be learned."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        _, (x_bar, _) = super().backward(params, cache, u)
        return {}, (x_bar, None)


class SigmoidForgotten(BinaryCrossEntropyWithLogits):
    """x̄ = (x - t) ℓ̄: logits for probabilities."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        x, t = cache
        _, (x_bar, t_bar) = super().backward(params, cache, u)
        assert x_bar is not None
        return {}, (x_bar * (x - t) / (sigmoid(x) - t), t_bar)


class VariancePathMissing(BatchNorm):
    """x̄ = r (g - mean g): the variance is taken for a constant."""

    def backward(self, params: Params, normalized: Cache, u: Array) -> Backward:
        grads, bars = super().backward(params, normalized, u)
        if self.mode == "inference":
            return grads, bars
        g = u * params["weight"].reshape(-1, *(1,) * (u.ndim - 2))
        return grads, (normalized[1] * (g - g.mean(axis=_channelwise(u), keepdims=True)),)


class BatchStatisticsInInference(BatchNorm):
    """Inference is differentiated as training: mean and variance are taken to move with x."""

    def backward(self, params: Params, normalized: Cache, u: Array) -> Backward:
        if self.mode == "training":
            return super().backward(params, normalized, u)
        grads, bars = replace(self, mode="training").backward(params, normalized, u)
        return grads, (*bars, None, None)


class UnbiasedVariance(BatchNorm):
    """The value divides by m - 1 in place of m."""

    def forward(self, params: Params, x: Array, *statistics: Array) -> tuple[Outputs, Cache]:
        if self.mode == "inference":
            return super().forward(params, x, *statistics)
        axes = _channelwise(x)
        mean = x.mean(axis=axes)
        return replace(self, mode="inference").forward(params, x, mean, x.var(axis=axes, ddof=1))


class GainForgotten(LayerNorm):
    """x̄ is that of x̂: the gain is left out of the chain."""

    def backward(self, params: Params, normalized: Cache, u: Array) -> Backward:
        grads, bars = super().backward(params, normalized, u)
        plain = LayerNorm(shape=self.shape, epsilon=self.epsilon, affine=False)
        return grads, plain.backward({}, normalized, u)[1] if self.affine else bars


class MeanPathMissing(LayerNorm):
    """x̄ = r (g - x̂ mean(g x̂)): the mean is taken for a constant."""

    def backward(self, params: Params, normalized: Cache, u: Array) -> Backward:
        grads, _ = super().backward(params, normalized, u)
        x_hat, r = normalized
        axes = tuple(range(-len(self.shape), 0))
        g = params["weight"] * u if self.affine else u
        return grads, (r * (g - x_hat * (g * x_hat).mean(axis=axes, keepdims=True)),)


class CentredByHabit(RMSNorm):
    """x̄ loses its mean, copied from LayerNorm."""

    def backward(self, params: Params, normalized: Cache, u: Array) -> Backward:
        grads, (x_bar,) = super().backward(params, normalized, u)
        axes = tuple(range(-len(self.shape), 0))
        assert x_bar is not None
        return grads, (x_bar - x_bar.mean(axis=axes, keepdims=True),)


class LastWindowSkipped(Convolution):
    """A loop over n - k windows in place of n - k + 1: the border sends nothing back to x."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        grads, _ = super().backward(params, cache, u)
        inner = u.copy()
        inner[..., -1] = 0
        return grads, super().backward(params, cache, inner)[1]


class PaddingCroppedAtOneSide(Convolution):
    """x̄ is cut out of its padded grid at 0 and not at p: shifted by the padding."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        columns, size = cache
        wider = tuple(n + 2 * p for n, p in zip(size, self.windows.padding, strict=True))
        bare = replace(self, padding=(0,) * len(size))
        grads, (padded,) = Convolution.backward(bare, params, (columns, wider), u)
        assert padded is not None
        start: tuple[Any, ...] = (..., *map(slice, size))
        return grads, (padded[start],)


class KernelFlipped(Convolution):
    """x̄ through the kernel read backwards: convolution for cross-correlation."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        grads, _ = super().backward(params, cache, u)
        axes = tuple(range(2, 2 + len(self.kernel)))
        flipped = {**params, "weight": np.flip(params["weight"], axes)}
        return grads, super().backward(flipped, cache, u)[1]


class GroupsInReverse(Convolution):
    """W̄ of the last group is handed to the first."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        grads, bars = super().backward(params, cache, u)
        blocks = np.split(grads["weight"], self.groups)
        return {**grads, "weight": np.concatenate(blocks[::-1])}, bars


class OverlapsOverwrite(MaxPool):
    """x̄[winner] = u in place of +=: an element that wins twice collects once."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        _, (x_bar,) = super().backward(params, cache, u)
        _, (wins,) = super().backward(params, cache, np.ones_like(u))
        assert x_bar is not None
        assert wins is not None
        return {}, (x_bar / np.maximum(wins, 1),)


class LastOfEqualsWins(MaxPool):
    """Of several equal maxima the last gets the gradient, not the first."""

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Cache]:
        outputs, (_, size) = super().forward(params, x)
        taps = self.windows.gather(x, fill=-np.inf)
        last = taps.shape[2] - 1 - np.flip(taps, axis=2).argmax(axis=2)
        return outputs, (np.expand_dims(last, 2), size)


class PaddingCountedInBackward(AveragePool):
    """The VJP divides by all taps, though only those inside were counted."""

    def backward(self, params: Params, size: tuple[int, ...], u: Array) -> Backward:
        return AveragePool.backward(replace(self, count_include_pad=True), params, size, u)


class RepeatedIndicesOverwrite(Embedding):
    """W̄[i] = u in place of +=: a row that is used twice collects once."""

    def backward(self, params: Params, indices: Array, u: Array) -> Backward:
        weight = np.zeros_like(params["weight"])
        weight[indices] = u
        if self.padding_index is not None:
            weight[self.padding_index] = 0
        return {"weight": weight}, (None,)


class PaddingRowLearns(Embedding):
    """The row that is constant by declaration receives a gradient."""

    def backward(self, params: Params, indices: Array, u: Array) -> Backward:
        weight = np.zeros_like(params["weight"])
        np.add.at(weight, indices, u)
        return {"weight": weight}, (None,)


class ScaleForgotten(Dropout):
    """x̄ = u m, without 1 / (1 - rate)."""

    def backward(self, params: Params, mask: Array, u: Array) -> Backward:
        return {}, (u * mask, None)


class MaskForgotten(Dropout):
    """x̄ = u / (1 - rate), also where nothing went through."""

    def backward(self, params: Params, mask: Array, u: Array) -> Backward:
        return {}, (u / (1 - self.rate), None)


class CausalMaskOffByOne(ScaledDotProductAttention):
    """Query i may attend to key i + 1."""

    def _allowed(self, scores: Array, mask: Array | None) -> Array | bool:
        past = (
            np.tri(scores.shape[-2], scores.shape[-1], 1, dtype=np.bool_) if self.causal else True
        )
        return past if mask is None else past & mask


class KeysNotScaled(ScaledDotProductAttention):
    """k̄ = S̄ᵀ q: the root of d is lost on one of two ways."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        _, (q_bar, k_bar, *others) = super().backward(params, cache, u)
        assert k_bar is not None
        return {}, (q_bar, k_bar * np.sqrt(k_bar.shape[-1]), *others)


class WeightsNotCentred(ScaledDotProductAttention):
    """s̄ = p ∘ p̄: the rank-one part of the softmax is missing, for q only."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        q, k, v, weights = cache
        _, (_, *others) = super().backward(params, cache, u)
        scores = weights * (u @ v.swapaxes(-1, -2))
        return {}, (scores @ k / np.sqrt(q.shape[-1]), *others)


class KeysAndValuesSwapped(MultiHeadAttention):
    """The blocks of the joint weight are stacked as q, v, k."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        grads, bars = super().backward(params, cache, u)
        q, k, v = np.split(grads["in_proj_weight"], 3)
        return {**grads, "in_proj_weight": np.concatenate([q, v, k])}, bars


class OutputBiasOfLastQuery(MultiHeadAttention):
    """b̄ᵒ takes one step of time in place of all."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        grads, bars = super().backward(params, cache, u)
        last = {"out_proj.bias": u[:, -1].sum(axis=0)} if self.bias else {}
        return {**grads, **last}, bars


class FirstLayerForgotten(Sequential):
    """The walk back ends one layer early: the first one's parameters get nothing."""

    def backward(self, params: Params, caches: Cache, *cotangents: Array) -> Backward:
        grads, bars = super().backward(params, caches, *cotangents)
        return {**grads, "0": {name: _zeros(g) for name, g in grads["0"].items()}}, bars


class ShortcutForgotten(Residual):
    """x̄ = f̄(u), without the u of the shortcut."""

    def backward(self, params: Params, cache: Cache, u: Array, *others: Array) -> Backward:
        grads, (x_bar,) = self.inner.backward(params["inner"], cache, u, *others)
        return {"inner": grads}, (x_bar,)


class HiddenToHiddenMissing(ElmanCell):
    """h̄ = 0: no step tells the one before."""

    def backward(self, weight: Array, cache: Cache, *cotangents: Array) -> Any:
        a_bar, shares, (h_bar,) = super().backward(weight, cache, *cotangents)
        return a_bar, shares, (np.zeros_like(h_bar),)


class StateAfterForStateBefore(ElmanCell):
    """W̄ = p̄ᵀh' for p̄ᵀh: one step of time off."""

    def backward(self, weight: Array, cache: Cache, *cotangents: Array) -> Any:
        p_bar, (_, bias_bar), before = super().backward(weight, cache, *cotangents)
        return p_bar, (p_bar.T @ cache[1], bias_bar), before


class InputAndForgetGatesSwapped(LSTMCell):
    """p̄_i and p̄_f change places."""

    def backward(self, weight: Array, cache: Cache, *cotangents: Array) -> Any:
        p_bar, _, (_, c_bar) = super().backward(weight, cache, *cotangents)
        i, f, g, o = np.split(p_bar, 4, axis=-1)
        swapped = np.concatenate([f, i, g, o], axis=-1)
        shares = (swapped.T @ cache[0], swapped.sum(axis=0))
        return swapped, shares, (swapped @ weight, c_bar)


class CellForgetsNothing(LSTMCell):
    """c̄ = s, without the forget gate."""

    def backward(self, weight: Array, cache: Cache, *cotangents: Array) -> Any:
        (u, w), (*_, o, m) = cotangents, cache
        a_bar, shares, (h_bar, _) = super().backward(weight, cache, *cotangents)
        return a_bar, shares, (h_bar, w + u * o * (1 - m * m))


class HiddenStatePassesByTheCell(LSTMCell):
    """s = w: what arrives at h' does not go on to c'."""

    def backward(self, weight: Array, cache: Cache, *cotangents: Array) -> Any:
        u, w = cotangents
        m = cache[-1]
        o_bar = u * m * cache[-2] * (1 - cache[-2])
        p_bar, _, (_, c_bar) = super().backward(weight, cache, np.zeros_like(u), w)
        p_bar = np.concatenate([p_bar[:, : 3 * u.shape[-1]], o_bar], axis=-1)
        return p_bar, (p_bar.T @ cache[0], p_bar.sum(axis=0)), (p_bar @ weight, c_bar)


class UpdateGateInverted(GRUCell):
    """h̄ takes u (1 - z) from the blend, where z was the share of h."""

    def backward(self, weight: Array, cache: Cache, *cotangents: Array) -> Any:
        (u,), z = cotangents, cache[2]
        a_bar, shares, (h_bar,) = super().backward(weight, cache, *cotangents)
        return a_bar, shares, (h_bar + u * (1 - 2 * z),)


class ResetForgottenInBias(GRUCell):
    """b̄_hh = b̄_ih: true without a reset gate, and with one that comes before the product."""

    def backward(self, weight: Array, cache: Cache, *cotangents: Array) -> Any:
        a_bar, (weight_bar, _), before = super().backward(weight, cache, *cotangents)
        return a_bar, (weight_bar, a_bar.sum(axis=0)), before


class ResetSeesTheStateAlone(GRUCell):
    """With the reset before the product, k ∘ r is missing in h̄."""

    def backward(self, weight: Array, cache: Cache, *cotangents: Array) -> Any:
        a_bar, shares, (h_bar,) = super().backward(weight, cache, *cotangents)
        if self.reset == "after":
            return a_bar, shares, (h_bar,)
        w_n = weight[2 * h_bar.shape[-1] :]
        n_bar = a_bar[:, 2 * h_bar.shape[-1] :]
        return a_bar, shares, (h_bar - n_bar @ w_n * cache[1],)


class CutShort(Recurrent):
    """The walk back through time ends after two steps."""

    def backward(self, params: Params, caches: Cache, u: Array, *last: Array) -> Backward:
        truncation = None if self.bidirectional else self.truncation or 2
        short = replace(faultless(self), truncation=truncation)
        return short.backward(params, caches, u, *last)


class TruncationIgnored(Recurrent):
    """The walk back crosses the states that were declared constant."""

    def backward(self, params: Params, caches: Cache, u: Array, *last: Array) -> Backward:
        return replace(faultless(self), truncation=None).backward(params, caches, u, *last)


class ReturnedStateIgnored(Recurrent):
    """The cotangent of s_n is dropped; only y is differentiated."""

    def backward(self, params: Params, caches: Cache, u: Array, *last: Array) -> Backward:
        return super().backward(params, caches, u, *(np.zeros_like(s) for s in last))


class CellStateIgnored(Recurrent):
    """Of the returned state only h_n is differentiated, c_n is not."""

    def backward(self, params: Params, caches: Cache, u: Array, *last: Array) -> Backward:
        return super().backward(params, caches, u, last[0], *(np.zeros_like(s) for s in last[1:]))


class SequenceReadForwardOnly(Recurrent):
    """Of two directions one sends its cotangent to x."""

    def backward(self, params: Params, caches: Cache, u: Array, *last: Array) -> Backward:
        grads, (x_bar, *others) = super().backward(params, caches, u, *last)
        if self.bidirectional:
            forward = u.copy()
            forward[..., self.hidden :] = 0
            states = [s.copy() for s in last]
            for s in states:
                s[1::2] = 0
            _, (x_bar, *_) = super().backward(params, caches, forward, *states)
        return grads, (x_bar, *others)


class DeadStepsTaken(Recurrent):
    """The walk back passes through the padding as if its steps had happened."""

    def backward(self, params: Params, caches: Cache, u: Array, *last: Array) -> Backward:
        alive = [(x, np.ones_like(steps), tape) for x, steps, tape in caches]
        return super().backward(params, alive, u, *last)


class StatesOfLayersSwapped(Recurrent):
    """s̄_0 is stacked from the last layer to the first."""

    def backward(self, params: Params, caches: Cache, u: Array, *last: Array) -> Backward:
        grads, (x_bar, *states) = super().backward(params, caches, u, *last)
        count = self.cell.states
        swapped = (s[::-1] for s in states[:count] if s is not None)
        return grads, (x_bar, *swapped, *states[count:])


class StateBetweenChunksDropped(Chunked):
    """What the second chunk sends back to its initial state goes nowhere."""

    def backward(self, params: Params, cache: Cache, u: Array, *state_us: Array) -> Backward:
        grads2, (x2, *between) = self.inner.backward(params, cache[1], u[self.at :], *state_us)
        nothing = (_zeros(s) for s in between)
        grads1, (x1, *states) = self.inner.backward(params, cache[0], u[: self.at], *nothing)
        total = {name: grads1[name] + grads2[name] for name in grads1}
        assert x1 is not None
        assert x2 is not None
        return total, (np.concatenate([x1, x2]), *states)


class ParametersOfSecondChunkOnly(Chunked):
    """The gradients of the first chunk are overwritten, not added to."""

    def backward(self, params: Params, cache: Cache, u: Array, *state_us: Array) -> Backward:
        _, bars = super().backward(params, cache, u, *state_us)
        return self.inner.backward(params, cache[1], u[self.at :], *state_us)[0], bars


class JacobianNotTransposed(FixedPoint):
    """The adjoint relaxes w ← J w + u."""

    def adjoint(self, params: Params, cache: Cache, u: Array) -> Relaxation:
        rows = [
            self.transition.backward(params, cache, np.broadcast_to(unit, u.shape))[1][0]
            for unit in np.eye(u.shape[-1])
        ]
        w, jacobian = np.zeros_like(u), np.stack([_array(row) for row in rows], axis=-2)
        for _ in range(self.adjoint_limit):
            w = (jacobian @ w[..., None])[..., 0] + u
        return Relaxation(z=w, residuals=())


class AdjointIteratedOnce(FixedPoint):
    """w = u: the gradient of the last transition alone."""

    def adjoint(self, params: Params, cache: Cache, u: Array) -> Relaxation:
        return Relaxation(z=u, residuals=())


class AdjointStopsEarly(FixedPoint):
    """The adjoint is left when its residual is a ten-thousandth."""

    def adjoint(self, params: Params, cache: Cache, u: Array) -> Relaxation:
        return FixedPoint.adjoint(replace(self, adjoint_tolerance=1e-4), params, cache, u)


class LinearizedAtTheStart(FixedPoint):
    """The Jacobians are those at z = 0, where the state was, and not at rest."""

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Cache]:
        outputs, _ = super().forward(params, x)
        return outputs, self.transition.forward(params, np.zeros_like(outputs[0]), x)[1]


class LastTransitionOnly(Unrolled):
    """θ̄ and x̄ take the last step's share and not the sum of all."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        grads, (_, x_bar) = self.transition.backward(params, cache[-1], u)
        return grads, (x_bar,)


class DampingForgotten(Damped):
    """z̄ misses (1 - a) u, the part of the state that stays."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        return self.transition.backward(params, cache, self.rate * u)


class SlopeOfTanhForgotten(TanhTransition):
    """z̄ = u W, without 1 - z'²."""

    def backward(self, params: Params, cache: Cache, u: Array) -> Backward:
        grads, (_, x_bar) = super().backward(params, cache, u)
        return grads, (u @ params["recurrent_weight"], x_bar)


def _array(value: Array | None) -> Array:
    assert value is not None
    return value


def _half(value: Array | None) -> Array:
    return _array(value) / 2


def _zeros(value: Array | None) -> Array:
    return np.zeros_like(_array(value))


def _channelwise(x: Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


BOTH = ("torch", "jax")

FAULTS = (
    Fault(wrong=BiasAveragedOverBatch, family="dense", leaf="params.bias"),
    Fault(wrong=WeightOfLastRowOnly, family="dense", leaf="params.weight"),
    Fault(wrong=WeightNotTransposed, family="dense", leaf="input[[]0]"),
    Fault(wrong=SlopeOneAtZero, family="activations", leaf="input[[]0]", backends=BOTH),
    Fault(wrong=SlopeLost, family="activations", leaf="input[[]0]"),
    Fault(wrong=GateHeldConstant, family="activations", leaf="input[[]0]"),
    Fault(wrong=SwishWithoutItsProduct, family="activations", leaf="input[[]0]"),
    Fault(wrong=SquareLost, family="activations", leaf="input[[]0]"),
    Fault(wrong=DerivativeAtTheOutput, family="activations", leaf="input[[]0]"),
    Fault(wrong=SaturatesTooEarly, family="activations", leaf="input[[]0]"),
    Fault(wrong=DiagonalOnly, family="activations", leaf="input[[]0]"),
    Fault(wrong=SummedAlongLastAxis, family="activations", leaf="input[[]0]"),
    Fault(wrong=SumOfCotangentForgotten, family="activations", leaf="input[[]0]"),
    Fault(wrong=TwoLost, family="losses", leaf="input[[]1]"),
    Fault(wrong=AveragedOverClassesToo, family="losses", leaf="input[[]0]"),
    Fault(wrong=TargetsTakenToSumToOne, family="losses", leaf="input[[]0]"),
    Fault(wrong=SoftTargetHeldConstant, family="losses", leaf="input[[]1]"),
    Fault(wrong=SigmoidForgotten, family="losses", leaf="input[[]0]"),
    Fault(wrong=VariancePathMissing, family="normalizations", leaf="input[[]0]"),
    Fault(wrong=BatchStatisticsInInference, family="normalizations", leaf="input[[]0]"),
    Fault(wrong=UnbiasedVariance, family="normalizations", leaf="output[[]0]", backends=BOTH),
    Fault(wrong=GainForgotten, family="normalizations", leaf="input[[]0]"),
    Fault(wrong=MeanPathMissing, family="normalizations", leaf="input[[]0]"),
    Fault(wrong=CentredByHabit, family="normalizations", leaf="input[[]0]"),
    Fault(wrong=LastWindowSkipped, family="convolutions", leaf="input[[]0]"),
    Fault(wrong=PaddingCroppedAtOneSide, family="convolutions", leaf="input[[]0]"),
    Fault(wrong=KernelFlipped, family="convolutions", leaf="input[[]0]"),
    Fault(wrong=GroupsInReverse, family="convolutions", leaf="params.weight"),
    Fault(wrong=OverlapsOverwrite, family="pools", leaf="input[[]0]"),
    Fault(wrong=LastOfEqualsWins, family="pools", leaf="input[[]0]", backends=BOTH),
    Fault(wrong=PaddingCountedInBackward, family="pools", leaf="input[[]0]"),
    Fault(wrong=RepeatedIndicesOverwrite, family="embeddings", leaf="params.weight"),
    Fault(wrong=PaddingRowLearns, family="embeddings", leaf="params.weight", backends=BOTH),
    Fault(wrong=ScaleForgotten, family="dropouts", leaf="input[[]0]"),
    Fault(wrong=MaskForgotten, family="dropouts", leaf="input[[]0]"),
    Fault(wrong=CausalMaskOffByOne, family="attentions", leaf="output[[]0]", backends=BOTH),
    Fault(wrong=KeysNotScaled, family="attentions", leaf="input[[]1]"),
    Fault(wrong=WeightsNotCentred, family="attentions", leaf="input[[]0]"),
    Fault(wrong=KeysAndValuesSwapped, family="attentions", leaf="params.in_proj_weight"),
    Fault(wrong=OutputBiasOfLastQuery, family="attentions", leaf="params.out_proj.bias"),
    Fault(wrong=FirstLayerForgotten, family="compositions", leaf="params.0.*"),
    Fault(wrong=ShortcutForgotten, family="compositions", leaf="input[[]0]"),
    Fault(wrong=HiddenToHiddenMissing, family="elman", leaf="input[[]1]"),
    Fault(wrong=StateAfterForStateBefore, family="elman", leaf="params.weight_hh_l0"),
    Fault(wrong=CutShort, family="elman", leaf="input[[]1]"),
    Fault(wrong=TruncationIgnored, family="elman", leaf="input[[]1]", odd=None),
    Fault(wrong=SequenceReadForwardOnly, family="elman", leaf="input[[]0]"),
    Fault(wrong=DeadStepsTaken, family="elman", leaf="input[[]0]"),
    Fault(wrong=StatesOfLayersSwapped, family="elman", leaf="input[[]1]"),
    Fault(wrong=InputAndForgetGatesSwapped, family="lstm", leaf="params.weight_ih_l0"),
    Fault(wrong=CellForgetsNothing, family="lstm", leaf="input[[]2]"),
    Fault(wrong=HiddenStatePassesByTheCell, family="lstm", leaf="params.weight_ih_l0"),
    Fault(wrong=ReturnedStateIgnored, family="lstm", leaf="params.weight_ih_l0"),
    Fault(wrong=CellStateIgnored, family="lstm", leaf="input[[]2]"),
    Fault(wrong=UpdateGateInverted, family="gru", leaf="input[[]1]"),
    Fault(wrong=ResetForgottenInBias, family="gru", leaf="params.bias_hh_l0"),
    Fault(wrong=ResetSeesTheStateAlone, family="gru", leaf="input[[]1]"),
    Fault(wrong=StateBetweenChunksDropped, family="chunks", leaf="input[[]0]"),
    Fault(wrong=ParametersOfSecondChunkOnly, family="chunks", leaf="params.weight_ih_l0"),
    Fault(wrong=JacobianNotTransposed, family="fixed points", leaf="input[[]0]"),
    Fault(wrong=AdjointIteratedOnce, family="fixed points", leaf="input[[]0]"),
    Fault(wrong=AdjointStopsEarly, family="fixed points", leaf="input[[]0]"),
    Fault(wrong=LinearizedAtTheStart, family="fixed points", leaf="input[[]0]"),
    Fault(wrong=LastTransitionOnly, family="fixed points", leaf="input[[]0]"),
    Fault(wrong=DampingForgotten, family="fixed points", leaf="input[[]0]", within=Unrolled),
    Fault(wrong=SlopeOfTanhForgotten, family="fixed points", leaf="input[[]0]"),
)

MISSHAPEN = (Fault(wrong=WeightGradientTransposed, family="dense", leaf="params.weight"),)
