"""What gradcheck says: frozen plain values that pickle, compare and become JSON.

Floats, strings and tuples only; no arrays, no exceptions. A report is a pure function of these.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "SCHEMA_VERSION",
    "Agreement",
    "CheckResult",
    "Entry",
    "Evaluations",
    "Finding",
    "Power",
    "Reason",
    "Report",
    "Step",
    "SuiteRecord",
    "Verdict",
    "worst",
]

SCHEMA_VERSION = 1


class Verdict(StrEnum):
    """The four answers, in the order from good to bad."""

    PASS = "pass"
    INCONCLUSIVE = "inconclusive"  # the oracle could not resolve the tolerance
    FAIL = "fail"
    ERROR = "error"  # the target raised


class Reason(StrEnum):
    """Why a finding is not a plain yes or no; `message` says it in a sentence."""

    VACUOUS = "vacuous"  # nothing but rounding depends on the leaf at this point
    KINK = "kink"  # the point lies on a kink, or right beside one
    JUMP = "jump"  # the value or the gradient jumps
    CONTRADICTING = "contradicting"  # slopes along different directions do not add up


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of `verdicts`; PASS when there are none."""
    order = list(Verdict)
    return max(verdicts, key=order.index, default=Verdict.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One located wrong entry of a gradient: what the target says, what the oracle says."""

    index: tuple[int, ...]
    got: float  # of a complex entry, the real part
    wanted: float
    error_bar: float  # half-width of the oracle's interval around `wanted`, same unit
    imaginary: tuple[float, float] | None = None  # parts of `got` and `wanted`, where it is complex

    @property
    def pair(self) -> tuple[complex, complex]:
        """Got and wanted, whole."""
        imaginary = self.imaginary or (0.0, 0.0)
        return complex(self.got, imaginary[0]), complex(self.wanted, imaginary[1])

    @property
    def off(self) -> float:
        got, wanted = self.pair
        return abs(got - wanted)

    @property
    def size(self) -> float:
        """The larger of both."""
        return max(map(abs, self.pair))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One point of the plot of error against step."""

    h: float  # absolute step along the probe's direction, in units of the leaf
    mismatch: float  # |difference quotient - target| / scale of the probe
    error_bar: float  # the oracle's own estimate of its error at this step, same unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """A kind of fault, and how small one is that the check was proved to catch."""

    fault: str  # what is scaled: "leaf", "slice of axis 1", "entry"
    smallest: float  # relative error; infinite if no fault of this kind is caught


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One verdict with its evidence.

    `mismatch` is the relative difference between target and oracle, `resolution` the relative
    half-width of the oracle's error bar: the smallest difference that could have been seen.
    """

    check: str
    leaf: str
    verdict: Verdict
    mismatch: float
    resolution: float
    tolerance: float
    oracle: str
    message: str
    entries: tuple[Entry, ...] = ()
    diagnosis: str | None = None
    reason: Reason | None = None
    steps: tuple[Step, ...] = ()
    power: tuple[Power, ...] = ()  # of a pass: proved by putting faults into the gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluations:
    """How often the target was run."""

    forward: int
    vjp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What one check of one target found."""

    name: str
    target: str  # the layer or network, as its author would write it
    seed: int
    findings: tuple[Finding, ...]
    environment: tuple[tuple[str, str], ...]
    evaluations: Evaluations
    elapsed_s: float
    replay: str = ""  # a line that runs this check again
    odd_one_out: str | None = None  # which implementation disagrees with all others
    not_checked: tuple[str, ...] = ()  # what was left out, and why

    @property
    def verdict(self) -> Verdict:
        if not self.findings:  # an empty set passes by definition, and nothing was found right
            return Verdict.INCONCLUSIVE
        return worst(finding.verdict for finding in self.findings)

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.PASS

    @property
    def resolution(self) -> float:
        """The coarsest resolution among the findings: what this check would surely have seen."""
        return max((finding.resolution for finding in self.findings), default=float("nan"))

    def __bool__(self) -> bool:
        """Whether it passed: `assert check(...)` means what it seems to."""
        return self.passed

    def __repr__(self) -> str:
        return f"<CheckResult {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        from gradcheck.text import describe  # text is above the plain values it reads

        return describe(self)

    def to_json(self) -> str:
        from gradcheck.records import encode

        return encode(self)

    def _repr_html_(self) -> str:
        from gradcheck.reports.html import result_fragment  # the one door to notebooks

        return result_fragment(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well two sources agreed on one kind of layer, over all examples of a suite."""

    layer: str  # "LSTM", "Conv", ...
    pair: tuple[str, str]  # of "reference", "finite differences", "torch", "jax"
    compared: int  # how many leaves were compared
    worst: float  # the largest relative difference that was seen
    tolerance: float  # the difference that would have been a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRecord:
    """What one suite of generated networks found: failures in full, passes as counts."""

    name: str
    examples: int
    elapsed_s: float
    agreements: tuple[Agreement, ...]
    failures: tuple[CheckResult, ...]  # each shrunk to a minimal network
    not_checked: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return worst(result.verdict for result in self.failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything one run found: suites, single checks, or both."""

    title: str
    command: str
    created: str  # ISO 8601, UTC
    seed: int
    elapsed_s: float
    environment: tuple[tuple[str, str], ...]
    suites: tuple[SuiteRecord, ...] = ()
    results: tuple[CheckResult, ...] = ()
    not_checked: tuple[str, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def verdict(self) -> Verdict:
        parts: list[SuiteRecord | CheckResult] = [*self.suites, *self.results]
        return worst(part.verdict for part in parts)
