"""The table: JAX networks of six layers and more, of which exactly one rule is wrong.

Each is built right or wrong from the rules of `jax_rules`; the column beside it says who is to be
named.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from tests.culprit.jax_rules import (
    by_jvp,
    by_vjp,
    clipped,
    coupling,
    dense,
    doubled,
    energy,
    filtered,
    limited,
    normal,
    routed,
    rows,
    settled,
    signs,
    soft,
    softmax,
    swish,
    wave,
)

Network = tuple[Any, tuple[Any, ...]]  # with its inputs
D = 3


def array(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape or (2, D))


def weights(count: int, d: int = D) -> Any:
    """Matrices, in one array: each leaf of a network that is wrong takes its time."""
    return np.stack([array(d, d, seed=k) / d**0.5 for k in range(1, count + 1)])


def chain(*acts: Any) -> Any:
    """A perceptron: each activation after a matrix."""

    def network(x: Any, ws: Any) -> Any:
        for act, w in zip(acts, ws, strict=True):
            x = act(x @ w)
        return x

    return network


def first_activation(wrong: bool) -> Network:
    return chain(swish(wrong), soft(), soft(), jnp.tanh, soft(), soft()), (array(), weights(6))


def middle_activation(wrong: bool) -> Network:
    acts = [soft(), soft(by_jvp), signs(wrong), jnp.tanh, soft(), soft()]
    return chain(*acts), (array(), weights(6))


def last_activation_is_a_thousandth_off(wrong: bool) -> Network:
    acts = [soft(), soft(), jnp.tanh, soft(by_jvp), jax.nn.silu, wave(1.001 if wrong else 1.0)]
    return chain(*acts), (array(), weights(6))


def _dense(*rules: Any) -> Network:
    def network(x: Any, params: Any) -> Any:
        for rule, w, b in zip(rules, *params, strict=True):
            x = jnp.tanh(rule(x, w, b))
        return x

    return network, (array(), (weights(len(rules)), array(len(rules), D)))


def input_gradient_of_a_layer(wrong: bool) -> Network:
    return _dense(dense(), dense(), dense("input" if wrong else ""), *[dense()] * 3)


def weight_gradient_of_the_first_layer(wrong: bool) -> Network:
    return _dense(dense("weight" if wrong else ""), *[dense()] * 5)


def bias_gradient_of_the_last_layer(wrong: bool) -> Network:
    return _dense(*[dense()] * 5, dense("bias" if wrong else ""))


def one_rule_in_many_layers(wrong: bool) -> Network:
    act = swish(wrong, by_vjp)
    return chain(act, soft(), act, soft(), act, soft()), (array(), weights(6))


def two_rules_of_one_name(wrong: bool) -> Network:
    acts = [wave(1.0), soft(), wave(1.5 if wrong else 1.0), soft(), wave(1.0), jnp.tanh]
    return chain(*acts), (array(), weights(6))


def compiled(wrong: bool) -> Network:
    inner = jax.jit(chain(soft(), wave(0.5 if wrong else 1.0, by_jvp), soft()))
    outer = chain(soft(), jnp.tanh, soft())
    return jax.jit(lambda x, a, b: inner(outer(x, a), b)), (array(), weights(3), weights(3))


def scanned(wrong: bool) -> Network:
    """A recurrent network between two layers, which also hands out every state."""
    act, right = signs(wrong), soft()

    def network(x: Any, ws: Any) -> Any:
        def step(h: Any, x_t: Any) -> Any:
            h = act(h @ ws[1] + right(x_t @ ws[2]))
            return h, right(h @ ws[3])

        h, ys = lax.scan(step, jnp.zeros(D), right(x @ ws[0]))
        return right(h @ ws[4]) + jnp.tanh(ys.sum(0) @ ws[5])

    return network, (array(3, D), weights(6))


def scanned_backwards(wrong: bool) -> Network:
    rules = soft(), swish(wrong)

    def layer(x: Any, w: Any, act: Any, reverse: bool) -> Any:
        step = lambda h, x_t: (act(0.5 * h + x_t @ w), h)  # noqa: E731
        return lax.scan(step, jnp.zeros(D), x, reverse=reverse)[1]

    def network(x: Any, ws: Any) -> Any:
        for k, w in enumerate(ws):
            x = layer(jnp.tanh(x), w, rules[k == 1], bool(k % 2)) + x
        return x

    return network, (array(3, D), weights(3))


def wrong_at_late_steps_only(wrong: bool) -> Network:
    act, right = clipped(wrong), soft()

    def network(x: Any, ws: Any) -> Any:
        x = chain(right, jnp.tanh, right, jnp.tanh, right)(x, ws)
        return lax.scan(lambda h, _: (act(h + 0.25 * x + 0.1), None), 0 * x, length=4)[0]

    return network, (array(), weights(5))


def counted_loop(wrong: bool) -> Network:
    act, right = wave(1.1 if wrong else 1.0, by_jvp), soft()

    def network(x: Any, ws: Any) -> Any:
        x = right(x @ ws[0])
        x = lax.fori_loop(0, 4, lambda _, h: right(act(0.3 * h) @ ws[1]), x)
        return chain(right, jnp.tanh, right)(x, ws[2:])

    return network, (array(), weights(5))


def loop_until_it_rests(wrong: bool) -> Network:
    """A while loop has no reverse mode: the forward mode is asked."""
    act, right = swish(wrong), soft(by_jvp)

    def network(x: Any, ws: Any) -> Any:
        x = chain(right, jnp.tanh, right)(x, ws[:3])
        step = lambda c: (c[0] + 1, act(0.4 * c[1] @ ws[3] + x))  # noqa: E731
        x = lax.while_loop(lambda c: (c[0] < 9) & (c[1].sum() < 50), step, (0, x))[1]
        return chain(right, jnp.tanh)(x, ws[4:])

    return network, (array(), weights(6))


def branch(wrong: bool) -> Network:
    bad, right = wave(-1.0 if wrong else 1.0), soft()

    def network(x: Any, ws: Any) -> Any:
        x = chain(right, jnp.tanh)(x, ws[:2])
        x = lax.cond(x.sum() < 1e3, chain(right, bad), chain(right, wave(1.0)), x, ws[2:4])
        return chain(right, jnp.tanh)(x, ws[4:])

    return network, (array(), weights(6))


def second_of_three_branches(wrong: bool) -> Network:
    right, acts = soft(), [wave(1.0), wave(2.0 if wrong else 1.0), soft()]

    def network(x: Any, ws: Any) -> Any:
        def layer(x: Any, k_w: Any) -> Any:
            return lax.switch(k_w[0], acts, right(x @ k_w[1])), None

        return lax.scan(layer, x, (jnp.arange(6) % 3, jnp.stack(ws)))[0]

    return network, (array(), weights(6))


def batched(wrong: bool) -> Network:
    inner = chain(soft(), signs(wrong), soft(by_jvp), jnp.tanh, soft(), jnp.tanh)
    return jax.vmap(inner, (0, None)), (array(), weights(6))


def checkpointed(wrong: bool) -> Network:
    blocks = [chain(soft(), jnp.tanh), chain(swish(wrong), soft()), chain(jnp.tanh, soft())]

    def network(x: Any, ws: Any) -> Any:
        for k, block in enumerate(blocks):
            x = x + jax.checkpoint(block)(x, ws[2 * k : 2 * k + 2])
        return x

    return network, (array(), weights(6))


def scan_of_checkpoints_under_jit(wrong: bool) -> Network:
    act, right = wave(1.2 if wrong else 1.0), soft()

    @jax.jit
    def network(x: Any, ws: Any) -> Any:
        @jax.checkpoint
        def layer(x: Any, w: Any) -> Any:
            return x + right(act(x @ w) @ w), x.sum()

        x, sums = lax.scan(layer, x, ws)
        return x, sums

    return network, (array(), weights(6) / 2)


def closed_over_weights(wrong: bool) -> Network:
    ws, act = [jnp.asarray(w, jnp.float32) for w in weights(6)], swish(wrong)
    inner = chain(soft(), act, soft(), jnp.tanh, soft(), soft())
    return lambda x: inner(x, ws), (jnp.asarray(array(), jnp.float32),)


def _attention(x: Any, w: dict[str, Any], weigh: Any) -> Any:
    q, k, v = (x @ w[name] for name in "qkv")
    return weigh(q @ k.T / D**0.5, -1) @ v @ w["o"]


def _block(norm: Any = None, weigh: Any = None, act: Any = jnp.tanh) -> Any:
    norm, weigh = norm or normal(False), weigh or softmax(False)

    def block(x: Any, w: dict[str, Any]) -> Any:
        x = x + _attention(norm(x, w["n"]), w, weigh)
        return x + act(norm(x, w["n"]) @ w["a"]) @ w["b"]

    return block


def _transformer(*blocks: Any) -> Network:
    """Blocks that share their weights."""

    def network(x: Any, w: dict[str, Any]) -> Any:
        for block in blocks:
            x = block(x, w)
        return x

    names = [*"qkvoab"]
    return network, (array(3, D), dict(zip(names, weights(6), strict=True)) | {"n": np.ones(D)})


def softmax_in_attention(wrong: bool) -> Network:
    return _transformer(_block(), _block(weigh=softmax(wrong)))


def norm_of_a_block(wrong: bool) -> Network:
    return _transformer(_block(norm=normal(wrong)), _block())


def convolutional(wrong: bool) -> Network:
    act, right = signs(wrong, by_jvp), soft()

    def conv(x: Any, w: Any) -> Any:
        numbers = ("NHC", "HIO", "NHC")
        return lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=numbers)

    def network(x: Any, ws: Any) -> Any:
        x = right(conv(x, ws[0]))
        x = x + act(conv(x, ws[1]))
        x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1, 2, 1), "VALID") / 2
        x = right((x - x.mean((0, 1))) / x.std((0, 1)))
        x = right(conv(x, ws[2]))
        return x.mean(1) @ ws[3][0]

    kernels = np.stack([array(3, 2, 2, seed=k) / 2 for k in range(4)])
    return network, (array(2, 4, 2), kernels)


def shared_encoder(wrong: bool) -> Network:
    encoder = chain(soft(), signs(wrong), jnp.tanh)

    def network(a: Any, b: Any, ws: Any, head: Any) -> Any:
        return jnp.tanh(jnp.concatenate([encoder(a, ws), encoder(b, ws)], -1)) @ head

    return network, (array(), array(seed=1), weights(3), array(2 * D, 2, seed=2))


def dict_of_outputs(wrong: bool) -> Network:
    rule, act = energy(wrong), soft()

    def network(x: Any, ws: Any) -> Any:
        found = rule(chain(act, jnp.tanh, act)(x, ws[:3]))
        return {"y": chain(act, jnp.tanh, act)(found["each"], ws[3:]), "e": found["sum"]}

    return network, (array(), weights(6))


def implicit_layer(wrong: bool) -> Network:
    """What the rule computes is a loop, which JAX cannot differentiate."""
    rule, act = settled(wrong), soft()

    def network(x: Any, ws: Any) -> Any:
        x = chain(act, jnp.tanh, act)(x, ws[:3])
        return chain(act, jnp.tanh)(rule(ws[3] / 3, x), ws[4:])

    return network, (array(1, D), weights(6))


def embedding(wrong: bool) -> Network:
    rule, act = rows(wrong), soft()

    def network(ids: Any, table: Any, ws: Any) -> Any:
        return chain(act, jnp.tanh, act, jnp.tanh)(rule(table, ids), ws) @ table.T

    return network, (np.array([0, 2, 2, 1]), array(4, D), weights(4))


def gradient_is_limited(wrong: bool) -> Network:
    """Wrong only for what really comes back, which is large."""
    rule, act = limited(wrong, 30.0), soft()

    def network(x: Any, ws: Any) -> Any:
        x = rule(chain(act, jnp.tanh, act)(x, ws[:3]))
        return 100 * chain(act, jnp.tanh, act)(x, ws[3:])

    return network, (array(), weights(6))


def rule_within_a_right_rule(wrong: bool) -> Network:
    """The outer rule asks JAX for the derivative of what is inside it."""
    act, right = swish(wrong), soft()

    @jax.custom_jvp
    def outer(x: Any) -> Any:
        return act(x) * x

    @outer.defjvp
    def forward(p: Any, t: Any) -> Any:
        return jax.jvp(lambda x: act(x) * x, p, t)

    return chain(right, jnp.tanh, outer, right, jnp.tanh, right), (array(), weights(6))


def rule_around_a_right_rule(wrong: bool) -> Network:
    act, right = soft(by_jvp), soft()

    @jax.custom_vjp
    def outer(x: Any) -> Any:
        return act(x) * x

    def backward(x: Any, u: Any) -> Any:
        return (u * (act(x) + (0 if wrong else x * (1 - act(x) ** 2))),)

    outer.defvjp(lambda x: (outer(x), x), backward)
    return chain(right, jnp.tanh, outer, right, jnp.tanh, right), (array(), weights(6))


def u_net(wrong: bool) -> Network:
    rises, act = [doubled(False), doubled(wrong)], soft()

    def conv(x: Any, w: Any) -> Any:
        return act(jax.vmap(partial(jnp.convolve, mode="same"), (1, 0), 1)(x, w))

    def network(x: Any, ws: dict[str, Any]) -> Any:
        kept = []
        for w in ws["down"]:
            kept.append(conv(x, w))
            x = kept[-1].reshape(-1, 2, 1).mean(1)
        x = conv(x, ws["middle"])
        for rise, w in zip(rises, ws["up"], strict=True):
            x = conv(rise(x) * kept.pop(), w)
        return x

    kernels = array(5, 1, 3)
    return network, (array(16, 1), {"down": kernels[:2], "middle": kernels[2], "up": kernels[3:]})


def mixture_of_experts(wrong: bool) -> Network:
    layers, act = [routed(False), routed(wrong), routed(False)], soft()

    def network(x: Any, gate: Any, experts: Any) -> Any:
        def mixed(x: Any, best: Any) -> Any:
            found, chosen = best(jax.nn.softmax(gate @ x))
            return x + jnp.einsum("k,kij,j->i", found, jnp.asarray(experts)[chosen], act(x))

        for best in layers:
            x = act(jax.vmap(partial(mixed, best=best))(x))
        return x

    return network, (array(), array(4, D), array(4, D, D))


def normalising_flow(wrong: bool) -> Network:
    """The same layer six times, by a scan that carries the determinant."""
    layer, act = coupling(wrong), soft()

    @jax.jit
    def network(x: Any, ws: Any) -> Any:
        def step(carry: Any, w: Any) -> Any:
            y, found = layer(carry[0], w)
            return (y, carry[1] + found), None

        (y, logdet), _ = lax.scan(step, (x, jnp.zeros(len(x))), ws)
        return (act(y) ** 2).sum(-1) - logdet

    return network, (array(2, 4), array(6, 2, 2, seed=1))


def differential_equation(wrong: bool) -> Network:
    """The midpoint rule; the field depends on the time, and is jitted."""
    act, right = signs(wrong, by_jvp), soft()

    @jax.jit
    def field(x: Any, t: Any, ws: Any) -> Any:
        return right(act(x @ ws[0] + t) @ ws[1])

    def network(x: Any, ws: Any) -> Any:
        def step(x: Any, t: Any) -> Any:
            half = x + field(x, t, ws) / 8
            return x + field(half, t + 0.125, ws) / 4, None

        return lax.scan(step, right(x), jnp.arange(4) / 4)[0]

    return network, (array(), weights(2))


def adversaries_on_one_trunk(wrong: bool) -> Network:
    """Two heads on one trunk; the fake is drawn to what a slow copy makes of other inputs."""
    act, head, right = soft(), swish(wrong), soft(by_jvp)
    real, slow_ws = array(seed=9), weights(2)

    def network(z: Any, ws: Any) -> Any:
        trunk = chain(act, jax.nn.leaky_relu)
        fake, slow = chain(right, act)(z, ws[:2]), chain(right, act)(real, slow_ws)
        return {
            "critic": head(trunk(fake, ws[2:4]) @ ws[4]),
            "labels": jax.nn.log_softmax(trunk(real, ws[2:4]) @ ws[5]),
            "match": ((fake - lax.stop_gradient(slow)) ** 2).mean(),
        }

    return network, (array(), weights(6))


def fourier_operator(wrong: bool) -> Network:
    rules = [filtered(False), filtered(wrong), filtered(False)]

    def network(x: Any, params: Any) -> Any:
        for rule, (real, imaginary, w) in zip(rules, params, strict=True):
            y = jnp.fft.irfft(rule(jnp.fft.rfft(x), real + 1j * imaginary), x.shape[-1])
            x = jnp.tanh(y + x @ w)
        return x

    params = [(array(3, seed=k), array(3, seed=-k % 97), w) for k, w in enumerate(weights(3, 4))]
    return network, (array(2, 4), params)


Build = Callable[[bool], Network]
NETWORKS: dict[Build, str] = {
    first_activation: "swish",
    middle_activation: "channel_tanh",
    last_activation_is_a_thousandth_off: "wave",
    input_gradient_of_a_layer: "layer#3",
    weight_gradient_of_the_first_layer: "layer",
    bias_gradient_of_the_last_layer: "layer#6",
    one_rule_in_many_layers: "swish",
    two_rules_of_one_name: "wave#2",
    compiled: "<lambda>/network/wave",
    scanned: "scan/channel_tanh",
    scanned_backwards: "scan/swish",
    wrong_at_late_steps_only: "scan/clip",
    counted_loop: "scan/wave",
    loop_until_it_rests: "while/swish",
    branch: "cond/wave",
    second_of_three_branches: "scan/cond/wave#2",
    batched: "channel_tanh",
    checkpointed: "remat/swish",
    scan_of_checkpoints_under_jit: "network/scan/remat/wave",
    closed_over_weights: "swish",
    softmax_in_attention: "soft_weights#2",
    norm_of_a_block: "layer_norm",
    convolutional: "channel_tanh",
    shared_encoder: "channel_tanh",
    dict_of_outputs: "parts",
    implicit_layer: "fixed_point",
    embedding: "lookup",
    gradient_is_limited: "limit",
    rule_within_a_right_rule: "outer/swish",
    rule_around_a_right_rule: "outer",
    u_net: "enlarged#2",
    mixture_of_experts: "best#2",
    normalising_flow: "network/scan/couple",
    differential_equation: "scan/field/channel_tanh",
    adversaries_on_one_trunk: "swish",
    fourier_operator: "spectral#2",
}
