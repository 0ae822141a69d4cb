"""Which inputs of a twin are no leaves."""

from gradcheck.reference.layer import Layer

__all__ = ["constant_paths"]


def constant_paths(layer: Layer) -> frozenset[str]:
    """Return the paths of the floating inputs that `layer` declares constant.

    A twin takes the list of parameters first, so that every input moves by one place.
    """
    return frozenset(f"input[{k + 1}]" for k in getattr(layer, "constant_inputs", ()))
