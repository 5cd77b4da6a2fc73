"""Sums over resamples, against an own loop over what was drawn."""

from __future__ import annotations

import numpy as np

from quant_engine.metrics.bootstrap import RESAMPLES, Resampling, percentile_interval


def test_a_sample_with_an_infinite_value_counts_only_where_it_was_drawn() -> None:
    column = np.array([1.0, np.inf, 2.0, 0.5])
    draws = Resampling(4).totals(np.eye(4))  # how often each sample was drawn
    expected = [sum(column[i] * row[i] for i in range(4) if row[i]) for row in draws]
    totals = Resampling(4).totals(column)

    np.testing.assert_array_equal(totals, expected)
    # Drawn into a resample of 4 with a chance of 1 - (3/4)^4.
    assert abs(np.isinf(totals).sum() / RESAMPLES - (1 - 0.75**4)) < 0.05
    low, high = percentile_interval(totals)
    assert np.isfinite(low)
    assert high == np.inf
