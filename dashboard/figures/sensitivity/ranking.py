"""The ranking of a sensitivity measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.accuracy import answers_text, changed_answers
from dashboard.facts.sensitivity.metrics import SensitivityMetric
from dashboard.facts.sensitivity.ranking import (
    RankedLayer,
    decided_by,
    describe_ties,
    rivals_of_first,
    tie_runs,
)
from dashboard.figures.kit.axes import (
    SELECTED_MARK,
    ZERO_LINE,
    beside,
    log_axis,
    row_targets,
    rows_axis,
    two_lines,
)
from dashboard.figures.kit.marks import dots, key, whiskers
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import (
    ERROR,
    MARGIN,
    NEUTRAL,
    empty_figure,
    new_figure,
    vertical_line,
)
from dashboard.words.formatting import format_bytes, plural, short_names
from quant_engine.report import SensitivityReport
from quant_engine.sensitivity import LEAVE_ONE_OUT
from quant_engine.variants import ACTIVATIONS, BOTH, WEIGHTS

ROW_HEIGHT = 24
_SETTINGS = {
    BOTH: ("only this layer quantized", "all layers quantized but this one"),
    WEIGHTS: (
        "only this layer's weights quantized",
        "all layers' weights quantized but this one's",
    ),
    ACTIVATIONS: ("only this layer's inputs rounded", "all layers' inputs rounded but this one's"),
}
"""What is done in single-layer mode, and in leave-one-out."""
_DECADES_BELOW = 2  # how far an interval may stretch a logarithmic axis to the left


def switch_text(report: SensitivityReport) -> str:
    """Return what was done to the layer a value belongs to."""
    return _SETTINGS[report.parts][report.direction == LEAVE_ONE_OUT]


def setting_text(report: SensitivityReport) -> str:
    """Return what was done to the layer a value belongs to, and under which option."""
    text = switch_text(report)
    option = report.options[0] if len(report.options) == 1 else ""
    return f"{text}: {option}" if option else text


def ranking_picture(
    report: SensitivityReport,
    ranked: Sequence[RankedLayer],
    metric: SensitivityMetric,
    *,
    rows: Sequence[RankedLayer] | None = None,
    is_log: bool = False,
    selected: str = "",
) -> Picture:
    """Return a dot per layer, the most sensitive on top, each with its interval.

    With one layer left out, what sparing it gains is drawn, against all layers quantized.

    A bracket on the right joins neighbours that are tied. `customdata` of a row is the
    layer's name.

    Args:
        report: The measurement the rows come from.
        ranked: All layers, in their order.
        metric: The measure they are ranked by.
        rows: The layers to draw; all if None.
        is_log: Draw a logarithmic axis; values of 0 are named instead of drawn. What sparing a
            layer gains may be negative and stands on a linear one.
        selected: Name of the layer to point out.
    """
    shown = ranked if rows is None else rows
    how = "Only this layer is switched: the more error, the more it matters."
    if report.direction == LEAVE_ONE_OUT:
        how = "Every layer is switched but this one. Drawn is what sparing it gains, from the "
        how += "model with all layers switched: the more, the more this layer was to blame."
    return Picture(
        _figure(report, shown, metric, selected, is_log=is_log),
        describe_ranking(report, ranked, metric),
        (
            f"One dot per layer, the most sensitive on top. {how}",
            f"{metric.about} Whiskers: {metric.interval_name}.",
            f"{describe_ties(report, metric)} Click a row to select its layer.",
        ),
        lambda: ranking_rows(shown, metric),
        "ranking",
    )


def _figure(
    report: SensitivityReport,
    rows: Sequence[RankedLayer],
    metric: SensitivityMetric,
    selected: str,
    *,
    is_log: bool,
) -> go.Figure:
    is_gain = any(row.gain is not None for row in rows)
    name = f"What sparing one layer gains: {metric.title}" if is_gain else metric.title
    title = two_lines(name, setting_text(report))
    if not rows:
        return empty_figure(title, "No layer fits the filter.")
    is_log = is_log and metric.allows_log and not is_gain
    x_axis = _x_axis(rows, is_log)
    floor = 10 ** x_axis["range"][0] if "range" in x_axis else None
    shapes = _brackets(rows)
    traces = [_dots(rows, metric, floor, selected)]
    if shapes:
        traces.append(key("bracket: neighbours that are statistically tied", "solid"))
    reference = None if is_gain else _reference(report, metric, is_log)
    if reference is not None:
        shapes.append(vertical_line(reference))
        traces.append(key(f"all layers quantized: {metric.format(reference)}", "dot"))
        if is_log:
            x_axis["range"][1] = max(x_axis["range"][1], math.log10(reference) + 0.1)
    return new_figure(
        title,
        f"{metric.label} gained ({metric.unit})" if is_gain else metric.axis,
        traces=[*traces, _targets(rows, metric, floor)],
        height=170 + ROW_HEIGHT * max(len(rows), 4),
        x_axis=x_axis,
        y_axis=rows_axis(_ticks(rows, selected)),
        shapes=shapes,
        annotations=[
            beside(index, metric.format(row.drawn[0]), shift=16) for index, row in enumerate(rows)
        ],
        layout={"margin": {**MARGIN, "r": 108}},
    )


def ranking_rows(
    rows: Sequence[RankedLayer], metric: SensitivityMetric
) -> list[dict[str, str | int | float | bool | None]]:
    """Return the numbers of the figure, one row per layer."""
    return [
        {
            "rank": row.position,
            "rank_from": row.first_possible,
            "rank_to": row.last_possible,
            "layer": row.name,
            metric.key: row.value,
            "interval_low": None if row.interval is None else row.interval[0],
            "interval_high": None if row.interval is None else row.interval[1],
            "is_tied_with_previous": row.is_tied_with_previous,
            "is_tied_with_next": row.is_tied_with_next,
            "option": row.layer.option,
            "float_bytes": row.layer.float_bytes,
            "quantized_bytes": row.layer.quantized_bytes,
        }
        for row in rows
    ]


def describe_ranking(
    report: SensitivityReport, ranked: Sequence[RankedLayer], metric: SensitivityMetric
) -> str:
    """Return the takeaway of the ranking in a sentence or two."""
    if not ranked:
        return f"No layer has a {metric.label}."
    first = ranked[0]
    value, _ = first.drawn
    if first.gain is not None:
        assert report.reference is not None
        whole = metric.format(metric.value(report.reference))
        text = (
            f"Sparing {first.name} gains most of {plural(len(ranked), 'layer')}: "
            f"{metric.format(value)} of {metric.label}, from {whole} with all layers quantized."
        )
    else:
        samples = first.layer.samples or report.samples
        # Of several outputs the answers of one would stand for all.
        agreement = None if first.layer.outputs else first.layer.top1_agreement
        changed = changed_answers(agreement, samples)
        answers = "" if changed is None else f"{answers_text(changed, samples)}, "
        text = (
            f"{first.name} matters most of {plural(len(ranked), 'layer')} "
            f"({setting_text(report)}): {answers}{metric.label} {metric.format(value)}"
            f"{decided_by(first, metric)}."
        )
    rivals = len(rivals_of_first(ranked))
    if rivals:
        verb = "is" if rivals == 1 else "are"
        text += f" {plural(rivals, 'other layer')} {verb} statistically tied with it."
    return text


def describe_row(row: RankedLayer, metric: SensitivityMetric) -> str:
    """Return what a layer's hover shows."""
    lines = [f"<b>{row.name}</b>", f"Rank {row.rank_text}"]
    value, interval = row.drawn
    if row.gain is not None:
        lines.append(f"Sparing it gains {metric.format(value)}")
        lines.append(f"{metric.label} without it: {metric.format(row.value)}")
    else:
        lines.append(f"{metric.label}: {metric.format(value)}{decided_by(row, metric)}")
    if interval is not None:
        low, high = (metric.format(end) for end in interval)
        source = "95 % paired bootstrap interval" if row.gain is not None else metric.interval_name
        lines.append(f"{source}: {low} to {high}")
    if row.is_tied:
        ties = {"above": row.is_tied_with_previous, "below": row.is_tied_with_next}
        neighbours = " and ".join(word for word, is_tied in ties.items() if is_tied)
        lines.append(f"Statistically tied with the layer {neighbours}")
    lines.append(f"Saves {format_bytes(row.saved_bytes)} ({row.layer.option})")
    return "<br>".join(lines)


