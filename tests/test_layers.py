"""Generated suites for a layer, run as a person runs them: made test files, real sessions."""

import json
import re
import warnings
from typing import Any

import hypothesis.strategies as st
import jax  # noqa: F401 - pytester forgets modules it loads; these cannot load twice
import pytest
import torch  # noqa: F401

import gradcheck.adapters.jax_  # noqa: F401 - it registers a class with JAX, once in a process
from gradcheck.checks import CHECKS
from gradcheck.errors import InputError
from gradcheck.layers import LayerSuite, layer_suite

pytest_plugins = ["pytester"]

DEFAULT = [name for name, check in CHECKS.items() if check.by_default]

PREAMBLE = """
import numpy as np
import torch
import gradcheck
from gradcheck.layers import LayerSuite, layer_suite
from hypothesis import strategies as st

class Layer(torch.nn.Module):
    '''Wrong from three features and two rows on.'''

    def __init__(self, features, wrong=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(features, 2))
        self.wrong = wrong

    def forward(self, x):
        is_wrong = self.wrong and x.shape[1] >= 3 and x.shape[0] >= 2
        return torch.tanh(x @ (self.weight.detach() if is_wrong else self.weight))
"""
RIGHT = """
@layer_suite(features=st.integers(1, 5), batch=st.integers(1, 4), examples=5)
def test_layer(features, batch, rng):
    return Layer(features), (rng.standard_normal((batch, features)),)
"""
WRONG = RIGHT.replace("Layer(features)", "Layer(features, wrong=True)").replace("=5)", "=20)")
WHERE = "test_made.py:[0-9]*: {}"
CLASS = """
class TestLayer(LayerSuite):
    features = st.integers(1, 5)
    skip = {"layout": "nobody asks"}
    examples = 5

    def build(self, features, rng):
        return Layer(features), (rng.standard_normal((2, features)),)
"""


@pytest.fixture(autouse=True)
def quiet_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the plugins of others out of the made sessions."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "gradcheck.plugin")


