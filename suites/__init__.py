"""What is worth checking: generated networks, and what all sources must say of them."""

from gradcheck.suites.chunks import Chunked
from gradcheck.suites.examine import Examination, examine
from gradcheck.suites.networks import (
    Floats,
    Integers,
    Masks,
    Network,
    Point,
    Probabilities,
    Variances,
)
from gradcheck.suites.run import NAMES, Progress, run

__all__ = [
    "NAMES",
    "Chunked",
    "Examination",
    "Floats",
    "Integers",
    "Masks",
    "Network",
    "Point",
    "Probabilities",
    "Progress",
    "Variances",
    "examine",
    "run",
]
