"""Layers of the NumPy reference: parameters and floating inputs are the leaves."""

from typing import Any

import numpy as np

from gradcheck import trees
from gradcheck.adapters.numpy_ import BRIDGE
from gradcheck.errors import InputError, ShapeMismatch
from gradcheck.problem import WIDER, Arrays, Leaf, Problem
from gradcheck.reference.layer import Layer, Params

__all__ = ["parameter_names", "problem_of_layer"]


def problem_of_layer(
    layer: Layer,
    inputs: tuple[Any, ...],
    *,
    params: Params | None = None,
    name: str | None = None,
    seed: int = 0,
) -> Problem:
    """Return the problem of `layer` at `inputs`.

    Raises:
        InputError: no parameter and no input can be differentiated.
    """
    if params is None:
        dtypes = [x.dtype for x in inputs if BRIDGE.is_differentiable(x)]
        dtype = dtypes[0] if dtypes else np.dtype(np.float64)
        params = layer.parameters(np.random.default_rng(seed), dtype)
    for position, given in enumerate(inputs):
        if isinstance(given, (list, dict)):
            raise InputError(
                f"expected the inputs of {layer} to be arrays, one argument each; got a "
                f"{type(given).__name__} as input[{position}]. Unpack it: check(layer, *inputs)."
            )
    constant = getattr(layer, "constant_inputs", ())
    tree = {"params": params, "input": inputs}
    named = {
        path: leaf
        for path, leaf in _named(tree)
        if BRIDGE.is_differentiable(leaf)
        and path not in {f"input[{position}]" for position in constant}
    }
    if not named:
        raise InputError(f"{layer} at these inputs has no floating parameter and no floating input")

    def arguments(point: Arrays) -> tuple[Params, tuple[Any, ...]]:
        moved = dict(zip(named, point, strict=True))
        paths = iter([path for path, _ in _named(tree)])
        new = trees.rebuild(tree, lambda _, leaf: moved.get(next(paths), leaf))
        return new["params"], new["input"]

    def value(point: Arrays) -> Arrays:
        own, given = arguments(point)
        return tuple(np.asarray(output) for output in layer.forward(own, *given)[0])

    def vjp(point: Arrays, cotangents: Arrays) -> Arrays:
        own, given = arguments(point)
        outputs, cache = layer.forward(own, *given)
        u = tuple(c.astype(o.dtype) for c, o in zip(cotangents, outputs, strict=True))
        grads, input_grads = layer.backward(own, cache, *u)
        found = dict(_named({"params": grads, "input": tuple(input_grads)}))
        return tuple(_gradient(found.get(path), path, leaf) for path, leaf in named.items())

    def posed(point: Arrays) -> Problem:
        outputs = value(point)
        is_narrow = any(x.dtype.name in WIDER for x in point)
        widened = tuple(x.astype(WIDER.get(x.dtype.name, x.dtype)) for x in point)
        return Problem(
            name=name or type(layer).__name__,
            target=repr(layer),
            framework="numpy",
            leaves=tuple(
                Leaf(path=path, shape=x.shape, dtype=x.dtype.name)
                for path, x in zip(named, point, strict=True)
            ),
            outputs=tuple(BRIDGE.leaf(f"output[{k}]", output) for k, output in enumerate(outputs)),
            point=point,
            value=value,
            vjp=vjp,
            in_float64=(lambda: posed(widened)) if is_narrow else None,
            analytic=value,
        )

    return posed(tuple(BRIDGE.out(leaf) for leaf in named.values()))


def parameter_names(layer: Layer) -> list[str]:
    """Return the dotted names of the parameters of `layer`: `weight`, `0.weight`."""
    drawn = layer.parameters(np.random.default_rng(0), np.float64)
    return [path.removeprefix(".") for path, _ in _dotted(drawn)]


def _named(tree: dict[str, Any]) -> list[tuple[str, Any]]:
    """(path, leaf): parameters by dotted name, `params.layer.weight`; inputs by position."""
    named = [("params" + path, leaf) for path, leaf in _dotted(tree["params"])]
    return named + list(trees.leaves(tree["input"], "input"))


def _dotted(params: Params, path: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, child in params.items():
        own = f"{path}.{key}"
        pairs += _dotted(child, own) if isinstance(child, dict) else [(own, child)]
    return pairs


def _gradient(gradient: Any, path: str, leaf: Any) -> np.ndarray[Any, Any]:
    if gradient is None:
        return np.zeros_like(leaf)
    if np.shape(gradient) != np.shape(leaf):
        raise ShapeMismatch(path, np.shape(leaf), np.shape(gradient))
    return np.asarray(gradient)
