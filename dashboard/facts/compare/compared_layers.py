"""Layers of two runs side by side, by any number that both have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dashboard.data.runs import Run
from dashboard.facts.columns import COLUMNS
from dashboard.facts.diagnosis.causes import accumulated_relative, local_relative, weight_relative
from dashboard.facts.diagnosis.culprit import OutputEffects
from dashboard.words.degradation import KL
from dashboard.words.formatting import MISSING, format_db, format_number, format_percent
from quant_engine.report import ErrorMetrics, LayerReport

Effects = tuple[OutputEffects | None, OutputEffects | None]
"""What each layer alone costs the output, in A and in B."""


@dataclass(frozen=True, slots=True)
class LayerMetric:
    """A number of a layer that two runs can be compared by.

    Attributes:
        key: Short name, used in links and files.
        label: Name shown to people.
        unit: Unit of the values, for titles.
        read: Value of a layer, or None; the effects are those of the layer's run.
        text: A value with its unit.
        is_higher_worse: Whether a larger value is a larger error.
        is_log: Whether it stands on a logarithmic axis.
    """

    key: str
    label: str
    unit: str
    read: Callable[[LayerReport, OutputEffects | None], float | None]
    text: Callable[[float], str] = format_number
    is_higher_worse: bool = True
    is_log: bool = True

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.label} ({self.unit})"


def _relative(key: str, label: str, read: Callable[[LayerReport], float | None]) -> LayerMetric:
    name, unit = f"Relative error, {label}", "share of the signal"
    return LayerMetric(key, name, unit, lambda layer, _: read(layer), format_percent)


def _nmse(key: str, label: str, read: Callable[[LayerReport], ErrorMetrics | None]) -> LayerMetric:
    def value(layer: LayerReport, _: OutputEffects | None) -> float | None:
        error = read(layer)
        return None if error is None else error.nmse

    return LayerMetric(key, f"NMSE, {label}", "error energy / signal energy", value)


def _sqnr(key: str) -> LayerMetric:
    column = COLUMNS[key]
    return LayerMetric(
        key,
        column.name,
        "dB",
        lambda layer, _: column.read(layer),
        format_db,
        is_higher_worse=False,
        is_log=False,
    )


def _effect(layer: LayerReport, effects: OutputEffects | None) -> float | None:
    return None if effects is None else effects.values.get(layer.name)


METRICS: Mapping[str, LayerMetric] = {
    metric.key: metric
    for metric in (
        _relative("accumulated", "accumulated", accumulated_relative),
        _relative("local", "local", local_relative),
        _relative("weight", "weight", weight_relative),
        LayerMetric("output", "Output error", "KL, nats", _effect),
        _sqnr("accumulated_sqnr_db"),
        _sqnr("local_sqnr_db"),
        _sqnr("weight_sqnr_db"),
        _sqnr("input_sqnr_db"),
        _nmse("accumulated_nmse", "accumulated", lambda layer: layer.accumulated_error),
        _nmse("local_nmse", "local", lambda layer: layer.local_error),
        _nmse("weight_nmse", "weight", lambda layer: layer.weight_error),
    )
}


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer of both runs.

    Attributes:
        name: Its name, the same in both.
        a: Its number in A; None where there is none, infinite where it is exact.
        b: The same in B.
        change: b - a; None where that is not a number.
    """

    name: str
    a: float | None
    b: float | None

    @property
    def change(self) -> float | None:
        """B minus A; None where one is missing or exact."""
        if self.a is None or self.b is None or not math.isfinite(self.b - self.a):
            return None
        return self.b - self.a


def common_layers(a: Run, b: Run) -> tuple[str, ...]:
    """Return the layers that both runs have, in the order of A: by name, type and weight's shape.

    Two models may share names without sharing layers.
    """
    known = {(layer.name, layer.kind, layer.weight_shape) for layer in b.report.layers}
    return tuple(
        layer.name
        for layer in a.report.layers
        if (layer.name, layer.kind, layer.weight_shape) in known
    )


def layer_changes(a: Run, b: Run, metric: LayerMetric, effects: Effects) -> tuple[LayerChange, ...]:
    """Return every layer that both runs have, the largest change first, unknown ones last."""
    names = common_layers(a, b)
    before, after = (
        [metric.read(run.report.layer(name), known) for name in names]
        for run, known in zip((a, b), effects, strict=True)
    )
    found = map(LayerChange, names, before, after)
    return tuple(
        sorted(found, key=lambda one: math.inf if one.change is None else -abs(one.change))
    )


def available_metrics(a: Run, b: Run, effects: Effects) -> tuple[LayerMetric, ...]:
    """Return the metrics that at least one layer has in both runs.

    Effects on the output count only where both runs have them from the same source.
    """
    known = [one for one in effects if one is not None]
    sources = {(one.basis, one.measure) for one in known}
    is_alike = len(known) == 2 and len(sources) == 1
    metrics = dict(METRICS)
    if is_alike and known[0].measure is not KL:
        metrics["output"] = replace(METRICS["output"], unit=known[0].measure.label)
    return tuple(
        metric
        for metric in metrics.values()
        if (metric.key != "output" or is_alike)
        and any(one.change is not None for one in layer_changes(a, b, metric, effects))
    )


def describe_changes(changes: Sequence[LayerChange], metric: LayerMetric) -> str:
    """Return in how many layers B is better, in how many worse, and where it differs most."""
    known = [one for one in changes if one.change is not None]
    if not known:
        return "No layer has this number in both runs."
    signs = [one.change * (-1 if metric.is_higher_worse else 1) for one in known if one.change]
    better, worse = sum(sign > 0 for sign in signs), sum(sign < 0 for sign in signs)
    text = f"{metric.label}: B is better in {better} of {len(known)} layers and worse in {worse}"
    first = known[0]
    if not first.change:
        return f"{text}."
    return f"{text}; it changes most in {first.name}, {value_text(first.a, metric)} → " + (
        f"{value_text(first.b, metric)}."
    )


def value_text(value: float | None, metric: LayerMetric) -> str:
    """Return a layer's number as text."""
    return MISSING if value is None else metric.text(value)
