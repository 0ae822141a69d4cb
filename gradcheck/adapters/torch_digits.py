"""In which dtypes a target computes inside: which leaves lose digits there, and how not to.

A layer that takes float64 may compute its softmax in float32. Its values are then a staircase, on
which differences mean nothing, and its gradient has seven digits. Both are seen from the operators
that run: a leaf whose influence on an output passes through a narrow tensor has the digits of that.
Run with every narrow tensor cast to float64, the same target is the formula that it rounds.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Lifted", "Watched", "eagerly"]

NARROW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)
WIDE = {torch.complex64: torch.complex128}

Marks = tuple[int, ...]  # sets of leaves, as bits: all, and those seen through each narrow dtype

NOTHING: Marks = (0,) * (1 + len(NARROW))


def eagerly() -> AbstractContextManager[Any]:
    """Run what `torch.compile` made as it is written.

    Under a mode it would be anyway, and from then on always: the compiler gives it up.
    """
    has_compiled = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return torch.compiler.set_stance("force_eager") if has_compiled else nullcontext()


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that does not import the compiler, a second of it, only to be left alone by it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # where there is a compiler, `eagerly` keeps it away


class Watched(_Mode):  # type: ignore[no-untyped-call]
    """Follows the influence of `leaves` through the operators that run."""

    def __init__(self, leaves: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.marks: dict[int, Marks] = {}
        self.kept: list[torch.Tensor] = list(leaves)  # no memory is used twice while it watches
        self.draws = False  # whether random numbers were drawn, from whatever generator
        self.draws_others = False  # whether they would be others in another dtype
        for k, leaf in enumerate(leaves):
            self._mark(leaf, (1 << k, *NOTHING[1:]))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.draws |= _draws(func)
        self.draws_others |= _draws_others(func, kwargs)
        given = [self.of(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        marks = _union(given)
        if marks[0]:
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    self._mark(tensor, _through(tensor, marks))
        return out

    def of(self, tensor: torch.Tensor) -> Marks:
        return self.marks.get(_place(tensor), NOTHING)

    def inside(self, outputs: Sequence[torch.Tensor]) -> dict[int, torch.dtype]:
        """The narrowest dtype through which each leaf reaches the outputs, if one is narrow."""
        marks = _union([self.of(output) for output in outputs])
        found: dict[int, torch.dtype] = {}
        for k in range(marks[0].bit_length()):
            through = [d for d, bits in zip(NARROW, marks[1:], strict=True) if bits >> k & 1]
            if through:
                found[k] = max(through, key=lambda dtype: torch.finfo(dtype).eps)
        return found

    def _mark(self, tensor: torch.Tensor, marks: Marks) -> None:
        if (place := _place(tensor)) and any(marks):
            self.kept.append(tensor)
            self.marks[place] = _union([self.marks.get(place, NOTHING), marks])


def _through(tensor: torch.Tensor, marks: Marks) -> Marks:
    """The marks of what an operator makes of tensors with `marks`; integers pass nothing on."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return NOTHING
    return (
        marks[0],
        *(
            marks[0] if tensor.dtype is dtype else bits
            for dtype, bits in zip(NARROW, marks[1:], strict=True)
        ),
    )


def _union(many: Sequence[Marks]) -> Marks:
    total = list(NOTHING)
    for marks in many:
        total = [a | b for a, b in zip(total, marks, strict=True)]
    return tuple(total)


def _place(tensor: torch.Tensor) -> int:
    """Where a tensor lies: what is written into a view is written into its base."""
    with suppress(RuntimeError, NotImplementedError):  # sparse, or without a storage
        return tensor.untyped_storage().data_ptr()
    return 0


# Operators that draw as many digits as they are told: by a dtype, a tensor, or one that is filled.
NEW = ("rand.default", "randn.default", "rand.generator", "randn.generator")
LIKE = ("rand_like.default", "randn_like.default")
OF = ("bernoulli.default",)  # by the probabilities that it is given
FILL = (
    "bernoulli_.Tensor",
    "uniform_.default",
    "normal_.default",
    "exponential_.default",
    "log_normal_.default",
)


# A number that is drawn in a narrow dtype is compared with one that is rounded to it.
COMPARED = tuple(f"{name}.Scalar" for name in ("gt", "ge", "lt", "le", "eq", "ne"))


def _draws_others(func: Any, kwargs: Mapping[str, Any] | None) -> bool:
    """Whether the numbers that it draws would be others in another dtype."""
    told = func.__name__ in NEW and (kwargs or {}).get("dtype") in NARROW
    return told or func.__name__ in (*LIKE, *OF, *FILL)


class Lifted(_Mode):  # type: ignore[no-untyped-call]
    """Casts every narrow tensor that meets an operator to float64, and asks for none.

    Random numbers are drawn in the dtype `drawn`, and cast: in another they are others.
    """

    def __init__(self, drawn: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn = drawn

    def _down(self, value: Any) -> Any:
        is_wide = isinstance(value, torch.Tensor) and value.dtype is torch.float64
        return value.to(self.drawn) if is_wide else value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.__name__
        if name in (*LIKE, *OF, *FILL) and args[0].dtype is torch.float64:
            narrow, *others = tree_map(self._down, args)
            found = _tensor_up(func(narrow, *others, **(kwargs or {})))
            return args[0].copy_(found) if name in FILL else found
        if name in NEW and kwargs and kwargs.get("dtype") is torch.float64:
            return _tensor_up(func(*args, **{**kwargs, "dtype": self.drawn}))
        if name in COMPARED and args[0].dtype is torch.float64:
            return func(args[0], torch.tensor(args[1], dtype=self.drawn).item(), **(kwargs or {}))
        up: Callable[[Any], Any] = _tensor_up if _draws(func) else _up
        wide = _in_groups if name == "_grouped_mm.default" else func
        return tree_map(_tensor_up, wide(*tree_map(up, args), **tree_map(up, kwargs or {})))


def _in_groups(
    a: torch.Tensor,
    b: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """`torch.nn.functional.grouped_mm`, by which experts are computed: it has no float64."""
    if offs is None:
        return a @ b
    ends = offs.tolist()
    ranges = list(zip([0, *ends], ends, strict=False))
    if a.dim() == b.dim():  # groups of what is summed over
        return torch.stack([a[:, i:j] @ b[i:j] for i, j in ranges])
    if a.dim() == 3:  # of columns
        out = a.new_zeros(a.shape[1], b.shape[1])
        for matrix, (i, j) in zip(a, ranges, strict=True):
            out[:, i:j] = matrix @ b[:, i:j]
    else:  # of rows
        out = a.new_zeros(a.shape[0], b.shape[2])
        for matrix, (i, j) in zip(b, ranges, strict=True):
            out[i:j] = a[i:j] @ matrix
    return out if bias is None else out + bias


def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())


def _up(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return WIDE.get(value, torch.float64) if value in NARROW else value
    return _tensor_up(value)


def _tensor_up(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in NARROW:
        return value.to(WIDE.get(value.dtype, torch.float64))
    return value
