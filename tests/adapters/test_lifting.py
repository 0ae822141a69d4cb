"""Narrow JAX targets are computed in float64 whatever their jaxprs hold."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradcheck
from gradcheck.adapters import problem_of
from gradcheck.errors import InputError
from gradcheck.problem import is_same_entrywise, posed_in_float64
from gradcheck.results import Verdict

X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
ROWS = np.array([0, 2, 2])

_cg: Any = jax.scipy.sparse.linalg.cg


def _root(x: Any) -> Any:
    def newton(f: Any, start: Any) -> Any:
        return lax.fori_loop(0, 30, lambda _, y: y - f(y) / (3 * y**2 + 1), start)

    return lax.custom_root(
        lambda y: y**3 + y - x, jnp.zeros_like(x), newton, lambda g, y: y / g(jnp.ones_like(y))
    )


def _truncated(x: Any) -> Any:
    """x, of which the last 16 bits are zero."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return lax.bitcast_convert_type(bits & -(2**16), jnp.float32)


# Each holds a jaxpr, or asks for bits or for a dtype.
TARGETS: dict[str, Callable[[Any], Any]] = {
    "gather": lambda x: x[ROWS] ** 2,
    "scatter": lambda x: x.at[ROWS].set(jnp.sin(x[:3])),
    "scatter-sub": lambda x: x.at[ROWS].subtract(jnp.sin(x[:3])),
    "scatter-min": lambda x: x.at[ROWS].min(0.1),
    "scatter-mul": lambda x: x.at[np.array([0, 2])].multiply(x[1:3], unique_indices=True),
    "sort": lambda x: jnp.sort(x, axis=1),
    "argsort": lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=1), 1),
    "reduce": lambda x: lax.reduce(x, 1.0, lambda a, b: a * b, (0,)),
    "max pooling": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 1), "VALID"),
    "mean pooling": lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), "SAME"),
    "linear solve": lambda x: lax.custom_linear_solve(
        lambda v: v * 2, x, lambda _, b: b / 2, symmetric=True
    ),
    "conjugate gradients": lambda x: _cg(lambda v: v * 2, x)[0],
    "root": _root,
    "top k": lambda x: lax.approx_max_k(x, 2)[0],
    "associative scan": lambda x: lax.associative_scan(jnp.multiply, x),
    "loop": lambda x: lax.fori_loop(0, 3, lambda _, y: jnp.sin(y) + x, x),
    "branch": lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
    "bits": lambda x: x * lax.stop_gradient(_truncated(x)),
    "dtype": lambda x: x / (jnp.abs(x) + np.finfo(x.dtype).eps ** 0.5),
    "convolution": lambda x: jnp.convolve(x[0], x[1, :3]),
    "einsum": lambda x: jnp.einsum("ij,kj->ik", x, x, preferred_element_type=jnp.float32),
    "random": lambda x: x * jax.random.normal(jax.random.key(0), x.shape, x.dtype),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))),
    "decomposition": lambda x: jnp.linalg.solve(x[:, :4] + 4 * jnp.eye(4), x[:, 4:]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_it_is_differenced_in_float64_and_passes(name: str) -> None:
    result = gradcheck.check(TARGETS[name], X)

    assert result.verdict is Verdict.PASS, str(result)
    assert result.findings[0].oracle == "finite differences, float64"


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in ("bits", "top k")])
def test_its_gradient_is_the_same_function(name: str) -> None:
    problem = problem_of(TARGETS[name], (X,))
    wide = posed_in_float64(problem)
    assert wide is not None
    u = tuple(np.ones(y.shape) for y in problem.outputs)

    pairs = zip(problem.vjp(problem.point, u), wide.vjp(wide.point, u), strict=True)

    for narrow, gradient in pairs:
        assert gradient.dtype == np.float64
        np.testing.assert_allclose(narrow, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gather", "scatter-sub", "reduce", "root"])
def test_a_rule_that_is_wrong_inside_is_caught(name: str) -> None:
    @jax.custom_vjp
    def halved(x: Any) -> Any:
        return x

    halved.defvjp(lambda x: (x, None), lambda _, u: (u * 0.99,))
    result = gradcheck.check(lambda x: TARGETS[name](halved(x)), X)

    assert result.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "target",
    [
        lambda x: lax.reduce(x, np.float32(-np.inf), lambda a, b: jnp.logaddexp(a, b), (1,)),
        lambda x: jnp.linalg.solve(x[:, :4] + 4 * jnp.eye(4, dtype=np.float32), x[:, 4:]),
    ],
    ids=["reduce", "solve"],
)
def test_it_is_lifted_and_not_run_with_x64_on(target: Any) -> None:
    def strict(x: Any) -> Any:
        assert x.dtype == np.float32
        return target(x)

    result = gradcheck.check(strict, X, checks="vjp")

    assert result.findings[0].oracle == "finite differences, float64"


def test_the_precision_of_a_product_is_not_kept_in_float64() -> None:
    """A `DotAlgorithmPreset` names the dtypes to multiply and to add in."""
    a, b = X, X.T.copy()
    target = partial(lax.dot, precision=lax.DotAlgorithmPreset.F32_F32_F32)
    problem = problem_of(target, (a, b))
    wide = posed_in_float64(problem)
    assert wide is not None

    (product,) = wide.value(wide.point)

    np.testing.assert_allclose(product, a.astype(float) @ b.astype(float), rtol=1e-14, atol=1e-14)


