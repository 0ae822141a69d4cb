"""What of a Flax NNX module is a leaf: its parameters, and no other variable."""

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
