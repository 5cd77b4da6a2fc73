"""Four errors of every layer side by side: weight, input, local and accumulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.figures.axes import marked_names
from dashboard.figures.formatting import format_db
from dashboard.figures.theme import (
    ERROR,
    FLOAT,
    HIGHLIGHT,
    INT8,
    NEUTRAL,
    empty_figure,
    new_figure,
)
from dashboard.layer_rows import layer_sqnrs
from quant_engine.report import LayerReport, ModelReport

ROW_HEIGHT = 30

# Part, name in the legend, colour, symbol: no two differ by colour alone.
_PARTS = (
    ("weight", "weight", FLOAT, "square-open"),
    ("input", "input", INT8, "diamond-open"),
    ("local", "local", ERROR, "circle"),
    ("accumulated", "accumulated", NEUTRAL, "x"),
)


def layer_error_dots(report: ModelReport, *, selected: str | None = None) -> go.Figure:
    """Return the SQNR of four errors for each layer, in the order they run; a click names a layer.

    Args:
        report: A finished or partial analysis.
        selected: Layer whose row is marked.
    """
    title = "Four errors of every layer (SQNR, dB)"
    layers = report.layers
    finite = [x for layer in layers for x in _finite(layer)]
    if not finite:
        return empty_figure(title, "No layer has a measured error yet.")
    exact = max(finite) + 0.08 * max(max(finite) - min(finite), 10.0)
    rows = len(layers)
    traces = [_link(layers, exact), *(_dots(layers, exact, *part) for part in _PARTS)]
    return new_figure(
        title,
        "SQNR (dB), further left is worse",
        traces=[trace for trace in traces if trace["x"]],
        height=140 + ROW_HEIGHT * rows,
        y_axis={
            "tickmode": "array",
            "tickvals": list(range(rows)),
            "ticktext": _ticks(layers, selected),
            "range": [rows - 0.4, -0.6],
            "fixedrange": True,
        },
        shapes=[_band(i) for i, layer in enumerate(layers) if layer.name == selected],
        layout={"margin": {"l": 16, "r": 16, "t": 96, "b": 52}},
    )


def _finite(layer: LayerReport) -> list[float]:
    return [x for x in layer_sqnrs(layer).values() if x is not None and math.isfinite(x)]


def _ticks(layers: Sequence[LayerReport], selected: str | None) -> list[str]:
    names = marked_names([layer.name for layer in layers], selected)
    return [
        name if layer.is_quantized else f"{name} (float)"
        for name, layer in zip(names, layers, strict=True)
    ]


def _dots(
    layers: tuple[LayerReport, ...], exact: float, part: str, name: str, color: str, symbol: str
) -> dict[str, Any]:
    known = [
        (row, layer.name, value)
        for row, layer in enumerate(layers)
        if (value := layer_sqnrs(layer)[part]) is not None and value > -math.inf
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [exact if value == math.inf else value for _, _, value in known],
        "y": [row for row, _, _ in known],
        "customdata": [[layer, format_db(value)] for _, layer, value in known],
        "marker": {"color": color, "symbol": symbol, "size": 11, "line": {"width": 2}},
        "hovertemplate": f"<b>%{{customdata[0]}}</b><br>{name}: %{{customdata[1]}}<extra></extra>",
    }


def _link(layers: tuple[LayerReport, ...], exact: float) -> dict[str, Any]:
    """Thin lines from the local to the accumulated error: what earlier layers add."""
    x: list[float | None] = []
    y: list[float | None] = []
    for row, layer in enumerate(layers):
        values = layer_sqnrs(layer)
        ends = [values["local"], values["accumulated"]]
        if all(end is not None and end > -math.inf for end in ends):
            x += [*(exact if end == math.inf else end for end in ends), None]
            y += [row, row, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "what earlier layers add",
        "x": x,
        "y": y,
        "line": {"color": NEUTRAL, "width": 1.5},
        "hoverinfo": "skip",
    }


def _band(row: int) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": row - 0.48,
        "y1": row + 0.48,
        "fillcolor": HIGHLIGHT,
        "opacity": 0.22,
        "layer": "below",
        "line": {"width": 0},
    }


def describe_layer_errors(report: ModelReport) -> str:
    """Return the takeaway of `layer_error_dots` in one sentence."""
    local = {
        layer.name: layer.local_error.sqnr_db
        for layer in report.layers
        if layer.local_error is not None
    }
    last = next((x for x in reversed(report.layers) if x.accumulated_error is not None), None)
    if not local or last is None or last.accumulated_error is None:
        return "The errors of the layers are not measured yet."
    worst = min(local, key=lambda name: local[name])
    return (
        f"On its own, {worst} has the lowest SQNR, {format_db(local[worst])}; at the last layer, "
        f"{last.name}, {format_db(last.accumulated_error.sqnr_db)} are left of the signal."
    )
