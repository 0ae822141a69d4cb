"""Linear algebra on a Jacobian that is only known by its products.

Sources:
    Golub and Van Loan, Matrix Computations, 4th ed. (2013), sections 10.5 (Arnoldi) and 11.4.2
    (GMRES).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradcheck.problem import Array

__all__ = ["Krylov", "arnoldi"]

# Enough for the rounding of float64 at a spectral radius of 0.9, whose powers fall to 1e-16 in 350
# steps, and GMRES needs about a third of those; a state of up to this many numbers is exact.
MOST = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Krylov:
    """An orthonormal basis Q of b, A b, A² b, ... and A in it: A Q_k = Q_{k+1} H."""

    start: float  # ‖b‖
    basis: Array  # (k + 1, n), or (k, n) where the space is exhausted
    hessenberg: Array  # (k + 1, k) or (k, k)

    @property
    def spectral_radius(self) -> float:
        """The largest |eigenvalue| of A in the space: of A itself, if b is random."""
        k = self.hessenberg.shape[1]
        return float(np.max(np.abs(np.linalg.eigvals(self.hessenberg[:k])), initial=0.0))

    def solved(self, sign: float = 1.0) -> tuple[Array, float]:
        """Return w of (I - sign A) w = b with the least residual, and that relative to ‖b‖."""
        rows, k = self.hessenberg.shape
        b = np.zeros(rows)
        b[0] = self.start
        matrix = np.eye(rows, k) - sign * self.hessenberg
        y, *_ = np.linalg.lstsq(matrix, b, rcond=None)
        residual = float(np.linalg.norm(matrix @ y - b)) / self.start
        return y @ self.basis[:k], residual


def arnoldi(product: Callable[[Array], Array], b: Array) -> Krylov:
    """Return the Krylov space of a real matrix, given by `product`, from the vector `b` ≠ 0."""
    start = float(np.linalg.norm(b))
    basis = [b / start]
    columns: list[Array] = []
    for k in range(min(MOST, b.size)):
        w = product(basis[k])
        size, column = float(np.linalg.norm(w)), np.zeros(k + 2)
        for _ in range(2):  # once more: what the first pass left by rounding
            along = np.array([q @ w for q in basis])
            w = w - along @ np.array(basis)
            column[: k + 1] += along
        column[k + 1] = np.linalg.norm(w)
        columns.append(column)
        if column[k + 1] <= 1e-14 * size or k + 1 == b.size:  # nothing new
            break
        basis.append(w / column[k + 1])
    rows, k = len(basis), len(columns)
    hessenberg = np.zeros((max(rows, k), k))
    for j, column in enumerate(columns):
        length = min(len(column), rows)
        hessenberg[:length, j] = column[:length]
    return Krylov(start=start, basis=np.array(basis), hessenberg=hessenberg)
