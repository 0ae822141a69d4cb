"""The same questions put to NumPy, PyTorch and JAX, as a user puts them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradcheck
from gradcheck import CheckResult, GradientMismatch, InputError, Rule, Verdict
from gradcheck.records import decode
from gradcheck.reference import Dense

check = partial(gradcheck.check, checks="vjp")
X = np.linspace(0.5, 2.0, 4)

Factory = Callable[[float], Any]


def rule_square(factor: float) -> Any:
    """x², whose gradient is `factor` times what it should be."""
    return Rule(np.square, lambda inputs, u: 2 * factor * inputs[0] * u)


def torch_square(factor: float) -> Any:
    return lambda x: factor * x * x + ((1 - factor) * x * x).detach()


def jax_square(factor: float) -> Any:
    def square(x: Any) -> Any:
        return factor * jnp.square(x) + jax.lax.stop_gradient((1 - factor) * jnp.square(x))

    return square


SQUARES: dict[str, Factory] = {"numpy": rule_square, "torch": torch_square, "jax": jax_square}
ARRAYS: dict[str, Callable[[Any], Any]] = {
    "numpy": np.asarray,
    "torch": torch.tensor,
    "jax": jnp.asarray,
}


@pytest.fixture(params=SQUARES)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def wrong_square(factor: float = 0.5) -> CheckResult:
    return check(torch_square(factor), torch.tensor(X))


def two_inputs(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Right in `x`; the gradient of `y` is zero."""
    return x**2 + y.detach() ** 3


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(X), torch.tensor(X + 1)


# right and wrong


def test_right_gradient_passes(framework: str) -> None:
    result = check(SQUARES[framework](1.0), ARRAYS[framework](X))

    assert result.passed, result
    assert [finding.leaf for finding in result.findings] == ["input[0]"]


def test_wrong_gradient_fails_with_leaf_and_both_values(framework: str) -> None:
    result = check(SQUARES[framework](0.5), ARRAYS[framework](X))

    (finding,) = result.findings
    assert result.verdict is Verdict.FAIL
    assert finding.leaf == "input[0]"
    assert sorted(entry.index for entry in finding.entries) == [(0,), (1,), (2,), (3,)]
    assert [e.got / e.wanted for e in finding.entries] == pytest.approx([0.5] * 4, rel=1e-3)
    assert all(e.error_bar < 1e-3 * abs(e.wanted) for e in finding.entries)


@pytest.mark.parametrize(
    ("factor", "diagnosis"),
    [(-1.0, "sign"), (0.0, "zero"), (0.2, "constant factor: got / wanted = 0.2")],
)
def test_obvious_fault_is_diagnosed(framework: str, factor: float, diagnosis: str) -> None:
    result = check(SQUARES[framework](factor), X)

    assert result.findings[0].diagnosis == diagnosis


def test_only_the_wrong_entry_is_accused() -> None:
    weights = np.array([1.0, 1.0, 1.001, 1.0])
    rule = Rule(np.square, lambda inputs, u: 2 * weights * inputs[0] * u)

    (finding,) = check(rule, X).findings

    assert [entry.index for entry in finding.entries] == [(2,)]


def test_assert_gradients_raises_what_the_result_says(framework: str) -> None:
    with pytest.raises(GradientMismatch, match=r"(?s)FAIL  gradient of mine at input\[0\].*got"):
        gradcheck.assert_gradients(SQUARES[framework](0.5), X, name="mine")


def test_same_seed_finds_the_same(framework: str) -> None:
    one, same, other = (check(SQUARES[framework](0.5), X, seed=seed) for seed in (3, 3, 4))

    assert one.findings == same.findings
    assert one.findings != other.findings
    assert one.seed == 3


# options


def test_declared_leaf_is_not_checked_and_said_so() -> None:
    result = check(two_inputs, *pair(), declared={"input[1]": "stopped on purpose"})

    assert result.passed
    assert result.not_checked == ("input[1]: declared, stopped on purpose",)
    assert "not checked: input[1]: declared, stopped on purpose" in str(result)


def test_check_of_no_leaf_does_not_read_like_a_pass() -> None:
    result = check(two_inputs, *pair(), declared={"*": "all of it"})

    assert str(result).startswith("NOTHING CHECKED")
    assert not result.passed
    assert result.verdict == "inconclusive"


def test_params_are_those_of_a_reference_layer() -> None:
    params = {"weight": np.ones((2, 4), np.float32), "bias": np.ones(2, np.float32)}

    result = check(Dense(inputs=4, outputs=2), X, params=params)

    by_leaf = {finding.leaf: finding.tolerance for finding in result.findings}
    assert by_leaf == {"params.weight": 1e-3, "params.bias": 1e-3, "input[0]": 1e-6}


