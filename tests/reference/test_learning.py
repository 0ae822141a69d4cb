"""Gradient descent with momentum: the path it takes, and PyTorch's."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from gradcheck.reference.layer import Params
from gradcheck.reference.learning import Momentum


def nested(rng: np.random.Generator, dtype: Any = np.float64) -> dict[str, Any]:
    return {
        "weight": rng.standard_normal((4, 3)).astype(dtype),
        "head": {"bias": rng.standard_normal(2).astype(dtype)},
        "scale": np.asarray(rng.standard_normal(), dtype),
    }


def flat(params: Params) -> list[Any]:
    return [params["weight"], params["head"]["bias"], params["scale"]]


def walk(optimizer: Momentum, params: Params, gradients: Sequence[Params]) -> Params:
    velocity = optimizer.start(params)
    for grads in gradients:
        params, velocity = optimizer.step(params, velocity, grads)
    return params


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_path_is_that_of_pytorch_sgd(momentum: float) -> None:
    rng = np.random.default_rng(0)
    params, gradients = nested(rng), [nested(rng) for _ in range(10)]

    got = walk(Momentum(rate=0.1, momentum=momentum), params, gradients)

    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in flat(params)]
    theirs = torch.optim.SGD(tensors, lr=0.1, momentum=momentum)
    for grads in gradients:
        for tensor, grad in zip(tensors, flat(grads), strict=True):
            tensor.grad = torch.tensor(grad)
        theirs.step()
    for leaf, tensor in zip(flat(got), tensors, strict=True):
        np.testing.assert_allclose(leaf, tensor.detach().numpy(), rtol=1e-14, atol=1e-15)


def test_rate_multiplies_last_so_a_new_rate_also_scales_the_old_velocity() -> None:
    grads = {"p": np.array([1.0])}
    fast, slow = Momentum(rate=0.5, momentum=0.5), Momentum(rate=0.25, momentum=0.5)

    once, velocity = fast.step({"p": np.array([1.0])}, {"p": np.array([0.0])}, grads)
    twice, _ = slow.step(once, velocity, grads)

    # 1 - 0.5 · 1 - 0.25 · 1.5; Sutskever's velocity would give 1 - 0.5 - (0.25 + 0.25)
    assert twice["p"] == 0.125


def test_without_momentum_it_is_gradient_descent() -> None:
    rng = np.random.default_rng(0)
    params, grads = nested(rng), nested(rng)

    got = walk(Momentum(rate=0.1, momentum=0), params, [grads, grads])

    np.testing.assert_allclose(
        got["weight"], params["weight"] - 0.2 * grads["weight"], rtol=1e-15, atol=1e-15
    )


def test_constant_gradient_drives_the_step_to_its_limit() -> None:
    params = {"p": np.zeros(1)}
    optimizer = Momentum(rate=0.1, momentum=0.9)

    before = walk(optimizer, params, [{"p": np.ones(1)}] * 400)
    after = walk(optimizer, params, [{"p": np.ones(1)}] * 401)

    np.testing.assert_allclose(before["p"] - after["p"], 0.1 / (1 - 0.9), rtol=1e-12)


def test_heavy_ball_descends_a_quadratic_faster_than_gradient_descent() -> None:
    curvature = np.array([1.0, 100.0])

    def distance(momentum: float) -> float:
        optimizer = Momentum(rate=0.01, momentum=momentum)
        params: Params = {"p": np.ones(2)}
        velocity = optimizer.start(params)
        for _ in range(200):
            grads = {"p": curvature * params["p"]}
            params, velocity = optimizer.step(params, velocity, grads)
        return float(np.linalg.norm(params["p"]))

    assert distance(0.8) < 1e-3 * distance(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_every_leaf_keeps_its_dtype_and_shape(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    params = nested(rng, dtype)

    got = walk(Momentum(rate=0.1), params, [nested(rng, dtype)] * 2)

    assert [leaf.dtype for leaf in flat(got)] == [dtype] * 3
    assert [leaf.shape for leaf in flat(got)] == [(4, 3), (2,), ()]


def test_nothing_is_mutated() -> None:
    rng = np.random.default_rng(0)
    optimizer, params, grads = Momentum(rate=0.1), nested(rng), nested(rng)
    velocity = optimizer.start(params)
    for leaf in (*flat(params), *flat(grads), *flat(velocity)):
        leaf.flags.writeable = False

    got, _ = optimizer.step(params, velocity, grads)

    assert not np.shares_memory(got["weight"], params["weight"])


def test_layer_without_parameters_has_nothing_to_learn() -> None:
    optimizer = Momentum(rate=0.1)
    params: Params = {"0": {}}

    assert optimizer.step(params, optimizer.start(params), {"0": {}}) == ({"0": {}}, {"0": {}})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Momentum(rate=0), "a rate above 0; got rate=0"),
        (lambda: Momentum(rate=float("nan")), "got rate=nan"),
        (lambda: Momentum(rate=0.1, momentum=1), "below 1; got momentum=1"),
        (lambda: Momentum(rate=0.1, momentum=-0.5), "got momentum=-0.5"),
        (
            lambda: walk(Momentum(rate=0.1), {"a": {"w": np.ones(1)}}, [{"a": {"b": np.ones(1)}}]),
            r"expected the names \['w'\] at params\['a'\]; got \['b'\]",
        ),
        (
            lambda: walk(Momentum(rate=0.1), {"a": np.ones((2, 3))}, [{"a": np.ones(3)}]),
            r"expected the shape \(2, 3\) at params\['a'\]; got \(3,\)",
        ),
    ],
)
def test_misuse_is_told(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
