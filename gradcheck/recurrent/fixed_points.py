"""A layer that returns the fixed point of a map: is its gradient that of the equation?

The map says what the layer should do, so that there is an oracle beside differences: the implicit
function theorem, solved here with the map's own VJP. It tells how far the layer's relaxation got,
how fast it can settle, and what a wrong gradient is the gradient of.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from math import ceil, inf, log
from typing import Any

import numpy as np

from gradcheck.adapters.rule import Rule
from gradcheck.adapters.select import native, problem_of
from gradcheck.answers import answers_of
from gradcheck.checks import CHECKS
from gradcheck.errors import GradcheckError, InputError, Unsupported, first_line
from gradcheck.inquiry import Question, conducted, left_open, of_checks, unposed
from gradcheck.listeners import heard
from gradcheck.meter import Meter
from gradcheck.options import a_count, settled
from gradcheck.probes import cotangent
from gradcheck.problem import Arrays, Problem, label, norm
from gradcheck.recurrent.correspondence import corresponding, pairs, state_of, states_of
from gradcheck.recurrent.equilibria import Equilibrium
from gradcheck.recurrent.krylov import Krylov
from gradcheck.recurrent.patterns import (
    LIKE,
    NEAR,
    Row,
    explained,
    joined,
    of_leaf,
    pattern,
    relative,
)
from gradcheck.recurrent.relaxations import relaxed, through
from gradcheck.results import CheckResult, Finding, Verdict
from gradcheck.settings import SIGNIFICANCE, Settings

__all__ = ["check_fixed_point"]

DEFAULT = tuple(key for key, check in CHECKS.items() if check.by_default and key != "vjp")

DRAWS = 2

# Differences of a relaxation that stops at a tolerance see its jumps: 1e-10 of the state is 1e-7 of
# its slope at the first steps of a ladder. Stopped earlier, the layer is held to the equation only.
AT_REST = 1e-10

# A state that moves by a tenth of itself in one step is no fixed point of that map.
ASTRAY = 0.1

# How many times what is left to rest, in the leaf where that is most, a right gradient may be off.
LIKELY = 2.0

UNROLLED = 400  # steps at most of an unrolled relaxation: a radius of 0.95 settles to 1e-9 in them
DEEP = 1e-9  # how far it is followed

UNMATCHED = "the map has no such leaf; give step the module, or the arguments, that it belongs to"


@heard
def check_fixed_point(
    layer: Any,
    *inputs: Any,
    step: Any,
    terms: int | None = None,
    rtol: float | None = None,
    seed: int = 0,
    name: str | None = None,
    budget_s: float | None = None,
) -> CheckResult:
    """Return what is right and wrong about the gradients of a layer that relaxes to a fixed point.

    The findings are, by the name of their check: "step", the VJP of the map at the fixed point;
    "residual", how far from rest the layer stopped, and the spectral radius of the map there;
    "implicit", of each leaf, whether the layer's gradient is that of the equation z* = F(z*), and
    if not, what it is the gradient of: the last step, the last K, a transposed Jacobian, a wrong
    sign, an adjoint that did not converge; "unrolled", whether backpropagation through K steps of
    the relaxation tends to the same, like the K-th power of the spectral radius; and the default
    checks of `check`, the VJP by differences among them where the layer is at rest.

    Args:
        layer: `layer(*inputs)` returns z*: an array, or arrays in tuples and dicts.
        inputs: its arguments. Leaves are those of `check`.
        step: the map, `step(z, *inputs)` with z as the layer returns it, which returns the next z;
            a `Rule` where its derivative is written by hand.
            Parameters correspond by the ends of their names: `params.cell.weight` of the layer is
            `params.weight` of the cell. What it finds by itself (in a closure) is seen by
            differences only, and so where the layer is at rest.
        terms: how many terms of the Neumann series the layer's gradient consists of on purpose,
            1 where it is Jacobian-free; it is held to those. None: all.
        rtol, seed, name, budget_s: as in `check`.

    Raises:
        InputError: an argument cannot be used, or `step` does not take what the layer returns; the
            message names it.

    Sources:
        Almeida, IEEE First Int. Conf. on Neural Networks (1987), vol. II, 609-618.
        Pineda, Phys. Rev. Lett. 59 (1987), 2229-2232.
    """
    settings = settled(seed=seed, rtol=rtol, budget_s=budget_s)
    if not callable(step) and not isinstance(step, Rule):
        raise InputError(
            f"expected step to be a map, step(z, *inputs), or a gradcheck.Rule; got {step!r}"
        )
    a_count("terms", terms, "terms")
    meter = Meter()
    try:
        whole = problem_of(layer, inputs, name=name, seed=seed)
        values = whole.value(whole.point)
    except GradcheckError:
        raise
    except Exception as error:  # whatever the target raises is a finding about the target
        return unposed(label(layer, name), error, settings)
    inner = _map_of(step, whole, values, inputs, seed=seed)
    asked = Asked(
        narrow=meter.around(whole), map=meter.around(inner), settings=settings, terms=terms
    )
    corresponding(whole, inner)
    questions = asked.questions()
    result = conducted(whole, settings, questions, meter, asked={"vjp", *asked.own()})
    said = {finding.leaf for finding in result.findings if finding.check == "implicit"}
    lines = [f"implicit at {path}: {UNMATCHED}" for path in asked.unmatched if path not in said]
    return replace(result, not_checked=(*result.not_checked, *lines))


def _map_of(
    step: Any, layer: Problem, values: Arrays, inputs: Sequence[Any], *, seed: int
) -> Problem:
    """The problem of the map at what the layer returns.

    Raises:
        InputError: the map does not take that.
    """
    pairs = zip(values, layer.outputs, strict=True)
    z = state_of(layer.outputs, [native(y, output.dtype, inputs) for y, output in pairs])
    try:
        map = problem_of(step, (z, *inputs), seed=seed, every=True)
        map.vjp(map.point, tuple(np.ones(output.shape) for output in map.outputs))
        return map
    except InputError as error:
        raise InputError(f"of step, which is differentiated too: {error}") from error
    except GradcheckError:
        raise
    except Exception as error:  # whatever it raises
        returned = ", ".join(f"{o.path.replace('output', 'z', 1)} {o.shape}" for o in layer.outputs)
        count = 1 + len(inputs)
        raise InputError(
            "expected step to be a map step(z, *inputs), with z all that the layer returns; called "
            f"with {count} arguments ({returned} and the inputs) and differentiated, it raised "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A layer and its map under check, and one question a method."""

    narrow: Problem  # the layer, in the dtype that it has
    map: Problem
    settings: Settings
    terms: int | None

    def questions(self) -> dict[str, Question]:
        asked = self.own() | of_checks(self.narrow, self.settings, DEFAULT)
        adjoint = asked["adjoint"]
        return asked | {"vjp": self.differences, "adjoint": partial(self.transposed, adjoint)}

    def own(self) -> dict[str, Question]:
        return {
            "step": self.step,
            "residual": self.residual,
            "implicit": self.implicit,
            "unrolled": self.unrolled,
        }

    @cached_property
    def layer(self) -> Problem:
        return self.widest(self.narrow)

    def widest(self, problem: Problem) -> Problem:
        """The problem in float64, if it runs there."""
        answers = answers_of(problem, self.settings.seed)
        return (answers.in_float64 or answers).problem

    @cached_property
    def rest(self) -> Equilibrium:
        """The map at the state that the layer returns."""
        problem = self.widest(self.map)
        point = list(problem.point)
        states = states_of(problem)
        for (leaf, _), z in zip(states, self.layer.value(self.layer.point), strict=True):
            point[leaf] = problem.leaves[leaf].rounded(z)
        return Equilibrium(problem=problem, states=states, point=tuple(point))

    @cached_property
    def pairs(self) -> dict[int, int]:
        """A leaf of the layer -> the same leaf of the map."""
        return pairs(self.narrow.leaves, self.map.leaves)

    @property
    def unmatched(self) -> list[str]:
        """The leaves that the map does not have."""
        return [a.path for k, a in enumerate(self.narrow.leaves) if k not in self.pairs]

    @property
    def are_differences_asked(self) -> bool:
        return self.terms is None and self.rest.residual <= AT_REST

    @cached_property
    def draws(self) -> list[tuple[Arrays, Krylov]]:
        """Cotangents, and the Krylov space of the adjoint of each."""
        if not any(z.size for z in self.rest.z):
            raise Unsupported("the state is empty")
        rng = self.rng("implicit")
        us = [cotangent(rng, self.layer.outputs) for _ in range(DRAWS)]
        return [(u, self.rest.space(u)) for u in us]

    @property
    def radius(self) -> float:
        return max(space.spectral_radius for _, space in self.draws)

    def step(self) -> tuple[Finding, ...]:
        """Whether the map's own VJP is right: all that follows rests on it."""
        moved = replace(self.rest.problem, point=self.rest.point)
        found = CHECKS["vjp"].ask(
            answers_of(moved, self.settings.seed), self.settings, self.rng("step")
        )
        # What is proved of the map says nothing of what would be caught in the layer.
        return tuple(replace(finding, check="step", power=()) for finding in found)

    def residual(self) -> tuple[Finding, ...]:
        rest = self.rest
        astray = not rest.residual <= ASTRAY
        message = (
            f"‖F(z) - z‖ / ‖z‖ = {rest.residual:.1e}; spectral radius of ∂F/∂z {self.radius:.3g}"
        )
        if astray:
            message += "; what the layer returns is no fixed point of step: is it the layer's map?"
        finding = Finding(
            check="residual",
            leaf=self.layer.outputs[0].path,
            verdict=Verdict.FAIL if astray else Verdict.PASS,
            mismatch=rest.residual,
            resolution=0.0,
            tolerance=ASTRAY,
            oracle="one more step",
            message=message,
        )
        return (finding,)

    def implicit(self) -> tuple[Finding, ...]:
        return self.of_equation

    @cached_property
    def of_equation(self) -> tuple[Finding, ...]:
        """Of each leaf, whether its gradient is that of the equation."""
        self.refuse_astray()
        rows = [self.row(u, space) for u, space in self.draws]
        unrest = self.unrest()
        findings = [self.compared(k, rows, unrest[at]) for k, at in self.pairs.items()]
        left = max(self.rest.residual, *unrest.values())
        likely = inf if self.terms else LIKELY * self.stopped(left)
        findings = [self.held(finding, likely) for finding in findings]
        alone = () if self.are_differences_asked else self.unmatched  # of which nothing is known
        open_ = [left_open("implicit", UNMATCHED, path) for path in alone]
        if all(finding.verdict is Verdict.PASS for finding in findings):
            return (*findings, *open_)
        most = max(finding.mismatch for finding in findings)
        right = (place for place, f in enumerate(findings) if f.mismatch <= LIKE * most)
        if any(np.any(row.true[place]) for place in right for row in rows):
            own = [of_leaf([row.of(place) for row in rows]) for place in range(len(findings))]
            return (*map(explained, findings, own), *open_)
        seen = pattern(
            rows, self.draws, self.rest, self.gradients, is_cut_off=self.terms is not None
        )
        return (*(explained(finding, seen) for finding in findings), *open_)

    def refuse_astray(self) -> None:
        if not self.rest.residual <= ASTRAY:
            raise Unsupported("the layer does not return a fixed point of step")

    def row(self, u: Arrays, space: Krylov) -> Row:
        """The gradients claimed and true for one cotangent, of the leaves that both have."""
        if self.terms is None:
            vector, left = space.solved()
            w = self.rest.shaped(vector)
        else:
            w, left = list(islice(self.rest.series(u), self.terms))[-1].w, 0.0
        claimed = self.layer.vjp(self.layer.point, u)
        return Row(claimed=tuple(claimed[k] for k in self.pairs), true=self.gradients(w), left=left)

    def gradients(self, w: Arrays, at: Equilibrium | None = None) -> Arrays:
        """The VJP of the map, of the leaves that both have."""
        pulled = (at or self.rest).pulled(w)
        return tuple(pulled[k] for k in self.pairs.values())

    def unrest(self) -> dict[int, float]:
        """How far one more step of the relaxation moves each gradient, relative to its size.

        A layer that stops early may take its adjoint at that state or at the next one.
        """
        rest, (_, space) = self.rest, self.draws[0]
        w = rest.shaped(space.solved()[0])
        values, point = rest.problem.value(rest.point), list(rest.point)
        for leaf, output in rest.states:
            point[leaf] = values[output]
        pairs = zip(
            self.gradients(w), self.gradients(w, replace(rest, point=tuple(point))), strict=True
        )
        moved = [relative(a, b) for a, b in pairs]
        return dict(zip(self.pairs.values(), moved, strict=True))

    def compared(self, k: int, rows: Sequence[Row], unrest: float) -> Finding:
        leaf, place = self.layer.leaves[k], list(self.pairs).index(k)
        # An error of the state or of the adjoint is one of the gradient, amplified by (I - J)⁻¹.
        size = sum(z.size for z in self.rest.z)
        rounding = leaf.epsilon * size**0.5
        bar = (max(row.left for row in rows) + unrest + rounding) / self.gap
        resolution = SIGNIFICANCE * (bar if self.terms else max(bar, self.stopped(unrest)))
        off = max(relative(row.true[place], row.claimed[place]) for row in rows)
        tolerance = self.settings.tolerance(leaf.digits)
        return Finding(
            check="implicit",
            leaf=leaf.path,
            verdict=Verdict.FAIL if off > max(tolerance, resolution) else Verdict.PASS,
            mismatch=off,
            resolution=resolution,
            tolerance=tolerance,
            oracle="implicit function theorem"
            if self.terms is None
            else f"Neumann series, terms={self.terms}",
            message="",
        )

    @property
    def gap(self) -> float:
        return max(1.0 - self.radius, 1e-3)

    def stopped(self, left: float) -> float:
        """How far off an adjoint may be that stopped as its state did, where a step is `left`.

        A solver compares two steps, and a layer then makes one more to have a graph: its residual
        is by two contractions below the tolerance, at which its adjoint may have stopped too.
        """
        far = left / self.gap / max(self.radius, 1e-3) ** 2
        return min(far, NEAR * self.radius / SIGNIFICANCE)

    def held(self, finding: Finding, likely: float) -> Finding:
        """The finding; open if a pass is off by more than is `likely` so far from rest.

        Or if next to nothing is known there. The error of an adjoint that stopped early is one of
        all leaves.
        """
        off, known = finding.mismatch, finding.resolution
        if finding.verdict is not Verdict.PASS or off <= finding.tolerance:
            return finding
        if off <= likely and known <= NEAR:
            return finding
        message = (
            f"off by {off:.0e}; so far from rest (residual {self.rest.residual:.0e}) the gradient "
            f"of the equation is known to {known:.0e} only: take more steps, forward and backward"
        )
        return replace(finding, verdict=Verdict.INCONCLUSIVE, message=message)

    def unrolled(self) -> tuple[Finding, ...]:
        """Whether backpropagation through the relaxation tends to the gradient of the equation."""
        self.refuse_astray()
        radius, rest = self.radius, self.rest
        if not radius < 1:
            raise Unsupported(f"the map does not contract at the fixed point: radius {radius:.3g}")
        steps = ceil(log(DEEP) / log(max(radius, 1e-3))) + 2
        if steps > UNROLLED:
            raise Unsupported(f"of spectral radius {radius:.4g}, the map settles in {steps} steps")
        path = relaxed(rest, steps)
        last = replace(rest, point=path[-1])
        gone = norm(joined(last.z) - joined(rest.z)) / max(norm(joined(rest.z)), 1e-300)
        if not gone <= max(AT_REST, 10 * rest.residual, radius**steps) ** 0.5:
            raise Unsupported("relaxed from zero, the map settles elsewhere or not at all")
        u, space = self.draws[0]
        true = rest.pulled(rest.shaped(space.solved()[0]))
        kept = list(self.pairs.values()) or range(len(rest.problem.leaves))
        wanted = joined([true[k] for k in kept])
        half, whole = (
            relative(wanted, joined([through(rest, path[:n], u)[k] for k in kept]))
            for n in (steps // 2, steps)
        )
        floor = rest.residual / (1 - radius)  # where the layer's state is not at rest
        allowed = max(SIGNIFICANCE * (DEEP + floor), radius ** (steps / 2))
        message = f"through {steps} steps from zero, within {whole:.0e} of it"
        if whole > SIGNIFICANCE * floor and half:
            rate = (whole / half) ** (2 / steps)
            message += (
                f"; it falls like {rate:.2g} to the power of the steps, and the spectral radius is "
                f"{radius:.2g}"
            )
        finding = Finding(
            check="unrolled",
            leaf=self.layer.outputs[0].path,
            verdict=Verdict.PASS if whole <= allowed else Verdict.INCONCLUSIVE,
            mismatch=whole,
            resolution=allowed,
            tolerance=allowed,
            oracle="backpropagation through the relaxation",
            message=message,
        )
        return (finding,)

    def transposed(self, adjoint: Question) -> tuple[Finding, ...]:
        """The adjoint identity, where forward mode is the derivative that the backward gives."""
        if self.terms is not None:
            raise Unsupported("forward mode knows nothing of what the backward leaves out")
        if not self.rest.residual <= AT_REST:
            raise Unsupported(
                f"the layer stops at a residual of {self.rest.residual:.0e}: forward mode goes "
                "through its steps and the backward through another solver, which need not stop at "
                "the same accuracy, or be linear"
            )
        return adjoint()

    def differences(self) -> tuple[Finding, ...]:
        """The VJP of the layer by differences of its values, where it is at rest."""
        if self.terms is not None:
            raise Unsupported(f"with terms={self.terms} the gradient is no derivative, on purpose")
        if not self.rest.residual <= AT_REST:
            raise Unsupported(
                f"the layer stops at a residual of {self.rest.residual:.0e}, and so do differences "
                "of it; it was held to the equation"
            )
        found = CHECKS["vjp"].ask(
            answers_of(self.narrow, self.settings.seed), self.settings, self.rng("vjp")
        )
        if all(finding.verdict is not Verdict.FAIL for finding in found):
            return found
        # Solvers that stop at a tolerance leave an error, in which a small entry may drown.
        with suppress(Unsupported):
            left = {f.leaf: f.resolution for f in self.of_equation if f.verdict is Verdict.PASS}
            return tuple(_stopped(finding, left.get(finding.leaf, 0.0)) for finding in found)
        return found

    def rng(self, question: str) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *question.encode()])


PROJECTED = 4.0


def _stopped(finding: Finding, left: float) -> Finding:
    """A pass, if what is wrong with the leaf is no more than what its solvers leave.

    Differences are relative to a projection of the gradient, which may be a part of its size.
    """
    if finding.verdict is not Verdict.FAIL or not finding.mismatch <= PROJECTED * left:
        return finding
    message = f"entries differ by what the solvers leave: {left:.0e} of the gradient"
    return replace(
        finding,
        verdict=Verdict.PASS,
        resolution=max(finding.resolution, left),
        message=message,
        entries=(),
        diagnosis=None,
    )
