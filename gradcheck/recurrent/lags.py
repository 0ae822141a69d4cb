"""The Jacobian of a sequence layer, block by block: ∂y_t/∂x_s for every pair of times.

An error of a long memory hides in the whole gradient: what reaches step t from t - 32 is smaller
than what reaches it from t - 1 by the decay of 31 steps. Each block ⟨u_t, (∂y_t/∂x_s) v_s⟩ is
therefore asked alone and judged by its own size. One VJP for each t gives every claimed block, and
one ladder of differences for each s every true one.

Differences screen: what they suspect is asked once more, as a problem of that block alone, with
everything that the check "vjp" does before it accuses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gradcheck.answers import Answers
from gradcheck.inquiry import check_problem
from gradcheck.probes import cotangent, direction, scale
from gradcheck.problem import Array, Problem, inner, norm
from gradcheck.recurrent.slices import Part, seen, step
from gradcheck.results import Entry, Finding, Verdict
from gradcheck.settings import SIGNIFICANCE, Settings

__all__ = ["Block", "Lags", "before_the_first", "is_in_chunks", "judged", "moments", "screened"]

# The first step of the screen, in units of the slice's size, is this times the fourth root of
# epsilon: 2⁻¹¹ in float64. A relu has its kink within it once in two thousand, and the rounding at
# the last step is 1e-12 of the output.
FIRST = 4.0

MOST = 48  # times that are looked at in a longer sequence: their pairs are a thousand blocks

# The engine holds this many gradients of the sequence, in numbers, while it screens: 256 MiB.
HELD = 2**25

# A block is seen if an error of a hundredth of it would be: what goes wrong with a memory (a carry
# that is lost, an index that is off) is as large as the block.
SEEN = 1e-2

RECHECKED = 6  # lags at which a suspect is asked once more; a few more, where wrong ones begin

SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What is claimed and what is true of ⟨u_t, (∂y_t/∂x_s) v_s⟩."""

    t: int  # of the output
    s: int  # of the input
    got: float
    wanted: float
    error_bar: float
    size: float  # of the block if nothing cancelled in it

    @property
    def lag(self) -> int:
        return self.t - self.s

    @property
    def mismatch(self) -> float:
        return abs(self.got - self.wanted) / self.size if self.size else 0.0

    @property
    def bars_off(self) -> float:
        off = abs(self.got - self.wanted)
        return off / self.error_bar if self.error_bar else np.inf

    @property
    def is_seen(self) -> bool:
        return SIGNIFICANCE * self.error_bar <= SEEN * self.size

    @property
    def is_still(self) -> bool:
        """Whether nothing moves, and nothing is claimed to."""
        return self.got == 0 and self.wanted == 0

    def is_suspect(self, tolerance: float) -> bool:
        off = abs(self.got - self.wanted)
        return off > SIGNIFICANCE * self.error_bar and off > tolerance * self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Lags:
    """All blocks of one output and one sequence."""

    x: int  # the leaf that is the sequence
    axis: int  # of its time
    output: int
    out_axis: int  # of the time of the output
    blocks: tuple[Block, ...]

    @property
    def unseen(self) -> tuple[Block, ...]:
        """The blocks of which nothing is known.

        One in which nothing moves is right if it looks into the future, or whatever direction
        nothing flows in; where something flows it may be too small to be seen.
        """
        flows = {b.lag > 0 for b in self.blocks if b.lag and not b.is_still}
        return tuple(
            b
            for b in self.blocks
            if not b.is_seen and not (b.is_still and (b.lag > 0) not in flows)
        )

    @property
    def reach(self) -> int:
        """The longest lag up to which every block was seen."""
        longest = max((abs(b.lag) for b in self.blocks), default=0)
        return min((abs(b.lag) for b in self.unseen), default=longest + 1) - 1


