"""Which leaf a name means."""

from collections.abc import Mapping

import pytest

from gradcheck import InputError
from gradcheck.names import assigned, found
from gradcheck.weights import Expression, spelled, transposed

PATHS = [
    "input[0]['dense']['kernel']",
    "input[0]['out']['kernel']",
    "input[1]",
    "params.weight",
    "params.norm.weight",
    "params.cell.kernel.value",
    "params.layers[0].bias",
]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("params.norm.weight", "params.norm.weight"),  # itself
        ("norm.weight", "params.norm.weight"),  # its end
        ("weight", "params.weight"),  # the nearest
        ("dense.kernel", "input[0]['dense']['kernel']"),  # with dots for brackets
        ("['dense']['kernel']", "input[0]['dense']['kernel']"),
        ("input.1", "input[1]"),
        ("0.bias", "params.layers[0].bias"),
        ("layers[0].bias", "params.layers[0].bias"),
        ("cell.kernel", "params.cell.kernel.value"),  # as Flax NNX has it
        ("cell.kernel.value", "params.cell.kernel.value"),
    ],
)
def test_a_name_is_a_path_or_the_end_of_one(name: str, path: str) -> None:
    assert found(name, PATHS, where="here") == path


def test_the_end_of_a_word_is_no_name() -> None:
    with pytest.raises(InputError, match="'eight' is none of"):
        found("eight", PATHS, where="here")


def test_a_name_that_means_several_is_refused() -> None:
    with pytest.raises(InputError, match=r"here: .* means several: .* Write more of the path\."):
        found("kernel", PATHS, where="here")


def test_a_name_that_means_none_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"^here: the name 'x' is none of .*\. Do this\.$"):
        found("x", PATHS, where="here", hint="Do this.")


WANTED = ["proj.weight", "proj.bias", "out.weight"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"proj.bias": "b"}, {"proj.bias": "'b'"}),
        ({"params.proj.bias": "b"}, {"proj.bias": "'b'"}),
        ({"proj.*": "p.*"}, {"proj.weight": "'p.weight'", "proj.bias": "'p.bias'"}),
        (
            {"*.weight": transposed("*.kernel")},
            {
                "proj.weight": "transposed('proj.kernel')",
                "out.weight": "transposed('out.kernel')",
            },
        ),
        ({"proj.*": "p.*", "proj.bias": 0.0}, {"proj.weight": "'p.weight'", "proj.bias": "0.0"}),
    ],
)
def test_keys_are_names_or_patterns(
    given: Mapping[str, Expression], made: Mapping[str, str]
) -> None:
    said = assigned(given, WANTED, option="weights", owner="Layer()")

    assert {name: spelled(expression) for name, expression in said.items()} == made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gain": "g"}, r"weights={'gain': 'g'}: Layer\(\) has no such parameter; it has \['out"),
        ({"proj.*": "p.*", "*.bias": "b"}, r"'proj\.\*' and '\*\.bias' both mean 'proj\.bias'"),
        ({"proj.bias": "a", "params.proj.bias": "b"}, "both mean 'proj.bias'"),
    ],
)
def test_a_key_that_means_nothing_or_two_that_mean_one_are_refused(
    given: Mapping[str, Expression], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        assigned(given, WANTED, option="weights", owner="Layer()")
