"""What the drop-ins for other checkers' functions share.

A drop-in has another checker's signature and exceptions and this one's verdicts. What a signature
asks for that has no counterpart here is decided in this module, once: an absolute tolerance, and
an answer that is neither yes nor no.
"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradcheck.inquiry import check_problem
from gradcheck.listeners import heard
from gradcheck.probes import scale
from gradcheck.problem import Array, Arrays, Problem, inner
from gradcheck.results import CheckResult, Finding, Verdict
from gradcheck.settings import Settings

__all__ = ["InconclusiveWarning", "asked", "bad", "warn", "warn_if_inconclusive"]


class InconclusiveWarning(UserWarning):
    """A drop-in could neither confirm nor refute a gradient; its caller knows only yes and no.

    It answers yes: an alarm must be a mistake that was seen. What hides the answer is in the
    warning; `warnings.filterwarnings("error", category=InconclusiveWarning)` makes it a failure.
    """


@heard
def asked(problem: Problem, check: str, settings: Settings, atol: float | None) -> CheckResult:
    """Return what `check` finds about `problem`.

    With an `atol`, a leaf fails only if an entry of the Jacobian is off by more than
    `atol + rtol |entry|`, which is what other checkers mean by it.
    """
    result = check_problem(problem, settings, (check,), asked=(check,))
    if atol is None or result.verdict is not Verdict.FAIL:
        return result
    findings = tuple(_excused(problem, finding, settings, atol) for finding in result.findings)
    return replace(result, findings=findings)


def bad(result: CheckResult) -> Finding | None:
    """Return the first finding that says that a derivative is wrong, or None."""
    return next((f for f in result.findings if f.verdict is Verdict.FAIL), None)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called the drop-in, however deep inside it this is."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("gradcheck."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def warn_if_inconclusive(result: CheckResult) -> None:
    """Say what was left open, where nothing failed."""
    if result.verdict is Verdict.INCONCLUSIVE:
        warn(str(result), InconclusiveWarning)


def _excused(problem: Problem, finding: Finding, settings: Settings, atol: float) -> Finding:
    """The finding as a pass, if no entry of the Jacobian is off by more than the caller allows."""
    if finding.verdict is not Verdict.FAIL or not np.isfinite(finding.mismatch):
        return finding
    index = next((k for k, x in enumerate(problem.leaves) if x.path == finding.leaf), None)
    if index is None:
        return finding
    basis = _basis(problem.point[index])
    rows = None if finding.check == "jvp" else _rows(problem, index)
    tolerance = settings.tolerance(problem.leaves[index].digits)
    largest = 0.0
    for k in _located_first(finding, problem.point[index]):  # column by column: one may settle it
        truth = _flat(_quotient(problem, index, basis[k]))
        claim = _flat(_pushed(problem, index, basis[k])) if rows is None else rows[:, k]
        off = np.abs(claim - truth)
        if not np.all(off <= atol + tolerance * np.abs(truth)):
            return finding
        largest = max(largest, float(np.max(off, initial=0.0)))
    message = f"wrong, but no entry of the Jacobian by more than {largest:.0e}, and atol allows it"
    return replace(finding, verdict=Verdict.PASS, message=message, entries=(), diagnosis=None)


def _located_first(finding: Finding, x: Array) -> list[int]:
    """The positions in the basis of a leaf, those of the entries that were found wrong first."""
    units = 2 if np.iscomplexobj(x) else 1
    positions = np.arange(x.size).reshape(x.shape)
    places = [int(positions[entry.index]) for entry in finding.entries]
    first = [units * place + unit for place in places for unit in range(units)]
    return list(dict.fromkeys([*first, *range(units * x.size)]))


def _rows(problem: Problem, index: int) -> NDArray[np.float64]:
    """The Jacobian of a leaf as real numbers, outputs × inputs, from what cotangents pull back."""
    basis = _basis(problem.point[index])
    rows = []
    for k, output in enumerate(problem.outputs):
        zeros = [np.zeros(other.shape, dtype=_held(other.dtype)) for other in problem.outputs]
        for u in _basis(zeros[k].astype(_held(output.dtype))):
            gradient = problem.vjp(problem.point, (*zeros[:k], u, *zeros[k + 1 :]))[index]
            rows.append([inner(gradient, v) for v in basis])
    return np.array(rows).reshape(-1, len(basis))


def _basis(x: Array) -> list[Array]:
    """One array for each real number in `x`, with a one (or i) at its place."""
    units = [1.0, 1j] if np.iscomplexobj(x) else [1.0]
    found = []
    for k in range(x.size):
        for unit in units:
            one = np.zeros(x.size, dtype=x.dtype)
            one[k] = unit
            found.append(one.reshape(x.shape))
    return found


def _pushed(problem: Problem, index: int, v: Array) -> Arrays:
    assert problem.jvp is not None
    tangents = [np.zeros_like(x) for x in problem.point]
    tangents[index] = v
    return problem.jvp(problem.point, tuple(tangents))


def _quotient(problem: Problem, index: int, v: Array) -> Arrays:
    """Central differences at h and h/2, extrapolated; h is the step at which rounding and
    truncation of fourth order are equal."""
    leaf, x = problem.leaves[index], problem.point[index]
    coarsest = max(array.epsilon for array in (leaf, *problem.outputs))
    h = scale(x) * coarsest**0.2

    def difference(h: float) -> list[Array]:
        ahead, behind = leaf.rounded(x + h * v), leaf.rounded(x - h * v)
        width = float(np.max(np.abs(ahead - behind), initial=0.0)) or 1.0
        pairs = zip(_at(problem, index, ahead), _at(problem, index, behind), strict=True)
        return [(a.astype(_held(str(a.dtype))) - b) / width for a, b in pairs]

    pairs = zip(difference(h), difference(h / 2), strict=True)
    return tuple((4 * near - far) / 3 for far, near in pairs)


def _at(problem: Problem, index: int, x: Array) -> Arrays:
    return problem.value((*problem.point[:index], x, *problem.point[index + 1 :]))


def _flat(arrays: Sequence[Array]) -> NDArray[np.float64]:
    """All arrays as one vector of real numbers."""
    parts = [np.ravel(a.astype(_held(str(a.dtype)))) for a in arrays]
    pairs = [np.stack([p.real, p.imag], -1).ravel() if np.iscomplexobj(p) else p for p in parts]
    return np.concatenate(pairs) if pairs else np.zeros(0)


def _held(dtype: str) -> str:
    return "complex128" if "complex" in dtype else "float64"
