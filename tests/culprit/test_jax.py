"""One rule of a JAX network is wrong: it is named and proved, and nobody else is."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradcheck.culprit import find_culprit
from tests.culprit.jax_networks import NETWORKS, Build, array, chain, weights
from tests.culprit.jax_rules import signs, soft, swish, wave

pytestmark = pytest.mark.usefixtures("_quickly_compiled")
NAMES = [build.__name__ for build in NETWORKS]


@pytest.fixture
def _quickly_compiled() -> Iterator[None]:
    """Compiling takes most of the time here, and optimising most of that."""
    config: Any = jax.config
    before = config.read("jax_disable_most_optimizations")
    config.update("jax_disable_most_optimizations", True)
    yield
    config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize(("build", "planted"), NETWORKS.items(), ids=NAMES)
def test_the_culprit_is_named_and_proved(build: Build, planted: str) -> None:
    network, inputs = build(True)

    blame = find_culprit(network, *inputs)

    assert [suspect.path for suspect in blame.culprits] == [planted], blame
    assert len(blame.suspects) == 1


@pytest.mark.parametrize("build", list(NETWORKS)[::2], ids=NAMES[::2])
def test_nobody_is_accused_in_its_right_twin(build: Build) -> None:
    network, inputs = build(False)

    blame = find_culprit(network, *inputs)

    assert blame.result.passed
    assert blame.suspects == ()


def test_two_culprits_are_proved_together() -> None:
    network = chain(swish(True), soft(), signs(True), soft())

    blame = find_culprit(network, array(), weights(4))

    assert {suspect.path for suspect in blame.culprits} == {"swish", "channel_tanh"}, blame


def test_what_is_wrong_between_the_rules_is_said() -> None:
    def network(x: Any, ws: Any) -> Any:
        return chain(soft(), wave(1.0))(x + jax.lax.stop_gradient(soft()(x)), ws)

    blame = find_culprit(network, array(), weights(2))

    assert blame.suspects == ()
    assert "no part is wrong by itself" in str(blame)


def test_a_run_leaves_the_rules_of_jax_as_they_were() -> None:
    before = jax.custom_vjp.__call__, jax.custom_jvp.__call__
    build = next(build for build in NETWORKS if build.__name__ == "rule_within_a_right_rule")
    network, inputs = build(True)

    find_culprit(network, *inputs)

    assert (jax.custom_vjp.__call__, jax.custom_jvp.__call__) == before


def _made(f: Callable[[Any], Any], slope: Callable[[Any], Any]) -> Any:
    """A rule as a factory makes it: each is called g, and written here."""

    @jax.custom_vjp
    def g(x: Any) -> Any:
        return f(x)

    g.defvjp(lambda x: (f(x), x), lambda x, u: (u * slope(x),))
    return g


def _bell(x: Any) -> Any:
    return 1 - jnp.tanh(x) ** 2


def test_rules_of_one_factory_are_told_apart() -> None:
    tanh, sine = _made(jnp.tanh, lambda x: 1.3 * _bell(x)), _made(jnp.sin, jnp.sin)
    x = np.linspace(0.1, 0.9, 6).reshape(2, 3)

    blame = find_culprit(lambda x: sine(2 * tanh(x)), x)

    assert {one.path for one in blame.suspects if one.proved} == {"g", "g#2"}


def test_the_rule_around_another_of_its_name_is_blamed() -> None:
    inner = _made(jnp.tanh, lambda x: 1.3 * _bell(x))  # which the outer one does not use
    outer = _made(lambda x: 2 * inner(x), _bell)
    x = np.linspace(0.1, 0.9, 6).reshape(2, 3)

    blame = find_culprit(lambda x: 3 * outer(x), x)

    assert [one.path for one in blame.suspects if one.proved] == ["g"]
