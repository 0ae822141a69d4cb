"""Common random numbers: whatever a PyTorch target draws, it draws the same at every evaluation."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["same_randomness"]


@contextmanager
def same_randomness(seed: int, devices: list[int]) -> Iterator[Callable[[], bool]]:
    """Seed PyTorch's generators, NumPy's global one and Python's; restore them in the end.

    Yields a function that tells whether any number was drawn since.

    The generators are set one by one: `torch.manual_seed` also visits every device type that
    this build knows, which takes longer than a small layer.
    """
    generators = [torch.default_generator, *(torch.cuda.default_generators[d] for d in devices)]
    before = _states(generators)
    _seed(generators, seed)

    def drawn() -> bool:
        now = _states(generators)
        _seed(generators, seed)
        fresh = _states(generators)
        _restore(generators, now)
        return not _are_equal(fresh, now)

    try:
        yield drawn
    finally:
        _restore(generators, before)


def _seed(generators: list[torch.Generator], seed: int) -> None:
    random.seed(seed)
    for generator in generators:
        generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (the target may draw from it)


def _states(generators: list[torch.Generator]) -> tuple[Any, Any, Any]:
    states = [generator.get_state() for generator in generators]
    return states, np.random.get_state(), random.getstate()  # noqa: NPY002


def _restore(generators: list[torch.Generator], before: tuple[Any, Any, Any]) -> None:
    states, numpy_state, python_state = before
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    random.setstate(python_state)


def _are_equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    of_torch = all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    (_, keys, *rest), (_, other_keys, *other_rest) = one[1], other[1]
    of_numpy = bool(np.array_equal(keys, other_keys)) and rest == other_rest
    return of_torch and of_numpy and bool(one[2] == other[2])
