"""One network at one point: agreement is reported, disagreement is named, gaps are said."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from gradcheck.reference import (
    Dense,
    ElmanCell,
    Embedding,
    FixedPoint,
    LSTMCell,
    MaxPool,
    Recurrent,
    TanhTransition,
)
from gradcheck.reference.layer import Array, Cotangents, Params
from gradcheck.results import Verdict
from gradcheck.suites import Floats, Integers, Network, Point, examine
from gradcheck.suites.chunks import Chunked

DENSE = Network(layer=Dense(inputs=3, outputs=2), inputs=(Floats((4, 3)),))
POINT = Point(seed=5)


class HalvedWeight(Dense):
    """A right forward, and half of the weight's gradient."""

    def backward(self, params: Params, x: Array, u: Array) -> tuple[Params, Cotangents]:
        grads, inputs = Dense.backward(self, params, x, u)
        return {**grads, "weight": grads["weight"] / 2}, inputs


class Contiguous(Dense):
    """Reads the storage of its cotangent as if it were contiguous."""

    def backward(self, params: Params, x: Array, u: Array) -> tuple[Params, Cotangents]:
        stored = np.asarray(u.base if u.base is not None else u).ravel()[: u.size]
        return Dense.backward(self, params, x, np.nan_to_num(stored).reshape(u.shape))


class FirstChunkOnly(Chunked):
    """Forgets what the later chunk sends back through the state between them."""

    def backward(
        self, params: Params, cache: Any, u: Array, *state_us: Array
    ) -> tuple[Params, Cotangents]:
        grads, (x, *_) = Chunked.backward(self, params, cache, u, *state_us)
        cut = [np.zeros_like(state) for state in state_us]
        _, (_, *states) = self.inner.backward(params, cache[0], u[: self.at], *cut)
        return grads, (x, *states)


def of(wrong: type[Any], right: Any) -> Any:
    """The same record of another class."""
    return wrong(**{field.name: getattr(right, field.name) for field in fields(right)})


def test_a_right_layer_passes_with_every_source() -> None:
    examination = examine(DENSE, POINT)

    assert examination.result.verdict is Verdict.PASS
    assert {difference.pair for difference in examination.differences} == {
        ("reference", "reference, strided"),
        ("reference", "torch"),
        ("reference", "jax"),
        ("torch", "torch, strided"),
        ("torch", "jax"),
        ("reference", "finite differences"),
    }


def test_every_leaf_and_output_is_compared() -> None:
    leaves = {difference.leaf for difference in examine(DENSE, POINT).differences}

    assert leaves == {"output[0]", "params.weight", "params.bias", "input[0]"}


def test_a_wrong_reference_is_named_against_two_frameworks() -> None:
    network = replace(DENSE, layer=of(HalvedWeight, DENSE.layer))

    result = examine(network, POINT).result

    assert result.verdict is Verdict.FAIL
    assert result.odd_one_out == "reference"
    failing = {(f.check, f.leaf) for f in result.findings if f.verdict is Verdict.FAIL}
    assert failing == {("agreement", "params.weight"), ("vjp", "params.weight")}


def test_a_wrong_reference_is_found_without_any_framework() -> None:
    network = replace(DENSE, layer=of(HalvedWeight, DENSE.layer))

    result = examine(network, POINT, backends=()).result

    assert [f.leaf for f in result.findings if f.verdict is Verdict.FAIL] == ["params.weight"]


def test_a_backward_that_ignores_strides_is_caught() -> None:
    network = replace(DENSE, layer=of(Contiguous, DENSE.layer))

    result = examine(network, POINT, backends=("torch",), differences=False).result

    assert result.verdict is Verdict.FAIL
    assert result.odd_one_out == "reference, strided"


def test_a_chunk_that_forgets_the_state_between_is_caught() -> None:
    inner = Recurrent(cell=ElmanCell(), inputs=2, hidden=2)
    wrong = FirstChunkOnly(inner=inner, at=2)
    network = Network(layer=wrong, inputs=(Floats((4, 2, 2)), Floats((1, 2, 2))))

    result = examine(network, POINT, backends=(), differences=False).result

    assert [f.leaf for f in result.findings if f.verdict is Verdict.FAIL] == ["input[1]"]


def test_a_fixed_point_is_compared_with_its_unrolled_self_and_both_jax_apis() -> None:
    layer = FixedPoint(transition=TanhTransition(inputs=2, hidden=3))

    examination = examine(Network(layer=layer, inputs=(Floats((2, 2)),)), POINT)

    sources = {name for difference in examination.differences for name in difference.pair}
    assert sources >= {"reference", "reference, unrolled", "torch", "jax", "jax, custom_vjp"}


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (
            Network(
                layer=Recurrent(cell=LSTMCell(), inputs=1, hidden=1, truncation=1),
                inputs=(Floats((2, 1, 1)), Floats((1, 1, 1)), Floats((1, 1, 1))),
            ),
            "finite differences: truncated backpropagation",
        ),
        (
            Network(
                layer=Embedding(vocabulary=3, features=2, padding_index=0),
                inputs=(Integers((4,), 3),),
            ),
            "finite differences: the padding row",
        ),
        (
            Network(layer=MaxPool(kernel=(2,), dilation=(2,)), inputs=(Floats((1, 1, 5)),)),
            "MaxPool in jax",
        ),
    ],
    ids=["truncation", "padding row", "no twin"],
)
def test_what_is_not_checked_is_said(network: Network, said: str) -> None:
    result = examine(network, POINT).result

    assert result.verdict is Verdict.PASS
    assert any(line.startswith(said) for line in result.not_checked)


def test_the_replay_line_finds_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    first = examine(DENSE, POINT, backends=()).result
    command = first.replay.removeprefix("python -c ").strip('"')

    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split("  ")[0] == str(first).splitlines()[0].split("  ")[0]
