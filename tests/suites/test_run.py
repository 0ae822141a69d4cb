"""The suites pass on what is right, and what is wrong comes out shrunk and named."""

from dataclasses import fields, replace
from typing import Any

import pytest

from gradcheck.errors import InputError
from gradcheck.reference import Dense, Recurrent
from gradcheck.reference.layer import Array, Cotangents, Params
from gradcheck.results import Verdict
from gradcheck.suites import NAMES, Network, Progress, run
from gradcheck.suites.run import GENERATED, Tally, draw_and_examine
from gradcheck.suites.strategies import RECURRENT, STATIC

FAMILIES = [(suite, family) for suite, families in GENERATED.items() for family in families]


class NoBias(Dense):
    """Forgets the bias whenever there is more than one output."""

    def backward(self, params: Params, x: Array, u: Array) -> tuple[Params, Cotangents]:
        grads, inputs = Dense.backward(self, params, x, u)
        if self.bias and self.outputs > 1:
            return {**grads, "bias": 0 * grads["bias"]}, inputs
        return grads, inputs


class DeafToLastState(Recurrent):
    """Ignores the cotangent of the state it returns."""

    def backward(
        self, params: Params, cache: Any, u: Array, *state_us: Array
    ) -> tuple[Params, Cotangents]:
        return Recurrent.backward(self, params, cache, u, *(0 * s for s in state_us))


def planted(network: Network, wrong: type[Any]) -> Network:
    right: Any = wrong.__bases__[0]
    layer: Any = network.layer
    if type(layer) is not right:
        return network
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return replace(network, layer=wrong(**values))


@pytest.mark.parametrize(("suite", "family"), FAMILIES, ids=lambda name: str(name))
def test_every_family_agrees_with_pytorch(suite: str, family: str) -> None:
    tally = Tally()

    failure = draw_and_examine(
        family,
        GENERATED[suite][family],
        tally,
        backends=("torch",),
        examples=8,
        seed=1,
        tell=lambda done: None,
    )

    assert failure is None, str(failure)
    assert tally.unresolved == []
    assert tally.examples == 8


@pytest.mark.parametrize("suite", NAMES)
def test_every_suite_agrees_with_all_sources(suite: str) -> None:
    report = run([suite], examples=4, seed=2)

    (record,) = report.suites
    assert record.verdict is Verdict.PASS, "\n".join(map(str, record.failures))
    assert {name for a in record.agreements for name in a.pair} >= {"reference", "torch", "jax"}


def test_the_same_seed_finds_the_same() -> None:
    first, second = (run(["static"], backends=(), examples=20, seed=7) for _ in range(2))

    assert first.suites[0].agreements == second.suites[0].agreements


def test_another_seed_draws_other_networks() -> None:
    first, second = (run(["static"], backends=(), examples=80, seed=seed) for seed in (7, 8))

    assert first.suites[0].agreements != second.suites[0].agreements


def test_a_fault_is_shrunk_to_the_smallest_network_that_shows_it() -> None:
    failure = draw_and_examine(
        "dense",
        STATIC["dense"].map(lambda network: planted(network, NoBias)),
        Tally(),
        backends=("torch",),
        examples=20,
        seed=0,
        tell=lambda done: None,
    )

    assert failure is not None
    assert failure.odd_one_out == "reference"
    assert "NoBias(inputs=1, outputs=2, bias=True)" in failure.target
    assert {f.leaf for f in failure.findings if f.verdict is Verdict.FAIL} == {"params.bias"}


def test_a_returned_state_whose_cotangent_is_ignored_is_found() -> None:
    failure = draw_and_examine(
        "lstm",
        RECURRENT["lstm"].map(lambda network: planted(network, DeafToLastState)),
        Tally(),
        backends=("torch",),
        examples=20,
        seed=0,
        tell=lambda done: None,
    )

    assert failure is not None
    assert failure.odd_one_out == "reference"


def test_progress_counts_up_to_its_total_in_every_suite() -> None:
    steps: list[Progress] = []

    run(["static", "fixed_point"], backends=(), examples=10, seed=0, progress=steps.append)

    for suite in ("static", "fixed_point"):
        done = [step.done for step in steps if step.suite == suite]
        (total,) = {step.total for step in steps if step.suite == suite}
        assert done == sorted(done)
        assert done[-1] == total


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["statics"]}, "names"),
        ({"backends": ["tensorflow"]}, "backends"),
        ({"examples": 0}, "examples"),
        ({"seed": -1}, "seed"),
    ],
    ids=lambda value: str(value),
)
def test_misuse_names_the_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(**options)
