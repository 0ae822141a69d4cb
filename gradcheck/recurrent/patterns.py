"""What a gradient that is not that of the equation z* = F(z*) is the gradient of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradcheck.problem import Array, Arrays, norm
from gradcheck.recurrent.equilibria import Adjoint, Equilibrium
from gradcheck.recurrent.krylov import Krylov
from gradcheck.results import Finding, Verdict

__all__ = ["LIKE", "NEAR", "Row", "explained", "joined", "of_leaf", "pattern", "relative"]

# What explains a wrong gradient removes all but this part of its mismatch: what does not, does so
# by chance once in a thousand, and of two cotangents once in a million.
LIKE = 1e-3

ROUNDS = 10  # of a search for a factor, each four times as fine: 1e-6, and LIKE wants 1e-3 of one

# A gradient this near to the true one comes from an adjoint that was on its way there; in units of
# the spectral radius, which is how far that of the last step alone is off, it is still told apart.
NEAR = 0.1

ADVICE = {
    "zero": "it is zero: the fixed point is detached from this leaf",
    "one step": "it is that of the last step alone (w = u, Jacobian-free); if it is meant, say "
    "terms=1",
    "steps": "it is that of the last steps alone, a Neumann series that was cut off; if it is "
    "meant, say terms={}, or rtol= where a solver stops by itself",
    "whole": "it is that of the whole equation: leave out terms",
    "transposed": "it is that of an adjoint with J in the place of Jᵀ",
    "sign of the Jacobian": "it is that of an adjoint with I + Jᵀ in the place of I - Jᵀ",
    "scaled Jacobian": "it is that of an adjoint with {} Jᵀ in the place of Jᵀ: a damping factor "
    "that is missing, or there twice",
    "sign": "its sign is wrong: all else is right",
    "constant factor": "it is right up to that factor",
    "this leaf alone": "other leaves show that the adjoint is right; what is made of it for "
    "this leaf is not",
    "not converged": "it is near the true one: the adjoint stopped before it settled, solves a "
    "regularised equation, or has W in the place of Wᵀ; let it run longer, which brings the first "
    "one nearer alone, and say rtol= only then",
}


Pull = Callable[[Arrays], Arrays]  # an adjoint state -> the gradients of the leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Two gradients of all leaves that layer and map share, for one cotangent."""

    claimed: Arrays
    true: Arrays
    left: float  # the residual of the adjoint that is behind the true one, relative

    def of(self, place: int) -> "Row":
        """The same of one leaf."""
        return replace(
            self, claimed=self.claimed[place : place + 1], true=self.true[place : place + 1]
        )

    @property
    def off(self) -> float:
        return relative(joined(self.true), joined(self.claimed))

    def is_like(self, other: Sequence[Array]) -> bool:
        """Whether `other` explains what is claimed: what is left of the mismatch is nothing."""
        claimed, true = joined(self.claimed), joined(self.true)
        return norm(claimed - joined(other)) <= LIKE * norm(claimed - true)


def pattern(
    rows: Sequence[Row],
    draws: Sequence[tuple[Arrays, Krylov]],
    rest: Equilibrium,
    gradients: Pull,
    *,
    is_cut_off: bool,
) -> str | None:
    """Return what the claimed gradients are, or None.

    Args:
        rows: what is claimed and true, for each of the `draws`: a cotangent, and the Krylov space
            of its adjoint.
        rest: the map at the fixed point.
        gradients: what is made of an adjoint state for the leaves of the rows.
        is_cut_off: whether they were to be those of a part of the Neumann series.
    """
    if _is_zero(rows):
        return "zero"
    if is_cut_off and all(
        row.is_like(gradients(rest.shaped(space.solved()[0])))
        for row, (_, space) in zip(rows, draws, strict=True)
    ):
        return "whole"
    if factor := _factor(rows):
        return factor
    ways: tuple[Callable[[Arrays, Krylov], Iterator[Adjoint]], ...] = (rest.series, rest.mistaken)
    for way in ways:
        candidates = [way(u, space) for u, space in draws]
        adjoints: tuple[Adjoint, ...]
        for adjoints in zip(*candidates, strict=True):
            pairs = zip(rows, adjoints, strict=True)
            if all(row.is_like(gradients(adjoint.w)) for row, adjoint in pairs):
                return adjoints[0].name
    if (times := _scaled(rows, [space for _, space in draws], rest, gradients)) is not None:
        return f"scaled Jacobian: {times:.4g}"
    return "not converged" if all(row.off <= NEAR for row in rows) else None


def _scaled(
    rows: Sequence[Row], spaces: Sequence[Krylov], rest: Equilibrium, gradients: Pull
) -> float | None:
    """The c of an adjoint w = u + c Jᵀ w of which the claimed gradient is; None if of none."""

    def pulled(space: Krylov, c: float) -> Arrays:
        return gradients(rest.shaped(space.solved(c)[0]))

    def off(c: float) -> float:
        return relative(joined(pulled(spaces[0], c)), joined(rows[0].claimed))

    radius = max(space.spectral_radius for space in spaces)
    middle, reach = 0.0, 0.99 / max(radius, 0.5)  # beyond, its series does not converge
    for _ in range(ROUNDS):
        middle = min(np.linspace(middle - reach, middle + reach, 9), key=off)
        reach /= 4
    fits = all(r.is_like(pulled(space, middle)) for r, space in zip(rows, spaces, strict=True))
    return float(middle) if fits else None


def _is_zero(rows: Sequence[Row]) -> bool:
    return not any(np.any(gradient) for row in rows for gradient in row.claimed)


def _factor(rows: Sequence[Row]) -> str | None:
    """The pattern of a constant factor, if it explains what is claimed."""
    scales = [_scale(joined(row.claimed), joined(row.true)) for row in rows]
    if not all(row.is_like([s * g for g in row.true]) for row, s in zip(rows, scales, strict=True)):
        return None
    factor = float(np.mean(scales))
    return "sign" if abs(factor + 1) < LIKE else f"constant factor: {factor:.6g}"


def of_leaf(rows: Sequence[Row]) -> str:
    """What is wrong with a leaf beside others that are right: nothing that all of them share."""
    return "zero" if _is_zero(rows) else _factor(rows) or "this leaf alone"


def explained(finding: Finding, pattern: str | None) -> Finding:
    if finding.verdict is not Verdict.FAIL:
        return finding
    if pattern is None:
        advice = (
            "not the gradient of the equation, and no known pattern fits: its adjoint may lack the "
            "derivative of the activation, have it on the other side, or W in the place of Wᵀ"
        )
        return replace(finding, message=advice)
    word = "steps" if pattern.endswith(" steps") else pattern.partition(":")[0]
    number = pattern.partition(": ")[2] or pattern.partition(" ")[0]
    advice = ADVICE[word].format(number)
    return replace(
        finding, message=f"not the gradient of the equation: {advice}", diagnosis=pattern
    )


def joined(arrays: Sequence[Array]) -> Array:
    return np.concatenate([np.ravel(a) for a in arrays])


def _scale(claimed: Array, true: Array) -> float:
    return float(claimed @ true / max(float(true @ true), 1e-300))


def relative(true: Array, claimed: Array) -> float:
    size = max(norm(true), norm(claimed))
    return norm(np.asarray(true - claimed)) / size if size else 0.0
