"""The errors this package raises on purpose.

Every message says what was wrong, what was given, what is allowed and what to do.

```
QuantizationError
├── SchemeError             (ValueError)    a setting that makes no sense
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
