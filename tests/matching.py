"""A library's layer beside the reference layer that a convention says is the same."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcheck import Verdict, against_reference
from gradcheck.reference import Layer

__all__ = ["Pair", "drawn", "require_the_same", "sizes"]

# A hundred times what sums of this size round to; a wrong layout is off by about one.
ROUNDING = {"float64": 1e-12, "float32": 2e-5}


@dataclass(frozen=True, kw_only=True)
class Pair:
    layer: Any
    reference: Layer
    inputs: tuple[Any, ...]
    alone: int = 0  # outputs that the reference does not have
    dtype: str = "float64"  # the narrowest that it computes in


def drawn(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape)


def sizes(rng: np.random.Generator, count: int) -> list[int]:
    """`count` different ones, so that no axis passes for another."""
    return [int(n) for n in rng.permutation(np.arange(2, 7))[:count]]


def require_the_same(pair: Pair, convention: str) -> None:
    """Values and the gradient of every leaf agree to rounding, and nothing was left out."""
    result = against_reference(pair.layer, pair.reference, *pair.inputs, weights=convention)

    assert result.verdict is Verdict.PASS, str(result)
    assert max(finding.mismatch or 0.0 for finding in result.findings) < ROUNDING[pair.dtype], str(
        result
    )
    assert len(result.not_checked) == pair.alone, result.not_checked
