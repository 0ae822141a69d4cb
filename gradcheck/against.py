"""A layer of one's own against the reference layer of the same kind, weights matched by name."""

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradcheck.adapters.reference_ import parameter_names, problem_of_layer
from gradcheck.adapters.select import constants_of, problem_of
from gradcheck.conventions import CONVENTIONS, Convention, attended, convention_of, typed
from gradcheck.errors import GradcheckError, InputError
from gradcheck.inquiry import compare_problems, unposed
from gradcheck.listeners import TARGETS, heard
from gradcheck.names import assigned, found, listed, matching
from gradcheck.options import keywords, require_known, settled
from gradcheck.problem import Array, Problem, label
from gradcheck.reference.attention import MultiHeadAttention
from gradcheck.reference.layer import Layer
from gradcheck.reference.recurrent import Recurrent
from gradcheck.results import CheckResult, Finding, Verdict
from gradcheck.settings import Settings
from gradcheck.trees import Keywords
from gradcheck.views import narrowed, relaid, seen, untouched
from gradcheck.weights import (
    Expression,
    evaluated,
    is_expression,
    names,
    renamed,
    spelled,
)

__all__ = ["against_reference"]

EXPRESSIONS = "a name, a number, an array, or what the functions of gradcheck.weights return"


@heard
def against_reference(
    layer: Any,
    reference: Layer,
    *inputs: Any,
    weights: str | Mapping[str, Expression] | None = None,
    like: str | None = None,
    arguments: Sequence[Expression] | None = None,
    outputs: Sequence[Expression | None] | None = None,
    declared: Mapping[str, str] | None = None,
    rtol: float | None = None,
    seed: int = 0,
    name: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> CheckResult:
    """Return where `layer` and `reference` differ, in value and gradient, at the layer's weights.

    The parameters of the reference are those of the layer, put in its order by small linear maps;
    its gradients come back through their adjoints, so that every finding is about a leaf and the
    entries of the layer. The reference computes in float64. Where gradients differ, a finite
    difference says whether the layer's own is wrong.

    Args:
        layer: a PyTorch module or function, a JAX function or module, or a `Rule`.
        reference: a layer of `gradcheck.reference`. Its names and layouts are PyTorch's: weights
            (outputs, inputs), gates stacked as i, f, g, o or r, z, n, one bias for each side.
        inputs: positional arguments of `layer`.
        weights: name of a parameter of the reference -> how it is made of the layer's leaves: a
            name, or functions of `gradcheck.weights` on names, `transposed("kernel")`. A name is a
            path or the end of one; one `*` in the key stands for the same as in its names. What is
            not mentioned has the same name in the layer; a number stands for itself, 0.0 for a bias
            that the layer does not have. Or a convention, "torch.nn.LSTM", "flax.linen.Dense": see
            `gradcheck.conventions.CONVENTIONS`.
        like: a convention, for what `weights`, `arguments` and `outputs` leave open.
        arguments: how each input of the reference is made of the layer's; by default, they are the
            arrays among those that are no weights, in order, states of zero for a recurrent layer
            that gets none, and a single input three times for attention.
        outputs: for each array that the layer returns, how it is made of the outputs of the
            reference, `output[0]`, ...; None, or nothing for the last: not compared.
        declared: leaf path or pattern -> why it has no counterpart. Those leaves stand still.
        rtol, seed, name, kwargs: as in `check`.

    Raises:
        InputError: a name means nothing or several leaves; a shape does not fit; a leaf has no
            counterpart; the reference does not take the inputs.
    """
    _require_reference(reference)
    _require_containers(weights, arguments, outputs)
    settings = settled(seed=seed, rtol=rtol, declared=declared)
    for listener in TARGETS:
        listener(layer)
    given = (*inputs, Keywords(named)) if (named := keywords(kwargs)) else inputs
    called = label(layer, name)
    try:
        mine = problem_of(layer, given, name=name, seed=seed)
    except GradcheckError:
        raise
    except Exception as error:  # whatever the layer raises is a finding about the layer
        return unposed(called, error, settings)
    require_known(settings, mine)
    if isinstance(weights, str):
        if like is not None:
            raise InputError(
                f"expected weights= to be a mapping beside like={like!r}, or a convention without "
                f"it; got weights={weights!r}"
            )
        weights, like = None, weights
    convention = PLAINLY if like is None else convention_of(like, reference)
    matched = _Match(
        mine=narrowed(
            mine, leaves=[x.path for x in mine.leaves if settings.reason(x.path) is None]
        ),
        constants=constants_of(layer, given, mine) | _declared(mine, settings),
        reference=reference,
        like=like,
    )
    made = matched.weights(weights or {}, convention)
    taken = matched.arguments(arguments, made, convention)
    theirs = matched.posed(taken)
    reads = made | {f"input[{k}]": x for k, x in enumerate(taken)}
    expected = matched.expected(outputs, theirs, convention)
    returned = {
        leaf.path: expression
        for leaf, expression in zip(mine.outputs, expected, strict=False)
        if expression is not None
    }
    problems = matched.problems(theirs, reads, returned)
    try:
        result, _ = compare_problems(problems, settings, name=called, alone=True)
    except GradcheckError:
        raise
    except Exception as error:
        return unposed(called, error, settings)
    return replace(
        result,
        target=mine.target,
        findings=_worded(result.findings),
        not_checked=(*mine.notes, *_left_out(mine, settings, returned, expected)),
    )


def _plainly(reference: Layer, arrays: Sequence[str]) -> Sequence[Expression]:
    if isinstance(reference, MultiHeadAttention):
        return attended(reference, arrays)
    return list(arrays)


# The names, inputs and outputs of the reference itself.
PLAINLY = Convention(kinds=(), arguments=_plainly)

HOW_MADE = (
    "Say what it is made of, weights={{{0!r}: ...}}; a bias that the layer does not have is 0.0."
)
SHOWN = 4  # names in a sentence; the rest are counted

UNDECIDED = "two sides, and no third to decide"
ANOTHER = (
    "the values differ, so that it is another function: is each weight in its place? And each "
    "input, output and constant, such as epsilon?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """A layer and the reference for it; `constants` may be named but have no gradient."""

    mine: Problem
    constants: Mapping[str, Array]
    reference: Layer
    like: str | None  # the convention

    @property
    def owner(self) -> str:
        return typed(self.reference)

    @property
    def arrays(self) -> dict[str, Array]:
        leaves = zip(self.mine.leaves, self.mine.point, strict=True)
        return {**self.constants, **{leaf.path: x for leaf, x in leaves}}

    def weights(
        self, given: Mapping[str, Expression], convention: Convention
    ) -> dict[str, Expression]:
        """Return how each parameter of the reference is made, by its path."""
        wanted = parameter_names(self.reference)
        owner = self.owner
        usual = assigned(convention.weights(self.reference), wanted, option="like", owner=owner)
        said = {name: usual.get(name, name) for name in wanted}
        if self.like is not None and not given:
            self._require_convention(self.like, said)
        said |= assigned(given, wanted, option="weights", owner=owner)
        return {
            f"params.{name}": self._resolved(
                said[name], f"weights[{name!r}]", HOW_MADE.format(name)
            )
            for name in wanted
        }

    def _require_convention(self, like: str, said: Mapping[str, Expression]) -> None:
        used = dict.fromkeys(name for expression in said.values() for name in names(expression))
        absent = [name for name in used if not matching(name, self.arrays)]
        if not absent:
            return
        special = [
            f"{name!r}: {spelled(x)}" for name, x in said.items() if spelled(x) != f"{name!r}"
        ]
        meant = f"{{{', '.join(special)}}}" if special else "the names of the reference"
        raise InputError(
            f"weights={like!r} stands for {meant}; the layer has no {_some(absent)}, it has "
            f"{listed(self.arrays)}. Say weights={{parameter of the reference: name in the "
            f"layer}}, with like={like!r} for the layout of inputs and outputs; a bias that the "
            "layer does not have is 0.0."
        )

    def arguments(
        self,
        given: Sequence[Expression] | None,
        made: Mapping[str, Expression],
        convention: Convention,
    ) -> list[Expression]:
        """Return how each input of the reference is made."""
        if given is None:
            weights = {name for expression in made.values() for name in names(expression)}
            own = [path for path in self.arrays if path.startswith("input")]
            given = convention.arguments(
                self.reference, [path for path in self._in_order(own) if path not in weights]
            )
        taken = [self._resolved(x, f"arguments[{k}]", "") for k, x in enumerate(given)]
        missing = isinstance(self.reference, Recurrent) and len(taken) == 1 + self.reference.masked
        return taken[:1] + self._zero_states(taken[0]) + taken[1:] if missing else taken

    def posed(self, taken: Sequence[Expression]) -> Problem:
        """Return the problem of the reference, in float64, at inputs that are made so."""
        arrays = [_wide(evaluated(expression, self.arrays)) for expression in taken]
        params = self.reference.parameters(np.random.default_rng(0), np.float64)
        try:
            posed = problem_of_layer(self.reference, tuple(arrays), params=params)
        except Exception as error:
            given = [f"{spelled(e)} {x.shape}" for e, x in zip(taken, arrays, strict=True)]
            raise InputError(
                f"{self.owner} does not take the arguments {', '.join(given)}: "
                f"{_sentence(error)} Say with arguments= how they are made of "
                f"{listed(self.arrays)}."
            ) from error
        return replace(posed, target=self.owner)

    def expected(
        self,
        given: Sequence[Expression | None] | None,
        theirs: Problem,
        convention: Convention,
    ) -> list[Expression | None]:
        """Return how each output of the layer is made of those of the reference; None: not."""
        mine = [leaf.path for leaf in self.mine.outputs]
        paths = [leaf.path for leaf in theirs.outputs]
        if given is not None:
            if len(given) > len(mine) or all(expression is None for expression in given):
                raise InputError(f"expected outputs= for some of {mine}; got {given}")
        elif convention.outputs is not None:
            given = convention.outputs(self.reference)
        elif len(mine) > len(paths):
            raise InputError(
                f"the layer returns {mine} and {self.owner} returns {paths}. Say with outputs= "
                "how each is made; None: it is not compared."
            )

        return [
            None if x is None else self._returned(x, paths, f"outputs[{k}]")
            for k, x in enumerate(paths if given is None else given)
        ]

    def _returned(self, expression: Expression, paths: Sequence[str], where: str) -> Expression:
        """Return `expression`, of the outputs of the reference, with their paths."""

        def path(name: str) -> str:
            if name == "output" and len(paths) == 1:  # as a layer's own is called
                return paths[0]
            return found(name, paths, where=where, hint=f"Those are of {self.owner}.")

        if not is_expression(expression):
            raise InputError(f"expected {where} to be {EXPRESSIONS}; got {_brief(expression)}")
        return renamed(expression, path)

    def problems(
        self, theirs: Problem, reads: Mapping[str, Expression], returned: Mapping[str, Expression]
    ) -> dict[str, Problem]:
        """Return both as functions of the leaves of the layer, with the same outputs.

        Raises:
            InputError: something of the layer has no counterpart, or one of another shape.
        """
        mine = narrowed(self.mine, outputs=returned)
        known = {leaf.path: reads[leaf.path] for leaf in theirs.leaves}
        view = seen(
            theirs,
            known,
            returned,
            leaves=mine.leaves,
            point=mine.point,
            constants=self.constants,
        )
        self._require_counterparts(known)
        for own, other in zip(mine.outputs, view.outputs, strict=True):
            if own.shape != other.shape:
                raise InputError(
                    f"expected {own.path} of the layer to have the shape {other.shape} of "
                    f"{spelled(returned[own.path])} of {self.owner}; got {own.shape}. "
                    "Say with arguments= and outputs=, or like=, what is laid out otherwise"
                    f"{relaid(returned[own.path], other.shape, own.shape)}{self._sibling()}"
                )
        # Both are held to what the layer's dtype can do.
        return {"reference": replace(view, outputs=mine.outputs), "layer": mine}

    def _require_counterparts(self, known: Mapping[str, Expression]) -> None:
        missed = untouched(self.mine.leaves, known, self.constants)
        for path, mask in missed.items():
            what = path if mask.all() else f"{int(mask.sum())} of {mask.size} entries of {path}"
            raise InputError(
                f"{what} (shape {mask.shape}): nothing in {self.owner} is made of it. Give it a "
                "place in weights= or arguments=, choose a reference that has it, or say why not "
                f"with declared={{{path!r}: ...}}"
            )

    def _resolved(self, expression: Expression, where: str, hint: str) -> Expression:
        arrays = self.arrays
        if not is_expression(expression):
            raise InputError(f"expected {where} to be {EXPRESSIONS}; got {_brief(expression)}")
        resolved = renamed(expression, lambda name: found(name, arrays, where=where, hint=hint))
        try:
            evaluated(resolved, arrays)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        return resolved

    def _sibling(self) -> str:
        other = f"{self.like}, batch_first=True"
        return f". Or is it {other!r}?" if other in CONVENTIONS else ""

    def _in_order(self, paths: Sequence[str]) -> list[str]:
        """Return the paths of inputs by the position of the argument, else as they came."""
        positions = {path: re.match(r"input\[(\d+)\]", path) for path in paths}
        return sorted(paths, key=lambda p: int(m[1]) if (m := positions[p]) else len(paths))

    def _zero_states(self, x: Expression) -> list[Expression]:
        assert isinstance(self.reference, Recurrent)
        shape = evaluated(x, self.arrays).shape
        if len(shape) != 3:
            return []
        rows = self.reference.layers * self.reference.directions
        return [np.zeros((rows, shape[1], self.reference.hidden))] * self.reference.cell.states


def _require_reference(reference: Any) -> None:
    wanted = "expected reference to be a layer of gradcheck.reference"
    if isinstance(reference, type):
        name = reference.__name__
        raise InputError(f"{wanted}; got the class {name}. Make one: {name}(...)")
    if isinstance(reference, str):
        raise InputError(f"{wanted}; got {reference!r}. Conventions are for weights=")
    if not isinstance(reference, Layer):
        raise InputError(
            f"{wanted}; got {type(reference).__name__} of {type(reference).__module__}. "
            "gradcheck.compare takes any two functions"
        )


def _require_containers(weights: Any, arguments: Any, outputs: Any) -> None:
    if not (weights is None or isinstance(weights, (str, Mapping))):
        raise InputError(
            "expected weights= to be a mapping, name of a parameter of the reference -> how it is "
            f"made, or the name of a convention; got {_brief(weights)}"
        )
    for option, given in (("arguments", arguments), ("outputs", outputs)):
        if isinstance(given, str) or not (given is None or isinstance(given, Sequence)):
            raise InputError(
                f"expected {option}= to be a list, one expression for each of them; "
                f"got {_brief(given)}"
            )


def _brief(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {type(value).__name__} of shape {tuple(shape)}. Write its name"
    return reprlib.repr(value)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _declared(problem: Problem, settings: Settings) -> dict[str, Array]:
    pairs = zip(problem.leaves, problem.point, strict=True)
    return {leaf.path: x for leaf, x in pairs if settings.reason(leaf.path) is not None}


def _sentence(error: Exception) -> str:
    text = str(error)
    return text if text.endswith((".", "?")) else f"{text}."


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _left_out(
    mine: Problem,
    settings: Settings,
    returned: Mapping[str, Expression],
    expected: Sequence[Expression | None],
) -> list[str]:
    declared = [
        f"{leaf.path}: declared, {reason}"
        for leaf in mine.leaves
        if (reason := settings.reason(leaf.path)) is not None
    ]
    alone = [
        f"{leaf.path}: compared with nothing of the reference"
        for leaf in mine.outputs
        if leaf.path not in returned
    ]
    beyond = [
        f"{spelled(x)} of the reference: the layer does not return it"
        for x in expected[len(mine.outputs) :]
        if x is not None
    ]
    return [*declared, *alone, *beyond]


def _worded(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Say of gradients of different functions that nothing else was to be expected."""
    differ = any(f.leaf.startswith("output") and f.verdict is Verdict.FAIL for f in findings)
    word = ANOTHER if differ else UNDECIDED
    return tuple(replace(f, message=f.message.replace(UNDECIDED, word)) for f in findings)
