"""Searching the clipping range of smallest loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from quant_engine.scheme import TensorScheme
from quant_engine.tensors.histogram import BinnedValues, FloatArray

Range: TypeAlias = tuple[FloatArray, FloatArray]
Loss: TypeAlias = Callable[[FloatArray, FloatArray], FloatArray]

_COARSE = np.linspace(1.0, 0.05, 20)
_FINE = np.array([-0.04, -0.03, -0.02, -0.01, -0.005, 0.005, 0.01, 0.02, 0.03, 0.04])
_BOTH = (_COARSE, _FINE)


def search_range(binned: BinnedValues, scheme: TensorScheme, loss: Loss) -> Range:
    """Return the range with the smallest loss: end by end, coarse first, then fine, twice.

    Ranges whose step is finer than a bin are not tried: the counts cannot tell what they cost.

    Args:
        binned: The values, (channels, bins).
        scheme: Bits and symmetry.
        loss: Cost of the ranges (lo, hi), each of shape (channels,); with a single channel it must
            take any number of ranges at once.

    Returns:
        lo and hi, shape (channels,).
    """
    lo, hi = binned.lo, binned.hi
    if scheme.symmetric:
        hi = np.maximum(np.abs(lo), np.abs(hi))
        lo = -hi
        floor = _smallest_factor(binned, 2 * hi, scheme)
        factor = _improve(lambda f: loss(f * lo, f * hi), np.ones_like(lo), None, floor, _BOTH)[0]
        return factor * lo, factor * hi
    lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
    lower, upper = np.ones_like(lo), np.ones_like(hi)
    known: FloatArray | None = None

    def upper_loss(factor: FloatArray) -> FloatArray:
        return loss(lower * lo, factor * hi)

    def lower_loss(factor: FloatArray) -> FloatArray:
        return loss(factor * lo, upper * hi)

    for steps in (_BOTH, (_FINE,)):
        if hi.any():
            floor = _smallest_factor(binned, hi, scheme)
            upper, known = _improve(upper_loss, upper, known, floor, steps)
        if lo.any():
            floor = _smallest_factor(binned, -lo, scheme)
            lower, known = _improve(lower_loss, lower, known, floor, steps)
        if not (lo.any() and hi.any()):
            break
    return lower * lo, upper * hi


def _smallest_factor(binned: BinnedValues, span: FloatArray, scheme: TensorScheme) -> FloatArray:
    """Return the factor at which a step of `span` is as fine as a bin, at most 1."""
    finest = binned.width * (scheme.qmax - scheme.qmin)
    factor = np.divide(finest, span, out=np.ones_like(span), where=span > 0)
    return np.clip(factor, 0.0, 1.0)


def _improve(
    loss: Callable[[FloatArray], FloatArray],
    best: FloatArray,
    best_loss: FloatArray | None,
    smallest: FloatArray,
    stages: tuple[FloatArray, ...],
) -> tuple[FloatArray, FloatArray]:
    """Return the factor of smallest loss, and that loss.

    Args:
        loss: Cost of factors, shape (channels,).
        best: Factors to begin with.
        best_loss: What they cost; None where that is not known.
        smallest: Smallest factors to try.
        stages: `_COARSE` holds factors, `_FINE` steps from the best.
    """
    if best_loss is None:
        best_loss = loss(best)
    for stage in stages:
        middle = best if stage is _FINE else np.zeros_like(best)
        factors = np.clip(middle + stage[:, None], smallest, 1.0)
        # Many are clipped to the same one, neighbours in a stage: each is tried once.
        is_new = np.ones(len(factors), dtype=bool)
        is_new[1:] = (factors[1:] != factors[:-1]).any(axis=1)
        factors = factors[is_new]
        if best.size == 1:
            losses = loss(factors[:, 0])[:, None]  # one channel: all factors at once
        else:
            losses = np.stack([loss(factor) for factor in factors])
        pick = losses.argmin(axis=0), np.arange(best.size)
        found = losses[pick]
        is_better = found < best_loss * (1.0 - 1e-9)
        best = np.where(is_better, factors[pick], best)
        best_loss = np.where(is_better, found, best_loss)
    return best, best_loss
