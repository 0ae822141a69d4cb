"""Faults on purpose: a wrong layer takes the place of the right one, wherever a network has it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from hypothesis.strategies import SearchStrategy

from gradcheck.reference.layer import Layer
from gradcheck.suites.networks import Network
from gradcheck.suites.strategies import (
    FIXED_POINT,
    RECURRENT,
    STATIC,
    activations,
    losses,
    normalizations,
)

__all__ = ["FAMILIES", "Fault", "faultless", "faulty_networks", "planted"]

L = TypeVar("L")

FAMILIES: Mapping[str, SearchStrategy[Network]] = {
    **STATIC,
    **RECURRENT,
    **FIXED_POINT,
    "activations": activations(),
    "losses": losses(),
    "normalizations": normalizations(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One slip, and what a suite must say about it.

    `wrong` is a subclass of the right layer, or of the right cell, with the slip and nothing else.
    Its twins are found through the classes it inherits from, so what is not overridden is right.
    """

    wrong: type[Any]
    family: str  # of generated networks, where it is planted
    leaf: str  # a pattern: one of the findings that fail is about such an array
    odd: str | None = "reference"  # None: there are two sides and no third, so no one is accused
    backends: tuple[str, ...] = ("torch",)
    within: type[Any] = object  # what the outermost layer must be, where that saves time

    @property
    def right(self) -> type[Any]:
        right: type[Any] = self.wrong.__mro__[1]
        return right

    @property
    def name(self) -> str:
        return self.wrong.__name__


def faulty_networks(fault: Fault) -> SearchStrategy[Network]:
    """The networks of the fault's family that have a place for it, the fault planted in each."""

    def plant(network: Network) -> Network:
        return replace(network, layer=planted(network.layer, fault.right, fault.wrong))

    def has_place(network: Network) -> bool:
        return isinstance(network.layer, fault.within) and plant(network) != network

    return FAMILIES[fault.family].filter(has_place).map(plant)


def planted(layer: Layer, right: type[Any], wrong: type[Any]) -> Layer:
    """Return `layer` with `wrong` for every `right`, in it and in the layers it is made of."""
    result: Layer = _exchanged(layer, right, wrong)
    return result


def faultless(layer: L) -> L:
    """Return the same layer without its fault: the record it inherits from."""
    right: Any = type(layer).__mro__[1]
    plain: L = right(**{field.name: getattr(layer, field.name) for field in fields(right)})
    return plain


def _exchanged(value: Any, right: type[Any], wrong: type[Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(_exchanged(part, right, wrong) for part in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {f.name: _exchanged(getattr(value, f.name), right, wrong) for f in fields(value)}
    return (wrong if type(value) is right else type(value))(**parts)
