"""JAX targets: trees, transformed functions, modules, and the user's configuration."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradcheck
from gradcheck import CheckResult, Verdict
from gradcheck.adapters.select import problem_of

check = partial(gradcheck.check, checks="vjp")

X = np.linspace(0.5, 2.0, 3)


def leaves_of(result: CheckResult) -> list[str]:
    return [finding.leaf for finding in result.findings]


def verdicts_of(result: CheckResult) -> dict[str, str]:
    return {finding.leaf: str(finding.verdict) for finding in result.findings}


def product(scale: float) -> Any:
    """w x; the gradient of w is `scale` times what it should be."""

    @jax.custom_vjp
    def multiply(w: Any, x: Any) -> Any:
        return w * x

    def forward(w: Any, x: Any) -> Any:
        return w * x, (w, x)

    def backward(kept: Any, u: Any) -> Any:
        w, x = kept
        return scale * u * x, u * w

    multiply.defvjp(forward, backward)
    return multiply


@jax.tree_util.register_dataclass
@dataclass
class Layer:
    weight: Any
    steps: Any
    scale: Any = 1.0

    def __call__(self, x: Any) -> Any:
        return product(self.scale)(self.weight, x) + self.steps


def test_nested_inputs_keep_their_paths() -> None:
    def f(params: Any, x: Any) -> Any:
        return {"y": params["w"] * x, "z": [params["b"][0]]}

    result = check(f, {"w": X, "b": (jnp.ones(2),)}, jnp.asarray(X))

    assert result.passed, result
    assert leaves_of(result) == ["input[0]['b'][0]", "input[0]['w']", "input[1]"]


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_custom_vjp(jit: Any) -> None:
    right = check(jit(product(1.0)), X, X + 1)
    wrong = check(jit(product(0.5)), X, X + 1)

    assert right.passed, right
    assert verdicts_of(wrong) == {"input[0]": "fail", "input[1]": "pass"}
    assert wrong.findings[0].diagnosis == "constant factor: got / wanted = 0.5"


def test_scan_and_branches_on_values() -> None:
    def scanned(x: Any) -> Any:
        return jax.lax.scan(lambda h, x: (jnp.tanh(h + x),) * 2, jnp.zeros(()), x)[1]

    def branching(x: Any) -> Any:
        return x * 2 if float(jax.lax.stop_gradient(x).sum()) > 0 else x

    assert check(scanned, jnp.asarray(X)).passed
    assert check(branching, jnp.asarray(X)).verdict is not Verdict.FAIL


def test_registered_module_has_parameters() -> None:
    layer = Layer(weight=jnp.asarray(X), steps=jnp.arange(3))

    result = check(layer, X)

    # Parameters first, as for a PyTorch module: `compare` pairs leaves by position.
    assert leaves_of(result) == ["params.weight", "input[0]"]
    assert result.passed, result


@jax.tree_util.register_dataclass
@dataclass
class Wrapper:
    """A module around another, which it keeps in parts: `equinox.filter_jit` makes one."""

    parts: Any
    structure: Any = field(metadata={"static": True})

    @property
    def __wrapped__(self) -> Any:
        return jax.tree.unflatten(self.structure, self.parts)

    def __call__(self, *args: Any) -> Any:
        return self.__wrapped__(*args)


def test_parameters_in_a_wrapper_keep_the_names_of_the_module() -> None:
    parts, structure = jax.tree.flatten(Layer(weight=jnp.asarray(X), steps=jnp.arange(3)))

    result = check(Wrapper(parts=parts, structure=structure), X)

    assert leaves_of(result) == ["params.weight", "input[0]"]
    constant = check(Wrapper(parts=parts, structure=structure), X, declared={"params.weight": "on"})
    assert leaves_of(constant) == ["input[0]"]


LAYER = Layer(weight=jnp.asarray(X), steps=jnp.arange(3))


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_parameters_that_a_function_finds_by_itself_are_said_to_be_unchecked(jit: Any) -> None:
    params, mask = {"w": jnp.ones(3)}, jnp.ones(3)

    result = check(jit(lambda x: LAYER(x) * params["w"] * mask), X)

    said = [why.partition(", which")[0] for why in result.not_checked]
    assert said == ["parameters of LAYER", "parameters of params"]


def test_wrong_parameter_of_a_module_is_caught() -> None:
    layer = Layer(weight=jnp.asarray(X), steps=jnp.arange(3), scale=0.5)

    assert verdicts_of(check(layer, X)) == {"params.weight": "fail", "input[0]": "pass"}


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)], ids=["new", "old"])
@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_integers_and_keys_are_constants(key: Any, jit: Any) -> None:
    def f(x: Any, k: Any, key: Any) -> Any:
        return x[k] * jax.random.bernoulli(key, 0.5, k.shape)

    result = check(jit(f), jnp.asarray(X), jnp.array([2, 0, 2, 1]), key)

    assert leaves_of(result) == ["input[0]"]
    assert result.passed, result


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_float64_is_checked_as_such_and_the_flag_stays(jit: Any) -> None:
    assert not jax.config.values["jax_enable_x64"]

    result = check(jit(lambda x: jnp.sin(x) * x), X)

    (finding,) = result.findings
    assert result.passed, result
    assert finding.tolerance == 1e-6
    assert finding.resolution < 1e-9
    assert finding.oracle == "finite differences, float64"
    assert not jax.config.values["jax_enable_x64"]
    assert jnp.asarray(X).dtype == jnp.float32


def test_error_of_a_part_in_a_million_is_seen_in_float64() -> None:
    assert check(product(1 + 1e-5), X, X).verdict is Verdict.FAIL
    assert check(product(1 + 1e-5), jnp.asarray(X), jnp.asarray(X)).passed


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_narrow_dtypes(dtype: Any) -> None:
    x = jnp.asarray(X, dtype)

    assert check(lambda x: jnp.tanh(x) * x, x).passed
    assert check(product(1.5), x, x).verdict is Verdict.FAIL


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize(
    "f",
    [
        jnp.square,
        jnp.abs,
        lambda z: z * jnp.conj(z),
        lambda z: jnp.real(z) * jnp.imag(z),
        jnp.fft.fft,
    ],
    ids=["square", "abs", "z conj z", "real imag", "fft"],
)
def test_complex_passes(f: Any, jit: Any) -> None:
    result = check(jit(f), X + 1j * X[::-1])

    assert result.passed, result


def test_conjugated_gradient_is_caught() -> None:
    @jax.custom_vjp
    def square(z: Any) -> Any:
        return z * z

    square.defvjp(lambda z: (z * z, z), lambda z, u: (2 * z.conj() * u,))  # 2 z u is JAX's

    assert check(square, X + 1j * X[::-1]).verdict is Verdict.FAIL


def test_stopped_gradient_is_zero() -> None:
    (finding,) = check(lambda x: jax.lax.stop_gradient(x**2), jnp.asarray(X)).findings

    assert finding.verdict is Verdict.FAIL
    assert finding.diagnosis == "zero"


def test_shared_compilation_does_not_share_constants() -> None:
    f = jax.jit(lambda x, k: x * k)
    other = jax.jit(lambda x, k: product(2.0)(x, k))

    for k in (2, 3):
        assert check(f, X, np.array(k)).passed
    assert check(other, X, X).verdict is Verdict.FAIL


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_a_function_that_branches_on_a_value_is_differentiated_as_it_runs(
    scale: float, dtype: str
) -> None:
    def f(x: Any) -> Any:
        return product(scale)(x, x) if x.sum() > 0 else jnp.cos(x)

    verdict = gradcheck.check(f, X.astype(dtype)).verdict
    assert verdict is (Verdict.PASS if scale == 1.0 else Verdict.FAIL)


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_what_rounds_otherwise_when_compiled_is_no_other_call(jit: Any) -> None:
    """A likelihood of a Gaussian process: its gradient has three digits in float32."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.standard_normal(10)).astype(np.float32)
    y = rng.standard_normal(10).astype(np.float32)

    @jit  # type: ignore[untyped-decorator]
    def likelihood(x: Any, y: Any) -> Any:
        kernel = jnp.exp(-0.5 * ((x[:, None] - x[None]) / 1.1) ** 2) + 1e-4 * jnp.eye(10)
        factor = jnp.linalg.cholesky(kernel)
        alpha = jax.scipy.linalg.cho_solve((factor, True), y)
        return y @ alpha + 2 * jnp.log(jnp.diag(factor)).sum()

    result = gradcheck.check(likelihood, x, y, checks=["vjp", "state"])
    assert result.verdict is not Verdict.FAIL, str(result)


