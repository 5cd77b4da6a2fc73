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

PARTS = 4
"""Bins in an octave while counting; the report joins pairs of them."""

_DOWN, _UP = 26, 14  # octaves below and above the first batch's RMS that have bins of their own
_BINS = PARTS * (_DOWN + _UP)
_MANTISSA_BITS, _EXPONENTS, _BIAS = 23, 256, 127  # of a float32
# Where the bins begin among the exponents: the first catches all below it too, the last all above.
_EDGES = [0, *range(_BIAS - PARTS * _DOWN + 1, _BIAS + PARTS * _UP)]
LOWEST, HIGHEST = -16, 5
"""The report's bins: from 2^-16 (15 parts in a million) to 2^5 (32 times) of the channel's RMS."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
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
        exponents = torch.empty(x.shape, dtype=torch.int32, device=x.device)
        pieces = zip(*map(split_samples, (x, x_hat, exponents)), strict=True)
        sums, largest = zip(*(self._sums(*piece) for piece in pieces), strict=True)
        unit = 2.0**self._octave
        total = torch.cat([piece.pop() for piece in sums]).double() * unit
        signal, noise, other = (
            torch.cat(parts).double() * unit**2 for parts in zip(*sums, strict=True)
        )
        of_samples = (energy.sum(dim=1) for energy in (signal, noise, other))
        self.pooled.add(x.numel(), [Energies._make((*of_samples, max(largest) * unit))])
        channels = x.shape[2]
        if not self._counts.size:
            self._counts = np.zeros((channels, _BINS), dtype=np.int32)
            self._exact = np.zeros(channels, dtype=np.int64)
            self._signal, self._noise, self._sum = (np.zeros(channels) for _ in range(3))
        elif channels != len(self._counts):
            return
        self._signal += signal.sum(dim=0).cpu().numpy()
        self._noise += noise.sum(dim=0).cpu().numpy()
        self._sum += total.sum(dim=0).cpu().numpy()
        self._values += x.numel() // channels
        if self._values > np.iinfo(np.int32).max:
            self._counts = self._counts.astype(np.int64)
        exact = _count_exact(x, x_hat, exponents)
        self._exact += exact
        first = torch.arange(channels, dtype=torch.int32, device=x.device) * _EXPONENTS
        exponents += first[:, None]
        counted = torch.bincount(exponents.reshape(-1), minlength=channels * _EXPONENTS)
        found = counted.cpu().numpy().reshape(channels, _EXPONENTS)
        found[:, 0] -= exact
        self._counts += np.add.reduceat(found, _EDGES, axis=1)

    def _laid_out(self, x: Tensor) -> Tensor:
        """Return a tensor as (samples, positions before the channels, channels, after them)."""
        x = x.detach()
        if self.axis is None or x.dim() < -self.axis:
            return x.reshape(len(x) if x.dim() > 1 else 1, 1, 1, -1)
        axis = x.dim() + self.axis
        samples = len(x) if axis > 0 else 1
        return x.reshape(samples, math.prod(x.shape[1:axis]), x.shape[axis], -1)

    def _sums(self, x: Tensor, x_hat: Tensor, exponents: Tensor) -> tuple[list[Tensor], float]:
        """Sum a piece of a batch, and write the exponents of its errors' fourth powers.

        The exponent of the fourth power, floor(4·log2|e|), is the error's quarter octave.

        Returns:
            Σx², Σ(x̂-x)², Σx̂² and Σ(x̂-x), each of shape (samples, channels), and the largest
            |x̂-x|; all in units of 2^octave.
        """
        assert self._octave is not None
        # By a power of two, which changes no digit: squares then stay far from float32's ends.
        x, x_hat = (t.float() * 2.0**-self._octave for t in (x, x_hat))
        error = x_hat - x
        lo, hi = (float(edge) for edge in torch.aminmax(error))
        if not (math.isfinite(lo) and math.isfinite(hi)):
            raise DataError("The values hold NaN or Inf.")
        shift = error.sum(dim=(1, 3))
        squares = (x.mul_(x), error.mul_(error), x_hat.mul_(x_hat))
        sums = [*(values.sum(dim=(1, 3)) for values in squares), shift]
        fourth = error.mul_(error).view(torch.int32)
        torch.bitwise_right_shift(fourth, _MANTISSA_BITS, out=exponents)
        return sums, max(-lo, hi)

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
        self._counts += _moved(other._counts, PARTS * (other._octave - self._octave))
        self._exact += other._exact
        self._signal += other._signal
        self._noise += other._noise
        self._sum += other._sum
        self._values += other._values

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


def _count_exact(x: Tensor, x_hat: Tensor, exponents: Tensor) -> IntArray:
    """Count errors of 0 in every channel, among those so small that the fourth power is 0."""
    *_, channels, positions = x.shape
    tiny = np.flatnonzero(exponents.cpu().numpy() == 0)
    before, after = (t.reshape(-1)[torch.from_numpy(tiny)].float().cpu() for t in (x, x_hat))
    exact = tiny[(before == after).numpy()]
    return np.bincount(exact // positions % channels, minlength=channels)


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
