"""Other ways to ask a PyTorch target, and what it does beside computing.

An audit runs one forward and one backward pass and looks at everything that they could write: the
inputs and buffers that the target was given, its parameters, the cotangents, the tensors saved for
the backward pass, and what the rules of its custom Functions are given and return. Autograd casts
and sums what a rule returns until it fits, so that is seen nowhere else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from gradcheck import trees
from gradcheck.adapters.layouts import CONJUGATED, EXPANSIONS, SWAPPED, placement
from gradcheck.adapters.manners import narrowed, same
from gradcheck.adapters.randomness import OTHER
from gradcheck.adapters.torch_bridge import BRIDGE, gradients_of, into, numbers
from gradcheck.adapters.torch_digits import eagerly
from gradcheck.adapters.torch_graphs import graph_of
from gradcheck.adapters.torch_posed import Posed
from gradcheck.adapters.torch_refusals import refusals
from gradcheck.errors import Unsupported
from gradcheck.problem import Array, Arrays, Audit, Call, Caller, Deed, Manner

__all__ = ["LAYOUTS", "audit", "session"]

LAYOUTS = (
    "sliced from a larger buffer",
    "rows of a wider buffer",
    "transposed",
    *SWAPPED,
    "channels last",
    CONJUGATED,
    *EXPANSIONS,
)


@contextmanager
def session(posed: Posed, manner: Manner) -> Iterator[Caller]:
    """Yield what calls the target in that manner; what it stores on its module stays till the end.

    A target that `torch.compile` made is asked once as it is and once eager; which of both is plain
    does not matter to whether they agree.

    Raises:
        Unsupported: the manner is to compile what is eager.
    """
    if manner.is_compiled and not posed.is_compiled:
        raise Unsupported("compiling takes too long to be asked by the way")
    with _kept(posed), eagerly() if manner.is_compiled else nullcontext():
        yield partial(_call, _mannered(posed, manner), manner, [])


def _kept(posed: Posed) -> Any:
    return nullcontext() if posed.rooms is None else posed.rooms.kept()


def _mannered(posed: Posed, manner: Manner) -> Posed:
    def given(path: str, copy: Any) -> Any:
        layout = manner.layouts.get(path)
        return copy if layout is None else Laid.apply(copy, layout)  # type: ignore[no-untyped-call]

    seed = posed.seed + OTHER * manner.is_reseeded
    return replace(posed, seed=seed, keeps_attributes=False, given=given)


@torch.inference_mode(False)
def _call(
    posed: Posed, manner: Manner, first: list[torch.Tensor], point: Arrays, *, another: bool = False
) -> Call:
    """One call; the leaves of the `first` one in a session are kept there."""
    if posed.rooms is not None and posed.rooms.waits():
        raise Unsupported(
            "the handle of a hook that waits for the backward pass is kept on the module, where "
            "a second forward pass replaces it"
        )
    if another:
        posed = replace(posed, seed=posed.seed + OTHER)
    paths, count = list(posed.named), len(point)
    asked = range(count) if manner.leaves is None else manner.leaves
    with torch.enable_grad():
        leaves = [
            _laid(x, manner.layouts.get(p))
            for x, p in zip(posed.tensors(point), paths, strict=True)
        ]
        for k in range(count) if posed.records else asked:
            leaves[k].requires_grad_()
        if manner.is_in_place:
            leaves = _written(first, leaves)
        own = posed.own(leaves)
        is_spared = manner.is_in_place or (posed.is_large and not manner.layouts)
        found = posed.run(leaves, own, shared=is_spared and not posed.writes)

    @torch.inference_mode(False)
    def pull(cotangents: Arrays) -> Callable[[], Arrays]:
        pairs = [
            (y, _laid(into(u, y), manner.layouts.get(path)))
            for k, ((path, y), u) in enumerate(zip(found, cotangents, strict=True))
            if manner.outputs is None or k in manner.outputs
        ]
        outputs, us = [y for y, _ in pairs], [u for _, u in pairs]
        chosen = [leaves[k] for k in asked]
        if len(chosen) < count and posed.reenters(outputs):
            raise Unsupported("a reentrant checkpoint wants an input that requires a gradient")
        with refusals("a second backward"):
            gradients = posed.pulled_back(
                outputs,
                chosen,
                us,
                own,
                retain_graph=manner.is_retained or manner.is_recorded,
                create_graph=manner.is_recorded,
            )
        placed = dict(zip(asked, gradients, strict=True))
        return lambda: gradients_of([placed.get(k) for k in range(count)], point)

    return Call(value=tuple(BRIDGE.out(y) for _, y in found), pull=pull)


def _written(first: list[torch.Tensor], leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    """The first leaves, with the numbers of `leaves` written into them."""
    first.extend(leaves[len(first) :])
    with torch.no_grad():
        for own, leaf in zip(first, leaves, strict=True):
            own.copy_(leaf)
            own.grad = None  # to which a checkpoint that reenters adds
    return first


class Laid(torch.autograd.Function):
    """The same values elsewhere in memory; the target may write into them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layout: str) -> torch.Tensor:
        laid = _laid(x, layout)
        return x.clone() if laid is x else laid

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> tuple[torch.Tensor, None]:
        return u, None


