"""Targets that `torch.compile` made: asked in every form, and forgotten."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

__all__ = ["compiling", "forget", "is_compiled"]


def is_compiled(target: Any, module: torch.nn.Module | None) -> bool:
    """Whether the target, or a module in it, is what `torch.compile` made."""
    parts = [target] if module is None else [target, *module.modules()]
    return any(hasattr(part, "_torchdynamo_orig_callable") for part in parts)


def forget() -> None:
    """Have the compiler forget what it made, which counts for its limits; it is made anew."""
    with suppress(AttributeError):
        torch._dynamo.reset_code_caches()


@contextmanager
def compiling() -> Iterator[None]:
    """Have the compiler take every form in which a target is asked, without a word.

    One check asks in six: with a graph, without, of other strides. From the eighth on the compiler
    would run a function, and all others of that code, as it is written. And it looks at a copy of
    an input, which is no leaf.
    """
    config = torch._dynamo.config
    limits = [f"{which}_limit" for which in LIMITED if hasattr(config, f"{which}_limit")]
    with config.patch(dict.fromkeys(limits, ENDLESS)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        yield


LIMITED = ("recompile", "accumulated_recompile", "cache_size", "accumulated_cache_size")
ENDLESS = 1 << 16
