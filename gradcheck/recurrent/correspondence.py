"""Which leaf of a layer is which leaf of the map that it relaxes."""

import re
from ast import literal_eval
from collections.abc import Sequence
from typing import Any

from gradcheck.errors import InputError
from gradcheck.problem import Leaf, Problem

__all__ = ["corresponding", "pairs", "state_of", "states_of"]


def corresponding(layer: Problem, map: Problem) -> None:
    """Refuse a map that does not return what it is given."""
    states = states_of(map)
    shapes = [
        [array.shape for array in arrays]
        for arrays in (layer.outputs, [map.outputs[k] for _, k in states])
    ]
    if shapes[0] != shapes[1] or len(map.outputs) != len(states):
        raise InputError(
            "expected step(z, *inputs) to return a state of the shapes that the layer returns; the "
            f"layer returns {shapes[0]}, and step {[output.shape for output in map.outputs]}"
        )
    if any("complex" in output.dtype for output in layer.outputs):
        raise InputError("expected a real state; got a complex one. Split it into two real arrays")


def state_of(outputs: Sequence[Leaf], arrays: Sequence[Any]) -> Any:
    """Return `arrays` nested as what the layer returns: in tuples and dicts, by their paths.

    Raises:
        InputError: it is nested otherwise, in a class of its author.
    """
    steps = [re.findall(STEP, output.path.removeprefix("output")) for output in outputs]
    for output, found in zip(outputs, steps, strict=True):
        if "".join(f"[{step}]" for step in found) != output.path.removeprefix("output"):
            raise InputError(
                "expected the layer to return its state as an array, or as tuples and dicts of "
                f"arrays; got one at {output.path}. Wrap layer and step in functions that do"
            )
    return _nested(
        [([literal_eval(s) for s in found], a) for found, a in zip(steps, arrays, strict=True)]
    )


STEP = r"\[(\d+|'[^']*'|\"[^\"]*\")\]"  # into a tuple or a dict, as a path says it


def _nested(leaves: Sequence[tuple[list[Any], Any]]) -> Any:
    """What has these leaves, each behind its steps."""
    if len(leaves) == 1 and not leaves[0][0]:
        return leaves[0][1]
    parts: dict[Any, list[tuple[list[Any], Any]]] = {}
    for (first, *rest), array in leaves:
        parts.setdefault(first, []).append((rest, array))
    built = {first: _nested(part) for first, part in parts.items()}
    return built if any(isinstance(first, str) for first in built) else tuple(built.values())


def states_of(map: Problem) -> list[tuple[int, int]]:
    """Pairs (leaf, output) of the map: what it is given, and the same place of what it returns.

    In their order, where it returns them otherwise nested.
    """
    leaves = _taken(map)
    places = {output.path.removeprefix("output"): k for k, output in enumerate(map.outputs)}
    wanted = [map.leaves[k].path.removeprefix("input[0]") for k in leaves]
    found = [places[path] for path in wanted if path in places]
    outputs = found if len(found) == len(wanted) else range(len(places))
    return list(zip(leaves, outputs, strict=False))


def _taken(map: Problem) -> list[int]:
    return [k for k, a in enumerate(map.leaves) if re.match(r"input\[0\]", a.path)]


def pairs(layer: Sequence[Leaf], map: Sequence[Leaf]) -> dict[int, int]:
    """A leaf of the layer -> the leaf of the map with the same input, or the end of its name."""
    pairs = {}
    for k, leaf in enumerate(layer):
        found = re.match(r"input\[(\d+)\](.*)", leaf.path)
        wanted = f"input[{int(found[1]) + 1}]{found[2]}" if found else leaf.path
        fits = [
            at
            for at, other in enumerate(map)
            if other.shape == leaf.shape
            and (other.path == wanted or (not found and _ends(leaf.path, other.path)))
        ]
        if fits:
            pairs[k] = max(fits, key=lambda at: len(map[at].path))
    return pairs


def _ends(long: str, short: str) -> bool:
    """Whether one parameter's name is the end of the other's."""
    names = [path.removeprefix("params") for path in (long, short)]
    return all(path.startswith("params") for path in (long, short)) and (
        names[0].endswith(names[1]) or names[1].endswith(names[0])
    )
