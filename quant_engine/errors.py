"""The errors this package raises on purpose.

Every message says what was wrong, what was given, what is allowed and what to do.

```
QuantizationError
├── SchemeError             (ValueError)    a setting that makes no sense
│   └── BudgetError                         a budget that no configuration keeps to
├── DataError               (ValueError)    NaN, Inf, empty or mis-shaped data
├── NotCalibratedError      (RuntimeError)  a range is needed that was never measured
├── ModelForwardError       (RuntimeError)  the caller's model failed on the caller's data
├── UnsupportedLayerError   (TypeError)     a layer or model that cannot be quantized
├── StorageError            (ValueError)    a file that is not what it should be
└── WorkerError             (RuntimeError)  work sent to an executor did not come back
```
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class QuantizationError(Exception):
    """Base of every error this package raises on purpose."""


class SchemeError(QuantizationError, ValueError):
    """A scheme, recipe or option that makes no sense."""


class BudgetError(SchemeError):
    """A budget that no configuration keeps to.

    Attributes:
        what: What is counted: "bytes", "effective bits" or "float layers".
        most: The budget.
        least: The least of it that a configuration can have.
    """

    def __init__(self, what: str, most: float, least: float) -> None:
        """Say what the least is."""
        super().__init__(
            f"The budget is {most:g} {what}; the least that these options allow is {least:g}. "
            "Raise it, or measure the response with smaller options."
        )
        self.what, self.most, self.least = what, most, least

    def __reduce__(self) -> tuple[type[BudgetError], tuple[str, float, float]]:
        """Let it travel between processes."""
        return type(self), (self.what, self.most, self.least)


class DataError(QuantizationError, ValueError):
    """Weights or data that cannot be quantized: NaN, Inf, empty or of a wrong shape."""


class NotCalibratedError(QuantizationError, RuntimeError):
    """A value range is needed that was never measured."""


class ModelForwardError(QuantizationError, RuntimeError):
    """The model's own forward failed on the data it was given."""


class UnsupportedLayerError(QuantizationError, TypeError):
    """A layer, or a whole model, that this engine cannot quantize."""


class StorageError(QuantizationError, ValueError):
    """A stored model, recipe or report that does not have the expected content."""


class WorkerError(QuantizationError, RuntimeError):
    """Work that was sent to an executor failed there, or was lost with its worker."""


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


def require_at_least(lowest: int, what: str, value: object) -> None:
    """Raise SchemeError unless `value` is an integer from `lowest` up."""
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise SchemeError(f"{what} is {value!r}. It must be an integer from {lowest} up.")


def require_keys(what: str, data: Any, allowed: Iterable[str]) -> Mapping[str, Any]:
    """Return `data` as a mapping; raise SchemeError for a key that does not belong."""
    if not isinstance(data, Mapping):
        raise SchemeError(f"{what} must be a mapping of settings, got {type(data).__name__}.")
    valid = tuple(allowed)
    for key in data:
        if key not in valid:
            raise SchemeError(f"{what} has the unknown key {key!r}. {suggest(str(key), valid)}")
    return data
