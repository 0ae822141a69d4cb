"""Importing this package registers every twin; `apply` is the door."""

from gradcheck.suites.twins.jax_ import pointwise
from gradcheck.suites.twins.jax_.registry import apply

__all__ = ["apply", "pointwise"]
