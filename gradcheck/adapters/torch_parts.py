"""The parts of a PyTorch target: its submodules and custom functions, at the values that flowed.

One run, forward and backward, records what every submodule and every `autograd.Function` was
given, and what came back to it. A part is then a target of its own, and the target can be run
again with the derivative of some parts replaced by differences.
"""

import re
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch.autograd import Function

from gradcheck import trees
from gradcheck.adapters.parts import CALLS, Call, Part
from gradcheck.adapters.torch_ import problem_of_torch
from gradcheck.adapters.torch_modules import module_of
from gradcheck.adapters.torch_substitutes import differenced, through_forward

__all__ = ["recorded", "repairs"]

ENTRIES = 4096  # of all inputs of a part, beyond which differences of it take too long

# (part, its call, arguments, keyword arguments) -> outputs: what becomes of a part that is met.
Meet = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
# (part, its call, arguments) -> outputs, with a derivative of their own.
Replacement = Callable[[Any, Callable[..., Any], tuple[Any, ...]], Any]


def recorded(target: Any, inputs: tuple[Any, ...], seed: int) -> list[Part]:
    """Return the parts that ran and are differentiated, the innermost first."""
    problem = problem_of_torch(target, inputs, name=None, seed=seed)
    rng = np.random.default_rng(seed)
    cotangents = tuple(rng.standard_normal(leaf.shape) for leaf in problem.outputs)
    recorder = Recorder(module_of(target))
    # What the target raises is said by its check; what ran until then is known.
    with _met(recorder.meet, recorder.root), suppress(Exception):
        problem.vjp(problem.point, cotangents)
    return recorder.parts()


def repairs(target: Any, guilty: Collection[Part]) -> list[AbstractContextManager[Any]]:
    """Ways to run `target` with other derivatives of `guilty` parts, which may be too large.

    Differences of a part's values; or, of a custom function, what autograd makes of its forward.
    """
    places = {part.place for part in guilty}
    ways: list[AbstractContextManager[Any]] = []
    if all(map(_is_small, guilty)):
        ways.append(_repaired(target, places, differenced))
    if all(isinstance(part.target, type) for part in guilty):
        ways.append(_repaired(target, places, through_forward))
    return ways


def _paired(part: Any, call: Call) -> Any | None:
    came = any(u is not None for u in call.cotangents)
    return Paired(part, call.cotangents) if came else None


class Paired(torch.nn.Module):
    """The sum of the products of a part's outputs with the cotangents that came back to them."""

    def __init__(self, part: Any, cotangents: tuple[Any, ...]) -> None:
        super().__init__()
        self.part, self.cotangents = part, cotangents

    def forward(self, *given: Any, **named: Any) -> Any:
        run = self.part.apply if isinstance(self.part, type) else self.part  # type: ignore[attr-defined]
        outputs = _floating(run(*given, **named))
        pairs = zip(outputs, self.cotangents, strict=True)
        return sum((y * u.conj().to(y.dtype)).sum() for y, u in pairs if u is not None)


def _is_small(part: Part) -> bool:
    """Whether differences of a part are taken in reasonable time."""
    inputs = [leaf for _, leaf in trees.leaves(part.calls[0].inputs)]
    own = list(part.target.parameters()) if isinstance(part.target, torch.nn.Module) else []
    moving = [x for x in [*inputs, *own] if isinstance(x, torch.Tensor) and x.requires_grad]
    return sum(x.numel() for x in moving) <= ENTRIES


class Found:
    """What is known of a part so far."""

    def __init__(self, path: str, within: frozenset[str]) -> None:
        self.path, self.within = path, within
        self.first: list[tuple[Any, Returned]] = []
        self.last: deque[tuple[Any, Returned]] = deque(maxlen=CALLS)

    def note(self, inputs: Any, returned: "Returned") -> None:
        (self.first if len(self.first) < CALLS else self.last).append((inputs, returned))


class Returned:
    """The cotangents of a call's outputs, as the backward pass brings them."""

    def __init__(self, outputs: Any) -> None:
        tensors = _floating(outputs)
        self.cotangents: list[torch.Tensor | None] = [None] * len(tensors)
        for k, y in enumerate(tensors):
            if y.requires_grad:
                y.register_hook(partial(self._keep, k))  # type: ignore[no-untyped-call]

    def _keep(self, k: int, u: torch.Tensor) -> None:
        self.cotangents[k] = u.detach().clone()