def moments(steps: int, size: int, near: Sequence[int] = ()) -> list[int]:
    """Return the times to look at: all, or some, with those next to each of `near` among them."""
    count = max(min(steps, MOST, HELD // max(size, 1)), 2)
    if count >= steps:
        return list(range(steps))
    spread = {round(t) for t in np.linspace(0, steps - 1, count)}
    return sorted(spread | {t for b in near for t in (b - 1, b, b + 1) if 0 <= t < steps})


def screened(
    answers: Answers,
    rng: np.random.Generator,
    *,
    x: int,
    axis: int,
    output: int,
    out_axis: int,
    times: Sequence[int],
) -> Lags:
    """Return every block of `output` among `times`, by differences; in float64 where it runs.

    Args:
        x: the leaf that is the sequence; time is its `axis`.
        out_axis: the axis of time of the output.
    """
    answers = answers.in_float64 or answers
    wide, centre = answers.problem, answers.value
    (u,) = cotangent(rng, (wide.outputs[output],))
    v = direction(rng, wide.leaves[x])
    claims = [_claimed(wide, step(output, out_axis, t), u, x) for t in times]
    blocks = []
    for s in times:
        source = step(x, axis, s)
        along = source.of(v)
        true, bars = _slopes(wide, source, along, output, centre[output])
        for t, claim in zip(times, claims, strict=True):
            at = step(output, out_axis, t).of
            moved = source.of(claim)
            rounding = wide.leaves[x].epsilon * norm(moved * along)
            wanted = inner(at(u), at(true))
            block = Block(
                t=t,
                s=s,
                got=inner(moved, along),
                wanted=wanted,
                error_bar=norm(at(u) * at(bars)) + rounding,
                size=max(norm(moved * along), norm(at(u) * at(true)), abs(wanted)),
            )
            blocks.append(block)
    return Lags(x=x, axis=axis, output=output, out_axis=out_axis, blocks=tuple(blocks))


def judged(
    problem: Problem,
    lags: Lags,
    settings: Settings,
    *,
    truncation: int | None = None,
) -> Finding:
    """Return the finding about one output: what is wrong from which lag on.

    Args:
        truncation: blocks that reach further back are zero, by declaration.
    """
    leaf, output = problem.leaves[lags.x], problem.outputs[lags.output]
    tolerance = settings.tolerance(max((leaf, output), key=lambda a: a.epsilon).digits)
    expected = _expected(lags.blocks, truncation)
    suspects = sorted(
        (b for b in expected if b.is_suspect(tolerance)), key=lambda b: (abs(b.lag), b.t)
    )

    def is_wrong(block: Block) -> bool:
        if truncation is not None and block.wanted == 0 and block.got:
            return True  # it was declared to be cut off, and is not
        source = step(lags.x, lags.axis, block.s)
        alone = seen(problem, [source], [step(lags.output, lags.out_axis, block.t)])
        return check_problem(alone, settings).verdict is Verdict.FAIL

    first, asked = _first_wrong(suspects, is_wrong)
    wrong = [b for b in suspects if first is not None and abs(b.lag) >= first]
    shown = [b for b in expected if b.is_seen]
    finding = Finding(
        check="lag",
        leaf=leaf.path,
        verdict=Verdict.PASS,
        mismatch=max((b.mismatch for b in wrong or shown), default=0.0),
        resolution=_median([SIGNIFICANCE * b.error_bar / b.size for b in shown if b.size]),
        tolerance=tolerance,
        oracle=f"differences of ∂{output.path}[t]/∂{leaf.path}[s]",
        message="",
    )
    if suspects and not wrong:
        message = (
            f"{len(suspects)} blocks of {output.path} differ, and none of the {asked} does that "
            "were asked alone: kinks, or rounding"
        )
        return replace(finding, message=message)
    return _worded(finding, lags, wrong, output.path, truncation)


def _first_wrong(
    suspects: Sequence[Block], is_wrong: Callable[[Block], bool]
) -> tuple[int | None, int]:
    """The shortest lag at which a suspect, asked alone, is wrong; and how many were asked.

    At each lag that is the one that is off by most of its bars. Lags are asked all over, as the
    shortest may show but the kinks of a padding; then between those that are right and wrong.
    """
    most: dict[int, Block] = {}
    for block in suspects:
        lag = abs(block.lag)
        most[lag] = max(most.get(lag, block), block, key=lambda b: b.bars_off)
    lags = sorted(most)
    chosen = sorted({round(k) for k in np.linspace(0, len(lags) - 1, RECHECKED)} if lags else ())
    asked = 0
    low = -1
    for k in chosen:
        asked += 1
        if not is_wrong(most[lags[k]]):
            low = k
            continue
        high = k
        while high - low > 1:
            asked += 1
            middle = (low + high) // 2
            low, high = (low, middle) if is_wrong(most[lags[middle]]) else (middle, high)
        return lags[high], asked
    return None, asked


def _worded(
    finding: Finding,
    lags: Lags,
    wrong: Sequence[Block],
    output: str,
    truncation: int | None,
) -> Finding:
    if wrong:
        first, count = wrong[0], f"{len(wrong)} of {len(lags.blocks)} blocks are"
        pattern, advice = _pattern(lags.blocks, wrong, truncation)
        message = (
            f"∂{output}[t]/∂{finding.leaf}[s] is wrong from lag {first.lag} on, first at "
            f"t = {first.t}, s = {first.s}; {count}; {advice}"
        )
        entries = tuple(
            Entry(index=(b.t, b.s), got=b.got, wanted=b.wanted, error_bar=b.error_bar)
            for b in wrong[:SHOWN]
        )
        return replace(
            finding, verdict=Verdict.FAIL, message=message, entries=entries, diagnosis=pattern
        )
    apart = [b for b in lags.blocks if b.lag]
    if apart and all(b.is_still for b in apart):
        message = (
            f"{output}: no step of it depends on another step of the input; is time along axis "
            f"{lags.axis}? (time_axis=)"
        )
        return replace(finding, message=message)
    longest = max((abs(b.lag) for b in lags.blocks), default=0)
    reach = f"lags up to {lags.reach} of {longest}" if lags.unseen else f"all {longest + 1} lags"
    declared = f", cut off after {truncation} steps as declared" if truncation is not None else ""
    ahead = "; it depends on later steps too" * any(b.lag < 0 and not b.is_still for b in apart)
    return replace(finding, message=f"{output}: {reach} seen and right{declared}{ahead}")


def is_in_chunks(blocks: Sequence[Block], truncation: int) -> bool:
    """Whether a declared truncation cuts at the borders of blocks that start at the first step."""
    return _cut(blocks, truncation) == FROM_THE_FIRST


def _expected(blocks: Sequence[Block], truncation: int | None) -> list[Block]:
    """The blocks, with what is true of those that a declared truncation cuts off set to zero.

    It may cut behind a window that moves (t - s ≥ K) or at the borders of blocks of K steps,
    counted from the first step, the last, or any; which it is, is what most blocks agree with.
    """
    if truncation is None:
        return list(blocks)
    return _ways(blocks, truncation)[_cut(blocks, truncation)]


def _cut(blocks: Sequence[Block], truncation: int) -> int:
    ways = _ways(blocks, truncation)
    return min(range(len(ways)), key=lambda k: sum(b.is_suspect(SEEN) for b in ways[k]))


def before_the_first(blocks: Sequence[Block], truncation: int) -> int:
    """How many steps there are before a declared truncation cuts for the first time."""
    offset = max(_cut(blocks, truncation) - FROM_THE_FIRST, 0)
    return truncation - offset


FROM_THE_FIRST = 1  # its position among the ways to cut


def _ways(blocks: Sequence[Block], truncation: int) -> list[list[Block]]:
    def is_beyond(b: Block) -> bool:
        return abs(b.lag) >= truncation

    def is_apart(offset: int, b: Block) -> bool:
        return (b.t + offset) // truncation != (b.s + offset) // truncation

    masks: list[Callable[[Block], bool]] = [is_beyond]  # then FROM_THE_FIRST
    masks += [partial(is_apart, offset) for offset in range(truncation)]
    return [[replace(b, wanted=0.0) if cut(b) else b for b in blocks] for cut in masks]


def _pattern(
    blocks: Sequence[Block], wrong: Sequence[Block], truncation: int | None
) -> tuple[str | None, str]:
    """What the wrong blocks have in common, and a sentence of advice."""
    bad = {(b.t, b.s) for b in wrong}
    right = [b for b in blocks if b.is_seen and not b.is_still and (b.t, b.s) not in bad]
    shortest = min(abs(b.lag) for b in wrong)
    if all(b.wanted == 0 for b in wrong):
        if truncation is not None:
            return "not truncated", f"truncation={truncation} was declared, and more flows back"
        return "acausal", "a gradient flows where no value does: a mask, or a shift of time"
    if (step := _of_one_step(right, wrong)) is not None:
        return step
    for border in sorted({b.t for b in wrong}):
        across = [b for b in right if b.s < border <= b.t]
        if all(b.s < border <= b.t for b in wrong) and not across:
            before = max(b.s for b in wrong)  # of a long sequence not every step is looked at
            word = "lost" if all(b.got == 0 for b in wrong) else "spoilt"
            return (
                f"carry {word}: between steps {before} and {border}",
                f"whatever crosses from step {before} to {border} is wrong, and nothing else: "
                "the state that is handed over there, at the border of a chunk or a block",
            )
    directions = {b.lag for b in wrong}
    if len(directions) == 1 and any(abs(b.lag) > shortest for b in right):
        return f"one lag: {wrong[0].lag}", "no other lag is"
    if directions == {shortest, -shortest} and shortest:
        return (
            f"shifted: lags {-shortest} and {shortest}",
            "what should flow to one side flows to the other: a shift of time the wrong way",
        )
    if all(b.got == 0 for b in wrong) and shortest == 0 and not right:
        return "zero", "nothing flows back to it at all: it is detached"
    if all(b.got == 0 for b in wrong):
        if (every := _blockwise(right, wrong)) is not None:
            return (
                f"truncated: in blocks of {every}",
                f"nothing flows back over a border of blocks of {every} steps: the state is "
                f"detached there; if that is meant, say truncation={every}",
            )
        if all(abs(b.lag) < shortest for b in right):
            return (
                f"truncated: at lag {shortest}",
                f"nothing flows back further than {shortest - 1} steps: a state that is detached, "
                f"or truncated backpropagation; if it is meant, say truncation={shortest}",
            )
        return (
            "carry lost",
            "what is wrong is zero where the output does depend on the input: the state is "
            "detached between some steps",
        )
    if len(directions) == 1:
        return f"one lag: {wrong[0].lag}", "no other lag is"
    if (every := _blockwise(right, wrong)) is not None:
        return (
            f"carry spoilt: in blocks of {every}",
            f"whatever crosses a border of blocks of {every} steps is wrong, and nothing else: the "
            "state that is handed over there",
        )
    if shortest and all(abs(b.lag) < shortest for b in right):
        return (
            f"carry: from lag {shortest} on",
            f"it is right up to lag {shortest - 1}, and what is handed on to steps before that is "
            "not: the derivative of the state by the one before, or a part of the state that is "
            "detached (the cell of an LSTM)",
        )
    return None, "no known pattern fits"


def _of_one_step(right: Sequence[Block], wrong: Sequence[Block]) -> tuple[str, str] | None:
    """What to say where all that is wrong flows back to one step, at lag 0 too, or from one."""
    if len(wrong) < 2 or not any(b.lag == 0 for b in wrong):
        return None
    for of, way in (("s", "back to step {} of the input"), ("t", "from step {} of the output")):
        steps = {getattr(b, of) for b in wrong}
        if len(steps) == 1 and any(getattr(b, of) not in steps for b in right):
            (step,) = steps
            return (
                f"one step: {step}",
                f"what flows {way.format(step)} is wrong, and nothing else: the first or the last "
                "step of a loop, or a mask",
            )
    return None


def _blockwise(right: Sequence[Block], wrong: Sequence[Block]) -> int | None:
    """The length of the blocks over whose borders nothing flows back, and elsewhere all does."""
    for every in range(2, max(b.t for b in wrong) + 1):
        if all(b.t // every != b.s // every for b in wrong) and all(
            b.t // every == b.s // every for b in right if b.wanted
        ):
            return every
    return None


def _claimed(problem: Problem, part: Part, u: Array, x: int) -> Array:
    """The gradient of ⟨u_t, y_t⟩ in the whole sequence."""
    us = [np.zeros_like(array) for array in problem.value(problem.point)]
    us[part.position] = part.within(us[part.position], part.of(u))
    return problem.vjp(problem.point, tuple(us))[x]


def _slopes(
    problem: Problem, source: Part, along: Array, output: int, centre: Array
) -> tuple[Array, Array]:
    """The derivative of an output as one step of the sequence moves, entry by entry, and its bar.

    Two extrapolations of central differences at h, h/2, h/4. The bar is how far the last of them
    moved the slope, and the rounding of the output and of the moved step.
    """
    x = problem.point[source.position]
    leaf = problem.leaves[source.position]
    epsilon = max(leaf.epsilon, problem.outputs[output].epsilon)
    h = FIRST * epsilon**0.25 * scale(source.of(x))

    def moved(t: float) -> Array:
        point = list(problem.point)
        point[source.position] = leaf.rounded(source.within(x, source.of(x) + t * along))
        with np.errstate(all="ignore"):  # a step may leave the domain; NaN says so
            return problem.value(tuple(point))[output]

    first, second, third = ((moved(t) - moved(-t)) / (2 * t) for t in (h, h / 2, h / 4))
    one, two = second + (second - first) / 3, third + (third - second) / 3
    best = two + (two - one) / 15
    rounding = 2 * epsilon * (np.abs(centre) / (h / 4) + np.abs(best) / FIRST / epsilon**0.25)
    bars = np.abs(best - two) + rounding
    return best, np.where(np.isfinite(bars), bars, np.inf)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0