def ran(pytester: pytest.Pytester, suite: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(test_made=PREAMBLE + suite)
    return pytester.runpytest("-W", "error", *options)


def verdicts(result: pytest.RunResult) -> dict[str, str]:
    """Return test -> outcome of a session with -v."""
    lines = (re.match(r"test_made.py::(\S+) (\w+)", line) for line in result.outlines)
    return {line[1]: line[2] for line in lines if line}


def test_right_layer_passes_one_test_per_check(pytester: pytest.Pytester) -> None:
    result = ran(pytester, RIGHT, "-v")

    assert verdicts(result) == {f"test_layer[{name}]": "PASSED" for name in DEFAULT}


def test_wrong_layer_fails_the_checks_that_see_it(pytester: pytest.Pytester) -> None:
    found = verdicts(ran(pytester, WRONG, "-v"))

    assert found["test_layer[vjp]"] == "FAILED"
    assert found["test_layer[layout]"] == "PASSED"


def test_failure_is_that_of_the_smallest_hyperparameters(pytester: pytest.Pytester) -> None:
    result = ran(pytester, WRONG, "-k", "vjp")

    result.stdout.fnmatch_lines(
        [
            "FAIL  gradient of test_layer(features=3, batch=2) at params.weight *",
            "*got 0.0  wanted *",
            "*again: pytest 'test_made.py::test_layer[[]vjp[]]' --gradcheck-seed=0",
            "",
            WHERE.format("test_layer[[]vjp[]]"),
        ]
    )
    result.stdout.no_fnmatch_line("*hidden*")
    result.stdout.no_fnmatch_line("*site-packages*")
    result.stdout.no_fnmatch_line("*def example*")


def test_class_form_gives_a_method_per_check(pytester: pytest.Pytester) -> None:
    found = verdicts(ran(pytester, CLASS, "-v"))

    wanted = {f"TestLayer::test_{name}": "PASSED" for name in DEFAULT}
    assert found == {**wanted, "TestLayer::test_layout": "SKIPPED"}


def test_class_form_shrinks_too(pytester: pytest.Pytester) -> None:
    result = ran(pytester, CLASS.replace("(features)", "(features, wrong=True)"), "-k", "vjp")

    result.assert_outcomes(failed=1, deselected=len(DEFAULT) - 1)
    result.stdout.fnmatch_lines(
        [
            "FAIL  gradient of TestLayer(features=3) at params.weight *",
            WHERE.format("TestLayer.test_vjp"),
        ]
    )


def test_points_differ_from_example_to_example(pytester: pytest.Pytester) -> None:
    """A generator that is always the same would check one point, twenty times."""
    suite = """
POINTS = set()

@layer_suite(checks="vjp")
def test_layer(rng):
    x = rng.standard_normal(1)
    POINTS.add(float(x[0]))
    return torch.sin, (x,)

def test_after():
    assert len(POINTS) == 20
"""
    ran(pytester, suite).assert_outcomes(passed=2)


def test_other_seed_draws_other_examples_and_is_said(pytester: pytest.Pytester) -> None:
    suite = """
@layer_suite(checks="vjp", n=st.integers(1, 9))
def test_layer(n, rng):
    print("drawn", n, rng.standard_normal())
    return torch.sin, (np.ones(n),)
"""
    pytester.makepyfile(test_made=PREAMBLE + suite)

    def drawn(*options: str) -> list[str]:
        lines = pytester.runpytest("-s", *options).outlines
        return [line.lstrip(".") for line in lines if "drawn" in line]

    assert drawn() == drawn() != drawn("--gradcheck-seed=7")


def test_failure_says_its_seed(pytester: pytest.Pytester) -> None:
    result = ran(pytester, WRONG, "-k", "vjp", "--gradcheck-seed=7")

    result.stdout.fnmatch_lines(
        ["*again: pytest 'test_made.py::test_layer[[]vjp[]]' --gradcheck-seed=7"]
    )


def test_builder_may_be_a_method_with_fixtures_and_marks(pytester: pytest.Pytester) -> None:
    suite = """
import pytest

@pytest.fixture
def outputs():
    return 2

class TestLayers:
    @pytest.mark.parametrize("bias", [True, False])
    @layer_suite(features=st.integers(1, 3), examples=3, checks=["vjp", "layout"])
    @pytest.mark.filterwarnings("error")
    def test_linear(self, features, bias, outputs, rng, batch=2):
        assert isinstance(self, TestLayers)
        layer = torch.nn.Linear(features, outputs, bias)
        return layer, (rng.standard_normal((batch, features)),)
"""
    found = verdicts(ran(pytester, suite, "-v"))

    cases = [(bias, name) for bias in (True, False) for name in ("vjp", "layout")]
    assert found == {f"TestLayers::test_linear[{n}-{b}]": "PASSED" for b, n in cases}


def test_class_form_takes_fixtures_too(pytester: pytest.Pytester) -> None:
    suite = CLASS.replace("features, rng", "features, rng, tmp_path")

    assert set(verdicts(ran(pytester, suite, "-v")).values()) == {"PASSED", "SKIPPED"}


def test_suite_below_another_has_its_own_checks_and_hyperparameters(
    pytester: pytest.Pytester,
) -> None:
    below = """
class TestBelow(TestLayer):
    checks = ["vjp", "jvp", "state"]
    features = st.just(2)
    skip = {}

    def build(self, features, rng):
        assert features == 2
        return super().build(features, rng)

    def test_state(self):
        pass

class TestLast(TestBelow):
    checks = ["vjp"]
"""
    found = verdicts(ran(pytester, CLASS + below, "-v", "-k", "TestBelow or TestLast"))

    assert found == {
        "TestBelow::test_vjp": "PASSED",
        "TestBelow::test_jvp": "PASSED",
        "TestBelow::test_state": "PASSED",
        "TestLast::test_vjp": "PASSED",
        "TestLast::test_state": "PASSED",
    }


@pytest.mark.parametrize("form", [RIGHT, CLASS])
def test_builder_may_ask_for_the_request(pytester: pytest.Pytester, form: str) -> None:
    suite = form.replace("rng):", "rng, request):").replace("return", "request.node; return")

    assert set(verdicts(ran(pytester, suite, "-v")).values()) - {"SKIPPED"} == {"PASSED"}


def test_dtype_holds_while_the_layer_runs(pytester: pytest.Pytester) -> None:
    """A layer that makes its first state itself makes it in the default dtype."""
    suite = """
class Cell(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.inner = torch.nn.RNNCell(size, size)

    def forward(self, x):
        return self.inner(x, torch.zeros(x.shape))

@layer_suite(size=st.integers(1, 3), examples=3, checks="vjp")
def test_cell(size, rng):
    return Cell(size), (rng.standard_normal((2, size)),)
"""
    ran(pytester, suite).assert_outcomes(passed=1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_arrays_that_numpy_draws_are_of_the_dtype(pytester: pytest.Pytester, dtype: str) -> None:
    suite = f"""
class Step(torch.nn.Linear):
    def forward(self, x, state):
        assert state["h"].dtype == self.weight.dtype
        return super().forward(x) + state["h"]

@layer_suite(n=st.integers(1, 3), examples=3, dtype="{dtype}")
def test_layer(n, rng):
    return Step(n, n), (rng.standard_normal((2, n)), {{"h": rng.standard_normal(n)}})
"""
    ran(pytester, suite).assert_outcomes(passed=len(DEFAULT))


def test_failure_is_not_shrunk_to_what_is_inconclusive(pytester: pytest.Pytester) -> None:
    """Small examples of this layer are too noisy to judge; large ones are wrong."""
    suite = """
CALLS = iter(range(10**9))  # of which no seed knows

class Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin() + (0.1 * np.sin(1e3 * next(CALLS)) if x.shape[0] < 3 else 0.0)

    @staticmethod
    def backward(ctx, u):
        (x,) = ctx.saved_tensors
        return u * x.cos() * (2.0 if WRONG and x.shape[0] >= 3 else 1.0)

@layer_suite(n=st.integers(2, 3), checks="vjp")
def test_layer(n, rng):
    return Noisy, (torch.as_tensor(rng.standard_normal(n)),)
"""
    wrong = ran(pytester, suite.replace("WRONG", "True"))
    wrong.stdout.fnmatch_lines(["FAIL  gradient of test_layer(n=3) at input*"])

    noisy = ran(pytester, suite.replace("WRONG", "False"))
    noisy.assert_outcomes(failed=1)
    noisy.stdout.fnmatch_lines(["INCONCLUSIVE  gradient of test_layer(n=2) at input*"])


def test_target_that_fails_only_once_is_said_to(pytester: pytest.Pytester) -> None:
    suite = """
BUILT = []

@layer_suite(n=st.integers(1, 5), checks="vjp")
def test_layer(n, rng):
    BUILT.append(n)
    factor = 2.0 if len(BUILT) == 5 else 1.0
    rule = gradcheck.Rule(np.sin, lambda inputs, u: factor * u * np.cos(inputs[0]))
    return rule, (rng.standard_normal(n),)
"""
    result = ran(pytester, suite)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["FAIL  gradient of test_layer(n=*", "*asked again*: the target is not deterministic"]
    )


def test_reason_of_an_opt_out_is_shown(pytester: pytest.Pytester) -> None:
    result = ran(pytester, CLASS, "-rs")

    result.stdout.fnmatch_lines(["SKIPPED*nobody asks"])


def test_runs_are_the_same_every_time(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_made=PREAMBLE + WRONG)
    texts = [pytester.runpytest("-k", "vjp").outlines for _ in range(2)]
    heads = [[line for line in text if line.startswith("      [")] for text in texts]

    assert heads[0] == heads[1] != []
    assert not (pytester.path / ".hypothesis").exists()


def test_result_is_in_the_report_of_the_session(pytester: pytest.Pytester) -> None:
    result = ran(pytester, RIGHT)

    result.stdout.fnmatch_lines([f"{len(DEFAULT)} checks in {len(DEFAULT)} tests: * pass; seed 0"])


def test_seed_of_the_session_is_that_of_the_suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_made=PREAMBLE + WRONG)
    outputs = [
        pytester.runpytest("-k", "vjp", f"--gradcheck-seed={seed}").outlines for seed in (1, 2)
    ]
    got = [[line for line in text if line.startswith("      [")] for text in outputs]

    assert got[0] != got[1]
    assert any(line.endswith("--gradcheck-seed=2") for line in outputs[1])


