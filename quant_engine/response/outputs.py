"""One judged output while its response is measured: directions, parts of batches, and runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quant_engine.judging.judged import JudgedOutput
from quant_engine.judging.output import EMBEDDINGS
from quant_engine.metrics.catalogue import COSINE, KL_DIVERGENCE, METRICS, NMSE, Metric
from quant_engine.metrics.counts import IGNORED
from quant_engine.model.batches import Batch
from quant_engine.report import ResponseOutput
from quant_engine.response.arrays import BoolArray, IntArray, ResponseArrays
from quant_engine.response.directions import Directions, OutputPlan
from quant_engine.tensors.histogram import FloatArray

PREDICTED = (None, KL_DIVERGENCE, NMSE, COSINE)
"""What predictions can be about."""


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """How a response is measured.

    Attributes:
        classes: Outputs of at most this many values per row are predicted completely.
        top_k: Largest logits that are predicted one by one where there are more.
        projections: Random projections of what is not.
        configurations: Random configurations that are run for the agreement.
        agreement_samples: No more batches are run for it once this many rows were.
        seed: Seed of projections and configurations.
    """

    classes: int
    top_k: int
    projections: int
    configurations: int
    agreement_samples: int
    seed: int


@dataclass(slots=True, eq=False)
class _Part:
    """What one batch gave; see `ResponseArrays`."""

    base: Tensor
    shifts: Tensor
    roundings: Tensor
    signal: Tensor
    labels: Tensor | None
    output: Tensor
    classes: Tensor | None
    positions: Tensor | None
    counted: Tensor | None


def predicted_metric(output: JudgedOutput) -> Metric:
    """Return what predictions of an output are about: what has a gradient of its own."""
    if output.has_logits:
        return METRICS[KL_DIVERGENCE]
    is_cosine = output.kind == EMBEDDINGS and output.metric == COSINE
    return METRICS[COSINE if is_cosine else NMSE]


@dataclass(slots=True, eq=False)
class OutputMeasurement:
    """What is known of one output.

    Attributes:
        judged: The output.
        settings: How much of it is kept.
        unreached: The layers that do not reach it.
        plan: Which directions are taken; None before the first batch.
        totals: For each configuration that was run, its summed counts.
    """

    judged: JudgedOutput
    settings: ResponseSettings
    unreached: frozenset[str]
    plan: OutputPlan | None = None
    totals: dict[int, dict[str, FloatArray]] = field(default_factory=dict)
    _parts: list[_Part] = field(default_factory=list)

    def directions(self, tensor: Tensor, batch: Batch, generator: torch.Generator) -> Directions:
        """Return the directions of the output on a batch; the first one decides which."""
        read = self.judged.for_prediction(tensor, batch)
        if self.plan is None:
            s, has_logits = self.settings, self.judged.has_logits
            self.plan = OutputPlan.choose(
                read, s.classes, s.top_k, s.projections, has_logits=has_logits
            )
        return Directions(self.plan, read, generator)

    def add(
        self,
        tensor: Tensor,
        batch: Batch,
        directions: Directions,
        shifts: Sequence[Tensor],
        options: int,
    ) -> None:
        """Keep what one batch gave.

        Args:
            tensor: The float output.
            batch: The batch.
            directions: Its directions.
            shifts: Of each layer, shape (options + roundings, rows, directions).
            options: Number of options.
        """
        assert self.plan is not None
        read = self.judged.for_prediction(tensor, batch)
        flat = read.reshape(directions.rows, -1)
        labels = counted = positions = None
        if self.plan.has_logits:
            counted = self.judged.counted(tensor, batch)
            labels = self.judged.labels(tensor, batch) if self.plan.kept else None
            if labels is not None and counted is not None:
                labels = torch.where(counted, labels, IGNORED)
            everywhere = torch.ones(read.shape[:-1], dtype=torch.bool, device=read.device)
            whole = everywhere if counted is None else counted
            positions = whole.reshape(directions.rows, -1).sum(dim=1).double()
        self._parts.append(
            _Part(
                base=directions.base.float(),
                shifts=torch.stack([shift[:options] for shift in shifts]).float(),
                roundings=torch.stack([shift[options:] for shift in shifts]).float(),
                signal=flat.double().square().sum(dim=1),
                labels=None if labels is None else directions.label_columns(labels.long()),
                output=flat.float(),
                classes=directions.classes,
                positions=positions,
                counted=counted,
            )
        )

    def run(self, number: int, expected: Tensor, changed: Tensor, batch: Batch) -> None:
        """Count what a configuration that was run answered."""
        counts = self.judged.compare(expected, changed, batch).totals()
        known = self.totals.setdefault(number, {})
        for name in predicted_metric(self.judged).columns:
            known[name] = known.get(name, np.zeros(())) + counts[name]

    def measured(self, number: int) -> float:
        """Return the degradation of a configuration that was run."""
        return float(predicted_metric(self.judged).degradation(self.totals[number]))

    def arrays(self, rounding_of: IntArray, sources: BoolArray) -> ResponseArrays:
        """Join the batches; see `ResponseArrays` for the arguments."""
        assert self.plan is not None
        parts, plan = self._parts, self.plan
        classes = _joined([part.classes for part in parts])
        is_cosine = predicted_metric(self.judged).name == COSINE
        is_counted = any(part.counted is not None for part in parts)
        counted = [
            torch.ones(part.base.shape[:1] + plan.shape[:-1], dtype=torch.bool)
            if part.counted is None
            else part.counted
            for part in parts
        ]
        return ResponseArrays(
            base=_joined([part.base for part in parts]),
            shifts=_joined([part.shifts for part in parts], dim=2),
            roundings=_joined([part.roundings for part in parts], dim=2),
            rounding_of=rounding_of,
            sources=sources,
            signal=_joined([part.signal for part in parts]),
            shape=plan.shape if plan.is_complete else (plan.kept,),
            has_logits=plan.has_logits,
            is_complete=plan.is_complete,
            labels=_joined([part.labels for part in parts]),
            output=None if classes is None else _joined([part.output for part in parts]),
            classes=classes,
            positions=_joined([part.positions for part in parts]),
            counted=_joined(counted) if is_counted and plan.kept else None,
            factor=0.5 if is_cosine else 1.0,
        )

    def report(self, arrays: ResponseArrays, reference: float | None) -> ResponseOutput:
        """Describe the output, so that it can be found and read again."""
        assert self.plan is not None
        judged, errors = self.judged, arrays.projection_errors()
        known = errors[errors > 0]
        return ResponseOutput(
            name=judged.name,
            key=judged.select if isinstance(judged.select, str) else "",
            index=judged.select if isinstance(judged.select, int) else None,
            kind=judged.kind,
            metric=predicted_metric(judged).name,
            judged_by=judged.metric,
            class_axis=judged.class_axis,
            ignore_labels=judged.ignore_labels,
            is_binary=judged.is_binary,
            is_probability=judged.is_probability,
            shape=self.plan.shape,
            is_complete=self.plan.is_complete,
            projection_error=float(np.median(known)) if len(known) else 0.0,
            reference=reference,
        )


def _joined(tensors: Sequence[Tensor | None], dim: int = 0) -> Any:
    """Put tensors one after the other, as an array; None if one of them is missing."""
    kept = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(kept, dim).cpu().numpy() if len(kept) == len(tensors) else None
