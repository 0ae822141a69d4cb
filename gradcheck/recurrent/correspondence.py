"""Which leaf of a layer is which leaf of the map that it relaxes."""

import re
from collections.abc import Sequence

from gradcheck.errors import InputError
from gradcheck.problem import Leaf, Problem

__all__ = ["corresponding", "pairs", "state_leaves"]


def corresponding(layer: Problem, map: Problem) -> None:
    """Refuse a map that does not return what it is given."""
    inside = [map.leaves[k] for k in state_leaves(map)]
    shapes = [[a.shape for a in arrays] for arrays in (layer.outputs, inside, map.outputs)]
    if not shapes[0] == shapes[1] == shapes[2]:
        raise InputError(
            "expected step(z, *inputs) to return a state of the shapes that the layer returns; the "
            f"layer returns {shapes[0]}, step takes {shapes[1]} and returns {shapes[2]}"
        )
    if any("complex" in output.dtype for output in layer.outputs):
        raise InputError("expected a real state; got a complex one. Split it into two real arrays")


def state_leaves(map: Problem) -> list[int]:
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
