"""A pattern is named when it explains the evidence, and only then."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gradcheck import Rule, check
from gradcheck.diagnose import ADVICE, Evidence, diagnose
from gradcheck.problem import inner
from gradcheck.results import Entry

Spoil = Callable[[Any], Any]


def _evidence(spoil: Spoil, shape: tuple[int, ...] = (4, 4), probes: int = 3) -> list[Evidence]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(probes):
        right, v = rng.standard_normal((2, *shape))
        found.append(Evidence(gradient=spoil(right), v=v, slope=inner(right, v), error_bar=1e-12))
    return found


def _zero_row(g: Any) -> Any:
    g = g.copy()
    g[1] = 0
    return g


PATTERNS: list[tuple[Spoil, str]] = [
    (lambda g: 0 * g, "zero"),
    (lambda g: -g, "sign"),
    (lambda g: 0.5 * g, "constant factor: got / wanted = 0.5"),
    (lambda g: g / 64, "constant factor: got / wanted = 0.015625"),
    (lambda g: g.T, "transposed: axes 0 and 1"),
    (lambda g: g[::-1], "reversed: axis 0"),
    (lambda g: np.roll(g, 1, axis=1), "shifted: by -1 along axis 1"),
    (lambda g: g * np.inf, "not finite"),
]


@pytest.mark.parametrize(("spoil", "name"), PATTERNS, ids=[name for _, name in PATTERNS])
def test_a_pattern_is_named(spoil: Spoil, name: str) -> None:
    assert diagnose(_evidence(spoil), ()) == name


@pytest.mark.parametrize(
    "spoil",
    [lambda g: g + 1, lambda g: g**2, lambda g: np.cumsum(g, 0)],
    ids=["shifted values", "squares", "sums"],
)
def test_what_is_no_pattern_has_no_name(spoil: Spoil) -> None:
    assert diagnose(_evidence(spoil), ()) is None


def test_one_probe_names_no_factor() -> None:
    assert diagnose(_evidence(lambda g: 2 * g, probes=1), ()) is None


def _entries(*pairs: tuple[float, float]) -> list[Entry]:
    return [
        Entry(index=(k,), got=got, wanted=wanted, error_bar=1e-9)
        for k, (got, wanted) in enumerate(pairs)
    ]


PARTS = [
    ([(0.0, 1.0), (0.0, -2.0)], "part missing"),
    (
        [(2.0, 1.0), (-4.0, -2.0), (6.0, 3.0)],
        "constant factor: got / wanted = 2 in the wrong entries",
    ),
    ([(-1.0, 1.0), (2.0, -2.0), (-3.0, 3.0)], "sign: in the wrong entries"),
    ([(2.0, 1.0), (-4.0, -2.0)], None),
    ([(2.0, 1.0), (-4.0, -2.0), (5.0, 3.0)], None),
]


@pytest.mark.parametrize(("pairs", "name"), PARTS)
def test_a_pattern_of_the_wrong_entries_is_named(
    pairs: list[tuple[float, float]], name: str | None
) -> None:
    assert diagnose(_evidence(_zero_row), _entries(*pairs)) == name


def test_a_conjugate_is_named() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3):
        parts = rng.standard_normal((4, 5))
        right, v = parts[0] + 1j * parts[1], parts[2] + 1j * parts[3]
        wrong, slope = parts[1] + 1j * parts[0], inner(right, v)
        found.append(Evidence(gradient=wrong, v=v, slope=slope, error_bar=1e-12, turned=right))

    assert diagnose(found, ()) == "conjugated"
    assert diagnose([replace(probe, turned=probe.gradient) for probe in found], ()) is None


def test_a_complex_factor_is_named() -> None:
    entries = [
        Entry(index=(k,), got=-y, wanted=x, error_bar=1e-9, imaginary=(x, y))
        for k, (x, y) in enumerate([(1.0, 2.0), (3.0, -1.0), (0.0, 1.0)])
    ]

    named = diagnose(_evidence(_zero_row), entries)

    assert named == "constant factor: got / wanted = 0+1j in the wrong entries"


def test_a_gradient_of_what_does_not_change_is_named() -> None:
    flat = [replace(probe, slope=1e-17 * k) for k, probe in enumerate(_evidence(lambda g: g))]

    assert diagnose(flat, _entries((0.3, 1e-17), (0.2, 0.0), (0.6, -1e-17))) == "nothing wanted"


def test_noise_names_nothing() -> None:
    noisy = [replace(probe, error_bar=1.0) for probe in _evidence(lambda g: 1.2 * g)]

    assert diagnose(noisy, ()) is None


def test_one_cotangent_is_not_known_to_be_ignored() -> None:
    first, *others = _evidence(lambda g: 2 * g)
    same = [replace(probe, cotangent=first, gradient=first.gradient) for probe in others]

    assert diagnose([replace(first, cotangent=first), *same], ()) != "cotangent ignored"


def test_an_output_that_is_cut_off_is_told_from_a_factor() -> None:
    def step(x: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (x.tanh() ** 2).mean()
        return {"loss": loss, "rmse": loss.sqrt().detach() + 0 * x.sum()}

    x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    (finding,) = check(step, x, checks="vjp").findings

    assert finding.diagnosis == "zero: of some outputs"
    assert "through output['rmse'] only" in finding.message


def test_every_pattern_has_advice() -> None:
    names = [name for _, name in PATTERNS] + [name for _, name in PARTS if name]
    names += ["conjugated", "one triangle", "nothing wanted", "part of the cotangent"]
    names += [row[-1] for row in SEEN]

    assert {name.split(":")[0] for name in names} == set(ADVICE)


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max())
    return e / e.sum()


A = np.random.default_rng(1).standard_normal((3, 3))
LINE = np.random.default_rng(2).standard_normal(6)


def _but(g: Any, index: Any, factor: float) -> Any:
    g = np.array(g)
    g[index] *= factor
    return g


# (forward, a wrong vjp, input, pattern): what takes the entries that were read to tell.
SEEN: list[tuple[Any, Any, Any, str]] = [
    (np.sin, lambda i, u: np.cos(i[0]), LINE, "cotangent ignored"),
    (_softmax, lambda i, u: u * _softmax(i[0]), LINE, "diagonal only"),
    (np.sin, lambda i, u: u * np.cos(i[0]) + 0.01, LINE, "additive constant"),
    (lambda x: x + np.sin(x), lambda i, u: u * np.cos(i[0]), LINE, "cotangent added"),
    (
        np.sin,
        lambda i, u: u * np.cos(i[0]) + 1e-4 * i[0],
        LINE,
        "proportional to the leaf",
    ),
    (lambda x: np.tanh(3 * x), lambda i, u: 3 * u, LINE, "missing derivative: of tanh, missing"),
    (
        lambda x: 1 / (1 + np.exp(-2 * x)),
        lambda i, u: 2 * u,
        LINE,
        "missing derivative: of sigmoid, missing",
    ),
    (
        np.cumsum,
        lambda i, u: _but(np.cumsum(u[::-1])[::-1], [0, 3, 5], 1.5),
        LINE,
        "constant factor: got / wanted = 1.5 in the wrong entries",
    ),
    (np.sin, lambda i, u: _but(u * np.cos(i[0]), -1, 0.3), A, "border: last along axis 0"),
    (np.sin, lambda i, u: _but(u * np.cos(i[0]), (..., 0), 0.3), A, "border: first along axis 1"),
    (
        lambda x: x[[2, 0, 1, 4, 5, 3]],
        lambda i, u: u[[2, 0, 1, 4, 5, 3]],
        LINE,
        "permuted",
    ),
    (
        lambda x: np.tanh(x).sum(0),
        lambda i, u: 3 * u * (1 - np.tanh(i[0]) ** 2),
        A,
        "constant factor: got / wanted = 3, the length of axis 0",
    ),
]


@pytest.mark.parametrize(("forward", "vjp", "x", "name"), SEEN, ids=[row[-1] for row in SEEN])
def test_a_pattern_is_seen_in_a_layer(forward: Any, vjp: Any, x: Any, name: str) -> None:
    (finding,) = check(Rule(forward, vjp), x, checks="vjp").findings

    assert (finding.diagnosis or "").startswith(name), finding
    assert ADVICE[name.split(":")[0]][:40] in finding.message


def test_no_pattern_is_said() -> None:
    rule = Rule(np.sin, lambda i, u: u * np.cos(i[0]) * (1 + i[0] ** 2))

    (finding,) = check(rule, LINE, checks="vjp").findings

    assert finding.diagnosis is None
    assert "no known pattern fits" in finding.message


def test_entries_that_are_a_little_off_are_in_their_order() -> None:
    rule = Rule(np.sin, lambda i, u: _but(_but(u * np.cos(i[0]), 1, 1 + 3e-5), 3, 1 - 1e-5))

    (finding,) = check(rule, LINE, checks="vjp").findings

    assert finding.verdict == "fail"
    assert finding.diagnosis is None


SHAPED: list[tuple[tuple[int, ...], Spoil, str]] = [
    ((5,), lambda g: np.roll(g, -1), "shifted: by 1 along axis 0"),
    ((5,), lambda g: g[::-1], "reversed: axis 0"),
    ((2, 3, 3), lambda g: np.swapaxes(g, 1, 2), "transposed: axes 1 and 2"),
    ((2, 3, 5), lambda g: g[:, :, ::-1], "reversed: axis 2"),
    ((3, 5), lambda g: np.roll(g, 1, 0), "shifted: by -1 along axis 0"),
    ((7,), lambda g: -2 * g, "constant factor: got / wanted = -2"),
    ((7,), lambda g: (1 + 1e-4) * g, "constant factor: got / wanted = 1.0001"),
    ((1,), lambda g: -g, "sign"),
    ((), lambda g: g / 10_000, "constant factor: got / wanted = 0.0001"),
]


@pytest.mark.parametrize(("shape", "spoil", "name"), SHAPED, ids=[name for _, _, name in SHAPED])
def test_a_pattern_is_named_in_any_shape(shape: tuple[int, ...], spoil: Spoil, name: str) -> None:
    assert diagnose(_evidence(spoil, shape), ()) == name


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3])
def test_a_random_error_has_no_name(size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)

    found = _evidence(lambda g: g + size * rng.standard_normal(g.shape), (5, 5))

    assert diagnose(found, ()) is None


def test_random_errors_of_single_entries_have_no_name() -> None:
    wanted, error = np.random.default_rng(0).standard_normal((2, 8))

    assert (
        diagnose(_evidence(lambda g: g + 1), _entries(*zip(wanted + error, wanted, strict=True)))
        is None
    )


def test_a_pattern_that_one_of_three_probes_contradicts_is_not_named() -> None:
    *agreeing, _ = _evidence(lambda g: 2 * g)

    assert diagnose([*agreeing, *_evidence(lambda g: 3 * g)[-1:]], ()) is None


@pytest.mark.parametrize(
    ("layer", "which"),
    [
        (torch.linalg.cholesky, "lower"),
        (torch.linalg.eigvalsh, "lower"),
        (lambda x: torch.linalg.cholesky(x, upper=True), "upper"),
    ],
)
def test_a_function_that_reads_one_triangle_is_told_from_a_wrong_one(
    layer: Any, which: str
) -> None:
    a = np.random.default_rng(0).standard_normal((4, 4))
    x = torch.from_numpy(a @ a.T + np.eye(4))

    (read,) = check(layer, x, checks="vjp").findings
    symmetric = check(lambda x: layer((x + x.T) / 2), x, checks="vjp")

    assert read.diagnosis == f"one triangle: the {which}"
    assert symmetric.passed


def test_a_complex_constant_is_no_other_number_in_every_entry() -> None:
    def off(added: Any) -> Any:
        z = np.random.default_rng(0).standard_normal((6, 2)) @ [1, 1j]
        rule = Rule(lambda z: z * z, lambda inputs, u: u * np.conj(2 * inputs[0]) + added)
        return check(rule, z, checks="vjp").findings[0].diagnosis

    assert off(0.5 + 2j) == "additive constant"
    assert off(0.5 + 1j * np.arange(6) ** 2) is None


def test_what_is_wrong_where_the_leaf_is_negative_is_said() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4))
    rule = Rule(np.sin, lambda xs, u: u * np.cos(xs[0]) * np.where(xs[0] < 0, 1.5, 1))

    assert "those where it is negative" in check(rule, x, checks="vjp").findings[0].message
