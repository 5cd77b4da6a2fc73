"""Streaming statistics of what rounding to a grid does: errors, codes and histograms.

With one scale, a single count serves all histograms. Each value is counted by its code and by its
error in fine parts of a step; sums over this table give the codes, the errors in LSB and the
values. What is clipped lies outside the table and is counted apart.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.metrics.energies import Energies, ErrorStats, split_samples
from quant_engine.model.forward import is_finite
from quant_engine.report import CodeUsage, ErrorHistogram, ErrorMetrics, ValueHistogram
from quant_engine.tensors.affine import QParams, split_columns
from quant_engine.tensors.histogram import IntArray, piece_columns

LSB_WINDOW = 1.0
LSB_BINS = 64
VALUE_BINS = 128

_STEP_BINS = LSB_BINS // 2  # error bins from -0.5 to 0.5 LSB
# A hair towards zero, so that ties of exactly half a step stay inside ±0.5.
_HAIR = 1.0 - 1e-6


class GridStats:
    """What rounding to a grid does to a stream of values: errors, codes, histograms.

    With one scale, value bins are whole codes or odd parts of one, so that no bin catches more
    codes than its neighbour; with more than one they divide the range [lo, hi] evenly.

    Attributes:
        qparams: The grid.
        errors: Energies of values and errors.
    """

    def __init__(self, qparams: QParams, window: tuple[float, float] | None = None) -> None:
        """Start empty; `window` is the value range to draw, needed for more than one scale."""
        self.qparams = qparams
        self.errors = ErrorStats()
        self._levels = qparams.qmax - qparams.qmin + 1
        self._clipped_below = 0
        self._clipped_above = 0
        self._clipping_energy = 0.0
        self._lsb_energy = 0.0
        if qparams.axis is None:
            self._codes_per_bin, self._parts = bin_layout(self._levels)
            bins = -(-self._levels // self._codes_per_bin) * self._parts
            step = float(qparams.scale.double())
            self._lo = (qparams.qmin - 0.5 - int(qparams.zero_point)) * step
            self._hi = self._lo + bins * step * self._codes_per_bin / self._parts
        else:
            assert window is not None
            bins = VALUE_BINS
            self._codes_per_bin, self._parts = 1, 1
            self._lo, self._hi = window
        # By code, by error from -0.5 to 0.5 LSB. Clipped values are in the outermost entries.
        self._table: IntArray = np.zeros((self._levels, _STEP_BINS * self._parts), dtype=np.int64)
        self._lsb: IntArray = np.zeros(LSB_BINS + 2, dtype=np.int64)
        self._values: IntArray = np.zeros(bins + 2, dtype=np.int64)
        self._stand_ins: IntArray = np.zeros(bins + 2, dtype=np.int64)

    def update(self, x: Tensor) -> Tensor:
        """Count a batch; the first axis counts samples.

        Returns:
            What the values are rounded to, float32: bit-equal to `affine.fake_quantize`.

        Raises:
            DataError: If a value is NaN or Inf.
        """
        x = x.detach()
        x_hat = torch.empty_like(x, dtype=torch.float32)
        if x.numel() == 0:
            return x_hat
        pieces = zip(split_samples(x), split_samples(x_hat), strict=True)
        measured = [self._measure(piece.float(), out, self.qparams) for piece, out in pieces]
        self.errors.add(x.numel(), measured)
        return x_hat

    def update_whole(self, rows: Tensor) -> None:
        """Count one tensor that is at hand as a whole, a piece of it at a time.

        Args:
            rows: Float values, shape (channels, values of a channel); all of them count as one
                sample, so that the cosine is that of the whole tensor.

        Raises:
            DataError: If a value is NaN or Inf.
        """
        pieces = split_columns(rows.detach(), self.qparams, piece_columns(len(rows)))
        found = [
            self._measure(piece.float(), torch.empty_like(piece).float(), grid)
            for piece, grid in pieces
        ]
        signal, noise, other = (
            np.concatenate([getattr(piece, name) for piece in found]).sum(keepdims=True)
            for name in ("signal", "noise", "other")
        )
        largest = max(piece.max_abs for piece in found)
        self.errors.add(rows.numel(), [Energies(signal, noise, other, largest)])

    def _measure(self, x: Tensor, x_hat: Tensor, grid: QParams) -> Energies:
        """Count values on the grid or a part of it, and write what they are rounded to."""
        measure = self._measure_single if grid.axis is None else self._measure_channels
        return measure(x, x_hat, grid)

    def _measure_single(self, x: Tensor, x_hat: Tensor, grid: QParams) -> Energies:
        """Count values that have one scale, and write what they are rounded to."""
        zero_point = int(grid.zero_point)
        lowest, highest = grid.qmin - zero_point, grid.qmax - zero_point
        steps = x / grid.scale
        raw = steps.round()
        lo, hi = (float(edge) for edge in torch.aminmax(raw))
        is_clipping = not (lo >= lowest and hi <= highest)
        if is_clipping:
            _require_finite(x)
        codes = raw.clamp(lowest, highest) if is_clipping else raw
        codes += 0.0  # -0.0 becomes 0.0
        torch.mul(codes, grid.scale, out=x_hat)
        energies = Energies.of(x, x_hat)
        lsb = codes - steps
        if is_clipping:
            outside = (raw != codes).reshape(-1).nonzero().squeeze(1)
            position = steps.reshape(-1)[outside].sub_(lowest - 0.5)
            position *= self._parts / self._codes_per_bin
            bins = self._values.size - 2
            self._values += count_window(position, 0.0, float(bins), bins)
            error = x_hat.reshape(-1)[outside] - x.reshape(-1)[outside]
            self._count_clipped(lsb.reshape(-1)[outside], error)
            lsb.clamp_(-0.5, 0.5)
        fine = self._table.shape[1]
        part = lsb.mul_(fine * _HAIR).add_(fine / 2).to(torch.int32)
        index = codes.sub_(lowest).to(torch.int32).mul_(fine).add_(part)
        self._table += _count(index, self._table.size).reshape(self._table.shape)
        return energies

    def _measure_channels(self, x: Tensor, x_hat: Tensor, grid: QParams) -> Energies:
        """Count values that have one scale per channel or group, and write their roundings."""
        _require_finite(x)
        scale = grid.aligned(grid.scale, x.shape)
        zero_point = grid.aligned(grid.zero_point, x.shape).float()
        raw = torch.round(x / scale)
        codes = torch.clamp(raw, grid.qmin - zero_point, grid.qmax - zero_point) + 0.0
        torch.mul(codes, scale, out=x_hat)
        error = x_hat - x
        lsb = error / scale
        self._lsb_energy += _energy(lsb)
        is_outside = raw != codes
        self._count_clipped(lsb[is_outside], error[is_outside])
        inside = lsb.clamp(-0.5, 0.5).mul_(_STEP_BINS * _HAIR).add_(_STEP_BINS / 2)
        index = (codes + zero_point).sub_(grid.qmin).to(torch.int32).mul_(_STEP_BINS)
        index += inside.to(torch.int32)
        self._table += _count(index, self._table.size).reshape(self._table.shape)
        self._values += count_window(x, self._lo, self._hi, VALUE_BINS)
        self._stand_ins += count_window(x_hat, self._lo, self._hi, VALUE_BINS)
        return Energies.of(x, x_hat)

    def _count_clipped(self, lsb: Tensor, error: Tensor) -> None:
        """Count the errors of clipped values, in LSB and in units of the values."""
        below = int(torch.count_nonzero(lsb > 0))
        self._clipped_below += below
        self._clipped_above += lsb.numel() - below
        self._clipping_energy += _energy(error)
        self._lsb += count_window(lsb * _HAIR, -LSB_WINDOW, LSB_WINDOW, LSB_BINS)

    def merge(self, other: GridStats) -> None:
        """Add what another instance on the same grid has seen."""
        self.errors.merge(other.errors)
        self._clipped_below += other._clipped_below
        self._clipped_above += other._clipped_above
        self._clipping_energy += other._clipping_energy
        self._lsb_energy += other._lsb_energy
        self._table += other._table
        self._lsb += other._lsb
        self._values += other._values
        self._stand_ins += other._stand_ins

    def metrics(self) -> ErrorMetrics:
        """Return the figures, with the squared error split into rounding and clipping."""
        return rounding_metrics(self.errors, self.lsb_energy, self.clipping_energy, self.clipped)

    @property
    def lsb_energy(self) -> float:
        """Σ((x-x̂)/scale)²."""
        if self.qparams.axis is not None:
            return self._lsb_energy
        return self.errors.noise / float(self.qparams.scale.double()) ** 2

    @property
    def clipping_energy(self) -> float:
        """Σ(x-x̂)² over the clipped values."""
        return self._clipping_energy

    @property
    def clipped(self) -> int:
        """Number of clipped values."""
        return self._clipped_below + self._clipped_above

    def code_usage(self) -> CodeUsage:
        """Return how often each code occurred."""
        return CodeUsage(self.qparams.qmin, tuple(self._table.sum(axis=1).tolist()))

    def error_histogram(self) -> ErrorHistogram:
        """Return the errors in LSB."""
        counts = self._lsb.copy()
        inside = self._unclipped().reshape(self._levels, _STEP_BINS, self._parts).sum(axis=(0, 2))
        first = 1 + (LSB_BINS - _STEP_BINS) // 2
        counts[first : first + _STEP_BINS] += inside
        below, *inner, above = counts.tolist()
        return ErrorHistogram(-LSB_WINDOW, LSB_WINDOW, tuple(inner), below=below, above=above)

    def value_histogram(self) -> ValueHistogram:
        """Return values before and after on shared bins."""
        before, after = self._values.copy(), self._stand_ins.copy()
        if self.qparams.axis is None:
            # A value lies below its code where the error is positive: parts run backwards.
            parts = self._unclipped()[:, ::-1].reshape(-1, _STEP_BINS).sum(axis=1)
            before[1:-1] += self._in_value_bins(parts)
            whole = np.zeros((self._levels, self._parts), dtype=np.int64)
            whole[:, self._parts // 2] = self._table.sum(axis=1)
            after[1:-1] += self._in_value_bins(whole.reshape(-1))
        return ValueHistogram(
            lo=self._lo,
            hi=self._hi,
            float_counts=tuple(before[1:-1].tolist()),
            quantized_counts=tuple(after[1:-1].tolist()),
            float_below=int(before[0]),
            float_above=int(before[-1]),
            quantized_below=int(after[0]),
            quantized_above=int(after[-1]),
        )

    def _unclipped(self) -> IntArray:
        """Return the table without the clipped values."""
        table = self._table.copy()
        table[0, -1] -= self._clipped_below
        table[-1, 0] -= self._clipped_above
        return table

    def _in_value_bins(self, parts: IntArray) -> IntArray:
        """Return counts by part of a code as counts by value bin."""
        missing = -parts.size % self._codes_per_bin
        joined: IntArray = np.pad(parts, (0, missing)).reshape(-1, self._codes_per_bin).sum(axis=1)
        return joined


def rounding_metrics(
    errors: ErrorStats, lsb_energy: float, clipping_energy: float, clipped: int
) -> ErrorMetrics:
    """Return the figures of a tensor that was rounded to a grid.

    Args:
        errors: Energies of values and errors.
        lsb_energy: Σ((x-x̂)/scale)².
        clipping_energy: Σ(x-x̂)² over the clipped values.
        clipped: Number of clipped values.
    """
    plain = errors.metrics()
    count = max(plain.count, 1)
    clipping = min(clipping_energy / count, plain.mse)
    return replace(
        plain,
        rmse_over_scale=math.sqrt(lsb_energy / count),
        rounding_mse=plain.mse - clipping,
        clipping_mse=clipping,
        clipped_fraction=clipped / count,
    )


def _require_finite(x: Tensor) -> None:
    if not is_finite(x):
        raise DataError("The values hold NaN or Inf. Remove them from the data.")


def _energy(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


def bin_layout(levels: int) -> tuple[int, int]:
    """Return codes in a bin and bins in a code (one of the two is 1), for about 128 bins."""
    if levels > VALUE_BINS:
        codes = levels // VALUE_BINS + (levels % 2)
        return codes, 1
    parts = VALUE_BINS // levels
    return 1, max(1, parts if parts % 2 else parts + 1)


def _count(index: Tensor, size: int) -> IntArray:
    flat = index.to(torch.int32).reshape(-1)
    counted: IntArray = torch.bincount(flat, minlength=size).cpu().numpy()
    return counted


def count_window(x: Tensor, lo: float, hi: float, bins: int) -> IntArray:
    """Count x on even bins over [lo, hi], with one entry before and one behind for the rest."""
    return _count(window_index(x, lo, hi, bins), bins + 2)


def window_index(x: Tensor, lo: float, hi: float, bins: int) -> Tensor:
    """Return the bin of each value, 1 to bins; 0 below the window and bins + 1 above it."""
    if hi <= lo:
        width = 1.0
        lo -= bins / 2
    else:
        width = (hi - lo) / bins
    index = ((x - lo) / width).floor_()
    if hi > lo:
        # The last bin holds its right edge, and what rounding in the division moved there.
        index = torch.where(x > hi, float(bins), index.clamp_(max=bins - 1.0))
    return index.add_(1.0).clamp_(0.0, bins + 1.0)
