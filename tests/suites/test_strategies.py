"""The strategies draw every layer of the reference, the awkward cases, and nothing illegal."""

from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

from gradcheck import reference
from gradcheck.reference import Momentum
from gradcheck.suites import Integers
from gradcheck.suites.networks import FLAVOURS, Network, Point, arrays, parts
from gradcheck.suites.strategies import FIXED_POINT, RECURRENT, STATIC, points

FAMILIES = {**STATIC, **RECURRENT, **FIXED_POINT}
QUIET = hypothesis.settings(
    database=None,
    derandomize=True,
    deadline=None,
    max_examples=200,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def drawn(strategy: SearchStrategy[Any], count: int = 200) -> list[Any]:
    """A few hundred draws."""
    found: list[Any] = []

    @hypothesis.settings(QUIET, max_examples=count)
    @hypothesis.given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def test_every_layer_of_the_reference_is_drawn_by_some_family() -> None:
    # Not layers: optimizer, protocol and types. A cell, a transition, a link is drawn inside.
    others = {Momentum, reference.Layer}
    records = {getattr(reference, name) for name in reference.__all__}
    layers = {kind for kind in records if isinstance(kind, type)} - others - {np.ndarray}

    seen: set[type] = {
        type(part)
        for family in FAMILIES.values()
        for network in drawn(family, 300)
        for part in parts(network.layer)
    }

    assert {kind.__name__ for kind in layers if hasattr(kind, "forward")} <= {
        kind.__name__ for kind in seen
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_draw_runs_forward_to_finite_values(family: str, flavour: Any) -> None:
    for network in drawn(FAMILIES[family], 40):
        params, inputs = arrays(network, Point(seed=3, flavour=flavour))

        outputs, _ = network.layer.forward(params, *inputs)

        assert all(np.all(np.isfinite(y)) for y in outputs), network


@pytest.mark.parametrize(
    ("family", "awkward"),
    [
        ("dense", lambda n: 0 in n.inputs[0].shape),
        ("dense", lambda n: n.inputs[0].shape == (1,)),
        ("convolutions", lambda n: n.layer.groups > 1 and max(n.layer.dilation) > 1),
        ("convolutions", lambda n: n.inputs[0].shape[2:] == (1,)),
        ("pools", lambda n: n.layer.windows.stride < n.layer.kernel),
        ("embeddings", lambda n: np.prod(n.inputs[0].shape) > n.layer.vocabulary),
        ("attentions", lambda n: n.layer.causal and n.inputs[0].shape[1] != n.inputs[1].shape[1]),
        ("lstm", lambda n: n.inputs[0].shape[0] == 1),
        ("lstm", lambda n: n.layer.masked and n.layer.layers == 2),
        ("gru", lambda n: n.layer.truncation == 1 and n.inputs[0].shape[0] > 1),
        ("elman", lambda n: n.layer.bidirectional),
        ("fixed points", lambda n: n.layer.transition.state_shape((1, 1))[-1] == 1),
    ],
    ids=[
        "an empty batch",
        "no batch",
        "dilated groups",
        "one pixel",
        "overlapping windows",
        "repeated indices",
        "causal, unequal lengths",
        "one step",
        "masked stack",
        "truncation at every step",
        "both ways",
        "one unit",
    ],
)
def test_the_awkward_cases_are_drawn(family: str, awkward: Callable[[Network], bool]) -> None:
    assert any(awkward(network) for network in drawn(FAMILIES[family], 300))


def test_ties_repeat_indices() -> None:
    layer = reference.Embedding(vocabulary=9, features=1)
    network = Network(layer=layer, inputs=(Integers((8,), 9),))

    _, (indices,) = arrays(network, Point(seed=0, flavour="ties"))

    assert len(set(indices.tolist())) <= 2


def test_points_begin_at_ordinary_values() -> None:
    assert {sequence[0].flavour for sequence in drawn(points(), 50)} == {"ordinary"}


def test_the_same_point_gives_the_same_arrays() -> None:
    network = drawn(STATIC["dense"], 5)[-1]

    (p, x), (q, y) = (arrays(network, Point(seed=9)) for _ in range(2))

    assert all(np.array_equal(p[name], q[name]) for name in p)
    assert all(np.array_equal(a, b) for a, b in zip(x, y, strict=True))


def test_a_network_prints_as_code_that_gives_it_back() -> None:
    names: dict[str, Any] = {}
    exec("from gradcheck.reference import *\nfrom gradcheck.suites import *", names)

    for family in FAMILIES.values():
        for network in drawn(family, 20):
            assert eval(repr(network), names) == network
