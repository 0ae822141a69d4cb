"""Hand-written derivatives: a C++ extension, a Numba kernel, a scratch implementation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from gradcheck import trees
from gradcheck.adapters.bridge import Bridge, received
from gradcheck.adapters.holdings import generators_of
from gradcheck.adapters.randomness import EVERYBODYS, OTHER, seeded
from gradcheck.errors import InputError, ShapeMismatch
from gradcheck.problem import WIDER, Arrays, Leaf, Problem, label

__all__ = ["Rule", "problem_of_rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A function with a derivative written by hand, on arrays of any library.

    Args:
        forward: `forward(*inputs)` returns an array or a nested container of arrays. With
            `cached=True` it returns `(outputs, cache)`.
        vjp: `vjp(inputs, cotangents)`, or with `cached=True` `vjp(cache, cotangents)`. The
            cotangents have the structure of the outputs. It returns one gradient for every input,
            each with its input's structure, None where there is none; for a single input the
            gradient alone will do.
        jvp: `jvp(inputs, tangents)` returns the tangents of the outputs, with their structure;
            the tangents have the structure of the inputs, None where there is nothing to move.
        cached: whether `forward` hands a cache to `vjp`.
    """

    forward: Callable[..., Any]
    vjp: Callable[[Any, Any], Any]
    jvp: Callable[[Any, Any], Any] | None = None
    cached: bool = False


def problem_of_rule(
    rule: Rule, inputs: tuple[Any, ...], bridge: Bridge, *, name: str | None, seed: int
) -> Problem:
    """Return the problem of `rule` at `inputs`; leaves are the floating and complex inputs.

    Raises:
        InputError: no input or no output can be differentiated.
    """
    named = {path: leaf for path, leaf in _walk(inputs) if bridge.is_differentiable(leaf)}
    if not named:
        raise InputError(
            f"expected at least one floating or complex array among the inputs; got "
            f"{received(inputs)}"
        )
    posed = Posed(
        rule=rule,
        inputs=inputs,
        named=named,
        bridge=bridge,
        seed=seed,
        generators=(*bridge.generators, *EVERYBODYS, *generators_of(rule)),
    )
    outputs = posed.described()
    if not outputs:
        raise InputError(
            "expected forward to return at least one floating or complex array; got "
            f"{received((posed.run(posed.point)[1],))}"
        )
    return _problem(posed, outputs, name)


def _problem(posed: "Posed", outputs: tuple[Leaf, ...], name: str | None) -> Problem:
    from gradcheck.adapters import rule_manners  # it builds on this module

    called, bridge = label(posed.rule.forward, name), posed.bridge
    # JAX's float64 is not ours to switch on around a rule that is not traced.
    widens = bridge.framework != "jax" and not posed.wide
    leaves = tuple(bridge.leaf(path, leaf) for path, leaf in posed.named.items())
    if posed.wide:
        leaves = tuple(replace(leaf, dtype=WIDER.get(leaf.dtype, leaf.dtype)) for leaf in leaves)

    def in_float64() -> Problem:
        wide = replace(posed, wide=True)
        return _problem(wide, wide.described(), name)

    def redrawn(k: int) -> Problem:
        return _problem(replace(posed, seed=posed.seed + OTHER * (k + 1)), outputs, name)

    is_random = any(posed.draws.values())
    return Problem(
        name=called,
        target=f"Rule({called})",
        framework=bridge.framework,
        leaves=leaves,
        outputs=outputs,
        point=posed.point,
        value=posed.value,
        vjp=posed.vjp,
        jvp=None if posed.rule.jvp is None else posed.jvp,
        session=partial(rule_manners.session, posed),
        layouts=rule_manners.LAYOUTS if bridge.framework == "numpy" else (),
        audit=partial(rule_manners.audit, posed),
        in_float64=in_float64 if widens else None,
        analytic=replace(posed, wide=True).value if bridge.framework != "jax" else None,
        is_random=is_random,
        redrawn=redrawn if is_random else None,
    )


