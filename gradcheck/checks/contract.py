"""What does the target do beside computing, and does its graph lead where its value does?

Inputs, cotangents and what was saved for the backward pass are there to be read. An output that
changes with a leaf and has no graph was detached; a leaf that the value depends on and that the
graph does not lead back to gets no gradient. Both are seen by moving leaves a little to either
side: a step function does not move, a smooth one moves the other way on the other side.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from gradcheck.answers import Answers
from gradcheck.errors import GradcheckError, Unsupported, first_line, maybe_out_of_domain
from gradcheck.probes import direction, scale
from gradcheck.problem import Arrays, Audit, Deed, Problem, listed, norm
from gradcheck.results import Finding, Verdict
from gradcheck.settings import Settings

__all__ = ["check_contract"]

CLEAR = 100.0  # roundings of a value: a smaller change proves nothing


def check_contract(
    answers: Answers, settings: Settings, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Return one finding for each leaf, and one for whatever else something is to be said of.

    Raises:
        Unsupported: the target cannot be watched.
    """
    problem = answers.problem
    if problem.audit is None:
        return ()
    try:
        seen = problem.audit(problem.point, answers.cotangents(0))
    except GradcheckError:
        raise
    except Exception as error:  # it runs unwatched, or the other checks say that it does not
        raise Unsupported(f"the target does not run when watched: {first_line(error)}") from error
    deeds = [*seen.deeds, *_severed(problem, seen, rng)]
    deeds = [d for d in deeds if d.path not in _paths(problem) or settings.wants(d.path)]
    wanted = [path for path in _paths(problem) if settings.wants(path)]
    paths = dict.fromkeys([*wanted, *(deed.path for deed in deeds)])
    return tuple(_finding(path, [d for d in deeds if d.path == path]) for path in paths)


def _paths(problem: Problem) -> list[str]:
    return [leaf.path for leaf in problem.leaves]


def _finding(path: str, deeds: Sequence[Deed]) -> Finding:
    wrong = [deed for deed in deeds if deed.is_wrong]
    return Finding(
        check="contract",
        leaf=path,
        verdict=Verdict.FAIL if wrong else Verdict.PASS,
        mismatch=0.0,
        resolution=0.0,
        tolerance=0.0,
        oracle="watched",
        message="; ".join(deed.what for deed in wrong or deeds),
    )


def _severed(problem: Problem, seen: Audit, rng: np.random.Generator) -> list[Deed]:
    """Outputs without a graph and leaves that no graph leads to, if the value depends on them."""
    deeds = []
    leaves, outputs = problem.leaves, problem.outputs
    moving = _moving(problem, range(len(leaves)), rng) if seen.detached else set()
    if moving is None:
        deeds += [Deed(path=outputs[k].path, what=UNSEEN, is_wrong=False) for k in seen.detached]

    @cache
    def moved_by(leaf: int) -> set[int]:
        return _moving(problem, [leaf], rng) or set()

    for k in (moving or set()).intersection(seen.detached):
        causes = [leaf.path for j, leaf in enumerate(leaves) if k in moved_by(j)]
        path = outputs[k].path
        what = f"wrongly detached: it has no graph, but depends on {listed(causes)}"
        what += f"; if it is meant, say declared={{{path!r}: why}}"
        deeds.append(Deed(path=path, what=what))
    for k in seen.unreached:
        found = _moving(problem, [k], rng)
        moved = [outputs[j].path for j in sorted(found or ())]
        what = f"no gradient reaches it, but {listed(moved)} depends on it"
        idle = UNSEEN if found is None else "nothing depends on it"
        deeds.append(Deed(path=leaves[k].path, what=what if moved else idle, is_wrong=bool(moved)))
    return deeds


UNSEEN = (
    "no graph connects it, and whether its value depends on anything is not known: the target "
    "refuses the points beside this one"
)


def _moving(problem: Problem, leaves: Iterable[int], rng: np.random.Generator) -> set[int] | None:
    """The outputs that move smoothly with `leaves`; None where the target refuses to be moved."""
    chosen = set(leaves)
    steps = [
        leaf.epsilon**0.5 * scale(x) * direction(rng, leaf) if k in chosen else np.zeros(leaf.shape)
        for k, (leaf, x) in enumerate(zip(problem.leaves, problem.point, strict=True))
    ]

    def value(sign: float) -> Arrays:
        moved = zip(problem.leaves, problem.point, steps, strict=True)
        with np.errstate(all="ignore"):
            return problem.value(tuple(leaf.rounded(x + sign * step) for leaf, x, step in moved))

    values = []
    with maybe_out_of_domain():
        values = [value(sign) for sign in (1.0, 0.0, -1.0)]
    if not values:
        return None
    ahead, centre, behind = values
    found = set()
    for k, (output, *ys) in enumerate(zip(problem.outputs, ahead, centre, behind, strict=True)):
        if not all(np.all(np.isfinite(y)) and y.shape == output.shape for y in ys):
            continue
        up, down = norm(ys[0] - ys[1]), norm(ys[1] - ys[2])
        bend = norm(ys[0] - ys[1] + ys[2] - ys[1])
        noise = CLEAR * output.epsilon * norm(ys[1])
        if min(up, down) > noise and bend < 0.5 * (up + down):
            found.add(k)
    return found
