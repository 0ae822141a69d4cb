"""Layers of packages from PyPI, unchanged, each as its users call it; a builder imports its own."""

from collections.abc import Callable
from typing import Any

import numpy as np

Built = tuple[Any, tuple[Any, ...]]  # target, inputs


def _normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def _tensor(*shape: int, seed: int = 0) -> Any:
    import torch

    return torch.from_numpy(_normal(*shape, seed=seed))


def _array(*shape: int, seed: int = 0) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(_normal(*shape, seed=seed), jnp.float32)


def equinox_gru() -> Built:
    import equinox as eqx
    import jax

    return eqx.nn.GRUCell(3, 4, key=jax.random.key(0)), (_array(3), _array(4, seed=1))


def equinox_attention() -> Built:
    import equinox as eqx
    import jax

    layer = eqx.nn.MultiheadAttention(2, 4, key=jax.random.key(0))
    return layer, (_array(5, 4), _array(6, 4, seed=1), _array(6, 4, seed=2))


def equinox_norm() -> Built:
    import equinox as eqx

    return eqx.nn.GroupNorm(2, 4), (_array(4, 3, 3),)


def linen_dense() -> Built:
    import jax
    from flax import linen

    model = linen.Sequential([linen.Dense(5), linen.tanh, linen.LayerNorm(), linen.Dense(2)])
    x = _array(3, 4)
    return model.apply, (model.init(jax.random.key(0), x), x)


def nnx_attention() -> Built:
    from flax import nnx

    layer = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)
    return lambda state, x: nnx.merge(graph, state)(x), (state.to_pure_dict(), _array(5, 4))


def nnx_linear() -> Built:
    from flax import nnx

    return nnx.Linear(4, 3, rngs=nnx.Rngs(0)), (_array(2, 4),)


def haiku_lstm() -> Built:
    import haiku as hk
    import jax

    def run(x: Any) -> Any:
        core = hk.LSTM(3)
        return hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))[0]

    pure = hk.without_apply_rng(hk.transform(run))
    x = _array(5, 2, 4)
    return pure.apply, (pure.init(jax.random.key(0), x), x)


def diffrax_solve() -> Built:
    import diffrax
    import jax.numpy as jnp

    def run(y: Any, w: Any) -> Any:
        term = diffrax.ODETerm(lambda t, y, w: jnp.tanh(w @ y))
        return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.1, y, args=w).ys

    return run, (_array(3), _array(3, 3, seed=1))


def optimistix_fixed_point() -> Built:
    import jax.numpy as jnp
    import optimistix as optx

    def run(w: Any, x: Any) -> Any:
        solver = optx.FixedPointIteration(rtol=1e-7, atol=1e-7)
        found = optx.fixed_point(
            lambda z, args: jnp.tanh(0.3 * args[0] @ z + args[1]), solver, jnp.zeros(3), (w, x)
        )
        return found.value

    return run, (_array(3, 3), _array(3, seed=1))


def lineax_solve() -> Built:
    import jax.numpy as jnp
    import lineax as lx

    def run(a: Any, b: Any) -> Any:
        return lx.linear_solve(lx.MatrixLinearOperator(a + 4 * jnp.eye(3)), b).value

    return run, (_array(3, 3), _array(3, seed=1))


def entmax_15() -> Built:
    import entmax

    return (lambda x: entmax.entmax15(x, dim=-1)), (_tensor(3, 6),)


def entmax_sparsemax() -> Built:
    import entmax

    return (lambda x: entmax.sparsemax(x, dim=-1)), (_tensor(3, 6),)


def ncps_cfc() -> Built:
    from ncps.torch import CfC

    return CfC(3, 4).double(), (_tensor(2, 5, 3),)


def torchdiffeq_odeint() -> Built:
    import torch
    from torchdiffeq import odeint

    field = torch.nn.Linear(3, 3).double()

    class Flow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def forward(self, y: torch.Tensor) -> Any:
            times = torch.tensor([0.0, 1.0], dtype=torch.float64)
            return odeint(lambda t, y: self.field(y).tanh(), y, times, method="rk4")[-1]

    return Flow(), (_tensor(2, 3),)


