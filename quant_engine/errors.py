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