def _laid(x: torch.Tensor, layout: str | None) -> torch.Tensor:
    """Return `x` in `layout`, NaN around it."""
    if layout is None or not (x.is_floating_point() or x.is_complex()):
        return x
    if layout == CONJUGATED:
        return x.conj().resolve_conj().conj() if x.is_complex() else x
    place = placement(layout, tuple(x.shape))
    if place is None:
        return x
    buffer = x.new_full((place.length,), float("nan"))
    # No view of the buffer, which autograd would not let a Function hand out for writing.
    laid = x.new_empty(0).set_(buffer.untyped_storage(), place.offset, x.shape, place.strides)
    laid[place.once].copy_(x[place.once])
    return laid


def audit(posed: Posed, point: Arrays, cotangents: Arrays) -> Audit:
    """Return what one forward and one backward pass did; and one in forward mode, by own rules."""
    try:
        seen = _audited(posed, point, cotangents, torch.autograd.graph.saved_tensors_hooks)
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):  # of which torch.func wants none
            raise
        seen = _audited(posed, point, cotangents, lambda pack, unpack: nullcontext())
    if posed.is_native:
        return seen
    return replace(seen, deeds=(*seen.deeds, *_tangled(posed, point)))


@torch.inference_mode(False)
def _tangled(posed: Posed, point: Arrays) -> list[Deed]:
    """The tangents that a rule for forward mode wrote into."""
    tangents: Sequence[torch.Tensor] = ()
    with suppress(Exception):  # what forward mode raises is for the checks of it
        ones = tuple(map(np.ones_like, point))
        tangents, _ = posed.pushed(point, ones, shared=not posed.writes)
    return [
        Deed(path=f"tangent of {path}", what="jvp writes into it")
        for path, tangent in zip(posed.named, tangents, strict=False)
        if not torch.equal(tangent, torch.ones_like(tangent))
    ]


@torch.inference_mode(False)
def _audited(posed: Posed, point: Arrays, cotangents: Arrays, hooks: Any) -> Audit:
    handed: dict[str, Handed] = {}
    arrays: dict[str, tuple[Array, Array]] = {}  # of NumPy, with copies
    saved: list[torch.Tensor] = []

    def given(path: str, copy: Any) -> Any:
        if isinstance(copy, torch.Tensor):
            handed[path] = Handed(tensor=copy, contents=BRIDGE.out(copy), origin=copy.grad_fn)
        elif isinstance(copy, np.ndarray):
            arrays[path] = copy, copy.copy()
        return copy

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.detach())  # the tensor itself would be a cycle
        return saved[-1]

    posed = posed.but(keeps_attributes=False, given=given)
    leaves = [x.requires_grad_() for x in posed.tensors(point)]
    own = posed.own(leaves)
    with _kept(posed):
        with torch.enable_grad(), hooks(pack, lambda tensor: tensor):
            found = posed.run(leaves, own)
            deeds = _flags()
        direct = {p: x for p, x in zip(posed.named, leaves, strict=True) if p not in handed}
        before = dict(zip(posed.named, point, strict=True))
        forward = [path for path, x in direct.items() if not same(before[path], numbers(x))]
        deeds += [
            Deed(path=p, what=WRITTEN + ONCE * p.startswith("params."), is_wrong=False)
            for p in forward
        ]
        outputs = [y for _, y in found]
        us = {path: into(u, y) for (path, y), u in zip(found, cotangents, strict=True)}
        held = {**{path: x.tensor for path, x in handed.items()}, **direct}
        written = {p: x for p, x in handed.items() if not same(x.contents, numbers(x.tensor))}
        asked, rest, kept = Contents(us), Contents(held), Contents(dict(enumerate(saved)))
        versions = [tensor._version for tensor in saved]
        values = tuple(BRIDGE.out(y) for y in outputs) if isinstance(posed.target, type) else None
        with _watched(outputs, values) as rules:
            gradients = posed.pulled_back(outputs, leaves, list(us.values()), own)
    reached = {p for p, g in zip(posed.named, gradients, strict=True) if g is not None}
    wrote = [path for path, (now, then) in arrays.items() if not same(now, then)]
    deeds += [Deed(path=path, what=WRITTEN, is_wrong=False) for path in wrote]
    deeds += _forward(posed, written, reached)
    deeds += [Deed(path=path, what=INTO_COTANGENT) for path in asked.changed()]
    overwritten = rest.changed()
    # A checkpoint that runs the forward pass again updates running statistics again.
    again = {p for p in written if _keeps_statistics(posed, p)}
    deeds += [
        Deed(path=p, what="backward writes into it", is_wrong=p not in again) for p in overwritten
    ]
    # Where autograd counts the write, a second backward pass raises. Where it does not, it may be
    # a kernel's own workspace (that of an LSTM is): a second pass, which "state" asks for, tells.
    silent = [k for k in kept.changed() if saved[k]._version == versions[k]]
    if silent and not overwritten:
        path = next(iter(posed.named))
        deeds.append(Deed(path=path, what=INTO_SAVED, is_wrong=False))
    # Asked for gradients, autograd adds to no `grad`.
    added = [p for p, x in zip(posed.named, leaves, strict=True) if x.grad is not None]
    added = [] if posed.reenters(outputs) else added
    deeds += [Deed(path=p, what=INTO_GRAD, is_wrong=p in reached) for p in added]
    deeds += [*_unseen(outputs), *rules]
    deeds += _shared(posed, gradients, held)
    return Audit(
        deeds=tuple(dict.fromkeys(deeds)),
        unreached=tuple(k for k, g in enumerate(gradients) if g is None),
        detached=tuple(k for k, y in enumerate(outputs) if not y.requires_grad),
    )