Ran = tuple[tuple[Any, ...], Any, Any]  # the inputs, the outputs, what the VJP is given


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A rule at its inputs, its leaves by path; the arrays keep the engine's dtype if `wide`."""

    rule: Rule
    inputs: tuple[Any, ...]
    named: Mapping[str, Any]
    bridge: Bridge
    seed: int  # of the random numbers that the rule draws
    generators: Sequence[Any]  # of them: those of the framework, everybody's, and the rule's own
    wide: bool = False
    # What the rule is given in place of an input or a cotangent.
    given: Callable[[str, Any], Any] = lambda path, array: array
    draws: dict[str, bool] = field(default_factory=dict)  # part of a run -> whether it draws any

    @cached_property
    def point(self) -> Arrays:
        arrays = tuple(self.bridge.out(leaf) for leaf in self.named.values())
        if not self.wide:
            return arrays
        dtypes = [WIDER.get(self.bridge.dtype_of(leaf), "") for leaf in self.named.values()]
        return tuple(
            array.astype(d or array.dtype) for array, d in zip(arrays, dtypes, strict=True)
        )

    def run(self, point: Arrays) -> "Ran":
        """The inputs at `point`, the outputs, and what the VJP is given beside cotangents."""
        moved = dict(zip(self.named, point, strict=True))
        cross = self.bridge.wide if self.wide else self.bridge.into
        arguments = trees.rebuild(
            self.inputs,
            lambda p, leaf: self.given(p, cross(moved[p], leaf)) if p in moved else _own(leaf),
            "input",
        )
        # What is not finite is said by the result.
        with np.errstate(all="ignore"), self.seeded("forward", self.seed):
            outputs = self.rule.forward(*arguments)
        if self.rule.cached:
            outputs, cache = _pair(outputs)
            return arguments, _array(outputs), cache
        return arguments, _array(outputs), arguments

    def seeded(self, part: str, seed: int) -> AbstractContextManager[None]:
        """What makes a part of a run draw the same random numbers every time."""
        return seeded(part, seed, self.generators, self.draws)

    def described(self) -> tuple[Leaf, ...]:
        found = _floating(self.run(self.point)[1], self.bridge)
        return tuple(self.bridge.leaf(path, leaf) for path, leaf in found)

    def value(self, point: Arrays) -> Arrays:
        return self.values(self.run(point))

    def values(self, ran: "Ran") -> Arrays:
        return tuple(self.bridge.out(leaf) for _, leaf in _floating(ran[1], self.bridge))

    def vjp(self, point: Arrays, cotangents: Arrays) -> Arrays:
        ran = self.run(point)
        return self.gradients(ran, self.pulled_back(ran, cotangents))

    def pulled_back(self, ran: "Ran", cotangents: Arrays) -> Any:
        """What the rule returns, as it returns it."""
        _, outputs, known = ran
        paths = [path for path, _ in _floating(outputs, self.bridge)]
        given = dict(zip(paths, cotangents, strict=True))
        into = self.bridge.into
        u = trees.rebuild(
            outputs,
            lambda p, leaf: self.given(p, into(given[p], leaf)) if p in given else None,
            "output",
        )
        with self.noting(ran), self.seeded("backward", self.seed + 1):
            return self.rule.vjp(known, u)

    def gradients(self, ran: "Ran", returned: Any) -> Arrays:
        with self.noting(ran):
            return _gradients(returned, ran[0], tuple(self.named), self.bridge)

    @contextmanager
    def noting(self, ran: "Ran") -> Iterator[None]:
        """Have what a VJP raises say that two values may be an output and a cache."""
        try:
            yield
        except Exception as error:
            if not self.rule.cached and isinstance(ran[1], tuple) and len(ran[1]) == 2:
                error.add_note(PAIR)
            raise

    def jvp(self, point: Arrays, tangents: Arrays) -> Arrays:
        assert self.rule.jvp is not None
        given = dict(zip(self.named, tangents, strict=True))
        arguments, outputs, _ = self.run(point)
        v = trees.rebuild(
            arguments,
            lambda path, leaf: (
                self.given(f"tangent of {path}", self.bridge.into(given[path], leaf))
                if path in given
                else None
            ),
            "input",
        )
        with self.seeded("tangents", self.seed + 1):
            pushed = dict(_floating(self.rule.jvp(arguments, v), self.bridge))
        arrays = []
        for path, leaf in _floating(outputs, self.bridge):
            arrays.append(_checked(path, pushed.get(path), leaf, self.bridge))
        return tuple(arrays)


