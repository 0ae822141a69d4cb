"""Which framework a target belongs to, told from the target and its inputs."""

import contextlib
import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradcheck import trees
from gradcheck.adapters.bridge import Bridge
from gradcheck.adapters.holdings import holdings
from gradcheck.adapters.rule import Rule, problem_of_rule
from gradcheck.errors import InputError
from gradcheck.problem import Array, Excepted, Problem, owner

__all__ = ["constants_of", "framework_of", "held", "native", "problem_of"]


def problem_of(
    target: Any,
    inputs: Sequence[Any],
    *,
    params: Any = None,
    name: str | None = None,
    seed: int = 0,
    constant: Collection[str] = (),
    every: bool = False,
    excepted: Excepted = lambda path: None,
) -> Problem:
    """Return the problem that `target` poses at `inputs`.

    Args:
        target: a callable on arrays, an `nn.Module`, an `autograd.Function` subclass, a JAX
            function or callable module, a layer of `gradcheck.reference`, or a `Rule`.
        inputs: its positional arguments; nested containers of arrays and anything else. Keyword
            arguments come last, as `trees.Keywords`.
        params: parameters of a reference layer; drawn from `seed` when left out.
        name: what to call it in results.
        constant: paths of floating PyTorch and JAX inputs that are no leaves.
        every: PyTorch inputs that require no gradient are leaves even if others do.
        seed: for parameters that must be drawn, and for the target's own randomness.
        excepted: why an output of PyTorch or JAX, by path, is none of the problem's.

    Raises:
        InputError: no framework or two of them; nothing to differentiate; not callable.
    """
    before = holdings(target)
    problem = _posed(
        target,
        inputs,
        params=params,
        name=name,
        seed=seed,
        constant=constant,
        every=every,
        excepted=excepted,
    )
    return replace(
        problem,
        notes=(*problem.notes, *_given_twice(inputs, problem)),
        held=lambda: holdings(target),
        held_before=before,
    )


def _given_twice(inputs: Sequence[Any], problem: Problem) -> list[str]:
    """What to say of one array that is several leaves: each is moved without the others."""
    own, paths = {leaf.path for leaf in problem.leaves}, defaultdict(list)
    for path, leaf in trees.leaves(tuple(inputs), "input"):
        if path in own:
            paths[id(leaf)].append(path)
    return [
        f"{' and '.join(same)} as the one array that they are: they were moved apart; check a "
        "function of one argument, lambda x: f(x, x)"
        for same in paths.values()
        if len(same) > 1
    ]


def _posed(
    target: Any,
    inputs: Sequence[Any],
    *,
    params: Any,
    name: str | None,
    seed: int,
    constant: Collection[str],
    every: bool,
    excepted: Excepted,
) -> Problem:
    from gradcheck.reference.layer import Layer

    has_keywords = any(isinstance(value, trees.Keywords) for value in inputs)
    if has_keywords and isinstance(target, (Rule, Layer)):
        raise InputError(
            f"expected positional arguments only for a {type(target).__name__}; got kwargs"
        )
    if isinstance(target, Rule):
        bridge = _bridge(framework_of(None, inputs) or "numpy")
        return problem_of_rule(target, tuple(inputs), bridge, name=name, seed=seed)
    if isinstance(target, Layer) and not isinstance(target, type):
        from gradcheck.adapters.reference_ import problem_of_layer

        return problem_of_layer(target, tuple(inputs), params=params, name=name, seed=seed)
    if _is_layer_class(target):
        raise InputError(
            f"expected target to be a layer; got the class {target.__name__}. "
            f"Make one: {target.__name__}(...)"
        )
    if params is not None:
        raise InputError(
            f"params= is for layers of gradcheck.reference; got a {type(target).__name__}. "
            "Hand parameters over as inputs, or as the module's own."
        )
    if not callable(target):
        raise InputError(
            f"expected target to be callable, a module, a reference layer or a Rule; "
            f"got {type(target).__name__}"
        )
    match framework_of(target, inputs):
        case "torch":
            from gradcheck.adapters import torch_

            return torch_.problem_of_torch(
                target,
                tuple(inputs),
                name=name,
                seed=seed,
                constant=constant,
                every=every,
                excepted=excepted,
            )
        case "jax":
            from gradcheck.adapters import jax_

            return jax_.problem_of_jax(
                target, tuple(inputs), name=name, constant=constant, excepted=excepted
            )
        case _:
            return _of_plain_inputs(
                target,
                tuple(inputs),
                name=name,
                seed=seed,
                constant=constant,
                excepted=excepted,
            )


def _is_layer_class(target: Any) -> bool:
    from gradcheck.reference.layer import Layer

    torch = sys.modules.get("torch")
    if not isinstance(target, type):
        return False
    return isinstance(target, Layer) or (torch is not None and issubclass(target, torch.nn.Module))


def constants_of(target: Any, inputs: Sequence[Any], problem: Problem) -> dict[str, Array]:
    """Return the arrays, by path, that `target` is given or holds and that are no leaves of it.

    Those are indices and masks among the inputs, frozen parameters and buffers of a module.
    """
    bridge = _bridge(problem.framework)
    own = {leaf.path for leaf in problem.leaves}
    named = list(trees.leaves(tuple(inputs), "input"))
    if problem.framework == "torch":
        from gradcheck.adapters import torch_modules

        named += [(f"params.{name}", held) for name, held in torch_modules.held(target).items()]
    plain = _bridge("numpy")
    return {
        path: (bridge if bridge.is_array(array) else plain).out(array)
        for path, array in named
        if path not in own and (bridge.is_array(array) or plain.is_array(array))
    }


