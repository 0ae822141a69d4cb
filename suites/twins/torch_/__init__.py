"""Importing this package registers every twin; `apply` is the door."""

from gradcheck.suites.twins.torch_ import (
    attention,
    chunks,
    equilibrium,
    layouts,
    pointwise,
    recurrent,
    spatial,
)
from gradcheck.suites.twins.torch_.registry import apply

__all__ = [
    "apply",
    "attention",
    "chunks",
    "equilibrium",
    "layouts",
    "pointwise",
    "recurrent",
    "spatial",
]
