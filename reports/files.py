"""Files that are whole or not there."""

import os
from pathlib import Path

from gradcheck.errors import InputError

__all__ = ["write_text"]


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write `text` as UTF-8 so that a reader finds the old file or the new one, never a part.

    The text goes to `path` + ".tmp" in the same folder and takes its place in one step. What
    UTF-8 cannot hold, a lone surrogate, is spelled out.

    Raises:
        InputError: the folder does not exist, or `path` is a folder.
    """
    file = Path(path)
    if not file.parent.is_dir():
        raise InputError(
            f"expected an existing folder to write {file.name} in; got {str(file.parent)!r}. "
            "Create it first."
        )
    if file.is_dir():
        raise InputError(f"expected the path of a file to write; got the folder {str(file)!r}.")
    draft = file.with_name(file.name + ".tmp")
    try:
        draft.write_bytes(text.encode("utf-8", errors="backslashreplace"))
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
