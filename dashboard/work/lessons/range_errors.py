"""The lesson “Cut off the giants?”: rounding and clipping error for every end of the range."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

import quant_engine
from dashboard.work.lessons.sample_layers import layer_input
from quant_engine.scheme import TensorScheme

SHARES = tuple(percent / 100 for percent in range(10, 101, 3))
"""Ends of the range that are tried, as shares of the largest value."""


@dataclass(frozen=True, slots=True)
class RangeError:
    """The error that one range gives, as shares of the signal Σx².

    Attributes:
        share: Where the range ends, as a share of the smallest and the largest value.
        rounding: Error of the values inside the grid and up to half a step beside it.
        clipping: Error of the values beyond.
        clipped: How many values those are, as a share of all.
    """

    share: float
    rounding: float
    clipping: float
    clipped: float

    @property
    def total(self) -> float:
        """Error of all values."""
        return self.rounding + self.clipping


@lru_cache(maxsize=16)
def range_errors(model_name: str, layer: str, scheme: TensorScheme) -> tuple[RangeError, ...]:
    """Return the error of a layer's input for every end of the range in `SHARES`."""
    values = layer_input(model_name, layer).flatten()
    lo, hi = torch.aminmax(values)
    before = values.numpy()  # sums in numpy: small ones are faster than with torch's threads
    signal = float(np.square(before, dtype=np.float64).sum())
    found = []
    for share in SHARES:
        grid = quant_engine.choose_qparams(lo * share, hi * share, scheme)
        after = quant_engine.fake_quantize(values, grid).numpy()
        errors = np.square(after - before, dtype=np.float64)
        half_step = float(grid.scale) / 2
        is_beyond = (before < float(grid.lower()) - half_step) | (
            before > float(grid.upper()) + half_step
        )
        clipping = float(errors[is_beyond].sum())
        rounding = float(errors.sum()) - clipping
        found.append(
            RangeError(share, rounding / signal, clipping / signal, float(is_beyond.mean()))
        )
    return tuple(found)
