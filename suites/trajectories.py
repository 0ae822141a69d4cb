"""The training suite: every pair of backends must learn the same thing at every step."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import cast

from gradcheck.environment import describe_environment
from gradcheck.errors import MissingFrameworkError
from gradcheck.reference.layer import Layer
from gradcheck.results import (
    Agreement,
    CheckResult,
    Evaluations,
    Finding,
    SuiteRecord,
    Verdict,
)
from gradcheck.suites.training import (
    Backend,
    Divergence,
    RowReader,
    Training,
    Trajectory,
    digits_trajectory,
    first_divergence,
    pixel_reader,
)

__all__ = ["trajectories"]

RTOL = 1e-10  # as `first_divergence` argues: far above twenty steps' rounding, far below a fault


def trajectories(
    backends: Sequence[str], seed: int, tell: Callable[[int, int, str], None]
) -> SuiteRecord:
    """Train each network with each backend and compare the paths pairwise."""
    networks: dict[str, Layer] = {"pixels": pixel_reader(), "rows": RowReader()}
    sources = [cast(Backend, name) for name in ("reference", *backends)]
    total = len(networks) * len(sources)
    agreements: list[Agreement] = []
    failures: list[CheckResult] = []
    done = 0
    for name, network in networks.items():
        training = Training(network=network, seed=seed)
        paths: list[Trajectory] = []
        for source in sources:
            try:
                paths.append(digits_trajectory(source, training))
            except MissingFrameworkError as missing:
                return _record(done, agreements, failures, (str(missing),))
            done += 1
            tell(done, total, name)
        partings = {
            (a.backend, b.backend): first_divergence(a, b, rtol=RTOL)
            for a, b in combinations(paths, 2)
        }
        agreements += [_agreement(name, a, b) for a, b in combinations(paths, 2)]
        failures += [
            _failure(name, repr(training), seed, parting, _odd(partings))
            for parting in partings.values()
            if parting is not None
        ]
    return _record(done, agreements, failures, ())


def _record(
    examples: int,
    agreements: Sequence[Agreement],
    failures: Sequence[CheckResult],
    not_checked: tuple[str, ...],
) -> SuiteRecord:
    return SuiteRecord(
        name="training",
        examples=examples,
        elapsed_s=0.0,
        agreements=tuple(agreements),
        failures=tuple(failures),
        not_checked=not_checked,
    )


def _agreement(name: str, a: Trajectory, b: Trajectory) -> Agreement:
    """How close two whole paths stayed, by the losses of all steps."""
    pairs = zip(a.losses, b.losses, strict=True)
    apart = max(abs(x - y) / max(abs(x), abs(y)) for x, y in pairs)
    return Agreement(
        layer=name,
        pair=(a.backend, b.backend),
        compared=len(a.losses),
        worst=apart,
        tolerance=RTOL,
    )


def _odd(partings: dict[tuple[str, str], Divergence | None]) -> str | None:
    """The backend that parts from all others, while they stay together."""
    names = {name for pair in partings for name in pair}
    together = [set(pair) for pair, parting in partings.items() if parting is None]
    alone = [name for name in names if not any(name in pair for pair in together)]
    return alone[0] if len(alone) == 1 and together else None


def _failure(
    name: str, target: str, seed: int, parting: Divergence, odd: str | None
) -> CheckResult:
    finding = Finding(
        check="trajectory",
        leaf=f"{parting.leaf} at step {parting.step}",
        verdict=Verdict.FAIL,
        mismatch=parting.mismatch,
        resolution=parting.tolerance,
        tolerance=parting.tolerance,
        oracle=", ".join(parting.pair),
        message=str(parting),
    )
    return CheckResult(
        name=f"training on digits, {name}",
        target=target,
        seed=seed,
        findings=(finding,),
        environment=describe_environment(),
        evaluations=Evaluations(forward=0, vjp=parting.step),
        elapsed_s=0.0,
        replay=f"gradcheck run training --seed={seed}",
        odd_one_out=odd,
    )
