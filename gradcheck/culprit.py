"""Which part of a network has the wrong derivative: suspects are found, and one is proved.

Every part (submodule, custom function, custom rule) is checked alone, at the values that really
flowed. Those that fail while nothing inside them does are suspects. What proves one is
substitution: with its derivative replaced by that of its values, the check of the whole network
passes.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

from gradcheck.adapters.parts import Call, Part
from gradcheck.adapters.select import problem_of
from gradcheck.api import check
from gradcheck.errors import GradcheckError, InputError
from gradcheck.listeners import unheard
from gradcheck.results import CheckResult, Verdict
from gradcheck.text import counted
from gradcheck.trees import Keywords

__all__ = ["Blame", "Suspect", "find_culprit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A part whose derivative is wrong by itself."""

    path: str
    kind: str  # "module", "autograd.Function", "custom_vjp", "custom_jvp"
    result: CheckResult  # of the part alone
    proved: bool | None = None  # whether the network passes without it; None: not tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """What is wrong with a network, and which part of it."""

    result: CheckResult  # of the network
    suspects: tuple[Suspect, ...]
    checked: int  # how many parts were

    @property
    def verdict(self) -> Verdict:
        return self.result.verdict

    @property
    def passed(self) -> bool:
        return self.result.passed

    @property
    def culprits(self) -> tuple[Suspect, ...]:
        return tuple(suspect for suspect in self.suspects if suspect.proved)

    def __str__(self) -> str:
        said_of = str(self.result).splitlines()
        lines = said_of[:1] if self.result.verdict is not Verdict.INCONCLUSIVE else said_of[:4]
        lines.append(f"      {counted(self.checked, 'part')} checked at the values that flowed")
        if not self.suspects and self.result.verdict is Verdict.FAIL:
            lines.append(f"      {NOBODY if self.checked else NOTHING}")
        for suspect in self.suspects[:SHOWN]:
            said = {True: "culprit", False: "suspect, not all of it", None: "suspect, not proved"}
            first = str(suspect.result).splitlines()[:3]
            lines.append(f"      {said[suspect.proved]}: {suspect.path} ({suspect.kind})")
            lines += [f"        {line.strip()}" for line in first]
        return "\n".join(lines)


SHOWN = 4

NOBODY = "no part is wrong by itself: look at how they are put together, and at the target's own"
NOTHING = "nothing inside has a derivative of its own to look at: it is the target's own"


def find_culprit(
    target: Any,
    *inputs: Any,
    seed: int = 0,
    rtol: float | None = None,
    kwargs: Mapping[str, Any] | None = None,
    declared: Mapping[str, str] | None = None,
) -> Blame:
    """Return which part of `target` has the wrong derivative.

    Args:
        target: a PyTorch module or function, or a JAX function.
        inputs: its positional arguments.
        seed, rtol, kwargs: as in `check`.
        declared: as in `check`, of the network: what it cuts off on purpose is no part's fault.

    Raises:
        InputError: the target is of no framework with parts.
    """
    if kwargs:
        inputs = (*inputs, Keywords(kwargs))
    asked = partial(check, checks="vjp", seed=seed, rtol=rtol)
    try:
        framework = _adapter(target, inputs)
    except GradcheckError:
        raise
    except Exception:  # it does not run: that is said of it, and there are no parts to look at
        return Blame(result=asked(target, *inputs, declared=declared), suspects=(), checked=0)
    result = asked(target, *inputs, declared=declared)
    if result.verdict is Verdict.ERROR:  # no reverse mode, through a JAX loop for one
        forward = partial(asked, checks="jvp")
        other = forward(target, *inputs, declared=declared)
        if other.findings and other.verdict in (Verdict.PASS, Verdict.FAIL):
            asked, result = forward, other
    parts = framework.recorded(target, inputs, seed)
    alone = Looks(asked, WRONG if result.verdict is Verdict.ERROR else (Verdict.FAIL,))
    accused = _accused(parts, alone.at_first)
    if result.verdict in WRONG:

        def repairs(guilty: Sequence[Accused]) -> bool | None:
            ways = framework.repairs(target, [part for one in guilty for part in one.parts])
            passed = [_passes(way, result, again) for way in ways]
            return any(passed) if any(said is not None for said in passed) else None

        def again(network: Any) -> CheckResult:
            with unheard():  # it is another network
                return asked(network, *inputs, declared=declared)

        accused = _proved(accused, repairs)
        # Nobody yet: one is wrong around those, at a later call, for what came back to it, or as
        # that lay in memory.
        for look in (alone.at_first, alone.at_every_call, alone.in_every_layout):
            if not any(one.proved for one in accused):
                known = {part.path for one in accused for part in one.parts}
                rest = [part for part in parts if part.path not in known]
                accused = _proved([*accused, *_accused(rest, look)], repairs)
        for look in (alone.at_every_call, alone.in_every_layout):  # or one inside of the culprit
            accused = _narrowed(accused, parts, look, repairs)
    suspects = sorted((one.suspect() for one in accused if _is_first(one, accused)), key=_rank)
    return Blame(result=result, suspects=tuple(suspects), checked=len(parts))


