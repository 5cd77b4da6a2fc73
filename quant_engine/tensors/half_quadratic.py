"""Grids of smallest |w - ŵ|^p with p < 1: many small errors and a few large ones.

Half-quadratic quantization (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning
Models", 2023) takes turns: the error e of every weight is shrunk,

    e → sign(e) · max(0, |e| - |e|^(p - 1) / β),    β → 1.01 β

which leaves what large errors have too much, and the grid is fitted to the weights without that.
There, the zero point is a float, and the scale stays. A zero point that is a code hardly ever moves
by a whole step at a fixed scale, so here the scale is fitted as well, by least squares. Errors are
counted in steps, so that β says the same of small and of large weights.
"""

from __future__ import annotations

import numpy as np

from quant_engine.scheme import TensorScheme
from quant_engine.tensors.affine import scale_and_zero_point
from quant_engine.tensors.histogram import BinnedValues, FloatArray

NORM = 0.7
"""p."""

ROUNDS = 20
_FIRST_BETA = 10.0
_GROWTH = 1.01
_LEAST = 1e-9


def fit_half_quadratic(binned: BinnedValues, scheme: TensorScheme) -> tuple[FloatArray, FloatArray]:
    """Return the range of each channel whose grid has the smallest Σ|w - ŵ|^0.7 of all rounds.

    The first is that from the smallest to the largest value.

    Args:
        binned: The values, (channels, bins).
        scheme: Bits; an asymmetric one.

    Returns:
        lo and hi, shape (channels,), with 0.0 between them.
    """
    values, counts = _occupied(binned)
    edges = (np.minimum(binned.lo, 0.0)[:, None], np.maximum(binned.hi, 0.0)[:, None])
    scale, zero = scale_and_zero_point(*edges, scheme, np)
    best, least = (scale, zero), np.full_like(scale, np.inf)
    beta = _FIRST_BETA
    for _ in range(ROUNDS + 1):
        codes = np.clip(np.rint(values / scale) + zero, scheme.qmin, scheme.qmax)
        steps = codes - zero
        error = values / scale - steps
        size = np.maximum(np.abs(error), _LEAST)
        root = size ** (NORM - 1)
        loss = (counts * size * root).sum(axis=1, keepdims=True) * scale**NORM
        is_better = loss < least
        least = np.where(is_better, loss, least)
        best = np.where(is_better, scale, best[0]), np.where(is_better, zero, best[1])
        inside = values - np.sign(error) * np.maximum(0.0, size - root / beta) * scale
        power = (counts * np.square(steps)).sum(axis=1, keepdims=True)
        product = (counts * inside * steps).sum(axis=1, keepdims=True)
        scale = np.divide(product, power, out=scale.copy(), where=(power > 0) & (product > 0))
        total = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
        zero = np.rint((counts * (codes - inside / scale)).sum(axis=1, keepdims=True) / total)
        zero = np.clip(zero, scheme.qmin, scheme.qmax)
        beta *= _GROWTH
    scale, zero = best
    return ((scheme.qmin - zero) * scale)[:, 0], ((scheme.qmax - zero) * scale)[:, 0]


def _occupied(binned: BinnedValues) -> tuple[FloatArray, FloatArray]:
    """Return the bins that hold values, and their counts without exact zeros, (channels, most)."""
    is_filled = binned.nonzero_counts > 0
    most = max(1, int(is_filled.sum(axis=1).max()))
    order = np.argsort(~is_filled, axis=1, kind="stable")[:, :most]
    values = np.take_along_axis(binned.centers, order, axis=1)
    return values, np.take_along_axis(binned.nonzero_counts, order, axis=1)
