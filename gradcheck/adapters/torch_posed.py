"""A PyTorch target at its inputs, and the ways to run it: forward, backward, twice, batched.

Every evaluation runs on fresh leaves, put in the place of a module's own, with cloned buffers and
a fixed random state, so that the caller's module, its gradients, its buffers and his generator
come back as they were, and dropout draws the same mask at every step of a difference.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from gradcheck import trees
from gradcheck.adapters.manners import same
from gradcheck.adapters.randomness import EVERYBODYS, seeded
from gradcheck.adapters.torch_bridge import (
    BRIDGE,
    are_equal,
    crossed,
    floating,
    generator_of,
    gradients_of,
    into,
    numbers,
    unread,
)
from gradcheck.adapters.torch_compiling import compiling, forget, is_compiled
from gradcheck.adapters.torch_digits import Lifted, Watched, eagerly
from gradcheck.adapters.torch_graphs import (
    graph_of,
    is_native,
    raises_when_differentiated,
    rejecting,
)
from gradcheck.adapters.torch_modules import Rooms, module_of
from gradcheck.adapters.torch_paddings import Paddings, holding
from gradcheck.adapters.torch_refusals import refusals
from gradcheck.adapters.torch_strangers import out_of_reach
from gradcheck.errors import Unsupported, first_line
from gradcheck.problem import LARGE, WIDER, Arrays, Axes, blocks

__all__ = ["Posed", "Restore"]


Restore = Callable[[torch.Tensor], torch.Tensor]  # the values of a sparse tensor -> the tensor


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A target at its inputs, its leaves by path; computed in float64 if `wide`."""

    target: Any
    inputs: tuple[Any, ...]
    named: Mapping[str, torch.Tensor]
    seed: int
    rooms: Rooms | None = None  # those of the module that the target is
    restores: Mapping[str, Restore] = field(default_factory=dict)  # path of a sparse input -> it
    silent: frozenset[str] = frozenset()  # outputs that are left out
    unread: Mapping[str, str] = field(default_factory=dict)  # output that hides tensors -> its type
    generators: Sequence[Any] = ()  # of random numbers, that the target has of its own
    wide: bool = False
    records: bool = False  # whether the target runs, or computes the same, only if it is recorded
    hooks: bool = False  # whether it puts hooks on gradients, of which forward mode knows nothing
    lifts: bool = False  # whether what it casts to a narrow dtype inside stays in float64
    inside: Mapping[int, str] = field(default_factory=dict)  # leaf -> a narrower dtype inside
    is_random: bool = False  # whether it was seen to draw numbers, from whatever generator
    draws_others: bool = False  # whether they would be others in float64
    writes: bool = True  # whether the target may write into its leaves: they are copied for a run
    paddings: Paddings | None = None  # what is held still where embeddings read it
    keeps_attributes: bool = True
    # Part of a run -> whether it was seen to draw; whether a "checkpoint" was seen that reenters.
    draws: dict[str, bool] = field(default_factory=dict)
    # What the target is given in place of a copy of an input, parameter or buffer.
    given: Callable[[str, Any], Any] = lambda path, copy: copy

    @cached_property
    def point(self) -> Arrays:
        arrays = [BRIDGE.out(tensor) for tensor in self.named.values()]
        if self.wide:
            dtypes = [
                WIDER.get(BRIDGE.dtype_of(t), array.dtype)
                for t, array in zip(self.named.values(), arrays, strict=True)
            ]
            arrays = [a.astype(d, copy=False) for a, d in zip(arrays, dtypes, strict=True)]
        return tuple(arrays)

    def lent(self) -> "Posed":
        """The same, which reads what is large of its point where the caller has it."""
        read = [
            numbers(tensor) if tensor.numel() > LARGE else x
            for tensor, x in zip(self.named.values(), self.point, strict=True)
        ]
        pairs = zip(self.point, read, strict=True)
        if not all(same(*part) for pair in pairs for part in blocks(*pair)):
            return self  # a run has written there
        for array in read:
            array.flags.writeable = array.size <= LARGE
        vars(other := replace(self))["point"] = tuple(read)
        return other

    def but(self, **changes: Any) -> "Posed":
        """The same at the same point, which is not copied again, but for some `changes`."""
        other = replace(self, **changes)
        if other.wide is self.wide:
            vars(other)["point"] = self.point
        return other

    @cached_property
    def is_large(self) -> bool:
        """Whether a copy of the leaves is not made where it can be spared."""
        return sum(tensor.numel() for tensor in self.named.values()) > LARGE

    @cached_property
    def module(self) -> torch.nn.Module | None:
        return module_of(self.target)

    @cached_property
    def is_compiled(self) -> bool:
        return is_compiled(self.target, self.module)

    def release(self) -> None:
        if self.is_compiled:
            forget()

    @cached_property
    def all_generators(self) -> list[Any]:
        """Those of everybody and of the devices in use, and the target's own."""
        devices = {t.device for t in self.named.values() if t.device.type in ("cuda", "mps")}
        beside = map(generator_of, sorted(devices, key=str))
        return [*BRIDGE.generators, *beside, *EVERYBODYS, *self.generators]

    def tensors(self, point: Arrays, *, shared: bool = False) -> list[torch.Tensor]:
        """The leaves at `point`, in the target's dtype or, if `wide`, in that of the arrays.

        Their memory may be that of the arrays if it is `shared`.
        """
        return [
            crossed(array, like, None if self.wide else like.dtype, copy=not shared)
            for array, like in zip(point, self.named.values(), strict=True)
        ]

    def own(self, leaves: Sequence[torch.Tensor]) -> Mapping[torch.Tensor, torch.Tensor]:
        """What takes the place of each parameter and buffer of the module at `leaves`."""
        if self.rooms is None:
            return {}
        moved = dict(zip(self.named, leaves, strict=True))
        return {
            own: moved[path] if path in moved else self.given(name, self._copied(own))
            for name, own in self.rooms.tensors.items()
            for path in [f"params.{name}"]
        }

    @contextmanager
    def whole(self) -> Iterator["Posed"]:
        """Yield what runs forward and backward, with what the forward stores still there.

        A hook that removes itself finds its handle, a rule what it left on the module.
        """
        if self.rooms is None or not self.keeps_attributes:
            yield self
        else:
            with self.rooms.kept():
                yield self.unkept

    @cached_property
    def unkept(self) -> "Posed":
        return self.but(keeps_attributes=False)

    @contextmanager
    def standing(self, own: Mapping[torch.Tensor, torch.Tensor]) -> Iterator[None]:
        """Have the module hold its `own` tensors of a run, in its backward pass too.

        A backward pass that runs the module again (a checkpoint, the adjoint of a differential
        equation) must find what the forward pass found.
        """
        if self.rooms is None:
            yield
        else:
            with self.rooms.kept() if self.keeps_attributes else nullcontext(), self.rooms.put(own):
                yield

    def run(
        self,
        leaves: Sequence[torch.Tensor],
        own: Mapping[torch.Tensor, torch.Tensor] | None = None,
        *,
        shared: bool = False,
    ) -> list[tuple[str, torch.Tensor]]:
        """The floating outputs at `leaves`, in the caller's grad mode.

        Inputs are copied unless they are `shared`, so that the target may write into them.
        """
        return self.heard(floating(self.returned(leaves, own, shared=shared)))

    def returned(
        self,
        leaves: Sequence[torch.Tensor],
        own: Mapping[torch.Tensor, torch.Tensor] | None = None,
        *,
        shared: bool = False,
    ) -> Any:
        """What the target returns, as it returns it."""
        moved = dict(zip(self.named, leaves, strict=True))

        def argument(path: str, leaf: Any) -> Any:
            key = f"{path}.values()" if path in self.restores else path
            if not (shared and key in moved):
                copy = self.given(key, self._copied(moved.get(key, leaf)))
            else:
                copy = moved[key]
            return self.restores[path](copy) if path in self.restores else copy

        target: Any = self.target
        asked = compiling() if self.is_compiled else nullcontext()
        with asked, self.seeded("forward", self.seed):
            arguments = trees.rebuild(self.inputs, argument, "input")
            with self.standing(self.own(leaves) if own is None else own), self.lifting():
                if isinstance(target, type):  # an autograd.Function
                    return target.apply(*arguments)  # type: ignore[attr-defined]
                return trees.called(target, arguments)

    def heard(self, outputs: Sequence[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
        return [(path, tensor) for path, tensor in outputs if path not in self.silent]

    @cached_property
    def drawn(self) -> torch.dtype:
        """The dtype of the first leaf that is narrow, in which a target draws random numbers."""
        dtypes = (tensor.dtype for tensor in self.named.values())
        return next((d for d in dtypes if torch.finfo(d).bits < 64), torch.float64)

    @contextmanager
    def lifting(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.lifts or self.paddings:
                stack.enter_context(eagerly())
            if self.lifts:
                stack.enter_context(Lifted(self.drawn))
            if self.paddings:
                stack.enter_context(holding(self.paddings))
            yield

    def seeded(self, part: str, seed: int) -> AbstractContextManager[None]:
        """What makes the "forward" or "backward" part of a run draw the same numbers every time."""
        return seeded(part, seed, self.all_generators, self.draws)

    # The caller may be in inference mode, in which no gradient is recorded.
    @torch.inference_mode(False)
    def value(self, point: Arrays) -> Arrays:
        return tuple(BRIDGE.out(tensor) for _, tensor in self.ran(point, shared=not self.writes))

    @torch.inference_mode(False)
    def watched(self) -> tuple["Posed", list[tuple[str, torch.Tensor]]]:
        """This, with what was seen of a run from inside; and its outputs."""
        with torch.set_grad_enabled(self.records):
            leaves = self.tensors(self.point)
            if self.records:
                leaves = [tensor.requires_grad_() for tensor in leaves]
            versions = [leaf._version for leaf in leaves]
            with eagerly(), Watched(leaves) as watched:
                returned = self.returned(leaves, shared=not self.records)
                found = self.heard(floating(returned))
        # Of a relu in place at positive numbers, the numbers do not tell.
        writes = self.records or versions != [leaf._version for leaf in leaves]
        writes = writes or not are_equal(leaves, self.tensors(self.point, shared=True))
        narrowest = watched.inside([tensor for _, tensor in found])
        inside = {
            k: str(dtype).removeprefix("torch.")
            for k, dtype in narrowest.items()
            if torch.finfo(dtype).eps > torch.finfo(leaves[k].dtype).eps
        }
        seen = self.but(
            inside=inside,
            writes=writes,
            unread=unread(returned),
            is_random=watched.draws,
            draws_others=watched.draws_others,
        )
        return seen, found

    def unwatched(self) -> tuple["Posed", list[tuple[str, torch.Tensor]]]:
        """This, of which nothing was seen; and its outputs."""
        return self, self.ran(self.point)

    def ran(self, point: Arrays, *, shared: bool = False) -> list[tuple[str, torch.Tensor]]:
        """The floating outputs at `point`, recorded by autograd only if they must be."""
        with torch.set_grad_enabled(self.records):
            leaves = self.tensors(point, shared=shared)
            if self.records:
                leaves = [tensor.requires_grad_() for tensor in leaves]
            return self.run(leaves, shared=shared)

    @torch.inference_mode(False)
    def vjp(self, point: Arrays, cotangents: Arrays) -> Arrays:
        return self.both(point, cotangents)[1]

    @torch.inference_mode(False)
    def both(self, point: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """The value of a run that autograd records, and the VJP."""
        with self.whole() as posed:
            leaves, own, outputs = posed.recorded(point)
            us = [into(u, tensor) for u, tensor in zip(cotangents, outputs, strict=True)]
            gradients = posed.pulled_back(outputs, leaves, us, own)
        value = tuple(BRIDGE.out(tensor) for tensor in outputs)
        del leaves, own, outputs  # and what the graph holds, before gradients are copied
        return value, gradients_of(gradients, point)

    @torch.inference_mode(False)
    def jvp(self, point: Arrays, tangents: Arrays) -> Arrays:
        """Forward mode.

        Raises:
            Unsupported: the target, or something in it, has no forward mode.
        """
        _, outputs = self.pushed(point, tangents)
        if all(tangent is None for _, tangent in outputs):  # a custom operator drops it silently
            raise Unsupported("forward mode is not supported: no tangent reaches an output")
        return tuple(
            np.zeros_like(BRIDGE.out(primal)) if tangent is None else BRIDGE.out(tangent)
            for primal, tangent in outputs
        )

    def pushed(
        self, point: Arrays, tangents: Arrays, *, shared: bool = False
    ) -> tuple[list[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor | None]]]:
        """The tangents that the target was given, copied unless `shared`; its outputs with theirs.

        Raises:
            Unsupported: the target, or something in it, has no forward mode.
        """
        if self.records:
            raise Unsupported(
                "forward mode is not supported: the target runs only while gradients are recorded"
            )
        if self.hooks:
            raise Unsupported(
                "forward mode is not supported: the target puts hooks on gradients, which it skips"
            )
        with (
            forward_ad.dual_level(),
            torch.no_grad(),
            refusals("forward mode"),
            warnings.catch_warnings(),
        ):
            # PyTorch's own, when it loads the forward rules of some operators.
            warnings.simplefilter("ignore", DeprecationWarning)
            leaves = self.tensors(point)
            vs = [into(v, x) for v, x in zip(tangents, leaves, strict=True)]
            duals = [forward_ad.make_dual(x, v) for x, v in zip(leaves, vs, strict=True)]  # type: ignore[no-untyped-call]
            outputs = [tensor for _, tensor in self.run(duals, shared=shared)]
            return vs, [forward_ad.unpack_dual(y) for y in outputs]  # type: ignore[no-untyped-call]

    @torch.inference_mode(False)
    def second(self, point: Arrays, cotangents: Arrays, w: Arrays) -> tuple[Arrays, Arrays]:
        """Reverse over reverse.

        Raises:
            Unsupported: the target is marked as differentiable once, or a rule in it is missing.
        """
        with self.whole() as posed:
            return posed._second(point, cotangents, w)

    def _second(self, point: Arrays, cotangents: Arrays, w: Arrays) -> tuple[Arrays, Arrays]:
        leaves, own, outputs = self.recorded(point)
        with torch.enable_grad():
            us = [
                into(u, tensor).requires_grad_()
                for u, tensor in zip(cotangents, outputs, strict=True)
            ]
            with refusals("a second derivative"):
                gradients = self.pulled_back(outputs, leaves, us, own, create_graph=True)
                pairs = [
                    (gradient, into(w_, gradient))
                    for gradient, w_ in zip(gradients, w, strict=True)
                    if gradient is not None and gradient.requires_grad
                ]
                if not pairs:
                    return gradients_of([None] * len(leaves), point), gradients_of(
                        [None] * len(us), cotangents
                    )
                tensors, ws = zip(*pairs, strict=True)
                if raises_when_differentiated(tensors):
                    raise Unsupported("a function in the target is marked @once_differentiable")
                with self.standing(own), self.lifting():
                    found = torch.autograd.grad(tensors, [*leaves, *us], ws, allow_unused=True)
        in_point, in_cotangents = found[: len(leaves)], found[len(leaves) :]
        return gradients_of(in_point, point), gradients_of(in_cotangents, cotangents)

    @torch.inference_mode(False)
    def batched(self, point: Arrays, cotangents: Arrays) -> Arrays:
        """The VJP of a batch of cotangents, by `vmap`.

        Raises:
            Unsupported: something in the backward cannot be batched.
        """
        try:
            with self.whole() as posed, _unhurried():
                leaves, own, outputs = posed.recorded(point)
                us = [into(u, tensor) for u, tensor in zip(cotangents, outputs, strict=True)]
                gradients = posed.pulled_back(outputs, leaves, us, own, is_grads_batched=True)
        except Exception as error:  # it runs one by one: whatever is raised is about the batch
            raise Unsupported(f"vmap is not supported: {first_line(error)}") from error
        size = len(cotangents[0])
        like = tuple(np.broadcast_to(x, (size, *x.shape)) for x in point)
        return gradients_of(gradients, like)

    @torch.inference_mode(False)
    def mapped(self, point: Arrays, axes: Axes, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """Outputs and gradients of a batch of examples, by `vmap` over `axes` of the leaves.

        Raises:
            Unsupported: something in the target cannot be batched.
        """
        try:
            with self.whole() as posed, torch.enable_grad(), _unhurried():
                leaves = [tensor.requires_grad_() for tensor in posed.tensors(point)]

                def run(*examples: torch.Tensor) -> tuple[torch.Tensor, ...]:
                    return tuple(tensor for _, tensor in posed.run(examples))

                outputs = torch.vmap(run, axes, randomness="same")(*leaves)
                us = [into(u, tensor) for u, tensor in zip(cotangents, outputs, strict=True)]
                gradients = posed.pulled_back(outputs, leaves, us, {})
        except Exception as error:  # it runs one by one: whatever is raised is about the batch
            raise Unsupported(f"vmap is not supported: {first_line(error)}") from error
        return tuple(BRIDGE.out(tensor) for tensor in outputs), gradients_of(gradients, point)

    def recorded(
        self, point: Arrays
    ) -> tuple[list[torch.Tensor], Mapping[torch.Tensor, torch.Tensor], list[torch.Tensor]]:
        """A run at `point` that autograd records: leaves, the module's own tensors, outputs."""
        with torch.enable_grad():
            leaves = [tensor.requires_grad_() for tensor in self.tensors(point)]
            own = self.own(leaves)
            run = self.run(leaves, own, shared=self.is_large and not self.writes)
            return leaves, own, [tensor for _, tensor in run]

    def pulled_back(
        self,
        outputs: Sequence[torch.Tensor],
        leaves: Sequence[torch.Tensor],
        us: Sequence[torch.Tensor],
        own: Mapping[torch.Tensor, torch.Tensor],
        *,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        is_grads_batched: bool = False,
    ) -> Sequence[torch.Tensor | None]:
        """The gradients of the leaves; None where no output that is connected depends on one."""
        pairs = [(y, u) for y, u in zip(outputs, us, strict=True) if y.requires_grad]
        if not pairs:
            return [None] * len(leaves)
        tensors, connected = zip(*pairs, strict=True)
        is_plain = not (retain_graph or create_graph or is_grads_batched)
        # Other random numbers than the forward pass had: a rule that draws its mask again is wrong.
        with self.seeded("backward", self.seed + 1), self.standing(own), self.lifting():
            if is_plain and self.reenters(tensors):
                torch.autograd.backward(tensors, connected)
                return [leaf.grad for leaf in leaves]
            return torch.autograd.grad(
                tensors,
                leaves,
                connected,
                allow_unused=True,
                retain_graph=retain_graph,
                create_graph=create_graph,
                is_grads_batched=is_grads_batched,
            )

    @cached_property
    def is_native(self) -> bool:
        """Whether all nodes of the graph are PyTorch's own, and no hook changes a gradient."""
        if self.hooks:
            return False
        with torch.inference_mode(False), self.whole() as posed:
            _, _, outputs = posed.recorded(self.point)
        return is_native(outputs)

    def rejecting(self) -> frozenset[int]:
        """The leaves that something is drawn from by rejection."""
        with torch.inference_mode(False), self.whole() as posed:
            leaves, _, outputs = posed.recorded(self.point)
        return rejecting(outputs, leaves)

    def reenters(self, outputs: Sequence[torch.Tensor]) -> bool:
        """Whether the backward is one that only `backward()` runs: a reentrant checkpoint is in it.

        Gradients are then accumulated in every tensor that it reaches, which must be our own.
        """
        if "checkpoint" not in self.draws:
            names = (node.name() for node in graph_of(outputs))
            is_in_it = any(name == "CheckpointFunctionBackward" for name in names)
            self.draws["checkpoint"] = is_in_it and not out_of_reach(self.target)
        return self.draws["checkpoint"]

    def _copied(self, value: Any) -> Any:
        """A tensor that the target may write into; in float64 if `wide`, constants too."""
        if isinstance(value, np.ndarray):
            return value.copy()
        if not isinstance(value, torch.Tensor):
            return value
        if self.wide and (value.is_floating_point() or value.is_complex()):
            return value.to(torch.complex128 if value.is_complex() else torch.float64, copy=True)
        return value.clone()


@contextmanager
def _unhurried() -> Iterator[None]:
    """Have `vmap` take an operator that it cannot batch one by one without a word."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield
