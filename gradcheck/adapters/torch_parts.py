"""The parts of a PyTorch target: its submodules and custom functions, at the values that flowed.

One run records what every submodule and every `autograd.Function` was given. A part is then a
target of its own, and the target can be run again with the derivative of some parts replaced by
differences.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.autograd import Function

from gradcheck import trees
from gradcheck.adapters.parts import Part
from gradcheck.adapters.randomness import same_randomness
from gradcheck.adapters.torch_modules import module_of, rooms_of

__all__ = ["recorded", "repaired"]

ENTRIES = 4096  # of all inputs of a part, beyond which differences of it take too long


def recorded(target: Any, inputs: tuple[Any, ...], seed: int) -> list[Part]:
    """Return the parts that ran, the innermost first; the target itself is none of them."""
    parts: dict[str, Part] = {}
    stack: list[str] = []

    def note(path: str, kind: str, made: Callable[..., Any], arguments: Any) -> None:
        if path not in parts:  # a part that is applied again is known
            kept = trees.rebuild(arguments, lambda _, leaf: _kept(leaf))
            parts[path] = Part(path=path, kind=kind, target=made, inputs=kept)

    with ExitStack() as undo:
        undo.enter_context(torch.no_grad())
        undo.enter_context(same_randomness(seed, []))
        undo.enter_context(
            _applications(
                lambda rule, arguments: note(
                    ".".join([*stack[-1:], rule.__name__]), "autograd.Function", rule, arguments
                )
            )
        )
        if (root := module_of(target)) is not None:
            for path, module in root.named_modules():
                if path:
                    undo.enter_context(_followed(path, module, stack, note))
        _called(target, inputs)
    return sorted(parts.values(), key=lambda part: -part.path.count("."))


@contextmanager
def repaired(target: Any, guilty: Collection[Part]) -> Iterator[Any]:
    """Run `target` with the derivatives of `guilty` parts taken by differences of their values."""
    rules = {part.target for part in guilty if part.kind == "autograd.Function"}
    with ExitStack() as undo:
        undo.enter_context(_replaced(rules))
        if (root := module_of(target)) is not None:
            modules = dict(root.named_modules())
            for part in guilty:
                if part.kind == "module":
                    undo.enter_context(_differenced(modules[part.path]))
        yield target


def is_small(part: Part) -> bool:
    """Whether differences of a part are taken in reasonable time."""
    leaves = [leaf for _, leaf in trees.leaves(part.inputs)]
    own = list(part.target.parameters()) if isinstance(part.target, torch.nn.Module) else []
    return sum(x.numel() for x in [*leaves, *own] if isinstance(x, torch.Tensor)) <= ENTRIES


def _called(target: Any, inputs: Sequence[Any]) -> Any:
    given = trees.rebuild(tuple(inputs), lambda _, leaf: _kept(leaf))
    return trees.called(target.apply if isinstance(target, type) else target, given)  # type: ignore[attr-defined]


def _kept(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf


@contextmanager
def _followed(
    path: str, module: torch.nn.Module, stack: list[str], note: Callable[..., None]
) -> Iterator[None]:
    def enter(module: torch.nn.Module, arguments: Any, named: Any) -> None:
        stack.append(path)
        keywords = (trees.Keywords(named),) if named else ()
        note(path, "module", module, (*arguments, *keywords))

    def leave(*_: Any) -> None:
        stack.pop()

    before = module.register_forward_pre_hook(enter, with_kwargs=True)
    after = module.register_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


@contextmanager
def _applications(seen: Callable[[type, Any], None]) -> Iterator[None]:
    """Tell of every application of a custom function."""
    original = Function.__dict__["apply"]

    def apply(cls: type, *arguments: Any, **named: Any) -> Any:
        seen(cls, arguments)
        return original.__func__(cls, *arguments, **named)

    with _patched(classmethod(apply)):
        yield


@contextmanager
def _replaced(rules: Collection[type]) -> Iterator[None]:
    original = Function.__dict__["apply"]

    def apply(cls: type, *arguments: Any, **named: Any) -> Any:
        if cls not in rules:
            return original.__func__(cls, *arguments, **named)
        run = lambda *given: original.__func__(cls, *given)  # noqa: E731
        return original.__func__(Differenced, run, *arguments)

    with _patched(classmethod(apply)):
        yield


@contextmanager
def _patched(apply: Any) -> Iterator[None]:
    original = Function.__dict__["apply"]
    setattr(Function, "apply", apply)  # noqa: B010  (a method, to type checkers)
    try:
        yield
    finally:
        setattr(Function, "apply", original)  # noqa: B010


@contextmanager
def _differenced(module: torch.nn.Module) -> Iterator[None]:
    """Differentiate a module by differences, in its inputs and parameters."""
    forward = module.forward

    def differenced(*given: Any, **named: Any) -> Any:
        own = list(module.parameters())
        tree = (*given, trees.Keywords(named))
        made: list[Any] = []  # the outputs of the last run, as they are nested

        def run(*leaves: Any) -> tuple[Any, ...]:
            moved, rest = leaves[: len(own)], iter(leaves[len(own) :])
            arguments = trees.rebuild(tree, lambda *_: next(rest))
            # In the backward pass the module holds others than it did when `differenced` ran.
            with rooms_of(module).put(dict(zip(module.parameters(), moved, strict=True))):
                made[:] = [trees.called(forward, arguments)]
            return tuple(leaf for _, leaf in trees.leaves(made[0]))

        leaves = (leaf for _, leaf in trees.leaves(tree))
        outputs = iter(Differenced.apply(run, *own, *leaves))  # type: ignore[no-untyped-call]
        return trees.rebuild(made[0], lambda *_: next(outputs))

    module.forward = differenced
    try:
        yield
    finally:
        del module.forward


class Differenced(Function):
    """A function whose VJP is taken by central differences, extrapolated once."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], *arguments: Any) -> Any:
        ctx.run, ctx.arguments = run, [_kept(x) for x in arguments]
        outputs = run(*ctx.arguments)
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        def value(k: int, x: torch.Tensor) -> torch.Tensor:
            given = [*ctx.arguments[:k], x, *ctx.arguments[k + 1 :]]
            with torch.no_grad():
                outputs = ctx.run(*[_kept(y) for y in given])
            found = outputs if isinstance(outputs, tuple) else (outputs,)
            pairs = [(y, u) for y, u in zip(found, cotangents, strict=True) if u is not None]
            return torch.stack([(y * u).sum() for y, u in pairs]).sum()

        gradients: list[torch.Tensor | None] = [None]
        for k, x in enumerate(ctx.arguments):
            if not (isinstance(x, torch.Tensor) and x.is_floating_point()):
                gradients.append(None)
                continue
            gradient = torch.zeros_like(x)
            h = STEP * max(float(x.abs().mean()) if x.numel() else 0.0, 1e-3)
            for j in range(x.numel()):
                slopes = []
                for step in (h, h / 2):
                    e = torch.zeros(x.numel(), dtype=x.dtype, device=x.device)
                    e[j] = step
                    e = e.view_as(x)
                    slopes.append((value(k, x + e) - value(k, x - e)) / (2 * step))
                gradient.view(-1)[j] = (4 * slopes[1] - slopes[0]) / 3
            gradients.append(gradient)
        return tuple(gradients)


STEP = 2.0**-9  # of the argument's size: an error of 2⁻³⁶ after one extrapolation