def _dots(
    rows: Sequence[RankedLayer], metric: SensitivityMetric, floor: float | None, selected: str
) -> dict[str, Any]:
    drawn = [row.drawn for row in rows]
    # What the axis cannot show is infinite, or 0 on a logarithmic axis.
    x = [v if math.isfinite(v) and (floor is None or v > 0) else None for v, _ in drawn]
    trace = dots(
        x,
        range(len(rows)),
        ERROR,
        name=metric.label,
        layers=[row.name for row in rows],
        hover=[describe_row(row, metric) for row in rows],
        is_selected=[row.name == selected for row in rows],
    )
    if all(interval is None for _, interval in drawn):
        return trace
    ends = [
        None if span is None else (span[0] if floor is None else max(span[0], floor), span[1])
        for _, span in drawn
    ]
    finite = [end if end and all(map(math.isfinite, end)) else None for end in ends]
    name = f"{metric.label} with 95 % interval"
    return trace | {"name": name, "error_x": whiskers(x, finite)}


def _targets(
    rows: Sequence[RankedLayer], metric: SensitivityMetric, floor: float | None
) -> dict[str, Any]:
    """Click targets as long as the row with the furthest dot or whisker."""
    drawn = [row.drawn for row in rows]
    ends = [value for value, _ in drawn] + [end for _, span in drawn for end in span or ()]
    ends = [end for end in ends if math.isfinite(end)]
    low = floor if floor is not None else min([0.0, *ends])
    texts = [describe_row(row, metric) for row in rows]
    return row_targets([row.name for row in rows], texts, low, max([*ends, low]))


