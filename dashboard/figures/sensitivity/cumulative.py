"""The model step by step: the k least sensitive layers quantized, the others in float."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.accuracy import (
    share_interval,
    share_text,
)
from dashboard.facts.sensitivity.curve import (
    has_accuracy,
    is_folded_first,
    is_joint,
    measured_counts,
    most_quantized_without_loss,
    point_degradation,
)
from dashboard.figures.kit.axes import BYTES_AXIS, log_axis, two_lines
from dashboard.figures.kit.marks import dots, line, ring, whiskers
from dashboard.figures.kit.picture import Picture, Rows
from dashboard.figures.kit.theme import ERROR, FLOAT, INT8, axis, empty_figure, new_figure
from dashboard.words.degradation import NMSE, degradation_by
from dashboard.words.formatting import (
    format_accuracy,
    format_bytes,
    format_db,
    format_percent,
    percent,
    plural,
)
from quant_engine.report import CumulativePoint, SensitivityReport


def cumulative_picture(
    report: SensitivityReport, *, is_log: bool = True, selected: str = "", kept: int | None = None
) -> Picture:
    """Return error above accuracy, both against the bytes of the model.

    The float model stands left, everything quantized right. Where all models have the same bytes,
    because only inputs are rounded, both stand against the number of layers. `customdata`
    of a point is the layer that was quantized last.

    Args:
        report: A measurement with its curve.
        is_log: Draw degradations on a logarithmic axis, where 0 has no place.
        selected: Layer to point out.
        kept: Point out the model with this many layers in float.
    """
    folds = ""
    if is_folded_first(report):
        folds = " The first step also folds every BatchNorm into its layer, which saves bytes of "
        folds += "its own."
    samples = report.answering_samples
    one = f" One of the {samples} samples is {format_percent(1 / samples)}." if samples else ""
    return Picture(
        _figure(report, selected, kept, is_log=is_log),
        describe_curve(report),
        (
            "Left the float model; to the right more and more layers are quantized, the least "
            f"sensitive first. Every point was really run, at {measured_counts(report)}: where the "
            "layers' own degradations let the most change be expected. Lines between points are "
            f"not measured.{folds}",
            "Above: how far the output moved. Below: the accuracy, the float model's dashed." + one
            if has_accuracy(report)
            else "Upwards: how far the output moved.",
            "Look for the last point before the error jumps: the layers after it are worth "
            "keeping in float. Click a point to select the layer it added last.",
        ),
        lambda: curve_rows(report),
        "curve",
    )


def curve_rows(report: SensitivityReport) -> Rows:
    """Return the points of the curve, one row each."""
    rows = []
    for point in report.cumulative:
        single = {"output_sqnr_db": point.sqnr_db, "accuracy_percent": percent(point.accuracy)}
        rows.append(
            {
                "quantized_layers": point.count,
                "layer_added": point.layer,
                "layers_added": ", ".join(point.added),
                degradation_by(report.metric).column: point_degradation(point, report),
                **({} if is_joint(report) else single),
                "model_bytes": point.model_bytes,
            }
        )
    return rows


def _figure(
    report: SensitivityReport, selected: str, kept: int | None, *, is_log: bool
) -> go.Figure:
    points = report.cumulative
    if not points:
        return empty_figure(_title(report), "The curve was not measured.")
    title_of_error, allows_log = error_title(report)
    has_labels = has_accuracy(report)
    traces = [_error_trace(report, is_log)]
    layout: dict[str, Any] = {
        "yaxis": axis(
            title_of_error,
            domain=[0.46 if has_labels else 0.0, 1.0],
            **(log_axis(traces[0]["y"]) if allows_log and is_log else {"exponentformat": "e"}),
        )
    }
    if has_labels:
        traces.append(_accuracy_trace(report))
        if report.accuracy_float is not None:
            traces.append(_float_accuracy(points, report.accuracy_float))
        layout["yaxis2"] = axis(
            "Accuracy (%)", domain=[0.0, 0.36], anchor="x", range=_accuracy_range(report)
        )
    traces += _marks(points, traces[0], selected, kept)
    across = axis(
        "Model size (float left, all quantized right)", **BYTES_AXIS, autorange="reversed"
    )
    if not _has_bytes(points):
        across = axis("Layers with rounded inputs", tickformat="d", ticksuffix="", autorange=True)
    layout["xaxis"] = across | {"anchor": "y2" if has_labels else "y"}
    return new_figure(
        _title(report), traces=traces, height=520 if has_labels else 380, layout=layout
    )


def _title(report: SensitivityReport) -> str:
    what = "Error and accuracy" if has_accuracy(report) else "Error"
    if not report.cumulative or _has_bytes(report.cumulative):
        return two_lines(f"{what} against model size", "the k least sensitive layers quantized")
    return two_lines(f"{what} step by step", "the inputs of the k least sensitive layers rounded")


def describe_curve(report: SensitivityReport) -> str:
    """Return the takeaway of the curve in a sentence."""
    if not report.cumulative:
        return "The curve was not measured."
    first, last = report.cumulative[0], report.cumulative[-1]
    text = (
        f"From {format_bytes(first.model_bytes)} in float to {format_bytes(last.model_bytes)} with "
        f"{plural(last.count, 'layer')} quantized. Measured at {measured_counts(report)}."
    )
    best = most_quantized_without_loss(report)
    if best is not None:
        text += f" Up to {plural(best.count, 'layer')} the samples show no loss of accuracy."
    return text


def error_title(report: SensitivityReport) -> tuple[str, bool]:
    """Return what the curve's upper part shows, and whether it may stand on a logarithmic axis."""
    measure = degradation_by(report.metric)
    return ("Output SQNR (dB)", False) if measure is NMSE else (measure.heading, True)


