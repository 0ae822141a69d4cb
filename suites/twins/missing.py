"""The error of a layer that has no twin, or of a case that the framework does not offer."""

from gradcheck.errors import GradcheckError

__all__ = ["NoTwin"]


class NoTwin(GradcheckError):
    """A framework cannot run this layer with these settings; the suites report it as not checked.

    Args:
        layer: the reference layer.
        framework: "torch" or "jax".
        why: what the framework lacks; by default, that nobody has written the twin.
    """

    def __init__(self, layer: object, framework: str, why: str = "no twin is registered") -> None:
        super().__init__(f"{type(layer).__name__} in {framework}: {why}")
