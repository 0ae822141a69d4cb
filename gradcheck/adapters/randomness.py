"""Common random numbers: whatever a target draws, it draws the same at every evaluation."""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["EVERYBODYS", "OTHER", "is_generator", "same_randomness", "seeded"]

OTHER = 2  # what is added to a seed for other random numbers; a backward pass has the next seed

EVERYBODYS = (np.random, random)  # the global generators, of NumPy and of Python

# A target that seeds a generator of its own, with zero as likely as not, must not happen to draw
# what it is given.
APART = 0x5EED_0000


@contextmanager
def same_randomness(seed: int, generators: Sequence[Any]) -> Iterator[Callable[[], bool]]:
    """Seed generators, which are restored in the end.

    Yields a function that tells whether any number was drawn since. They are set one by one:
    `torch.manual_seed` also visits every device type that this build knows.
    """
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


@contextmanager
def seeded(
    part: str, seed: int, generators: Sequence[Any], draws: dict[str, bool]
) -> Iterator[None]:
    """Make a `part` of a run draw the same numbers every time.

    One that was seen to draw none, noted in `draws`, is left alone: to seed it costs more than a
    small layer.
    """
    if draws.get(part, True):
        with same_randomness(seed, generators) as drawn:
            yield
            if part not in draws:
                draws[part] = drawn()
    else:
        yield


def is_generator(value: Any) -> bool:
    """Whether `value` is a random generator of NumPy, Python or PyTorch that can be seeded."""
    torch = sys.modules.get("torch")
    kinds = (np.random.Generator, np.random.RandomState, random.Random)
    is_one = isinstance(value, kinds) or (torch and isinstance(value, torch.Generator))
    return bool(is_one) and not isinstance(value, random.SystemRandom)


def _seed(generator: Any, seed: int) -> None:
    if hasattr(generator, "manual_seed"):  # PyTorch's
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        bits.state = type(bits)(seed).state
    else:
        generator.seed(seed if _is_python(generator) else seed % 2**32)


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
    if hasattr(one, "dtype"):
        return bool((one == other).all())
    if isinstance(one, dict):
        return all(_are_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and one and hasattr(one[1], "dtype"):
        return all(map(_are_equal, one, other))
    return bool(one == other)
