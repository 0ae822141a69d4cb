"""What the tests of every layer ask: do the hand-derived cotangents equal those of others?"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import torch

from gradcheck.reference.layer import Array, Layer, Params
from gradcheck.suites.twins import jax_, torch_

__all__ = [
    "assert_keeps_dtype",
    "assert_mutates_nothing",
    "assert_same_with_strides",
    "assert_slopes_agree",
    "assert_twins_agree",
    "leaves",
    "map_leaves",
    "vjp",
]


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Array]]:
    """Yield (path, array) of every leaf of nested mappings and tuples; None is no leaf."""
    if tree is None:
        return
    if isinstance(tree, Mapping | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for name, branch in items:
            yield from leaves(branch, f"{path}[{name!r}]")
    else:
        yield path, tree


def map_leaves(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return `tree` with `f(leaf, *others' leaves)` in place of each leaf; None stays None."""
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {k: map_leaves(f, v, *(other[k] for other in others)) for k, v in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_leaves(f, *branches) for branches in zip(tree, *others, strict=True))
    return f(tree, *others)


def vjp(
    layer: Layer, params: Params, *inputs: Array, seed: int = 1
) -> tuple[tuple[Array, ...], tuple[Array, ...], tuple[Any, Any]]:
    """Return outputs, Gaussian cotangents in their dtypes, and (param grads, input grads)."""
    rng = np.random.default_rng(seed)
    outputs, cache = layer.forward(params, *inputs)
    cotangents = tuple(np.asarray(rng.standard_normal(y.shape), dtype=y.dtype) for y in outputs)
    return outputs, cotangents, layer.backward(params, cache, *cotangents)


def assert_twins_agree(
    layer: Layer,
    *inputs: Array,
    rtol: float = 1e-10,
    seed: int = 0,
    frameworks: tuple[str, ...] = ("torch", "jax"),
) -> None:
    """Outputs and cotangents of all leaves equal those of PyTorch and JAX at random parameters.

    `rtol` is relative to the larger of one and the entry, so zeros may differ by rounding.
    """
    params = layer.parameters(np.random.default_rng(seed), np.float64)
    outputs, cotangents, grads = vjp(layer, params, *inputs)
    for framework in frameworks:
        pullback = {"torch": _torch_vjp, "jax": _jax_vjp}[framework]
        their_outputs, their_grads = pullback(layer, params, inputs, cotangents, grads)
        _assert_equal(outputs, their_outputs, rtol, f"{framework} outputs")
        _assert_equal(grads, their_grads, rtol, f"{framework} cotangents")


def assert_slopes_agree(
    layer: Layer, *inputs: Array, rtol: float = 1e-9, seed: int = 0, h: float = 1e-6
) -> None:
    """⟨u, (f(z + hv) - f(z - hv)) / 2h⟩ equals ⟨z̄, v⟩ in extended precision.

    z is all leaves that carry a gradient, v a random direction. Truncation is of order h², and
    rounding eps / h: 1e-12 and 1e-13 for the default step and 80-bit numbers.
    """
    rng = np.random.default_rng(seed)
    wide = map_leaves(_widened, (layer.parameters(rng, np.longdouble), inputs))
    _, cotangents, grads = vjp(layer, wide[0], *wide[1])
    v = map_leaves(lambda g: rng.standard_normal(g.shape), grads)

    def along(t: float) -> Any:
        params = map_leaves(lambda z, d: z + np.longdouble(t) * d, wide[0], v[0])
        moved = (
            x if d is None else x + np.longdouble(t) * d for x, d in zip(wide[1], v[1], strict=True)
        )
        outputs, _ = layer.forward(params, *moved)
        return sum(((u * y).sum() for u, y in zip(cotangents, outputs, strict=True)), start=0.0)

    slope = (along(h) - along(-h)) / (2 * np.longdouble(h))
    wanted = sum((g * d).sum() for (_, g), (_, d) in zip(leaves(grads), leaves(v), strict=True))
    np.testing.assert_allclose(float(slope), float(wanted), rtol=rtol, atol=rtol)


def assert_keeps_dtype(layer: Layer, *inputs: Array, dtype: Any = np.float32) -> None:
    """Floating leaves of `dtype` give outputs and cotangents of `dtype`, in their own shapes."""
    params = layer.parameters(np.random.default_rng(0), dtype)
    inputs = tuple(x.astype(dtype) if _floating(x) else x for x in inputs)

    outputs, _, grads = vjp(layer, params, *inputs)

    for path, leaf in leaves({"params": params, "outputs": outputs, "cotangents": grads}):
        assert leaf.dtype == dtype, path
    shapes = {path: leaf.shape for path, leaf in leaves(params)}
    assert {path: leaf.shape for path, leaf in leaves(grads[0])} == shapes
    for x, g in zip(inputs, grads[1], strict=True):
        assert g is None or g.shape == x.shape


