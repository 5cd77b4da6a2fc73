"""Four errors of every layer side by side: weight, local, accumulated, and the output's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import plotly.graph_objects as go

from dashboard.facts.diagnosis.culprit import OutputEffects
from dashboard.facts.diagnosis.four_errors import COLUMNS, ErrorRow, rank_errors, ranked_by
from dashboard.figures.kit.axes import marked_names, row_band, rows_axis
from dashboard.figures.kit.marks import dots
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import (
    ERROR,
    GOOD,
    HIGHLIGHT,
    NEUTRAL,
    empty_figure,
    new_figure,
    note,
)
from dashboard.words.degradation import KL
from dashboard.words.formatting import format_percent, format_relative, percent
from quant_engine.report import ModelReport

_HEADS = ("Weight", "Local", "Accumulated", "Output")
_GAP = 0.035
ROW_HEIGHT = 22
_LEAST = 1e-4  # of the signal; smaller errors stand at the edge
_LEAST_EFFECT = 1e-7

Mark: TypeAlias = Mapping[str, Any]
"""Colour, symbol and size of the marks of one run."""

BROKEN_MARK = {"color": ERROR, "symbol": "x", "size": 11}
REPAIRED_MARK = {"color": GOOD, "symbol": "circle", "size": 10}
A_MARK = {"color": NEUTRAL, "symbol": "circle-open", "size": 11}
B_MARK = {"color": HIGHLIGHT, "symbol": "diamond", "size": 10}
ONE_MARK = {"color": ERROR, "symbol": "diamond", "size": 11}


@dataclass(frozen=True, slots=True)
class Series:
    """The rows of one run, and how they are marked."""

    label: str
    rows: tuple[ErrorRow, ...]
    effects: OutputEffects | None
    mark: Mark


def four_errors_picture(
    series: Sequence[Series], *, selected: str | None = None, most: int | None = None
) -> Picture:
    """Return four columns of errors, one row per layer in the order of the first series.

    Args:
        series: One run, or two to compare.
        selected: Layer whose row is marked.
        most: Rows to show at most; the selected layer is always among them.
    """
    first = series[0]
    measure = KL if first.effects is None else first.effects.measure
    effect = "output_kl_nats" if measure is KL else measure.column
    basis = "" if first.effects is None else first.effects.basis
    return Picture(
        _figure(series, selected, most),
        describe_four_errors(series),
        (
            "One row per layer, the one to look at first on top. Further right is worse.",
            "**Weight**, **Local** (this layer alone quantized), **Accumulated** (inside the "
            "quantized model) are shares of the signal, each channel counted alike: 100 % is "
            "an error as large as what should be there.",
            f"**Output** is what the layer alone does to the model's answer"
            f"{'; it was not measured.' if first.effects is None else f': {measure.about}.'} "
            "Click a mark to select its layer.",
        ),
        lambda: [
            {
                **({"run": one.label} if len(series) > 1 else {}),
                "layer": row.name,
                "weight_percent": percent(row.weight),
                "local_percent": percent(row.local),
                "accumulated_percent": percent(row.accumulated),
                effect: row.output,
                "output_is": basis,
            }
            for one in series
            for row in one.rows
        ],
        "four-errors",
    )


def run_series(report: ModelReport, effects: OutputEffects | None) -> tuple[Series, ...]:
    """Return one run's errors, as the figure takes them."""
    return (Series("", rank_errors(report, effects), effects, ONE_MARK),)


def _figure(series: Sequence[Series], selected: str | None, most: int | None) -> go.Figure:
    first = series[0]
    title = f"Four errors, {ranked_by(first.effects)}"
    names = [row.name for row in first.rows if any(row.value(c) is not None for c in COLUMNS)]
    if not names:
        return empty_figure(title, "No layer has a measured error yet.")
    shown = _shown(names, selected, most)
    if len(shown) < len(names):
        title += f" ({len(shown)} of {len(names)})"
    place = {name: row for row, name in enumerate(shown)}
    traces = [
        _dots(one, column, index, place) for one in series for index, column in enumerate(COLUMNS)
    ]
    layout: dict[str, Any] = {
        f"xaxis{index + 1 if index else ''}": _x_axis(series, column, index)
        for index, column in enumerate(COLUMNS)
    }
    bands = [row_band(r - 0.48, r + 0.48) for name, r in place.items() if name == selected]
    middle = sum(_domain(len(COLUMNS) - 1)) / 2
    unmeasured = note("not measured yet", middle, 0.5, size=13, xref="paper", yref="paper")
    return new_figure(
        title,
        traces=traces,
        height=142 + ROW_HEIGHT * len(shown),
        y_axis=rows_axis(marked_names(shown, selected, 24)) | {"showgrid": True},
        shapes=bands,
        annotations=[] if first.effects is not None else [unmeasured],
        layout={**layout, "margin": {"l": 16, "r": 16, "t": 122, "b": 16}},
    )


