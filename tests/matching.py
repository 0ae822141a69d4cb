"""A library's layer beside the reference layer that a convention says is the same."""

from dataclasses import dataclass, field
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
    kwargs: dict[str, Any] = field(default_factory=dict)
    still: frozenset[str] = frozenset()  # leaves that have no gradient in the reference
    alone: int = 0  # outputs that the reference does not have


def drawn(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape)


def sizes(rng: np.random.Generator, count: int) -> list[int]:
    """`count` different ones, so that no axis passes for another."""
    return [int(n) for n in rng.permutation(np.arange(2, 7))[:count]]


def require_the_same(pair: Pair, convention: str, *, dtype: str = "float64") -> None:
    """Values and the gradient of every leaf agree to rounding, and nothing was left out."""
    result = against_reference(
        pair.layer,
        pair.reference,
        *pair.inputs,
        weights=convention,
        kwargs=pair.kwargs or None,
        declared=dict.fromkeys(pair.still, "a constant of the reference") or None,
    )

    assert result.verdict is Verdict.PASS, str(result)
    assert max(finding.mismatch or 0.0 for finding in result.findings) < ROUNDING[dtype], str(
        result
    )
    unsaid = [x for x in result.not_checked if "declared" not in x]
    assert len(unsaid) == pair.alone, result.not_checked
