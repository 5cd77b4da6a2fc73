"""Streaming statistics of dynamically quantized inputs, whose range is that of the batch.

Every call of the layer has a grid of its own. What it does is counted on that grid, by `GridStats`,
and added up: energies, errors in LSB of that grid, codes. Values are counted on bins that stay.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from quant_engine.metrics.energies import ErrorStats, split_samples
from quant_engine.metrics.grid import (
    LSB_BINS,
    LSB_WINDOW,
    VALUE_BINS,
    GridStats,
    bin_layout,
    count_window,
    rounding_metrics,
    window_index,
)
from quant_engine.report import CodeUsage, ErrorHistogram, ErrorMetrics, ValueHistogram
from quant_engine.scheme import TensorScheme
from quant_engine.tensors.affine import QParams, choose_dynamic_qparams, choose_qparams, dequantize
from quant_engine.tensors.histogram import IntArray

T = TypeVar("T", int, float)

_HAIR = 1e-4  # of a step; an end that is a code but for rounding is not taken for one beyond it


class DynamicGridStats:
    """What rounding does to a stream of values that has a grid for each batch.

    Memory does not grow with the number of batches. The range of a batch depends on which samples
    are in it, so all figures are those for batches cut as they came.

    Attributes:
        scheme: Bits and symmetry.
        errors: Energies of values and errors.
        first: Grid of the first batch; None before it.
        lo: Smallest value seen; inf before the first.
        hi: Largest value seen; -inf before the first.
        scale: The smallest and the largest step that a batch had; (inf, -inf) before the first.
        zero_point: The smallest and the largest code of 0.0, likewise; (qmax, qmin) before.
    """

    def __init__(self, scheme: TensorScheme, drawn: tuple[float, float] | None = None) -> None:
        """Start empty.

        Args:
            scheme: Bits and symmetry.
            drawn: Smallest and largest value that the value histogram covers; values beyond are
                counted apart. The range of the first batch if None.
        """
        self.scheme = scheme
        self.errors = ErrorStats()
        self.first: QParams | None = None
        self.lo, self.hi = math.inf, -math.inf
        self.scale = (math.inf, -math.inf)
        self.zero_point = (scheme.qmax, scheme.qmin)
        self._lsb_energy = 0.0
        self._clipping_energy = 0.0
        self._clipped = 0
        self._lsb: IntArray = np.zeros(LSB_BINS + 2, dtype=np.int64)
        self._codes: IntArray = np.zeros(scheme.qmax - scheme.qmin + 1, dtype=np.int64)
        self._window = None if drawn is None else _Window(scheme, *drawn)

    def update(self, x: Tensor) -> Tensor:
        """Count a batch on the grid of its own range; the first axis counts samples.

        Returns:
            What the values are rounded to, float32: bit-equal to what a layer with this scheme
            makes of its input.

        Raises:
            DataError: If a value is NaN or Inf.
        """
        x = x.detach()
        grid = choose_dynamic_qparams(x, self.scheme)
        batch = GridStats(grid)
        x_hat = batch.update(x)
        if not x.numel():
            return x_hat
        lo, hi = (float(edge) for edge in torch.aminmax(x))
        window = self._window = self._window or _Window(self.scheme, lo, hi)
        self.first = self.first or grid
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)
        scale, zero_point = grid.scale.item(), int(grid.zero_point)
        self.scale = _spread(self.scale, (scale, scale))
        self.zero_point = _spread(self.zero_point, (zero_point, zero_point))
        self.errors.merge(batch.errors)
        self._lsb_energy += batch.lsb_energy
        self._clipping_energy += batch.clipping_energy
        self._clipped += batch.clipped
        errors, codes = batch.error_histogram(), np.array(batch.code_usage().counts)
        self._lsb += np.array((errors.below, *errors.counts, errors.above))
        self._codes += codes
        window.count(x, grid, codes)
        return x_hat

    def merge(self, other: DynamicGridStats) -> None:
        """Add what another instance has seen; both were made with one scheme and drawn range."""
        self.errors.merge(other.errors)
        self.first = self.first or other.first
        self.lo, self.hi = min(self.lo, other.lo), max(self.hi, other.hi)
        self.scale = _spread(self.scale, other.scale)
        self.zero_point = _spread(self.zero_point, other.zero_point)
        self._lsb_energy += other._lsb_energy
        self._clipping_energy += other._clipping_energy
        self._clipped += other._clipped
        self._lsb += other._lsb
        self._codes += other._codes
        assert self._window is not None
        assert other._window is not None
        self._window.merge(other._window)

    def metrics(self) -> ErrorMetrics:
        """Return the figures; errors in LSB are in steps of the grid of their batch."""
        return rounding_metrics(self.errors, self._lsb_energy, self._clipping_energy, self._clipped)

    def code_usage(self) -> CodeUsage:
        """Return how often each code occurred, over all batches."""
        return CodeUsage(self.scheme.qmin, tuple(self._codes.tolist()))

    def error_histogram(self) -> ErrorHistogram:
        """Return the errors in LSB, each in steps of the grid of its batch."""
        below, *inner, above = self._lsb.tolist()
        return ErrorHistogram(-LSB_WINDOW, LSB_WINDOW, tuple(inner), below=below, above=above)

    def value_histogram(self) -> ValueHistogram:
        """Return values before and after on shared bins, which are the same for all batches."""
        window = self._window or _Window(self.scheme, 0.0, 0.0)
        return window.histogram()


class _Window:
    """Values before and after, counted on bins that no batch moves.

    The bins are whole codes, or odd parts of one, of the grid that the drawn range would give. A
    batch of about that range so has as many codes in a bin as in its neighbour.
    """

    def __init__(self, scheme: TensorScheme, lo: float, hi: float) -> None:
        step = choose_qparams(torch.tensor(lo), torch.tensor(hi), scheme).scale.item()
        # Outwards: a value that is rounded out of the drawn range, by half a step, stays inside.
        first = math.floor(lo / step + _HAIR)
        codes = math.ceil(hi / step - _HAIR) - first + 1
        codes_per_bin, parts = bin_layout(min(codes, 2 * VALUE_BINS))
        self._bins = -(-codes // codes_per_bin) * parts
        self._lo = (first - 0.5) * step
        self._hi = self._lo + self._bins * step * codes_per_bin / parts
        self._values: IntArray = np.zeros(self._bins + 2, dtype=np.int64)
        self._stand_ins: IntArray = np.zeros(self._bins + 2, dtype=np.int64)

    def count(self, x: Tensor, grid: QParams, codes: IntArray) -> None:
        """Count a batch: its values one by one, what they became by code."""
        for piece in split_samples(x):
            self._values += count_window(piece.float(), self._lo, self._hi, self._bins)
        levels = torch.arange(grid.qmin, grid.qmax + 1, device=grid.scale.device)
        index = window_index(dequantize(levels, grid), self._lo, self._hi, self._bins)
        np.add.at(self._stand_ins, index.cpu().numpy().astype(np.int64), codes)

    def merge(self, other: _Window) -> None:
        """Add what another window on the same bins has counted."""
        assert (self._lo, self._hi, self._bins) == (other._lo, other._hi, other._bins)
        self._values += other._values
        self._stand_ins += other._stand_ins

    def histogram(self) -> ValueHistogram:
        """Return the counts."""
        before, after = self._values.tolist(), self._stand_ins.tolist()
        return ValueHistogram(
            lo=self._lo,
            hi=self._hi,
            float_counts=tuple(before[1:-1]),
            quantized_counts=tuple(after[1:-1]),
            float_below=before[0],
            float_above=before[-1],
            quantized_below=after[0],
            quantized_above=after[-1],
        )


def _spread(a: tuple[T, T], b: tuple[T, T]) -> tuple[T, T]:
    """Return the smallest and the largest of two such pairs."""
    return min(a[0], b[0]), max(a[1], b[1])