def framework_of(target: Any, inputs: Sequence[Any]) -> str | None:
    """Return "torch" or "jax", or None when nothing belongs to either.

    Raises:
        InputError: tensors of both among the inputs.
    """
    found: dict[str, str] = {}
    for position, value in enumerate(inputs):
        for path, leaf in trees.leaves(value, f"input[{position}]"):
            for framework in ("torch", "jax"):
                if _is_array_of(framework, leaf):
                    found.setdefault(framework, path)
    of_target = _framework_of_target(target)
    if of_target is not None:
        found.setdefault(of_target, f"target {type(target).__name__}")
    if len(found) > 1:
        places = " and ".join(f"{where} is from {framework}" for framework, where in found.items())
        raise InputError(f"expected one framework; {places}. Convert the inputs to one of them.")
    return next(iter(found), None)


def held(array: Any) -> Array:
    """Return an array of any framework as the engine holds it."""
    return _bridge(framework_of(None, (array,)) or "numpy").out(array)


def native(array: Array, dtype: str, among: Sequence[Any]) -> Any:
    """Return an array of the engine as one of the framework of `among`, in that dtype."""
    bridge = _bridge(framework_of(None, among) or "numpy")
    arrays = (leaf for _, leaf in trees.leaves(tuple(among)) if bridge.is_array(leaf))
    return bridge.native(array, dtype, next(arrays, None))


def _framework_of_target(target: Any) -> str | None:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(owner(target), torch.nn.Module):
        return "torch"
    if torch is not None and isinstance(target, type):
        return "torch" if issubclass(target, torch.autograd.Function) else None
    jax = sys.modules.get("jax")
    if jax is not None and target is not None:
        if type(target).__module__.split(".")[0] in ("jax", "jaxlib"):
            return "jax"  # jit, custom_vjp, custom_jvp objects
        if any(isinstance(leaf, jax.Array) for leaf in jax.tree_util.tree_leaves(target)):
            return "jax"  # a callable module that is a pytree
    return None


def _is_array_of(framework: str, leaf: Any) -> bool:
    module = sys.modules.get(framework)
    if module is None:
        return False
    return isinstance(leaf, module.Tensor if framework == "torch" else module.Array)


def _of_plain_inputs(
    target: Any,
    inputs: tuple[Any, ...],
    *,
    name: str | None,
    seed: int,
    constant: Collection[str],
    excepted: Excepted,
) -> Problem:
    """A callable given NumPy arrays: JAX takes those, PyTorch after conversion; NumPy has no VJP.

    Which it is shows when it is called.
    """
    jax = sys.modules.get("jax")
    if jax:
        from gradcheck.adapters import jax_

        arrays = (x for _, x in trees.leaves(inputs) if isinstance(x, np.ndarray))
        x64 = jax_.needs_x64(x.dtype.name for x in arrays)
    try:
        with jax.enable_x64(x64) if jax else contextlib.nullcontext():
            outputs, refusal = _run(target, inputs), None
    except Exception as error:  # a function of tensors refuses arrays, each in its own way
        outputs, refusal = None, error
    is_told = any(
        _is_array_of(framework, leaf)
        for framework in ("torch", "jax")
        for _, leaf in trees.leaves(outputs)
    )
    # Made of operators alone, of JAX's arrays it returns JAX's; `x.at` is what only those have.
    if jax and not is_told:
        with jax.enable_x64(x64), contextlib.suppress(Exception):
            outputs = _run(target, jax.tree_util.tree_map(_as_jax(jax), inputs))
    if any(_is_array_of("jax", leaf) for _, leaf in trees.leaves(outputs)):
        return jax_.problem_of_jax(target, inputs, name=name, constant=constant, excepted=excepted)
    takes_tensors = any(_is_array_of("torch", leaf) for _, leaf in trees.leaves(outputs))
    if takes_tensors or (refusal is not None and "torch" in sys.modules):
        from gradcheck.adapters import torch_

        with contextlib.suppress(Exception):  # then it is the first refusal that counts
            return torch_.problem_of_torch(
                target, inputs, name=name, seed=seed, constant=constant, excepted=excepted
            )
    if refusal is not None:
        raise refusal
    raise InputError(
        f"expected target to be a PyTorch or JAX function, or a hand-written derivative; "
        f"{getattr(target, '__name__', type(target).__name__)} of NumPy arrays returned "
        f"{type(outputs).__name__} and has no derivative to check. Wrap it: "
        "gradcheck.Rule(forward, vjp)."
    )


def _run(target: Any, inputs: tuple[Any, ...]) -> Any:
    if "jax" not in sys.modules:
        return trees.called(target, inputs)
    from gradcheck.adapters.jax_posed import afresh

    return afresh(lambda: trees.called(target, inputs))


def _as_jax(jax: Any) -> Any:
    return lambda leaf: jax.numpy.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def _bridge(framework: str) -> Bridge:
    if framework == "torch":
        from gradcheck.adapters import torch_bridge

        return torch_bridge.BRIDGE
    if framework == "jax":
        from gradcheck.adapters import jax_posed

        return jax_posed.BRIDGE
    from gradcheck.adapters import numpy_

    return numpy_.BRIDGE
