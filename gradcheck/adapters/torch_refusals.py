"""How PyTorch says that a derivative does not exist."""

from collections.abc import Iterator
from contextlib import contextmanager

from gradcheck.errors import Unsupported, first_line

__all__ = ["refusals"]


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn the ways in which PyTorch says that a derivative does not exist into `Unsupported`."""
    try:
        yield
    except NotImplementedError as error:
        raise Unsupported(f"{what} is not supported: {first_line(error)}") from error
    except RuntimeError as error:
        if any(words in str(error) for words in REFUSALS):
            raise Unsupported(f"{what} is not supported: {first_line(error)}") from error
        raise


REFUSALS = (
    "once_differentiable",
    "Can't call numpy() on Tensor that requires grad",
    "is not implemented",
    "not yet implemented",
    "does not support forward AD",
    "does not support it because it has not been implemented",
    "Nested forward mode AD is not supported",  # a target that takes tangents itself
    "does not currently support double backward",  # what was compiled ahead of time
    "don't support automatic differentiation",  # out=
    "You must implement the jvp function",
    "jvp is not implemented",
    "donated buffers",  # of a compiled backward, which may be run once and not be differentiated
    "use_reentrant=True",  # of a checkpoint, which cannot be differentiated twice
)
