"""The measures a sensitivity ranking can be ordered by, and how each one is read.

Every measure says which end is bad, so rankings, fronts and correlations need no special cases.
Keys, names and bad ends are the engine's; what stands here is how pages read a value. A new measure
of a single output is one entry of `METRICS`. Of several outputs, layers are ranked by the largest
ratio, and each output has a measure of its own; what is known of the first output alone is not
among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import quant_engine
from dashboard.facts.accuracy import AccuracyChange, Interval, changed_answers, share_interval
from dashboard.words.degradation import (
    COSINE,
    DEGRADATIONS,
    MEAN_IOU,
    NMSE,
    RATIO,
    RATIO_ABOUT,
    Degradation,
    degradation_interval,
)
from dashboard.words.formatting import (
    format_db,
    format_nats,
    format_number,
    format_percent,
    percent,
)
from quant_engine.report import LayerSensitivity, OutputEffect, SensitivityReport

BOOTSTRAP = "95 % bootstrap interval over the samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityMetric:
    """One way to say how far the changed model's output is from the float model's.

    Attributes:
        key: What the engine's reports call it.
        label: Name shown to people.
        unit: Unit of the values, for titles.
        axis: Axis title with its unit.
        about: One sentence that says what a value means.
        is_higher_worse: Whether a larger value is a larger error.
        allows_log: Whether a logarithmic axis makes sense.
        interval_name: Where its interval comes from.
        read: Value of one layer, or None where it was not measured; by default what the report
            ranks by.
        read_interval: 95 % interval of that value, or None; by default the report's own, where it
            ranks by this metric.
        format: A value as text with its unit.
    """

    key: str
    label: str
    unit: str
    axis: str
    about: str
    is_higher_worse: bool = True
    allows_log: bool = False
    interval_name: str = BOOTSTRAP
    read: Callable[[LayerSensitivity], float | None] = lambda layer: layer.value
    read_interval: Callable[[LayerSensitivity, SensitivityReport], Interval | None] | None = None
    format: Callable[[float | None], str] = format_number

    @property
    def is_ranked_unit(self) -> bool:
        """Whether its differences are in the unit in which the engine compares degradation."""
        others = ("sqnr_db", "psnr_db", "perplexity", "top1_agreement", "accuracy_drop")
        return self.key not in others

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def value(self, layer: LayerSensitivity) -> float | None:
        """Return the layer's value; None where it is missing or not a number."""
        value = self.read(layer)
        return None if value is None or math.isnan(value) else value

    def interval(self, layer: LayerSensitivity, report: SensitivityReport) -> Interval | None:
        """Return a layer's 95 % interval around its value, or None where there is none.

        The interval that a report holds belongs to the metric it ranks by.
        """
        if self.read_interval is None:
            interval = layer.interval if report.metric == self.key else None
        else:
            interval = self.read_interval(layer, report)
        if interval is None or any(math.isnan(end) for end in interval):
            return None
        return min(interval), max(interval)

    def badness(self, value: float) -> float:
        """Return `value` turned so that more is worse."""
        return value if self.is_higher_worse else -value


def _sqnr_interval(layer: LayerSensitivity, report: SensitivityReport) -> Interval | None:
    if report.metric != NMSE.key:
        return layer.interval if report.metric == "sqnr_db" else None
    low, high = (math.inf if end <= 0 else -10 * math.log10(end) for end in layer.interval)
    return min(low, high), max(low, high)


def _answering_samples(layer: LayerSensitivity, report: SensitivityReport) -> int:
    return report.answering_samples and (layer.samples or report.samples)


def _changed_interval(layer: LayerSensitivity, report: SensitivityReport) -> Interval | None:
    if layer.top1_agreement is None:
        return None
    interval = share_interval(1 - layer.top1_agreement, _answering_samples(layer, report))
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _accuracy_drop_interval(layer: LayerSensitivity, report: SensitivityReport) -> Interval | None:
    samples = _answering_samples(layer, report)
    changed = changed_answers(layer.top1_agreement, samples)
    if layer.accuracy_drop is None or changed is None or samples <= 0:
        return None
    net = round(layer.accuracy_drop * samples)
    low, high = AccuracyChange.of_net_loss(net, changed, samples).interval
    return -100 * high, -100 * low


def _points_text(points: float | None) -> str:
    """An accuracy drop: how many points are lost, or won where it is negative."""
    text = f"{format_number(points)} points"
    return text if points is not None and math.isfinite(points) else format_number(points)


def _named(key: str) -> dict[str, Any]:
    """What the engine says of a metric: its name for people, and which end is bad."""
    metric = quant_engine.METRICS[key]
    return {"key": key, "label": metric.label, "is_higher_worse": metric.is_larger_worse}


