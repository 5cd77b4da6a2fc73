"""The numbers of a response, and what follows from them by addition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from quant_engine.histogram import FloatArray
from quant_engine.metrics import kl_divergences

IntArray = npt.NDArray[np.int64]
SingleArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ResponseArrays:
    """Shifts of the output under every option of every layer.

    A row is one entry along the first axis of the model's output, usually a sample.

    Attributes:
        base: Float output along the kept directions, shape (rows, kept).
        shifts: To be added, shape (layers, options, rows, kept + projections).
        signal: Σz² of each row of the float output, shape (rows,).
        shape: Shape of one row of `base`: classes last where it holds logits.
        has_logits: Whether the output is read as logits.
        is_complete: Whether `base` is the whole output. If not, its last column is all other
            logits as one, and projections stand for what differs among them.
        labels: Column of `base` that is right, -1 for one not kept, shape (rows, *shape[:-1]);
            None without labels.
        output: The whole float output where `base` is not, shape (rows, classes); else None.
        classes: Which logits `base` holds one by one, shape (rows, kept - 1); None if all.
    """

    base: SingleArray
    shifts: SingleArray
    signal: FloatArray
    shape: tuple[int, ...]
    has_logits: bool
    is_complete: bool
    labels: IntArray | None = None
    output: SingleArray | None = None
    classes: IntArray | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.signal)

    def first(self, rows: int) -> ResponseArrays:
        """Return the part about the first rows."""
        return ResponseArrays(
            self.base[:rows],
            self.shifts[:, :, :rows],
            self.signal[:rows],
            self.shape,
            self.has_logits,
            self.is_complete,
            None if self.labels is None else self.labels[:rows],
            None if self.output is None else self.output[:rows],
            None if self.classes is None else self.classes[:rows],
        )

    def shift(self, chosen: Sequence[tuple[int, int]]) -> FloatArray:
        """Return the sum of the shifts of (layer, option) pairs, (rows, kept + projections)."""
        if not chosen:
            return np.zeros(self.shifts.shape[2:])
        layers, options = zip(*chosen, strict=True)
        total: FloatArray = self.shifts[list(layers), list(options)].sum(axis=0, dtype=np.float64)
        return total

    def harms(self, shifts: FloatArray) -> FloatArray:
        """Return the KL divergence in nats, or the NMSE, that shifts of the output mean.

        Args:
            shifts: Shape (configurations, rows, kept + projections).

        Returns:
            Shape (configurations,).
        """
        kept = self.base.shape[1]
        rest = np.square(shifts[..., kept:]).mean(axis=-1) if shifts.shape[-1] > kept else 0.0
        if not self.has_logits:
            noise = np.square(shifts[..., :kept]).sum(axis=-1) + rest
            signal = self.signal.sum()
            total: FloatArray = noise.sum(axis=-1)
            return total / signal if signal else np.where(total > 0, np.inf, 0.0)
        divergence = self.divergences(shifts[..., :kept]) if kept else 0.0
        result: FloatArray = (divergence + rest / 2).mean(axis=-1)
        return result

    def divergences(self, shifts: FloatArray) -> FloatArray:
        """Return the mean KL divergence over a row's places, shape (configurations, rows).

        Args:
            shifts: Shape (configurations, rows, kept).
        """
        shape = (*shifts.shape[:2], *self.shape)
        logits = torch.from_numpy(self.base.astype(np.float64))
        changed = (logits + torch.from_numpy(shifts)).reshape(shape)
        expected = logits.reshape(shape[1:]).expand(shape)
        values = kl_divergences(expected, changed)
        found: FloatArray = values.reshape(*shape[:2], -1).mean(dim=2).numpy()
        return found

    def answers(self, base: FloatArray) -> IntArray:
        """Return the column of the largest logit, shape (rows, *shape[:-1])."""
        logits = base.reshape(-1, *self.shape)
        if not self.is_complete:
            logits = logits[..., :-1]  # the rest as one is no class
        best: IntArray = logits.argmax(axis=-1)
        return best

    def projection_errors(self) -> FloatArray:
        """Return the relative standard error that projections add to each single prediction.

        Returns:
            Shape (layers, options); 0 where nothing is predicted.
        """
        layers, options = self.shifts.shape[:2]
        kept = self.base.shape[1]
        errors = np.zeros((layers, options))
        projections = self.shifts.shape[-1] - kept
        if projections < 2:
            return errors
        scale = 0.5 if self.has_logits else self.rows / max(float(self.signal.sum()), 1e-300)
        for layer in range(layers):
            shifts = self.shifts[layer].astype(np.float64)
            estimates = scale * np.square(shifts[..., kept:]).mean(axis=1)
            total = self.harms(shifts)
            spread = estimates.std(axis=1, ddof=1) / np.sqrt(projections)
            errors[layer] = np.divide(spread, total, out=np.zeros_like(total), where=total > 0)
        return errors
