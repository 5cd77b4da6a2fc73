"""The errors this package raises on purpose.

```
SampleModelError
├── UnknownNameError  (ValueError)    a model, split or kind of data that does not exist
└── WeightsError      (RuntimeError)  trained weights that are missing or do not fit
```
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SampleModelError(Exception):
    """Base of the errors about names, weights and data.

    Arguments of an architecture that make no sense raise ValueError, as torch's layers do.
    """


class UnknownNameError(SampleModelError, ValueError):
    """A name that stands for nothing; the message lists the valid ones and the likely one."""


class WeightsError(SampleModelError, RuntimeError):
    """Trained weights that are missing, or that do not fit their model."""


def unknown_name(what: str, got: object, allowed: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown name, with the likely intended one.

    Args:
        what: What the name should stand for, such as ``"model"``.
        got: What was given.
        allowed: Every valid name.

    Returns:
        The error, ready to be raised.

    Example:
        >>> print(unknown_name("model", "resnt", ["cnn", "resnet"]))
        unknown model 'resnt': did you mean 'resnet'? Valid names: 'cnn', 'resnet'.
    """
    names = sorted(allowed)
    likely = difflib.get_close_matches(str(got), names, n=1)
    hint = f"did you mean {likely[0]!r}? " if likely else ""
    listed = ", ".join(repr(name) for name in names)
    return UnknownNameError(f"unknown {what} {got!r}: {hint}Valid names: {listed}.")
