"""PyTorch: functions on tensors, `nn.Module`s, `autograd.Function` subclasses.

Every evaluation runs on fresh leaves through `torch.func.functional_call` with cloned buffers and
a fixed random state, so that the caller's module, its gradients, its buffers and his generator
come back as they were, and dropout draws the same mask at every step of a difference.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch

from gradcheck import trees
from gradcheck.adapters.bridge import Bridge
from gradcheck.errors import InputError
from gradcheck.problem import Array, Arrays, Problem, label

__all__ = ["BRIDGE", "problem_of_torch"]


def _out(tensor: torch.Tensor) -> Array:
    dense = tensor.detach().resolve_conj().resolve_neg().to_dense() if tensor.is_sparse else tensor
    plain = dense.detach().resolve_conj().resolve_neg().cpu()
    if plain.dtype in (torch.bfloat16, torch.float16):
        plain = plain.to(torch.float32)
    array: Array = plain.numpy().copy()
    return array


def _into(array: Array, like: torch.Tensor) -> torch.Tensor:
    return _wide(array, like).to(like.dtype)


def _wide(array: Array, like: torch.Tensor) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    return tensor.to(device=like.device, copy=True)


BRIDGE = Bridge(
    framework="torch",
    is_array=lambda value: isinstance(value, torch.Tensor),
    dtype_of=lambda tensor: str(tensor.dtype).removeprefix("torch."),
    out=_out,
    into=_into,
    wide=_wide,
)


def problem_of_torch(
    target: Any,
    inputs: tuple[Any, ...],
    *,
    name: str | None,
    seed: int,
    constant: Collection[str] = (),
) -> Problem:
    """Return the problem of `target` at `inputs`.

    Leaves are the trainable parameters of a module, shared ones once, and the inputs that require
    a gradient; if none does, all floating and complex ones.

    Raises:
        InputError: nothing to differentiate, or no output that could be.
    """
    function: Any = target
    call = function.apply if isinstance(target, type) else function
    inputs = _as_tensors(inputs)
    params = _parameters(target)
    own = {f"params.{path}": tensor for path, tensor in params.items()}
    named = own | {p: leaf for p, leaf in _leaves(inputs).items() if p not in constant}
    if not named:
        raise InputError(
            f"expected a trainable parameter or a floating input to differentiate; got inputs "
            f"{[type(value).__name__ for value in inputs]}"
        )
    devices = sorted({t.device.index or 0 for t in named.values() if t.device.type == "cuda"})

    # The caller may be in inference mode, in which no gradient is recorded.
    @torch.inference_mode(False)
    def run(
        point: Arrays, *, grad: bool = False, wide: bool = False
    ) -> tuple[list[torch.Tensor], list[tuple[str, Any]]]:
        cross = BRIDGE.wide if wide else BRIDGE.into
        moved = {
            path: cross(array, like).requires_grad_(grad)
            for array, (path, like) in zip(point, named.items(), strict=True)
        }
        with _same_randomness(seed, devices), torch.set_grad_enabled(grad):
            arguments = trees.rebuild(
                inputs, lambda path, leaf: _copied(moved.get(path, leaf), wide=wide), "input"
            )
            if isinstance(target, torch.nn.Module):
                state = dict(chain(target.named_parameters(), target.named_buffers()))
                state = {
                    path: moved[f"params.{path}"] if path in params else _copied(tensor, wide=wide)
                    for path, tensor in state.items()
                }
                with _attributes_kept(target):
                    outputs = torch.func.functional_call(target, state, arguments)
            else:
                outputs = call(*arguments)
        return list(moved.values()), _floating(outputs)

    def value(point: Arrays) -> Arrays:
        return tuple(BRIDGE.out(tensor) for _, tensor in run(point)[1])

    def wide(point: Arrays) -> Arrays:
        return tuple(BRIDGE.out(tensor) for _, tensor in run(point, wide=True)[1])

    @torch.inference_mode(False)
    def vjp(point: Arrays, cotangents: Arrays) -> Arrays:
        leaves, outputs = run(point, grad=True)
        pairs = [
            (tensor, BRIDGE.into(u, tensor))
            for (_, tensor), u in zip(outputs, cotangents, strict=True)
            if tensor.requires_grad
        ]
        if not pairs:
            return tuple(np.zeros_like(array) for array in point)
        tensors, us = zip(*pairs, strict=True)
        # Other random numbers than the forward pass had: a rule that draws its mask again is wrong.
        with _same_randomness(seed + 1, devices):
            grads = torch.autograd.grad(tensors, leaves, us, allow_unused=True)
        return tuple(
            np.zeros_like(array) if grad is None else BRIDGE.out(grad)
            for array, grad in zip(point, grads, strict=True)
        )

    point = tuple(BRIDGE.out(tensor) for tensor in named.values())
    outputs = run(point)[1]
    if not outputs:
        raise InputError("expected the target to return at least one floating or complex tensor")
    called = label(target, name)
    return Problem(
        name=called,
        target=repr(target) if isinstance(target, torch.nn.Module) else called,
        framework="torch",
        leaves=tuple(BRIDGE.leaf(path, tensor) for path, tensor in named.items()),
        outputs=tuple(BRIDGE.leaf(path, tensor) for path, tensor in outputs),
        point=point,
        value=value,
        vjp=vjp,
        wide=wide,
    )


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
    if not isinstance(target, torch.nn.Module):
        return {}
    return {path: tensor for path, tensor in target.named_parameters() if tensor.requires_grad}


def _leaves(inputs: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    floating = {
        path: leaf for path, leaf in trees.leaves(inputs, "input") if BRIDGE.is_differentiable(leaf)
    }
    marked = {path: leaf for path, leaf in floating.items() if leaf.requires_grad}
    return marked or floating


def _floating(outputs: Any) -> list[tuple[str, torch.Tensor]]:
    return [
        (path, leaf)
        for path, leaf in trees.leaves(outputs, "output")
        if BRIDGE.is_differentiable(leaf)
    ]


def _copied(value: Any, *, wide: bool) -> Any:
    """A tensor that the target may write into; in float64 if `wide`, constants too."""
    if not isinstance(value, torch.Tensor):
        return value
    if wide and (value.is_floating_point() or value.is_complex()):
        return value.to(torch.complex128 if value.is_complex() else torch.float64, copy=True)
    return value.clone()


@contextmanager
def _same_randomness(seed: int, devices: list[int]) -> Iterator[None]:
    """Common random numbers, for PyTorch's generators and NumPy's global one.

    The generators are set one by one: `torch.manual_seed` also visits every device type that
    this build knows, which takes longer than a small layer.
    """
    generators = [torch.default_generator, *(torch.cuda.default_generators[d] for d in devices)]
    states = [generator.get_state() for generator in generators]
    numpy_state = np.random.get_state()  # noqa: NPY002  (the target may draw from it)
    for generator in generators:
        generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def _attributes_kept(module: torch.nn.Module) -> Iterator[None]:
    """Undo what a forward pass stores on its module: a hidden state, a counter, a history."""
    kept = [(part, dict(part.__dict__)) for part in module.modules()]
    lists = [v for _, attributes in kept for v in attributes.values() if isinstance(v, list)]
    contents = [list(value) for value in lists]
    try:
        yield
    finally:
        for part, attributes in kept:
            part.__dict__.clear()
            part.__dict__.update(attributes)
        for value, content in zip(lists, contents, strict=True):
            value[:] = content
