"""Tensors to arrays of the engine and back, and which of a target's outputs are differentiable."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from gradcheck import trees
from gradcheck.adapters.bridge import Bridge
from gradcheck.adapters.torch_packed import values_of
from gradcheck.problem import Array, Arrays

__all__ = [
    "BRIDGE",
    "are_equal",
    "crossed",
    "floating",
    "generator_of",
    "gradients_of",
    "into",
    "numbers",
    "unread",
    "versions_of",
]


def _out(tensor: torch.Tensor) -> Array:
    """The numbers of a tensor, in memory of their own."""
    return numbers(tensor).copy()


def numbers(tensor: torch.Tensor) -> Array:
    """The numbers of a tensor, where they lie if they can be read there."""
    if tensor.is_nested:
        tensor = values_of(tensor.detach())
    dense = tensor if tensor.layout is torch.strided else tensor.detach().to_dense()
    plain = dense.detach().resolve_conj().resolve_neg().cpu()
    if plain.dtype in (torch.bfloat16, torch.float16):
        plain = plain.to(torch.float32)
    try:
        array: Array = plain.numpy(force=True)  # also what PyTorch knows to be zero
    except RuntimeError:  # a wrapper around a tensor, which can be copied into a plain one
        inner = torch.empty(plain.shape, dtype=plain.dtype)
        inner.copy_(plain)
        array = inner.numpy()
    return array


def into(array: Array, like: torch.Tensor) -> torch.Tensor:
    return crossed(array, like, like.dtype)


def _wide(array: Array, like: torch.Tensor) -> torch.Tensor:
    return crossed(array, like, None)


def crossed(
    array: Array, like: torch.Tensor, dtype: torch.dtype | None, *, copy: bool = True
) -> torch.Tensor:
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    if not contiguous.flags.writeable:  # it is the caller's own
        contiguous = contiguous.copy()
        copy = False
    tensor = torch.from_numpy(contiguous)
    there = tensor.to(device=like.device, dtype=dtype or tensor.dtype)
    # NumPy copies a large array in a third of the time that PyTorch takes.
    return torch.from_numpy(contiguous.copy()) if copy and there is tensor else there


BRIDGE = Bridge(
    framework="torch",
    is_array=lambda value: isinstance(value, torch.Tensor),
    dtype_of=lambda tensor: str(tensor.dtype).removeprefix("torch."),
    out=_out,
    into=into,
    wide=_wide,
    native=lambda array, dtype, beside: crossed(array, beside, getattr(torch, dtype)),
    generators=(torch.default_generator,),
)


def generator_of(device: torch.device) -> Any:
    """Return the generator that a device other than the CPU draws from by default."""
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.cuda.default_generators[device.index or 0]


def gradients_of(gradients: Sequence[torch.Tensor | None], like: Arrays) -> Arrays:
    return tuple(
        np.zeros_like(array) if gradient is None else BRIDGE.out(gradient)
        for array, gradient in zip(like, gradients, strict=True)
    )


def versions_of(tensors: Iterable[torch.Tensor]) -> list[int] | None:
    """How often each was written into; None where PyTorch does not count."""
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:  # of a tensor that was made in inference mode
        return None


def are_equal(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    """Whether tensors hold the same numbers; NaN is one."""
    return all(
        torch.equal(a, b)
        or (torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()))
        for a, b in zip(ones, others, strict=True)
    )


def floating(outputs: Any) -> list[tuple[str, torch.Tensor]]:
    return [
        (f"{path}.values()", values_of(leaf)) if leaf.is_nested else (path, leaf)
        for path, leaf in trees.leaves(outputs, "output")
        if BRIDGE.is_differentiable(leaf)
    ]


def unread(outputs: Any) -> dict[str, str]:
    """Return the outputs, by path, that are objects with floating tensors in them; their types."""
    return {
        path: type(leaf).__name__
        for path, leaf in trees.leaves(outputs, "output")
        if not isinstance(leaf, torch.Tensor) and _hides_tensors(leaf)
    }


LOOKED_INTO = 100  # what an object holds


def _hides_tensors(value: Any, depth: int = 2) -> bool:
    held = trees.leaves(getattr(value, "__dict__", ()))
    inside = [leaf for _, leaf in islice(held, LOOKED_INTO)]
    if any(map(BRIDGE.is_differentiable, inside)):
        return True
    return depth > 0 and any(_hides_tensors(leaf, depth - 1) for leaf in inside)