_ALL = (
    SensitivityMetric(
        **_named("kl_divergence"),
        unit="nats",
        axis="KL divergence of the output (nats)",
        about="How far the predicted probabilities move, mean over the samples; 0 is no change.",
        allows_log=True,
        read=lambda layer: layer.kl_divergence,
        format=format_nats,
    ),
    SensitivityMetric(
        **_named("nmse"),
        unit="share of energy",
        axis="Output error energy / signal energy (NMSE, no unit)",
        about="Energy of the output error as a share of the output's own energy; 0 is no change.",
        allows_log=True,
        read=lambda layer: layer.nmse,
    ),
    SensitivityMetric(
        **_named("sqnr_db"),
        unit="dB",
        axis="Output signal-to-noise ratio (SQNR, dB): lower is worse",
        about="The same error in decibels; every 10 dB less is ten times the error energy.",
        read=lambda layer: layer.sqnr_db,
        read_interval=_sqnr_interval,
        format=format_db,
    ),
    SensitivityMetric(
        key="top1_agreement",
        label="Top-1 disagreement",
        unit="% of samples",
        axis="Samples whose predicted class changes (%)",
        about="Share of samples whose most likely class is no longer the float model's "
        "(100 % minus the top-1 agreement).",
        interval_name="95 % Wilson interval of the counted share",
        read=lambda layer: (
            None if layer.top1_agreement is None else 100 * (1 - layer.top1_agreement)
        ),
        read_interval=_changed_interval,
        format=lambda value: format_percent(None if value is None else value / 100),
    ),
    SensitivityMetric(
        **_named("accuracy_drop"),
        unit="percentage points",
        axis="Accuracy lost (percentage points)",
        about="Float accuracy minus the accuracy now. Below 0, the change happened to help.",
        interval_name="95 % interval of the difference in pairs",
        read=lambda layer: percent(layer.accuracy_drop),
        read_interval=_accuracy_drop_interval,
        format=_points_text,
    ),
)

METRICS: dict[str, SensitivityMetric] = {metric.key: metric for metric in _ALL}
"""Every measure by its key, the default first."""


_LIKENESSES = (COSINE.key, MEAN_IOU.key)
"""Near 1 for every layer: what is missing to 1 tells them apart."""

_RATIO = SensitivityMetric(
    key=RATIO.key,
    label=f"{RATIO.label[0].upper()}{RATIO.label[1:]}",
    unit="",
    axis="Share of the fully quantized model's degradation, largest of all outputs",
    about=RATIO_ABOUT,
    allows_log=True,
)


def available_metrics(report: SensitivityReport) -> tuple[SensitivityMetric, ...]:
    """Return the measures that at least one layer has a value for, the one ranked by first."""
    if report.metric == RATIO.key:
        effects = next((layer.outputs for layer in report.layers), ())
        known = (_RATIO, *output_metrics(effects))
    else:
        by = METRICS.get(report.metric) or _of_metric(report.metric)
        known = (by, *(metric for metric in METRICS.values() if metric.key != by.key))
    return tuple(m for m in known if any(m.value(layer) is not None for layer in report.layers))


def output_metrics(effects: Sequence[OutputEffect]) -> tuple[SensitivityMetric, ...]:
    """Return one measure for each of several outputs, in its own unit."""
    return tuple(_of_output(index, effect) for index, effect in enumerate(effects))


def _of_metric(key: str) -> SensitivityMetric:
    """Return the measure of a single output judged by a metric that has no entry of its own."""
    if key in _LIKENESSES:
        return _of_likeness(DEGRADATIONS[key])
    metric = quant_engine.METRICS.get(key)
    label, unit = (key, "") if metric is None else (metric.label, metric.unit)
    return SensitivityMetric(
        key=key,
        label=label,
        unit=unit,
        axis=f"{label} ({unit})" if unit else label,
        about="What the output is judged by, on the changed model.",
        is_higher_worse=metric is None or metric.is_larger_worse,
    )


def _of_likeness(measure: Degradation) -> SensitivityMetric:
    """Return the measure of what is missing to 1, which all layers are close to."""
    return SensitivityMetric(
        key=measure.key,
        label=measure.label,
        unit="",
        axis=measure.heading,
        about=f"{measure.about[0].upper()}{measure.about[1:]}.",
        allows_log=True,
        read=lambda layer: measure.of_value(layer.value),
        read_interval=lambda layer, _: degradation_interval(measure, layer.interval),
        format=measure.text,
    )


def _of_output(index: int, effect: OutputEffect) -> SensitivityMetric:
    """Return the measure of one of several outputs, in its own unit."""
    metric = METRICS.get(effect.metric) or _of_metric(effect.metric)
    if effect.metric == "top1_agreement":  # stored as a share that agrees
        metric = _of_metric(effect.metric)
    is_likeness = effect.metric in _LIKENESSES
    measure = DEGRADATIONS[effect.metric] if is_likeness else NMSE  # NMSE leaves a value as it is

    def read(layer: LayerSensitivity) -> float | None:
        return measure.of_value(layer.outputs[index].value) if layer.outputs else None

    def read_interval(layer: LayerSensitivity, _: SensitivityReport) -> Interval | None:
        if not layer.outputs:
            return None
        return degradation_interval(measure, layer.outputs[index].interval)

    return replace(
        metric,
        key=f"{effect.name}_{metric.key}",
        label=f"{effect.name}: {metric.label}",
        axis=f"{effect.name}: {metric.axis}",
        about=f"Of the output {effect.name} alone. {metric.about}",
        read=read,
        read_interval=read_interval,
    )
