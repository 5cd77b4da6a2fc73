"""Histograms of each layer's relative error, |x̂ - x| over the RMS of x's channel, on one axis."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.diagnosis.causes import accumulated_relative, local_relative
from dashboard.figures.kit.axes import FILL, floor_rows, row_band
from dashboard.figures.kit.marks import bars
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import ERROR, ERROR_EDGE, empty_figure, new_figure, vertical_line
from dashboard.words.formatting import format_relative, percent, plural
from quant_engine.report import LayerReport, ModelReport, RelativeErrors

ROW_HEIGHT = 30
KINDS = {"local": "alone", "accumulated": "with all layers before it"}
NOTHING_MEASURED = "No relative error is measured yet."


def relative_of(layer: LayerReport, kind: str) -> RelativeErrors | None:
    """Return a layer's local or accumulated relative errors."""
    return layer.local_relative if kind == "local" else layer.accumulated_relative


def relative_errors_picture(
    report: ModelReport, kind: str = "local", *, selected: str | None = None
) -> Picture:
    """Return one row per layer in the order they run: the error of its output, as a share of RMS.

    Args:
        report: A finished or partial analysis.
        kind: "local" (this layer alone quantized) or "accumulated".
        selected: Layer whose row is marked.
    """
    return Picture(
        _figure(report, kind, selected),
        _describe(report, kind),
        (
            "One row per layer, in the order they run: how far each value of its output is off "
            f"when it is quantized {KINDS[kind]}, as a share of the RMS of the value's channel.",
            "A healthy layer has a hill near 1 %. Values near 100 % are lost: the error is as "
            "large as the signal.",
            "Channels that are always 0 have no RMS and are counted apart.",
        ),
        lambda: [
            {
                "layer": layer.name,
                "rms_percent": percent(kept.rms),
                "channels": kept.channels,
                "lost_channels": kept.lost_channels,
                "flat_channels": kept.flat_channels,
                "exact": kept.exact,
                "below": kept.below,
                **{
                    f"from_2^{kept.lowest_octave + half_octave / 2:g}": count
                    for half_octave, count in enumerate(kept.counts)
                },
                "above": kept.above,
            }
            for layer in report.layers
            if (kept := relative_of(layer, kind)) is not None
        ],
        "relative-errors",
    )


def _figure(report: ModelReport, kind: str, selected: str | None) -> go.Figure:
    title = f"Relative error of each layer's output, {KINDS[kind]} (share of the channel's RMS)"
    rows = [(x.name, kept) for x in report.layers if (kept := relative_of(x, kind)) is not None]
    if not rows:
        return empty_figure(title, NOTHING_MEASURED)
    last = len(rows) - 1
    marks = [
        (
            octave + 0.25,
            FILL * count / max(kept.counts),
            last - index,
            _custom(name, kept, octave, count),
        )
        for index, (name, kept) in enumerate(rows)
        for half_octave, count in enumerate(kept.counts)
        for octave in [kept.lowest_octave + half_octave / 2]
        if count
    ]
    used = [x for x, *_ in marks]
    ticks = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
    trace = bars(
        used,
        [height for _, height, *_ in marks],
        ERROR,
        layers=[words for *_, words in marks],
        hover="<b>%{customdata[0]}</b><br>%{customdata[1]} of the RMS: "
        "%{customdata[2]:.1%} of the values",
        edge=ERROR_EDGE,
        edge_width=0.4,
        base=[base for *_, base, _ in marks],
        width=0.5,
    )
    shapes = [vertical_line(0)] + [
        row_band(last - index - 0.06, last - index + 0.94)
        for index, (name, _) in enumerate(rows)
        if name == selected
    ]
    return new_figure(
        title,
        "|x̂ − x| / RMS of x's channel; dotted: as large as the signal",
        traces=[trace],
        height=110 + ROW_HEIGHT * len(rows),
        x_axis={
            "range": [min([*used, -10.0]) - 0.5, max([*used, 0.5]) + 0.5],
            "tickmode": "array",
            "tickvals": [math.log2(t) for t in ticks],
            "ticktext": [format_relative(t) for t in ticks],
        },
        y_axis=floor_rows([name for name, _ in rows], selected, len(rows) + 0.2),
        shapes=shapes,
        layout={"barmode": "overlay", "margin": {"l": 16, "r": 16, "t": 48, "b": 56}},
    )


def _custom(name: str, kept: RelativeErrors, octave: float, count: int) -> list[Any]:
    """A layer's name, and what hovering a bin says: its ends, and the share of values in it."""
    total = sum(kept.counts) + kept.below + kept.above + kept.exact
    left = 2.0**octave
    ends = f"{format_relative(left)} to {format_relative(left * 2**0.5)}"
    return [name, ends, count / total]


def _describe(report: ModelReport, kind: str) -> str:
    """The takeaway: the layer whose output is furthest off, and its lost channels."""
    value = local_relative if kind == "local" else accumulated_relative
    found = [(x, kept) for x in report.layers if (kept := relative_of(x, kind)) is not None]
    if not found:
        return NOTHING_MEASURED
    layer, kept = max(found, key=lambda item: item[1].rms)
    off = format_relative(value(layer))
    text = f"{layer.name} is furthest off, {KINDS[kind]}: {off} of the RMS"
    if kept.lost_channels:
        text += f", {kept.lost_channels} of {plural(kept.channels, 'channel')} mostly lost"
    flat = sum(k.flat_channels for _, k in found)
    if flat:
        text += f". {plural(flat, 'channel')} of all layers {'is' if flat == 1 else 'are'} always 0"
        text += " and counted apart"
    return f"{text}."
