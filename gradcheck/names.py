"""Which leaf a name means: its path, the end of its path, or a pattern for several."""

import re
from collections.abc import Collection, Mapping

import numpy as np

from gradcheck.errors import InputError
from gradcheck.weights import Expression, renamed, spelled

__all__ = ["assigned", "found", "listed", "matching"]


def found(name: str, paths: Collection[str], *, where: str, hint: str = "") -> str:
    """Return the one of `paths` that `name` means.

    Raises:
        InputError: several do, or none; then `hint` says what to do.
    """
    nearest = matching(name, paths)
    if len(nearest) == 1:
        return nearest[0]
    if nearest:
        raise InputError(
            f"{where}: the name {name!r} means several: {nearest}. Write more of the path."
        )
    raise InputError(f"{where}: the name {name!r} is none of {listed(paths)}. {hint}".rstrip())


def matching(name: str, paths: Collection[str]) -> list[str]:
    """Return those of `paths` that `name` may mean.

    That is the path itself, or those that end with it: "kernel" and "dense.kernel" are both
    `input[0]['dense']['kernel']`, and "weight" is `params.weight` before any `params.norm.weight`.
    The `.value` that Flax NNX puts behind a parameter need not be written.
    """
    ending = "." + _dotted(name).removeprefix(".")
    ending_so = (
        [path for path in paths if path == name]
        or [path for path in paths if ("." + _dotted(path)).endswith(ending)]
        or [path for path in paths if ("." + _without_value(path)).endswith(ending)]
    )
    return [path for path in ending_so if _without_value(path) == f"params{ending}"] or ending_so


def listed(paths: Collection[str]) -> str:
    """Return the names, with their shapes where arrays come with them."""
    if not isinstance(paths, Mapping):
        return ", ".join(paths)
    return ", ".join(f"{path} {np.shape(array)}" for path, array in paths.items())


def assigned(
    given: Mapping[str, Expression], wanted: Collection[str], *, option: str, owner: str
) -> dict[str, Expression]:
    """Return name -> expression for those names of `wanted` that `given` speaks of.

    A key is a name, with or without `params.`, or has one `*`; what that stands for is put in the
    place of `*` in the names of its expression. A key without `*` wins over one with it.

    Raises:
        InputError: a key means nothing, or two of equal standing mean one name.
    """
    chosen: dict[str, tuple[str, Expression]] = {}
    for key in sorted(given, key=lambda key: "*" in key):
        plain = key.removeprefix("params.")
        pattern = re.compile(re.escape(plain).replace(r"\*", "(.*)", 1))
        matches = [(name, match) for name in wanted if (match := pattern.fullmatch(name))]
        if not matches:
            raise InputError(
                f"{option}={{{key!r}: {spelled(given[key])}}}: {owner} has no such parameter; "
                f"it has {sorted(wanted)}"
            )
        for name, match in matches:
            earlier = chosen.get(name)
            if earlier is not None and ("*" in earlier[0]) == ("*" in key):
                raise InputError(f"{option}: {earlier[0]!r} and {key!r} both mean {name!r}")
            if earlier is None:
                chosen[name] = key, _filled(given[key], match)
    return {name: expression for name, (_, expression) in chosen.items()}


def _filled(expression: Expression, match: re.Match[str]) -> Expression:
    if not match.groups():
        return expression
    return renamed(expression, lambda name: name.replace("*", match[1]))


def _without_value(path: str) -> str:
    return _dotted(path).removesuffix(".value")


def _dotted(path: str) -> str:
    """`input[0]['dense']` as `input.0.dense`."""
    return re.sub(r"\[(['\"]?)(.*?)\1\]", r".\2", path)
