"""The quantized model's output against the float model's, streaming."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.metrics.bootstrap import bootstrap_means, percentile_intervals
from quant_engine.metrics.energies import ErrorStats
from quant_engine.metrics.functions import kl_divergences
from quant_engine.report import Answers, OutputReport

IGNORED = -100
"""Label of a row that does not count, as in torch's cross entropy."""


def has_logits(output: Tensor, labels: Tensor | None) -> bool:
    """Whether an output is read as logits.

    A table (samples, classes) with at least two classes is; so is any output with one label for
    each of its rows, such as (samples, tokens, classes) with labels (samples, tokens).
    """
    if output.dim() < 2 or output.shape[-1] < 2:
        return False
    return output.dim() == 2 or (labels is not None and labels.shape == output.shape[:-1])


def why_labels_are_dropped(output: Tensor, labels: Tensor | None, *, is_read: bool = True) -> str:
    """Say why labels are not used for accuracy; empty if they are, or if there are none.

    Args:
        output: The judged output.
        labels: The labels.
        is_read: False if the output is not to be read as logits.
    """
    if labels is None:
        return ""
    shape = _shape_words(labels.shape)
    if not is_read or not has_logits(output, labels):
        return (
            f"the labels, of shape {shape}, are not used, as the output, of shape "
            f"{_shape_words(output.shape)}, is not read as logits (classes stand on the last axis)"
        )
    if labels.shape != output.shape[:-1]:
        return (
            f"the labels, of shape {shape}, are not used: give the class of each row of the "
            f"output, in the shape {_shape_words(output.shape[:-1])}"
        )
    return ""


def _shape_words(shape: Sequence[int]) -> str:
    return f"({', '.join(['N', *map(str, shape[1:])])})"


def fitting_labels(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Return the labels, on the logits' device, where there is one for each row; None otherwise.

    Returns:
        int64, shape of the logits without their last axis; `IGNORED` where a row does not count.

    Raises:
        DataError: If a label is not a class of the output, so that no answer could be right, or a
            sample has none that counts.
    """
    if labels is None or why_labels_are_dropped(logits, labels):
        return None
    classes = logits.shape[-1]
    wrong = _not_whole(labels)
    if wrong.numel():
        raise DataError(
            f"{wrong.numel()} of {labels.numel()} labels are not integers, such as "
            f"{wrong[0].item():.6g}. Give the class of each sample, 0 to {classes - 1}, or no "
            "labels."
        )
    labels = labels.long()
    counted = labels[labels != IGNORED]
    if counted.numel():
        lo, hi = int(counted.min()), int(counted.max())
        if lo < 0 or hi >= classes:
            raise DataError(
                f"The labels go from {lo} to {hi}, but the model's output has {classes} classes, "
                f"0 to {classes - 1}. Give the labels of this model, or none; {IGNORED} marks rows "
                "that are ignored."
            )
    by_sample = (labels != IGNORED).reshape(len(labels), -1)
    if not by_sample.any(dim=1).all():
        raise DataError(
            f"A sample has no label but {IGNORED}, which marks rows that are ignored. Leave it out."
        )
    return labels.to(logits.device)


def _not_whole(labels: Tensor) -> Tensor:
    """Return the labels that are not integers, NaN and Inf among them."""
    return labels[labels.frac() != 0.0] if labels.is_floating_point() else labels.flatten()[:0]


MAX_ANSWERS = 4096
"""Samples whose answers a report keeps one by one."""


class OutputStats:
    """Sums over batches from which the effect on the model's output follows.

    Attributes:
        errors: Energies of the output tensor and of its error.
        samples: Samples compared.
    """

    def __init__(self, *, is_read: bool = True) -> None:
        """Start empty; with `is_read` False, no output is read as logits."""
        self.errors = ErrorStats()
        self._is_read = is_read
        self.samples = 0
        self._classes: int | None = None
        self._rows = 0
        self._divergence = 0.0
        self._divergences: list[float] = []
        self._agreeing = 0
        self._labelled = 0
        self._correct_float = 0
        self._correct_quantized = 0
        self._answers: list[int] = []
        self._changed_answers: list[int] = []
        self._labels: list[int] = []

    def update(self, logits: Tensor, changed: Tensor, labels: Tensor | None) -> None:
        """Compare the outputs on one batch.

        Raises:
            DataError: If their shapes differ, or a label is not a class.
        """
        self.errors.update(logits, changed)
        self.samples += len(logits) if logits.dim() else 1
        if not self._is_read or not has_logits(logits, labels):
            return
        self._classes = logits.shape[-1]
        divergences = kl_divergences(logits, changed)
        best, best_changed = logits.argmax(dim=-1), changed.argmax(dim=-1)
        self._rows += divergences.numel()
        self._divergence += float(divergences.sum())
        left = MAX_ANSWERS - len(self._divergences)
        by_sample = divergences.double().reshape(len(divergences), -1).mean(dim=1)
        self._divergences += by_sample[:left].tolist()
        self._agreeing += int((best == best_changed).sum())
        labels = fitting_labels(logits, labels)
        if logits.dim() == 2:
            self._keep_answers(best, best_changed, labels)
        if labels is not None:
            self._labelled += int((labels != IGNORED).sum())
            self._correct_float += int((best == labels).sum())
            self._correct_quantized += int((best_changed == labels).sum())

    def _keep_answers(self, best: Tensor, changed: Tensor, labels: Tensor | None) -> None:
        left = MAX_ANSWERS - len(self._answers)
        self._answers += best[:left].tolist()
        self._changed_answers += changed[:left].tolist()
        self._labels += [] if labels is None else labels[:left].tolist()

    def report(self) -> OutputReport:
        """Return the figures of everything seen."""
        rows, labelled = self._rows, self._labelled
        return OutputReport(
            samples=self.samples,
            error=self.errors.metrics(),
            classes=self._classes,
            kl_divergence=self._divergence / rows if rows else None,
            top1_agreement=self._agreeing / rows if rows else None,
            labelled_samples=labelled,
            accuracy_float=self._correct_float / labelled if labelled else None,
            accuracy_quantized=self._correct_quantized / labelled if labelled else None,
            answers=self._answer_report(),
            kl_interval=self._kl_interval(),
        )

    def _kl_interval(self) -> tuple[float, float] | None:
        """Return the interval of the mean over samples, where all of them were kept."""
        kept = self._divergences
        if not kept or len(kept) != self.samples:
            return None
        (interval,) = percentile_intervals(bootstrap_means(np.array([kept])))
        return interval

    def _answer_report(self) -> Answers | None:
        """Labels are kept only where every sample has one."""
        if not self._answers:
            return None
        labels = tuple(self._labels) if len(self._labels) == len(self._answers) else ()
        return Answers(tuple(self._answers), tuple(self._changed_answers), labels)
