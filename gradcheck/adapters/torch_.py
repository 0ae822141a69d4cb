"""PyTorch: functions on tensors, `nn.Module`s, `autograd.Function` subclasses."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.autograd.function import FunctionCtx

from gradcheck import trees
from gradcheck.adapters import torch_manners
from gradcheck.adapters.bridge import declared, received
from gradcheck.adapters.holdings import generators_of
from gradcheck.adapters.randomness import OTHER
from gradcheck.adapters.torch_bridge import BRIDGE, versions_of
from gradcheck.adapters.torch_graphs import graph_of
from gradcheck.adapters.torch_modules import module_of, rooms_of
from gradcheck.adapters.torch_packed import SPARSE, is_packed, unpacked
from gradcheck.adapters.torch_paddings import Paddings, reading
from gradcheck.adapters.torch_posed import Posed, Restore
from gradcheck.adapters.torch_strangers import said_of, strangers
from gradcheck.errors import InputError, first_line
from gradcheck.problem import WIDER, Excepted, Leaf, Problem, label, norm

__all__ = ["problem_of_torch"]


def problem_of_torch(
    target: Any,
    inputs: tuple[Any, ...],
    *,
    name: str | None,
    seed: int,
    constant: Collection[str] = (),
    every: bool = False,
    excepted: Excepted = lambda path: None,
) -> Problem:
    """Return the problem of `target` at `inputs`, without the outputs that are `excepted`.

    Leaves are the trainable parameters of a module, shared ones once, and the inputs that require
    a gradient; if none does, or with `every`, all floating and complex ones that are dense. The
    leaf of a sparse input is the entries that it specifies, that of a nested one all of its values.

    Raises:
        InputError: nothing to differentiate, or no output that could be.
    """
    inputs = _as_tensors(inputs)
    own = {f"params.{path}": tensor for path, tensor in _parameters(target).items()}
    given = _leaves(inputs, every=every)
    restores: dict[str, Restore] = {}
    for path, leaf in list(given.items()):
        if leaf.is_meta:
            raise InputError(f"expected {path} to have values; got a tensor on the device meta")
        if is_packed(leaf):
            given[f"{path}.values()"], restores[path] = unpacked(given.pop(path).detach())
    named = own | {path: leaf for path, leaf in given.items() if path not in constant}
    if not named:
        raise InputError(
            f"expected a trainable parameter or a floating input to differentiate; got inputs "
            f"{received(inputs)}"
        )
    module = module_of(target)
    rooms = None if module is None else rooms_of(module)
    posed = Posed(
        target=target,
        inputs=inputs,
        named=named,
        seed=seed,
        rooms=rooms,
        restores=restores,
        generators=generators_of(target),
    )
    versions = versions_of(named.values())
    with torch.set_grad_enabled(torch.is_grad_enabled()):  # a target may leave it switched off
        with _seeing(FunctionCtx, "mark_non_differentiable") as calls:
            posed, outputs = _first_run(posed)
        marked = [tensor for _, *tensors in calls for tensor in tensors]
        left_out = declared(outputs, excepted)
        silent = {path: MARKED for path, tensor in outputs if _is_among(tensor, marked)}
        if len(silent) < len(outputs):
            left_out = silent | left_out
        posed = posed.but(silent=frozenset(left_out))
        outputs = posed.heard(outputs)
        is_asked = every or restores or any(leaf.requires_grad for leaf in given.values())
        seen = _recorded(posed, outputs, {} if is_asked else own)
    posed = seen.posed.but(records=posed.records or seen.differs, paddings=seen.paddings)
    if seen.differs:
        posed, outputs = _first_run(posed.but(draws={}))
    if not outputs:
        hidden = (f"; {path} is {UNREAD.format(kind)}" for path, kind in posed.unread.items())
        raise InputError(
            "expected the target to return at least one floating or complex tensor"
            + "".join(hidden)
        )
    if posed.is_large and versions is not None and versions == versions_of(named.values()):
        posed = posed.lent()
    problem = _problem(posed, [BRIDGE.leaf(path, tensor) for path, tensor in outputs], name)
    missed = [*seen.refused, *(f"{path}: {why}" for path, why in left_out.items())]
    missed += [f"{path}: {UNREAD.format(kind)}" for path, kind in posed.unread.items()]
    missed += said_of(target, seen.strangers, posed.named.values())
    missed += [
        f"{path}: a sparse tensor, and a constant beside dense ones; have it require a gradient"
        for path, leaf in trees.leaves(inputs, "input")
        if BRIDGE.is_differentiable(leaf) and leaf.layout in SPARSE and path not in restores
    ]
    missed += [
        f"row {row} of an embedding of {tuple(shape)}: the padding, which PyTorch leaves out of "
        "the gradient"
        for row, shape in seen.paddings
    ]
    hooked = [path for path, tensor in posed.named.items() if _is_hooked(tensor)]
    if hooked:
        missed.append(f"what the hooks on {', '.join(hooked)} do to its gradient")
    if seen.differs:
        missed.append("the value that it has while no gradient is recorded, which is another")
    return replace(problem, notes=(*problem.notes, *missed), excepted=tuple(left_out))


UNREAD = "a {}, in which no tensors are looked for; return them in a tuple, a dict or a dataclass"

MARKED = "marked as non-differentiable by its Function"


@contextmanager
def _seeing(owner: type, method: str) -> Iterator[list[tuple[Any, ...]]]:
    """Yield what a method is called with meanwhile, the object first."""
    calls: list[tuple[Any, ...]] = []
    original = getattr(owner, method)

    def seen(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return original(*arguments, **options)

    setattr(owner, method, seen)
    try:
        yield calls
    finally:
        setattr(owner, method, original)


def _is_among(tensor: torch.Tensor, others: Sequence[torch.Tensor]) -> bool:
    """Whether it is one of the others, or the same memory in the same form."""
    return any(
        tensor is other or (other.data_ptr() == tensor.data_ptr() and other.shape == tensor.shape)
        for other in others
    )


def _first_run(posed: Posed) -> tuple[Posed, list[tuple[str, torch.Tensor]]]:
    """The target as it runs, and what is seen of it on the way.

    It runs without a graph, or with one where it asks for a derivative itself: a hook on a tensor,
    or `torch.autograd.grad` within the target, needs one. What cannot be watched is not known.
    """
    refusals = []
    for attempt in (
        posed.watched,
        posed.unwatched,
        posed.but(records=True).watched,
        posed.but(records=True).unwatched,
    ):
        try:
            return attempt()
        except Exception as refusal:  # whatever the target raises
            refusals.append(refusal)
    raise refusals[1]  # it was not for want of a graph


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    """A target that autograd records, and what is seen of it then."""

    posed: Posed
    differs: bool = False  # whether it returns something else where it is recorded
    paddings: Paddings = field(default_factory=dict)
    strangers: Sequence[torch.Tensor] = ()  # trainable tensors that are no leaves
    refused: Sequence[str] = ()  # what its inputs would have it raise


def _recorded(
    posed: Posed, outputs: Sequence[tuple[str, torch.Tensor]], own: Mapping[str, torch.Tensor]
) -> _Recorded:
    """Return what is seen of the target where autograd records it.

    A module may take inputs only that require no gradient: then its `own` leaves are left.
    """
    refused: list[str] = []
    for attempt in (posed, *([replace(posed, named=own)] if own else [])):
        try:
            with torch.inference_mode(False):
                with _seeing(torch.Tensor, "register_hook") as calls:
                    leaves, _, recorded = attempt.recorded(attempt.point)
                given = (leaf for _, leaf in trees.leaves(posed.inputs))
                inside = any(tensor.grad_fn is not None for tensor, *_ in calls)
                return _Recorded(
                    posed=attempt.but(hooks=inside),
                    differs=not posed.records and _depends_on_recording(outputs, recorded),
                    paddings=_paddings(attempt, recorded),
                    strangers=strangers(recorded, chain(leaves, given)),
                    refused=refused,
                )
        except Exception as error:  # whatever it raises is said by the checks
            why = f"the target raises where it requires a gradient: {first_line(error)}"
            refused = [f"{path}: {why}" for path in posed.named if path not in own]
    return _Recorded(posed=posed)


def _paddings(posed: Posed, recorded: Sequence[torch.Tensor]) -> Paddings:
    """The rows that embeddings leave out of the gradient, if there is an embedding."""
    rows = (getattr(node, "_saved_padding_idx", NO_ROW) for node in graph_of(recorded))
    if min(rows, default=NO_ROW) >= NO_ROW:
        return {}
    with reading() as found:
        posed.recorded(posed.point)
    return {key: read for key, read in found.items() if any(row is not None for row in read)}


NO_ROW = 1 << 63  # PyTorch's own is -1, which is read without its sign


def _depends_on_recording(
    outputs: Sequence[tuple[str, torch.Tensor]], recorded: Sequence[torch.Tensor]
) -> bool:
    """Whether what autograd records is something else than is returned without: a faster path, say.

    What is differentiated is then the other function. Two kernels may differ by rounding: half of
    the digits count.
    """
    if len(outputs) != len(recorded):
        return True
    pairs = [(BRIDGE.out(y), BRIDGE.out(z)) for (_, y), z in zip(outputs, recorded, strict=True)]
    halves = [torch.finfo(y.dtype).eps ** 0.5 for _, y in outputs]
    return any(
        a.shape != b.shape
        or not np.allclose(a, b, half, half * norm(np.where(np.isfinite(b), b, 0)), equal_nan=True)
        for (a, b), half in zip(pairs, halves, strict=True)
    )


def _problem(posed: Posed, outputs: Sequence[Leaf], name: str | None) -> Problem:
    target, called = posed.target, label(posed.target, name)

    def in_float64() -> Problem:
        wide = replace(posed, wide=True, inside={})
        is_mixed = True
        with suppress(Exception):  # a constant that stayed narrow, or an operator without float64
            watched, found = _first_run(wide)
            wide, is_mixed = watched, bool(watched.inside)
        if is_mixed or posed.draws_others:  # some of it is cast to a narrow dtype inside
            wide = wide.but(lifts=True, inside={})
            found = wide.ran(wide.point)
        return _problem(wide, [BRIDGE.leaf(path, tensor) for path, tensor in found], name)

    def redrawn(k: int) -> Problem:
        return _problem(posed.but(seed=posed.seed + OTHER * (k + 1)), outputs, name)

    leaves = tuple(
        replace(BRIDGE.leaf(path, tensor), inside=posed.inside.get(k))
        for k, (path, tensor) in enumerate(posed.named.items())
    )
    if posed.wide:
        leaves = tuple(replace(leaf, dtype=WIDER.get(leaf.dtype, leaf.dtype)) for leaf in leaves)
    return Problem(
        name=called,
        target=repr(target) if isinstance(target, torch.nn.Module) else called,
        framework="torch",
        leaves=leaves,
        outputs=tuple(outputs),
        point=posed.point,
        value=posed.value,
        vjp=posed.vjp,
        both=posed.both,
        jvp=posed.jvp,
        second=posed.second,
        batched=posed.batched,
        mapped=posed.mapped,
        has_vmap_rule=_has_vmap_rule(target),
        session=partial(torch_manners.session, posed),
        layouts=torch_manners.LAYOUTS,
        audit=partial(torch_manners.audit, posed),
        in_float64=None if posed.wide else in_float64,
        analytic=replace(posed, wide=True).value,
        is_random=posed.is_random,
        redrawn=redrawn if posed.is_random else None,
        release=posed.release,
        is_native=lambda: posed.is_native,
        rejecting=posed.rejecting,
    )


def _has_vmap_rule(target: Any) -> bool:
    """Whether it is a Function that says, or has PyTorch say, how it is batched; or its `apply`."""
    rule = getattr(target, "__self__", target)
    if not (isinstance(rule, type) and issubclass(rule, torch.autograd.Function)):
        return False
    own = rule.vmap is not torch.autograd.Function.vmap
    return own or rule.generate_vmap_rule


def _is_hooked(tensor: torch.Tensor) -> bool:
    return bool(tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None))


def _as_tensors(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """NumPy arrays as tensors, if there is no tensor among the inputs: else they are meant."""
    if any(BRIDGE.is_array(leaf) for _, leaf in trees.leaves(inputs)):
        return inputs
    converted: tuple[Any, ...] = trees.rebuild(
        inputs,
        lambda _, leaf: torch.from_numpy(np.array(leaf)) if isinstance(leaf, np.ndarray) else leaf,
    )
    return converted


def _parameters(target: Any) -> dict[str, torch.Tensor]:
    """Trainable parameters by name; one that is shared appears under its first name."""
    if (module := module_of(target)) is None:
        return {}
    if any(torch.nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
        raise InputError(
            f"expected a module with its parameters; those of {type(module).__name__} are made by "
            "its first call: call it once before the check"
        )
    return {path: tensor for path, tensor in module.named_parameters() if tensor.requires_grad}


def _leaves(inputs: tuple[Any, ...], *, every: bool) -> dict[str, torch.Tensor]:
    floating = {
        path: leaf for path, leaf in trees.leaves(inputs, "input") if BRIDGE.is_differentiable(leaf)
    }
    marked = {path: leaf for path, leaf in floating.items() if leaf.requires_grad}
    dense = {path: leaf for path, leaf in floating.items() if leaf.layout not in SPARSE}
    return (dense if every else marked or dense) or floating
