"""Frozen dataclasses to JSON-ready values and back, exactly.

The type hints of a dataclass are its schema: unknown keys, missing ones and values of the wrong
kind are errors that name where they are. A field with a default may be missing. JSON has no
infinity, so non-finite floats travel as the strings "inf", "-inf" and "nan".
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Self, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from quant_engine.errors import SchemeError, StorageError, suggest
from quant_engine.reading import parse_json
from quant_engine.scheme import Recipe, TensorScheme

T = TypeVar("T")

_OWN_CODEC = (TensorScheme, Recipe)
_SCALARS = (float, int, bool, str)
_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_MAX_INT = 2**63 - 1


@cache
def _schema(cls: type) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Type hints of a dataclass by field, and the fields without a default."""
    fields, missing = dataclasses.fields(cls), dataclasses.MISSING
    needed = (f.name for f in fields if f.default is missing and f.default_factory is missing)
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields}, tuple(needed)


def encode(value: Any) -> Any:
    """Turn a dataclass, and all it holds, into values that `json.dumps` accepts.

    Example:
        >>> encode(math.inf)
        'inf'
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, _OWN_CODEC):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    raise TypeError(f"cannot store a {type(value).__name__}")


def decode(cls: type[T], data: Any) -> T:
    """Build an instance of the dataclass `cls` from `encode`'s result.

    Raises:
        StorageError: If `data` does not fit the fields of `cls`; the message says where.
    """
    return cast(T, _decode(cls, data, cls.__name__))


def _decode(hint: Any, data: Any, where: str) -> Any:
    if hint in _SCALARS:
        return _decode_scalar(hint, data, where)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return None if data is None else _decode(options[0], data, where)
    if origin is tuple:
        return _decode_tuple(get_args(hint), data, where)
    if hint in _OWN_CODEC:
        try:
            return hint.from_dict(data)
        except (SchemeError, TypeError, AttributeError) as error:
            raise StorageError(f"{where}: {error}") from error
    return _decode_fields(hint, data, where)


def _decode_tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise StorageError(f"{where} must be a list, got {type(data).__name__}.")
    if len(args) == 2 and args[1] is Ellipsis:
        if _are_plain(args[0], data):
            return tuple(data)
        return tuple(_decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if len(data) != len(args):
        raise StorageError(f"{where} must hold {len(args)} values, got {len(data)}.")
    pairs = zip(args, data, strict=True)
    return tuple(_decode(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(pairs))


def _are_plain(hint: Any, items: list[Any]) -> bool:
    """Whether a list holds numbers as they should be and nothing else, as most of a report does."""
    if hint not in (int, float) or set(map(type, items)) != {hint}:
        return False
    return hint is float or max(map(abs, items)) <= _MAX_INT


def _decode_fields(cls: type, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise StorageError(f"{where} must be an object, got {type(data).__name__}.")
    hints, needed = _schema(cls)
    for key in data:
        if key not in hints:
            hint = suggest(str(key), list(hints))
            raise StorageError(f"{where} has the unknown key {key!r}. {hint}")
    missing = [name for name in needed if name not in data]
    if missing:
        raise StorageError(f"{where} lacks {', '.join(missing)}.")
    values = {key: _decode(hints[key], data[key], f"{where}.{key}") for key in data}
    try:
        return cls(**values)
    except ValueError as error:
        raise StorageError(f"{where}: {error}") from error


def _decode_scalar(hint: Any, data: Any, where: str) -> Any:
    is_whole = isinstance(data, int) and not isinstance(data, bool)
    if hint is float:
        if isinstance(data, str) and data in _NON_FINITE:
            return _NON_FINITE[data]
        if isinstance(data, float) or (is_whole and abs(data) <= sys.float_info.max):
            return float(data)
    elif hint is int and is_whole:
        if abs(data) <= _MAX_INT:
            return data
        raise StorageError(f"{where} is an integer of {data.bit_length()} bits; 63 are read.")
    elif hint in (bool, str) and isinstance(data, hint):
        return data
    # Python refuses to write out integers of thousands of digits.
    got = f"{data.bit_length()} bits" if is_whole and abs(data) > _MAX_INT else f"{data!r:.80}"
    raise StorageError(f"{where} must be of type {hint.__name__}, got {got}.")


SCHEMA_VERSION = 1


class Report:
    """A result that travels as JSON; its class is a frozen dataclass with a `schema_version`."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        result: dict[str, Any] = encode(self)
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a report; raises StorageError where `data` does not fit."""
        if not isinstance(data, Mapping):
            raise StorageError(f"A report is a JSON object, got {type(data).__name__}.")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise StorageError(
                f"The report has schema version {version!r}; this version reads {SCHEMA_VERSION}. "
                "Run the analysis again."
            )
        report = decode(cls, data)
        report.check()
        return report

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild a report from `to_json`'s text; raises StorageError where it does not fit."""
        return cls.from_dict(parse_json(text))

    def check(self) -> None:
        """Raise StorageError where numbers cannot be right; what their types say holds already."""