HAZE = """
@layer_suite(n=st.integers(2, 4), examples=4)
def test_layer(n, rng):
    calls = iter(range(10**9))  # numbers that never come again, and that no seed governs
    rule = gradcheck.Rule(
        lambda x: np.sin(x) + 0.1 * np.sin(1e3 * next(calls) + np.arange(x.size)),
        lambda inputs, u: u * np.cos(inputs[0]),
    )
    return rule, (rng.standard_normal(n),)
"""


def test_inconclusive_gradient_is_no_pass(pytester: pytest.Pytester) -> None:
    result = ran(pytester, HAZE, "-k", "vjp")

    result.assert_outcomes(failed=1, deselected=len(DEFAULT) - 1)
    result.stdout.fnmatch_lines(["INCONCLUSIVE  gradient of test_layer(n=2) *"])


ENDLESS = """
def root(x):
    return torch.where(x > 0, x.sqrt(), 0.0)

@layer_suite(n=st.integers(3, 4), examples=2CHECKS)
def test_layer(n):
    return root, (torch.linspace(-1, 1, n),)
"""


def test_what_is_left_open_is_no_failure_of_a_default_check(pytester: pytest.Pytester) -> None:
    default = ran(pytester, ENDLESS.replace("CHECKS", ""), "-k", "adjoint", "-rs")
    named = ran(pytester, ENDLESS.replace("CHECKS", ', checks=["adjoint"]'))

    default.assert_outcomes(skipped=1, deselected=len(DEFAULT) - 1)
    default.stdout.fnmatch_lines(["SKIPPED*adjoint at input*: the gradient is not finite*"])
    named.assert_outcomes(failed=1)
    named.stdout.fnmatch_lines(["INCONCLUSIVE  adjoint of test_layer(n=3) *"])


