"""Generated suites for a layer: a builder and strategies in, one pytest test per check out.

```python
@gradcheck.layer_suite(features=st.integers(1, 5), batch=st.integers(1, 4))
def test_my_linear(features, batch, rng):
    return MyLinear(features), (rng.standard_normal((batch, features)),)
```

gives `test_my_linear[vjp]`, `test_my_linear[adjoint]` and so on. A failure is shrunk to the
smallest hyperparameters that fail. Runs are the same every time, without deadline and database;
`--gradcheck-seed=N` draws others, and the seed is printed.
"""

import inspect
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from types import ModuleType
from typing import Any, ClassVar, overload

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from gradcheck.api import check
from gradcheck.checks import CHECKS
from gradcheck.errors import GradientMismatch, InputError
from gradcheck.listeners import unheard
from gradcheck.options import a_count, asked_by_name, names_of_checks
from gradcheck.results import CheckResult, Verdict
from gradcheck.trees import rebuild

__all__ = ["LayerSuite", "layer_suite"]

DTYPES = ("float64", "float32", "float16", "bfloat16")  # that PyTorch takes as its default

OPTIONS = frozenset(inspect.signature(check).parameters) - {"target", "inputs", "checks"}

EXAMPLES = 20  # a second or two for a small layer and all checks

Builder = Callable[..., tuple[Any, Sequence[Any]]]


@overload
def layer_suite(builder: Builder, /) -> Callable[..., None]: ...
@overload
def layer_suite(
    *,
    skip: Mapping[str, str] | None = None,
    checks: Sequence[str] | str = "default",
    examples: int = EXAMPLES,
    dtype: str | None = "float64",
    options: Mapping[str, Any] | None = None,
    **hyperparameters: SearchStrategy[Any],
) -> Callable[[Builder], Callable[..., None]]: ...
def layer_suite(
    builder: Builder | None = None,
    /,
    *,
    skip: Mapping[str, str] | None = None,
    checks: Sequence[str] | str = "default",
    examples: int = EXAMPLES,
    dtype: str | None = "float64",
    options: Mapping[str, Any] | None = None,
    **hyperparameters: SearchStrategy[Any],
) -> Any:
    """Return a decorator that turns a builder into one pytest test per check.

    The builder is given the hyperparameters by name, and a NumPy generator if it asks for `rng`. It
    returns the target, anything that `gradcheck.check` takes, and a tuple of its inputs. Its other
    arguments are fixtures of pytest; it may be a method, and it may have marks.

    Args:
        skip: name of a check -> the reason why this layer need not pass it; shown by pytest.
        checks: names of checks, "default" or "all".
        examples: how many sets of hyperparameters each check tries.
        dtype: PyTorch's default dtype while the layer is built and checked, and that of the arrays
            in float64 among its inputs, as NumPy draws them; None leaves both alone.
        options: keywords for every `gradcheck.check`: `rtol`, `wrt`, `declared`, ...
        hyperparameters: a Hypothesis strategy for each of these arguments of the builder.

    Raises:
        InputError: an opt-out without a reason, an unknown check, a hyperparameter that is no
            strategy or that the builder does not take.

    Warns:
        UserWarning: an opt-out matches no check of the suite.
    """

    def decorate(builder: Builder) -> Callable[..., None]:
        suite = Suite(
            name=builder.__name__,
            parameters=_parameters(builder),
            strategies=hyperparameters,
            skip=skip or {},
            checks=names_of_checks(checks),
            asked=asked_by_name(checks),
            examples=examples,
            dtype=dtype,
            options=options or {},
        )
        suite.validate()

        @wraps(builder)  # pytest shows where the builder is, and takes over its marks
        def test(*owner: Any, asked: str, **filled: Any) -> None:
            __tracebackhide__ = True
            given = suite.given(filled)
            suite.run(asked, filled["request"], lambda **drawn: builder(*owner, **drawn, **given))

        _sign(test, suite.fixtures, "asked")
        marked: Callable[..., None] = pytest.mark.parametrize(
            "asked", [pytest.param(name, marks=suite.marks(name)) for name in suite.checks]
        )(test)
        return marked

    return decorate if builder is None else decorate(builder)


