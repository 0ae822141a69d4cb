"""The numbers that decide, each with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

__all__ = ["RIPPLE", "SEEDS", "SIGNIFICANCE", "TOLERANCE", "Settings"]

# A mismatch is real when it exceeds this many error bars. The bar is an estimate made from a few
# evaluations, not a bound: at 3 a smooth float64 layer is accused about once in a thousand probes,
# at 100 a bug a hundred times above what the oracle resolves would be called inconclusive.
SIGNIFICANCE = 10.0

# How wrong, relative to itself, an entry may be before its gradient is called wrong. An
# error that a right gradient of an ordinary layer does not reach in that dtype (five roundings of a
# bfloat16 that conspire, thousands of a float32), and far below what a mistake in a formula makes.
TOLERANCE: Mapping[str, float] = {
    "float64": 1e-6,
    "complex128": 1e-6,
    "float32": 1e-3,
    "complex64": 1e-3,
    "float16": 8e-3,
    "bfloat16": 4e-2,
}

# The least relative noise that tells of a computation in that dtype: a quarter of the deviation,
# 2⁻ᵖ/√12, that one rounding to p bits makes.
RIPPLE: Mapping[str, float] = {
    "float32": 2.0**-28,
    "float16": 2.0**-15,
    "bfloat16": 2.0**-12,
}

# Seeds there are. PyTorch takes twice as many; some are counted on from the one that is given.
SEEDS = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the caller chose."""

    seed: int = 0
    rtol: float | None = None  # None: by the leaf's dtype
    # One probe misses an error of ρ times its resolution with probability about 1/ρ (a random
    # projection is small that often); three miss it with 1/ρ³.
    probes: int = 3
    wrt: tuple[str, ...] = ()  # leaf paths or shell patterns; empty: all
    declared: Mapping[str, str] = field(default_factory=dict)  # leaf pattern -> reason
    min_power: float | None = None  # a pass that would miss a larger error than this is a failure
    budget_s: float | None = None  # wall-clock seconds; what is not finished then is said

    def wants(self, path: str) -> bool:
        """Whether the leaf is asked for and not declared."""
        asked = not self.wrt or any(
            path == pattern or fnmatchcase(path, pattern) for pattern in self.wrt
        )
        return asked and self.reason(path) is None

    def reason(self, path: str) -> str | None:
        """Why the caller excepted this leaf, or None."""
        return _reason(path, self.declared)

    def reason_of_output(self, path: str) -> str | None:
        """Why the caller excepted this output; a pattern that does not say so is one for leaves."""
        return _reason(path, {p: why for p, why in self.declared.items() if p.startswith("output")})

    def tolerance(self, dtype: str, ripple: float = 0.0) -> float:
        """How wrong an entry may be relative to itself.

        `ripple` is the measured noise of the values, relative to them: a layer that takes float64
        and computes in a narrower dtype inside is held to what that dtype can do.
        """
        if self.rtol is not None:
            return self.rtol
        inside = (TOLERANCE[narrow] for narrow, least in RIPPLE.items() if ripple > least)
        return max(TOLERANCE[dtype], *inside, 0.0)


def _reason(path: str, declared: Mapping[str, str]) -> str | None:
    matching = (why for pattern, why in declared.items() if fnmatchcase(path, pattern))
    return declared.get(path) or next(matching, None)
