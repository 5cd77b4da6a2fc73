"""Measured times: whole models and single layers, each named for what really ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.figures.axes import beside, row_targets, two_lines
from dashboard.figures.formatting import format_ms, plural, shorten_middle
from dashboard.figures.theme import (
    HIGHLIGHT,
    MARGIN,
    NEUTRAL,
    empty_figure,
    new_figure,
)
from dashboard.figures.timing_text import FLOATS, baseline_of, comparison_text, execution
from quant_engine.report import TimingEntry, TimingReport

ROW_HEIGHT = 26
BAR_HEIGHT = 12
NAME_LENGTH = 30
SELECTED_MARK = "▶ "
QUARTILES = "median, and the middle half of the runs as a whisker"


def model_timing_figure(timing: TimingReport, batch_size: int) -> go.Figure:
    """Return one bar an execution: its median, and the middle half of the runs as a whisker."""
    entries = [entry for entry in timing.models if entry.batch_size == batch_size]
    title = two_lines(f"Time of one forward pass (ms), batch size {batch_size}", QUARTILES)
    if not entries:
        return empty_figure(title, "Nothing was timed at this batch size.")
    bars = _bars(entries, list(range(len(entries))), 0.6) | {
        "hovertext": [_describe(timing, entry) for entry in entries],
        "showlegend": False,
    }
    shown = [execution(entry.execution) for entry in entries]
    bars["marker"] = {
        "color": [look.color for look in shown],
        "line": {"width": 0},
        "pattern": _pattern([look.pattern for look in shown]),
    }
    return new_figure(
        title,
        "Milliseconds in one forward pass",
        traces=[bars],
        height=150 + 44 * max(len(entries), 2),
        x_axis={"rangemode": "tozero"},
        y_axis={
            "tickvals": list(range(len(entries))),
            "ticktext": [look.label for look in shown],
            "range": [len(entries) - 0.5, -0.5],
            "showgrid": False,
        },
        annotations=[
            beside(index, _time_text(timing, entry)) for index, entry in enumerate(entries)
        ],
        layout={"margin": {**MARGIN, "r": 160}},
    )


def layer_entries(timing: TimingReport) -> tuple[TimingEntry, ...]:
    """Return the times of single layers; of float's two layouts only the faster one's."""
    kinds = {(entry.execution, entry.batch_size) for entry in timing.layers}

    def is_shown(entry: TimingEntry) -> bool:
        base = baseline_of(timing, entry.batch_size)
        if base is None or (base.execution, entry.batch_size) not in kinds:
            return True
        return entry.execution == base.execution or entry.execution not in FLOATS

    return tuple(entry for entry in timing.layers if is_shown(entry))


def slowest_layers(timing: TimingReport, top: int | None = None) -> tuple[str, ...]:
    """Return the layers by their longest median over all executions, the slowest first."""
    longest: dict[str, float] = {}
    for entry in layer_entries(timing):
        longest[entry.layer] = max(longest.get(entry.layer, 0.0), entry.median_ms)
    names = sorted(longest, key=lambda name: longest[name], reverse=True)
    return tuple(names if top is None else names[:top])


def layer_timing_figure(
    timing: TimingReport, names: Sequence[str], *, selected: str = ""
) -> go.Figure:
    """Return the time inside each layer, one bar for each execution.

    `customdata` of a bar is the layer's name.
    """
    entries = [entry for entry in layer_entries(timing) if entry.layer in set(names)]
    if not entries:
        return empty_figure("Time inside each layer (ms)", "Single layers were not timed.")
    sizes = sorted({entry.batch_size for entry in entries})
    batch = " and ".join(str(size) for size in sizes)
    title = two_lines(f"Time inside each layer (ms), batch size {batch}", QUARTILES)
    kinds = list(dict.fromkeys(entry.execution for entry in entries))
    position = {name: index for index, name in enumerate(names)}
    width = 0.8 / len(kinds)
    traces = []
    for number, kind in enumerate(kinds):
        own = [entry for entry in entries if entry.execution == kind]
        offset = (number - (len(kinds) - 1) / 2) * width
        look = execution(kind)
        traces.append(
            _bars(own, [position[entry.layer] + offset for entry in own], 0.9 * width)
            | {
                "name": look.label,
                "customdata": [entry.layer for entry in own],
                "hovertext": [f"<b>{entry.layer}</b><br>{_describe(None, entry)}" for entry in own],
                "marker": {
                    "color": look.color,
                    "line": {"width": 0},
                    "pattern": _pattern([look.pattern] * len(own)),
                },
            }
        )
    return new_figure(
        title,
        "Milliseconds in one forward pass",
        traces=[*traces, _targets(entries, names)],
        height=180 + max(ROW_HEIGHT, BAR_HEIGHT * len(kinds)) * max(len(names), 3),
        x_axis={"rangemode": "tozero"},
        y_axis={
            "tickvals": list(range(len(names))),
            "ticktext": [
                (SELECTED_MARK if name == selected else "") + shorten_middle(name, NAME_LENGTH)
                for name in names
            ],
            "range": [len(names) - 0.5, -0.5],
            "showgrid": False,
            "fixedrange": True,
        },
        shapes=[
            {
                "type": "rect",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": position[selected] - 0.48,
                "y1": position[selected] + 0.48,
                "line": {"color": HIGHLIGHT, "width": 2},
            }
        ]
        if selected in position
        else [],
        layout={"barmode": "overlay"},
    )


def _targets(entries: Sequence[TimingEntry], names: Sequence[str]) -> dict[str, Any]:
    texts = [
        f"<b>{name}</b><br>"
        + "<br>".join(
            f"{execution(entry.execution).label}: {format_ms(entry.median_ms)}"
            for entry in entries
            if entry.layer == name
        )
        for name in names
    ]
    return row_targets(names, texts, 0, max(max(e.q3_ms, e.median_ms) for e in entries))


def _bars(
    entries: Sequence[TimingEntry], positions: Sequence[float], width: float
) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "x": [entry.median_ms for entry in entries],
        "y": list(positions),
        "width": width,
        "offset": -width / 2,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, entry.q3_ms - entry.median_ms) for entry in entries],
            "arrayminus": [max(0.0, entry.median_ms - entry.q1_ms) for entry in entries],
            "color": NEUTRAL,
            "thickness": 1.5,
            "width": 4,
        },
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _pattern(shapes: Sequence[str]) -> dict[str, Any]:
    return {
        "shape": list(shapes),
        "size": 6,
        "solidity": 0.25,
        "fillmode": "overlay",
        "fgcolor": "#FFFFFF",
        "fgopacity": 0.85,
    }


def _describe(timing: TimingReport | None, entry: TimingEntry) -> str:
    look = execution(entry.execution)
    lines = [
        f"<b>{look.label}</b>, batch size {entry.batch_size}",
        f"median {format_ms(entry.median_ms)}",
        f"middle half of {plural(entry.runs, 'run')}: "
        f"{format_ms(entry.q1_ms)} to {format_ms(entry.q3_ms)}",
        f"{format_ms(entry.median_ms / max(1, entry.batch_size))} for one sample",
    ]
    if timing is not None and (compared := comparison_text(timing, entry)):
        lines.append(compared)
    if entry.is_unreliable:
        lines.append("unreliable: its runs differ too much")
    return "<br>".join(lines)


def _time_text(timing: TimingReport, entry: TimingEntry) -> str:
    remarks = [comparison_text(timing, entry), "unreliable" if entry.is_unreliable else ""]
    said = ", ".join(remark for remark in remarks if remark)
    return format_ms(entry.median_ms) + (f" ({said})" if said else "")
