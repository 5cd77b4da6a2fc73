"""Which layers gain when they compute on integers, and which lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from dashboard.figures.axes import row_targets, two_lines
from dashboard.figures.formatting import format_count, format_ms, shorten_middle
from dashboard.figures.theme import FLOAT, HIGHLIGHT, INT8, NEUTRAL, empty_figure, new_figure
from dashboard.figures.timing_text import FLOAT_EXECUTION, INTEGER, baseline_of, execution
from quant_engine.report import TimingEntry, TimingReport

ROW_HEIGHT = 24
NAME_LENGTH = 30
SELECTED_MARK = "▶ "
TITLE = "Time that integers save in each layer (ms)"

GAINS, LOSES, UNCLEAR = "gains", "loses", "no clear difference"
_LOOKS: Mapping[str, tuple[str, str]] = {
    GAINS: (INT8, ""),
    LOSES: (FLOAT, "x"),
    UNCLEAR: (NEUTRAL, "."),
}


_VERBS: Mapping[str, tuple[str, str]] = {
    GAINS: ("gains time", "gain time"),
    LOSES: ("loses time", "lose time"),
    UNCLEAR: ("shows no clear difference", "show no clear difference"),
}


@dataclass(frozen=True, slots=True)
class LayerGain:
    """One layer, in float and on integers.

    Attributes:
        name: Name of the layer.
        before: Its time in float.
        after: Its time on integers.
    """

    name: str
    before: TimingEntry
    after: TimingEntry

    @property
    def gain_ms(self) -> float:
        """How much less time it takes on integers; negative where it takes more."""
        return self.before.median_ms - self.after.median_ms

    @property
    def kind(self) -> str:
        """Whether it gains or loses, or whether the middle halves of the runs overlap."""
        if are_alike(self.before, self.after):
            return UNCLEAR
        return GAINS if self.gain_ms > 0 else LOSES


def are_alike(one: TimingEntry, other: TimingEntry) -> bool:
    """Whether the middle halves of two times' runs overlap, so that neither is clearly faster."""
    return one.q1_ms <= other.q3_ms and other.q1_ms <= one.q3_ms


def layer_gains(timing: TimingReport) -> tuple[LayerGain, ...]:
    """Return every layer that ran on integers and was timed both ways, the largest gain first.

    Float is the layout that is the whole model's baseline, where layers were timed in it.
    """
    others = {entry.name for entry in timing.executions if entry.execution != INTEGER}
    times = {(entry.execution, entry.layer): entry for entry in timing.layers}
    gains = []
    for (kind, name), after in times.items():
        if kind != INTEGER or name in others:
            continue
        base = baseline_of(timing, after.batch_size)
        layouts = (FLOAT_EXECUTION if base is None else base.execution, FLOAT_EXECUTION)
        found = [times[layout, name] for layout in layouts if (layout, name) in times]
        if found and found[0].batch_size == after.batch_size:
            gains.append(LayerGain(name, found[0], after))
    return tuple(sorted(gains, key=lambda gain: gain.gain_ms, reverse=True))


def largest_gains(gains: Sequence[LayerGain], top: int | None) -> tuple[LayerGain, ...]:
    """Return the layers with the largest gains and losses, in the order given."""
    kept = sorted(gains, key=lambda gain: abs(gain.gain_ms), reverse=True)[:top]
    return tuple(gain for gain in gains if gain in kept)


def describe_gains(gains: Sequence[LayerGain]) -> str:
    """Return how many layers gain and lose, and what that sums up to, in plain words."""
    if not gains:
        return "No layer was timed both in float and on integers."
    before = sum(gain.before.median_ms for gain in gains)
    after = sum(gain.after.median_ms for gain in gains)
    first = gains[0].before
    return (
        f"On integers {_count_kinds(gains)}. Together they take {format_ms(before)} in "
        f"{_layout(first)} and {format_ms(after)} on integers, at batch size {first.batch_size}."
    )


def _count_kinds(gains: Sequence[LayerGain]) -> str:
    """Return how many layers there are of each kind that occurs."""
    parts: list[str] = []
    for kind, (one, many) in _VERBS.items():
        count = sum(gain.kind == kind for gain in gains)
        if count:
            noun = "" if parts else "layer " if count == 1 else "layers "
            parts.append(f"{format_count(count)} {noun}{one if count == 1 else many}")
    *others, last = parts
    if not others:
        return last
    return f"{', '.join(others)}{',' if len(others) > 1 else ''} and {last}"


