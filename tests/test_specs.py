"""What to check, in words: specs of arrays, references to objects."""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

from gradcheck.errors import InputError
from gradcheck.specs import Drawn, Request, TargetRaised, loaded, parsed, posed

RNG = np.random.default_rng


def made(text: str, framework: str = "numpy") -> Any:
    return parsed(text).made(framework, RNG(0))


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("float64[2,3]", "float64", (2, 3)),
        ("float32[ 4 , 1 ]", "float32", (4, 1)),
        ("float64[]", "float64", ()),
        ("complex64[0,2]", "complex64", (0, 2)),
        ("bool[3]", "bool", (3,)),
        ("uint8[5]:0..255", "uint8", (5,)),
    ],
)
def test_array_has_its_dtype_and_shape(text: str, dtype: str, shape: tuple[int, ...]) -> None:
    array = made(text)

    assert array.dtype.name == dtype
    assert array.shape == shape


@pytest.mark.parametrize("text", ["3", "-0.5", "None", "True", "'mean'", "(2, 2)", "[1, 2]"])
def test_literal_is_passed_on(text: str) -> None:
    assert repr(parsed(text)) == text


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("float64[500]:positive", 0.25, 2.0),
        ("float32[500]:negative", -2.0, -0.25),
        ("float64[500]:-1e-3..2.5", -1e-3, 2.5),
        ("int64[500]:-3..9", -3, 9),
    ],
)
def test_array_stays_in_its_range(text: str, least: float, most: float) -> None:
    array = made(text)

    assert array.min() >= least
    assert array.max() <= most
    assert np.ptp(array) > 0.8 * (most - least)


def test_integers_below_a_number_begin_at_zero() -> None:
    assert parsed("int64[50]<3") == parsed("int64[50]:0..2")


def test_both_ends_of_a_range_of_integers_are_drawn() -> None:
    assert set(made("int8[500]:0..3").tolist()) == {0, 1, 2, 3}


def test_arrays_are_of_the_framework() -> None:
    tensor = made("bfloat16[2]", "torch")
    array = made("float64[2]", "jax")

    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.bfloat16
    assert isinstance(array, jax.Array)
    assert array.dtype == np.float64
    assert jax.numpy.ones(1).dtype == np.float32  # elsewhere


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("float65[2]", "Did you mean 'float64'?"),
        ("float64(2)", "expected dtype[shape]"),
        ("float64[2,x]", "lengths with commas"),
        ("float64[-1]", "lengths with commas"),
        ("int64[2]", "needs a range, as in int64[2]<10 or int64[2]:0..9"),
        ("int64[2]<0", "to go up"),
        ("int64[2]<x", "expected dtype[shape]"),
        ("float64[2]<3", "only integers take <3"),
        ("int64[2]:0.5..1", "two integers"),
        ("int8[2]:0..200", "does not fit into int8"),
        ("float64[2]:2..1", "to go up"),
        ("float64[2]:0..inf", "finite"),
        ("float64[2]:odd", "positive or negative"),
        ("bool[2]:0..1", "takes no range"),
        ("complex64[2]:positive", "takes no range"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        parsed(text)

    assert words in str(error.value)
    assert text.split("[")[0] in str(error.value)


def test_numpy_has_no_bfloat16() -> None:
    with pytest.raises(InputError, match="--framework torch or jax"):
        made("bfloat16[2]")


def test_object_is_found_by_its_path() -> None:
    assert loaded("torch.nn:Module.forward") is torch.nn.Module.forward


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("torch.nn", "expected module:object"),
        (":x", "expected module:object"),
        ("nowhere_at_all.x:y", "there is no module 'nowhere_at_all'"),
        ("torch.nowhere:y", "there is no module 'torch.nowhere'"),
        (".relative:y", "absolute"),
        ("nowhere.py:y", "not of its file: nowhere; got 'nowhere.py'"),
        ("./layers/nowhere.py:y", "not of its file: layers.nowhere; got"),
        ("torch.nn:Linaer", "torch.nn has no 'Linaer'. Did you mean 'Linear'?"),
        ("torch.nn:Linear.forwrd", "torch.nn.Linear has no 'forwrd'. Did you mean 'forward'?"),
    ],
)
def test_what_is_wrong_with_a_reference_is_said(reference: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        loaded(reference)

    assert words in str(error.value)


@pytest.mark.parametrize("body", ["1 / 0", "import nothing_of_this_name", "raise SystemExit(4)"])
def test_module_that_raises_is_no_misuse(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "raising_module.py").write_text(body)

    with pytest.raises(TargetRaised, match="importing raising_module raised"):
        loaded("raising_module:x")

    assert "raising_module" not in sys.modules


def request(reference: str, *inputs: str, **options: Any) -> Request:
    keywords = {"options": {}, **options}
    return Request(reference=reference, inputs=tuple(map(parsed, inputs)), **keywords)


def test_module_is_constructed_in_the_dtype_of_its_input() -> None:
    layer, (x,) = posed(
        request("torch.nn:Linear", "float64[2,3]", arguments=(3, 4), options={"bias": False})
    )

    assert isinstance(layer, torch.nn.Linear)
    assert layer.bias is None
    assert layer.weight.dtype == x.dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("torch:sin", torch.Tensor),
        ("torch.nn.functional:gelu", torch.Tensor),
        ("jax.nn:softplus", jax.Array),
        ("jax.numpy:sin", jax.Array),
        ("numpy:sin", np.ndarray),
        ("gradcheck.reference.dense:Dense", np.ndarray),
    ],
)
def test_framework_is_told_from_the_target(reference: str, kind: type) -> None:
    constructor = {"inputs": 3, "outputs": 2} if reference.endswith("Dense") else {}
    _, (x,) = posed(request(reference, "float32[2,3]", options=constructor))

    assert isinstance(x, kind)


def test_same_seed_makes_the_same_target_and_inputs() -> None:
    made = [posed(request("torch.nn:Linear", "float64[3]", arguments=(3, 4))) for _ in range(2)]
    (one, (x,)), (other, (y,)) = made

    assert torch.equal(one.weight, other.weight)
    assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request("torch.nn:Linear", arguments=(3,)), "missing a required argument: 'out_features'"),
        (request("torch:sin", arguments=(3,)), "--arg is for a class or a builder"),
        (request("test_specs_no_such:x"), "there is no module"),
        (request("torch:pi", build=True), "cannot be called"),
        (request("torch:sin", "3", build=True), "--build takes no --input"),
        (request("torch:get_default_dtype", build=True), "to return (target, inputs)"),
        (request("operator:neg", "float64[3]"), "say --framework"),
    ],
)
def test_request_that_cannot_be_met_says_why(asked: Request, words: str) -> None:
    with pytest.raises(InputError) as error:
        posed(asked)

    assert words in str(error.value)


def test_constructor_that_raises_is_no_misuse() -> None:
    with pytest.raises(TargetRaised, match="Conv2d raised ValueError"):
        posed(request("torch.nn:Conv2d", arguments=(3, 4, 2), options={"groups": 2}))


def test_drawn_is_a_plain_value() -> None:
    assert parsed("float64[2]:0..1") == Drawn(dtype="float64", shape=(2,), least=0.0, most=1.0)
