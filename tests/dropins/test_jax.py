"""The drop-ins for `jax.test_util` refuse what JAX's refuse, and more."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from gradcheck import jax as ours
from gradcheck.dropin import InconclusiveWarning
from gradcheck.jax import check_grads, check_jvp, check_vjp


@pytest.fixture(autouse=True)
def _x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def array(*shape: int, dtype: Any = np.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype=dtype)


def sine(slope: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """sin with `slope` for its derivative."""

    @jax.custom_jvp
    def f(x: Any) -> Any:
        return jnp.sin(x)

    f.defjvps(lambda v, _, x: v * slope(x))
    return f


@pytest.mark.parametrize("name", ["check_grads", "check_jvp", "check_vjp"])
def test_the_signature_is_jaxs(name: str) -> None:
    theirs = inspect.signature(getattr(jax.test_util, name)).parameters

    found = inspect.signature(getattr(ours, name)).parameters

    assert [(p.name, p.kind, p.default) for p in found.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize("modes", [("fwd", "rev"), ("lin",), ["rev"]], ids=str)
def test_right_derivatives_of_second_order_pass(modes: Any) -> None:
    check_grads(lambda x, w: jnp.tanh(x @ w), (array(2, 3), array(3, 2)), 2, modes=modes, eps=1e-2)


@pytest.mark.parametrize(
    "argument",
    [0.3, np.float64(0.3), np.float32(0.3), 1 + 2j, np.arange(3) / 2, np.arange(3) * 1j],
    ids=["float", "float64", "float32", "complex", "array", "complex array"],
)
def test_numbers_of_every_kind_are_arguments(argument: Any) -> None:
    check_grads(lambda x: x**3, (argument,), 2)


def test_of_integers_alone_there_is_nothing_to_check() -> None:
    checks: list[Callable[[Any], None]] = [
        lambda args: check_grads(jnp.square, args, 1),
        lambda args: check_jvp(jnp.square, partial(jax.jvp, jnp.square), args),
        lambda args: check_vjp(jnp.square, partial(jax.vjp, jnp.square), args),
    ]
    for check in checks:
        with pytest.raises(TypeError, match=r"expected a floating or complex array.*int32"):
            check((jnp.arange(3, dtype="int32"),))


def test_trees_with_integers_and_keys_are_arguments() -> None:
    def f(params: Any, count: Any, key: Any) -> Any:
        return {"y": params["w"] * count + jax.random.normal(key, (3,)), "count": count}

    check_grads(f, ({"w": array(3)}, jnp.arange(3), jax.random.key(0)), 1)


@pytest.mark.parametrize(
    ("modes", "words"), [(("fwd",), "JVP tangent"), (("rev",), "VJP cotangent projection")]
)
def test_an_error_below_jaxs_tolerance_is_seen(modes: Any, words: str) -> None:
    subtle = sine(lambda x: jnp.cos(x) * (1 + 5e-6))

    jax.test_util.check_grads(subtle, (array(4),), 1, modes=modes)  # type: ignore[no-untyped-call]
    with pytest.raises(AssertionError, match=rf"Not equal to tolerance(.|\n)*{words}(.|\n)*FAIL"):
        check_grads(subtle, (array(4),), 1, modes=modes)


def test_a_right_derivative_that_jax_refuses_passes() -> None:
    def f(x: Any) -> Any:
        return jnp.sin(300 * x)  # bends too fast for a step of 1e-4

    with pytest.raises(AssertionError):
        jax.test_util.check_grads(f, (array(4),), 1)  # type: ignore[no-untyped-call]
    check_grads(f, (array(4),), 1)


def test_a_wrong_second_derivative_fails_at_second_order() -> None:
    detached = sine(lambda x: jnp.cos(jax.lax.stop_gradient(x)))

    check_grads(detached, (array(4),), 1)
    with pytest.raises(AssertionError, match="JVP of JVP tangent"):
        check_grads(detached, (array(4),), 2)
    with pytest.raises(AssertionError, match="VJP of VJP cotangent projection"):
        check_grads(detached, (array(4),), 2, modes=["rev"])


def test_rtol_is_honoured_and_atol_is_slack() -> None:
    wrong = sine(lambda x: jnp.cos(x) * (1 + 1e-4))
    arguments = (array(4),)

    with pytest.raises(AssertionError):
        check_grads(wrong, arguments, 1)
    check_grads(wrong, arguments, 1, rtol=1e-3)
    check_grads(wrong, arguments, 1, rtol={np.float64: 1e-3, np.float32: 1e-9})
    check_grads(wrong, arguments, 1, atol=1e-2)
    with pytest.raises(AssertionError):
        check_grads(wrong, arguments, 1, atol=1e-8)


def test_jaxs_own_rules_pass_as_they_are_written() -> None:
    x = array(3)

    check_vjp(jnp.sin, partial(jax.vjp, jnp.sin), (x,))
    check_jvp(jnp.sin, partial(jax.jvp, jnp.sin), (x,))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128], ids=lambda d: d.__name__)
def test_rules_written_by_hand_are_checked(dtype: Any) -> None:
    x = (array(3, dtype=dtype), jnp.arange(3))

    def f(x: Any, n: Any) -> Any:
        return jnp.sin(x) * n

    def vjp(x: Any, n: Any, factor: float = 1.0) -> Any:
        return f(x, n), lambda u: (u * jnp.cos(x) * n * factor, None)

    def jvp(primals: Any, tangents: Any, factor: float = 1.0) -> Any:
        (x, n), (v, _) = primals, tangents
        return f(x, n), v * jnp.cos(x) * n * factor

    check_vjp(f, vjp, x)
    check_jvp(f, jvp, x)
    with pytest.raises(AssertionError, match="mine cotangent projection"):
        check_vjp(f, partial(vjp, factor=1.01), x, err_msg="mine")
    with pytest.raises(AssertionError, match="mine tangent"):
        check_jvp(f, partial(jvp, factor=1.01), x, err_msg="mine")


def test_a_rule_that_returns_another_value_fails() -> None:
    x = (array(3),)

    with pytest.raises(AssertionError, match="primal"):
        check_vjp(jnp.sin, lambda x: (jnp.cos(x), lambda u: (u * jnp.cos(x),)), x)
    with pytest.raises(AssertionError, match="primal"):
        check_jvp(jnp.sin, lambda x, v: (jnp.cos(x[0]), v[0] * jnp.cos(x[0])), x)


def test_what_has_no_forward_mode_is_refused_in_jaxs_words() -> None:
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (u * jnp.cos(x),))

    check_grads(f, (array(3),), 1, modes=["rev"])
    with pytest.raises(TypeError, match="can't apply forward-mode"):
        check_grads(f, (array(3),), 1)


def test_an_output_that_cannot_be_differentiated_passes() -> None:
    check_grads(lambda x: jnp.argmax(x), (array(3),), 1, modes=["rev"])


def test_what_cannot_be_decided_passes_with_a_warning() -> None:
    with pytest.warns(InconclusiveWarning, match="the value jumps at this point") as said:
        check_grads(lambda x: (x >= 0) * (x + 1), (jnp.zeros(3),), 1, modes=["rev"])
    assert said[0].filename == __file__


def test_the_users_configuration_stays() -> None:
    with jax.enable_x64(False):
        check_grads(jnp.sin, (np.linspace(0.1, 1.0, 3),), 2)

        assert jnp.zeros(1).dtype == np.float32


def _five_times_too_large() -> Callable[[Any], Any]:
    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (5 * u * jnp.cos(x),))
    return sine


@pytest.mark.parametrize("modes", ["rev", ("rev",), ["rev"]])
def test_modes_may_be_a_word(modes: Any) -> None:
    x = jnp.arange(1.0, 4.0)
    check_grads(jnp.sin, (x,), 1, modes)
    with pytest.raises(AssertionError, match="VJP cotangent"):
        check_grads(_five_times_too_large(), (x,), 1, modes)


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected modes among"):
        check_grads(jnp.sin, (jnp.ones(2),), 1, "backward")


@pytest.mark.parametrize(
    ("push", "error"),
    [
        (lambda p, v: (jnp.sin(*p), (jnp.cos(*p) * v[0]).astype("float16")), AssertionError),
        (lambda p, v: (jnp.sin(*p).astype("float16"), jnp.cos(*p) * v[0]), AssertionError),
        (lambda p, v: (None, jnp.cos(*p) * v[0]), ValueError),
    ],
)
def test_a_jvp_of_another_dtype_or_structure_fails(push: Any, error: type[Exception]) -> None:
    x = jnp.arange(1.0, 4.0, dtype="float32")
    for check in (check_jvp, jax.test_util.check_jvp):
        with pytest.raises(error):
            check(jnp.sin, push, (x,))


@pytest.mark.parametrize("pull", [lambda g: g, lambda g: [g]])
def test_a_vjp_of_another_structure_fails(pull: Callable[[Any], Any]) -> None:
    def vjp(x: Any) -> Any:
        return jnp.sin(x), lambda u: pull(jnp.cos(x) * u)

    for check in (check_vjp, jax.test_util.check_vjp):
        with pytest.raises(ValueError, match="structure"):
            check(jnp.sin, vjp, (jnp.arange(1.0, 4.0),))


def test_what_a_rule_raises_is_raised() -> None:
    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    def back(x: Any, u: Any) -> Any:
        raise KeyError("of my own")

    sine.defvjp(lambda x: (jnp.sin(x), x), back)
    with pytest.raises(KeyError, match="of my own"):
        check_grads(sine, (jnp.ones(2),), 1, ["rev"])


def test_of_a_dtype_of_one_byte_it_is_said_that_it_is_not_checked() -> None:
    @jax.custom_vjp
    def double(x: Any) -> Any:
        return 2 * x.astype("float32")

    double.defvjp(lambda x: (double(x), x), lambda x, u: ((7 * u).astype(x.dtype),))
    with pytest.warns(InconclusiveWarning, match="not checked in float8_e4m3fn"):
        check_grads(double, (jnp.asarray([0.5, 1.0], "float8_e4m3fn"),), 1, ["rev"])


def test_what_is_flushed_to_zero_is_no_error() -> None:
    """At second order the value is the cotangent: of 1e-19, gradients of 1e-36 are left."""

    @jax.jit
    def small(x: Any) -> Any:
        for _ in range(3):
            x = jnp.sin(jnp.dot(x, x, precision=jax.lax.Precision.HIGHEST) * 1e-3)
        return x

    check_grads(small, (jnp.ones((2, 2)),), order=2, modes=["fwd", "rev"])


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_engine_itself_warns_of_nothing() -> None:
    check_grads(jax.nn.softplus, (-float("inf"),), order=1, rtol=1e-2)
    draw = np.random.RandomState(0).randn(2, 3, 4).astype("float32")
    z = 3 * draw[0] + 3j * draw[1]
    check_grads(jax.scipy.special.erfcx, (z,), order=1, atol=1e-3, rtol=0.1)
