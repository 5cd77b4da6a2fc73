"""The numbers of a response, and what follows from them by addition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from quant_engine.metrics.counts import IGNORED
from quant_engine.metrics.functions import kl_divergences
from quant_engine.tensors.histogram import FloatArray

IntArray = npt.NDArray[np.int64]
SingleArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

LayerOption: TypeAlias = tuple[int, int]
"""Indices of a layer and of an option."""


@dataclass(frozen=True, eq=False)
class ResponseArrays:
    """Shifts of the output under every option of every layer.

    A row is one entry along the first axis of the model's output, usually a sample.

    Attributes:
        base: Float output along the kept directions, shape (rows, kept).
        shifts: To be added, shape (layers, options, rows, kept + projections).
        roundings: The part of them that comes from rounding the layer's input, shape (layers,
            roundings, rows, kept + projections); options with the same input grid share one.
        rounding_of: For each option its index in `roundings`, or -1; shape (options,).
        sources: Whether the input of one layer depends on another one, shape (layers, layers).
        signal: Σz² of each row of the float output, shape (rows,).
        shape: Shape of one row of `base`: classes last where it holds logits.
        has_logits: Whether the output is read as logits.
        is_complete: Whether `base` is the whole output. If not, its last column is all other
            logits as one, and projections stand for what differs among them.
        labels: Column of `base` that is right, -1 for one not kept, `IGNORED` for a row that does
            not count, shape (rows, *shape[:-1]); None without labels.
        output: The whole float output where `base` is not, shape (rows, classes); else None.
        classes: Which logits `base` holds one by one, shape (rows, kept - 1); None if all.
        positions: Number of positions that count in each row, shape (rows,); None if all do.
        counted: Which do, shape (rows, *shape[:-1]); None if all do. What moves one that does not
            is 0.
        factor: What the NMSE is multiplied by: 0.5 for embeddings of length 1, which makes it
            1 - cosine.
    """

    base: SingleArray
    shifts: SingleArray
    roundings: SingleArray
    rounding_of: IntArray
    sources: BoolArray
    signal: FloatArray
    shape: tuple[int, ...]
    has_logits: bool
    is_complete: bool
    labels: IntArray | None = None
    output: SingleArray | None = None
    classes: IntArray | None = None
    positions: FloatArray | None = None
    counted: BoolArray | None = None
    factor: float = 1.0

    @property
    def total(self) -> float:
        """What summed degradations are divided by: positions that count, or Σz² of values."""
        if not self.has_logits:
            return float(self.signal.sum())
        if self.positions is None:
            return float(self.rows * max(int(np.prod(self.shape[:-1])), 1))
        return float(self.positions.sum())

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.signal)

    def first(self, rows: int) -> ResponseArrays:
        """Return the part about the first rows."""
        by_row = ("base", "signal", "labels", "output", "classes", "positions", "counted")
        whole = {name: getattr(self, name) for name in by_row}
        first: dict[str, Any] = {n: None if x is None else x[:rows] for n, x in whole.items()}
        shifts, roundings = self.shifts[:, :, :rows], self.roundings[:, :, :rows]
        return replace(self, shifts=shifts, roundings=roundings, **first)

    def shift(self, chosen: Sequence[LayerOption]) -> FloatArray:
        """Return the sum of the shifts of (layer, option) pairs, (rows, kept + projections)."""
        if not chosen:
            return np.zeros(self.shifts.shape[2:])
        layers, options = zip(*chosen, strict=True)
        total: FloatArray = self.shifts[list(layers), list(options)].sum(axis=0, dtype=np.float64)
        return total

    def effect(self, chosen: Sequence[LayerOption]) -> tuple[FloatArray, FloatArray]:
        """Return the part of a shift that is certain, and the mean degradation by its noise.

        A layer whose input a quantized layer has changed rounds other values than the float model's
        layer did: of that rounding only the energy is known, not the sign.

        Returns:
            Shapes (rows, kept + projections) and (rows,).
        """
        shift = self.shift(chosen)
        degradation = np.zeros(self.rows)
        places = [layer for layer, _ in chosen]
        for layer, option in chosen:
            rounding = int(self.rounding_of[option])
            if rounding >= 0 and self.sources[layer, places].any():
                shift -= self.roundings[layer, rounding]
                degradation += self.rounding_degradation[layer, rounding]
        return shift, degradation

    def degradation(self, chosen: Sequence[LayerOption]) -> float:
        """Return the KL divergence in nats, the NMSE or 1 - cosine, under (layer, option) pairs."""
        shift, degradation = self.effect(chosen)
        return float(self.degradations(shift[None], degradation[None])[0])

    def degradations(self, shifts: FloatArray, noise: FloatArray | float = 0.0) -> FloatArray:
        """Return the KL divergence in nats, the NMSE or 1 - cosine, that shifts of the output mean.

        Args:
            shifts: Shape (configurations, rows, kept + projections).
            noise: Degradation by noise besides, shape (configurations, rows).

        Returns:
            Shape (configurations,).
        """
        kept = self.base.shape[1]
        degradation = np.zeros(shifts.shape[:2])
        if shifts.shape[-1] > kept:
            rest = np.square(shifts[..., kept:]).mean(axis=-1)
            degradation += rest / 2 if self.has_logits else rest
        if self.has_logits:
            degradation += self.divergences(shifts[..., :kept]) if kept else 0.0
        else:
            degradation += np.square(shifts[..., :kept]).sum(axis=-1)
        summed: FloatArray = (self.factor * degradation + noise).sum(axis=-1)
        return summed / self.total if self.total else np.where(summed > 0, np.inf, 0.0)

    def divergences(self, shifts: FloatArray) -> FloatArray:
        """Return the KL divergence summed over a row's positions, shape (configurations, rows).

        Args:
            shifts: Shape (configurations, rows, kept).
        """
        shape = (*shifts.shape[:2], *self.shape)
        logits = torch.from_numpy(self.base.astype(np.float64))
        changed = (logits + torch.from_numpy(shifts)).reshape(shape)
        values = kl_divergences(logits.reshape(shape[1:]).expand(shape), changed)
        found: FloatArray = values.reshape(*shape[:2], -1).sum(dim=2).numpy()
        return found

    def features(self, shifts: FloatArray) -> FloatArray:
        """Return vectors whose squared norms are, row by row, the degradation to second order.

        KL(p || q) is half of the variance of Δ under p, to second order in the shift Δ of the
        logits.

        Args:
            shifts: Shape (..., rows, kept + projections).
        """
        kept = self.base.shape[1]
        known, rest = shifts[..., :kept], shifts[..., kept:]
        if rest.shape[-1]:
            rest = rest / np.sqrt(rest.shape[-1] * (2.0 if self.has_logits else 1.0))
        if self.has_logits and kept:
            logits = self.base.astype(np.float64).reshape(self.rows, *self.shape)
            p = np.exp(logits - logits.max(axis=-1, keepdims=True))
            p /= p.sum(axis=-1, keepdims=True)
            moved = known.reshape(*known.shape[:-1], *self.shape)
            moved = np.sqrt(p) * (moved - (p * moved).sum(axis=-1, keepdims=True))
            known = moved.reshape(known.shape) / np.sqrt(2.0)
        joined: FloatArray = np.sqrt(self.factor) * np.concatenate([known, rest], axis=-1)
        return joined

    @cached_property
    def rounding_degradation(self) -> FloatArray:
        """Degradation of the roundings to second order, shape (layers, roundings, rows)."""
        layers = [np.square(self.features(part.astype(np.float64))) for part in self.roundings]
        degradation: FloatArray = np.stack(layers).sum(axis=-1)
        return degradation

    def answers(self, shift: FloatArray | None = None) -> IntArray:
        """Return the column of the largest logit, shape (rows, *shape[:-1]).

        Args:
            shift: Of the output, shape (rows, kept + projections); None for the float model.
        """
        base = self.base if shift is None else self.base + shift[:, : self.base.shape[1]]
        logits = base.reshape(-1, *self.shape)
        if not self.is_complete:
            logits = logits[..., :-1]  # the rest as one is not a class
        best: IntArray = logits.argmax(axis=-1)
        return best

    def accuracy(self, shift: FloatArray | None = None) -> float | None:
        """Return the share of labelled rows that are right; None without labels; see `answers`."""
        if self.labels is None:
            return None
        is_right = self.answers(shift) == self.labels
        is_labelled = self.labels != IGNORED
        return float(is_right[is_labelled].mean()) if is_labelled.any() else None

    def agreement(self, shift: FloatArray) -> float:
        """Return the share of positions that count whose largest logit stays the same."""
        is_same = self.answers(shift) == self.float_answers
        kept = is_same if self.counted is None else is_same[self.counted]
        return float(kept.mean()) if kept.size else 1.0

    @cached_property
    def float_answers(self) -> IntArray:
        """What the float model answers; see `answers`."""
        return self.answers()

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
        scale = (0.5 if self.has_logits else self.factor) / max(self.total, 1e-300)
        for layer in range(layers):
            shifts = self.shifts[layer].astype(np.float64)
            estimates = scale * np.square(shifts[..., kept:]).sum(axis=1)
            total = self.degradations(shifts)
            spread = estimates.std(axis=1, ddof=1) / np.sqrt(projections)
            errors[layer] = np.divide(spread, total, out=np.zeros_like(total), where=total > 0)
        return errors
