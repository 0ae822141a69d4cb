"""A float64 interface with a narrower dtype inside: right gradients pass, wrong ones do not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor

import gradcheck
from gradcheck import Verdict
from gradcheck.adapters.torch_digits import Lifted

SEEDS = range(4)


def narrow(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return x.to(dtype)


def gate(x: Tensor) -> Tensor:
    return x * torch.sigmoid(narrow(x)).double()


def side_path(x: Tensor) -> Tensor:
    return torch.sin(x) + 1e-3 * narrow(x, torch.bfloat16).double()


def half_path(x: Tensor) -> Tensor:
    return torch.sin(x) + 1e-2 * torch.tanh(narrow(x, torch.float16)).double()


def kink(x: Tensor) -> Tensor:
    return x + torch.relu(narrow(x)).double()


def two_outputs(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sin(x), narrow(x).double()


def norm(x: Tensor) -> Tensor:
    y = narrow(x)
    return x * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-6).double()


def attention(x: Tensor) -> Tensor:
    scores = torch.softmax(x @ x.mT, -1, dtype=torch.float32)
    return scores.double() @ x


def written(x: Tensor) -> Tensor:
    y = torch.zeros_like(x, dtype=torch.float32)
    y[..., 1:] = narrow(x)[..., :-1]
    return x * y.double()


def drawn(x: Tensor) -> Tensor:
    noise = torch.rand(x.shape, dtype=torch.float32)
    return x * (narrow(x) + noise).double()


LAYERS = {f.__name__: f for f in (gate, side_path, half_path, kink, two_outputs, norm)} | {
    f.__name__: f for f in (attention, written, drawn)
}


def jax_gate(x: Any) -> Any:
    return x * jax.nn.sigmoid(x.astype(jnp.float32)).astype(jnp.float64)


def jax_side_path(x: Any) -> Any:
    return jnp.sin(x) + 1e-3 * x.astype(jnp.bfloat16).astype(jnp.float64)


def jax_scan(x: Any) -> Any:
    def step(h: Any, row: Any) -> tuple[Any, Any]:
        new = jnp.tanh(h + row.astype(jnp.float32))
        return new, new

    _, ys = jax.lax.scan(step, jnp.zeros(x.shape[-1], jnp.float32), x)
    return x * ys.astype(jnp.float64)


def jax_loop(x: Any) -> Any:
    z = jax.lax.fori_loop(0, 3, lambda _, z: jnp.sin(z) + z, x.astype(jnp.float32))
    return x + jax.lax.cond(True, jnp.tanh, jnp.cos, z).astype(jnp.float64)


JAX_LAYERS = {f.__name__: f for f in (jax_gate, jax_side_path, jax_scan, jax_loop)}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_right_gradient_passes_in_pytorch(name: str, seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 4)))

    result = gradcheck.check(LAYERS[name], x, seed=seed)

    assert result.passed, result


@pytest.mark.parametrize("name", LAYERS)
def test_a_wrong_one_does_not(name: str) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 4)))

    def wrong(x: Tensor) -> Any:
        off = 0.1 * (x - x.detach())
        return LAYERS[name](x + off)

    assert gradcheck.check(wrong, x).verdict is Verdict.FAIL


@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize("name", JAX_LAYERS)
def test_a_right_gradient_passes_in_jax(name: str, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((3, 4))

    result = gradcheck.check(JAX_LAYERS[name], x, seed=seed)

    assert result.passed, result


@pytest.mark.parametrize("name", JAX_LAYERS)
def test_a_wrong_one_does_not_in_jax(name: str) -> None:
    def wrong(x: Any) -> Any:
        return JAX_LAYERS[name](x + 0.1 * (x - jax.lax.stop_gradient(x)))

    result = gradcheck.check(wrong, np.random.default_rng(0).standard_normal((3, 4)))

    assert result.verdict is Verdict.FAIL


def jax_cell(wrong: float) -> Any:
    """A cell that computes in float32 whatever it is given, with a tangent that may be wrong."""

    @jax.custom_jvp
    def squashed(z: Any) -> Any:
        return jnp.tanh(z)

    @squashed.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (z,), (v,) = primals, tangents
        y = squashed(z)
        return y, (1 - y * y + wrong * z) * v

    def cell(x: Any, w: Any) -> Any:
        return squashed(x.astype(jnp.float32) @ w.astype(jnp.float32))

    return cell


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("check", ["vjp", "jvp", "second_order"])
def test_every_derivative_is_taken_in_float64(check: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 12), (12, 9)))

    right = gradcheck.check(jax_cell(0.0), x, w, checks=check)

    assert right.passed, str(right)
    if check != "second_order":  # it asks about the derivative of the gradient, which is wrong too
        assert gradcheck.check(jax_cell(1e-2), x, w, checks=check).verdict == "fail"


def test_a_wrong_second_derivative_is_seen_in_float64() -> None:
    @jax.custom_vjp
    def slope(z: Any) -> Any:
        return 1 - jnp.tanh(z) ** 2

    slope.defvjp(lambda z: (slope(z), z), lambda z, u: (-1.9 * u * jnp.tanh(z) * slope(z),))

    @jax.custom_jvp
    def squashed(z: Any) -> Any:
        return jnp.tanh(z)

    squashed.defjvp(lambda p, t: (squashed(*p), slope(*p) * t[0]))

    def layer(x: Any) -> Any:
        return squashed(x.astype(jnp.float32))

    x = np.random.default_rng(0).standard_normal((3, 4))

    assert gradcheck.check(layer, x).passed
    assert gradcheck.check(layer, x, checks="second_order").verdict == "fail"


def test_a_custom_rule_in_jax_is_held_to_its_value() -> None:
    @jax.custom_vjp
    def rule(x: Any) -> Any:
        return jnp.sin(x.astype(jnp.float32)).astype(jnp.float64)

    rule.defvjp(
        lambda x: (rule(x), x),
        lambda x, u: (1.01 * u * jnp.cos(x.astype(jnp.float32)).astype(jnp.float64),),
    )

    result = gradcheck.check(lambda x: x * rule(x), np.linspace(0.1, 1.0, 4))

    assert result.verdict is Verdict.FAIL


Layer = Callable[[Tensor, Tensor], Tensor]


@pytest.mark.parametrize(
    ("layer", "tolerances"),
    [
        (lambda x, w: x * narrow(w).double(), (1e-6, 1e-3)),
        (lambda x, w: narrow(x * w, torch.float16).double(), (8e-3, 8e-3)),
        (lambda x, w: x * w * torch.arange(3.0, dtype=torch.float32).double(), (1e-6, 1e-6)),
        (lambda x, w: x * w * (narrow(w) > 0), (1e-6, 1e-6)),
    ],
    ids=["one leaf", "both", "a constant", "a mask"],
)
def test_a_leaf_is_held_to_the_digits_that_it_has(
    layer: Layer, tolerances: tuple[float, float]
) -> None:
    x, w = (torch.from_numpy(np.random.default_rng(s).standard_normal(3)) for s in (1, 2))

    result = gradcheck.check(layer, x, w, checks="vjp")

    assert result.passed, result
    assert tuple(f.tolerance for f in result.findings) == tolerances


def test_a_narrow_layer_that_is_narrower_inside() -> None:
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((3, 4))).float()

    right = gradcheck.check(lambda x: x * narrow(x, torch.bfloat16).float(), x)
    wrong = gradcheck.check(
        lambda x: x * narrow(x + 0.2 * (x - x.detach()), torch.bfloat16).float(), x
    )

    assert right.passed, right
    assert wrong.verdict is Verdict.FAIL


GRID = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8


def by_groups(x: Tensor, w: Tensor) -> Tensor:
    """Experts, each of its own rows; there is no grouped_mm of float64."""
    offsets = torch.tensor([2, 6, 6], dtype=torch.int32)
    return torch.nn.functional.grouped_mm(x, w, offs=offsets)


KEPT: list[tuple[Any, tuple[tuple[int, ...], ...]]] = [
    (lambda x: x @ GRID, ((5, 3),)),
    (by_groups, ((6, 8), (3, 8, 4))),
    (lambda x, w: by_groups(x.relu(), w).tanh(), ((6, 8), (3, 8, 4))),
]


@pytest.mark.parametrize(("layer", "shapes"), KEPT, ids=["a constant", "groups", "and others"])
def test_what_keeps_a_float32_layer_from_float64_is_run_there_too(
    layer: Layer, shapes: tuple[tuple[int, ...], ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]

    def wrong(*inputs: Tensor) -> Tensor:
        return layer(*inputs) + 0.01 * (layer(*inputs) - layer(*inputs).detach())

    right = gradcheck.check(layer, *inputs, checks="vjp")

    assert right.passed, right
    assert right.resolution < 1e-5  # as differences of float64 have it; of float32, 1e-3
    assert gradcheck.check(wrong, *inputs, checks="vjp").verdict is Verdict.FAIL


@pytest.mark.parametrize("parts", ["rows", "columns", "sum"])
def test_grouped_products_are_what_pytorch_makes_of_them(parts: str) -> None:
    shapes = {
        "rows": ((6, 8), (3, 8, 4)),
        "columns": ((3, 4, 8), (8, 8)),
        "sum": ((4, 8), (8, 4)),
    }[parts]
    ends = torch.tensor([2, 4, 6 if parts == "rows" else 8], dtype=torch.int32)
    a, b = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in shapes)

    own = torch.nn.functional.grouped_mm(a, b, offs=ends)
    with Lifted(torch.float32):
        lifted = torch.nn.functional.grouped_mm(a.double(), b.double(), offs=ends)

    assert lifted.dtype is torch.float64
    torch.testing.assert_close(lifted.float(), own)
