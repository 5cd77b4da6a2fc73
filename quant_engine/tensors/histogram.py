"""A streaming histogram whose bins are exact, mergeable and never smeared.

Bins lie on a lattice: with width 2^e, bin k covers [k·2^e, (k+1)·2^e). The exponent is the smallest
one at which all values seen fit into the bins, so it depends on the true minimum and maximum only.
Widening joins whole neighbouring bins. Hence seeing two streams one after the other, in any order
and cut into any pieces, gives the same counts as merging their two histograms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quant_engine.errors import DataError, NotCalibratedError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MIN_EXPONENT = -126  # 2^126 is the largest power of two that scales any float32 down to it
_MAX_EXPONENT = 126
_PIECE = 1 << 16
_BINNED_PIECE = 1 << 20
_LANES = 8


@dataclass(frozen=True, slots=True, eq=False)
class BinnedValues:
    """Counts on equal-width bins, one row per channel: what every range rule reads.

    Attributes:
        counts: float64, shape (channels, bins).
        start: Left edge of the first bin, shape (channels,).
        width: Width of a bin, shape (channels,).
        lo: Smallest value seen, shape (channels,).
        hi: Largest value seen, shape (channels,).
        zeros: Values that are exactly 0.0, shape (channels,).
        nonzero_counts: `counts` without the exact zeros, which every grid holds without error.
        centers: Middle of every bin, kept inside [lo, hi], shape (channels, bins).
    """

    counts: FloatArray
    start: FloatArray
    width: FloatArray
    lo: FloatArray
    hi: FloatArray
    zeros: FloatArray
    nonzero_counts: FloatArray
    centers: FloatArray

    @classmethod
    def build(
        cls,
        counts: FloatArray,
        start: FloatArray,
        width: FloatArray,
        lo: FloatArray,
        hi: FloatArray,
        zeros: FloatArray,
    ) -> BinnedValues:
        """Fill in the centres, and take the zeros out of the bin that 0.0 lies in."""
        steps = np.arange(counts.shape[1]) + 0.5
        centers = np.clip(start[:, None] + steps * width[:, None], lo[:, None], hi[:, None])
        safe = np.where(width > 0, width, 1.0)
        nonzero = counts.copy()
        for row in np.flatnonzero(zeros):
            nonzero[row, min(int(-start[row] / safe[row]), counts.shape[1] - 1)] -= zeros[row]
        return cls(counts, start, width, lo, hi, zeros, nonzero, centers)

    def coarsened(self, most: int) -> BinnedValues:
        """Return the same counts on at most `most` bins, by joining whole neighbours."""
        channels, bins = self.counts.shape
        group = -(-bins // most)
        if group == 1:
            return self
        padded = np.pad(self.counts, ((0, 0), (0, -bins % group)))
        counts = padded.reshape(channels, -1, group).sum(axis=2)
        width = self.width * group
        return BinnedValues.build(counts, self.start, width, self.lo, self.hi, self.zeros)


class Histogram:
    """Streaming histogram of all values of one tensor.

    Attributes:
        bins: Number of bins there is room for; about half of them or more span the values.
        lo: Smallest value seen.
        hi: Largest value seen.
        count: Number of values seen.
        zeros: Number of values that are exactly 0.0.

    Example:
        >>> a, b = Histogram(bins=8), Histogram(bins=8)
        >>> a.update(torch.tensor([0.0, 1.0, 7.0]))
        >>> b.update(torch.tensor([15.0]))
        >>> a.merge(b)
        >>> a.count, a.lo, a.hi, a.counts.tolist()
        (4, 0.0, 15.0, [2, 0, 0, 1, 0, 0, 0, 1])
    """

    def __init__(self, bins: int = 4096) -> None:
        """Start empty."""
        if bins < 2:
            raise DataError(f"bins is {bins}. A histogram needs at least 2.")
        self.bins = bins
        self.lo = math.inf
        self.hi = -math.inf
        self.count = 0
        self.zeros = 0
        self._exponent = 0
        self._first = 0
        self._counts: IntArray = np.zeros(bins, dtype=np.int64)

    @property
    def width(self) -> float:
        """Width of a bin, a power of two."""
        return math.ldexp(1.0, self._exponent)

    @property
    def start(self) -> float:
        """Left edge of the first bin."""
        return math.ldexp(float(self._first), self._exponent)

    @property
    def counts(self) -> IntArray:
        """Values in each bin, int64, shape (bins,); a copy."""
        return self._counts.copy()

    def update(self, values: Tensor) -> None:
        """Count all values of a float tensor of any shape.

        Raises:
            DataError: If a value is NaN or Inf; nothing is counted then.
        """
        if values.numel() == 0:
            return
        values = values.detach().float()
        lo, hi = (edge.item() for edge in torch.aminmax(values))
        if not (math.isfinite(lo) and math.isfinite(hi)):
            raise DataError("The values hold NaN or Inf. Remove them from the data.")
        self._widen(lo, hi)
        # In pieces that stay in the processor's cache from one step to the next.
        for piece in torch.split(values.reshape(-1), _PIECE):
            if lo == 0.0:
                self._count_from_zero(piece)
            else:
                self._count(piece, has_negative=lo < 0.0)
                if lo < 0.0 <= hi:
                    # NumPy counts truth values many times as fast as torch counts what is not 0.
                    nonzero = np.count_nonzero(piece.cpu().numpy() != 0.0)
                    self.zeros += piece.numel() - int(nonzero)
        self.count += values.numel()

    def _count(self, values: Tensor, *, has_negative: bool) -> None:
        """Count values, float32 (n,), that lie inside the bins."""
        index = (values * self._bins_per_unit()).floor_()
        if self._exponent > 0 and has_negative:
            # A negative value may be so small that the product is -0.0: it lies in bin -1.
            index = torch.where((index == 0.0) & (values < 0.0), -1.0, index)
        self._counts += _count_integers(index.sub_(self._first).to(torch.int32), self.bins)

    def _count_from_zero(self, values: Tensor) -> None:
        """Count values, float32 (n,), none of them negative, and their zeros apart.

        Behind a ReLU every second value is 0. Counting is slow where one value falls into the same
        bin as the one before, so zeros go in turn to several bins beyond the others.
        """
        lanes = _lanes(self.bins + self._first, len(values), values.device)
        # Lanes where a value is 0, else 0; then the value's index, once it is cut to an integer.
        places = torch.addcmul(lanes, values.sign(), lanes, value=-1.0)
        index = places.add_(values, alpha=self._bins_per_unit()).to(torch.int32)
        if self._first:
            index.sub_(self._first)
        found = _count_integers(index, self.bins + _LANES)
        self.zeros += (zeros := int(found[self.bins :].sum()))
        self._counts += found[: self.bins]
        self._counts[-self._first] += zeros

    def _bins_per_unit(self) -> float:
        return math.ldexp(1.0, -self._exponent)

    def merge(self, other: Histogram) -> None:
        """Add what another histogram has seen; the result equals having seen both streams.

        Raises:
            DataError: If the numbers of bins differ.
        """
        if other.bins != self.bins:
            raise DataError(
                f"The histograms have {self.bins} and {other.bins} bins. Merge equal ones only."
            )
        if other.count == 0:
            return
        self._widen(other.lo, other.hi)
        self._add(other)
        self.count += other.count
        self.zeros += other.zeros

    def binned(self) -> BinnedValues:
        """Return the counts in the form that range rules read.

        Raises:
            NotCalibratedError: If nothing was counted yet.
        """
        if self.count == 0:
            raise NotCalibratedError("No values were seen yet. Call update() with data first.")
        return BinnedValues.build(
            self._counts[None].astype(np.float64),
            np.array([self.start]),
            np.array([self.width]),
            np.array([self.lo]),
            np.array([self.hi]),
            np.array([float(self.zeros)]),
        )

    def _widen(self, lo: float, hi: float) -> None:
        """Make room for the range [lo, hi], joining whole bins where that needs wider ones."""
        new_lo, new_hi = min(lo, self.lo), max(hi, self.hi)
        exponent = _fitting_exponent(new_lo, new_hi, self.bins)
        first = math.floor(math.ldexp(new_lo, -exponent))
        before = copy(self)
        self.lo, self.hi, self._exponent, self._first = new_lo, new_hi, exponent, first
        if self.count and (exponent != before._exponent or first != before._first):
            self._counts = np.zeros_like(before._counts)
            self._add(before)

    def _add(self, other: Histogram) -> None:
        """Add the counts of a histogram whose bins are as fine or finer, and lie inside."""
        shift = self._exponent - other._exponent
        target = ((np.arange(self.bins) + other._first) >> shift) - self._first
        filled = other._counts > 0
        np.add.at(self._counts, target[filled], other._counts[filled])


@lru_cache(maxsize=4)
def _lanes(first: int, count: int, device: torch.device) -> Tensor:
    """Return first, first + 1, ... over and over, float32 (count,); not to be changed."""
    lanes = torch.arange(first, first + _LANES, dtype=torch.float32, device=device)
    return lanes.repeat(-(-count // _LANES))[:count]


def _count_integers(values: Tensor, bins: int) -> IntArray:
    """Count integers from 0 to bins - 1, int32 (n,)."""
    return torch.bincount(values, minlength=bins).cpu().numpy()


def _fitting_exponent(lo: float, hi: float, bins: int) -> int:
    """Return the smallest exponent at which all bins from lo's to hi's are at most `bins`."""
    span = hi - lo
    exponent = _MIN_EXPONENT if span == 0.0 else math.frexp(span / bins)[1] - 1
    # Bins may not be finer than the float32 grid near the largest value.
    exponent = max(exponent, math.frexp(max(abs(lo), abs(hi)))[1] - 24, _MIN_EXPONENT)
    exponent = min(exponent, _MAX_EXPONENT)
    while math.floor(math.ldexp(hi, -exponent)) - math.floor(math.ldexp(lo, -exponent)) >= bins:
        exponent += 1
    return exponent


def stack_binned(rows: Iterable[BinnedValues]) -> BinnedValues:
    """Return the channels of several results, of equally many bins, as one."""
    parts = list(rows)
    return BinnedValues(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(BinnedValues))
    )


def bin_channels(values: FloatArray | npt.NDArray[np.float32], bins: int) -> BinnedValues:
    """Count every row of a small, complete array on bins of its own range.

    For weights, which are at hand as a whole: one histogram per channel, all at once.

    Args:
        values: Finite values, float32 or float64, shape (channels, values of a channel). They are
            counted in float64, a piece of them at a time.
        bins: Number of bins for each channel.

    Returns:
        Counts on `bins` equal-width bins from each row's smallest to its largest value.
    """
    channels = values.shape[0]
    lo, hi = (edge.astype(np.float64) for edge in (values.min(axis=1), values.max(axis=1)))
    width = (hi - lo) / bins
    safe = np.where(width > 0, width, 1.0)
    first = np.arange(channels)[:, None] * bins
    counts: FloatArray = np.zeros(channels * bins)
    for start in range(0, values.shape[1], columns := max(1, _BINNED_PIECE // channels)):
        piece = values[:, start : start + columns].astype(np.float64)
        index = ((piece - lo[:, None]) / safe[:, None]).astype(np.int64).clip(0, bins - 1)
        counts += np.bincount((index + first).reshape(-1), minlength=counts.size)
    zeros = (values == 0.0).sum(axis=1).astype(np.float64)
    return BinnedValues.build(counts.reshape(channels, bins), lo, width, lo, hi, zeros)


def piece_columns(channels: int) -> int:
    """Return how many columns of (channels, values) to work through at a time.

    A piece of 65,536 values bounds what copies of a large weight take, and stays in the processor's
    cache from one step to the next.
    """
    return max(1, _PIECE // channels)
