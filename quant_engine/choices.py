"""Checking names against what is allowed, and saying which one was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from quant_engine.errors import SchemeError


def suggest(name: str, valid: Iterable[str]) -> str:
    """Return a sentence listing the valid names, with the likeliest one first when one is close.

    Example:
        >>> suggest("minmx", ["minmax", "mse"])
        "Did you mean 'minmax'? Valid: minmax, mse."
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Valid: {', '.join(names)}."


def require_choice(what: str, value: object, valid: tuple[str, ...]) -> None:
    """Raise SchemeError unless `value` is one of `valid`."""
    if value not in valid:
        raise SchemeError(f"{what} is {value!r}. {suggest(str(value), valid)}")


def require_bool(what: str, value: object) -> None:
    """Raise SchemeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise SchemeError(f"{what} is {value!r}. It must be True or False.")


def is_whole_number(value: object) -> bool:
    """Whether `value` is an int, which True and False are not here."""
    return isinstance(value, int) and not isinstance(value, bool)


def require_keys(what: str, data: Any, allowed: Iterable[str]) -> Mapping[str, Any]:
    """Return `data` as a mapping; raise SchemeError for a key that does not belong."""
    if not isinstance(data, Mapping):
        raise SchemeError(f"{what} must be a mapping of settings, got {type(data).__name__}.")
    valid = tuple(allowed)
    for key in data:
        if key not in valid:
            raise SchemeError(f"{what} has the unknown key {key!r}. {suggest(str(key), valid)}")
    return data
