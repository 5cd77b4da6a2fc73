"""The curve of a measurement: the k least sensitive layers quantized, and what that costs."""

from __future__ import annotations

import math

from dashboard.facts.accuracy import AccuracyChange, changed_answers, compare_accuracy
from dashboard.words.degradation import KL, NMSE, RATIO, degradation_by
from dashboard.words.formatting import format_db, plural
from quant_engine.report import CumulativePoint, SensitivityReport


def float_layers(report: SensitivityReport, kept: int) -> tuple[str, ...]:
    """Return the `kept` most sensitive layers: those that the curve quantizes last."""
    order = [name for point in report.cumulative for name in point.added]
    return tuple(order[len(order) - kept :]) if kept > 0 else ()


def point_with_float_layers(report: SensitivityReport, kept: int) -> CumulativePoint | None:
    """Return the point at which `kept` layers are still float; None if it was not measured."""
    last = max((point.count for point in report.cumulative), default=0)
    return next((p for p in report.cumulative if p.count == last - kept), None)


def point_change(report: SensitivityReport, point: CumulativePoint) -> AccuracyChange | None:
    """Compare a point's accuracy with float's on the same samples; None without labels.

    None of several outputs too: the answers of one say nothing of the others.
    """
    if is_joint(report):
        return None
    samples = report.answering_samples
    changed = changed_answers(point.top1_agreement, samples)
    return compare_accuracy(report.accuracy_float, point.accuracy, samples, changed=changed)


def most_quantized_without_loss(report: SensitivityReport) -> CumulativePoint | None:
    """Return the smallest model whose accuracy the samples do not show to be below float's.

    All smaller models that were measured are without such a loss too. None without labels.
    """
    best = None
    for point in report.cumulative:
        change = point_change(report, point)
        if change is None or change.verdict == "worse":
            break
        best = point
    return best


def is_joint(report: SensitivityReport) -> bool:
    """Whether several outputs are judged, so that the curve is of their largest ratio."""
    return report.metric == RATIO.key


def has_accuracy(report: SensitivityReport) -> bool:
    """Whether the curve has an accuracy; of several outputs that of one says nothing."""
    return not is_joint(report) and any(p.accuracy is not None for p in report.cumulative)


def is_folded_first(report: SensitivityReport) -> bool:
    """Whether the first step folds BatchNorms: the model shrinks by more than its layers save."""
    if len(report.cumulative) < 2:
        return False
    given, first = report.cumulative[:2]
    added = first.added
    saved = sum(x.float_bytes - x.quantized_bytes for x in report.layers if x.name in added)
    return given.model_bytes - first.model_bytes > saved


def measured_counts(report: SensitivityReport) -> str:
    """Return at which counts of quantized layers the curve was measured, in words."""
    if not report.cumulative:
        return "no count of layers"
    *most, last = [point.count for point in report.cumulative]
    layers = plural(last, "layer")
    if len(most) == last:
        return f"all counts from 0 to {layers}"
    return f"{', '.join(map(str, most))} and all {layers}"


def point_degradation(point: CumulativePoint, report: SensitivityReport) -> float | None:
    """Return what a point costs the output, as the report judges it."""
    measure = degradation_by(report.metric)
    if measure is NMSE:
        return math.pow(10.0, -point.sqnr_db / 10.0)
    return point.kl_divergence if measure is KL else measure.of_value(point.value)


def error_text(point: CumulativePoint, report: SensitivityReport) -> str:
    """Return what a point costs the output, in the unit of the curve.

    Example: "KL 0.0123 nats".
    """
    measure = degradation_by(report.metric)
    if measure is NMSE:
        return f"output SQNR {format_db(point.sqnr_db)}"
    return measure.named(point_degradation(point, report))
