"""The metrics of a model's output that can be named: what each is called, and how it is made.

A metric is a function of totals of `SampleCounts`. Besides its value it has a degradation, which is
larger where the answer is worse and 0 where it is the float model's: layers are ranked, compared
and searched for by that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from quant_engine.tensors.histogram import FloatArray

Totals: TypeAlias = Mapping[str, FloatArray]
"""Name of a column of `SampleCounts` -> its sum over samples, shape (...); classes come last."""

KL_DIVERGENCE = "kl_divergence"
NMSE = "nmse"
SQNR_DB = "sqnr_db"
TOP1_AGREEMENT = "top1_agreement"
ACCURACY_DROP = "accuracy_drop"
COSINE = "cosine"
MEAN_IOU = "mean_iou"
PSNR_DB = "psnr_db"
PERPLEXITY = "perplexity"

RATIO = "degradation_ratio"
"""What reports of several outputs rank by; see `Degradations`."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number about a changed model's output.

    Attributes:
        name: What reports and `metric=` call it.
        label: Name shown to people.
        short: The same where there is little room.
        unit: Unit of the values; empty for a plain number.
        is_larger_worse: Whether a larger value is a larger error.
        needs: What it cannot be had without, in words.
        columns: The columns of `SampleCounts` it is made from.
        value: Totals -> value, shape (...).
        degradation: Totals -> degradation, shape (...).
        degradation_unit: Unit of the degradation, where it is not that of the value.
    """

    name: str
    label: str
    short: str
    unit: str
    is_larger_worse: bool
    needs: str
    columns: tuple[str, ...]
    value: Callable[[Totals], FloatArray]
    degradation: Callable[[Totals], FloatArray]
    degradation_unit: str = ""

    def is_known(self, counts: Mapping[str, object]) -> bool:
        """Whether counts hold what it is made from."""
        return all(name in counts for name in self.columns)


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """Return top / bottom; 0 where both are 0, inf where only the bottom is."""
    bottom = np.broadcast_to(bottom, np.shape(top))
    zero = np.where(top > 0.0, np.inf, 0.0)
    return np.divide(top, bottom, out=np.array(zero, dtype=np.float64), where=bottom > 0.0)


def _share(part: str, whole: str) -> Callable[[Totals], FloatArray]:
    return lambda totals: _ratio(totals[part], totals[whole])


def _one_minus(share: Callable[[Totals], FloatArray]) -> Callable[[Totals], FloatArray]:
    return lambda totals: 1.0 - share(totals)


def _decibels(noise_over_signal: Callable[[Totals], FloatArray]) -> Callable[[Totals], FloatArray]:
    def value(totals: Totals) -> FloatArray:
        with np.errstate(divide="ignore"):
            result: FloatArray = -10.0 * np.log10(noise_over_signal(totals))
        return result

    return value


def mean_iou(intersection: FloatArray, union: FloatArray) -> FloatArray:
    """Return the mean IoU of the classes that occur; 1 where none does.

    Args:
        intersection: Shape (..., classes).
        union: The same.
    """
    occurs = union > 0.0
    ious = np.divide(intersection, union, out=np.zeros_like(union), where=occurs)
    count = occurs.sum(axis=-1)
    result: FloatArray = np.where(count > 0, ious.sum(axis=-1) / np.maximum(count, 1), 1.0)
    return result


def _accuracy_drop(totals: Totals) -> FloatArray:
    return (totals["correct_float"] - totals["correct"]) / totals["labelled"]


_nmse = _share("noise", "signal")
_agreement = _share("agreeing", "positions")
_cosine = _share("cosine", "positions")
_peak_noise = _share("noise", "peak_energy")
_perplexity = _share("nll", "labelled")


def _mean_iou(totals: Totals) -> FloatArray:
    return mean_iou(totals["intersection"], totals["union"])


_kl = _share("divergence", "positions")

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name=KL_DIVERGENCE,
            label="KL divergence",
            short="KL",
            unit="nats",
            is_larger_worse=True,
            needs="logits or probabilities",
            columns=("divergence", "positions"),
            value=_kl,
            degradation=_kl,
        ),
        Metric(
            name=NMSE,
            label="Output NMSE",
            short="NMSE",
            unit="",
            is_larger_worse=True,
            needs="an output",
            columns=("noise", "signal"),
            value=_nmse,
            degradation=_nmse,
        ),
        Metric(
            name=SQNR_DB,
            label="Output SQNR",
            short="SQNR",
            unit="dB",
            is_larger_worse=False,
            needs="an output",
            columns=("noise", "signal"),
            value=_decibels(_nmse),
            degradation=_nmse,
            degradation_unit="NMSE",
        ),
        Metric(
            name=TOP1_AGREEMENT,
            label="Top-1 agreement",
            short="agreement",
            unit="share",
            is_larger_worse=False,
            needs="logits or probabilities",
            columns=("agreeing", "positions"),
            value=_agreement,
            degradation=_one_minus(_agreement),
            degradation_unit="share that differs",
        ),
        Metric(
            name=ACCURACY_DROP,
            label="Accuracy drop",
            short="accuracy drop",
            unit="share",
            is_larger_worse=True,
            needs="logits and labels in evaluation_data",
            columns=("correct_float", "correct", "labelled"),
            value=_accuracy_drop,
            degradation=_accuracy_drop,
        ),
        Metric(
            name=COSINE,
            label="Cosine similarity",
            short="cosine",
            unit="",
            is_larger_worse=False,
            needs="embeddings",
            columns=("cosine", "positions"),
            value=_cosine,
            degradation=_one_minus(_cosine),
            degradation_unit="1 - cosine",
        ),
        Metric(
            name=MEAN_IOU,
            label="Mean IoU with the float model",
            short="mean IoU",
            unit="share",
            is_larger_worse=False,
            needs="a mask",
            columns=("intersection", "union"),
            value=_mean_iou,
            degradation=_one_minus(_mean_iou),
            degradation_unit="1 - mean IoU",
        ),
        Metric(
            name=PSNR_DB,
            label="PSNR",
            short="PSNR",
            unit="dB",
            is_larger_worse=False,
            needs="an image",
            columns=("noise", "peak_energy"),
            value=_decibels(_peak_noise),
            degradation=_peak_noise,
            degradation_unit="mean squared error over peak²",
        ),
        Metric(
            name=PERPLEXITY,
            label="Perplexity",
            short="perplexity",
            unit="",
            is_larger_worse=True,
            needs="token logits and labels in evaluation_data",
            columns=("nll", "nll_float", "labelled"),
            value=lambda totals: np.exp(_perplexity(totals)),
            degradation=lambda totals: (totals["nll"] - totals["nll_float"]) / totals["labelled"],
            degradation_unit="nats per token",
        ),
    )
}
"""The metrics that can be named."""

LARGEST_RATIO = Metric(
    name=RATIO,
    label="Share of the fully quantized model's degradation",
    short="ratio",
    unit="",
    is_larger_worse=True,
    needs="several outputs",
    columns=(),
    value=lambda totals: totals["ratio"],
    degradation=lambda totals: totals["ratio"],
)


def custom_metric(name: str) -> Metric:
    """Return the metric of a function of the caller's: the mean of what it says of each sample."""

    def mean(totals: Totals) -> FloatArray:
        return totals["custom"] / totals["counted"]

    return Metric(
        name=name,
        label=name,
        short=name,
        unit="",
        is_larger_worse=True,
        needs="an answer of the function on every batch",
        columns=("custom", "counted"),
        value=mean,
        degradation=mean,
    )


def find_metric(name: str) -> Metric:
    """Return a metric by the name that a report gives it; a function's if no other has it."""
    if name == RATIO:
        return LARGEST_RATIO
    return METRICS.get(name) or custom_metric(name)


def value_of(name: str, totals: Totals) -> float | None:
    """Return a metric's value; None where the totals lack what it is made from."""
    metric = find_metric(name)
    return float(metric.value(totals)) if metric.is_known(totals) else None
