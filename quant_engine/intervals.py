"""Bootstrap confidence intervals over samples (Efron, "Bootstrap Methods", 1979)."""

from __future__ import annotations

import numpy as np

from quant_engine.histogram import FloatArray

RESAMPLES = 1000
CONFIDENCE = 0.95
_CHUNK_VALUES = 2_000_000


def bootstrap_intervals(
    values: FloatArray, weights: FloatArray | None = None, *, seed: int = 0
) -> list[tuple[float, float]]:
    """Return the percentile interval of each row's mean, samples drawn with replacement.

    All rows share the draws, so that rows stay comparable.

    Args:
        values: One row for each quantity, shape (rows, samples).
        weights: If given, the statistic is Σvalues / Σweights instead, shape (samples,).
        seed: Seed of the draws.

    Returns:
        (lower, upper) for each row, at `CONFIDENCE`.

    Example:
        >>> bootstrap_intervals(np.full((1, 5), 2.0))
        [(2.0, 2.0)]
    """
    rows, samples = values.shape
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
    tail = (1.0 - CONFIDENCE) / 2
    edges = np.quantile(np.concatenate(parts, axis=1), [tail, 1.0 - tail], axis=1)
    return [(float(edges[0, row]), float(edges[1, row])) for row in range(rows)]
