"""At which counts the curve of the k least sensitive layers is measured.

A point of the curve costs up to a pass, and most of it is flat. What a step changes is known before
it is run, roughly: as much as its layer degrades the output when it is switched by itself. Points
go where these changes are, so those that stand apart are resolved layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

CURVE_POINTS = 8
"""Counts at which the curve is measured unless all are asked for."""


def choose_counts(
    changes: Sequence[float], known: Sequence[int], most: int | None = CURVE_POINTS
) -> tuple[int, ...]:
    """Choose the counts of quantized layers at which to measure.

    The gap with the largest change is halved, by change, until there are enough points.

    Args:
        changes: What each step is expected to change, in the order of the curve.
        known: Counts that cost nothing, the most important first; they are taken before others.
        most: Number of counts at most; None for all.

    Returns:
        The counts, from 0 to `len(changes)`, sorted.

    Example:
        >>> choose_counts([0, 0, 0, 0, 1, 0, 0, 4], known=[0, 8, 1], most=5)
        (0, 1, 4, 7, 8)
    """
    steps = len(changes)
    if most is None or steps + 1 <= most:
        return tuple(range(steps + 1))
    # Several infinite changes are alike, and no finite one counts beside them.
    sizes = np.maximum(np.nan_to_num(np.asarray(changes, dtype=np.float64), posinf=np.inf), 0.0)
    sizes = np.isinf(sizes).astype(np.float64) if np.isinf(sizes).any() else sizes
    # By a power of two, which rounds nothing: the sum of two sums must not overflow.
    reached = np.concatenate([[0.0], np.cumsum(np.ldexp(sizes, -steps.bit_length() - 1))])
    chosen = sorted(dict.fromkeys(known[:most]))
    while len(chosen) < most:
        low, high = max(
            (gap for gap in pairwise(chosen) if gap[1] - gap[0] > 1),
            key=lambda gap: (reached[gap[1]] - reached[gap[0]], gap[1] - gap[0]),
        )
        middle = (reached[low] + reached[high]) / 2
        before = int(np.searchsorted(reached, middle, side="right")) - 1  # the step that crosses it
        if reached[low] == reached[high]:
            before = (low + high) // 2
        inside = [min(max(k, low + 1), high - 1) for k in (before, before + 1)]
        best = min(inside, key=lambda k: abs(reached[k] - middle))
        chosen = sorted([*chosen, best])
    return tuple(chosen)
