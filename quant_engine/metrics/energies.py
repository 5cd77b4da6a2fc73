"""Streaming error statistics: plain sums in float64, so that parts merge into the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.report import ErrorMetrics
from quant_engine.tensors.histogram import FloatArray

_PIECE = 1 << 16


class Energies(NamedTuple):
    """Sums of squares of each sample, float64, shape (samples,).

    Attributes:
        signal: Σx².
        noise: Σ(x-x̂)².
        other: Σx̂².
        max_abs: Largest |x-x̂|, over all samples.
    """

    signal: FloatArray
    noise: FloatArray
    other: FloatArray
    max_abs: float

    @classmethod
    def of(cls, x: Tensor, x_hat: Tensor) -> Energies:
        """Compare two float32 tensors of the same shape that are not empty."""
        error = x_hat - x
        lo, hi = torch.aminmax(error)
        return cls(
            _sum_of_squares(x),
            _sum_of_squares(error),
            _sum_of_squares(x_hat),
            max(-float(lo), float(hi)),
        )


@dataclass(slots=True)
class ErrorStats:
    """Energies of a signal and of its error, over as many batches as come.

    Attributes:
        count: Values compared.
        samples: Samples compared (entries of the first axis).
        signal: Σx².
        noise: Σ(x-x̂)².
        cosine_sum: Sum over samples of the cosine between x and x̂.
        max_abs: Largest |x-x̂|.
    """

    count: int = 0
    samples: int = 0
    signal: float = 0.0
    noise: float = 0.0
    cosine_sum: float = 0.0
    max_abs: float = 0.0

    def update(self, x: Tensor, x_hat: Tensor) -> None:
        """Compare two tensors of the same shape; the first axis counts samples.

        Raises:
            DataError: If the shapes differ.
        """
        if x.shape != x_hat.shape:
            raise DataError(
                f"Cannot compare shapes {tuple(x.shape)} and {tuple(x_hat.shape)}: the quantized "
                "model answered with another shape than the float model."
            )
        if x.numel() == 0:
            return
        pieces = zip(split_samples(x.detach()), split_samples(x_hat.detach()), strict=True)
        self.add(x.numel(), [Energies.of(a.float(), b.float()) for a, b in pieces])

    def add(self, count: int, pieces: Sequence[Energies]) -> None:
        """Add what was measured on pieces of a batch, in order.

        Args:
            count: Values in all pieces together.
            pieces: Energies of each; at least one.
        """
        signal, noise, other = (
            np.concatenate([getattr(piece, name) for piece in pieces])
            for name in ("signal", "noise", "other")
        )
        # The inner product follows from the three energies: 2<x, x̂> = |x|² + |x̂|² - |x-x̂|².
        norms = np.sqrt(signal * other)
        cosine = np.divide(
            *(signal + other - noise, 2 * norms), out=np.zeros_like(norms), where=norms > 0
        )
        cosine[(signal == 0) & (other == 0)] = 1.0
        self.count += count
        self.samples += signal.size
        self.signal += float(signal.sum())
        self.noise += float(noise.sum())
        self.cosine_sum += float(cosine.clip(-1.0, 1.0).sum())
        self.max_abs = max(self.max_abs, *(piece.max_abs for piece in pieces))

    def merge(self, other: ErrorStats) -> None:
        """Add what another instance has seen."""
        self.count += other.count
        self.samples += other.samples
        self.signal += other.signal
        self.noise += other.noise
        self.cosine_sum += other.cosine_sum
        self.max_abs = max(self.max_abs, other.max_abs)

    @property
    def sqnr_db(self) -> float:
        """10·log10(signal / noise) in dB; inf without noise, -inf where noise is all there is."""
        return to_sqnr_db(self.signal, self.noise)

    def metrics(self) -> ErrorMetrics:
        """Return the figures of a tensor that was not rounded to a grid itself."""
        return ErrorMetrics(
            count=self.count,
            sqnr_db=self.sqnr_db,
            nmse=to_nmse(self.signal, self.noise),
            cosine=self.cosine_sum / self.samples if self.samples else 1.0,
            mse=self.noise / self.count if self.count else 0.0,
            max_abs_error=self.max_abs,
        )


def to_sqnr_db(signal: float, noise: float) -> float:
    """Return 10·log10(signal / noise) in dB; inf without noise.

    Example:
        >>> to_sqnr_db(100.0, 1.0)
        20.0
    """
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def to_nmse(signal: float, noise: float) -> float:
    """Return noise / signal; 0 without noise, inf without signal."""
    if noise == 0.0:
        return 0.0
    return noise / signal if signal > 0.0 else math.inf


def split_samples(x: Tensor) -> tuple[Tensor, ...]:
    """Cut a tensor between samples into pieces small enough to stay in the processor's cache.

    Working through a piece before the next one is fetched is several times as fast: results of
    one step are still at hand for the next, and their memory is used again at once.
    """
    if x.dim() < 2 or x.numel() <= _PIECE:
        return (x,)
    return torch.split(x, max(1, _PIECE * len(x) // x.numel()))


def _sum_of_squares(x: Tensor) -> FloatArray:
    """Return Σx² of every sample, float64, shape (samples,)."""
    rows = x.reshape(x.shape[0], -1) if x.dim() > 1 else x.reshape(1, -1)
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    squares: FloatArray = norms.square().cpu().numpy()
    return squares
