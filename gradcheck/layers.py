"""Generated suites for a layer: a builder and strategies in, one pytest test per check out.

```python
@gradcheck.layer_suite(features=st.integers(1, 5), batch=st.integers(1, 4))
def test_my_linear(features, batch, rng):
    return MyLinear(features), (rng.standard_normal((batch, features)),)
```

gives `test_my_linear[vjp]`, `test_my_linear[adjoint]` and so on. A failure is shrunk to the
smallest hyperparameters that fail. Runs are the same every time: no deadline, no database, no
chance.
"""

import inspect
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import hypothesis
import numpy as np
import pytest
from hypothesis.strategies import SearchStrategy

from gradcheck.api import check
from gradcheck.checks import CHECKS
from gradcheck.errors import GradientMismatch, InputError
from gradcheck.results import CheckResult, Verdict

__all__ = ["LayerSuite", "layer_suite"]

EXAMPLES = 20  # a second or two for a small layer and all checks

Builder = Callable[..., tuple[Any, Sequence[Any]]]


def layer_suite(
    *,
    skip: Mapping[str, str] | None = None,
    checks: Sequence[str] | str = "default",
    examples: int = EXAMPLES,
    dtype: str | None = "float64",
    options: Mapping[str, Any] | None = None,
    **hyperparameters: SearchStrategy[Any],
) -> Callable[[Builder], Callable[..., None]]:
    """Return a decorator that turns a builder into one pytest test per check.

    The builder is given the hyperparameters by name, and a NumPy generator if it asks for `rng`. It
    returns the target, anything that `gradcheck.check` takes, and a tuple of its inputs.

    Args:
        skip: name of a check -> the reason why this layer need not pass it; shown by pytest.
        checks: names of checks, "default" or "all".
        examples: how many sets of hyperparameters each check tries.
        dtype: PyTorch's default dtype while the builder runs; None leaves it alone.
        options: keywords for every `gradcheck.check`: `rtol`, `wrt`, `declared`, ...
        hyperparameters: a Hypothesis strategy for each argument of the builder.

    Raises:
        InputError: an opt-out without a reason, an unknown check, an argument without a strategy.

    Warns:
        UserWarning: an opt-out matches no check of the suite.
    """

    def decorate(builder: Builder) -> Callable[..., None]:
        suite = Suite(
            name=builder.__name__,
            builder=builder,
            strategies=hyperparameters,
            skip=dict(skip or {}),
            checks=_names(checks),
            asked=_asked(checks),
            examples=examples,
            dtype=dtype,
            options=dict(options or {}),
        )
        suite.validate()

        def test(request: pytest.FixtureRequest, asked: str) -> None:
            __tracebackhide__ = True
            suite.run(asked, request)

        test.__name__ = builder.__name__
        test.__qualname__ = builder.__qualname__
        test.__module__ = builder.__module__
        test.__doc__ = builder.__doc__
        marked: Callable[..., None] = pytest.mark.parametrize(
            "asked", [pytest.param(name, marks=suite.marks(name)) for name in suite.checks]
        )(test)
        return marked

    return decorate