def describe_point(point: CumulativePoint, report: SensitivityReport) -> str:
    """Return what a point's hover shows."""
    head = f"{plural(point.count, 'layer')} quantized" if point.count else "the float model"
    lines = [f"<b>{head}</b>"]
    if point.layer:
        more = len(point.added) - 1
        lines.append(f"last one: {point.layer}" + (f", after {more} others" if more else ""))
    lines.append(f"model: {format_bytes(point.model_bytes)}")
    measure = degradation_by(report.metric)
    if measure is not NMSE:
        lines.append(f"{measure.label}: {measure.text(point_degradation(point, report))}")
    if is_joint(report):  # the rest is of one output alone
        return "<br>".join(lines)
    lines.append(f"output SQNR: {format_db(point.sqnr_db)}")
    if point.accuracy is not None:
        lines.append(f"accuracy: {share_text(point.accuracy, report.answering_samples)}")
    return "<br>".join(lines)


def _has_bytes(points: Sequence[CumulativePoint]) -> bool:
    """Whether the models differ in their bytes."""
    return len(points) == 1 or len({point.model_bytes for point in points}) > 1


def _places(points: Sequence[CumulativePoint]) -> list[int]:
    """Where the points stand: by bytes, or by the number of layers."""
    has_bytes = _has_bytes(points)
    return [point.model_bytes if has_bytes else point.count for point in points]


def _points_trace(
    report: SensitivityReport, values: Sequence[float | None], color: str, **more: Any
) -> dict[str, Any]:
    points = report.cumulative
    trace = dots(
        _places(points),
        values,
        color,
        layers=[point.layer for point in points],
        hover=[describe_point(point, report) for point in points],
        size=8,
        mode="lines+markers",
        **more,
    )
    return trace | {"line": {"color": color}}


def _error_trace(report: SensitivityReport, is_log: bool) -> dict[str, Any]:
    title, allows_log = error_title(report)

    def height(point: CumulativePoint) -> float | None:
        value = point_degradation(point, report) if allows_log else point.sqnr_db
        if value is None or not math.isfinite(value) or (allows_log and is_log and value <= 0):
            return None
        return value

    name = title.partition(" (")[0]
    values = [height(point) for point in report.cumulative]
    trace = _points_trace(report, values, ERROR)
    return trace | {"name": name, "showlegend": False}  # the axis says it


def _accuracy_trace(report: SensitivityReport) -> dict[str, Any]:
    shares = [point.accuracy for point in report.cumulative]
    values = [percent(share) for share in shares]
    ends = [share_interval(share, report.answering_samples) or (None, None) for share in shares]
    spans = [(percent(low), percent(high)) for low, high in ends]
    return _points_trace(
        report,
        values,
        INT8,
        symbol="square",
        name="accuracy of this mixed model"
        + (", 95 % interval" if report.has_whole_answers else ""),
        showlegend=True,
        yaxis="y2",
        error_y=whiskers(values, spans, thickness=1.2, width=3),
    )


def _accuracy_range(report: SensitivityReport) -> list[float]:
    """From the lowest interval to the highest, with room for markers; hardly above 100 %."""
    shares = [point.accuracy for point in report.cumulative if point.accuracy is not None]
    ends = [
        end for s in shares for end in (s, *(share_interval(s, report.answering_samples) or ()))
    ]
    ends += [] if report.accuracy_float is None else [report.accuracy_float]
    low, high = 100 * min(ends), 100 * max(ends)
    margin = max(0.15 * (high - low), 0.25)
    return [low - margin, min(high + margin, 100 + 0.5 * margin)]


def _float_accuracy(points: Sequence[CumulativePoint], accuracy: float) -> dict[str, Any]:
    x, y = [max(_places(points)), min(_places(points))], [100 * accuracy] * 2
    name = f"float accuracy: {format_accuracy(accuracy)}"
    return line(x, y, FLOAT, name=name, dash="dash", yaxis="y2")


def _marks(
    points: Sequence[CumulativePoint], error: dict[str, Any], selected: str, kept: int | None
) -> list[dict[str, Any]]:
    """Rings around the step of the selected layer and around the chosen split."""
    last = max(point.count for point in points)
    rings = []
    for point, place, height in zip(points, _places(points), error["y"], strict=True):
        if height is not None and selected and selected in point.added:
            rings.append(ring(place, height, "selected layer"))
        if height is not None and kept is not None and point.count == last - kept:
            rings.append(ring(place, height, "chosen split", "diamond-open"))
    return rings