@pytest.mark.parametrize("f", [jax.nn.sigmoid, lambda x: jax.nn.gelu(x, approximate=False)])
def test_what_xla_takes_for_zero_is_rounding(f: Any) -> None:
    at = [-85, -87, 3, -80] if f is jax.nn.sigmoid else [-13, -13.1, -12.9, 1]
    for seed in range(6):
        result = gradcheck.check(f, np.array(at, np.float32), checks="adjoint", seed=seed)
        assert result.passed, str(result)


def test_what_the_target_would_consume_is_kept() -> None:
    """`donate_argnums` lets a call overwrite its arguments; the caller's are still there after."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(x: Any, count: Any, key: Any) -> Any:
        return jnp.sin(x) * jax.random.normal(key, x.shape) + count.sum(), count + 1

    given = jnp.asarray(X), jnp.arange(3), jax.random.key(0)
    for _ in range(2):
        result = gradcheck.check(step, *given, checks="all")
        assert result.passed, result
        assert not any(leaf.is_deleted() for leaf in given)


@pytest.mark.parametrize("shape", [(0,), (0, 3), ()])
def test_empty_and_zero_dimensional_leaves(shape: tuple[int, ...]) -> None:
    x = jnp.ones(shape)

    assert check(lambda x: jnp.sin(x).sum(), x).passed


def test_none_and_integers_among_outputs() -> None:
    result = check(lambda x: (jnp.sin(x), None, jnp.argmax(x)), jnp.asarray(X))

    assert result.passed, result


def test_keyword_arguments_are_leaves_too() -> None:
    def scaled(x: jax.Array, *, scale: dict[str, jax.Array], power: int) -> jax.Array:
        return jnp.sin(x) ** power * scale["a"]

    named = {"scale": {"a": np.arange(3.0)}, "power": 3}
    for x in (np.ones(3), jnp.ones(3)):
        result = gradcheck.check(scaled, x, kwargs=named, checks="vjp")
        assert result.passed
        assert [finding.leaf for finding in result.findings] == ["input[0]", "input.scale['a']"]


def test_keyword_arguments_are_not_for_rules() -> None:
    rule = gradcheck.Rule(np.sin, lambda inputs, u: (u * np.cos(inputs[0]),))
    with pytest.raises(gradcheck.InputError, match="positional"):
        gradcheck.check(rule, np.ones(3), kwargs={"power": 2})


def test_a_target_is_run_once_and_traced_once() -> None:
    runs: list[bool] = []

    def layer(x: Any) -> Any:
        runs.append(isinstance(x, jax.core.Tracer))
        return jnp.tanh(x) * x

    problem = problem_of(layer, (jnp.ones(3),))
    problem.value(problem.point)

    assert runs == [False, True]


def test_a_loop_is_traced_and_compiled_once() -> None:
    bodies = []

    def layer(w: Any, x: Any) -> Any:
        def body(h: Any, now: Any) -> tuple[Any, Any]:
            bodies.append(h)
            h = jnp.tanh(w * h + now)
            return h, h

        return jax.lax.scan(body, jnp.zeros_like(x[0]), x)[1]

    problem = problem_of(layer, (X, np.ones((4, 3))))
    us = (np.ones((4, 3)),)
    first = problem.vjp(problem.point, us)
    bodies.clear()

    again = problem.vjp(problem.point, us)

    assert not bodies
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
