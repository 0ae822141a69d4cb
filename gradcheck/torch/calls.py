"""A call of a PyTorch function, as its caller wrote it and as the engine sees it.

The engine knows dense leaves. Sparse, MKLDNN and strided inputs are given to it as such, and
restored before the function sees them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.autograd import forward_ad

from gradcheck import trees
from gradcheck.adapters import problem_of
from gradcheck.adapters.torch_graphs import graph_of
from gradcheck.adapters.torch_packed import COMPRESSED, SPARSE, unpacked, values_of
from gradcheck.errors import InputError
from gradcheck.problem import Problem

__all__ = [
    "MKLDNN",
    "Call",
    "armed_like",
    "chosen",
    "connected",
    "cotangents_of",
    "dense",
    "form_of",
    "is_floating",
    "leaves_of",
    "returned",
    "tensors_of",
    "tupled",
]

MKLDNN = torch._mkldnn  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A function at its inputs: as the caller gave them, and as the engine's leaves."""

    func: Callable[..., Any]
    inputs: tuple[Any, ...]
    masked: bool

    def run(self) -> Any:
        return self.func(*self.inputs)

    def leaves(self) -> list[torch.Tensor]:
        """The inputs that require a gradient."""
        return [tensor for _, tensor in leaves_of(self.inputs)]

    def replaced(self, leaves: Sequence[torch.Tensor]) -> Any:
        """The value with other tensors in the place of the leaves, or with their values in them."""
        if self.is_bound and not any(map(_is_dual, leaves)):
            with self.holding(leaves):
                return self.run()
        return self._given(leaves)

    def _given(self, leaves: Sequence[torch.Tensor]) -> Any:
        paths = [path for path, _ in leaves_of(self.inputs)]
        moved = dict(zip(paths, leaves, strict=True))
        return self.func(*trees.rebuild(self.inputs, lambda path, old: moved.get(path, old)))

    @cached_property
    def is_bound(self) -> bool:
        """Whether the function knows its inputs as more than arguments: by closure, as parameters.

        Given other tensors it is then another function; PyTorch always hands in the caller's own.
        """
        leaves = self.leaves()
        if any(leaf.layout is not torch.strided for leaf in leaves):
            return False
        if any(isinstance(leaf, torch.nn.Parameter) for leaf in leaves):
            return True
        copies = [_requiring(leaf.detach().clone()) for leaf in leaves]
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            try:
                return _reached(self.run(), leaves) != _reached(self._given(copies), copies)
            except Exception:  # whatever the function raises is said elsewhere
                return False

    @contextmanager
    def holding(self, values: Sequence[torch.Tensor]) -> Iterator[None]:
        """Have the caller's own leaves hold other values meanwhile."""
        leaves = [leaf.data for leaf in self.leaves()]
        before = [leaf.clone() for leaf in leaves]
        try:
            for leaf, value in zip(leaves, values, strict=True):
                if value.is_complex() and not leaf.is_complex():  # of a complex step
                    raise TypeError("a real leaf of the caller's holds no complex numbers")
                leaf.copy_(value.detach())
            yield
        finally:
            for leaf, value in zip(leaves, before, strict=True):
                leaf.copy_(value)

    def problem(self, pick: Callable[[Any], tuple[torch.Tensor, ...]]) -> Problem:
        """The engine's problem: dense leaves in, the outputs that `pick` chooses out.

        Raises:
            InputError: there is no output to speak of.
        """
        forms = [form_of(tensor, self.masked) for tensor in self.leaves()]

        def target(*dense: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.enable_grad():
                if self.is_bound and not any(map(_is_dual, dense)):
                    return Bound.apply(self, pick, *dense)  # type: ignore[no-untyped-call, no-any-return]
                restored = [form.restore(_armed(x)) for form, x in zip(forms, dense, strict=True)]
                return pick(self.replaced(restored))

        name = str(getattr(self.func, "__name__", type(self.func).__name__))
        return problem_of(target, [form.dense for form in forms], name=name)


class Bound(torch.autograd.Function):
    """A call whose leaves stay the caller's own tensors, as a function of their values."""

    @staticmethod
    def forward(ctx: Any, call: Call, pick: Callable[[Any], Any], *values: torch.Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.call, ctx.values = call, values
        with call.holding(values), torch.enable_grad():
            ctx.outputs = pick(call.run())
        return tuple(output.detach() for output in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *us: torch.Tensor | None) -> Any:
        pairs = [(y, u) for y, u in zip(ctx.outputs, us, strict=True) if u is not None]
        outputs, cotangents = zip(*pairs, strict=True)
        # What a leaf held in the forward pass it must hold here: the graph has saved the leaf.
        with ctx.call.holding(ctx.values):
            found = torch.autograd.grad(
                outputs, ctx.call.leaves(), cotangents, retain_graph=True, allow_unused=True
            )
        return None, None, *found


@dataclass(frozen=True, kw_only=True)
class Form:
    """A leaf as a dense tensor, and the way back to what the caller handed in."""

    dense: torch.Tensor
    restore: Callable[[torch.Tensor], torch.Tensor]


def form_of(tensor: torch.Tensor, masked: bool) -> Form:
    """How the engine, which knows only dense arrays, sees a leaf.

    A sparse tensor is, to a masked function, its specified entries; to another one, all of them.
    """
    plain = tensor.detach()
    if tensor.layout == MKLDNN:
        return Form(dense=plain.to_dense(), restore=lambda x: x.to_mkldnn())
    if tensor.layout in SPARSE:
        return _form_of_sparse(plain, masked)
    if tensor.is_nested:
        values, restored = unpacked(plain)
        return Form(dense=values, restore=restored)
    if tensor.is_contiguous():
        return Form(dense=plain, restore=lambda x: x)
    size, stride = tensor.size(), tensor.stride()

    def restore(x: torch.Tensor) -> torch.Tensor:
        empty = torch.empty_strided(size, stride, dtype=x.dtype, device=x.device)
        return empty.copy_(x)

    return Form(dense=plain, restore=restore)


def _form_of_sparse(tensor: torch.Tensor, masked: bool) -> Form:
    layout, size = tensor.layout, tensor.size()
    if not masked:
        blocks = tensor.values().shape[1:3] if layout in COMPRESSED[2:] else None
        ones = (
            torch.ones(size[: tensor.sparse_dim()], dtype=torch.int8).to_sparse()
            if layout is torch.sparse_coo
            else None
        )

        def full(x: torch.Tensor) -> torch.Tensor:
            if ones is not None:
                entries, inner = size[: tensor.sparse_dim()], size[tensor.sparse_dim() :]
                values = x.reshape(entries.numel(), *inner)
                return torch.sparse_coo_tensor(ones.indices(), values, size, is_coalesced=True)
            return x.to_sparse(layout=layout, blocksize=blocks)

        return Form(dense=tensor.to_dense(), restore=full)
    values, restore = unpacked(tensor)
    return Form(dense=values, restore=restore)


def _armed(x: torch.Tensor) -> torch.Tensor:
    """The tensor, requiring a gradient as the caller's does; not in forward mode, as in PyTorch."""
    return x if _is_dual(x) else _requiring(x)


def _is_dual(x: torch.Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def _reached(value: Any, leaves: Sequence[torch.Tensor]) -> list[bool]:
    """Of each leaf, whether the graph of `value` leads back to it."""
    nodes = set(graph_of(connected(value)))
    variables = {id(getattr(node, "variable", None)) for node in nodes}
    return [leaf.grad_fn in nodes if leaf.grad_fn else id(leaf) in variables for leaf in leaves]


def _requiring(x: torch.Tensor) -> torch.Tensor:
    """The tensor, requiring a gradient: `x` itself, or another view of it that does."""
    if x.requires_grad:
        return x
    with torch.no_grad():  # unlike detach, a view keeps the tangent of forward mode
        return x.view_as(x).requires_grad_()


def armed_like(own: Any, given: Any) -> Any:
    """An argument that requires a gradient where the caller's own does."""
    needs = isinstance(own, torch.Tensor) and own.requires_grad
    return _requiring(given) if needs else given


def cotangents_of(
    outputs: Sequence[torch.Tensor], *, strided: bool = True
) -> tuple[torch.Tensor, ...]:
    """Random tensors between -1 and 1 like `outputs`, from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for output in outputs:
        dtype = output.dtype if is_floating(output) else torch.float64
        shape = (*output.shape, 2) if output.dim() and not strided else output.shape
        real = torch.complex128 if dtype.is_complex else torch.float64
        draw = torch.rand(shape, generator=generator, dtype=real, device="cpu")
        draw = 2 * draw - (1 + 1j if dtype.is_complex else 1)
        draw = draw.to(dtype=dtype, device=output.device)
        found.append((draw if draw.dim() == output.dim() else draw[..., 0]).requires_grad_())
    return tuple(found)


def leaves_of(inputs: tuple[Any, ...]) -> list[tuple[str, torch.Tensor]]:
    return [
        (path, leaf)
        for path, leaf in trees.leaves(inputs)
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad
    ]


def tensors_of(value: Any) -> list[torch.Tensor]:
    return [leaf for _, leaf in trees.leaves(value) if isinstance(leaf, torch.Tensor)]


def returned(func: Callable[..., Any], value: Any) -> Any:
    """Return `value`, which `func` returned.

    Raises:
        InputError: there is no tensor in it.
    """
    if not tensors_of(value) and value not in ((), []):
        name = getattr(func, "__name__", type(func).__name__)
        missing = ": is a `return` missing?" * (value is None)
        raise InputError(
            f"expected {name} to return a tensor or a tuple of tensors; got "
            f"{type(value).__name__}{missing}"
        )
    return value


def connected(value: Any) -> tuple[torch.Tensor, ...]:
    """The outputs that require a gradient."""
    return tuple(tensor for tensor in tensors_of(value) if tensor.requires_grad)


def chosen(value: Any, first: Any) -> tuple[torch.Tensor, ...]:
    """The outputs in `value` at the places where those of the `first` call require a gradient."""
    pairs = zip(tensors_of(value), tensors_of(first), strict=True)
    return tuple(tensor for tensor, original in pairs if original.requires_grad)


def is_floating(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def dense(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_nested:
        return values_of(tensor)
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def tupled(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