WRITTEN = "forward writes into it"
ONCE = "; if it initialises itself, call it once first"
INTO_COTANGENT = "backward writes into its cotangent, which belongs to whoever asked"
INTO_GRAD = "backward adds to its `grad` itself; what it returns besides is added to that once more"
INTO_SAVED = "backward writes into a tensor saved for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """A tensor that the target was given, with what was in it and where it came from."""

    tensor: torch.Tensor
    contents: Array
    origin: Any


class Contents:
    """What is in tensors now."""

    def __init__(self, tensors: Mapping[Any, torch.Tensor]) -> None:
        self.tensors = tensors
        self.now = {key: BRIDGE.out(tensor) for key, tensor in tensors.items()}

    def changed(self) -> list[Any]:
        return [key for key, x in self.tensors.items() if not same(self.now[key], numbers(x))]


def _flags() -> list[Deed]:
    if torch.is_grad_enabled():
        return []
    return [Deed(path="", what="forward leaves the recording of gradients switched off")]


def _forward(posed: Posed, written: Mapping[str, Handed], reached: set[str]) -> list[Deed]:
    """What is to be said of tensors that the forward pass wrote into.

    An operation in place, or a Function that marks its input as dirty, becomes the origin of the
    tensor. Where the origin is the old one autograd knows nothing of the write, and differentiates
    another function than was computed.
    """
    deeds = []
    for path, x in written.items():
        if _keeps_statistics(posed, path):
            continue
        is_hidden = path in reached and x.tensor.grad_fn is x.origin
        what = WRITTEN + ", and autograd does not know" * is_hidden
        deeds.append(Deed(path=path, what=what, is_wrong=is_hidden))
    return deeds


def _keeps_statistics(posed: Posed, path: str) -> bool:
    """Whether `path` is a buffer of a module in training: running statistics."""
    is_input = path in posed.named or path in {p for p, _ in trees.leaves(posed.inputs, "input")}
    return not is_input and bool(getattr(posed.module, "training", False))


def _shared(
    posed: Posed,
    gradients: Sequence[torch.Tensor | None],
    held: Mapping[str, torch.Tensor],
) -> list[Deed]:
    """Gradients that live in the memory of an input or parameter: adding to one changes both."""
    owners = {memory: path for path, x in held.items() if (memory := _memory(x))}
    return [
        Deed(path=path, what=f"its gradient lives in the memory of {owners[memory]}")
        for path, gradient in zip(posed.named, gradients, strict=True)
        if gradient is not None and (memory := _memory(gradient)) in owners
    ]


def _memory(tensor: torch.Tensor) -> int:
    is_plain = tensor.layout is torch.strided and tensor.numel() and not tensor._is_zerotensor()
    return tensor.untyped_storage().data_ptr() if is_plain else 0


@contextmanager
def _watched(outputs: Sequence[torch.Tensor], values: Arrays | None) -> Iterator[list[Deed]]:
    """Watch the rules of the custom Functions that `outputs` come from; yield what they do.

    `values` are the outputs, if their Function is the whole target: then its rule need not have
    more digits than they have.
    """
    deeds: list[Deed] = []
    with ExitStack() as stack:
        for rule in _rules(outputs):
            stack.enter_context(_replaced(rule, partial(_observed, rule.__name__, values, deeds)))
        yield deeds


def _applied(outputs: Sequence[torch.Tensor]) -> Iterator[tuple[Any, Any]]:
    """The custom Functions in the graph, each with its context, as often as it was applied."""
    for node in graph_of(outputs):
        rule = getattr(node, "_forward_cls", None)
        if rule is not None and not rule.__module__.startswith("torch."):
            yield rule, node


def _rules(outputs: Sequence[torch.Tensor]) -> list[Any]:
    """The custom Functions in the graph, each once."""
    return list(dict.fromkeys(rule for rule, _ in _applied(outputs)))


def _unseen(outputs: Sequence[torch.Tensor]) -> list[Deed]:
    """What custom Functions keep beside what autograd watches over: arguments and outputs.

    What is saved by `save_for_backward` cannot be written into unnoticed.
    """
    return [
        Deed(
            path=f"{rule.__name__}.forward",
            what=f"keeps an argument or output as ctx.{key}: whoever writes into it before the "
            "backward pass gets a wrong gradient, where save_for_backward raises",
            is_wrong=False,
        )
        for rule, ctx in _applied(outputs)
        for key, value in vars(ctx).items()
        if isinstance(value, torch.Tensor) and value.requires_grad
    ]


@contextmanager
def _replaced(rule: Any, around: Callable[..., Any]) -> Iterator[None]:
    """Put `around(original, ctx, *cotangents)` in the place of a Function's rule."""
    name = "backward" if rule.vjp is torch.autograd.Function.vjp else "vjp"
    own, original = vars(rule).get(name), getattr(rule, name)
    setattr(rule, name, staticmethod(partial(around, original)))
    try:
        yield
    finally:
        if own is None:
            delattr(rule, name)
        else:
            setattr(rule, name, own)


