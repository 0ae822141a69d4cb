"""Where a kernel lies on a grid: what convolution and pooling share."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from gradcheck.reference.layer import Array

__all__ = ["Windows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The positions of a kernel with stride s, padding p and dilation d, on any number of axes.

    Along one axis of n elements, tap k of window o reads element  i = s o + d k - p;  outside of
    0..n-1 lies the padding. A kernel of K taps spans d (K - 1) + 1 elements, hence there are
    ⌊(n + 2p - d (K - 1) - 1) / s⌋ + 1 windows. Taps of several axes count in row-major order.

    `gather` reads through these indices and `scatter` adds through them, so each is the adjoint
    of the other: Σ u · gather(x) = Σ scatter(u) · x when the fill is zero.

    Sources:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016),
        relationships 6 and 15.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.kernel:
            raise ValueError("expected a kernel with at least one axis; got kernel=()")
        for name, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            numbers = getattr(self, name)
            if len(numbers) != self.axes:
                raise ValueError(
                    f"expected {name} to have one number for each of the {self.axes} axes of "
                    f"kernel={self.kernel}; got {name}={numbers}"
                )
            if min(numbers) < least:
                raise ValueError(f"expected every {name} to be at least {least}; got {numbers}")

    @property
    def axes(self) -> int:
        return len(self.kernel)

    @property
    def taps(self) -> int:
        return prod(self.kernel)

    @property
    def span(self) -> tuple[int, ...]:
        """The elements from the first tap to the last, both counted, along each axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def positions(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return how many windows there are along each axis of an input of size `size`.

        Raises:
            ValueError: the kernel and the input differ in axes, or the kernel does not fit.
        """
        if len(size) != self.axes:
            raise ValueError(
                f"expected an input (batch, channels, *size) with {self.axes} axes of size, as "
                f"kernel={self.kernel} has; got size {size}"
            )
        room = tuple(n - span for n, span in zip(self._padded(size), self.span, strict=True))
        if min(room) < 0:
            raise ValueError(
                f"expected the kernel to fit into the padded input {self._padded(size)}; got "
                f"kernel={self.kernel} with dilation={self.dilation}, which spans {self.span}. "
                "A larger input, more padding or a smaller kernel would do"
            )
        return tuple(r // s + 1 for r, s in zip(room, self.stride, strict=True))

    def gather(self, x: Array, *, fill: float = 0.0) -> Array:
        """Return what each tap reads: (..., *size) becomes (..., taps, *positions)."""
        size = x.shape[-self.axes :]
        around = [(0, 0)] * (x.ndim - self.axes) + [(p, p) for p in self.padding]
        padded = np.pad(x, around, constant_values=fill)
        return np.stack([padded[at] for at in self._reads(size)], axis=-1 - self.axes)

    def scatter(self, u: Array, size: tuple[int, ...]) -> Array:
        """Return the sum of what arrives at each element: (..., taps, *positions) to (..., *size).

        Overlapping windows accumulate; what falls on the padding is dropped.
        """
        lead = u.shape[: -1 - self.axes]
        padded: Array = np.zeros((*lead, *self._padded(size)), u.dtype)
        for tap, at in zip(np.moveaxis(u, -1 - self.axes, 0), self._reads(size), strict=True):
            padded[at] += tap
        inside = tuple(slice(p, p + n) for p, n in zip(self.padding, size, strict=True))
        within: Array = padded[(slice(None),) * len(lead) + inside]
        return within

    def inside(self, size: tuple[int, ...]) -> Array:
        """Return how many taps of each window read the input and not the padding.

        Raises:
            ValueError: a window reads nothing but padding, so it has no maximum and no mean.
        """
        counts: Array = self.gather(np.ones(size, bool)).sum(axis=0)
        if not counts.all():
            raise ValueError(
                f"expected every window to read an element of the input of size {size}; got "
                f"kernel={self.kernel} with padding={self.padding} and dilation={self.dilation}, "
                "where a window reads only padding. Less padding or less dilation would do"
            )
        return counts

    def _padded(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n + 2 * p for n, p in zip(size, self.padding, strict=True))

    def _reads(self, size: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
        """Yield, for each tap, where all windows at once read the padded input with it."""
        positions = self.positions(size)
        for tap in product(*map(range, self.kernel)):
            yield (
                ...,
                *(
                    slice(d * k, d * k + s * (count - 1) + 1, s)
                    for k, d, s, count in zip(
                        tap, self.dilation, self.stride, positions, strict=True
                    )
                ),
            )
