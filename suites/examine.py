"""One network at one point: do all sources agree, in value and in every gradient?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from gradcheck.adapters import problem_of
from gradcheck.environment import describe_environment
from gradcheck.errors import InputError
from gradcheck.inquiry import check_problem, compare_problems, not_corresponding
from gradcheck.reference.embedding import Embedding
from gradcheck.reference.fixed_point import FixedPoint, Unrolled
from gradcheck.reference.layer import Layer
from gradcheck.reference.recurrent import Recurrent
from gradcheck.results import CheckResult, Evaluations, Verdict
from gradcheck.settings import Settings
from gradcheck.suites.chunks import Chunked
from gradcheck.suites.layouts import Strided
from gradcheck.suites.networks import Network, Point, arrays, parts
from gradcheck.suites.twins import twins
from gradcheck.suites.twins.missing import NoTwin
from gradcheck.triangulate import Difference

__all__ = ["BACKENDS", "DIFFERENCES", "REFERENCE", "Examination", "examine"]

BACKENDS = ("torch", "jax")
REFERENCE, DIFFERENCES = "reference", "finite differences"

AGREEMENT = "agreement"

# Steps of an unrolled fixed point. The suites draw contractions by at most 0.9: 0.9⁴⁰⁰ = 5e-19.
UNROLLED = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What one examination found, and how close each pair of sources came."""

    result: CheckResult
    differences: tuple[Difference, ...]


def examine(
    network: Network, point: Point, *, backends: Sequence[str] = BACKENDS, differences: bool = True
) -> Examination:
    """Compare the reference with its twins, and with finite differences, at one point.

    Args:
        network: the layer and what it takes.
        point: which values.
        backends: "torch", "jax", both or neither; what a framework cannot run is said.
        differences: whether to run finite differences, the expensive part.
    """
    started = perf_counter()
    params, inputs = arrays(network, point)
    problems = {REFERENCE: problem_of(network.layer, inputs, params=params, name=REFERENCE)}
    for name, other in _relatives(network.layer).items():
        problems[name] = problem_of(other, inputs, params=params, name=name)
    not_checked: list[str] = []
    for backend in backends:
        try:
            problems |= twins(backend, network.layer, params, inputs)
            if backend == "torch":  # an array of JAX has no strides to choose
                apart = twins(backend, Strided(inner=network.layer), params, inputs)
                problems["torch, strided"] = apart[backend]
        except NoTwin as missing:
            not_checked.append(str(missing))
    settings = Settings(seed=point.seed, probes=1)
    close: tuple[Difference, ...] = ()
    reason = next(_surrogates(network.layer), None)
    try:
        agreement, close = compare_problems(
            problems, settings, name=AGREEMENT, alone=True, arbitrate=reason is None
        )
    except InputError as error:  # a twin whose outputs or leaves have other shapes
        agreement = not_corresponding(AGREEMENT, error, settings)
    parts = [agreement]
    close = tuple(difference for difference in close if _is_telling(difference.pair))
    if reason is not None:
        not_checked.append(f"{DIFFERENCES}: {reason}")
    elif differences:
        slopes = check_problem(problems[REFERENCE], settings)
        close += _as_differences(slopes)
        parts.append(slopes)
    result = _joined(parts, network, point, backends, started)
    return Examination(result=replace(result, not_checked=tuple(not_checked)), differences=close)


def _relatives(layer: Layer) -> Mapping[str, Layer]:
    """The same function in the reference, written or laid out in another way."""
    others: dict[str, Layer] = {"reference, strided": Strided(inner=layer)}
    if isinstance(layer, FixedPoint):
        others["reference, unrolled"] = Unrolled(transition=layer.transition, steps=UNROLLED)
    if isinstance(layer, Chunked):
        others["reference, unchunked"] = layer.inner
    return others


def _is_telling(pair: tuple[str, str]) -> bool:
    """Whether a pair is worth a column: a variant only beside its own source."""
    one, other = pair
    return ", " not in one + other or other.startswith(f"{one}, ")


def _surrogates(layer: Layer) -> Iterator[str]:
    """Yield why, by declaration, the gradient of a part of `layer` is not its derivative."""
    for part in parts(layer):
        if isinstance(part, Recurrent) and part.truncation is not None:
            yield "truncated backpropagation through time is not the derivative, on purpose"
        if isinstance(part, Embedding) and part.padding_index is not None:
            yield "the padding row of an embedding is constant, on purpose"


def _as_differences(result: CheckResult) -> tuple[Difference, ...]:
    return tuple(
        Difference(pair=(REFERENCE, DIFFERENCES), leaf=finding.leaf, relative=finding.mismatch)
        for finding in result.findings
        if finding.verdict is not Verdict.INCONCLUSIVE
    )


def _joined(
    parts: Sequence[CheckResult],
    network: Network,
    point: Point,
    backends: Sequence[str],
    started: float,
) -> CheckResult:
    code = f"examine({network!r}, {point!r}, backends={tuple(backends)!r})"
    imports = "from gradcheck.reference import *; from gradcheck.suites import *"
    return CheckResult(
        name=f"{type(network.layer).__name__} at {point.flavour} values",
        target=repr(network),
        seed=point.seed,
        findings=tuple(finding for part in parts for finding in part.findings),
        environment=describe_environment(),
        evaluations=Evaluations(
            forward=sum(part.evaluations.forward for part in parts),
            vjp=sum(part.evaluations.vjp for part in parts),
        ),
        elapsed_s=perf_counter() - started,
        replay=f'python -c "{imports}; print({code}.result)"',
        odd_one_out=_odd(parts),
    )


def _odd(parts: Sequence[CheckResult]) -> str | None:
    """The odd one out; when the reference's twins all agree with it, finite differences decide."""
    named = [part.odd_one_out for part in parts if part.odd_one_out is not None]
    if named:
        return named[0]
    failing = [part for part in parts if part.verdict is Verdict.FAIL]
    if failing and all(part.name != AGREEMENT for part in failing):
        return REFERENCE  # and all that agree with it
    return None
