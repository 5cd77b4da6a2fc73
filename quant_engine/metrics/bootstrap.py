"""Bootstrap confidence intervals over samples (Efron, "Bootstrap Methods", 1979)."""

from __future__ import annotations

import numpy as np

from quant_engine.tensors.histogram import FloatArray

RESAMPLES = 1000
CONFIDENCE = 0.95
_CHUNK_VALUES = 2_000_000


def bootstrap_means(
    values: FloatArray, weights: FloatArray | None = None, *, seed: int = 0
) -> FloatArray:
    """Return each row's mean in many resamples, samples drawn with replacement.

    All rows share the draws. So the difference of two rows of the result is a paired bootstrap of
    the difference of their means: what both owe to the same hard samples cancels.

    Args:
        values: One row for each quantity, shape (rows, samples).
        weights: If given, the statistic is Σvalues / Σweights instead, shape (samples,).
        seed: Seed of the draws.

    Returns:
        float64, shape (rows, RESAMPLES).

    Example:
        >>> bootstrap_means(np.full((2, 5), 3.0)).shape
        (2, 1000)
    """
    samples = values.shape[1]
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_VALUES // max(samples, 1))
    parts = []
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        draws = generator.multinomial(samples, np.full(samples, 1.0 / samples), size=size)
        totals = values @ draws.T.astype(np.float64)
        if weights is None:
            parts.append(totals / samples)
        else:
            scale = draws @ weights
            parts.append(np.divide(totals, scale, out=np.zeros_like(totals), where=scale > 0))
    return np.concatenate(parts, axis=1)


def percentile_intervals(resampled: FloatArray) -> list[tuple[float, float]]:
    """Return the interval that holds the middle of each row of resampled values.

    Args:
        resampled: What `bootstrap_means` returns, or differences of its rows.

    Returns:
        (lower, upper) for each row, at `CONFIDENCE`.

    Example:
        >>> percentile_intervals(bootstrap_means(np.full((1, 5), 2.0)))
        [(2.0, 2.0)]
    """
    tail = (1.0 - CONFIDENCE) / 2
    lower, upper = np.quantile(resampled, [tail, 1.0 - tail], axis=1)
    return [(float(a), float(b)) for a, b in zip(lower, upper, strict=True)]
