"""A map z ↦ F(z, x; θ) at its fixed point, and the gradients that people give to it.

At z* = F(z*, x; θ), with J = ∂F/∂z and u the cotangent of z*, the gradient of the equation is

    θ̄ = F_θᵀ w,  x̄ = F_xᵀ w   with   (I - Jᵀ) w = u       (the implicit function theorem).

Everything that is mistaken for it, or put in its place on purpose, differs in w alone: w = u is
the gradient of the last step, u + Jᵀu + ... + (Jᵀ)^{K-1} u that of the last K (a Neumann series),
(I - J)⁻¹u a product taken the wrong way round, (I + Jᵀ)⁻¹u a lost sign.

Sources:
    Almeida (1987), Pineda, Phys. Rev. Lett. 59 (1987): the adjoint relaxation.
    Bai, Kolter and Koltun, Deep equilibrium models, NeurIPS 2019, theorem 1.
    Fung et al., JFB: Jacobian-free backpropagation for implicit networks, AAAI 2022: w = u.
    Geng et al., On training implicit models, NeurIPS 2021: phantom gradients, K terms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradcheck.problem import Array, Arrays, Problem, norm
from gradcheck.recurrent.krylov import Krylov, arnoldi

__all__ = ["Adjoint", "Equilibrium"]

TERMS = 64  # of a Neumann series that is tried: (1/2)^64 is rounding

DENSE = 256  # numbers of a state whose Jacobian is built, for its transpose


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjoint:
    """A w, and what it is called."""

    name: str
    w: Arrays


@dataclass(frozen=True, kw_only=True)
class Equilibrium:
    """A map at a state: `problem` has the state first among its leaves, and returns it anew."""

    problem: Problem
    states: Sequence[tuple[int, int]]  # pairs (leaf, output)
    point: Arrays  # of all leaves, with the state at rest

    @cached_property
    def z(self) -> Arrays:
        return tuple(self.point[leaf] for leaf, _ in self.states)

    @cached_property
    def residual(self) -> float:
        """‖F(z) - z‖ / ‖z‖."""
        values = self.problem.value(self.point)
        off = [values[output] - self.point[leaf] for leaf, output in self.states]
        return norm(self.flat(off)) / max(norm(self.flat(self.z)), 1e-300)

    def flat(self, arrays: Sequence[Array]) -> Array:
        return np.concatenate([np.ravel(a) for a in arrays]).astype(np.float64)

    def shaped(self, vector: Array) -> Arrays:
        sizes = np.cumsum([z.size for z in self.z])[:-1]
        pieces = np.split(vector, sizes)
        return tuple(p.reshape(z.shape) for p, z in zip(pieces, self.z, strict=True))

    def pulled(self, w: Arrays) -> Arrays:
        """The VJP of the map at the state: one gradient for each of its leaves."""
        us: list[Array] = [np.zeros(o.shape) for o in self.problem.outputs]
        for (_, output), u in zip(self.states, w, strict=True):
            us[output] = u
        return self.problem.vjp(self.point, tuple(us))

    def transposed(self, vector: Array) -> Array:
        """Jᵀ times a vector."""
        gradients = self.pulled(self.shaped(vector))
        return self.flat([gradients[leaf] for leaf, _ in self.states])

    def space(self, u: Arrays) -> Krylov:
        return arnoldi(self.transposed, self.flat(u))

    @cached_property
    def jacobian(self) -> Array | None:
        """J, for a state that is small."""
        size = sum(z.size for z in self.z)
        if size > DENSE:
            return None
        return np.array([self.transposed(row) for row in np.eye(size)])

    def series(self, u: Arrays, _: Krylov | None = None) -> Iterator[Adjoint]:
        """Yield the partial sums of the Neumann series."""
        term = total = self.flat(u)
        for k in range(1, TERMS + 1):
            yield Adjoint(name="one step" if k == 1 else f"{k} steps", w=self.shaped(total))
            term = self.transposed(term)
            total = total + term

    def mistaken(self, u: Arrays, space: Krylov) -> Iterator[Adjoint]:
        """Yield what a slip makes of w."""
        yield Adjoint(name="sign of the Jacobian", w=self.shaped(space.solved(-1.0)[0]))
        if self.jacobian is not None:
            matrix = np.eye(len(self.jacobian)) - self.jacobian
            w = np.linalg.lstsq(matrix, self.flat(u), rcond=None)[0]
            yield Adjoint(name="transposed", w=self.shaped(w))
