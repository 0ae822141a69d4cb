"""How the engine's arrays cross into a framework and back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gradcheck.problem import EPSILON, Array, Excepted, Leaf

__all__ = ["Bridge", "declared", "received"]


def _numpy(array: Array, dtype: str, _: Any) -> Array:
    try:
        return array.astype(dtype)
    except TypeError:  # NumPy has a bfloat16 only beside JAX
        return array


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The crossing for one framework.

    `out` gives the engine's array for a framework's, `into(array, like)` an array of the framework
    with the dtype and on the device of `like`, `wide(array, like)` one that keeps the dtype of
    `array`; `native(array, dtype, beside)` one that has the dtype of that name, on the device of
    `beside` if there is such an array. A framework that takes NumPy's arrays is given one.
    """

    framework: str
    is_array: Callable[[Any], bool]
    dtype_of: Callable[[Any], str]  # "float32", "int64", ...
    out: Callable[[Any], Array]
    into: Callable[[Array, Any], Any]
    wide: Callable[[Array, Any], Any]
    native: Callable[[Array, str, Any], Any] = _numpy
    generators: Sequence[Any] = ()  # of random numbers, that the framework draws from by default

    def is_differentiable(self, value: Any) -> bool:
        return self.is_array(value) and self.dtype_of(value) in EPSILON

    def leaf(self, path: str, value: Any) -> Leaf:
        return Leaf(path=path, shape=tuple(value.shape), dtype=self.dtype_of(value))


def declared(outputs: Iterable[tuple[str, Any]], excepted: Excepted) -> dict[str, str]:
    """Return which of `outputs`, by path, the caller leaves out, and what is to be said of it."""
    reasons = ((path, excepted(path)) for path, _ in outputs)
    return {path: f"declared, {why}" for path, why in reasons if why is not None}


def received(values: Iterable[Any]) -> str:
    """Return what was received, in words: the type of each value and, of an array, its dtype."""
    words = (
        f"{type(value).__name__} of {value.dtype}"
        if hasattr(value, "dtype")
        else type(value).__name__
        for value in values
    )
    return ", ".join(words) or "none"