PAIR = (
    "forward returned two values, which are two outputs; if the second is a cache for vjp, say "
    "Rule(..., cached=True)"
)


def _own(constant: Any) -> Any:
    """A constant that the rule may write into, and not into the caller's."""
    copied = getattr(constant, "clone", None) or getattr(constant, "copy", None)
    is_array = isinstance(constant, np.ndarray) or hasattr(constant, "clone")
    return copied() if is_array and copied is not None else constant


def _array(outputs: Any) -> Any:
    """A loss is often made a number of Python's."""
    return np.asarray(outputs) if isinstance(outputs, float | complex) else outputs


def _walk(inputs: tuple[Any, ...]) -> list[tuple[str, Any]]:
    return list(trees.leaves(inputs, "input"))


def _floating(outputs: Any, bridge: Bridge) -> list[tuple[str, Any]]:
    return [
        (p, leaf) for p, leaf in trees.leaves(outputs, "output") if bridge.is_differentiable(leaf)
    ]


def _pair(returned: Any) -> tuple[Any, Any]:
    if isinstance(returned, tuple) and len(returned) == 2:
        return returned[0], returned[1]
    raise InputError(
        f"expected forward of a cached Rule to return (outputs, cache); "
        f"got {type(returned).__name__}"
    )


def _gradients(
    returned: Any, arguments: tuple[Any, ...], paths: tuple[str, ...], bridge: Bridge
) -> Arrays:
    """One array a leaf: what the rule returned, matched to the inputs by structure.

    Raises:
        InputError: the structure does not match.
        ShapeMismatch: a gradient has another shape than its leaf.
    """
    if len(arguments) == 1 and not _is_wrapped(returned, arguments[0], bridge):
        returned = (returned,)
    if not isinstance(returned, (tuple, list)) or len(returned) != len(arguments):
        count = len(returned) if isinstance(returned, (tuple, list)) else type(returned).__name__
        raise InputError(
            f"expected vjp to return one gradient for each of the {len(arguments)} inputs, "
            f"None where there is none; got {count}"
        )
    given = dict(trees.leaves(tuple(returned), "input"))
    whole = [path for path, leaf in given.items() if leaf is None]
    arrays = []
    for path, argument in trees.leaves(arguments, "input"):
        if path not in paths:
            continue
        gradient = given.get(path)
        if gradient is None and not any(_is_within(path, above) for above in whole):
            raise InputError(f"expected vjp to return a gradient for {path}; got none there")
        arrays.append(_checked(path, gradient, argument, bridge))
    return tuple(arrays)


def _is_within(path: str, above: str) -> bool:
    return path == above or path.startswith((f"{above}[", f"{above}."))


def _is_wrapped(returned: Any, argument: Any, bridge: Bridge) -> bool:
    """Whether the gradient of a single input came in a container of one, as for several inputs."""
    kinds = (tuple, list) if bridge.is_array(argument) else tuple
    return isinstance(returned, kinds) and len(returned) == 1


def _checked(path: str, gradient: Any, argument: Any, bridge: Bridge) -> np.ndarray[Any, Any]:
    if gradient is None:
        return np.zeros_like(bridge.out(argument))
    array = bridge.out(gradient) if bridge.is_array(gradient) else np.asarray(gradient)
    if array.shape != tuple(argument.shape):
        raise ShapeMismatch(path, tuple(argument.shape), array.shape)
    return array