def test_result_is_recorded_under_the_id_of_its_test(pytester: pytest.Pytester) -> None:
    """The hyperparameters may differ in the next run; `gradcheck report diff` goes by names."""
    ran(pytester, WRONG, "--gradcheck-report=report.json")

    results = json.loads((pytester.path / "report.json").read_text())["results"]
    assert [found["name"] for found in results] == [
        f"test_made.py::test_layer[{name}]" for name in DEFAULT
    ]
    assert results[0]["target"] == "test_layer(features=3, batch=2) = Layer()"
    assert results[0]["findings"][0]["verdict"] == "fail"


def test_suite_needs_no_plugin(pytester: pytest.Pytester) -> None:
    result = ran(pytester, RIGHT, "-p", "no:gradcheck.plugin")

    result.assert_outcomes(passed=len(DEFAULT))


OTHERS = {
    "rule": """
@layer_suite(n=st.integers(1, 4), examples=4)
def test_layer(n, rng):
    rule = gradcheck.Rule(np.sin, lambda inputs, u: SIGN * u * np.cos(inputs[0]))
    return rule, (rng.standard_normal(n),)
""",
    "function of JAX": """
import jax

@jax.custom_vjp
def f(x):
    return jax.numpy.sin(x)

f.defvjp(lambda x: (f(x), x), lambda x, u: (SIGN * u * jax.numpy.cos(x),))

@layer_suite(n=st.integers(1, 4), examples=4)
def test_layer(n, rng):
    return f, (rng.standard_normal(n),)
""",
    "autograd.Function": """
class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, u):
        (x,) = ctx.saved_tensors
        return SIGN * u * x.cos()

@layer_suite(n=st.integers(1, 4), examples=4)
def test_layer(n, rng):
    return Sine, (torch.as_tensor(rng.standard_normal(n)),)
""",
    "reference layer": """
from gradcheck.reference.dense import Dense

class Wrong(Dense):
    def backward(self, params, x, u):
        grads, inputs = super().backward(params, x, u)
        return {k: SIGN * g for k, g in grads.items()}, inputs

@layer_suite(n=st.integers(1, 4), examples=4)
def test_layer(n, rng):
    return Wrong(inputs=n, outputs=2), (rng.standard_normal((2, n)),)
""",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind_of_target_has_suites(pytester: pytest.Pytester, kind: str) -> None:
    right = verdicts(ran(pytester, OTHERS[kind].replace("SIGN", "1.0"), "-v"))
    wrong = verdicts(ran(pytester, OTHERS[kind].replace("SIGN", "-1.0"), "-v"))

    assert "FAILED" not in right.values()
    assert right["test_layer[vjp]"] == "PASSED"
    assert wrong["test_layer[vjp]"] == "FAILED"


def test_check_that_the_target_does_not_support_is_skipped(pytester: pytest.Pytester) -> None:
    suite = OTHERS["rule"].replace("SIGN", "1.0").replace("examples=4", 'examples=4, checks="all"')
    result = ran(pytester, suite, "-v", "-rs", "-k", "second_order")

    assert verdicts(result) == {"test_layer[second_order]": "SKIPPED"}
    result.stdout.fnmatch_lines(
        [
            "0 checks in 1 test: 1 skipped; seed 0",
            "not checked  *test_layer[[]second_order[]]: skipped without a check: second_order: *",
            "SKIPPED*second_order: *",
        ]
    )


def test_target_that_raises_fails(pytester: pytest.Pytester) -> None:
    suite = RIGHT.replace("Layer(features)", "(lambda x: x.nowhere())")
    result = ran(pytester, suite, "-k", "vjp")

    result.assert_outcomes(failed=1, deselected=len(DEFAULT) - 1)
    result.stdout.fnmatch_lines(["ERROR  *features=1, batch=1*"])


def test_builder_that_raises_shows_its_hyperparameters(pytester: pytest.Pytester) -> None:
    suite = RIGHT.replace(
        "return Layer(features)", "return Layer(features if features < 3 else 1 // 0)"
    )
    result = ran(pytester, suite.replace("=5)", "=20)"), "-k", "vjp")

    result.stdout.fnmatch_lines(["E*ZeroDivisionError*", "E*features=3,", "*: 1 error; seed 0"])


def test_builder_that_returns_something_else_is_told_what_is_wanted(
    pytester: pytest.Pytester,
) -> None:
    result = ran(pytester, RIGHT.replace("return Layer", "return 1, Layer"), "-k", "vjp")

    result.stdout.fnmatch_lines(
        ["expected test_layer to return (target, inputs), *got (1, Layer(), *", "*features=1,"]
    )


def test_options_reach_the_check(pytester: pytest.Pytester) -> None:
    options = 'options={"wrt": "input*"}, examples'
    result = ran(pytester, WRONG.replace("examples", options), "-k", "vjp")

    result.assert_outcomes(passed=1, deselected=len(DEFAULT) - 1)


def test_global_state_of_torch_is_left_alone(pytester: pytest.Pytester) -> None:
    before = "\ntorch.manual_seed(4321)\n"
    after = """
def test_after():
    assert torch.get_default_dtype() == torch.float32
    assert torch.initial_seed() == 4321
"""
    found = verdicts(ran(pytester, before + RIGHT + after, "-v"))

    assert found["test_after"] == "PASSED"


def build(features: int, rng: Any) -> Any:
    raise AssertionError("no check runs here")


FEATURES: dict[str, Any] = {"features": st.integers(1, 2)}


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("examples", 0),
        ("examples", 2.5),
        ("examples", True),
        ("dtype", "float65"),
        ("skip", ["vjp"]),
        ("options", {"rtoll": 1e-3}),
        ("options", "rtol"),
    ],
)
def test_what_no_suite_can_be_made_with_is_refused_at_once(option: str, given: Any) -> None:
    with pytest.raises(InputError, match=f"expected {option} of build .*; got .*"):
        layer_suite(**{option: given}, **FEATURES)(build)