class LayerSuite:
    """The same as a class: strategies are attributes, `build` is the builder.

    ```python
    class TestMyLinear(gradcheck.LayerSuite):
        features = st.integers(1, 5)
        skip = {"second_order": "once differentiable by design"}

        def build(self, features, rng):
            return MyLinear(features), (rng.standard_normal((2, features)),)
    ```

    A subclass gets a method `test_vjp`, `test_adjoint`, ... for each check. The attributes `skip`,
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
            return
        suite = cls._suite(partial(cls.build, None))  # the first argument is `self`
        suite.validate()
        for name in CHECKS:
            known = f"test_{name}" in vars(cls)
            if name in suite.checks and not known:
                setattr(cls, f"test_{name}", _method(name, suite.marks(name)))

    @classmethod
    def _suite(cls, builder: Builder) -> "Suite":
        names = [name for name in dir(cls) if name not in vars(LayerSuite)]
        return Suite(
            name=cls.__name__,
            builder=builder,
            strategies={
                name: strategy
                for name in names
                if isinstance(strategy := getattr(cls, name), SearchStrategy)
            },
            skip=dict(cls.skip),
            checks=_names(cls.checks),
            asked=_asked(cls.checks),
            examples=cls.examples,
            dtype=cls.dtype,
            options=dict(cls.options),
        )


def _method(name: str, marks: Sequence[pytest.MarkDecorator]) -> Callable[..., None]:
    def test(self: LayerSuite, request: pytest.FixtureRequest) -> None:
        __tracebackhide__ = True
        self._suite(self.build).run(name, request)

    test.__name__ = f"test_{name}"
    for mark in marks:
        test = mark(test)
    return test


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A builder with what its checks need."""

    name: str
    builder: Builder
    strategies: Mapping[str, SearchStrategy[Any]]
    skip: Mapping[str, str]
    checks: tuple[str, ...]
    asked: tuple[str, ...]  # by name: those must not be inconclusive
    examples: int
    dtype: str | None
    options: Mapping[str, Any]

    def validate(self) -> None:
        """Refuse what cannot work, warn of an opt-out that matches nothing."""
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
        parameters = inspect.signature(self.builder).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty and p.kind in NAMED}
        accepted = {p.name for p in parameters if p.kind in NAMED}
        missing = sorted(needed - {*self.strategies, "rng"})
        if missing:
            raise InputError(f"{self.name} takes {', '.join(missing)}, without a strategy for it")
        if unknown := sorted(set(self.strategies) - accepted):
            raise InputError(f"{self.name} does not take {', '.join(unknown)}")

    def marks(self, name: str) -> list[pytest.MarkDecorator]:
        return [pytest.mark.skip(reason=self.skip[name])] if name in self.skip else []

    def run(self, name: str, request: pytest.FixtureRequest) -> None:
        """Ask one check of all examples; the last result goes to the plugin, if it is there.

        A failure is that of the smallest hyperparameters; its text is the result's.
        """
        __tracebackhide__ = True
        last = Last(request)
        takes_rng = "rng" in inspect.signature(self.builder).parameters

        def example(**drawn: Any) -> None:
            __tracebackhide__ = True
            rng = {"rng": np.random.default_rng(last.seed)} if takes_rng else {}
            with _surroundings(self.dtype, last.seed):
                made = self.builder(**drawn, **rng)
            target, inputs = _pair(self.name, made)
            shown = ", ".join(f"{key}={value!r}" for key, value in drawn.items())
            called = f"{self.name}({shown})"
            options = {"name": called, "seed": last.seed, **self.options, "checks": (name,)}
            result = last.keep(check(target, *inputs, **options), is_asked=name in self.asked)
            if result.verdict is Verdict.ERROR:
                raise GradientMismatch(str(result))
            if not result.passed:  # a line of its own, or shrinking takes one for the other
                raise GradientMismatch(str(result))

        example.__name__ = self.name
        failure = None
        try:
            self._property(example)()
        except GradientMismatch as mismatch:
            failure = str(mismatch)  # without the frames of Hypothesis and of ours
        except InputError as error:
            failure = "\n".join([str(error), *getattr(error, "__notes__", ())])
        finally:
            last.record()
        if failure is not None:
            pytest.fail(failure, pytrace=False)
        if not last.findings:
            pytest.skip("; ".join(last.not_checked) or "nothing was checked")

    def _property(self, example: Callable[..., None]) -> Callable[[], None]:
        if not self.strategies:
            return example
        chosen = hypothesis.settings(
            max_examples=self.examples,
            deadline=None,
            derandomize=True,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=[hypothesis.HealthCheck.too_slow],
        )
        run: Callable[[], None] = chosen(hypothesis.given(**self.strategies)(example))
        return run


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Last:
    """The last result; after shrinking, that of the smallest hyperparameters."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        has_plugin = hasattr(request.config.option, "gradcheck_seed")
        self.fixture: Any = request.getfixturevalue("gradcheck") if has_plugin else None
        self.seed: int = 0 if self.fixture is None else self.fixture.seed
        self.replay = f"pytest {shlex.quote(request.node.nodeid)}"
        if has_plugin:
            self.replay += f" --gradcheck-seed={self.seed}"
        self.result: CheckResult | None = None
        self.findings = 0
        self.not_checked: dict[str, None] = {}  # a set that keeps the order

    def keep(self, result: CheckResult, *, is_asked: bool) -> CheckResult:
        """Return `result`, less what is inconclusive if nobody asked for this check by name."""
        if not is_asked:
            open_ = [f for f in result.findings if f.verdict is Verdict.INCONCLUSIVE]
            notes = (f"{f.check} at {f.leaf}: {f.message}" for f in open_)
            result = replace(
                result,
                findings=tuple(f for f in result.findings if f not in open_),
                not_checked=(*result.not_checked, *notes),
            )
        self.result = replace(result, replay=self.replay)
        self.findings += len(result.findings)
        self.not_checked |= dict.fromkeys(result.not_checked)
        return self.result

    def record(self) -> None:
        """Hand the result to the fixture `gradcheck`, of which the session's report is made."""
        if self.fixture is not None and self.result is not None:
            self.fixture.recorded.append(self.result)


def _asked(checks: Sequence[str] | str) -> tuple[str, ...]:
    """Return the checks that must not be inconclusive: as in `gradcheck.check`."""
    return ("vjp",) if checks == "default" else _names(checks)


def _names(checks: Sequence[str] | str) -> tuple[str, ...]:
    if checks in ("default", "all"):
        return tuple(key for key, known in CHECKS.items() if known.by_default or checks == "all")
    names = (checks,) if isinstance(checks, str) else tuple(checks)
    if not names or any(name not in CHECKS for name in names):
        raise InputError(f"expected checks among {sorted(CHECKS)}; got {checks!r}")
    return names


def _pair(name: str, made: Any) -> tuple[Any, Sequence[Any]]:
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], (tuple, list))):
        raise InputError(
            f"expected {name} to return (target, inputs), with the inputs in a tuple; "
            f"got {made!r:.60}"
        )
    return made


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
