"""The padding of embeddings, which PyTorch leaves out of the gradient, though the output shows it.

What an embedding reads of its padding row is held as it was at the point, while all else moves: the
value then has the gradient that PyTorch returns, whatever else the weight is used for, and whatever
the weight is made of.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["Paddings", "holding", "reading"]

Key = tuple[int, torch.Size]  # the padding row, and the shape of the weight that has it
Paddings = Mapping[Key, Sequence[torch.Tensor | None]]  # the rows, embedding by embedding


@contextmanager
def reading() -> Iterator[dict[Key, list[torch.Tensor | None]]]:
    """Yield the padding row of every embedding that autograd records, where it is read."""
    rows: dict[Key, list[torch.Tensor | None]] = {}

    def read(key: Key, weight: torch.Tensor, indices: torch.Tensor, out: torch.Tensor) -> Any:
        is_recorded = out.grad_fn is not None and out.grad_fn.name() == "EmbeddingBackward0"
        is_read = is_recorded and bool(torch.any(indices == key[0]))
        rows.setdefault(key, []).append(weight.detach()[key[0]].clone() if is_read else None)
        return out

    with _looked_up(read):
        yield rows


@contextmanager
def holding(paddings: Paddings) -> Iterator[None]:
    """Have embeddings read `paddings`, in their order, where they read padding."""
    count: Counter[Key] = Counter()

    def hold(key: Key, weight: torch.Tensor, indices: torch.Tensor, out: torch.Tensor) -> Any:
        rows = paddings.get(key, [None])
        row = rows[count[key] % len(rows)]  # a checkpoint runs its part once more
        count[key] += 1
        if row is None:
            return out
        return torch.where((indices == key[0]).unsqueeze(-1), row.to(out.dtype), out)

    with _looked_up(hold):
        yield


Met = Callable[[Key, torch.Tensor, torch.Tensor, torch.Tensor], Any]


@contextmanager
def _looked_up(met: Met) -> Iterator[None]:
    """Have `met` say what an embedding with a padding returns: all of them look up by one name."""
    original: Any = torch.embedding

    def embedding(weight: Any, indices: Any, padding_idx: Any = -1, *rest: Any, **by: Any) -> Any:
        out = original(weight, indices, padding_idx, *rest, **by)
        is_plain = isinstance(weight, torch.Tensor) and 0 <= padding_idx < len(weight)
        return met((padding_idx, weight.shape), weight, indices, out) if is_plain else out

    torch.embedding = embedding
    try:
        yield
    finally:
        torch.embedding = original