def _x_axis(rows: Sequence[RankedLayer], is_log: bool) -> dict[str, Any]:
    if not is_log:
        return {"rangemode": "tozero", "exponentformat": "e", **ZERO_LINE}
    values = [row.value for row in rows if row.value > 0 and math.isfinite(row.value)]
    if not values:  # nothing can be drawn; the numbers beside the plot say so
        return {"type": "log", "range": [-6.0, 0.0]}
    ends = [end for row in rows for end in (row.interval or ()) if end > 0 and math.isfinite(end)]
    lowest = max(min([*values, *ends]), min(values) / 10**_DECADES_BELOW)
    low = math.floor(math.log10(lowest) - 0.05)
    high = math.log10(max([*values, *ends])) + 0.1
    return log_axis([10.0**low, 10.0**high]) | {"range": [float(low), high]}


def _ticks(rows: Sequence[RankedLayer], selected: str) -> list[str]:
    """Each layer's rank and name; names stay apart where they are shortened."""
    labels = short_names([row.name for row in rows])
    return [
        f"{SELECTED_MARK if row.name == selected else ''}{row.position}. {label}"
        for row, label in zip(rows, labels, strict=True)
    ]


def _brackets(rows: Sequence[RankedLayer]) -> list[dict[str, Any]]:
    """One bracket for each run of neighbours that are statistically tied."""
    return [
        {
            "type": "path",
            "xref": "paper",
            "xsizemode": "pixel",
            "xanchor": 1,
            "path": f"M 4,{first - 0.3} L 10,{first - 0.3} L 10,{last + 0.3} L 4,{last + 0.3}",
            "line": {"color": NEUTRAL, "width": 2},
        }
        for first, last in tie_runs(rows)
    ]


def _reference(report: SensitivityReport, metric: SensitivityMetric, is_log: bool) -> float | None:
    """The value with every layer quantized, where the axis can show it without hiding the rest."""
    value = None if report.reference is None else metric.value(report.reference)
    if value is None or not math.isfinite(value) or (is_log and value <= 0):
        return None
    return value if is_log or report.direction == LEAVE_ONE_OUT else None
