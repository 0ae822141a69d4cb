"""Importing this package registers every twin; `apply` is the door."""

from gradcheck.suites.twins.jax_ import (
    attention,
    chunks,
    equilibrium,
    pointwise,
    recurrent,
    spatial,
)
from gradcheck.suites.twins.jax_.registry import apply

__all__ = ["apply", "attention", "chunks", "equilibrium", "pointwise", "recurrent", "spatial"]