def assert_mutates_nothing(layer: Layer, *inputs: Array) -> None:
    """Neither direction writes into its arguments, read-only here, nor backward into outputs."""
    params = map_leaves(_frozen, layer.parameters(np.random.default_rng(0), np.float64))
    outputs, cache = layer.forward(params, *map_leaves(_frozen, inputs))
    copies = map_leaves(np.copy, outputs)

    layer.backward(params, cache, *(_frozen(np.ones_like(y)) for y in outputs))

    for y, copy in zip(outputs, copies, strict=True):
        np.testing.assert_array_equal(y, copy)


def assert_same_with_strides(layer: Layer, *inputs: Array) -> None:
    """Fortran order and negative strides give the same numbers as contiguous arrays."""
    params = layer.parameters(np.random.default_rng(0), np.float64)
    strided_params, strided_inputs = map_leaves(_strided, (params, inputs))

    wanted = vjp(layer, params, *inputs)
    got = vjp(layer, strided_params, *strided_inputs)

    _assert_equal(got, wanted, 1e-12, "strided")


def _torch_vjp(
    layer: Layer,
    params: Params,
    inputs: tuple[Array, ...],
    cotangents: tuple[Array, ...],
    like: Any,
) -> tuple[Any, Any]:
    tensors = map_leaves(lambda a: torch.from_numpy(a.copy()), (params, inputs))
    moving = [z for g, z in _moving(like, tensors)]
    for z in moving:
        z.requires_grad_()
    outputs = torch_.apply(layer, tensors[0], *tensors[1])
    grads = iter(
        torch.autograd.grad(
            outputs, moving, [torch.from_numpy(u) for u in cotangents], materialize_grads=True
        )
    )
    return (
        tuple(y.detach().numpy() for y in outputs),
        map_leaves(lambda _: next(grads).numpy(), like),
    )


def _jax_vjp(
    layer: Layer,
    params: Params,
    inputs: tuple[Array, ...],
    cotangents: tuple[Array, ...],
    like: Any,
) -> tuple[Any, Any]:
    with jax.enable_x64(True):
        arrays = map_leaves(jax.numpy.asarray, (params, inputs))
        moving = [z for _, z in _moving(like, arrays)]

        def f(moved: list[jax.Array]) -> Any:
            fresh = iter(moved)
            p = map_leaves(lambda _: next(fresh), like[0])
            xs = [x if g is None else next(fresh) for x, g in zip(arrays[1], like[1], strict=True)]
            return jax_.apply(layer, p, *xs)

        outputs, pullback = jax.vjp(f, moving)
        grads = iter(pullback(tuple(jax.numpy.asarray(u) for u in cotangents))[0])
        return map_leaves(np.asarray, outputs), map_leaves(lambda _: np.asarray(next(grads)), like)


def _moving(like: Any, tree: Any) -> list[tuple[Any, Any]]:
    """Return the pairs (gradient, leaf) of all parameters and of the inputs with a gradient."""
    names = dict(leaves(tree))
    return [(g, names[path]) for path, g in leaves(like)]


def _assert_equal(got: Any, wanted: Any, rtol: float, what: str) -> None:
    ours, theirs = dict(leaves(got)), dict(leaves(wanted))
    assert ours.keys() == theirs.keys(), what
    for path, leaf in ours.items():
        assert leaf.shape == theirs[path].shape, f"{what}{path}"
        np.testing.assert_allclose(
            leaf, theirs[path], rtol=rtol, atol=rtol, err_msg=f"{what}{path}"
        )


def _floating(a: Array) -> bool:
    return bool(np.issubdtype(a.dtype, np.floating))


def _widened(a: Array) -> Array:
    return a.astype(np.longdouble) if _floating(a) else a


def _frozen(a: Array) -> Array:
    view = a.view()
    view.flags.writeable = False
    return view


def _strided(a: Array) -> Array:
    """Return equal numbers behind reversed strides, every axis stepping by minus two items."""
    room = np.zeros(tuple(2 * n for n in a.shape), dtype=a.dtype, order="F")
    view = room[tuple(slice(None, None, -2) for _ in a.shape)]
    view[...] = a
    return view