def _observed(
    name: str,
    values: Arrays | None,
    deeds: list[Deed],
    original: Callable[..., Any],
    ctx: Any,
    *us: Any,
) -> Any:
    path = f"{name}.backward"
    given = Contents({k: u for k, u in enumerate(us) if isinstance(u, torch.Tensor)})
    own = {key: x for key, x in vars(ctx).items() if isinstance(x, torch.Tensor)}
    kept = Contents(own)
    returned = original(ctx, *us)
    if given.changed():
        deeds.append(Deed(path=path, what="writes into grad_output, which others may use"))
    deeds += [Deed(path=path, what=f"writes into ctx.{key}") for key in kept.changed()]
    for gradient, wanted in _matched(ctx, returned):
        if gradient.shape != tuple(wanted.shape):
            what = f"returns the shape {tuple(gradient.shape)}, autograd sums to {wanted.shape}"
            deeds.append(Deed(path=path, what=what, is_wrong=False))
        got, dtype = (str(d).removeprefix("torch.") for d in (gradient.dtype, wanted.dtype))
        found = [] if gradient.is_complex() else narrowed(path, got, dtype, values or ())
        deeds += [replace(deed, is_wrong=deed.is_wrong and values is not None) for deed in found]
    return returned


def _matched(ctx: Any, returned: Any) -> list[tuple[torch.Tensor, Any]]:
    """Each gradient that a rule returned, with the metadata of what it is the gradient of.

    The rule returns one for every argument, and the graph has an edge for every tensor: where the
    two differ in number and None does not tell which is which, nothing is matched.
    """
    gradients = returned if isinstance(returned, tuple) else (returned,)
    edges = list(ctx.next_functions)
    if len(edges) != len(gradients):
        edges = [edge for edge in edges if edge[0] is not None]
        gradients = tuple(g for g in gradients if g is not None)
    if len(edges) != len(gradients):
        return []
    return [
        (gradient, node._input_metadata[position])
        for gradient, (node, position) in zip(gradients, edges, strict=True)
        if isinstance(gradient, torch.Tensor) and node is not None
    ]
