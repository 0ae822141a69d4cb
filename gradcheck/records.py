"""Results as JSON and back, with non-finite numbers kept.

JSON has no NaN and no infinity; they travel as the strings "nan", "inf" and "-inf", which is
also what a strict reader in any language accepts.
"""

import json
import math
from typing import Any, TypeVar

import msgspec

from gradcheck.errors import InputError
from gradcheck.results import SCHEMA_VERSION, Report

__all__ = ["decode", "encode"]

Record = TypeVar("Record")


def encode(record: object) -> str:
    """Return `record` as strict JSON (RFC 8259), two spaces of indent."""
    return json.dumps(_spelled(msgspec.to_builtins(record)), indent=2, allow_nan=False)


def decode(text: str, kind: type[Record]) -> Record:
    """Return the record of type `kind` that `text` holds.

    Raises:
        InputError: `text` is not JSON, does not fit `kind`, or comes from a newer schema.
    """
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"expected a gradcheck report in JSON; got no JSON: {error}") from error
    version = plain.get("schema_version", SCHEMA_VERSION) if isinstance(plain, dict) else None
    if kind is Report and version != SCHEMA_VERSION:
        raise InputError(
            f"expected a report of schema version {SCHEMA_VERSION}; got {version!r}. "
            "Read it with the gradcheck that wrote it, or a newer one."
        )
    try:
        return msgspec.convert(plain, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"expected a gradcheck {kind.__name__}; {error}") from error


def _spelled(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {key: _spelled(item) for key, item in value.items()}
        case list() | tuple():
            return [_spelled(item) for item in value]
        case _:
            return value
