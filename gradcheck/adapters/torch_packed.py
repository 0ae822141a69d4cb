"""Sparse and nested tensors as the engine sees them, which knows dense arrays: their values."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["COMPRESSED", "SPARSE", "is_packed", "unpacked", "values_of"]

COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
SPARSE = (torch.sparse_coo, *COMPRESSED)


def is_packed(tensor: torch.Tensor) -> bool:
    """Return whether its values are held beside where they belong."""
    return tensor.is_nested or tensor.layout in SPARSE


def values_of(nested: torch.Tensor) -> torch.Tensor:
    """Return what a nested tensor holds; autograd goes through."""
    if nested.layout is torch.jagged:
        values: torch.Tensor = nested.values()
        return values
    return torch.cat([part.reshape(-1) for part in nested.unbind()])


def unpacked(
    tensor: torch.Tensor,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the values that a packed tensor specifies, and what makes it of others."""
    return _of_nested(tensor) if tensor.is_nested else _of_sparse(tensor)


def _of_sparse(
    tensor: torch.Tensor,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
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


def _of_nested(
    tensor: torch.Tensor,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    if tensor.layout is torch.jagged:
        jagged: Any = tensor
        offsets, lengths, axis = jagged.offsets(), jagged.lengths(), jagged._ragged_idx
        return tensor.values(), lambda values: torch.nested.nested_tensor_from_jagged(
            values, offsets, lengths, jagged_dim=axis
        )
    shapes = [part.shape for part in tensor.unbind()]

    def restore(values: torch.Tensor) -> torch.Tensor:
        parts = torch.split(values, [shape.numel() for shape in shapes])
        pairs = zip(parts, shapes, strict=True)
        return torch.nested.as_nested_tensor([part.reshape(shape) for part, shape in pairs])

    return values_of(tensor), restore