def layer_gains_figure(gains: Sequence[LayerGain], *, selected: str = "") -> go.Figure:
    """Return one bar a layer: right of 0 integers are faster, left of it float is.

    `customdata` of a bar is the layer's name.
    """
    if not gains:
        return empty_figure(TITLE, "No layer was timed both in float and on integers.")
    names = [gain.name for gain in gains]
    first = gains[0].before
    detail = f"{_layout(first)} minus integer int8, medians, batch size {first.batch_size}"
    low, high = _range([gain.gain_ms for gain in gains])
    traces = [
        _bars(kind, [(row, gain) for row, gain in enumerate(gains) if gain.kind == kind])
        for kind in _LOOKS
        if any(gain.kind == kind for gain in gains)
    ]
    return new_figure(
        two_lines(TITLE, detail),
        "Milliseconds saved by integers",
        traces=[*traces, row_targets(names, [_describe(gain) for gain in gains], low, high)],
        height=170 + ROW_HEIGHT * max(len(gains), 3),
        x_axis={"range": [low, high], "zeroline": True, "zerolinecolor": NEUTRAL},
        y_axis={
            "tickvals": list(range(len(gains))),
            "ticktext": [
                (SELECTED_MARK if name == selected else "") + shorten_middle(name, NAME_LENGTH)
                for name in names
            ],
            "range": [len(gains) - 0.5, -0.5],
            "showgrid": False,
            "fixedrange": True,
        },
        shapes=[_frame(names.index(selected))] if selected in names else [],
        layout={"barmode": "overlay"},
    )


def gain_rows(gains: Sequence[LayerGain]) -> list[dict[str, Any]]:
    """Return the numbers of the figure, one row a layer."""
    return [
        {
            "layer": gain.name,
            "batch_size": gain.after.batch_size,
            "float_execution": gain.before.execution,
            "float_median_ms": gain.before.median_ms,
            "float_q1_ms": gain.before.q1_ms,
            "float_q3_ms": gain.before.q3_ms,
            "integer_median_ms": gain.after.median_ms,
            "integer_q1_ms": gain.after.q1_ms,
            "integer_q3_ms": gain.after.q3_ms,
            "gain_ms": gain.gain_ms,
            "verdict": gain.kind,
        }
        for gain in gains
    ]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """An axis that holds all values and shows both sides of 0."""
    margin = 0.08 * (max(map(abs, values)) or 1.0)
    return min(0.0, *values) - margin, max(0.0, *values) + margin


def _layout(entry: TimingEntry) -> str:
    return execution(entry.execution).label


def _bars(kind: str, rows: Sequence[tuple[int, LayerGain]]) -> dict[str, Any]:
    color, shape = _LOOKS[kind]
    return {
        "type": "bar",
        "orientation": "h",
        "name": kind,
        "x": [gain.gain_ms for _, gain in rows],
        "y": [row for row, _ in rows],
        "width": 0.7,
        "offset": -0.35,
        "customdata": [gain.name for _, gain in rows],
        "hovertext": [_describe(gain) for _, gain in rows],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            "color": color,
            "line": {"width": 0},
            "pattern": {
                "shape": shape,
                "size": 6,
                "solidity": 0.25,
                "fillmode": "overlay",
                "fgcolor": "#FFFFFF",
                "fgopacity": 0.85,
            },
        },
    }


def _describe(gain: LayerGain) -> str:
    change = "saved" if gain.gain_ms >= 0 else "lost"
    lines = [f"<b>{gain.name}</b>: {format_ms(abs(gain.gain_ms))} {change}"]
    if gain.kind == UNCLEAR:
        lines.append("no clear difference: the middle halves of the runs overlap")
    lines += [
        f"{execution(entry.execution).label}: {format_ms(entry.median_ms)} "
        f"({format_ms(entry.q1_ms)} to {format_ms(entry.q3_ms)})"
        for entry in (gain.before, gain.after)
    ]
    return "<br>".join(lines)


def _frame(row: int) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": row - 0.48,
        "y1": row + 0.48,
        "line": {"color": HIGHLIGHT, "width": 2},
    }
