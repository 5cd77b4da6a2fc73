"""The measures a sensitivity ranking can be ordered by, and how each one is read.

Every measure says which end is bad, so rankings, fronts and correlations need no special cases.
Keys, names and bad ends are the engine's; what stands here is how pages read a value. A new measure
is one entry of `METRICS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import quant_engine
from dashboard.facts.accuracy import AccuracyChange, Interval, changed_answers, share_interval
from dashboard.words.formatting import (
    format_db,
    format_nats,
    format_number,
    format_percent,
    percent,
)
from quant_engine.report import LayerSensitivity, SensitivityReport

ONE_AT_A_TIME = "one_at_a_time"
LEAVE_ONE_OUT = "leave_one_out"


@dataclass(frozen=True, slots=True)
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
        read: Value of one layer, or None where it was not measured.
        read_interval: 95 % interval of that value given the number of samples, or None.
        format: A value as text with its unit.
    """

    key: str
    label: str
    unit: str
    axis: str
    about: str
    is_higher_worse: bool
    allows_log: bool
    interval_name: str
    read: Callable[[LayerSensitivity], float | None]
    read_interval: Callable[[LayerSensitivity, int], Interval | None]
    format: Callable[[float | None], str]

    @property
    def is_ranked_unit(self) -> bool:
        """Whether its differences are in the unit in which the engine compares degradation."""
        return self.key in ("kl_divergence", "nmse")

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.label} ({self.unit})"

    def value(self, layer: LayerSensitivity) -> float | None:
        """Return the layer's value; None where it is missing or not a number."""
        value = self.read(layer)
        return None if value is None or math.isnan(value) else value

    def interval(self, layer: LayerSensitivity, samples: int) -> Interval | None:
        """Return the layer's 95 % interval around its value, or None where there is none."""
        interval = self.read_interval(layer, samples)
        if interval is None or any(math.isnan(end) for end in interval):
            return None
        return min(interval), max(interval)

    def badness(self, value: float) -> float:
        """Return `value` turned so that more is worse."""
        return value if self.is_higher_worse else -value


def _nmse_interval(layer: LayerSensitivity, _samples: int) -> Interval | None:
    """The stored interval belongs to the NMSE only where there are no logits."""
    return layer.interval if layer.kl_divergence is None else None


def _sqnr_interval(layer: LayerSensitivity, samples: int) -> Interval | None:
    interval = _nmse_interval(layer, samples)
    if interval is None:
        return None
    low, high = (math.inf if end <= 0 else -10 * math.log10(end) for end in interval)
    return min(low, high), max(low, high)


def _changed_interval(layer: LayerSensitivity, samples: int) -> Interval | None:
    if layer.top1_agreement is None:
        return None
    interval = share_interval(1 - layer.top1_agreement, samples)
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _accuracy_drop_interval(layer: LayerSensitivity, samples: int) -> Interval | None:
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
        interval_name="95 % bootstrap interval over the samples",
        read=lambda layer: layer.kl_divergence,
        read_interval=lambda layer, _: None if layer.kl_divergence is None else layer.interval,
        format=format_nats,
    ),
    SensitivityMetric(
        **_named("nmse"),
        unit="share of energy",
        axis="Output error energy / signal energy (NMSE, no unit)",
        about="Energy of the output error as a share of the output's own energy; 0 is no change.",
        allows_log=True,
        interval_name="95 % bootstrap interval over the samples",
        read=lambda layer: layer.nmse,
        read_interval=_nmse_interval,
        format=format_number,
    ),
    SensitivityMetric(
        **_named("sqnr_db"),
        unit="dB",
        axis="Output signal-to-noise ratio (SQNR, dB): lower is worse",
        about="The same error in decibels; every 10 dB less is ten times the error energy.",
        allows_log=False,
        interval_name="95 % bootstrap interval over the samples",
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
        is_higher_worse=True,
        allows_log=False,
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
        allows_log=False,
        interval_name="95 % interval of the difference in pairs",
        read=lambda layer: percent(layer.accuracy_drop),
        read_interval=_accuracy_drop_interval,
        format=_points_text,
    ),
)

METRICS: dict[str, SensitivityMetric] = {metric.key: metric for metric in _ALL}
"""Every measure by its key, the default first."""


def available_metrics(report: SensitivityReport) -> tuple[SensitivityMetric, ...]:
    """Return the measures that at least one layer of the report has a value for."""
    return tuple(
        metric
        for metric in METRICS.values()
        if any(metric.value(layer) is not None for layer in report.layers)
    )
