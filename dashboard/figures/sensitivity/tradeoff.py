"""What one layer buys and costs, with the Pareto front.

Single-layer: bytes saved against error. Leave-one-out: bytes given back against what
sparing it gains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.facts.sensitivity.metrics import SensitivityMetric
from dashboard.facts.sensitivity.ranking import RankedLayer, layer_front
from dashboard.figures.kit.axes import BYTES_AXIS, ZERO_LINE, log_axis
from dashboard.figures.kit.marks import Trace, dots, line, ring, whiskers
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.point_labels import point_labels
from dashboard.figures.kit.theme import ERROR, empty_figure, new_figure
from dashboard.figures.sensitivity.ranking import describe_row, ranking_rows
from dashboard.words.formatting import format_bytes, plural, short_names
from quant_engine.report import SensitivityReport
from quant_engine.sensitivity import LEAVE_ONE_OUT


def describe_front(
    report: SensitivityReport, rows: Sequence[RankedLayer], metric: SensitivityMetric
) -> str:
    """Return the takeaway of the trade-off in a sentence."""
    front = [rows[i] for i in layer_front(report, rows, metric)]
    if not front:
        return "No layer has a value to show."
    share = f"{len(front)} of {plural(len(rows), 'layer')}"
    if any(row.gain is not None for row in rows):
        best = max(front, key=lambda row: row.drawn[0])
        return (
            f"Keeping {best.name} in float gains most, {metric.format(best.drawn[0])} of "
            f"{metric.label} for {format_bytes(best.saved_bytes)} given back; for {share} none "
            "gains more with fewer bytes."
        )
    if report.direction == LEAVE_ONE_OUT:
        return f"For {share} none leaves less {metric.label} with fewer bytes given back."
    best = max(front, key=lambda row: row.saved_bytes)
    return (
        f"Quantizing {best.name} saves most, {format_bytes(best.saved_bytes)} at a "
        f"{metric.label} of {metric.format(best.value)}; for {share} none saves more with less "
        "degradation."
    )


def tradeoff_picture(
    report: SensitivityReport,
    rows: Sequence[RankedLayer],
    metric: SensitivityMetric,
    *,
    is_log: bool = False,
    selected: str = "",
) -> Picture:
    """Return one point per layer, bytes saved against error, with the Pareto front as a line.

    With one layer left out, bytes given back against what sparing it gains, which may be negative
    and stands on a linear axis. Points that the axis cannot show (0 on a logarithmic axis, an
    infinite SQNR) stand on its edge, as triangles.
    """
    about = (
        f"how many bytes quantizing it saves, against {metric.label}.",
        "Quantize those first; keep layers far from it in float.",
    )
    if report.direction == LEAVE_ONE_OUT:
        about = (
            "how many bytes are given back when it stays float, against what that gains in "
            f"{metric.label} over all layers quantized.",
            "Layers on the front are the cheapest to keep in float.",
        )
    return Picture(
        _figure(report, rows, metric, selected, is_log=is_log),
        describe_front(report, rows, metric),
        (
            f"One point per layer: {about[0]}",
            f"Diamonds form the Pareto front: no other layer is better in both. {about[1]}",
            "Triangles stand for values that the axis cannot show. Click a point to select it.",
        ),
        lambda: ranking_rows(rows, metric),
        "tradeoff",
    )


def _figure(
    report: SensitivityReport,
    rows: Sequence[RankedLayer],
    metric: SensitivityMetric,
    selected: str,
    *,
    is_log: bool,
) -> go.Figure:
    is_left_out = report.direction == LEAVE_ONE_OUT
    is_gain = any(row.gain is not None for row in rows)
    what = f"what sparing a layer gains in {metric.label}" if is_gain else metric.label
    title = f"Bytes {'given back' if is_left_out else 'saved'} against {what}"
    saved = "saved by quantizing the layer"
    if not rows:
        return empty_figure(title, "No layer has a value to show.")
    is_log = is_log and metric.allows_log and not is_gain
    front, names = layer_front(report, rows, metric), [row.name for row in rows]
    heights = _heights([row.drawn[0] for row in rows], is_log)
    is_on_edge = [height != row.drawn[0] for height, row in zip(heights, rows, strict=True)]
    on_front = [i for i in front if not is_on_edge[i]]
    groups = {
        "other layers": [i for i in range(len(rows)) if not is_on_edge[i] and i not in set(front)],
        "on the front": on_front,
        "beyond the axis": [i for i in range(len(rows)) if is_on_edge[i]],
    }
    traces = []
    if len(front) > 1:
        x, y = [rows[i].saved_bytes for i in front], [heights[i] for i in front]
        traces.append(line(x, y, name="Pareto front: no layer is better in both", dash="dash"))
    traces += [
        _points(rows, heights, found, metric, name) for name, found in groups.items() if found
    ]
    for row, name, height in zip(rows, short_names(names, 24), heights, strict=True):
        if row.name == selected:
            traces.append(ring(row.saved_bytes, height, f"selected: {name}"))
    logs = [math.log10(height) if is_log else height for height in heights]
    points = list(zip([row.saved_bytes for row in rows], logs, strict=True))
    notes = point_labels(points, short_names(names, 22), on_front[::-1])  # largest saving first
    return new_figure(
        title,
        f"Bytes {'given back when the layer stays float' if is_left_out else saved}",
        f"{metric.label} gained ({metric.unit})" if is_gain else metric.title,
        traces=traces,
        height=440,
        x_axis={**BYTES_AXIS, "range": _byte_range(rows)},
        y_axis=log_axis(heights) if is_log else {**ZERO_LINE, "exponentformat": "e"},
        annotations=notes,
    )


def _heights(values: Sequence[float], is_log: bool) -> list[float]:
    """Values as drawn: what the axis cannot show is put a little beyond the others."""
    shown = [v for v in values if math.isfinite(v) and (not is_log or v > 0)]
    low, high = (min(shown), max(shown)) if shown else (1.0, 1.0)
    margin = 0.08 * (high - low) or 1.0
    below = low / 3 if is_log else low - margin
    above = high * 3 if is_log else high + margin

    def place(value: float) -> float:
        if value == math.inf:
            return above
        return below if value == -math.inf or (is_log and value <= 0) else value

    return [place(value) for value in values]


def _points(
    rows: Sequence[RankedLayer],
    heights: Sequence[float],
    chosen: Sequence[int],
    metric: SensitivityMetric,
    name: str,
) -> Trace:
    is_front = name == "on the front"
    heights = [heights[i] for i in chosen]
    found = [rows[i] for i in chosen]
    symbols = [
        _symbol(row.drawn[0], height, is_front) for row, height in zip(found, heights, strict=True)
    ]
    trace = dots(
        [row.saved_bytes for row in found],
        heights,
        ERROR,
        name=name,
        layers=[row.name for row in found],
        hover=[describe_row(row, metric) for row in found],
        edge_width=2 if is_front else 1,
        size=13 if is_front else 9,
        symbol=symbols,
    )
    ends = [interval for _, interval in (row.drawn for row in found)]
    if name != "beyond the axis" and any(ends):
        finite = [end if end and all(map(math.isfinite, end)) else None for end in ends]
        trace["error_y"] = whiskers(heights, finite, thickness=1, width=0)
    return trace


def _symbol(value: float, height: float, is_front: bool) -> str:
    if value != height:
        return "triangle-up" if value > height else "triangle-down"
    return "diamond" if is_front else "circle"


def _byte_range(rows: Sequence[RankedLayer]) -> list[float]:
    """From 0, or from a layer that grew, with room for whole markers at both ends."""
    low, high = min(0, *(row.saved_bytes for row in rows)), max(row.saved_bytes for row in rows)
    margin = 0.05 * (high - low) or 1.0
    return [low - margin, high + margin]
