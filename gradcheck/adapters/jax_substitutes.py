"""Other derivatives for a custom rule of a JAX target, in the place of its own."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

__all__ = ["Code", "code_of", "differenced", "without_rules"]


def differenced(run: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
    """`run`, whose VJP is taken by central differences, entry by entry."""

    @jax.custom_vjp
    def values(*xs: Any) -> list[Any]:
        return list(run(*xs))

    def backward(xs: Sequence[Any], us: Sequence[Any]) -> tuple[Any, ...]:
        def value(k: int, x: Any) -> Any:
            outputs = run(*xs[:k], x, *xs[k + 1 :])
            pairs = [(y, u) for y, u in zip(outputs, us, strict=True) if _is_real(y)]
            return sum(jnp.vdot(u, y) for y, u in pairs)

        return tuple(
            _gradient(partial(value, k), x) if _is_real(x) else np.zeros(x.shape, jax.dtypes.float0)
            for k, x in enumerate(xs)
        )

    values.defvjp(lambda *xs: (values(*xs), xs), backward)
    return values


def _gradient(value: Callable[[Any], Any], x: Any) -> Any:
    flat = x.reshape(-1)
    # The step at which truncation, h², is as large as rounding, eps / h.
    h = float(np.finfo(x.dtype).eps) ** (1 / 3) * jnp.maximum(jnp.abs(flat).mean(), 1e-3)

    def slope(j: Any) -> Any:
        above = value(flat.at[j].add(h).reshape(x.shape))
        below = value(flat.at[j].add(-h).reshape(x.shape))
        return ((above - below) / (2 * h)).astype(x.dtype)

    return jax.lax.map(slope, jnp.arange(x.size)).reshape(x.shape) if x.size else jnp.zeros_like(x)


def _is_real(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


Code = tuple[str, tuple[str, ...]]  # where a rule is written, and what it consists of


def code_of(source: str, jaxpr: Any) -> Code:
    """What the same rule is called everywhere, of whatever shapes.

    Rules that one function makes have one name and one place; what they compute tells them apart.
    """
    return source, tuple(equation.primitive.name for equation in jaxpr.eqns)


def without_rules(target: Any, codes: Collection[Code]) -> list[AbstractContextManager[Any]]:
    """`target` with some rules left out by whatever calls them, another rule too."""
    if not hasattr(jax, "make_user_context"):  # before 0.8 what was traced cannot be traced again
        return []
    return [_left_out(target, codes)]


@contextmanager
def _left_out(target: Any, codes: Collection[Code]) -> Iterator[Any]:
    classes = (jax.custom_vjp, jax.custom_jvp)
    own = [kind.__call__ for kind in classes]
    sources = {source for source, _ in codes}
    looking = False  # at what a rule computes, with all rules in force

    def is_meant(rule: Any, args: Any, named: Any) -> bool:
        nonlocal looking
        info = jax.api_util.debug_info("custom_vjp fun", rule.fun, args, named)
        if looking or info.func_src_info not in sources:
            return False
        looking = True
        try:
            jaxpr = jax.make_jaxpr(rule.fun)(*args, **named).jaxpr
        except Exception:  # of arguments that are no arrays
            return True
        finally:
            looking = False
        return code_of(str(info.func_src_info), jaxpr) in codes

    def call(original: Any) -> Any:
        def called(rule: Any, *args: Any, **named: Any) -> Any:
            if is_meant(rule, args, named):
                return rule.fun(*args, **named)
            return original(rule, *args, **named)

        return called

    for kind, original in zip(classes, own, strict=True):
        setattr(kind, "__call__", call(original))  # noqa: B010  (a method, to type checkers)
    try:
        context = jax.make_user_context(default_value=None)  # type: ignore[no-untyped-call]
        with context(1):  # nothing that was traced is known
            yield target
    finally:
        for kind, original in zip(classes, own, strict=True):
            setattr(kind, "__call__", original)  # noqa: B010
