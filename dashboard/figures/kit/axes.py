"""Axes, titles and legends that several figures share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from dashboard.figures.kit.theme import HIGHLIGHT
from dashboard.words.formatting import short_names

SELECTED_MARK = "▶ "

BYTES_AXIS: dict[str, Any] = {"tickformat": "~s", "ticksuffix": "B"}
"""Ticks such as 20kB and 1.5MB; decimal, as everywhere."""

_MOST_LABELS = 8


def two_lines(title: str, detail: str) -> str:
    """Return a title with a smaller line below, so that it fits a narrow page."""
    return f"{title}<br><span style='font-size:12px;font-weight:normal'>{detail}</span>"


def beside(index: int, text: str, *, shift: int = 8) -> dict[str, Any]:
    """Return an annotation right of the plot, level with a row, where no bar can cover it."""
    return {
        "x": 1,
        "xref": "paper",
        "xshift": shift,
        "xanchor": "left",
        "y": index,
        "yref": "y",
        "text": text,
        "showarrow": False,
        "font": {"size": 12},
    }


def layer_ticks(names: Sequence[str], selected: str = "") -> dict[str, Any]:
    """Return a y axis with one layer per row, from the top, the selected one marked."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [
            (SELECTED_MARK if name and name == selected else "") + label
            for name, label in zip(names, short_names(names), strict=True)
        ],
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "fixedrange": True,
    }


def marked_names(names: Sequence[str], selected: str | None, length: int = 30) -> list[str]:
    """Return names of layers for an axis, short and apart, the selected one bold and marked."""
    return [
        f"<b>{SELECTED_MARK}{label}</b>" if name == selected else label
        for name, label in zip(names, short_names(names, length), strict=True)
    ]


def row_frame(row: int) -> dict[str, Any]:
    """Return a frame around a row."""
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": row - 0.48,
        "y1": row + 0.48,
        "line": {"color": HIGHLIGHT, "width": 2},
    }


def row_targets(
    names: Sequence[str], texts: Sequence[str], low: float, high: float
) -> dict[str, Any]:
    """Return invisible bars over whole rows: rows with a short bar, or none, can be clicked too.

    Where a visible bar lies there as well, Plotly prefers it, for it is thinner.

    Args:
        names: Layer of each row, from the top; goes into `customdata`.
        texts: What hovering a row shows.
        low: Left end of the rows; above 0 on a logarithmic axis.
        high: Right end of the rows.
    """
    return {
        "type": "bar",
        "orientation": "h",
        "base": low,
        "x": [high - low or 1.0] * len(names),
        "y": list(range(len(names))),
        "width": 0.98,
        "offset": -0.49,
        "customdata": list(names),
        "hovertext": list(texts),
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"color": "rgba(0,0,0,0)", "line": {"width": 0}},
        "showlegend": False,
    }


def log_axis(values: Iterable[float | None]) -> dict[str, Any]:
    """Return a logarithmic axis for these values, labelled at whole powers of ten.

    Example:
        >>> log_axis([1e-7, 1e-3])["dtick"], log_axis([1e-30, 1.0])["dtick"]
        (1, 4)
    """
    logs = [math.log10(v) for v in values if v is not None and v > 0 and math.isfinite(v)]
    decades = max(logs) - min(logs) if logs else 1.0
    step = max(1, math.ceil(decades / _MOST_LABELS))
    settings: dict[str, Any] = {"type": "log", "exponentformat": "e", "dtick": step}
    if decades < 1:  # a single power of ten would leave most of the axis without a label
        settings |= {"dtick": None, "nticks": 5}
    return settings
