"""Histograms of each layer's relative error, |x̂ - x| over the RMS of x's channel, on one axis."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.causes import accumulated_relative, local_relative
from dashboard.figures.kit.axes import marked_names
from dashboard.figures.kit.theme import ERROR, ERROR_EDGE, HIGHLIGHT, empty_figure, new_figure
from dashboard.figures.layers.four_errors import format_relative
from dashboard.words.formatting import plural
from quant_engine.report import LayerReport, ModelReport, RelativeErrors

ROW_HEIGHT = 30
FILL = 0.86
KINDS = {"local": "alone", "accumulated": "with all layers before it"}
NOT_KEPT = "This run was kept before relative errors were: analyse it again to see them."


def relative_of(layer: LayerReport, kind: str) -> RelativeErrors | None:
    """Return a layer's local or accumulated relative errors."""
    return layer.local_relative if kind == "local" else layer.accumulated_relative


def relative_error_histograms(
    report: ModelReport, kind: str = "local", *, selected: str | None = None
) -> go.Figure:
    """Return one row per layer in the order they run: the error of its output, as a share of RMS.

    Args:
        report: A finished or partial analysis.
        kind: "local" (this layer alone quantized) or "accumulated".
        selected: Layer whose row is marked.
    """
    title = f"Relative error of each layer's output, {KINDS[kind]} (share of the channel's RMS)"
    rows = [(x.name, kept) for x in report.layers if (kept := relative_of(x, kind)) is not None]
    if not rows:
        return empty_figure(title, NOT_KEPT)
    columns: dict[str, list[Any]] = {k: [] for k in ("x", "y", "base", "customdata")}
    last = len(rows) - 1
    for index, (name, kept) in enumerate(rows):
        total = sum(kept.counts) + kept.below + kept.above + kept.exact
        top = max(kept.counts, default=0)
        for half_octave, count in enumerate(kept.counts):
            if not count:
                continue
            left = 2.0 ** (kept.lowest_octave + half_octave / 2)
            columns["x"].append(kept.lowest_octave + half_octave / 2 + 0.25)
            columns["y"].append(FILL * count / top)
            columns["base"].append(last - index)
            text = f"{format_relative(left)} to {format_relative(left * 2**0.5)}"
            columns["customdata"].append([name, text, count / total])
    used = columns["x"]
    ticks = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
    bars = {
        "type": "bar",
        **columns,
        "width": 0.5,
        "showlegend": False,
        "marker": {"color": ERROR, "line": {"width": 0.4, "color": ERROR_EDGE}},
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]} of the RMS: "
        "%{customdata[2]:.1%} of the values<extra></extra>",
    }
    line = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1}
    shapes: list[dict[str, Any]] = [{**line, "line": {"width": 1.5, "dash": "dot"}}]
    for index, (name, _) in enumerate(rows):
        if name == selected:
            shapes.append(_band(last - index))
    return new_figure(
        title,
        "|x̂ − x| / RMS of x's channel; dotted: as large as the signal",
        traces=[bars],
        height=110 + ROW_HEIGHT * len(rows),
        x_axis={
            "range": [min([*used, -10.0]) - 0.5, max([*used, 0.5]) + 0.5],
            "tickmode": "array",
            "tickvals": [_octaves(t) for t in ticks],
            "ticktext": [format_relative(t) for t in ticks],
        },
        y_axis={
            "tickmode": "array",
            "tickvals": [last - index + FILL / 2 for index in range(len(rows))],
            "ticktext": marked_names([name for name, _ in rows], selected),
            "range": [-0.15, len(rows) + 0.2],
            "showgrid": False,
            "fixedrange": True,
        },
        shapes=shapes,
        layout={"barmode": "overlay", "margin": {"l": 16, "r": 16, "t": 48, "b": 56}},
    )


def _octaves(share: float) -> float:
    return math.log2(share)


def _band(base: int) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": base - 0.06,
        "y1": base + 0.94,
        "fillcolor": HIGHLIGHT,
        "opacity": 0.22,
        "layer": "below",
        "line": {"width": 0},
    }


def describe_relative_errors(report: ModelReport, kind: str = "local") -> str:
    """Return the takeaway: the layer whose output is furthest off, and its lost channels."""
    value = local_relative if kind == "local" else accumulated_relative
    found = [(x, kept) for x in report.layers if (kept := relative_of(x, kind)) is not None]
    if not found:
        return NOT_KEPT
    layer, kept = max(found, key=lambda item: item[1].rms)
    text = (
        f"{layer.name} is furthest off, {KINDS[kind]}: {format_relative(value(layer))} of the RMS"
    )
    if kept.lost_channels:
        text += f", {kept.lost_channels} of {plural(kept.channels, 'channel')} mostly lost"
    flat = sum(k.flat_channels for _, k in found)
    if flat:
        text += f". {plural(flat, 'channel')} of all layers {'is' if flat == 1 else 'are'} always 0"
        text += " and counted apart"
    return f"{text}."
