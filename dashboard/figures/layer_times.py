"""Time inside each layer, in float and on integers: which layers gain, and which lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from dashboard.figures.axes import layer_ticks, row_frame, row_targets, two_lines
from dashboard.figures.formatting import format_count, format_ms, plural
from dashboard.figures.theme import FLOAT, INT8, INT8_EDGE, NEUTRAL, empty_figure, new_figure
from dashboard.figures.timing_text import (
    FLOAT_EXECUTION,
    INTEGER,
    baseline_of,
    execution,
    fastest_integer,
)
from quant_engine.report import TimingEntry, TimingReport

ROW_HEIGHT = 22
TITLE = "Time inside each layer (ms)"

GAINS, LOSES, UNCLEAR, FLOAT_ONLY = "gains", "loses", "no clear difference", "not on integers"
_VERBS: Mapping[str, tuple[str, str]] = {
    GAINS: ("gains time", "gain time"),
    LOSES: ("loses time", "lose time"),
    UNCLEAR: ("shows no clear difference", "show no clear difference"),
}
_LINES: Mapping[str, tuple[str, str]] = {
    GAINS: (INT8, "solid"),
    LOSES: (FLOAT, "solid"),
    UNCLEAR: (NEUTRAL, "dot"),
}
"""Colour and dash of the line between a layer's two times: the colour of the faster one."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer, in float and on integers.

    Attributes:
        name: Name of the layer.
        before: Its time in float.
        after: Its time on integers; None where it does not multiply integers.
    """

    name: str
    before: TimingEntry
    after: TimingEntry | None

    @property
    def gain_ms(self) -> float:
        """How much less time it takes on integers; negative where it takes more."""
        return 0.0 if self.after is None else self.before.median_ms - self.after.median_ms

    @property
    def kind(self) -> str:
        """Whether it gains or loses, or whether the middle halves of the runs overlap."""
        if self.after is None:
            return FLOAT_ONLY
        if are_alike(self.before, self.after):
            return UNCLEAR
        return GAINS if self.gain_ms > 0 else LOSES


def are_alike(one: TimingEntry, other: TimingEntry) -> bool:
    """Whether the middle halves of two times' runs overlap, so that neither is clearly faster."""
    return one.q1_ms <= other.q3_ms and other.q1_ms <= one.q3_ms


def layer_times(timing: TimingReport) -> tuple[LayerTime, ...]:
    """Return every layer that was timed in float, the largest gain first.

    Float is the layout that is the whole model's baseline, and integers are the fastest execution
    of the whole model, each where single layers were timed in it. Layers that do not compute on
    integers come last, the slowest of them first.
    """
    others = {entry.name for entry in timing.executions if entry.execution != INTEGER}
    times = {(entry.execution, entry.layer): entry for entry in timing.layers}
    size = max((entry.batch_size for entry in timing.layers), default=0)
    base, best = baseline_of(timing, size), fastest_integer(timing, size)
    floats = (FLOAT_EXECUTION if base is None else base.execution, FLOAT_EXECUTION)
    integers = (INTEGER if best is None else best.execution, INTEGER)
    found = []
    for name in dict.fromkeys(entry.layer for entry in timing.layers):
        before = [times[layout, name] for layout in floats if (layout, name) in times]
        after = [times[kind, name] for kind in integers if (kind, name) in times]
        if before:
            is_integer = bool(after) and name not in others
            found.append(LayerTime(name, before[0], after[0] if is_integer else None))
    return tuple(sorted(found, key=_order))


def _order(time: LayerTime) -> tuple[bool, float]:
    return time.after is None, -(time.before.median_ms if time.after is None else time.gain_ms)


def most_telling(times: Sequence[LayerTime], top: int | None) -> tuple[LayerTime, ...]:
    """Return the layers with the largest gains and losses, or the slowest, in the order given."""
    kept = sorted(times, key=lambda time: (time.after is None, -abs(time.gain_ms)))[:top]
    return tuple(time for time in times if time in kept)