class LayerSuite:
    """The same as a class: strategies are attributes, `build` is the builder.

    ```python
    class TestMyLinear(gradcheck.LayerSuite):
        features = st.integers(1, 5)
        skip = {"layout": "the kernel takes contiguous arrays only"}

        def build(self, features, rng):
            return MyLinear(features), (rng.standard_normal((2, features)),)
    ```

    A subclass gets a method `test_vjp`, `test_adjoint`, ... for each check that it does not write
    itself; one of another suite has its own and none of that suite's. The attributes `skip`,
    `checks`, `examples`, `dtype` and `options` are the arguments of `layer_suite`.
    """

    skip: ClassVar[Mapping[str, str]] = {}
    checks: ClassVar[Sequence[str] | str] = "default"
    examples: ClassVar[int] = EXAMPLES
    dtype: ClassVar[str | None] = "float64"
    options: ClassVar[Mapping[str, Any]] = {}

    build: Builder

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not hasattr(cls, "build"):  # a base of suites
            if cls.__name__.startswith("Test"):
                warnings.warn(f"{cls.__name__} has no method build: it makes no test", stacklevel=2)
            return
        suite = cls._suite()
        suite.validate()
        for name in CHECKS:  # also those that only a suite above asks
            written = getattr(cls, f"test_{name}", None)
            if f"test_{name}" in vars(cls) or (written and not hasattr(written, MADE)):
                continue
            made = _method(cls.build, suite, name) if name in suite.checks else None
            setattr(cls, f"test_{name}", made)

    @classmethod
    def _suite(cls) -> "Suite":
        attributes = {name: getattr(cls, name) for name in dir(cls) if name not in vars(LayerSuite)}
        return Suite(
            name=cls.__name__,
            parameters=_parameters(cls.build),
            strategies={
                name: value
                for name, value in attributes.items()
                if isinstance(value, SearchStrategy)
            },
            skip=cls.skip,
            checks=names_of_checks(cls.checks),
            asked=asked_by_name(cls.checks),
            examples=cls.examples,
            dtype=cls.dtype,
            options=cls.options,
        )


MADE = "_gradcheck_made"  # on a method that nobody wrote


def _method(build: Builder, suite: "Suite", name: str) -> Callable[..., None]:
    @wraps(build)
    def test(self: LayerSuite, **filled: Any) -> None:
        __tracebackhide__ = True
        given = suite.given(filled)
        suite.run(name, filled["request"], lambda **drawn: self.build(**drawn, **given))

    test.__name__ = f"test_{name}"
    setattr(test, MADE, True)
    _sign(test, suite.fixtures)
    for mark in suite.marks(name):
        test = mark(test)
    return test


def _parameters(builder: Builder) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(builder).parameters.values())


