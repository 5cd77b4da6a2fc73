"""Version and parsing of stored reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quant_engine.errors import StorageError
from quant_engine.reading import parse_json

SCHEMA_VERSION = 1


def parse_report(text: str) -> Mapping[str, Any]:
    """Return the JSON object that `text` holds; raises StorageError for anything else."""
    data = parse_json(text)
    if not isinstance(data, Mapping):
        raise StorageError(f"A report is a JSON object, got {type(data).__name__}.")
    return data


def require_version(data: Mapping[str, Any]) -> None:
    """Raise StorageError unless the report has the version that this code reads."""
    version = data.get("schema_version") if isinstance(data, Mapping) else None
    if version != SCHEMA_VERSION:
        raise StorageError(
            f"The report has schema version {version!r}; this version reads {SCHEMA_VERSION}. "
            "Run the analysis again."
        )
