"""Which part of a network has the wrong derivative: suspects are found, and one is proved.

Every part (submodule, custom function, custom rule) is checked alone, at the values that really
flowed. Those that fail while nothing inside them does are suspects. What proves one is
substitution: with its derivative replaced by that of its values, the check of the whole network
passes.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from gradcheck.adapters.parts import Part
from gradcheck.adapters.select import problem_of
from gradcheck.api import check
from gradcheck.errors import InputError
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
    def culprits(self) -> tuple[Suspect, ...]:
        return tuple(suspect for suspect in self.suspects if suspect.proved)

    def __str__(self) -> str:
        lines = [str(self.result).partition("\n")[0]]
        lines.append(f"      {counted(self.checked, 'part')} checked at the values that flowed")
        if not self.suspects and self.result.verdict is Verdict.FAIL:
            lines.append("      no part is wrong by itself: look at how they are put together")
        for suspect in self.suspects[:SHOWN]:
            said = {True: "culprit", False: "suspect, not all of it", None: "suspect, not proved"}
            first = str(suspect.result).splitlines()[:3]
            lines.append(f"      {said[suspect.proved]}: {suspect.path} ({suspect.kind})")
            lines += [f"        {line.strip()}" for line in first]
        return "\n".join(lines)


SHOWN = 4


def find_culprit(
    target: Any,
    *inputs: Any,
    seed: int = 0,
    rtol: float | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Blame:
    """Return which part of `target` has the wrong derivative.

    Args:
        target: a PyTorch module or function, or a JAX function.
        inputs: its positional arguments.
        seed, rtol, kwargs: as in `check`.

    Raises:
        InputError: the target is of no framework with parts.
    """

    def asked(of: Any, given: Sequence[Any]) -> CheckResult:
        return check(of, *given, checks="vjp", seed=seed, rtol=rtol)

    if kwargs:
        inputs = (*inputs, Keywords(kwargs))
    result = asked(target, inputs)
    framework = _adapter(target, inputs)
    parts = framework.recorded(target, inputs, seed)
    wrong: list[tuple[Part, Suspect]] = []
    for part in parts:  # the innermost first
        if any(_is_inside(other.path, part.path) for other, _ in wrong):
            continue
        alone = asked(part.target, part.inputs)
        if alone.verdict is Verdict.FAIL:
            suspect = Suspect(path=part.path, kind=part.kind, result=alone)
            wrong.append((part, suspect))
    if result.verdict is Verdict.FAIL:
        wrong = _proved(wrong, framework, lambda of: asked(of, inputs), target)
    suspects = sorted((s for _, s in wrong), key=lambda s: (not s.proved, -_size(s.result)))
    return Blame(result=result, suspects=tuple(suspects), checked=len(parts))


def _proved(
    wrong: list[tuple[Part, Suspect]],
    framework: ModuleType,
    asked: Callable[[Any], CheckResult],
    target: Any,
) -> list[tuple[Part, Suspect]]:
    """The suspects, each with whether the network passes once its derivative is replaced."""

    def passes(guilty: Sequence[Part]) -> bool:
        repaired: AbstractContextManager[Any] = framework.repaired(target, guilty)
        with repaired as network:
            return asked(network).verdict is not Verdict.FAIL

    small = [(part, suspect) for part, suspect in wrong if framework.is_small(part)]
    judged = {part.path: passes([part]) for part, _ in small}
    if len(small) > 1 and not any(judged.values()):  # several culprits: all of them together
        judged = dict.fromkeys(judged, passes([part for part, _ in small]))
    return [(part, replace(s, proved=judged.get(part.path))) for part, s in wrong]


def _is_inside(path: str, outer: str) -> bool:
    return path.startswith((f"{outer}.", f"{outer}/"))


def _size(result: CheckResult) -> float:
    return max((finding.mismatch for finding in result.findings), default=0.0)


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
