"""Other derivatives for a part of a PyTorch target, in the place of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.autograd import Function

from gradcheck import trees
from gradcheck.adapters.torch_modules import rooms_of

__all__ = ["differenced", "through_forward"]


def differenced(part: Any, run: Callable[..., Any], tree: tuple[Any, ...]) -> Any:
    """What `run` returns, differentiated by differences in its inputs and a module's tensors."""
    module = part if isinstance(part, torch.nn.Module) else None
    own = [] if module is None else _tensors(module)
    made: list[Any] = []  # the outputs of the last run, as they are nested

    def flat(*leaves: Any) -> tuple[Any, ...]:
        moved, rest = leaves[: len(own)], iter(leaves[len(own) :])
        arguments = trees.rebuild(tree, lambda *_: next(rest))
        with _holding(module, moved):
            made[:] = [trees.called(run, arguments)]
        return tuple(leaf for _, leaf in trees.leaves(made[0]))

    leaves = (leaf for _, leaf in trees.leaves(tree))
    outputs = iter(Differenced.apply(flat, *own, *leaves))  # type: ignore[no-untyped-call]
    return trees.rebuild(made[0], lambda *_: next(outputs))


def through_forward(part: Any, run: Callable[..., Any], tree: tuple[Any, ...]) -> Any:
    """What a custom function returns, differentiated as autograd does what its forward does."""
    if part.setup_context is not Function.setup_context:
        return part.forward(*tree)
    return part.forward(Context(tree), *tree)


class Context:
    """What a forward tells to its backward, which never hears of it."""

    def __init__(self, given: Sequence[Any]) -> None:
        self.needs_input_grad = tuple(getattr(x, "requires_grad", False) for x in given)

    def save_for_backward(self, *tensors: Any) -> None: ...

    def save_for_forward(self, *tensors: Any) -> None: ...

    def mark_dirty(self, *tensors: Any) -> None: ...

    def mark_non_differentiable(self, *tensors: Any) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    """The floating parameters and buffers of a module, shared ones once."""
    slots = (slot[2] for slot in rooms_of(module).slots)
    return [x for x in dict.fromkeys(slots) if x.is_floating_point() or x.is_complex()]


@contextmanager
def _holding(module: torch.nn.Module | None, moved: Sequence[torch.Tensor]) -> Iterator[None]:
    if module is None:
        yield
    else:  # in the backward pass it may hold others than when the forward ran
        with rooms_of(module).put(dict(zip(_tensors(module), moved, strict=True))):
            yield


class Differenced(Function):
    """A function whose VJP is taken by central differences, in float64 where it can be."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], *arguments: Any) -> Any:
        ctx.run, ctx.arguments = run, [_moved(x) for x in arguments]
        ctx.randomness = torch.get_rng_state()  # a difference draws what the forward pass drew
        return _evaluated(run, ctx.arguments)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        def outputs(arguments: Sequence[Any]) -> Any:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(ctx.randomness)
                return _evaluated(ctx.run, arguments)

        arguments = ctx.arguments
        with suppress(Exception):  # whatever is raised by a part that has a dtype of its own
            wide = [_moved(x, wide=True) for x in arguments]
            outputs(wide)
            arguments = wide
        return None, *(
            _gradient(outputs, arguments, k, cotangents).to(given.dtype) if needed else None
            for k, (given, needed) in enumerate(
                zip(ctx.arguments, ctx.needs_input_grad[1:], strict=True)
            )
        )


def _gradient(
    outputs: Callable[[Sequence[Any]], Any],
    arguments: Sequence[Any],
    k: int,
    cotangents: Sequence[torch.Tensor | None],
) -> torch.Tensor:
    """The derivative of ⟨cotangents, outputs⟩ by the k-th argument, entry by entry."""
    x = arguments[k]
    moved = x.clone(memory_format=torch.contiguous_format)
    entries = (torch.view_as_real(moved) if moved.is_complex() else moved).view(-1)
    slopes = torch.zeros_like(entries)
    moved.requires_grad_(x.requires_grad)
    # The step at which truncation, h², is as large as rounding, eps / h.
    size = float(entries.abs().mean()) if len(entries) else 0.0
    h = torch.finfo(entries.dtype).eps ** (1 / 3) * max(size, 1e-3)

    def value() -> float:
        found = outputs([*arguments[:k], moved, *arguments[k + 1 :]])
        pairs = [(y, u) for y, u in zip(found, cotangents, strict=True) if u is not None]
        return sum(float((y * u.conj().to(y.dtype)).real.sum()) for y, u in pairs)

    for j, entry in enumerate(entries.tolist()):
        entries[j] = entry + h
        above = value()
        entries[j] = entry - h
        below = value()
        entries[j] = entry
        slopes[j] = (above - below) / (2 * h)
    slopes = slopes.view(*x.shape, 2) if x.is_complex() else slopes.view(x.shape)
    return torch.view_as_complex(slopes) if x.is_complex() else slopes


def _evaluated(run: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What `run` returns; it is recorded, for one that hooks a tensor or takes a gradient."""
    with torch.enable_grad():
        # Copies of leaves, so that it may write into them.
        found = run(*[_moved(x).clone() if _is_floating(x) else _moved(x) for x in arguments])
    return tuple(y.detach() if isinstance(y, torch.Tensor) else y for y in found)


def _moved(x: Any, *, wide: bool = False) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    copy = x.detach().clone()
    if not _is_floating(x):
        return copy
    if wide:
        copy = copy.to(torch.complex128 if x.is_complex() else torch.float64)
    return copy.requires_grad_(x.requires_grad)


def _is_floating(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())
