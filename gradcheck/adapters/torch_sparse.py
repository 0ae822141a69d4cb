"""Sparse tensors as the engine sees them, which knows dense arrays only: what they specify."""

from collections.abc import Callable

import torch

__all__ = ["COMPRESSED", "SPARSE", "specified"]

COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
SPARSE = (torch.sparse_coo, *COMPRESSED)


def specified(
    tensor: torch.Tensor,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the values of the entries that `tensor` specifies, and what makes it of others."""
    layout, size = tensor.layout, tensor.size()
    if layout is torch.sparse_coo:
        indices, is_coalesced = tensor._indices(), tensor.is_coalesced()
        return tensor._values(), lambda values: torch.sparse_coo_tensor(
            indices, values, size, is_coalesced=is_coalesced, check_invariants=False
        )
    rows = layout in (torch.sparse_csr, torch.sparse_bsr)
    compressed = tensor.crow_indices() if rows else tensor.ccol_indices()
    plain = tensor.col_indices() if rows else tensor.row_indices()
    return tensor.values(), lambda values: torch.sparse_compressed_tensor(
        compressed, plain, values, size, layout=layout, check_invariants=False
    )