def _sign(test: Any, fixtures: Sequence[inspect.Parameter], *others: str) -> None:
    """Have pytest see the arguments that it must fill in."""
    by_name = inspect.Parameter.KEYWORD_ONLY
    ours = {name: inspect.Parameter(name, by_name) for name in ("request", *others)}
    theirs = {p.name: p if p.name == SELF else p.replace(kind=by_name) for p in fixtures}
    both = {**ours, **theirs}.values()
    test.__signature__ = inspect.Signature(sorted(both, key=lambda p: p.kind))


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What the checks of a layer need besides its builder."""

    name: str
    parameters: tuple[inspect.Parameter, ...]  # of the builder
    strategies: Mapping[str, SearchStrategy[Any]]
    skip: Mapping[str, str]
    checks: tuple[str, ...]
    asked: tuple[str, ...]  # by name: those must not be inconclusive
    examples: int
    dtype: str | None
    options: Mapping[str, Any]

    @property
    def fixtures(self) -> list[inspect.Parameter]:
        """The parameters of the builder that pytest fills in, and `self`."""
        ours = {*self.strategies, RNG}
        given = [p for p in self.parameters if p.kind in NAMED and p.name not in ours]
        return [p for p in given if p.default is p.empty]

    def given(self, filled: Mapping[str, Any]) -> dict[str, Any]:
        """What the builder asked for, of what pytest filled in."""
        return {p.name: filled[p.name] for p in self.fixtures if p.name in filled}

    def validate(self) -> None:
        """Refuse what cannot work, warn of an opt-out that matches nothing."""
        for option, given in (("skip", self.skip), ("options", self.options)):
            if not isinstance(given, Mapping):
                kind = "names of checks to reasons" if option == "skip" else "keywords to values"
                raise InputError(
                    f"expected {option} of {self.name} to map {kind}; got {given!r:.80}"
                )
        for name, reason in self.skip.items():
            if not (isinstance(reason, str) and reason.strip()):
                raise InputError(
                    f"expected a reason to skip {name!r} in {self.name}; got {reason!r}"
                )
            if name not in self.checks:
                warnings.warn(
                    f"{self.name} skips {name!r}, which is none of its checks: "
                    f"{', '.join(self.checks)}",
                    stacklevel=3,  # who wrote the suite
                )
        for name, strategy in self.strategies.items():
            if not isinstance(strategy, SearchStrategy):
                raise InputError(
                    f"expected {name} of {self.name} to be a Hypothesis strategy; "
                    f"got {strategy!r}. A constant belongs into the builder."
                )
        a_count(f"examples of {self.name}", self.examples, "sets", is_needed=True)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(
                f"expected dtype of {self.name} to be None or one of {', '.join(DTYPES)}; "
                f"got {self.dtype!r}"
            )
        if unknown := sorted(set(self.options) - OPTIONS):
            raise InputError(
                f"expected options of {self.name} among {sorted(OPTIONS)}; got {unknown}"
            )
        accepted = {p.name for p in self.parameters if p.kind in NAMED}
        takes_all = any(p.kind is p.VAR_KEYWORD for p in self.parameters)
        if not takes_all and (unknown := sorted(set(self.strategies) - accepted)):
            raise InputError(f"{self.name} does not take {', '.join(unknown)}")

    def marks(self, name: str) -> list[pytest.MarkDecorator]:
        return [pytest.mark.skip(reason=self.skip[name])] if name in self.skip else []

    def run(self, name: str, request: pytest.FixtureRequest, builder: Builder) -> None:
        """Ask one check of all examples; a failure is that of the smallest hyperparameters.

        One result goes to the plugin, if it is there: the failure, or the pass that saw least.
        """
        __tracebackhide__ = _is_traced
        found = Found(request, is_asked=name in self.asked)

        def example(**drawn: Any) -> None:
            __tracebackhide__ = True
            number = drawn.pop(RNG, None)
            shown = ", ".join(f"{key}={value!r}" for key, value in drawn.items())
            if number is not None:
                drawn[RNG] = np.random.default_rng([found.seed, number])
                shown += f", {RNG} {number}" if number else ""  # "rng 0" is what it shrinks to
            options = {"name": f"{self.name}({shown})", "seed": found.seed, **self.options}
            with _surroundings(self.dtype, number or 0):
                target, inputs = _pair(self.name, builder(**drawn))
                inputs = _cast(inputs, self.dtype)
                with unheard():
                    result = check(target, *inputs, **{**options, "checks": (name,)})
                result = found.keep(result)
            if result.verdict is Verdict.ERROR:
                raise GradientMismatch(str(result))
            if result.verdict is Verdict.FAIL:  # a line of its own: shrinking keeps to one line
                raise GradientMismatch(str(result))

        example.__name__ = self.name
        failure = None
        try:
            self._property(example, found.seed)()
            failure = None if found.undecided is None else str(found.undecided)
        except GradientMismatch as mismatch:
            failure = str(mismatch)  # without the frames of Hypothesis and of ours
        except Flaky:
            if found.failed is None:
                raise
            failure = f"{found.failed}\n{FLAKY}"
        except InputError as error:
            failure = "\n".join([str(error), *getattr(error, "__notes__", ())])
        finally:
            found.record()
        if failure is not None:
            path, line, where = request.node.location
            pytest.fail(f"{failure}\n\n{path}:{line + 1}: {where}", pytrace=False)
        if not found.findings:
            pytest.skip("; ".join(found.not_checked) or "nothing was checked")

    def _property(self, example: Callable[..., None], seed: int) -> Callable[[], None]:
        numbers = {RNG: NUMBERS} if any(p.name == RNG for p in self.parameters) else {}
        strategies = {**self.strategies, **numbers}
        if not strategies:
            return example
        chosen = hypothesis.settings(
            max_examples=self.examples,
            deadline=None,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=[hypothesis.HealthCheck.too_slow],
        )
        run: Callable[[], None] = hypothesis.seed(seed)(
            chosen(hypothesis.given(**strategies)(example))
        )
        return run


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
RNG, SELF = "rng", "self"  # arguments of a builder with a meaning
FLAKY = "      asked again with the same arguments it passed: the target is not deterministic"

# What the generator is seeded with: another point in every example. It is drawn last and so shrunk
# last; more numbers would only make that take longer.
NUMBERS = st.integers(0, 255)


def _is_traced(raised: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether pytest shows a traceback: of one that it does not, it would say that it is hidden."""
    return getattr(raised.value, "pytrace", True)


