"""A network to examine, and the points at which it is examined: plain values that print as code.

The architecture is drawn outside and the values inside, so that a framework which compiles does
so once a network and not once a point.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

from gradcheck.reference.layer import Array, Layer, Params

__all__ = [
    "FLAVOURS",
    "Flavour",
    "Floats",
    "Integers",
    "Masks",
    "Network",
    "Point",
    "Probabilities",
    "Variances",
    "arrays",
    "parts",
]

# ordinary: standard normal. ties: multiples of ½, so that maxima tie and kinks are hit. zeros: all
# of them. large: `reach` times larger. small: a millionth, where an absolute tolerance is blind.
Flavour = Literal["ordinary", "ties", "zeros", "large", "small"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)


class Spec(Protocol):
    """What one input of a network looks like."""

    def draw(self, rng: np.random.Generator, flavour: Flavour) -> Array: ...


@dataclass(frozen=True, slots=True)
class Floats:
    """Real numbers up to `limit`. `reach` is how much larger a large one is."""

    shape: tuple[int, ...]
    reach: float = 20.0
    limit: float | None = None

    def draw(self, rng: np.random.Generator, flavour: Flavour) -> Array:
        x = self._drawn(rng, flavour)
        return x if self.limit is None else np.clip(x, -self.limit, self.limit)

    def _drawn(self, rng: np.random.Generator, flavour: Flavour) -> Array:
        x = rng.standard_normal(self.shape)
        match flavour:
            case "ordinary":
                return x
            case "ties":
                return np.round(2 * x) / 2
            case "zeros":
                return np.zeros(self.shape)
            case "large":
                return self.reach * x
            case "small":
                return 1e-6 * x


@dataclass(frozen=True, slots=True)
class Integers:
    """Indices from `start` up to, not including, `stop`; they repeat when ties are wanted."""

    shape: tuple[int, ...]
    stop: int
    start: int = 0

    def draw(self, rng: np.random.Generator, flavour: Flavour) -> Array:
        stop = self.stop if flavour != "ties" else min(self.stop, self.start + 2)
        return rng.integers(self.start, stop, self.shape, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Masks:
    """Booleans, true with probability `rate`; all true for zeros, which would hide the network."""

    shape: tuple[int, ...]
    rate: float = 0.7

    def draw(self, rng: np.random.Generator, flavour: Flavour) -> Array:
        return rng.random(self.shape) < (1.0 if flavour == "zeros" else self.rate)


@dataclass(frozen=True, slots=True)
class Probabilities:
    """Numbers between 0 and 1 that sum to one along the last axis."""

    shape: tuple[int, ...]

    def draw(self, rng: np.random.Generator, flavour: Flavour) -> Array:
        weights: Array = rng.random(self.shape) + 0.1
        normalized: Array = weights / weights.sum(axis=-1, keepdims=True)
        return normalized


@dataclass(frozen=True, slots=True)
class Variances:
    """Positive numbers, not so small that a division by them overflows."""

    shape: tuple[int, ...]

    def draw(self, rng: np.random.Generator, flavour: Flavour) -> Array:
        return rng.random(self.shape) + 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A layer, alone or composed, and what it takes."""

    layer: Layer
    inputs: tuple[Any, ...]  # of Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Which values: everything follows from these two."""

    seed: int
    flavour: Flavour = "ordinary"


def parts(layer: Any) -> Iterator[Any]:
    """Yield `layer` and every record inside it."""
    if not is_dataclass(layer) or isinstance(layer, type):
        return
    yield layer
    for field in fields(layer):
        value = getattr(layer, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            yield from parts(part)


def arrays(network: Network, point: Point) -> tuple[Params, tuple[Array, ...]]:
    """Return the parameters and the inputs of `network` at `point`, float64."""
    rng = np.random.default_rng(point.seed)
    params = network.layer.parameters(rng, np.float64)
    return params, tuple(spec.draw(rng, point.flavour) for spec in network.inputs)