def describe_layer_times(times: Sequence[LayerTime], timing: TimingReport) -> str:
    """Return how many layers gain and lose on integers, and what that sums up to."""
    if not times:
        return "Single layers were not timed."
    pairs = [(time.before, time.after) for time in times if time.after is not None]
    if not pairs:
        slowest = max(times, key=lambda time: time.before.median_ms)
        return (
            f"No layer multiplies integers; the slowest in float is {slowest.name} with "
            f"{format_ms(slowest.before.median_ms)}."
        )
    before, after = pairs[0]
    total = [sum(entry.median_ms for entry in entries) for entries in zip(*pairs, strict=True)]
    text = (
        f"{execution(after.execution).label.capitalize()}: {_count_kinds(times)}. Together they "
        f"take {format_ms(total[0])} in {_label(before)} and {format_ms(total[1])} on integers, "
        f"at batch size {before.batch_size}."
    )
    best = fastest_integer(timing, after.batch_size)
    if best is not None and best.execution != after.execution:
        text += f" In {_label(best)}, which is faster, single layers were not timed."
    return text


def _count_kinds(times: Sequence[LayerTime]) -> str:
    """Return how many layers there are of each kind that occurs."""
    parts: list[str] = []
    for kind, (one, many) in _VERBS.items():
        count = sum(time.kind == kind for time in times)
        if count:
            noun = "" if parts else "layer " if count == 1 else "layers "
            parts.append(f"{format_count(count)} {noun}{one if count == 1 else many}")
    *others, last = parts
    if not others:
        return last
    return f"{', '.join(others)}{',' if len(others) > 1 else ''} and {last}"


def layer_times_figure(times: Sequence[LayerTime], *, selected: str = "") -> go.Figure:
    """Return two dots a layer, float and integers, joined by a line in the faster one's colour.

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
        y_axis=layer_ticks(names, selected),
        shapes=[row_frame(names.index(selected))] if selected in names else [],
        layout={"barmode": "overlay"},
    )


def layer_time_rows(times: Sequence[LayerTime], timing: TimingReport) -> list[dict[str, Any]]:
    """Return the times of every layer in every execution, and the verdict of the figure."""
    kinds = {time.name: time for time in times}
    return [
        {
            "layer": entry.layer,
            "execution": entry.execution,
            "batch_size": entry.batch_size,
            "median_ms": entry.median_ms,
            "q1_ms": entry.q1_ms,
            "q3_ms": entry.q3_ms,
            "runs": entry.runs,
            "verdict": kinds[entry.layer].kind if entry.layer in kinds else None,
            "gain_ms": kinds[entry.layer].gain_ms if entry.layer in kinds else None,
        }
        for entry in timing.layers
    ]


def _label(entry: TimingEntry) -> str:
    return execution(entry.execution).label


def _dots(
    rows: Sequence[tuple[int, TimingEntry]], color: str, edge: str, symbol: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": _label(rows[0][1]),
        "x": [entry.median_ms for _, entry in rows],
        "y": [row for row, _ in rows],
        "customdata": [entry.layer for _, entry in rows],
        "hoverinfo": "skip",
        "marker": {
            "color": color,
            "size": 9,
            "symbol": symbol,
            "line": {"width": 1, "color": edge},
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, entry.q3_ms - entry.median_ms) for _, entry in rows],
            "arrayminus": [max(0.0, entry.median_ms - entry.q1_ms) for _, entry in rows],
            "color": edge,
            "thickness": 1.5,
            "width": 3,
        },
    }


def _joins(kind: str, times: Sequence[LayerTime]) -> dict[str, Any]:
    """One trace of short lines, with a gap after each."""
    color, dash = _LINES[kind]
    x: list[float | None] = []
    y: list[int | None] = []
    for row, time in enumerate(times):
        if time.kind == kind and time.after is not None:
            x += [time.before.median_ms, time.after.median_ms, None]
            y += [row, row, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": kind,
        "x": x,
        "y": y,
        "hoverinfo": "skip",
        "line": {"color": color, "width": 3, "dash": dash},
    }


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
        f"{_label(entry)}: {format_ms(entry.median_ms)} "
        f"({format_ms(entry.q1_ms)} to {format_ms(entry.q3_ms)}, {plural(entry.runs, 'run')})"
        for entry in (time.before, time.after)
        if entry is not None
    ]
    return "<br>".join(lines)