def torchdiffeq_adjoint() -> Built:
    import torch
    from torchdiffeq import odeint_adjoint

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 3).double()

        def forward(self, t: Any, y: torch.Tensor) -> Any:
            return self.linear(y).tanh()

    class Flow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = Field()

        def forward(self, y: torch.Tensor) -> Any:
            times = torch.tensor([0.0, 1.0], dtype=torch.float64)
            return odeint_adjoint(self.field, y, times, rtol=1e-11, atol=1e-12)[-1]

    return Flow(), (_tensor(2, 3),)


def nflows_affine() -> Built:
    from nflows.transforms import MaskedAffineAutoregressiveTransform

    return MaskedAffineAutoregressiveTransform(4, 8).double(), (_tensor(3, 4),)


def nflows_spline() -> Built:
    from nflows.transforms import MaskedPiecewiseRationalQuadraticAutoregressiveTransform

    layer = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        4, 8, tails="linear", tail_bound=3.0
    )
    return layer.double(), (_tensor(3, 4),)


def normflows_planar() -> Built:
    import normflows as nf

    return nf.flows.Planar((4,)).double(), (_tensor(3, 4),)


def x_transformers_attention() -> Built:
    from x_transformers import Encoder

    return Encoder(dim=8, depth=1, heads=2, attn_dim_head=4).double(), (_tensor(1, 5, 8),)


def mambapy_block() -> Built:
    from mambapy.mamba import MambaBlock, MambaConfig

    return MambaBlock(MambaConfig(d_model=4, n_layers=1, d_state=3)).double(), (_tensor(1, 6, 4),)


def equinox_jitted() -> Built:
    import equinox as eqx
    import jax

    return eqx.filter_jit(eqx.nn.Linear(3, 2, key=jax.random.key(0))), (_array(3),)


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "pad_token_id": 1,
}


def _padded() -> Any:
    import torch

    return torch.tensor([[5, 8, 3, 1, 1], [7, 5, 21, 4, 30]])


def transformers_bert() -> Built:
    import transformers

    config = transformers.BertConfig(**SMALL, max_position_embeddings=8)
    return transformers.BertModel(config).eval(), (_padded(),)


def transformers_bart() -> Built:
    """The padded embedding is shared: by the encoder, the decoder and the head."""
    import transformers

    config = transformers.BartConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        vocab_size=40,
        max_position_embeddings=16,
        pad_token_id=1,
    )
    return transformers.BartForConditionalGeneration(config).eval(), (_padded(),)


def transformers_mixtral() -> Built:
    """Its experts are computed by an operator that float64 does not have."""
    import transformers

    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=1, num_local_experts=4)
    return transformers.MixtralForCausalLM(config).eval(), (_padded(),)


def transformers_wav2vec2() -> Built:
    """In training it has its input require a gradient, which only a leaf may be asked to."""
    import transformers

    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_stride=(4, 2),
        conv_kernel=(8, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    return transformers.Wav2Vec2Model(config).train(), (_tensor(1, 200).float(),)


LAYERS: dict[str, Callable[[], Built]] = {
    build.__name__: build
    for build in (
        equinox_gru,
        equinox_attention,
        equinox_norm,
        linen_dense,
        nnx_attention,
        nnx_linear,
        haiku_lstm,
        diffrax_solve,
        optimistix_fixed_point,
        lineax_solve,
        entmax_15,
        entmax_sparsemax,
        ncps_cfc,
        torchdiffeq_odeint,
        torchdiffeq_adjoint,
        nflows_affine,
        nflows_spline,
        normflows_planar,
        x_transformers_attention,
        mambapy_block,
        equinox_jitted,
        transformers_bert,
        transformers_bart,
        transformers_mixtral,
        transformers_wav2vec2,
    )
}
