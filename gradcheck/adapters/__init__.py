"""The only doors to the frameworks: whatever the user hands in becomes a `Problem`."""

from gradcheck.adapters.rule import Rule
from gradcheck.adapters.select import problem_of

__all__ = ["Rule", "problem_of"]
