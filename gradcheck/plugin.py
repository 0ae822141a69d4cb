"""The pytest plugin: the fixture `gradcheck`, its options, its summary and its report.

Loading it imports pytest and the standard library, nothing else; a session in which no test uses
the fixture pays a few milliseconds and sees no line of it.

A result travels on the report of its test, as JSON, because that is what pytest-xdist carries
from a worker to the controller; only the controller counts, prints and writes.

PYTEST_DONT_REWRITE: there is no assertion here whose values anybody wants to see.
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from gradcheck.collector import CHECKED, PAYLOAD, Collector, Options

if TYPE_CHECKING:
    from gradcheck.api import Rule
    from gradcheck.culprit import Blame
    from gradcheck.results import CheckResult
    from gradcheck.scan import Targets

__all__ = ["DEFAULT_SEED", "Gradcheck"]

DEFAULT_SEED = 0  # any number would do; a fixed one makes two runs of one commit agree


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradcheck:
    """What the fixture `gradcheck` gives a test: the functions of the package, recorded.

    Every result goes into the session's summary and report under the test's id, also one that
    the test does not look at. `seed` is the session's; a `seed=` in the call wins over it.
    """

    test: str
    seed: int
    again: str = field(repr=False)  # a line that runs the test, where pytest was started
    recorded: list[CheckResult] = field(default_factory=list, repr=False)
    unread: set[str] = field(default_factory=set, repr=False)  # names of results, see `reading`

    def check(self, target: Any, *inputs: Any, **options: Any) -> CheckResult:
        """Return what `gradcheck.check` finds; never raises for a wrong gradient."""
        __tracebackhide__ = True
        from gradcheck.api import check

        return self._record(check, target, inputs, options)

    def assert_gradients(self, target: Any, *inputs: Any, **options: Any) -> CheckResult:
        """Return what `gradcheck.check` finds; a wrong gradient fails the test with its text."""
        __tracebackhide__ = True
        from gradcheck.errors import GradientMismatch

        result = self.check(target, *inputs, **options)
        if not result.passed:
            raise GradientMismatch(str(result))
        return result

    def compare(
        self, implementations: Mapping[str, Any], *inputs: Any, **options: Any
    ) -> CheckResult:
        """Return what `gradcheck.compare` finds among several forms of one function."""
        __tracebackhide__ = True
        from gradcheck.api import compare

        return self._record(compare, implementations, inputs, options)

    def check_sequence(self, target: Any, *inputs: Any, **options: Any) -> CheckResult:
        """Return what `gradcheck.check_sequence` finds about what reads a sequence."""
        __tracebackhide__ = True
        from gradcheck.recurrent import check_sequence

        return self._record(check_sequence, target, inputs, options)

    def check_fixed_point(self, layer: Any, *inputs: Any, **options: Any) -> CheckResult:
        """Return what `gradcheck.check_fixed_point` finds about what relaxes to a fixed point."""
        __tracebackhide__ = True
        from gradcheck.recurrent import check_fixed_point

        return self._record(check_fixed_point, layer, inputs, options)

    def against_reference(
        self, layer: Any, reference: Any, *inputs: Any, **options: Any
    ) -> CheckResult:
        """Return what `gradcheck.against_reference` finds between a layer and the reference's."""
        __tracebackhide__ = True
        from gradcheck.against import against_reference

        return self._record(against_reference, layer, (reference, *inputs), options)

    def find_culprit(self, target: Any, *inputs: Any, **options: Any) -> Blame:
        """Return which part of a network `gradcheck.find_culprit` finds to be wrong."""
        __tracebackhide__ = True
        from gradcheck.culprit import find_culprit

        found: list[Blame] = []

        def asked(*args: Any, **kwargs: Any) -> CheckResult:
            found.append(find_culprit(*args, **kwargs))
            return found[0].result

        self.unread.discard(self._record(asked, target, inputs, options).name)
        return found[0]

    @property
    def reference(self) -> ModuleType:
        """`gradcheck.reference`, the layers that `against_reference` compares with."""
        from gradcheck import reference

        return reference

    @property
    def Rule(self) -> type[Rule]:
        """`gradcheck.Rule`, which the fixture's name hides inside a test."""
        from gradcheck.api import Rule

        return Rule

    def _record(
        self,
        function: Callable[..., CheckResult],
        target: Any,
        inputs: Sequence[Any],
        options: Mapping[str, Any],
    ) -> CheckResult:
        __tracebackhide__ = True
        from gradcheck.errors import InputError
        from gradcheck.listeners import unheard
        from gradcheck.reading import read_by

        replay = self.again
        if "seed" not in options:
            replay += f" --gradcheck-seed={self.seed}"
        try:
            with unheard():
                result = function(target, *inputs, **{"seed": self.seed, **options})
        except InputError as error:
            raise error.with_traceback(None) from error.__cause__  # the message says it all
        result = replace(result, name=self._name(options.get("name")), replay=replay)
        self.recorded.append(result)
        self.unread.add(result.name)
        return read_by(lambda: self.unread.discard(result.name), result)

    def hear(self, result: CheckResult) -> None:
        """Record the result of a function of the package that the test called itself."""
        name = self._name(result.name)
        self.recorded.append(replace(result, name=name, replay=self.again))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show Hypothesis what `repr` shows: it would print all that is recorded."""
        printer.text(repr(self))

    def _name(self, given: str | None) -> str:
        """Return a name that no other result of this session has."""
        name = self.test if given is None else f"{self.test}: {given}"
        taken = {result.name for result in self.recorded}
        numbered = (f"{name} ({count})" for count in range(2, len(taken) + 3))
        return next(name for name in (name, *numbered) if name not in taken)


OPTIONS = pytest.StashKey[Options]()
TARGETS: pytest.StashKey[Targets] = pytest.StashKey()
FIXTURE = pytest.StashKey[Gradcheck]()  # on a test, once it has checked something
RUNNING = pytest.StashKey[pytest.Item]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradcheck", "verification of gradients")
    group.addoption(
        "--gradcheck-report",
        action="append",
        default=[],
        metavar="PATH",
        help="Write every result, of the fixture `gradcheck` and of the package's functions, to "
        "PATH, as .html or .json; give it twice for both.",
    )
    group.addoption(
        "--gradcheck-seed",
        metavar="N",
        help="Seed of the directions that are probed and of the examples of layer suites, or "
        f"`random`; default {DEFAULT_SEED}, or `gradcheck_seed` of the configuration file.",
    )
    group.addoption(
        "--gradcheck-record",
        metavar="FILE",
        help="Write the names of all targets that were checked to FILE, for `gradcheck scan "
        "--checked FILE`.",
    )
    parser.addini("gradcheck_seed", "Seed of all that is drawn, or `random`.", default=None)


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[OPTIONS] = Options(seed=worker["gradcheck_seed"], reports=())
        _listen(config, wanted=worker["gradcheck_record"])
        _hear(config, wanted=worker["gradcheck_reports"])
        return
    options = Options(seed=_seed(config), reports=_reports(config), record=_record(config))
    if config.option.collectonly:
        options = replace(options, reports=(), record=None)  # no test will run
    config.stash[OPTIONS] = options
    _listen(config, wanted=options.record is not None)
    _hear(config, wanted=bool(options.reports))
    config.pluginmanager.register(Collector(config, options), "gradcheck-collector")


def _seed(config: pytest.Config) -> int:
    from gradcheck.settings import SEEDS

    given, source = config.getoption("gradcheck_seed"), "--gradcheck-seed"
    if given is None:
        given, source = config.getini("gradcheck_seed") or DEFAULT_SEED, "gradcheck_seed"
    given = str(given)
    if given == "random":
        return secrets.randbelow(2**32)
    if not (given.isdecimal() and int(given) < SEEDS):
        raise pytest.UsageError(f"{source}: expected a number below 2**63 or random; got {given!r}")
    return int(given)


def _reports(config: pytest.Config) -> tuple[Path, ...]:
    given: list[str] = config.option.gradcheck_report
    if not given:
        return ()
    from gradcheck.reports.formats import unusable

    paths = tuple(config.invocation_params.dir / path for path in given)
    for path in paths:
        if (why := unusable(path)) is not None:
            raise pytest.UsageError(f"--gradcheck-report: {why}")
    return paths


def _record(config: pytest.Config) -> Path | None:
    given: str | None = config.option.gradcheck_record
    if given is None:
        return None
    path = config.invocation_params.dir / given
    if path.is_dir() or not path.parent.is_dir():
        raise pytest.UsageError(
            f"--gradcheck-record: expected a file in a folder that exists; got {given!r}"
        )
    return path


def _listen(config: pytest.Config, *, wanted: bool) -> None:
    """Have every target noted that anything in this process checks, with the fixture or without."""
    if not wanted:
        return
    from gradcheck import listeners
    from gradcheck.scan import Targets

    targets = Targets()
    config.stash[TARGETS] = targets
    listeners.TARGETS.append(targets.add)
    config.add_cleanup(lambda: listeners.TARGETS.remove(targets.add))


def _hear(config: pytest.Config, *, wanted: bool) -> None:
    """Have every result recorded that a test finds without the fixture."""
    if not wanted:
        return
    from gradcheck import listeners

    def hear(result: CheckResult) -> None:
        item = config.stash.get(RUNNING, None)
        if item is not None:
            _fixture(item).hear(result)

    listeners.RESULTS.append(hear)
    config.add_cleanup(lambda: listeners.RESULTS.remove(hear))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.config.stash[RUNNING] = item
    try:
        return (yield)
    finally:
        del item.config.stash[RUNNING]


@pytest.fixture
def gradcheck(request: pytest.FixtureRequest) -> Gradcheck:
    """Check gradients; results are recorded under the test's id.

    `check`, `assert_gradients`, `compare`, `check_sequence`, `check_fixed_point`,
    `against_reference` and `Rule`, as in the package.
    """
    return _fixture(request.node)


def _fixture(item: pytest.Item) -> Gradcheck:
    here, (_, *names) = item.config.invocation_params.dir, item.nodeid.split("::")
    path = os.path.relpath(item.path, here) if item.path.drive == here.drive else str(item.path)
    again = f"pytest {shlex.quote('::'.join([path, *names]))}"
    seed = item.config.stash[OPTIONS].seed
    return item.stash.setdefault(FIXTURE, Gradcheck(test=item.nodeid, seed=seed, again=again))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget what an earlier run of the same test recorded (`--reruns`, `--count`)."""
    if FIXTURE in item.stash:
        del item.stash[FIXTURE]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fixture = item.stash.get(FIXTURE, None)
    if fixture is not None:
        texts = [result.to_json() for result in fixture.recorded]
        setattr(report, PAYLOAD, (texts, sorted(fixture.unread)))
    if (targets := item.config.stash.get(TARGETS, None)) is not None:
        setattr(report, CHECKED, targets.drain())
    return report
