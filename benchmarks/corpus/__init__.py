"""Wrong gradients with their right twins, and clean layers at treacherous points.

Every case is a few lines that keep the bug of a public thread or the trap of a measured row; the
names of rows (FP1, FF8, P39) are those of the project's notes on what users have suffered from.
"""

from benchmarks.corpus.case import SLICES, Case
from benchmarks.corpus.clean import CLEAN
from benchmarks.corpus.neutral import PAIRS
from benchmarks.corpus.own_jax import JAX
from benchmarks.corpus.own_torch import TORCH

__all__ = ["CASES", "SLICES", "Case"]

CASES: tuple[Case, ...] = (*PAIRS, *TORCH, *JAX, *CLEAN)
