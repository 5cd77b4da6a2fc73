"""The quantized model's outputs against the float model's, streaming."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from quant_engine.judging.judged import WITH_CLASSES, Answer, Judged, JudgedOutput
from quant_engine.metrics.bootstrap import Resampling, percentile_interval
from quant_engine.metrics.catalogue import (
    COSINE,
    KL_DIVERGENCE,
    MEAN_IOU,
    METRICS,
    PSNR_DB,
    TOP1_AGREEMENT,
    Metric,
    mean_iou,
    value_of,
)
from quant_engine.metrics.counts import SampleCounts
from quant_engine.metrics.energies import ErrorStats
from quant_engine.model.batches import Batch
from quant_engine.report import Answers, OutputReport
from quant_engine.tensors.histogram import FloatArray

MAX_ANSWERS = 4096
"""Samples whose answers a report keeps one by one."""


class OutputStats:
    """Counts of every judged output over batches, and the reports that follow."""

    def __init__(self, judged: Judged) -> None:
        """Start empty."""
        self._outputs = [_OneOutput(output) for output in judged.outputs]
        self._judged = judged

    def update(self, expected: Answer, changed: Answer, batch: Batch) -> None:
        """Compare the answers on one batch.

        Raises:
            DataError: If their shapes differ, or a label is no class.
        """
        counts = self._judged.compare(expected, changed, batch)
        for stats, x, x_hat, found in zip(self._outputs, expected, changed, counts, strict=True):
            stats.update(x, x_hat, found, batch)

    def reports(self) -> tuple[OutputReport, ...]:
        """Return the figures of everything seen, one report for each output."""
        return tuple(stats.report() for stats in self._outputs)


class _OneOutput:
    """What was seen of one output."""

    def __init__(self, output: JudgedOutput) -> None:
        self._output = output
        self._errors = ErrorStats()
        self._parts: list[SampleCounts] = []
        self._classes: int | None = None
        self._answers: list[int] = []
        self._changed_answers: list[int] = []
        self._labels: list[int] = []

    def update(self, x: Tensor, x_hat: Tensor, counts: SampleCounts, batch: Batch) -> None:
        self._errors.update(x, x_hat)
        self._parts.append(counts)
        if self._output.kind not in WITH_CLASSES:
            return
        logits, changed = self._output.as_logits(x), self._output.as_logits(x_hat)
        self._classes = logits.shape[-1]
        left = MAX_ANSWERS - len(self._answers)
        if logits.dim() == 2 and left > 0:
            labels = self._output.labels(x, batch)
            self._answers += logits[:left].argmax(dim=-1).tolist()
            self._changed_answers += changed[:left].argmax(dim=-1).tolist()
            self._labels += [] if labels is None else labels[:left].tolist()

    def report(self) -> OutputReport:
        output, counts = self._output, SampleCounts.join(self._parts)
        totals = counts.totals()
        labelled = int(totals.get("labelled", np.zeros(())))
        resampling = Resampling(counts.samples)
        value, interval = measure(output.measure, counts, totals, resampling)
        return OutputReport(
            samples=counts.samples,
            error=self._errors.metrics(),
            classes=self._classes,
            kl_divergence=value_of(KL_DIVERGENCE, totals),
            top1_agreement=value_of(TOP1_AGREEMENT, totals),
            labelled_samples=labelled,
            accuracy_float=_share(totals, "correct_float", labelled),
            accuracy_quantized=_share(totals, "correct", labelled),
            answers=self._answer_report(),
            kl_interval=measure(METRICS[KL_DIVERGENCE], counts, totals, resampling)[1],
            name=output.name,
            kind=output.kind,
            metric=output.metric,
            value=value,
            interval=interval,
            perplexity_float=_perplexity(totals, "nll_float", labelled),
            perplexity_quantized=_perplexity(totals, "nll", labelled),
            cosine=value_of(COSINE, totals),
            psnr_db=value_of(PSNR_DB, totals),
            mean_iou=value_of(MEAN_IOU, totals),
            mean_iou_float=_overlap(totals, "labelled_float_"),
            mean_iou_quantized=_overlap(totals, "labelled_"),
        )

    def _answer_report(self) -> Answers | None:
        """Labels are kept only where every sample has one."""
        if not self._answers:
            return None
        labels = tuple(self._labels) if len(self._labels) == len(self._answers) else ()
        return Answers(tuple(self._answers), tuple(self._changed_answers), labels)


def measure(
    metric: Metric, counts: SampleCounts, totals: Mapping[str, FloatArray], resampling: Resampling
) -> tuple[float | None, tuple[float, float] | None]:
    """Return a metric's value and its 95 % interval over samples; None if it is not known."""
    if not metric.is_known(counts):
        return None, None
    resampled = metric.value({name: resampling.totals(counts[name]) for name in metric.columns})
    return float(metric.value(totals)), percentile_interval(resampled)


def _share(totals: Mapping[str, FloatArray], name: str, labelled: int) -> float | None:
    return float(totals[name]) / labelled if labelled else None


def _perplexity(totals: Mapping[str, FloatArray], name: str, labelled: int) -> float | None:
    return float(np.exp(totals[name] / labelled)) if name in totals and labelled else None


def _overlap(totals: Mapping[str, FloatArray], prefix: str) -> float | None:
    if f"{prefix}union" not in totals:
        return None
    return float(mean_iou(totals[f"{prefix}intersection"], totals[f"{prefix}union"]))
