"""Run suites outside of pytest: draw networks, examine them, shrink what disagrees."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import ceil
from time import perf_counter

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.strategies import SearchStrategy

from gradcheck.environment import describe_environment
from gradcheck.errors import InputError
from gradcheck.results import Agreement, CheckResult, Report, SuiteRecord, Verdict
from gradcheck.settings import TOLERANCE
from gradcheck.suites.examine import BACKENDS, Examination, examine
from gradcheck.suites.networks import Network, Point
from gradcheck.suites.strategies import FIXED_POINT, RECURRENT, STATIC, points
from gradcheck.suites.trajectories import trajectories

__all__ = ["NAMES", "Progress", "draw_and_examine", "run"]

GENERATED: Mapping[str, Mapping[str, SearchStrategy[Network]]] = {
    "static": STATIC,
    "recurrent": RECURRENT,
    "fixed_point": FIXED_POINT,
}
NAMES = (*GENERATED, "training")

# A compiled framework needs a second for a new architecture; after this many seconds the smallest
# network found so far is small enough to read.
SHRINKING = 30.0


# After its first ten examples Hypothesis mostly varies earlier ones; starting afresh with another
# seed draws half as many distinct networks again.
ROUND = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    suite: str
    done: int
    total: int
    layer: str


class Diverged(Exception):
    """Carries a failing result out of Hypothesis."""

    def __init__(self, result: CheckResult) -> None:
        super().__init__(result.name)
        self.result = result


@dataclass(slots=True)
class Tally:
    """What the examples of one suite have shown so far."""

    examples: int = 0
    compared: dict[tuple[str, tuple[str, str]], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    failures: list[CheckResult] = field(default_factory=list)
    unresolved: list[CheckResult] = field(default_factory=list)
    not_checked: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, family: str, examination: Examination) -> None:
        for difference in examination.differences:
            self.compared[family, difference.pair].append(difference.relative)
        for reason in examination.result.not_checked:
            self.not_checked[reason] += 1
        if examination.result.verdict is Verdict.INCONCLUSIVE:
            self.unresolved.append(examination.result)

    def record(self, name: str, elapsed_s: float) -> SuiteRecord:
        agreements = tuple(
            Agreement(
                layer=family,
                pair=pair,
                compared=len(relative),
                worst=max(relative),
                tolerance=TOLERANCE["float64"],
            )
            for (family, pair), relative in self.compared.items()
        )
        return SuiteRecord(
            name=name,
            examples=self.examples,
            elapsed_s=elapsed_s,
            agreements=agreements,
            failures=(*self.failures, *self.unresolved),
            not_checked=tuple(f"{why} ({n} times)" for why, n in self.not_checked.items()),
        )


def run(
    names: Sequence[str] = NAMES,
    *,
    backends: Sequence[str] = BACKENDS,
    examples: int = 40,
    seed: int = 0,
    progress: Callable[[Progress], None] = lambda step: None,
) -> Report:
    """Return what the suites `names` find.

    Args:
        names: of `NAMES`.
        backends: "torch", "jax", both or neither; only installed ones.
        examples: networks to draw in each suite, shared out among its families of layers.
        seed: the same seed draws the same networks.
        progress: told after every network.

    Raises:
        InputError: an argument cannot be used; the message names it.
    """
    _usable(names, backends, examples, seed)
    started = perf_counter()
    records = []
    for name in names:
        if name in GENERATED:
            records.append(_generated(name, backends, examples, seed, progress))
        else:
            records.append(_training(backends, seed, progress))
    return Report(
        title=f"The NumPy reference against {', '.join(('finite differences', *backends))}",
        command=f"gradcheck run {' '.join(names)} --examples={examples} --seed={seed}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        elapsed_s=perf_counter() - started,
        environment=describe_environment(),
        suites=tuple(records),
    )


def _usable(names: Sequence[str], backends: Sequence[str], examples: int, seed: int) -> None:
    for option, given, known in (("names", names, NAMES), ("backends", backends, BACKENDS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise InputError(f"expected {option} among {', '.join(known)}; got {unknown}")
    if examples < 1 or seed < 0:
        raise InputError(
            f"expected examples of at least 1 and seed of at least 0; got {examples=} and {seed=}"
        )


def _generated(
    name: str,
    backends: Sequence[str],
    examples: int,
    seed: int,
    progress: Callable[[Progress], None],
) -> SuiteRecord:
    started, tally, families = perf_counter(), Tally(), GENERATED[name]
    share = ceil(examples / len(families))
    for place, (family, networks) in enumerate(families.items()):

        def tell(done: int, family: str = family, place: int = place) -> None:
            done = min(place * share + done, (place + 1) * share)
            progress(Progress(suite=name, done=done, total=share * len(families), layer=family))

        failure = draw_and_examine(
            family, networks, tally, backends=backends, examples=share, seed=seed, tell=tell
        )
        if failure is not None:
            tally.failures.append(failure)
        tell(share)
    return tally.record(name, perf_counter() - started)


def draw_and_examine(
    family: str,
    networks: SearchStrategy[Network],
    tally: Tally,
    *,
    backends: Sequence[str],
    examples: int,
    seed: int,
    tell: Callable[[int], None],
) -> CheckResult | None:
    """Return the shrunk failure of one family of layers, or None; count what passed in `tally`."""
    seen: dict[tuple[Network, tuple[Point, ...]], CheckResult | None] = {}
    failed_at: list[float] = []

    @hypothesis.settings(
        max_examples=min(examples, ROUND),
        deadline=None,  # a compilation is slow once and fast ever after
        database=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(network=networks, at=points())
    def agree(network: Network, at: tuple[Point, ...]) -> None:
        case = (network, at)
        if case not in seen:
            out_of_time = failed_at and perf_counter() - failed_at[0] > SHRINKING
            seen[case] = None if out_of_time else _first_failure(network, at)
        failure = seen[case]
        if failure is not None:
            failed_at.append(perf_counter())
            raise Diverged(failure)

    def _first_failure(network: Network, at: Iterable[Point]) -> CheckResult | None:
        examinations = []
        for k, point in enumerate(at):
            examination = examine(network, point, backends=backends, differences=k == 0)
            if examination.result.verdict in (Verdict.FAIL, Verdict.ERROR):
                return examination.result
            examinations.append(examination)
        if not failed_at:
            tally.examples += 1
            for examination in examinations:
                tally.add(family, examination)
            tell(len(seen) + 1)
        return None

    try:
        for turn in range(ceil(examples / ROUND)):
            hypothesis.seed(1000 * seed + turn)(agree)()
    except Diverged as divergence:
        return divergence.result
    return None


def _training(
    backends: Sequence[str], seed: int, progress: Callable[[Progress], None]
) -> SuiteRecord:
    def tell(done: int, total: int, layer: str) -> None:
        progress(Progress(suite="training", done=done, total=total, layer=layer))

    started = perf_counter()
    record = trajectories(backends, seed, tell)
    return replace(record, elapsed_s=perf_counter() - started)
