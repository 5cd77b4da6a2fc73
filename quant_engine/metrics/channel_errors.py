"""Errors of a layer's output, streaming: of the whole tensor, and relative to each channel.

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

from quant_engine.errors import DataError
from quant_engine.metrics.energies import Energies, ErrorStats, split_samples
from quant_engine.report import RelativeErrors
from quant_engine.tensors.histogram import FloatArray, IntArray

PARTS = 4
"""Bins in an octave while counting; the report joins pairs of them."""

_DOWN, _UP = 26, 14  # octaves below and above the first batch's RMS that have bins of their own
_BINS = PARTS * (_DOWN + _UP)
_MANTISSA_BITS, _EXPONENTS, _BIAS = 23, 256, 127  # of a float32
# Where the bins begin among the exponents: the first catches all below it too, the last all above.
_EDGES = [0, *range(_BIAS - PARTS * _DOWN + 1, _BIAS + PARTS * _UP)]
_SHORT = 32
LOWEST, HIGHEST = -16, 5
"""The report's bins: from 2^-16 (15 parts in a million) to 2^5 (32 times) of the channel's RMS."""

_Counts = npt.NDArray[np.int32] | npt.NDArray[np.int64]


class ChannelErrorStats:
    """Energies of a signal and of its error, and counts of |x̂ - x| in every channel; mergeable.

    Sums over the positions of one channel in one sample are float32, by torch's cascade; sums of
    these are float64.

    Attributes:
        axis: Axis of the channels, counted from the end; None takes the tensor for one channel.
        pooled: Energies of all channels together.
    """

    def __init__(self, axis: int | None) -> None:
        """Start empty."""
        self.axis = axis
        self.pooled = ErrorStats()
        self._octave: int | None = None  # of the first batch's RMS: where the bins stand
        self._counts: _Counts = np.zeros((0, _BINS), dtype=np.int32)
        self._exact: IntArray = np.zeros(0, dtype=np.int64)
        self._values = 0
        self._signal: FloatArray = np.zeros(0)
        self._noise: FloatArray = np.zeros(0)
        self._sum: FloatArray = np.zeros(0)  # of x̂ - x

    def update(self, x: Tensor, x_hat: Tensor) -> None:
        """Count a batch of equal shapes; the first axis counts samples.

        A batch with another number of channels than the first is counted in `pooled` only.

        Raises:
            DataError: If a value is NaN or Inf.
        """
        if x.numel() == 0:
            return
        x, x_hat = self._laid_out(x), self._laid_out(x_hat)
        if self._octave is None:
            rms = float(torch.linalg.vector_norm(x, dtype=torch.float64)) / math.sqrt(x.numel())
            self._octave = max(-126, math.floor(math.log2(rms))) if 0 < rms < math.inf else 0
        channels = x.shape[2]
        first = torch.arange(channels, dtype=torch.int32, device=x.device) * _EXPONENTS
        places = torch.empty(x.shape, dtype=torch.int32, device=x.device)
        pieces = zip(*(split_samples(t) for t in (x, x_hat, places)), strict=True)
        measured = [self._measure(a, b, place, first) for a, b, place in pieces]
        sums, largest, exact = zip(*measured, strict=True)
        unit = 2.0**self._octave
        signal, noise, other, shift = (
            torch.cat(parts).double().cpu().numpy() for parts in zip(*sums, strict=True)
        )
        energies = (energy.sum(axis=1) * unit**2 for energy in (signal, noise, other))
        self.pooled.add(x.numel(), [Energies._make((*energies, max(largest) * unit))])
        if not self._counts.size:
            self._counts = np.zeros((channels, _BINS), dtype=np.int32)
            self._exact = np.zeros(channels, dtype=np.int64)
            self._signal, self._noise, self._sum = (np.zeros(channels) for _ in range(3))
        elif channels != len(self._counts):
            return
        self._signal += signal.sum(axis=0) * unit**2
        self._noise += noise.sum(axis=0) * unit**2
        self._sum += shift.sum(axis=0) * unit
        self._make_room_for(x.numel() // channels)
        counted = torch.bincount(places.reshape(-1), minlength=channels * _EXPONENTS)
        found = counted.cpu().numpy().reshape(channels, _EXPONENTS)
        found[:, 0] -= sum(exact)
        self._exact += sum(exact)
        self._counts += np.add.reduceat(found, _EDGES, axis=1)

    def _make_room_for(self, values: int) -> None:
        """Take in so many more values of each channel; wider counts where int32 would not do."""
        self._values += values
        if self._values > np.iinfo(np.int32).max:
            self._counts = self._counts.astype(np.int64)

    def _laid_out(self, x: Tensor) -> Tensor:
        """Return a tensor as (samples, positions before the channels, channels, after them)."""
        x = x.detach()
        if self.axis is None or x.dim() < -self.axis:
            return x.reshape(len(x) if x.dim() > 1 else 1, 1, 1, -1)
        axis = x.dim() + self.axis
        samples = len(x) if axis > 0 else 1
        return x.reshape(samples, math.prod(x.shape[1:axis]), x.shape[axis], -1)

    def _measure(
        self, x: Tensor, x_hat: Tensor, places: Tensor, first: Tensor
    ) -> tuple[list[Tensor], float, IntArray]:
        """Sum a piece of a batch, and write for each value where its error is counted.

        That is the exponent of the error's fourth power, floor(4·log2|e|), behind those of the
        channels before, which begin at `first`.

        Returns:
            Σx², Σ(x̂-x)², Σx̂² and Σ(x̂-x), each of shape (samples, channels), and the largest
            |x̂-x|, all in units of 2^octave; how many errors of each channel are 0.
        """
        assert self._octave is not None
        # By a power of two, which changes no digit: squares then stay far from float32's ends.
        scaled, scaled_hat = (t.float() * 2.0**-self._octave for t in (x, x_hat))
        error = scaled_hat - scaled
        lo, hi = (float(edge) for edge in torch.aminmax(error))
        if not (math.isfinite(lo) and math.isfinite(hi)):
            raise DataError("The values hold NaN or Inf.")
        shift = _over_positions(error)
        squares = [values.mul_(values) for values in (scaled, error, scaled_hat)]
        sums = [*map(_over_positions, squares), shift]
        exponents = error.mul_(error).view(torch.int32).bitwise_right_shift_(_MANTISSA_BITS)
        # A fourth power may be 0 where the error is not.
        tiny = torch.from_numpy(np.flatnonzero(exponents.cpu().numpy() == 0)).to(x.device)
        before, after = (t.reshape(-1)[tiny].float() for t in (x, x_hat))
        channel = tiny[before == after] // x.shape[3] % len(first)
        exact: IntArray = torch.bincount(channel, minlength=len(first)).cpu().numpy()
        torch.add(exponents, first[:, None], out=places)
        return sums, max(-lo, hi), exact

    def merge(self, other: ChannelErrorStats) -> None:
        """Add what another instance on the same tensor has seen."""
        self.pooled.merge(other.pooled)
        if other._octave is None:
            return
        if self._octave is None:
            self._octave = other._octave
            self._counts, self._exact = other._counts.copy(), other._exact.copy()
            self._signal, self._noise = other._signal.copy(), other._noise.copy()
            self._sum = other._sum.copy()
            self._values = other._values
            return
        self._make_room_for(other._values)
        self._counts += _moved(other._counts, PARTS * (other._octave - self._octave))
        self._exact += other._exact
        self._signal += other._signal
        self._noise += other._noise
        self._sum += other._sum

    def relative(self) -> RelativeErrors | None:
        """Return the errors relative to their channel, of all seen; None before the first value."""
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


def _over_positions(values: Tensor) -> Tensor:
    """Return sums over positions, shape (samples, channels)."""
    positions = values.shape[3]
    if positions == 1:
        return values.squeeze(3).sum(dim=1)
    if positions <= _SHORT:  # torch sums short rows one by one
        return (values @ values.new_ones(positions)).sum(dim=1)
    return values.sum(dim=(1, 3))


def _moved(counts: _Counts, bins: int) -> _Counts:
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