class Recorder:
    """Notes down what every module and every custom function is given."""

    def __init__(self, root: torch.nn.Module | None) -> None:
        self.root = root
        modules = () if root is None else root.named_modules()
        self.names: dict[Any, str] = {module: path for path, module in modules}
        self.running: list[str] = []
        self.found: dict[tuple[str, Any], Found] = {}

    def meet(
        self, part: Any, run: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        is_moved = torch.is_grad_enabled() and _requires_grad(part, (given, named))
        if part is self.root or not is_moved:  # nothing is differentiated
            return run(*given, **named)
        found = self._found(part)
        tree = (*given, trees.Keywords(named)) if named else given
        inputs = trees.rebuild(tree, lambda _, leaf: _kept(leaf))
        self.running.append(found.path)
        try:
            outputs = run(*given, **named)
        finally:
            self.running.pop()
        found.note(inputs, Returned(outputs))
        return outputs

    def parts(self) -> list[Part]:
        made = [_part(part, found) for (_, part), found in self.found.items() if found.first]
        return sorted(made, key=lambda part: -len(part.within))

    def _found(self, part: Any) -> Found:
        above = self.running[-1] if self.running else ""
        known = self.names.get(part)
        key = ("" if known else above, part)
        if key not in self.found:
            path = known or self._fresh(".".join(filter(None, [above, _name(part)])))
            self.found[key] = Found(path, frozenset(self.running))
        return self.found[key]

    def _fresh(self, path: str) -> str:
        taken = {found.path for found in self.found.values()}
        numbered = (f"{path}#{k}" for k in range(2, len(taken) + 3))
        return next(name for name in (path, *numbered) if name not in taken)


def _part(part: Any, found: Found) -> Part:
    calls = [
        Call(inputs=inputs, cotangents=tuple(r.cotangents))
        for inputs, r in (*found.first, *found.last)
    ]
    given = any(_requires_grad(None, call.inputs) for call in calls)
    return Part(
        path=found.path,
        name=_name(part),
        kind=_kind(part),
        target=part,
        place=part,
        same=part,
        calls=tuple(calls),
        within=found.within,
        wrt=() if given else ("params.*",),
        paired=partial(_paired, part),
    )


def _kind(part: Any) -> str:
    if isinstance(part, torch.nn.Module):
        return "module"
    return "custom_op" if _operator(part) else "autograd.Function"


def _name(part: Any) -> str:
    return _operator(part) or str(getattr(part, "__name__", type(part).__name__))


def _operator(part: Any) -> str | None:
    """The name of the operator whose `register_autograd` made a custom function."""
    found = re.fullmatch(r"GeneratedBackwardFor_(\w+?)_(?:default)?", getattr(part, "__name__", ""))
    return found and found[1]


def _requires_grad(part: Any, tree: Any) -> bool:
    own = part.parameters() if isinstance(part, torch.nn.Module) else ()
    given = (leaf for _, leaf in trees.leaves(tree))
    return any(isinstance(x, torch.Tensor) and x.requires_grad for x in (*own, *given))


def _kept(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


def _floating(outputs: Any) -> list[torch.Tensor]:
    return [
        leaf
        for _, leaf in trees.leaves(outputs)
        if isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())
    ]


@contextmanager
def _repaired(target: Any, guilty: Collection[Any], replacement: Replacement) -> Iterator[Any]:
    """Run `target` with `replacement` in the place of `guilty` parts."""

    def meet(part: Any, run: Callable[..., Any], given: Any, named: Any) -> Any:
        tree = (*given, trees.Keywords(named)) if named else given
        return replacement(part, run, tree) if part in guilty else run(*given, **named)

    with _met(meet, module_of(target)):
        yield target


@contextmanager
def _met(meet: Meet, root: torch.nn.Module | None) -> Iterator[None]:
    """Hand every call of a module and every application of a custom function to `meet`.

    A module of `root` may be run by its `forward` alone, which is met as well. Of `Function.apply`
    the code is replaced: `my_op = MyOp.apply` holds the method itself.
    """
    running: list[Any] = []  # the modules, the innermost last
    call, apply = torch.nn.Module.__call__, Function.__dict__["apply"].__func__
    code = apply.__code__
    original = HANDED[-1] if HANDED else _copy(apply)

    def entered(module: Any, run: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
        running.append(module)
        try:
            return run(*given, **named)
        finally:
            running.pop()

    def called(module: Any, /, *given: Any, **named: Any) -> Any:
        return meet(module, partial(entered, module, partial(call, module)), given, named)

    def forwarded(module: Any, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if running and running[-1] is module:  # it comes from its own call
            return forward(*given, **named)
        return meet(module, partial(entered, module, forward), given, named)

    def applied(rule: Any, *given: Any, **named: Any) -> Any:
        return meet(rule, partial(original, rule), given, named)

    setattr(torch.nn.Module, "__call__", called)  # noqa: B010  (a method, to type checkers)
    apply.__code__ = _Handing.__dict__["apply"].__func__.__code__
    HANDED.append(applied)
    modules = [] if root is None else [m for m in root.modules() if _is_plain(m)]
    for module in modules:
        vars(module)["forward"] = partial(forwarded, module, module.forward)
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)
        setattr(torch.nn.Module, "__call__", call)  # noqa: B010
        HANDED.pop()
        apply.__code__ = code


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether its forward is that of its class."""
    return "forward" not in vars(module) and not isinstance(module, torch.jit.ScriptModule)


def _copy(function: FunctionType) -> Callable[..., Any]:
    code, names, closure = function.__code__, function.__globals__, function.__closure__
    return FunctionType(code, names, function.__name__, function.__defaults__, closure)


HANDED: list[Callable[..., Any]] = []  # what applications are handed to, the last one


class _Handing(Function):
    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        __class__  # type: ignore[name-defined]  # noqa: B018  (closed over, as in the original)
        from gradcheck.adapters.torch_parts import HANDED  # the globals are those of PyTorch

        return HANDED[-1](cls, *args, **kwargs)
