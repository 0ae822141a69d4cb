"""Each convention for Equinox and Flax against their own layers: the same values and gradients.

Optional, as in `test_layers`: what is not installed is skipped.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradcheck.conventions import CONVENTIONS
from gradcheck.reference import (
    Convolution,
    Dense,
    ElmanCell,
    Embedding,
    GRUCell,
    LayerNorm,
    LSTMCell,
    MultiHeadAttention,
    Recurrent,
    RMSNorm,
)
from tests.matching import Pair, drawn, require_the_same, sizes

Rng = np.random.Generator
Build = Callable[[Rng, bool], Pair]  # of the sizes it draws, with a bias or without

KEY = 0
CELLS: dict[str, Any] = {
    "SimpleCell": ElmanCell(),
    "LSTMCell": LSTMCell(),
    "OptimizedLSTMCell": LSTMCell(),
    "GRUCell": GRUCell(),
}


def array(rng: Rng, *shape: int) -> jax.Array:
    return jnp.asarray(drawn(rng, *shape))


def filled(tree: Any, rng: Rng) -> Any:
    """`tree` in float64 with no two entries of its arrays alike, biases and gains among them."""

    def fill(leaf: Any) -> Any:
        is_float = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return array(rng, *leaf.shape) if is_float else leaf

    return jax.tree.map(fill, tree)


# Equinox: layers take one example, without a batch.


def equinox_pair(layer: Any, reference: Any, rng: Rng, *inputs: Any, alone: int = 0) -> Pair:
    return Pair(layer=filled(layer, rng), reference=reference, inputs=inputs, alone=alone)


def equinox_linear(rng: Rng, bias: bool) -> Pair:
    import equinox as eqx

    inputs, outputs = sizes(rng, 2)
    layer = eqx.nn.Linear(inputs, outputs, use_bias=bias, key=jax.random.key(KEY))
    reference = Dense(inputs=inputs, outputs=outputs, bias=bias)
    return equinox_pair(layer, reference, rng, array(rng, inputs))


def equinox_layer_norm(rng: Rng, affine: bool) -> Pair:
    import equinox as eqx

    shape = tuple(sizes(rng, 2))
    layer = eqx.nn.LayerNorm(shape, use_weight=affine, use_bias=affine)
    return equinox_pair(layer, LayerNorm(shape=shape, affine=affine), rng, array(rng, *shape))


def equinox_rms_norm(rng: Rng, _: bool) -> Pair:
    import equinox as eqx

    shape = tuple(sizes(rng, 1))
    layer = eqx.nn.RMSNorm(shape, use_bias=False)
    return equinox_pair(layer, RMSNorm(shape=shape), rng, array(rng, *shape))


def equinox_embedding(rng: Rng, _: bool) -> Pair:
    import equinox as eqx

    vocabulary, features = sizes(rng, 2)
    layer = eqx.nn.Embedding(vocabulary, features, key=jax.random.key(KEY))
    reference = Embedding(vocabulary=vocabulary, features=features)
    return equinox_pair(layer, reference, rng, jnp.asarray(rng.integers(vocabulary)))


def equinox_convolution(name: str) -> Build:
    def build(rng: Rng, bias: bool) -> Pair:
        import equinox as eqx

        inputs, outputs, kernel, how = geometry(rng, int(name[-2]) if name[-1] == "d" else 2)
        axes = (len(kernel),) if name == "Conv" else ()
        layer = getattr(eqx.nn, name)(
            *axes, inputs, outputs, kernel, **how, use_bias=bias, key=jax.random.key(KEY)
        )
        reference = Convolution(inputs=inputs, outputs=outputs, kernel=kernel, bias=bias, **how)
        x = array(rng, inputs, *range(6, 6 + len(kernel)))
        return equinox_pair(layer, reference, rng, x)

    return build


def equinox_cell(name: str) -> Build:
    def build(rng: Rng, bias: bool) -> Pair:
        import equinox as eqx

        inputs, hidden = sizes(rng, 2)
        reference = Recurrent(cell=CELLS[name], inputs=inputs, hidden=hidden, bias=bias)
        layer = getattr(eqx.nn, name)(inputs, hidden, use_bias=bias, key=jax.random.key(KEY))
        states = tuple(array(rng, hidden) for _ in range(reference.cell.states))
        state = states if len(states) > 1 else states[0]
        return equinox_pair(layer, reference, rng, array(rng, inputs), state)

    return build


def equinox_attention(rng: Rng, bias: bool) -> Pair:
    import equinox as eqx

    queries, keys, heads = sizes(rng, 3)
    features = 2 * heads
    layer = eqx.nn.MultiheadAttention(
        heads,
        features,
        use_query_bias=bias,
        use_key_bias=bias,
        use_value_bias=bias,
        use_output_bias=bias,
        key=jax.random.key(KEY),
    )
    reference = MultiHeadAttention(features=features, heads=heads, bias=bias)
    inputs = (array(rng, time, features) for time in (queries, keys, keys))
    return equinox_pair(layer, reference, rng, *inputs)


def geometry(rng: Rng, axes: int) -> tuple[int, int, tuple[int, ...], dict[str, Any]]:
    """Inputs, outputs, kernel and the rest of a convolution."""
    inputs, outputs = (2 * int(n) for n in rng.permutation(np.arange(1, 4))[:2])
    kernel = tuple(int(k) for k in rng.permutation([1, 2, 3])[:axes])
    stride, padding, dilation = (
        tuple(int(n) for n in rng.integers(low, low + 2, axes)) for low in (1, 0, 1)
    )
    return (
        inputs,
        outputs,
        kernel,
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": 2},
    )


EQUINOX: dict[str, Build] = {
    "Linear": equinox_linear,
    "LayerNorm": equinox_layer_norm,
    "RMSNorm": equinox_rms_norm,
    "Embedding": equinox_embedding,
    **{name: equinox_convolution(name) for name in ("Conv", "Conv1d", "Conv2d", "Conv3d")},
    **{name: equinox_cell(name) for name in ("LSTMCell", "GRUCell")},
    "MultiheadAttention": equinox_attention,
}


# Flax: Linen is `apply` of a dictionary of weights, NNX an object that holds them.


def linen(layer: Any, reference: Any, rng: Rng, *inputs: Any) -> Pair:
    variables = filled(jax.eval_shape(layer.init, jax.random.key(KEY), *inputs), rng)
    return Pair(layer=layer.apply, reference=reference, inputs=(variables, *inputs))


def nnx(layer: Any, reference: Any, rng: Rng, *inputs: Any, dtype: str = "float64") -> Pair:
    return Pair(layer=filled(layer, rng), reference=reference, inputs=inputs, dtype=dtype)


def dense(rng: Rng, bias: bool, home: str) -> Pair:
    batch, inputs, outputs = sizes(rng, 3)
    reference = Dense(inputs=inputs, outputs=outputs, bias=bias)
    x = array(rng, batch, inputs)
    if home == "flax.nnx":
        from flax.nnx import Linear, Rngs

        return nnx(Linear(inputs, outputs, use_bias=bias, rngs=Rngs(KEY)), reference, rng, x)
    from flax.linen import Dense as LinenDense

    return linen(LinenDense(outputs, use_bias=bias), reference, rng, x)


def layer_norm(rng: Rng, affine: bool, home: str) -> Pair:
    batch, features = sizes(rng, 2)
    features += 2  # two alone are ±1 after it, whatever they were
    reference = LayerNorm(shape=(features,), epsilon=1e-6, affine=affine)
    x = array(rng, batch, features)
    # The fast variance, E[x²] - E[x]², loses digits.
    how: dict[str, Any] = {"use_bias": affine, "use_scale": affine, "use_fast_variance": False}
    if home == "flax.nnx":
        from flax import nnx as modules

        return nnx(modules.LayerNorm(features, **how, rngs=modules.Rngs(KEY)), reference, rng, x)
    from flax.linen import LayerNorm as LinenNorm

    return linen(LinenNorm(**how), reference, rng, x)


def rms_norm(rng: Rng, _: bool, home: str) -> Pair:
    batch, features = sizes(rng, 2)
    reference, x = RMSNorm(shape=(features,), epsilon=1e-6), array(rng, batch, features)
    if home == "flax.nnx":
        from flax import nnx as modules

        return nnx(modules.RMSNorm(features, rngs=modules.Rngs(KEY)), reference, rng, x)
    from flax.linen import RMSNorm as LinenNorm

    return linen(LinenNorm(), reference, rng, x)


def embed(rng: Rng, _: bool, home: str) -> Pair:
    vocabulary, features, batch = sizes(rng, 3)
    reference = Embedding(vocabulary=vocabulary, features=features)
    indices = jnp.asarray(rng.integers(0, vocabulary, (batch, 2)))
    if home == "flax.nnx":
        from flax.nnx import Embed, Rngs

        table = Embed(vocabulary, features, dtype=jnp.float64, rngs=Rngs(KEY))
        return nnx(table, reference, rng, indices)
    from flax.linen import Embed as LinenEmbed

    return linen(LinenEmbed(vocabulary, features), reference, rng, indices)


def convolution(rng: Rng, bias: bool, home: str) -> Pair:
    inputs, outputs, kernel, how = geometry(rng, int(rng.integers(1, 4)))
    reference = Convolution(inputs=inputs, outputs=outputs, kernel=kernel, bias=bias, **how)
    x = array(rng, 2, *range(6, 6 + len(kernel)), inputs)
    theirs = {
        "strides": how["stride"],
        "padding": [(p, p) for p in how["padding"]],
        "kernel_dilation": how["dilation"],
        "feature_group_count": how["groups"],
        "use_bias": bias,
    }
    if home == "flax.nnx":
        from flax.nnx import Conv, Rngs

        return nnx(Conv(inputs, outputs, kernel, **theirs, rngs=Rngs(KEY)), reference, rng, x)
    from flax.linen import Conv as LinenConv

    return linen(LinenConv(outputs, kernel, **theirs), reference, rng, x)


def cell(name: str) -> Callable[[Rng, bool, str], Pair]:
    def build(rng: Rng, _: bool, home: str) -> Pair:
        batch, inputs, hidden = sizes(rng, 3)
        reference = Recurrent(cell=CELLS[name], inputs=inputs, hidden=hidden)
        states = tuple(array(rng, batch, hidden) for _ in range(reference.cell.states))
        carry = states if len(states) > 1 else states[0]
        x = array(rng, batch, inputs)
        if home == "flax.nnx":
            from flax import nnx as modules

            layer = getattr(modules, name)(
                inputs, hidden, dtype=jnp.float64, rngs=modules.Rngs(KEY)
            )
            return nnx(layer, reference, rng, carry, x)
        from flax import linen as modules

        return linen(getattr(modules, name)(hidden), reference, rng, carry, x)

    return build


def attention(rng: Rng, bias: bool, home: str) -> Pair:
    batch, queries, keys, heads = sizes(rng, 4)
    features = 2 * heads
    reference = MultiHeadAttention(features=features, heads=heads, bias=bias)
    times = (queries, keys, keys)[: int(rng.integers(1, 4))]  # keys and values may be left out
    inputs = [array(rng, batch, time, features) for time in times]
    if home == "flax.nnx":
        from flax import nnx as modules

        layer = modules.MultiHeadAttention(
            heads,
            features,
            use_bias=bias,
            decode=False,
            dtype=jnp.float64,
            rngs=modules.Rngs(KEY),
        )
        return nnx(layer, reference, rng, *inputs, dtype="float32")  # its softmax
    from flax.linen import MultiHeadDotProductAttention

    return linen(MultiHeadDotProductAttention(heads, use_bias=bias), reference, rng, *inputs)


FLAX: dict[str, Callable[[Rng, bool, str], Pair]] = {
    "flax.linen.Dense": dense,
    "flax.linen.MultiHeadDotProductAttention": attention,
    "flax.nnx.Linear": dense,
    "flax.nnx.MultiHeadAttention": attention,
    **{
        f"{home}.{name}": build
        for home in ("flax.linen", "flax.nnx")
        for name, build in {
            "LayerNorm": layer_norm,
            "RMSNorm": rms_norm,
            "Embed": embed,
            "Conv": convolution,
            "SimpleCell": cell("SimpleCell"),
            "LSTMCell": cell("LSTMCell"),
            "OptimizedLSTMCell": cell("OptimizedLSTMCell"),
            "GRUCell": cell("GRUCell"),
        }.items()
    },
}


def of(home: str, build: Callable[[Rng, bool, str], Pair]) -> Build:
    return lambda rng, bias: build(rng, bias, home)


TABLE: dict[str, Build] = {
    **{f"equinox.nn.{name}": build for name, build in EQUINOX.items()},
    **{name: of(name.rpartition(".")[0], build) for name, build in FLAX.items()},
}


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("bias", [True, False], ids=("biased", "unbiased"))
@pytest.mark.parametrize("convention", TABLE)
def test_a_layer_of_theirs_is_what_its_convention_says(convention: str, bias: bool) -> None:
    pytest.importorskip(convention.partition(".")[0])
    with jax.enable_x64(True):
        pair = TABLE[convention](np.random.default_rng([bias, *convention.encode()]), bias)

        require_the_same(pair, convention)


def test_every_convention_is_verified_somewhere() -> None:
    assert {name for name in CONVENTIONS if not name.startswith("torch.")} == set(TABLE)