def test_a_class_without_a_builder_warns() -> None:
    with pytest.warns(UserWarning, match="TestMine has no method build: it makes no test"):
        type("TestMine", (LayerSuite,), {"biuld": build})


def test_a_builder_without_hyperparameters_needs_no_brackets(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        PREAMBLE
        + "@layer_suite\ndef test_layer(rng):\n    return Layer(2), (rng.random((3, 2)),)\n"
    )
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=len(DEFAULT))


@pytest.mark.parametrize("reason", ["", "  ", None, True])
def test_opt_out_needs_a_reason(reason: Any) -> None:
    with pytest.raises(InputError, match="expected a reason to skip 'vjp' in build"):
        layer_suite(skip={"vjp": reason}, **FEATURES)(build)


@pytest.mark.parametrize("name", ["second-order", "jvp"])
def test_opt_out_that_matches_no_check_warns(name: str) -> None:
    with pytest.warns(UserWarning, match=f"skips '{name}', which is none of its checks") as caught:
        layer_suite(skip={name: "why not"}, **FEATURES)(build)
    assert caught[0].filename == __file__

    body = {**FEATURES, "skip": {name: "why not"}, "build": lambda self, features: None}
    with pytest.warns(UserWarning, match=f"Made skips '{name}'") as caught:
        type("Made", (LayerSuite,), body)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer_suite(checks="all", skip={"jvp": "why not"}, **FEATURES)(build)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({**FEATURES, "size": st.integers()}, "does not take size"),
        ({"features": 3}, "to be a Hypothesis strategy; got 3"),
        ({**FEATURES, "checks": ["vpj"]}, "expected checks to be"),
        ({**FEATURES, "checks": []}, "expected checks to be"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        layer_suite(**arguments)(build)

    assert words in str(error.value)
