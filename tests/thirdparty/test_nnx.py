"""What of a Flax NNX module is a leaf: its parameters, and no other variable."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradcheck

nnx = pytest.importorskip("flax.nnx")


def test_running_statistics_are_constants() -> None:
    layer = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (6, 4), jnp.float32)

    result = gradcheck.check(layer, x)

    assert result.passed, str(result)
    leaves = {finding.leaf for finding in result.findings}
    assert leaves == {"input[0]", "params.bias.value", "params.scale.value"}


def test_a_subclass_of_param_is_trained() -> None:
    layer = nnx.LoRA(3, 2, 4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (5, 3), jnp.float32)

    leaves = {finding.leaf for finding in gradcheck.check(layer, x).findings}

    assert leaves == {"input[0]", "params.lora_a.value", "params.lora_b.value"}


@jax.custom_vjp
def _wrong(x: jax.Array) -> jax.Array:
    return jnp.tanh(x)


_wrong.defvjp(lambda x: (jnp.tanh(x), x), lambda x, u: (1.2 * u * (1 - jnp.tanh(x) ** 2),))


def test_the_culprit_is_found_beside_what_writes_into_its_module() -> None:
    class Network(nnx.Module):  # type: ignore[misc, name-defined]
        def __init__(self, rngs: Any) -> None:
            self.norm = nnx.BatchNorm(3, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x: jax.Array) -> Any:
            return self.drop(_wrong(self.norm(x)))

    x = jax.random.normal(jax.random.key(1), (5, 3))
    blame = gradcheck.find_culprit(Network(nnx.Rngs(0)), x)

    assert [one.path for one in blame.suspects if one.proved] == ["_wrong"]
