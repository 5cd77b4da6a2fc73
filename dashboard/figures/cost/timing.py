"""Measured times of whole models, each named for what really ran."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from dashboard.facts.cost.executions import (
    CHANNELS_LAST,
    FLOAT_EXECUTION,
    INTEGER,
    LOWERED,
    SIMULATED,
    baseline_text,
    comparison_text,
    conditions_text,
    describe_times,
    execution,
    gap_text,
    time_rows,
    what_was_timed,
)
from dashboard.figures.kit.axes import beside, rows_axis, two_lines
from dashboard.figures.kit.marks import row_bars, whiskers
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import FLOAT, INT8, MARGIN, NEUTRAL, empty_figure, new_figure
from dashboard.words.formatting import format_ms, plural
from quant_engine.report import TimingEntry, TimingReport

ROW_HEIGHT = 32
_CHARACTER = 6.5  # pixels that a character takes beside the plot
QUARTILES = "median, and the middle half of the runs as a whisker"
_LOOKS: Mapping[str, tuple[str, float]] = {
    FLOAT_EXECUTION: (FLOAT, 1.0),
    CHANNELS_LAST: (FLOAT, 0.6),
    SIMULATED: (INT8, 0.45),
    INTEGER: (INT8, 1.0),
    LOWERED: (INT8, 1.0),
}
"""Colour and opacity of the bar of each way to run the model."""


def model_timing_picture(timing: TimingReport, batch_size: int) -> Picture:
    """Return the times of the whole model at one batch size, in every execution."""
    return Picture(
        _figure(timing, batch_size),
        describe_times(timing, batch_size),
        (
            f"One bar for each way to run the model, on batches of {batch_size}: the median "
            "over the runs. The whisker spans the middle half of them. "
            f"{baseline_text(timing, batch_size)}",
            what_was_timed(timing),
            conditions_text(timing),
        ),
        lambda: time_rows(timing),
        "timing",
    )


def _figure(timing: TimingReport, batch_size: int) -> go.Figure:
    """One bar per execution: its median, and the middle half of the runs as a whisker."""
    entries = [entry for entry in timing.models if entry.batch_size == batch_size]
    title = two_lines(f"Time of one forward pass (ms), batch size {batch_size}", QUARTILES)
    if not entries:
        return empty_figure(title, "Nothing was timed at this batch size.")
    looks = [_LOOKS.get(entry.execution, (NEUTRAL, 1.0)) for entry in entries]
    medians = [entry.median_ms for entry in entries]
    trace = row_bars(
        medians,
        [color for color, _ in looks],
        opacity=[opacity for _, opacity in looks],
        hover=[_describe(timing, entry) for entry in entries],
        width=0.6,
        error_x=whiskers(medians, [(entry.q1_ms, entry.q3_ms) for entry in entries]),
    )
    texts = [_time_text(timing, entry) for entry in entries]
    return new_figure(
        title,
        "Milliseconds in one forward pass",
        traces=[trace],
        height=140 + ROW_HEIGHT * max(len(entries), 2),
        x_axis={"rangemode": "tozero"},
        y_axis=rows_axis([execution(entry.execution).label for entry in entries]),
        annotations=[beside(index, text) for index, text in enumerate(texts)],
        layout={"margin": {**MARGIN, "r": 24 + _CHARACTER * max(map(len, texts))}},
    )


def _describe(timing: TimingReport, entry: TimingEntry) -> str:
    look = execution(entry.execution)
    lines = [
        f"<b>{look.label}</b>, batch size {entry.batch_size}",
        f"median {format_ms(entry.median_ms)}",
        f"middle half of {plural(entry.runs, 'run')}: "
        f"{format_ms(entry.q1_ms)} to {format_ms(entry.q3_ms)}",
        f"{format_ms(entry.median_ms / max(1, entry.batch_size))} for one sample",
    ]
    if compared := comparison_text(timing, entry):
        lines.append(compared)
    if gap := gap_text(timing, entry.execution):
        samples = plural(timing.gaps[0].samples, "sample")
        lines.append(f"answers differ from simulated by {gap} of the quantization error")
        lines.append(f"(root mean squares, {samples})")
    if entry.is_unreliable:
        lines.append("unreliable: its runs differ too much")
    return "<br>".join(lines)


def _time_text(timing: TimingReport, entry: TimingEntry) -> str:
    remarks = [comparison_text(timing, entry), "unreliable" if entry.is_unreliable else ""]
    said = ", ".join(remark for remark in remarks if remark)
    return format_ms(entry.median_ms) + (f" ({said})" if said else "")