def test_attention_in_bfloat16_passes_to_second_order() -> None:
    q, k, v = (jnp.asarray(X.reshape(1, 3, 2, 4) * s, jnp.bfloat16) for s in (1.0, -0.7, 0.4))

    result = gradcheck.check(jax.nn.dot_product_attention, q, k, v, checks=["vjp", "second_order"])

    assert result.verdict is Verdict.PASS, str(result)


@pytest.mark.parametrize(
    ("bits", "dtype"), [((8, 7), "bfloat16"), ((5, 10), "float16"), ((8, 13), "float32")]
)
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_what_reduces_its_precision_is_held_to_that(
    bits: tuple[int, int], dtype: str, factor: float
) -> None:
    @jax.custom_vjp
    def scaled(x: Any) -> Any:
        return x

    scaled.defvjp(lambda x: (x, None), lambda _, u: (u * jnp.float32(factor),))

    def target(x: Any) -> Any:
        return jnp.sin(lax.reduce_precision(scaled(x), *bits))

    result = gradcheck.check(target, X, checks="vjp")

    assert result.verdict is (Verdict.PASS if factor == 1 else Verdict.FAIL), str(result)
    assert problem_of(target, (X,)).leaves[0].digits == dtype


def test_what_only_the_rule_rounds_to_bfloat16_is_no_rounding_of_the_dtype() -> None:
    @jax.custom_vjp
    def product(x: Any, w: Any) -> Any:
        return x * w

    def back(kept: Any, u: Any) -> Any:
        x, w = kept
        return u * w, (u * x.astype(u.dtype)).sum(0)

    product.defvjp(lambda x, w: (x * w, (x.astype(jnp.bfloat16), w)), back)

    result = gradcheck.check(product, X, X[0], checks="vjp")

    assert [f.leaf for f in result.findings if f.verdict is Verdict.FAIL] == ["input[1]"]


def test_float64_of_fewer_bits_is_held_to_those() -> None:
    """15 bits lie between float16 and float32; differences are taken of all 52."""
    target = lambda x: jnp.sin(lax.reduce_precision(x, 11, 15))  # noqa: E731

    result = gradcheck.check(target, X.astype(np.float64), checks="vjp")

    assert result.passed, str(result)
    assert problem_of(target, (X.astype(np.float64),)).leaves[0].digits == "float32"


def test_what_is_narrow_in_a_function_in_a_loop_is_seen() -> None:
    @jax.jit
    def rounded(row: Any) -> Any:
        return row.astype(jnp.bfloat16).astype(row.dtype)

    def target(x: Any) -> Any:
        return lax.scan(lambda c, row: (c * rounded(row), c), jnp.ones_like(x[0]), x)[1]

    assert problem_of(target, (X,)).leaves[0].digits == "bfloat16"


def test_a_second_derivative_is_held_to_the_dtype_of_the_target() -> None:
    """An iteration that stops where float32 needs no more does so in float64 too."""

    @jax.custom_vjp
    def inexact(x: Any) -> Any:
        return x**2

    # A second derivative that is right to five digits.
    inexact.defvjp(lambda x: (x**2, x), lambda x, u: (_nearly(x) * u,))
    for dtype, verdict in ((np.float32, Verdict.PASS), (np.float64, Verdict.FAIL)):
        result = gradcheck.check(inexact, X.astype(dtype), checks="second_order")

        assert result.verdict is verdict, str(result)


@jax.custom_vjp
def _nearly(x: Any) -> Any:
    return 2 * x


_nearly.defvjp(lambda x: (2 * x, None), lambda _, u: (2.00002 * u,))


def test_what_the_narrow_value_loses_is_no_other_answer_when_compiled() -> None:
    result = gradcheck.check(lambda x: ((x + 1e4) - 1e4) * 2, X, checks=["vjp", "determinism"])

    assert result.verdict is Verdict.PASS, str(result)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: jnp.log(jnp.abs(x)), "the value at this point is not finite"),
        (lambda x: jnp.exp(x * 1e3), "the value at this point is not finite"),
        (jnp.sqrt, "the value at this point is not finite"),
        (lambda x: jnp.sqrt(jnp.abs(x)), ""),
    ],
    ids=["log", "exp", "sqrt", "gradient"],
)
def test_what_is_infinite_makes_no_noise(f: Any, message: str) -> None:
    point = X.copy()
    point[0, 0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = gradcheck.check(f, point)

    assert result.verdict is not Verdict.ERROR, str(result)
    assert message in result.findings[0].message


def test_what_is_infinite_excuses_no_other_entry() -> None:
    problem = problem_of(jnp.sin, (X,))
    value = np.array([np.inf, 1.0, 2.0])

    assert is_same_entrywise(problem, (value,), (value,))
    assert not is_same_entrywise(problem, (np.array([np.inf, 2.0, 2.0]),), (value,))


def test_inputs_without_a_derivative_are_named_with_their_dtypes() -> None:
    with pytest.raises(InputError, match=r"got inputs ndarray of int32, dict$"):
        gradcheck.check(lambda x, y: jnp.sin(x) * y["a"], ROWS.astype(np.int32), {"a": 1})
