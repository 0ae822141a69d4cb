"""What a target's code can reach: arrays that it keeps between calls, generators that it has.

Reached are the cells of closures, the globals that its code names, the attributes of its classes
and of what it is a method of, and containers among those.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import chain, islice
from types import FunctionType, MethodType, ModuleType
from typing import Any
from zlib import crc32

import numpy as np

from gradcheck.adapters.randomness import is_generator
from gradcheck.adapters.reach import codes, enclosed

__all__ = ["Held", "generators_of", "holdings"]

MOST = 1000  # objects that are looked into: a module of layers and the helpers that they call
LONG = 1000  # elements of a container
SMALL = 2**20  # numbers of an array that is read to see whether it was written into

FOREIGN = frozenset({"jax", "jaxlib", "numpy", "torch"})  # what they hold is none of the target's


Held = tuple[int, int]  # an array's identity, and what was written into it


def holdings(target: Any) -> Mapping[Held, Any]:
    """Return the arrays and floating numbers in reach of the code of `target`."""
    return {(id(value), _written(value)): value for value in _reached(target, _is_array)}


def generators_of(target: Any) -> list[Any]:
    """Return the random generators that the code of `target` has of its own."""
    return list(_reached(target, is_generator))


def _reached(target: Any, is_wanted: Callable[[Any], bool]) -> Iterator[Any]:
    """What is wanted, each once, the nearest first."""
    seen: dict[int, Any] = {}
    ahead = deque([target])
    while ahead and len(seen) < MOST:
        value = ahead.popleft()
        if id(value) in seen:
            continue
        with suppress(Exception):  # an object may refuse to be looked into
            if is_wanted(value):
                seen[id(value)] = value
                yield value
            elif not _is_plain(value):
                seen[id(value)] = value
                ahead.extend(_held(value))


def _is_array(value: Any) -> bool:
    if isinstance(value, type | ModuleType):  # NumPy itself has a shape and a dtype
        return False
    return (hasattr(value, "shape") and hasattr(value, "dtype")) or type(value) in (float, complex)


def _written(array: Any) -> int:
    """A number that is another once something was written into the array, if that can be told."""
    if isinstance(array, np.ndarray):
        return crc32(array.tobytes()) if array.size <= SMALL else 0
    try:
        return int(getattr(array, "_version", 0))  # what PyTorch counts
    except RuntimeError:  # made in inference mode
        return 0


def _is_plain(value: Any) -> bool:
    """Whether there is nothing to find in it: a counter, a module, a framework's own."""
    if value is None or isinstance(value, int | str | bytes | ModuleType):
        return True
    root = _root(value)
    if root == "builtins":
        return isinstance(value, type)
    return root in FOREIGN and not (hasattr(value, "__wrapped__") or hasattr(value, "_modules"))


def _root(value: Any) -> str:
    """The package that a class, or the class of a value, is from."""
    own = value if isinstance(value, type) else type(value)
    return own.__module__.split(".")[0]


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, FunctionType):
        yield from enclosed(value).values()
        names = chain.from_iterable(code.co_names for code in codes(value.__code__))
        yield from (value.__globals__.get(name) for name in dict.fromkeys(names))
        yield from (value.__defaults__ or ())
        yield from (value.__kwdefaults__ or {}).values()
        yield from vars(value).values()
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, dict):
        yield from list(islice(value.values(), LONG))
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from list(islice(value, LONG))  # of which `len` may be refused
    elif hasattr(value, "_modules") and _root(value) in FOREIGN:  # a container of others
        yield from value._modules.values()
    elif is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, field.name, None) for field in fields(value))
    else:
        if not isinstance(value, type):
            yield type(value)
        yield from list(getattr(value, "__dict__", {}).values())
