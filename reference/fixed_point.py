"""Recurrent backpropagation: a network that settles, and its gradient by a second relaxation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from gradcheck.reference.layer import Array, Cache, Cotangents, Layer, Outputs, Params

__all__ = [
    "Damped",
    "FixedPoint",
    "NotSettled",
    "Relaxation",
    "TanhTransition",
    "Transition",
    "Unrolled",
    "rounding_floor",
    "spectral_radius",
]


class NotSettled(ArithmeticError):
    """A relaxation used up its steps, or left the finite numbers, and has no equilibrium to give.

    The message shows the first and the last residuals, their ratio, and what to do about it.
    """


class Transition(Layer, Protocol):
    """A layer with the inputs (z, x) and one output, the next state, of the shape of z."""

    @property
    def state_shape(self) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
        """`state_shape(x.shape)` is the shape of z."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TanhTransition:
    """z' = tanh(z Wᵀ + x Uᵀ + b), over the last axes of z and x.

    With u the cotangent of z' and a = u (1 - z'²):
    z̄ = a W,  x̄ = a U,  W̄ = Σ aᵀz,  Ū = Σ aᵀx,  b̄ = Σ a,  the sums over all leading axes.

    W is drawn with the spectral norm `gain`. As |tanh'| ≤ 1, two states of a row come closer,
    ‖F(z₁) - F(z₂)‖₂ ≤ gain ‖z₁ - z₂‖₂, and for gain < 1 Banach's theorem promises one fixed
    point, reached from everywhere. For gain ≥ 1 nothing is promised.

    Shapes: z and z' (..., hidden), x (..., inputs), recurrent_weight (hidden, hidden),
    input_weight (hidden, inputs), bias (hidden,).

    Sources:
        Banach, Sur les opérations dans les ensembles abstraits, Fund. Math. 3 (1922), theorem 6.
    """

    inputs: int
    hidden: int
    gain: float = 0.8  # to the rounding of float64 in 170 steps at most; far from linear

    def __post_init__(self) -> None:
        if not (0 <= self.gain < math.inf):
            raise ValueError(
                f"expected a finite gain of at least 0; got gain={self.gain}. "
                "It is the spectral norm of the recurrent weight: below 1 the state settles"
            )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        """Draw a recurrent weight without symmetry, and an input weight of variance 1/inputs."""
        recurrent = rng.standard_normal((self.hidden, self.hidden))
        recurrent *= self.gain / np.linalg.norm(recurrent, 2)
        inward = rng.standard_normal((self.hidden, self.inputs)) / math.sqrt(max(self.inputs, 1))
        return {
            "recurrent_weight": recurrent.astype(dtype),
            "input_weight": inward.astype(dtype),
            "bias": (0.1 * rng.standard_normal(self.hidden)).astype(dtype),
        }

    def state_shape(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*x_shape[:-1], self.hidden)

    def forward(self, params: Params, z: Array, x: Array) -> tuple[Outputs, Cache]:
        drive = x @ params["input_weight"].T + params["bias"]
        fresh = np.tanh(z @ params["recurrent_weight"].T + drive)
        return (fresh,), (z, x, fresh)

    def backward(self, params: Params, cache: Cache, u: Array) -> tuple[Params, Cotangents]:
        z, x, fresh = cache
        a = u * (1 - fresh) * (1 + fresh)
        rows = a.reshape(-1, self.hidden)
        grads = {
            "recurrent_weight": rows.T @ z.reshape(-1, self.hidden),
            "input_weight": rows.T @ x.reshape(-1, self.inputs),
            "bias": rows.sum(axis=0),
        }
        return grads, (a @ params["recurrent_weight"], a @ params["input_weight"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Damped:
    """z' = (1 - a) z + a F(z, x): an Euler step of ż = F(z, x) - z, of length a = `rate`.

    With u the cotangent of z':  z̄ = (1 - a) u + (a u)ᵀ ∂F/∂z,  and F's cotangents of a u else.

    The fixed points are F's own, and so are their gradients. An eigenvalue λ of ∂F/∂z becomes
    1 - a + a λ: damping slows a contraction, but settles an F that overshoots (λ < -1).

    Sources:
        Pineda, Phys. Rev. Lett. 59 (1987), 2229: the relaxation in continuous time.
    """

    transition: Transition
    rate: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 1):
            raise ValueError(
                f"expected a rate above 0 and at most 1; got rate={self.rate}. "
                "0 would never move the state; 1 is the transition undamped"
            )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return self.transition.parameters(rng, dtype)

    def state_shape(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.transition.state_shape(x_shape)

    def forward(self, params: Params, z: Array, x: Array) -> tuple[Outputs, Cache]:
        (fresh,), cache = self.transition.forward(params, z, x)
        return ((1 - self.rate) * z + self.rate * fresh,), cache

    def backward(self, params: Params, cache: Cache, u: Array) -> tuple[Params, Cotangents]:
        grads, z_bar, x_bar = _pull(self.transition, params, cache, self.rate * u)
        return grads, (z_bar + (1 - self.rate) * u, x_bar)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relaxation:
    """Where z ← F(z) came to rest, and how: `residuals[k]` is ‖F(z_k) - z_k‖.

    The norm is Euclidean over all entries of all rows, absolute, in units of z.
    """

    z: Array
    residuals: tuple[float, ...]

    @property
    def spectral_radius(self) -> float:
        """The rate at which the residuals fall, which tends to the spectral radius of ∂F/∂z.

        Fitted over the later half of the history, and only to what is clear of rounding: a good
        guess, no more. NaN when fewer than three residuals are left. `spectral_radius`, the
        function, iterates at the fixed point itself for as long as it takes.
        """
        # One rounding moves a residual by about eps ‖z‖; at a hundred of them it is 1 % wrong.
        noise = 100 * _eps(self.z) * _norm(self.z)
        clear = [math.log(residual) for residual in self.residuals if residual > noise]
        return _rate(clear[len(clear) // 2 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """z* = F(z*, x), relaxed from z = 0; the gradient relaxes the adjoint at z*.

    Differentiate the equation, with J = ∂F/∂z at z*:  dz = J dz + F_θ dθ + F_x dx,  so
    dz = (I - J)⁻¹ (F_θ dθ + F_x dx).  With u the cotangent of z*,

        uᵀ dz = wᵀ (F_θ dθ + F_x dx)   where   w = (I - Jᵀ)⁻¹ u,   i.e.   w = Jᵀ w + u,

    and then θ̄ = F_θᵀ w and x̄ = F_xᵀ w are one VJP of the transition at z*, with w for its
    cotangent. w is itself a fixed point: w ← Jᵀ w + u is a linear network running backward, and
    it settles as fast as the state does, as J and Jᵀ have the same eigenvalues. How the state
    came to z* leaves no trace in the gradient; one step of the adjoint, w = u, gives the
    gradient of the last transition alone.

    For F = tanh(W z + ...), J = D W with D = diag(1 - z*²). A slip of W for Wᵀ is invisible if
    W is symmetric, and J for Jᵀ if J is: for one unit, or for a symmetric W with equal slopes
    (x = 0, b = 0). The weights of `TanhTransition` are drawn without symmetry for this reason.

    Both relaxations start at 0 and end when ‖F(z) - z‖ ≤ tolerance ‖F(z)‖, in the Euclidean norm
    over the whole batch: relative, as rounding is. Without a tolerance they go as far as the
    dtype carries: to `rounding_floor`, and on while the residual falls, so that nearby
    parameters settle equally well and no jump disturbs a difference quotient.

    Shapes: those of the transition; z* is `transition.state_shape(x.shape)`.

    Raises:
        NotSettled: no rest within `limit` (`adjoint_limit`) steps, or no longer finite.

    Sources:
        Almeida, A learning rule for asynchronous perceptrons with feedback in a combinatorial
        environment, IEEE First Int. Conf. on Neural Networks (1987), vol. II, 609-618.
        Pineda, Generalization of back-propagation to recurrent neural networks, Phys. Rev.
        Lett. 59 (1987), 2229-2232.
        Krantz and Parks, The Implicit Function Theorem (2002), section 3.3.
    """

    transition: Transition
    tolerance: float | None = None
    limit: int = 1000  # carries a spectral radius of 0.96 to the rounding of float64
    adjoint_tolerance: float | None = None
    adjoint_limit: int = 1000

    def __post_init__(self) -> None:
        for name in ("tolerance", "adjoint_tolerance"):
            tolerance = getattr(self, name)
            if tolerance is not None and not (0 < tolerance < 1):
                raise ValueError(
                    f"expected {name} between 0 and 1, relative to the norm of the state; got "
                    f"{name}={tolerance}. Leave it at None to go to the rounding of the dtype"
                )
        for name in ("limit", "adjoint_limit"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"expected {name} of at least one step; got {name}={getattr(self, name)}. "
                    "1000 is the default"
                )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return self.transition.parameters(rng, dtype)

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Cache]:
        z = self.relaxation(params, x).z
        _, at_rest = self.transition.forward(params, z, x)
        return (z,), at_rest

    def backward(self, params: Params, cache: Cache, u: Array) -> tuple[Params, Cotangents]:
        w = self.adjoint(params, cache, u).z
        grads, _, x_bar = _pull(self.transition, params, cache, w)
        return grads, (x_bar,)

    def relaxation(self, params: Params, x: Array) -> Relaxation:
        """Return the path of z ← F(z, x) from z = 0."""

        def step(z: Array) -> Array:
            return self.transition.forward(params, z, x)[0][0]

        start = np.zeros(self.transition.state_shape(x.shape), x.dtype)
        return _relax(step, start, self.tolerance, self.limit, "state")

    def adjoint(self, params: Params, cache: Cache, u: Array) -> Relaxation:
        """Return the path of w ← Jᵀ w + u from w = 0; `cache` is the one of `forward`."""

        def step(w: Array) -> Array:
            return _pull(self.transition, params, cache, w)[1] + u

        start = np.zeros_like(u)
        return _relax(step, start, self.adjoint_tolerance, self.adjoint_limit, "adjoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrolled:
    """z_K of z_{k+1} = F(z_k, x), from z_0 = 0, and its gradient through time.

    With u_K = u the cotangent of z_K:  u_k = F_zᵀ u_{k+1},  θ̄ = Σ F_θᵀ u_{k+1},
    x̄ = Σ F_xᵀ u_{k+1},  each Jacobian at (z_k, x). For large K this is the gradient of
    `FixedPoint`, by a way that knows nothing of the implicit function theorem.

    Sources:
        Werbos, Backpropagation through time: what it does and how to do it, Proc. IEEE 78
        (1990), 1550-1560.
    """

    transition: Transition
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(
                f"expected at least one step; got steps={self.steps}. "
                "After no step the state is 0, whatever the parameters"
            )

    def parameters(self, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
        return self.transition.parameters(rng, dtype)

    def forward(self, params: Params, x: Array) -> tuple[Outputs, Cache]:
        z = np.zeros(self.transition.state_shape(x.shape), x.dtype)
        caches = []
        for _ in range(self.steps):
            (z,), cache = self.transition.forward(params, z, x)
            caches.append(cache)
        return (z,), tuple(caches)

    def backward(self, params: Params, cache: Cache, u: Array) -> tuple[Params, Cotangents]:
        *earlier, last = cache
        grads, z_bar, x_bar = _pull(self.transition, params, last, u)
        for moment in reversed(earlier):
            more, z_bar, x_more = _pull(self.transition, params, moment, z_bar)
            grads, x_bar = _sum(grads, more), x_bar + x_more
        return grads, (x_bar,)


def spectral_radius(
    transition: Transition,
    params: Params,
    z: Array,
    x: Array,
    *,
    rng: np.random.Generator,
    steps: int = 200,
) -> float:
    """Return the spectral radius of J = ∂F/∂z at z: how fast both relaxations settle there.

    Power iteration w ← Jᵀ w, from a random w; the rate of ‖w‖ is fitted over the later half of
    the steps. A complex pair makes ‖w‖ swing about that rate, and the error of the fit falls
    with the square of `steps`. With rows that do not mix, this is the radius of the slowest row.

    Sources:
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 7.3.1.
    """
    _, cache = transition.forward(params, z, x)
    w, growth = rng.standard_normal(z.shape).astype(z.dtype), [0.0]
    for _ in range(steps):
        size = _norm(w)
        if size == 0:  # an empty batch, or a power of J that is exactly 0
            return 0.0
        growth.append(growth[-1] + math.log(size))
        w = _pull(transition, params, cache, w / size)[1]
    return _rate(growth[len(growth) // 2 :])


def _relax(
    step: Callable[[Array], Array], start: Array, tolerance: float | None, limit: int, what: str
) -> Relaxation:
    """Return the path of z ← step(z) until it comes to rest, as `FixedPoint` describes."""
    z, residuals = start, [math.inf]
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported below, once
        for spent in range(1, limit + 1):
            previous, z = z, step(z)
            residuals.append(_norm(z - previous))
            allowed = (rounding_floor(_eps(z)) if tolerance is None else tolerance) * _norm(z)
            falls = 0 < residuals[-1] < residuals[-2] and tolerance is None and spent < limit
            if residuals[-1] <= allowed < math.inf and not falls:
                return Relaxation(z=z, residuals=tuple(residuals[1:]))
            if not math.isfinite(residuals[-1]):
                break
    raise NotSettled(_unsettled(what, residuals[1:], allowed, _eps(z) * _norm(z)))


def rounding_floor(eps: float) -> float:
    """Return the relative residual that every contraction reaches in a dtype of this `eps`.

    64 eps: a dot product of n terms is off by about √n eps, and 64 leaves room for thousands.
    Ten times less, and wide or slow networks would circle above it; ten times more costs a digit.
    """
    return 64 * eps


def _eps(z: Array) -> float:
    return float(np.finfo(z.dtype).eps)


def _norm(z: Array) -> float:
    """Return the Euclidean norm of all entries; squares neither overflow nor vanish."""
    peak = float(np.max(np.abs(z), initial=0.0))
    return peak * float(np.linalg.norm(z / peak)) if 0 < peak < math.inf else peak


def _rate(logs: Sequence[float]) -> float:
    """Return exp of the slope of the line through `logs` (least squares); NaN for under three."""
    if len(logs) < 3:
        return math.nan
    place = np.arange(len(logs)) - (len(logs) - 1) / 2
    return math.exp(float(place @ np.asarray(logs) / (place @ place)))


def _pull(
    transition: Transition, params: Params, cache: Cache, u: Array
) -> tuple[Params, Array, Array]:
    """Return the VJP of a transition: the cotangents of its parameters, of z and of x."""
    grads, (z_bar, x_bar) = transition.backward(params, cache, u)
    assert z_bar is not None  # the state of a transition has a gradient, and so has
    assert x_bar is not None  # its input
    return grads, z_bar, x_bar


def _sum(a: Any, b: Any) -> Any:
    """Return a + b, leaf by leaf."""
    return {name: _sum(a[name], b[name]) for name in a} if isinstance(a, Mapping) else a + b


def _unsettled(what: str, residuals: Sequence[float], allowed: float, rounding: float) -> str:
    """Return the message of `NotSettled`: the path in numbers, then the way out."""
    spent, last = len(residuals), residuals[-1]
    late = [math.log(r) for r in residuals[spent // 2 :] if 0 < r < math.inf]
    ratio = _rate(late)
    if last <= rounding_floor(rounding) < math.inf:
        advice = (
            "The residual is already rounding: the tolerance is finer than the dtype. "
            "Leave it at None, or compute in a wider dtype"
        )
    elif ratio < 1 and math.isfinite(last):
        more = math.log(allowed / last) / math.log(ratio) if allowed > 0 else math.inf
        advice = (
            f"It contracts, but slowly: about {more:.0f} steps more would do. Raise the limit, "
            "or lower the gain of the transition"
        )
    else:
        advice = (
            "The transition does not contract here. Lower its gain (below 1 settles surely), "
            "or damp it: Damped(transition=..., rate=0.5)"
        )
    if math.isfinite(last):
        wanted = f"expected a residual of at most {allowed:.3g}; got {last:.3g}"
    else:
        wanted = "it is no longer finite"
    tail = ", ".join(f"{residual:.3g}" for residual in residuals[-3:])
    return (
        f"the {what} did not settle in {spent} steps: {wanted}\n"
        f"  residuals: first {residuals[0]:.3g}, last {tail}; ratio {ratio:.4g}\n"
        f"  {advice}"
    )
