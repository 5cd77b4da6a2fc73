"""The range every observer would choose for one tensor, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.tensors import channel_sqnrs, observer_name, why_no_choice
from dashboard.figures.kit.theme import (
    ERROR,
    ERROR_EDGE,
    INT8,
    INT8_EDGE,
    NEUTRAL,
    axis,
    empty_figure,
    new_figure,
)
from dashboard.words.formatting import format_db, format_number, format_percent
from quant_engine.report import RangeChoice, TensorReport


def range_choices(tensor: TensorReport, subject: str = "Weights") -> go.Figure:
    """Return the ranges as floating bars, and beside them the SQNR each would give.

    Args:
        tensor: The weight or input.
        subject: What the values are; begins the title.
    """
    title = f"{subject}: range and SQNR (dB) by range estimator"
    choices = tensor.range_choices
    if not choices:
        return empty_figure(title, why_no_choice(tensor))
    names = [_name(choice, tensor.scheme.observer) for choice in choices]
    shapes = [_data_edge(tensor.lo), _data_edge(tensor.hi)]
    traces = [
        _range_bars(names, choices, tensor.scheme.observer),
        _sqnr_bars(names, choices, tensor.scheme.observer),
    ]
    by_channel = channel_sqnrs(tensor)
    if by_channel is not None:
        traces.append(_channel_bars(*by_channel))
    return new_figure(
        title,
        traces=traces,
        height=120 + 48 * (len(choices) + (0 if by_channel is None else 2)),
        y_axis={"autorange": "reversed", "showgrid": False},
        shapes=shapes,
        layout={
            "xaxis": axis("Range, dotted: all data", domain=[0.0, 0.54]),
            "xaxis2": axis("Estimated SQNR (dB)", domain=[0.62, 1.0], anchor="y"),
            "margin": {"l": 16, "r": 16, "t": 44, "b": 56},
        },
    )


def _name(choice: RangeChoice, used: str) -> str:
    """Two lines: the rule, and what it gives."""
    mark = " ◀ in use" if choice.observer == used else ""
    clipped = format_percent(choice.clipped_fraction)
    numbers = f"{format_db(choice.sqnr_db)}, {clipped} clipped"
    return f"{observer_name(choice.observer)}{mark}<br>{numbers}"


def _marker(choices: Sequence[RangeChoice], used: str, color: str, edge: str) -> dict[str, Any]:
    """The rule in use is solid, the others are dotted."""
    return {
        "color": color,
        "line": {"width": 1, "color": edge},
        "pattern": {
            "shape": ["" if choice.observer == used else "." for choice in choices],
            "fillmode": "overlay",
            "fgcolor": "#FFFFFF",
            "fgopacity": 0.9,
            "size": 6,
            "solidity": 0.35,
        },
    }


def _custom(choices: Sequence[RangeChoice]) -> list[list[str]]:
    return [
        [
            observer_name(choice.observer),
            format_number(choice.lo),
            format_number(choice.hi),
            format_number(choice.scale),
            str(choice.zero_point),
            format_db(choice.sqnr_db),
            format_percent(choice.clipped_fraction),
        ]
        for choice in choices
    ]


_HOVER = (
    "<b>%{customdata[0]}</b><br>range %{customdata[1]} to %{customdata[2]}"
    "<br>scale %{customdata[3]}, zero point %{customdata[4]}"
    "<br>estimated SQNR %{customdata[5]}, %{customdata[6]} clipped<extra></extra>"
)


def _range_bars(names: list[str], choices: Sequence[RangeChoice], used: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": "range",
        "showlegend": False,
        "y": names,
        "base": [choice.lo for choice in choices],
        "x": [choice.hi - choice.lo for choice in choices],
        "width": 0.62,
        "marker": _marker(choices, used, INT8, INT8_EDGE),
        "customdata": _custom(choices),
        "hovertemplate": _HOVER,
    }


def _sqnr_bars(names: list[str], choices: Sequence[RangeChoice], used: str) -> dict[str, Any]:
    finite = [0.0 if not math.isfinite(choice.sqnr_db) else choice.sqnr_db for choice in choices]
    return {
        "type": "bar",
        "orientation": "h",
        "name": "SQNR",
        "showlegend": False,
        "xaxis": "x2",
        "y": names,
        "x": finite,
        "width": 0.62,
        "marker": _marker(choices, used, ERROR, ERROR_EDGE),
        "customdata": _custom(choices),
        "hovertemplate": _HOVER,
    }


def _channel_bars(own: float, promised: float) -> dict[str, Any]:
    """One scale against one per channel, whose ranges differ and are not drawn."""
    rows = (("one scale, each channel alike", own), ("per channel, each channel alike", promised))
    return {
        "type": "bar",
        "orientation": "h",
        "name": "SQNR, each channel alike",
        "showlegend": False,
        "xaxis": "x2",
        "y": [f"{name}<br>{format_db(sqnr_db)}" for name, sqnr_db in rows],
        "x": [sqnr_db if math.isfinite(sqnr_db) else 0.0 for _, sqnr_db in rows],
        "width": 0.62,
        "marker": {"color": NEUTRAL, "line": {"width": 1, "color": NEUTRAL}},
        "hovertemplate": "%{y}<extra></extra>",
    }


def _data_edge(x: float) -> dict[str, Any]:
    line = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}
