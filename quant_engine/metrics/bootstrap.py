"""Bootstrap confidence intervals over samples (Efron, "Bootstrap Methods", 1979).

Whole samples are drawn, with all positions that they hold: tokens of one sequence and pixels of one
image depend on each other, and an interval that draws them one by one is far too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from quant_engine.metrics.counts import SampleCounts
from quant_engine.tensors.histogram import FloatArray

RESAMPLES = 1000
CONFIDENCE = 0.95
_CHUNK_VALUES = 1_000_000


class Resampling:
    """Samples drawn with replacement, the same draws for everything that is summed over them.

    So the difference of two figures is a paired bootstrap: what both owe to the same hard samples
    cancels.

    Example:
        >>> Resampling(5).totals(np.full(5, 3.0)).shape
        (1000,)
    """

    def __init__(self, samples: int, *, seed: int = 0) -> None:
        """Draw as many samples as there are, many times."""
        generator = np.random.default_rng(seed)
        chunk = max(1, _CHUNK_VALUES // samples)
        self._draws = [
            _draw(generator, min(chunk, RESAMPLES - start), samples)
            for start in range(0, RESAMPLES, chunk)
        ]

    def totals(self, column: FloatArray) -> FloatArray:
        """Return the sum of a column in every resample.

        Args:
            column: Shape (samples, ...).

        Returns:
            float64, shape (RESAMPLES, ...).
        """
        rows = column.reshape(len(column), -1)
        infinite = np.isposinf(rows)
        finite = np.where(infinite, 0.0, rows)
        parts = [draws.astype(np.float64) @ finite for draws in self._draws]
        totals = np.concatenate(parts)
        if infinite.any():  # a sample that was not drawn adds nothing, whatever its value
            hit = np.concatenate([draws.astype(np.float64) @ infinite for draws in self._draws])
            totals[hit > 0.0] = np.inf
        return totals.reshape(RESAMPLES, *column.shape[1:])

    def all_totals(
        self, counts: Sequence[SampleCounts], columns: Sequence[str]
    ) -> Mapping[str, FloatArray]:
        """Return the totals of columns of several counts in every resample.

        Returns:
            Name of a column -> float64, shape (len(counts), RESAMPLES, ...).
        """
        stacked = {name: np.stack([count[name] for count in counts], axis=1) for name in columns}
        return {name: np.moveaxis(self.totals(values), 1, 0) for name, values in stacked.items()}


def _draw(generator: np.random.Generator, rows: int, samples: int) -> npt.NDArray[np.uint16]:
    """Return how often each sample was drawn, shape (rows, samples)."""
    drawn = generator.integers(samples, size=(rows, samples))
    drawn += samples * np.arange(rows)[:, None]
    counts = np.bincount(drawn.reshape(-1), minlength=rows * samples)
    return counts.reshape(rows, samples).astype(np.uint16)


def percentile_interval(
    resampled: FloatArray, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval that holds the middle of resampled values, a share of `confidence`.

    Example:
        >>> percentile_interval(np.full(1000, 2.0))
        (2.0, 2.0)
    """
    tail = (1.0 - confidence) / 2
    # Between two infinite values there is nothing to interpolate.
    method = "linear" if np.isfinite(resampled).all() else "inverted_cdf"
    lower, upper = np.quantile(resampled, [tail, 1.0 - tail], method=method)  # type: ignore[call-overload]
    return float(lower), float(upper)
