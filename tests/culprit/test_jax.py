"""One wrong rule is planted in a JAX network: it is named, and no other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradcheck.culprit import find_culprit

RNG = np.random.default_rng(2)
X, W = RNG.standard_normal((3, 4)), RNG.standard_normal((4, 4)) / 2
Act = Callable[[Any], Any]


def by_vjp(factor: float) -> Act:
    @jax.custom_vjp
    def wave(x: Any) -> Any:
        return jnp.sin(x) + x

    wave.defvjp(lambda x: (jnp.sin(x) + x, x), lambda x, u: (factor * u * (jnp.cos(x) + 1),))
    return wave


def by_jvp(factor: float) -> Act:
    @jax.custom_jvp
    def wave(x: Any) -> Any:
        return jnp.sin(x) + x

    wave.defjvp(lambda p, t: (jnp.sin(p[0]) + p[0], factor * t[0] * (jnp.cos(p[0]) + 1)))
    return wave


def right() -> Act:
    @jax.custom_vjp
    def soft(x: Any) -> Any:
        return jnp.tanh(x)

    soft.defvjp(lambda x: (jnp.tanh(x), x), lambda x, u: (u * (1 - jnp.tanh(x) ** 2),))
    return soft


SOFT = right()


def _scan(act: Act, x: Any) -> Any:
    def body(h: Any, x_t: Any) -> Any:
        h = act(0.5 * h @ W + x_t)
        return h, SOFT(h)

    h, ys = jax.lax.scan(body, x[0] * 0, x)
    return h + ys.sum(0)


NETWORKS: dict[str, tuple[Callable[[Act], Callable[[Any], Any]], str]] = {
    "chain": (lambda act: lambda x: SOFT(act(SOFT(x @ W) @ W) @ W).sum(0), "wave"),
    "jit": (lambda act: lambda x: jax.jit(lambda y: SOFT(act(y @ W)))(SOFT(x)), "<lambda>/wave"),
    "scan": (lambda act: lambda x: _scan(act, SOFT(x)), "scan/wave"),
    "cond": (
        lambda act: lambda x: jax.lax.cond(x.sum() < 1e3, lambda y: SOFT(act(y)), SOFT, x @ W),
        "cond/wave",
    ),
    "remat": (lambda act: lambda x: jax.checkpoint(lambda y: SOFT(act(y) @ W))(x), "remat/wave"),
    "vmap": (lambda act: lambda x: jax.vmap(lambda y: SOFT(act(y @ W)))(x), "wave"),
    "residual": (lambda act: lambda x: x + SOFT(x + act(SOFT(x) @ W)), "wave"),
    "tree": (lambda act: lambda x: {"a": SOFT(act(x) @ W), "b": (x @ W, SOFT(x))}, "wave"),
}


@pytest.mark.parametrize("rule", [by_vjp, by_jvp])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_culprit_is_named_and_proved(network: str, rule: Callable[[float], Act]) -> None:
    build, path = NETWORKS[network]

    blame = find_culprit(build(rule(1.5)), jnp.asarray(X, jnp.float32))

    named = [suspect.path.replace("jit", "<lambda>") for suspect in blame.culprits]
    assert named == [path], blame
    assert len(blame.suspects) == 1
    assert blame.checked > 1 or network in ("none",)


@pytest.mark.parametrize("rule", [by_vjp, by_jvp])
@pytest.mark.parametrize("network", NETWORKS)
def test_nobody_is_accused_in_a_healthy_network(network: str, rule: Callable[[float], Act]) -> None:
    blame = find_culprit(NETWORKS[network][0](rule(1.0)), jnp.asarray(X, jnp.float32))

    assert blame.result.passed
    assert blame.suspects == ()


def test_a_network_in_float64_is_asked_in_it() -> None:
    blame = find_culprit(NETWORKS["scan"][0](by_vjp(1.0001)), X)

    assert [suspect.path for suspect in blame.culprits] == ["scan/wave"], blame