WRONG = (Verdict.FAIL, Verdict.ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accused:
    """A piece of code whose derivative is wrong by itself, in one place or several."""

    parts: tuple[Part, ...]
    result: CheckResult
    proved: bool | None = None

    def suspect(self) -> Suspect:
        first = self.parts[0]
        return Suspect(path=first.path, kind=first.kind, result=self.result, proved=self.proved)


class Looks:
    """Ways to find a part wrong by itself; what was seen is not looked for again.

    Wrong is what has one of some verdicts: where the whole network raises, so may a part.
    """

    def __init__(self, asked: Callable[..., CheckResult], wrong: Collection[Verdict]) -> None:
        self._asked, self._wrong = asked, wrong
        self._seen: dict[str, CheckResult | None] = {}

    def at_first(self, part: Part) -> CheckResult | None:
        """What is wrong with a part at its first call."""
        if part.path not in self._seen:
            self._seen[part.path] = self._at(part, part.target, part.calls[0])
        return self._seen[part.path]

    def at_every_call(self, part: Part) -> CheckResult | None:
        """What is wrong with a part at the first call where it is."""
        return next((result for result in self._at_calls(part) if result is not None), None)

    def in_every_layout(self, part: Part) -> CheckResult | None:
        """What is wrong with a part that is given strided arrays."""
        return self._at(part, part.target, part.calls[0], checks=("vjp", "layout"))

    def _at_calls(self, part: Part) -> Iterator[CheckResult | None]:
        yield self.at_first(part)
        for call in part.calls[1:]:
            yield self._at(part, part.target, call)
        for call in part.calls:
            if (paired := part.paired(call)) is not None:
                yield self._at(part, paired, call)

    def _at(self, part: Part, target: Any, call: Call, **options: Any) -> CheckResult | None:
        try:
            result = self._asked(target, *call.inputs, wrt=part.wrt, name=part.name, **options)
        except InputError:  # nothing of it can be differentiated
            return None
        return result if result.verdict in self._wrong else None


def _accused(parts: Sequence[Part], look: Callable[[Part], CheckResult | None]) -> list[Accused]:
    """Those that are wrong while none inside them is; one piece of code is accused once."""
    found: dict[Hashable, Accused] = {}
    for part in parts:  # the innermost first
        inner = (other for one in found.values() for other in one.parts)
        if any(part.path in other.within for other in inner):
            continue
        result = look(part)
        if result is None:
            continue
        before = found.get(part.same, Accused(parts=(), result=result))
        found[part.same] = replace(before, parts=(*before.parts, part))
    return list(found.values())


def _is_first(one: Accused, accused: Sequence[Accused]) -> bool:
    """Whether it is proved, or no other inside it is accused."""
    inside = {path for other in accused for part in other.parts for path in part.within}
    return bool(one.proved) or not any(part.path in inside for part in one.parts)


def _proved(
    accused: Sequence[Accused], repairs: Callable[[Sequence[Accused]], bool | None]
) -> list[Accused]:
    """The accused, each with whether the network passes once its derivative is replaced."""
    judged = [
        one if one.proved is not None else replace(one, proved=repairs([one])) for one in accused
    ]
    guilty = [one for one in judged if one.proved is not None]
    if len(guilty) < 2 or any(one.proved for one in guilty) or not repairs(guilty):
        return judged
    for one in list(guilty):  # several culprits: all of whom are needed
        fewer = [other for other in guilty if other is not one]
        if repairs(fewer):
            guilty = fewer
    return [replace(one, proved=True) if one in guilty else one for one in judged]


def _narrowed(
    accused: Sequence[Accused],
    parts: Sequence[Part],
    look: Callable[[Part], CheckResult | None],
    repairs: Callable[[Sequence[Accused]], bool | None],
) -> list[Accused]:
    """The accused, with a part of a culprit in its place where that proves to be one."""
    narrowed = []
    for one in accused:
        around = {part.path for part in one.parts} if one.proved else set()
        inside = [part for part in parts if around & part.within]
        fewer = [other for other in _proved(_accused(inside, look), repairs) if other.proved]
        narrowed += fewer or [one]
    return narrowed


def _passes(
    way: AbstractContextManager[Any], before: CheckResult, asked: Callable[[Any], CheckResult]
) -> bool | None:
    """Whether what was wrong with a network is right in one that was repaired; None: it raises."""
    with way as network:
        after = asked(network)
    if after.verdict is Verdict.ERROR and before.verdict is not Verdict.ERROR:
        return None
    wrong = {finding.leaf for finding in before.findings if finding.verdict in WRONG}
    return after.verdict not in WRONG and all(
        finding.verdict is Verdict.PASS for finding in after.findings if finding.leaf in wrong
    )


def _rank(suspect: Suspect) -> tuple[bool, float]:
    size = max((finding.mismatch for finding in suspect.result.findings), default=0.0)
    return not suspect.proved, -size


def _adapter(target: Any, inputs: Sequence[Any]) -> ModuleType:
    match problem_of(target, inputs).framework:
        case "torch":
            from gradcheck.adapters import torch_parts

            return torch_parts
        case "jax":
            from gradcheck.adapters import jax_parts

            return jax_parts
        case _:
            raise InputError(
                f"expected target to be a PyTorch or JAX network; got a {type(target).__name__}, "
                "which has no parts to look at"
            )