# neither right nor wrong


def test_nan_from_where_is_not_finite() -> None:
    x = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)

    result = check(lambda x: torch.where(x > 0, torch.sqrt(x), x * 0), x)

    (finding,) = result.findings
    assert finding.verdict is Verdict.FAIL
    assert finding.diagnosis == "not finite"
    assert [entry.index for entry in finding.entries] == [(0,)]


KINKED = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)


def relu_with(slope: float) -> Any:
    """relu whose gradient at zero is `slope`."""

    class Relu(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return torch.clamp(x, min=0)

        @staticmethod
        def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return torch.where(x == 0, slope * u, torch.where(x > 0, u, 0 * u))

    return Relu


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_any_subgradient_at_a_kink_passes(slope: float) -> None:
    result = check(relu_with(slope), KINKED)

    assert result.passed, result
    assert "kink" in result.findings[0].message


def test_kink_is_said_in_the_text_of_a_pass() -> None:
    assert "kink" in str(check(relu_with(0.0), KINKED))


@pytest.mark.parametrize("slope", [2.0, -1.0])
def test_gradient_outside_the_subgradients_fails(slope: float) -> None:
    result = check(relu_with(slope), KINKED)

    assert result.verdict is Verdict.FAIL, result


def test_vacuous_leaf_is_said() -> None:
    result = check(lambda x, y: x**2 + 0 * y, *pair())

    messages = {finding.leaf: finding.message for finding in result.findings}
    assert result.passed
    assert messages["input[0]"] == ""
    assert messages["input[1]"].startswith("vacuous")


def test_vacuous_leaf_is_said_in_the_text_of_a_pass() -> None:
    assert "vacuous" in str(check(lambda x, y: x**2 + 0 * y, *pair()))


def test_jump_is_inconclusive() -> None:
    x = torch.tensor([0.0, 1.0], dtype=torch.float64)

    (finding,) = check(lambda x: x + (x >= 0), x).findings

    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "jumps" in finding.message


def test_value_that_is_not_finite_is_inconclusive() -> None:
    result = check(torch.log, torch.tensor([-1.0, 1.0]))

    assert result.verdict is Verdict.INCONCLUSIVE
    assert "not finite" in result.findings[0].message


def broken(*inputs: Any) -> Any:
    raise ValueError("it broke")


class BrokenBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        raise ValueError("it broke")


@pytest.mark.parametrize(
    ("target", "x"),
    [
        (Rule(broken, broken), X),
        (Rule(np.square, broken), X),
        (broken, torch.tensor(X)),
        (BrokenBackward, torch.tensor(X)),
        (broken, jnp.asarray(X)),
        (jax.jit(broken), X),
        (broken, X),
    ],
    ids=["rule", "rule's vjp", "torch", "backward", "jax", "jit", "plain"],
)
def test_target_that_raises_is_an_error_and_no_exception(target: Any, x: Any) -> None:
    result = check(target, x)

    assert result.verdict is Verdict.ERROR
    assert result.findings[0].message == "the target raised ValueError: it broke"


# misuse

ONES = torch.ones(2, dtype=torch.float64)
PRELU = torch.nn.PReLU(dtype=torch.float64)

MISUSE: list[tuple[str, Callable[[], object], str]] = [
    ("rtol nan", lambda: check(torch.sin, ONES, rtol=float("nan")), "got nan"),
    (
        "mixed",
        lambda: check(lambda a, b: a, ONES, jnp.ones(2)),
        "input[0] is from torch and input[1] is from jax",
    ),
    ("plain NumPy", lambda: check(np.sin, X), "gradcheck.Rule(forward, vjp)"),
    ("integers", lambda: check(lambda x: x * 1.0, torch.arange(3)), "to differentiate"),
    ("boolean output", lambda: check(lambda x: x > 0, ONES), "to return at least one"),
    ("no input", lambda: check(torch.nn.ReLU()), "to differentiate"),
    ("not callable", lambda: check(3, ONES), "got int"),
    ("params", lambda: check(torch.sin, ONES, params={}), "params= is for layers"),
    ("assert", lambda: gradcheck.assert_gradients(torch.sin, ONES, seed=-1), "got -1"),
    ("compare one", lambda: gradcheck.compare({"a": torch.sin}, ONES), "dict of 1 entries"),
    (
        "compare bare",
        lambda: gradcheck.compare(torch.sin, ONES),  # type: ignore[arg-type]
        "no entries",
    ),
    (
        "compare leaves",
        lambda: gradcheck.compare({"a": torch.sin, "b": PRELU}, ONES),
        "a and b to have corresponding leaves; their shapes are [(2,)] and [(1,), (2,)]",
    ),
    (
        "compare outputs",
        lambda: gradcheck.compare({"a": torch.sin, "b": torch.sum}, ONES),
        "corresponding outputs",
    ),
    (
        "compare rtol",
        lambda: gradcheck.compare({"a": torch.sin, "b": torch.sin}, ONES, rtol=-1.0),
        "got -1.0",
    ),
]


@pytest.mark.parametrize(
    ("call", "message"), [row[1:] for row in MISUSE], ids=[row[0] for row in MISUSE]
)
def test_misuse_is_an_input_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        call()

    assert message in str(raised.value)


# compare


def test_compare_passes_what_agrees_across_frameworks() -> None:
    result = gradcheck.compare({key: make(1.0) for key, make in SQUARES.items()}, X)

    assert result.passed, result
    assert result.odd_one_out is None
    assert result.name == "numpy = torch = jax"


def test_compare_names_the_odd_one_out(framework: str) -> None:
    factors = dict.fromkeys(SQUARES, 1.0) | {framework: 0.5}

    result = gradcheck.compare({key: make(factors[key]) for key, make in SQUARES.items()}, X)

    assert result.verdict is Verdict.FAIL
    assert result.odd_one_out == framework
    assert [f.leaf for f in result.findings if f.verdict is Verdict.FAIL] == ["input[0]"]


def test_compare_of_two_asks_finite_differences() -> None:
    two = {"wrong": torch_square(0.5), "right": rule_square(1.0)}

    result = gradcheck.compare(two, X, name="square")

    assert result.name == "square"
    assert result.odd_one_out == "wrong"


def test_compare_finds_values_that_differ() -> None:
    result = gradcheck.compare({"a": torch.sin, "b": torch.sin, "c": torch.tan}, torch.tensor(X))

    assert result.findings[0].leaf.startswith("output")
    assert result.findings[0].verdict is Verdict.FAIL
    assert result.odd_one_out == "c"


# what comes back


def test_result_is_as_bad_as_its_worst_finding() -> None:
    result = wrong_square()
    (finding,) = result.findings
    order = ["pass", "inconclusive", "fail", "error"]

    for rank, verdict in enumerate(order):
        findings = tuple(replace(finding, verdict=Verdict(v)) for v in order[: rank + 1])
        assert replace(result, findings=findings).verdict == verdict
        assert replace(result, findings=findings).passed == (verdict == "pass")


def test_resolution_is_the_coarsest_of_the_findings() -> None:
    result = check(lambda x, y: x**2 + y, torch.tensor(X), torch.tensor(X).float())

    assert result.resolution == max(finding.resolution for finding in result.findings)
    assert 0 < result.resolution < 1e-3


def test_evaluations_are_counted(framework: str) -> None:
    evaluations = check(SQUARES[framework](1.0), X).evaluations

    assert evaluations.forward > 0
    assert evaluations.vjp > 0


def test_text_fits_a_small_terminal() -> None:
    many = {f"x{k}": torch.tensor(X) for k in range(12)}

    result = check(
        lambda d: sum(x.detach() ** 2 for x in d.values()), many, declared={"*x1*": "a" * 300}
    )

    assert [finding.verdict for finding in result.findings] == [Verdict.FAIL] * 9
    assert len(str(result).splitlines()) <= 25


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(lambda: wrong_square(1.0), id="pass"),
        pytest.param(wrong_square, id="fail"),
        pytest.param(lambda: check(torch.log, -KINKED), id="inconclusive"),
    ],
)
def test_json_comes_back_as_the_result(result: Callable[[], CheckResult]) -> None:
    made = result()

    assert decode(made.to_json(), CheckResult) == made


def test_json_keeps_what_is_not_a_number() -> None:
    made = check(broken, torch.tensor(X))

    assert decode(made.to_json(), CheckResult).to_json() == made.to_json()


def test_notebook_shows_the_finding() -> None:
    page = wrong_square()._repr_html_()

    assert "FAIL" in page.upper()
    assert "input[0]" in page
    assert "constant factor" in page


def test_what_is_not_checked_at_all_is_no_assertion() -> None:
    with pytest.raises(GradientMismatch, match="NOTHING CHECKED"):
        gradcheck.assert_gradients(rule_square(2.0), X, checks="jvp")


@pytest.mark.parametrize("stage", ["value", "gradient"])
def test_what_an_implementation_raises_is_said_to_be_its_own(stage: str) -> None:
    def broken(*_: Any) -> Any:
        raise ArithmeticError("broken")

    wrong = Rule(broken if stage == "value" else np.square, broken)
    result = gradcheck.compare({"mine": rule_square(1.0), "theirs": wrong}, X)

    assert result.verdict is Verdict.ERROR
    assert "ArithmeticError: broken; it was theirs" in result.findings[0].message
