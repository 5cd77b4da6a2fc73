"""Errors relative to the size of their channel, streaming: which share of its signal is wrong.

The RMS of a channel is known only when all data has been seen. Until then the magnitudes of errors
are counted channel by channel on bins of a quarter of an octave; in the end each channel's bins
are moved by its RMS. A channel that carries little is so judged by what it carries: errors of the
whole tensor hide it behind the loud ones.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from quant_engine.report import RelativeErrors

PARTS = 4
"""Bins in an octave while counting; the report joins pairs of them."""

_DOWN, _UP = 26, 14  # octaves below and above the first batch's RMS that have bins of their own
_BINS = PARTS * (_DOWN + _UP)
LOWEST, HIGHEST = -16, 5
"""The report's bins: from 2^-16 (15 parts in a million) to 2^5 (32 times) of the channel's RMS."""

FloatArray = npt.NDArray[np.float64]


class RelativeErrorStats:
    """Counts |x̂ - x| of every channel; mergeable.

    Attributes:
        axis: Axis of the channels, counted from the end; None pools the whole tensor.
    """

    def __init__(self, axis: int | None) -> None:
        """Start empty."""
        self.axis = axis
        self._octave: int | None = None  # of the first batch's RMS: where the bins stand
        self._counts: npt.NDArray[np.int64] = np.zeros((0, _BINS), dtype=np.int64)
        self._exact: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._values = 0
        self._signal: FloatArray = np.zeros(0)
        self._noise: FloatArray = np.zeros(0)
        self._sum: FloatArray = np.zeros(0)  # of x̂ - x

    def update(self, x: Tensor, x_hat: Tensor) -> None:
        """Count a batch of equal shapes; another number of channels than before is left out."""
        rows = self._rows(x.detach())
        error = self._rows(x_hat.detach()) - rows
        if rows.numel() == 0:
            return
        signal = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()
        noise = torch.linalg.vector_norm(error, dim=1, dtype=torch.float64).square()
        if self._octave is None:
            rms = math.sqrt(float(signal.sum()) / rows.numel())
            self._octave = math.floor(math.log2(rms)) if rms > 0 else 0
        if not self._counts.size:
            channels = len(rows)
            self._counts = np.zeros((channels, _BINS), dtype=np.int64)
            self._exact = np.zeros(channels, dtype=np.int64)
            self._signal, self._noise, self._sum = (np.zeros(channels) for _ in range(3))
        elif len(rows) != len(self._counts):
            return
        self._signal += signal.cpu().numpy()
        self._noise += noise.cpu().numpy()
        self._sum += error.sum(dim=1, dtype=torch.float64).cpu().numpy()
        self._values += rows.shape[1]
        size = error.abs_()
        is_exact = size == 0
        self._exact += is_exact.sum(dim=1).cpu().numpy()
        bins = size.log2_().sub_(self._octave - _DOWN).mul_(PARTS).floor_()
        bins.clamp_(0, _BINS - 1)[is_exact] = _BINS
        index = bins.to(torch.int64)
        index += (_BINS + 1) * torch.arange(len(rows), device=index.device)[:, None]
        counted = torch.bincount(index.reshape(-1), minlength=len(rows) * (_BINS + 1))
        self._counts += counted.cpu().numpy().reshape(len(rows), _BINS + 1)[:, :_BINS]

    def merge(self, other: RelativeErrorStats) -> None:
        """Add what another instance on the same tensor has seen."""
        if other._octave is None:
            return
        if self._octave is None:
            self._octave = other._octave
            self._counts, self._exact = other._counts.copy(), other._exact.copy()
            self._signal, self._noise = other._signal.copy(), other._noise.copy()
            self._sum = other._sum.copy()
            self._values = other._values
            return
        self._counts += _moved(other._counts, PARTS * (other._octave - self._octave))
        self._exact += other._exact
        self._signal += other._signal
        self._noise += other._noise
        self._sum += other._sum
        self._values += other._values

    def _rows(self, x: Tensor) -> Tensor:
        """Return float32 values, one row per channel."""
        x = x.float()
        if self.axis is None or x.dim() < -self.axis:
            return x.reshape(1, -1)
        return x.movedim(self.axis, 0).reshape(x.shape[self.axis], -1)

    def report(self) -> RelativeErrors | None:
        """Return the figures of everything seen; None before the first value."""
        if self._octave is None or not self._values:
            return None
        is_flat = self._signal == 0
        loud = ~is_flat
        octaves = np.log2(np.sqrt(self._signal[loud] / self._values))
        # The bin whose middle lies k quarter octaves above the lowest edge of the report.
        first = PARTS * (self._octave - _DOWN - octaves - LOWEST)
        indices = np.floor(first[:, None] + np.arange(_BINS) + 0.5).astype(np.int64) + 1
        counts = np.zeros(PARTS * (HIGHEST - LOWEST) + 2, dtype=np.int64)
        np.add.at(counts, indices.clip(0, counts.size - 1), self._counts[loud])
        below, *inner, above = counts.tolist()
        halves = tuple(inner[k] + inner[k + 1] for k in range(0, len(inner), 2))
        nmse = self._noise[loud] / self._signal[loud]
        is_wrong = self._noise > 0
        shifts = self._sum[is_wrong] ** 2 / (self._values * self._noise[is_wrong])
        return RelativeErrors(
            lowest_octave=LOWEST,
            counts=halves,
            below=below,
            above=above,
            exact=int(self._exact[loud].sum()),
            channels=len(is_flat),
            flat_channels=int(is_flat.sum()),
            rms=math.sqrt(float(nmse.mean())) if nmse.size else 0.0,
            lost_channels=int((nmse >= 0.5).sum()),
            shift=float(shifts.mean()) if shifts.size else 0.0,
        )


def _moved(counts: npt.NDArray[np.int64], bins: int) -> npt.NDArray[np.int64]:
    """Return the counts `bins` bins higher; what leaves the window stays in its last bin."""
    indices = (np.arange(_BINS) + bins).clip(0, _BINS - 1)
    moved = np.zeros_like(counts)
    for index, column in zip(indices, counts.T, strict=True):
        moved[:, index] += column
    return moved


def input_axis(module: nn.Module) -> int | None:
    """Return the axis of a layer's input that its channels lie on, from the end; None if unknown.

    Example:
        >>> input_axis(nn.Conv2d(3, 8, 3)), input_axis(nn.Linear(4, 2)), input_axis(nn.ReLU())
        (-3, -1, None)
    """
    if isinstance(module, nn.Linear):
        return -1
    if isinstance(module, nn.modules.conv._ConvNd):
        return -1 - len(module.kernel_size)
    return None


def output_axis(module: nn.Module) -> int | None:
    """Return the axis of a layer's output that its channels lie on, from the end.

    Convolutions have them before their spatial axes; all other layers are taken to have them last.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return None
    return input_axis(module) or -1
