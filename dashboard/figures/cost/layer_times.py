"""Time inside each layer, in float and on integers: which layers gain, and which lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.cost.executions import time_columns
from dashboard.facts.cost.layer_times import (
    FLOAT_ONLY,
    GAINS,
    LOSES,
    UNCLEAR,
    LayerTime,
    describe_layer_times,
    execution_label,
    layer_times,
    most_telling,
)
from dashboard.figures.kit.axes import layer_rows, row_frame, row_targets, two_lines
from dashboard.figures.kit.marks import dots, line, whiskers
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import FLOAT, INT8, INT8_EDGE, NEUTRAL, empty_figure, new_figure
from dashboard.words.formatting import format_ms, plural
from quant_engine.report import TimingEntry, TimingReport

ROW_HEIGHT = 22
TITLE = "Time inside each layer (ms)"

_LINES: Mapping[str, tuple[str, str]] = {
    GAINS: (INT8, "solid"),
    LOSES: (FLOAT, "solid"),
    UNCLEAR: (NEUTRAL, "dot"),
}
"""Colour and dash of the line between a layer's two times: the colour of the faster one."""


def layer_times_picture(
    timing: TimingReport, *, top: int | None = None, selected: str = ""
) -> Picture:
    """Return the times of the layers; with `top`, of those whose time changes the most."""
    times = layer_times(timing)
    return Picture(
        layer_times_figure(most_telling(times, top), selected=selected),
        describe_layer_times(times, timing),
        (
            "Two dots per layer: blue in float, orange on integers. An orange line is time "
            "saved, a blue one time lost; dotted grey: neither is clearly faster. The largest "
            "gain stands on top.",
            "Small layers lose where rounding the input and launching the kernel cost more "
            "than the multiplications save. Watching costs a little, so the sum is not the "
            "model's time.",
            "Click a dot to select its layer. The data holds simulated int8 too.",
        ),
        lambda: layer_time_rows(times, timing),
        "timing-layers",
    )


def layer_times_figure(times: Sequence[LayerTime], *, selected: str = "") -> go.Figure:
    """Return two dots per layer, float and integers, joined by a line in the faster one's colour.

    `customdata` of a dot is the layer's name.
    """
    if not times:
        return empty_figure(TITLE, "Single layers were not timed.")
    names = [time.name for time in times]
    pairs = [(row, time.after) for row, time in enumerate(times) if time.after is not None]
    floats = [(row, time.before) for row, time in enumerate(times)]
    traces = [_joins(kind, times) for kind in _LINES if any(t.kind == kind for t in times)]
    traces.append(_dots(floats, FLOAT, FLOAT, "circle"))
    if pairs:
        traces.append(_dots(pairs, INT8, INT8_EDGE, "diamond"))
    longest = max(entry.q3_ms for _, entry in (*floats, *pairs))
    return new_figure(
        two_lines(TITLE, f"medians, quartiles as whiskers; batch size {floats[0][1].batch_size}"),
        "Milliseconds in one forward pass",
        traces=[*traces, row_targets(names, [_describe(time) for time in times], 0, longest)],
        height=170 + ROW_HEIGHT * max(len(times), 4),
        x_axis={"rangemode": "tozero"},
        y_axis=layer_rows(names, selected),
        shapes=[row_frame(names.index(selected))] if selected in names else [],
        layout={"barmode": "overlay"},
    )


def layer_time_rows(times: Sequence[LayerTime], timing: TimingReport) -> list[dict[str, Any]]:
    """Return the times of every layer in every execution, and the verdict of the figure."""
    kinds = {time.name: time for time in times}
    return [
        {
            **time_columns(entry),
            "verdict": kinds[entry.layer].kind if entry.layer in kinds else None,
            "gain_ms": kinds[entry.layer].gain_ms if entry.layer in kinds else None,
        }
        for entry in timing.layers
    ]


def _dots(
    rows: Sequence[tuple[int, TimingEntry]], color: str, edge: str, symbol: str
) -> dict[str, Any]:
    medians = [entry.median_ms for _, entry in rows]
    ends = [(entry.q1_ms, entry.q3_ms) for _, entry in rows]
    return dots(
        medians,
        [row for row, _ in rows],
        color,
        name=execution_label(rows[0][1]),
        layers=[entry.layer for _, entry in rows],
        size=9,
        symbol=symbol,
        error_x=whiskers(medians, ends, edge, width=3),
    )


def _joins(kind: str, times: Sequence[LayerTime]) -> dict[str, Any]:
    """One trace of short lines, with a gap after each."""
    color, dash = _LINES[kind]
    pairs = [(row, t.before, t.after) for row, t in enumerate(times) if t.kind == kind and t.after]
    x = [v for _, before, after in pairs for v in (before.median_ms, after.median_ms, None)]
    y = [v for row, *_ in pairs for v in (row, row, None)]
    return line(x, y, color, name=kind, width=3, dash=dash)


def _describe(time: LayerTime) -> str:
    if time.after is None:
        head = f"<b>{time.name}</b>: {FLOAT_ONLY}"
    else:
        change = "saved on integers" if time.gain_ms >= 0 else "lost on integers"
        head = f"<b>{time.name}</b>: {format_ms(abs(time.gain_ms))} {change}"
    lines = [head]
    if time.kind == UNCLEAR:
        lines.append("no clear difference: the middle halves of the runs overlap")
    lines += [
        f"{execution_label(entry)}: {format_ms(entry.median_ms)} "
        f"({format_ms(entry.q1_ms)} to {format_ms(entry.q3_ms)}, {plural(entry.runs, 'run')})"
        for entry in (time.before, time.after)
        if entry is not None
    ]
    return "<br>".join(lines)
