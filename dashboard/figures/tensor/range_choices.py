"""The range every observer would choose for one tensor, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.tensors import best_choice, channel_sqnrs, observer_name, why_no_choice
from dashboard.figures.kit.marks import bars
from dashboard.figures.kit.picture import Picture, Rows
from dashboard.figures.kit.theme import (
    ERROR,
    ERROR_EDGE,
    INT8,
    INT8_EDGE,
    NEUTRAL,
    axis,
    empty_figure,
    new_figure,
    vertical_line,
)
from dashboard.words.formatting import format_db, format_number, format_percent, percent
from quant_engine.report import RangeChoice, TensorReport

_ALIKE = ("one scale, each channel alike", "per channel, each channel alike")


def ranges_picture(tensor: TensorReport, subject: str) -> Picture:
    """Return the ranges as floating bars, and beside them the SQNR each would give.

    Args:
        tensor: The weight or input.
        subject: What the values are; begins the title.
    """
    best, by_channel = best_choice(tensor.range_choices), channel_sqnrs(tensor)
    text = "The range estimators are compared only where one range serves the whole tensor."
    if best is not None:
        text = f"Best estimate: {observer_name(best.observer)} with {format_db(best.sqnr_db)}; in "
        text += f"use: {observer_name(tensor.scheme.observer)}."
    if by_channel is not None:
        own, promised = map(format_db, by_channel)
        text += f" One scale per channel: {promised} instead of {own}, each channel alike."
    return Picture(
        _figure(tensor, subject),
        text,
        (
            "Each range estimator looks at the same histogram and chooses a range. Dotted lines "
            "are the smallest and the largest value seen.",
            "A wide range clips nothing but makes the steps large; a narrow one makes small "
            "steps and clips. SQNR weighs both.",
            "The SQNR here is estimated from the calibration data; re-run to measure it.",
        ),
        lambda: range_rows(tensor),
        "ranges",
    )


def range_rows(tensor: TensorReport) -> Rows:
    """Return what every observer would choose for a tensor, and what a scale per channel gives.

    The last two rows, of a weight with one scale, count the channels alike; the others all values.
    """
    rows: list[dict[str, Any]] = [
        {
            "observer": choice.observer,
            "is_used": choice.observer == tensor.scheme.observer,
            "lo": choice.lo,
            "hi": choice.hi,
            "scale": choice.scale,
            "zero_point": choice.zero_point,
            "estimated_sqnr_db": choice.sqnr_db,
            "clipped_percent": percent(choice.clipped_fraction),
        }
        for choice in tensor.range_choices
    ]
    if (by_channel := channel_sqnrs(tensor)) is not None:
        rows += [
            {"observer": name, "is_used": name == _ALIKE[0], "estimated_sqnr_db": sqnr_db}
            for name, sqnr_db in zip(_ALIKE, by_channel, strict=True)
        ]
    return rows


def _figure(tensor: TensorReport, subject: str) -> go.Figure:
    title = f"{subject}: range and SQNR (dB) by range estimator"
    choices = tensor.range_choices
    if not choices:
        return empty_figure(title, why_no_choice(tensor))
    used = tensor.scheme.observer
    names = [_name(choice, used) for choice in choices]
    lengths = [choice.hi - choice.lo for choice in choices]
    sqnrs = [choice.sqnr_db if math.isfinite(choice.sqnr_db) else 0.0 for choice in choices]
    lows = [choice.lo for choice in choices]
    traces = [
        _choice_bars(names, lengths, choices, used, INT8, INT8_EDGE, base=lows),
        _choice_bars(names, sqnrs, choices, used, ERROR, ERROR_EDGE, xaxis="x2"),
    ]
    by_channel = channel_sqnrs(tensor)
    if by_channel is not None:
        traces.append(_channel_bars(*by_channel))
    return new_figure(
        title,
        traces=traces,
        height=120 + 48 * (len(choices) + (0 if by_channel is None else 2)),
        y_axis={"autorange": "reversed", "showgrid": False},
        shapes=[vertical_line(tensor.lo), vertical_line(tensor.hi)],
        layout={
            "xaxis": axis("Range, dotted: all data", domain=[0.0, 0.54]),
            "xaxis2": axis("Estimated SQNR (dB)", domain=[0.62, 1.0], anchor="y"),
            "margin": {"l": 16, "r": 16, "t": 44, "b": 56},
        },
    )


def _name(choice: RangeChoice, used: str) -> str:
    """Two lines: the range estimator, and what it gives."""
    mark = " ◀ in use" if choice.observer == used else ""
    clipped = format_percent(choice.clipped_fraction)
    numbers = f"{format_db(choice.sqnr_db)}, {clipped} clipped"
    return f"{observer_name(choice.observer)}{mark}<br>{numbers}"


def _custom(choice: RangeChoice) -> list[str]:
    return [
        observer_name(choice.observer),
        *map(format_number, (choice.lo, choice.hi, choice.scale)),
        str(choice.zero_point),
        format_db(choice.sqnr_db),
        format_percent(choice.clipped_fraction),
    ]


_HOVER = (
    "<b>%{customdata[0]}</b><br>range %{customdata[1]} to %{customdata[2]}"
    "<br>scale %{customdata[3]}, zero point %{customdata[4]}"
    "<br>estimated SQNR %{customdata[5]}, %{customdata[6]} clipped"
)


def _choice_bars(
    names: list[str],
    lengths: list[float],
    choices: Sequence[RangeChoice],
    used: str,
    color: str,
    edge: str,
    **more: Any,
) -> dict[str, Any]:
    """Level bars, one per choice; the one in use is solid, the others are dotted."""
    trace = bars(
        lengths,
        names,
        color,
        layers=[_custom(choice) for choice in choices],
        hover=_HOVER,
        edge=edge,
        is_level=True,
        width=0.62,
        **more,
    )
    trace["marker"]["pattern"] = {
        "shape": ["" if choice.observer == used else "." for choice in choices],
        "fillmode": "overlay",
        "fgcolor": "#FFFFFF",
        "fgopacity": 0.9,
        "size": 6,
        "solidity": 0.35,
    }
    return trace


def _channel_bars(own: float, promised: float) -> dict[str, Any]:
    """One scale against one per channel, whose ranges differ and are not drawn."""
    rows = dict(zip(_ALIKE, (own, promised), strict=True))
    return bars(
        [sqnr_db if math.isfinite(sqnr_db) else 0.0 for sqnr_db in rows.values()],
        [f"{name}<br>{format_db(sqnr_db)}" for name, sqnr_db in rows.items()],
        NEUTRAL,
        hover="%{y}",
        edge=NEUTRAL,
        is_level=True,
        width=0.62,
        xaxis="x2",
    )
