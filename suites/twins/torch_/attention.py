"""PyTorch twins of attention."""

import torch
import torch.nn.functional as F

from gradcheck.reference.attention import MultiHeadAttention, ScaledDotProductAttention
from gradcheck.suites.twins.missing import NoTwin
from gradcheck.suites.twins.torch_.registry import Outputs, Params, apply

__all__: list[str] = []


@apply.register
def scaled_dot_product_attention(
    layer: ScaledDotProductAttention, params: Params, *inputs: torch.Tensor
) -> Outputs:
    """PyTorch takes a mask or its own causal one, never both; the two are merged for it."""
    q, k, v, *given = inputs
    mask = given[0] if given else None
    if mask is not None and layer.causal:
        mask = mask & _past(q, k)
    is_causal = layer.causal and mask is None
    return (F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal),)


@apply.register
def multi_head_attention(
    layer: MultiHeadAttention, params: Params, *inputs: torch.Tensor
) -> Outputs:
    """The module in training mode, without dropout: inference would take a path of its own.

    It is built on the meta device, where it owns no numbers and draws none.
    """
    query, key, value, *given = inputs
    if given and not len(query):
        raise NoTwin(layer, "torch", "the module cannot shape the mask of an empty batch")
    module = torch.nn.MultiheadAttention(
        layer.features, layer.heads, bias=layer.bias, batch_first=True, device="meta"
    )
    settings = {
        "key_padding_mask": given[0] if given else None,
        "attn_mask": ~_past(query, key) if layer.causal else None,
        "is_causal": layer.causal,
        "need_weights": False,
    }
    y, _ = torch.func.functional_call(
        module, dict(params), (query, key, value), settings, strict=True
    )
    return (y,)


def _past(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """True where query i may attend to key j ≤ i."""
    ones = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
    return ones.tril()
