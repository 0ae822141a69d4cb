"""Misuse: what a caller did that gradcheck cannot work with.

A wrong gradient is not an error but a finding; only the edges (`assert_gradients`, the plugin,
the command line) turn findings into exceptions or exit codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "GradcheckError",
    "GradientMismatch",
    "InputError",
    "MissingFrameworkError",
    "OutOfTime",
    "ShapeMismatch",
    "Unsupported",
    "first_line",
    "maybe_out_of_domain",
    "noted",
]


class GradcheckError(Exception):
    """The root of every error that gradcheck raises on purpose."""


class InputError(GradcheckError, ValueError):
    """An argument cannot be used; the message names it, says what came and what to do."""


class ShapeMismatch(GradcheckError):
    """A derivative returned a gradient of another shape than its leaf: a finding about the target.

    It leaves the engine only inside a result.
    """

    def __init__(self, leaf: str, wanted: tuple[int, ...], got: tuple[int, ...]) -> None:
        hint = ". Is it transposed?" if got == wanted[::-1] else ""
        super().__init__(f"expected the leaf's shape {wanted}, got a gradient of {got}{hint}")
        self.leaf = leaf


class Unsupported(GradcheckError):
    """The target cannot do what a check needs (a second derivative, a JVP): said, never failed.

    It leaves the engine only as a line of what was not checked.
    """


class OutOfTime(BaseException):
    """The time a check was given is up. It leaves the engine only as what was not checked.

    It is no `Exception`, so that no check takes it for something that the target raised.
    """


class MissingFrameworkError(GradcheckError, ImportError):
    """A framework that the target needs is not installed."""


class GradientMismatch(GradcheckError, AssertionError):
    """A gradient did not pass. The message is the result's text: leaf, entries, resolution."""


@contextmanager
def maybe_out_of_domain() -> Iterator[None]:
    """Pass over whatever a target raises at a point that is ours: it may refuse it."""
    try:
        yield
    except GradcheckError:
        raise
    except Exception:
        return


def noted(error: BaseException) -> str:
    """Return what an error says, with the notes of a line that were added to it."""
    notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]
    return "; ".join([str(error), *notes])


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().partition("\n")[0]
