"""Common random numbers: whatever a PyTorch target draws, it draws the same at every evaluation."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["same_randomness"]


# A target that seeds a generator of its own, with zero as likely as not, must not happen to draw
# what it is given.
APART = 0x5EED_0000


@contextmanager
def same_randomness(
    seed: int, devices: Sequence[torch.device], own: Sequence[Any] = ()
) -> Iterator[Callable[[], bool]]:
    """Seed PyTorch's generators, NumPy's and Python's global ones, and those of a target's own.

    They are restored in the end. Yields a function that tells whether any number was drawn since.

    The generators are set one by one: `torch.manual_seed` also visits every device type that
    this build knows, which takes longer than a small layer.
    """
    beside = map(_default_of, devices)
    generators = [torch.default_generator, *beside, np.random, random, *own]
    before = [_state(generator) for generator in generators]

    def reseed() -> None:
        for generator in generators:
            _seed(generator, APART + seed)

    def drawn() -> bool:
        now = [_state(generator) for generator in generators]
        reseed()
        fresh = [_state(generator) for generator in generators]
        _restore(generators, now)
        return not all(map(_are_equal, fresh, now))

    reseed()
    try:
        yield drawn
    finally:
        _restore(generators, before)


def _default_of(device: torch.device) -> Any:
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.cuda.default_generators[device.index or 0]


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        bits.state = type(bits)(seed).state
    elif _is_python(generator):
        generator.seed(seed)
    else:
        generator.seed(seed % 2**32)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if _is_python(generator) else generator.get_state()


def _restore(generators: Sequence[Any], states: Sequence[Any]) -> None:
    for generator, state in zip(generators, states, strict=True):
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state
        elif _is_python(generator):
            generator.setstate(state)
        else:
            generator.set_state(state)


def _is_python(generator: Any) -> bool:
    return generator is random or isinstance(generator, random.Random)


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two states are the same: tensors, or tuples and dicts of numbers and arrays."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return all(_are_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and one and isinstance(one[1], np.ndarray):
        return all(map(_are_equal, one, other))
    return bool(one == other)