class Found:
    """What one check said of the examples so far."""

    def __init__(self, request: pytest.FixtureRequest, *, is_asked: bool) -> None:
        plugins = request.config.pluginmanager
        has_fixture = any(plugin.__name__ == "gradcheck.plugin" for plugin in _modules(plugins))
        self.fixture: Any = request.getfixturevalue("gradcheck") if has_fixture else None
        self.seed: int = 0 if self.fixture is None else self.fixture.seed
        self.test: str = request.node.nodeid
        self.replay = f"pytest {shlex.quote(self.test)}"
        if self.fixture is not None:
            self.replay = f"{self.fixture.again} --gradcheck-seed={self.seed}"
        self.is_asked = is_asked
        self.failed: CheckResult | None = None  # the last: what was shrunk to
        self.undecided: CheckResult | None = None  # the first: Hypothesis begins with simple ones
        self.passed: CheckResult | None = None  # the one that saw least
        self.findings = 0
        self.not_checked: dict[str, None] = {}  # a set that keeps the order

    def keep(self, result: CheckResult) -> CheckResult:
        """Return `result`, less what is inconclusive if nobody asked for this check by name."""
        if not self.is_asked:
            open_ = [f for f in result.findings if f.verdict is Verdict.INCONCLUSIVE]
            notes = (f"{f.check} at {f.leaf}: {f.message}" for f in open_)
            result = replace(
                result,
                findings=tuple(f for f in result.findings if f not in open_),
                not_checked=(*result.not_checked, *notes),
            )
        result = replace(result, replay=self.replay)
        match result.verdict:
            case _ if not result.findings:  # nothing to record
                pass
            case Verdict.PASS:
                if self.passed is None or not self.passed.resolution >= result.resolution:
                    self.passed = result
            case Verdict.INCONCLUSIVE:
                self.undecided = result if self.undecided is None else self.undecided
            case _:
                self.failed = result
        self.findings += len(result.findings)
        self.not_checked |= dict.fromkeys(result.not_checked)
        return result

    def record(self) -> None:
        """Hand one result to the fixture `gradcheck`, under the test's id: it has one in each run.

        The session's report is made of it; what was built for it becomes the target.
        """
        found = (self.failed, self.undecided, self.passed)
        result = next((result for result in found if result is not None), None)
        if self.fixture is not None and result is not None:
            target = dict.fromkeys((result.name, result.target))
            named = replace(result, name=self.test, target=" = ".join(target))
            self.fixture.recorded.append(named)


def _modules(plugins: pytest.PytestPluginManager) -> list[ModuleType]:
    return [plugin for plugin in plugins.get_plugins() if isinstance(plugin, ModuleType)]


def _pair(name: str, made: Any) -> tuple[Any, Sequence[Any]]:
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], (tuple, list))):
        raise InputError(
            f"expected {name} to return (target, inputs), with the inputs in a tuple; "
            f"got {made!r:.60}"
        )
    return made


def _cast(inputs: Sequence[Any], dtype: str | None) -> Any:
    """Return `inputs` with the arrays that are in float64 in the dtype of the suite."""
    if dtype in (None, "float64"):
        return inputs
    torch = sys.modules.get("torch")

    def cast(_: str, leaf: Any) -> Any:
        if not (isinstance(leaf, np.ndarray) and leaf.dtype == np.float64):
            return leaf
        if dtype != "bfloat16":
            return leaf.astype(dtype)
        return torch.as_tensor(leaf, dtype=torch.bfloat16) if torch else leaf  # NumPy has none

    return rebuild(inputs, cast)


@contextmanager
def _surroundings(dtype: str | None, seed: int) -> Iterator[None]:
    """Seed PyTorch, if it is there, and set its default dtype; restore both.

    Python's and NumPy's generators are seeded by Hypothesis.
    """
    if (torch := sys.modules.get("torch")) is None:
        yield
        return
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(before if dtype is None else getattr(torch, dtype))
        try:
            yield
        finally:
            torch.set_default_dtype(before)