def _shown(names: list[str], selected: str | None, most: int | None) -> list[str]:
    if most is None or len(names) <= most:
        return names
    shown = names[:most]
    if selected in names and selected not in shown:
        shown[-1] = str(selected)
    return shown


def _domain(index: int) -> list[float]:
    width = (1 - _GAP * (len(COLUMNS) - 1)) / len(COLUMNS)
    return [index * (width + _GAP), index * (width + _GAP) + width]


def _x_axis(series: Sequence[Series], column: str, index: int) -> dict[str, Any]:
    effects = series[0].effects
    if column == "output":
        found = (row.output for one in series for row in one.rows)
        values = [value for value in found if value is not None and value > 0]
        low = max(_LEAST_EFFECT, min(values, default=1e-3)) / 3
        high = max(values, default=1.0) * 3
        return _column_axis(
            index,
            " " if effects is None else effects.measure.head,
            [math.log10(low), math.log10(high)],
            dtick=max(1, math.ceil(math.log10(high / low) / 2)),
            exponentformat="e",
        )
    parts = (row.value(part) for one in series for row in one.rows for part in COLUMNS[:3])
    values = [value for value in parts if value is not None and value > 0]
    low = max(_LEAST, min(values, default=1e-3)) / 2
    high = max(2.0, *values) * 1.3 if values else 2.0
    ticks = [t for t in (1e-4, 1e-2, 1.0, 100.0) if low <= t <= high]
    return _column_axis(
        index,
        "% of the signal" if index == 1 else " ",  # one name for three axes: narrow windows
        [math.log10(low), math.log10(high)],
        tickmode="array",
        tickvals=ticks,
        ticktext=[format_percent(t) if t <= 1 else f"{100 * t:,.0f} %" for t in ticks],
        tickangle=0,
    )


def _column_axis(index: int, unit: str, ends: list[float], **settings: Any) -> dict[str, Any]:
    """A column's axis, above it: its name and ticks stay in sight where the rows scroll."""
    text = f"<b>{_HEADS[index]}</b><br>{unit}"
    title = {"text": text, "font": {"size": 12}, "standoff": 4}
    body = {"type": "log", "range": ends, "domain": _domain(index), "side": "top"}
    return {**body, "title": title, **settings}


def _dots(series: Series, column: str, index: int, place: dict[str, int]) -> dict[str, Any]:
    known = [
        (place[row.name], row.name, value)
        for row in series.rows
        if row.name in place and (value := row.value(column)) is not None
    ]
    least = _LEAST_EFFECT if column == "output" else _LEAST
    return dots(
        [max(value, least) for _, _, value in known],
        [row for row, _, _ in known],
        series.mark["color"],
        name=series.label or "one layer",
        layers=[[name, _value_text(series, column, name, value)] for _, name, value in known],
        hover=f"<b>%{{customdata[0]}}</b><br>{_HEADS[index].lower()} error: "
        f"%{{customdata[1]}}<br>{series.label}",
        edge=series.mark["color"],
        size=series.mark["size"],
        symbol=series.mark["symbol"],
        legendgroup=series.label,
        showlegend=index == 0,
        xaxis=f"x{index + 1 if index else ''}",
    )


def _value_text(series: Series, column: str, name: str, value: float) -> str:
    if value == 0:
        return "exact"
    if column == "output":
        return str(value) if series.effects is None else series.effects.text(name)
    return format_relative(value)


def describe_four_errors(series: Sequence[Series]) -> str:
    """Return the takeaway in one or two sentences: the first layer, and its errors in each run."""
    first = series[0]
    if not first.rows:
        return "No layer has a measured error yet."
    row = first.rows[0]
    why = "costs the output most" if row.output is not None else "adds most error"
    label = f" ({first.label})" if first.label else ""
    parts = [f"{row.name} {why}{label}: {_numbers(first, row)}."]
    for other in series[1:]:
        same = next((r for r in other.rows if r.name == row.name), None)
        if same is not None:
            parts.append(f"{other.label.capitalize()}: {_numbers(other, same)}.")
    return " ".join(parts)


def _numbers(series: Series, row: ErrorRow) -> str:
    names = {"weight": "weights", "local": "its output alone", "accumulated": "with all before it"}
    known = [(name, row.value(column)) for column, name in names.items()]
    parts = [f"{name} {format_relative(value)}" for name, value in known if value is not None]
    parts[:1] = [f"{part} wrong" for part in parts[:1]]  # and so are the ones behind it
    if row.output is not None:
        parts.append(f"the answer moves by {_value_text(series, 'output', row.name, row.output)}")
    return ", ".join(parts) or "not measured"
