"""Axes, titles and legends that several figures share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from dashboard.figures.kit.marks import bars
from dashboard.figures.kit.theme import HIGHLIGHT, NEUTRAL, note
from dashboard.words.formatting import short_names

SELECTED_MARK = "▶ "

BYTES_AXIS: dict[str, Any] = {"tickformat": "~s", "ticksuffix": "B"}
"""Ticks such as 20kB and 1.5MB; decimal, as everywhere."""

ZERO_LINE: dict[str, Any] = {"zeroline": True, "zerolinecolor": NEUTRAL}
"""For axes on which values lie on both sides of 0."""

_MOST_LABELS = 8


def two_lines(title: str, detail: str) -> str:
    """Return a title with a smaller line below, so that it fits a narrow page."""
    return f"{title}<br><span style='font-size:12px;font-weight:normal'>{detail}</span>"


def beside(index: int, text: str, *, shift: int = 8) -> dict[str, Any]:
    """Return an annotation right of the plot, level with a row, where no bar can cover it."""
    return note(text, 1, index, xref="paper", xshift=shift, xanchor="left", yref="y")


def rows_axis(labels: Sequence[str]) -> dict[str, Any]:
    """Return a y axis with one label per row, from the top."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": list(labels),
        "range": [len(labels) - 0.5, -0.5],
        "showgrid": False,
        "fixedrange": True,
    }


def layer_rows(names: Sequence[str], selected: str = "") -> dict[str, Any]:
    """Return a y axis with one layer per row, from the top, the selected one marked."""
    marks = [SELECTED_MARK if name and name == selected else "" for name in names]
    return rows_axis([m + label for m, label in zip(marks, short_names(names), strict=True)])


def marked_names(names: Sequence[str], selected: str | None, length: int = 30) -> list[str]:
    """Return names of layers for an axis, short and apart, the selected one bold and marked."""
    return [
        f"<b>{SELECTED_MARK}{label}</b>" if name == selected else label
        for name, label in zip(names, short_names(names, length), strict=True)
    ]


FILL = 0.86
"""Share of a row that the tallest bar takes, where bars stand on the row's floor."""


def floor_rows(names: Sequence[str], selected: str | None, top: float) -> dict[str, Any]:
    """Return a y axis with one layer per row, from the top: the last one's floor is at 0.

    Args:
        names: The layers.
        selected: The one to mark.
        top: Where the axis ends.
    """
    middles = [len(names) - 1 - index + FILL / 2 for index in range(len(names))]
    return rows_axis(marked_names(names, selected)) | {"tickvals": middles, "range": [-0.15, top]}


def row_frame(row: int) -> dict[str, Any]:
    """Return a frame around a row."""
    return _row(row - 0.48, row + 0.48) | {"line": {"color": HIGHLIGHT, "width": 2}}


def row_band(low: float, high: float) -> dict[str, Any]:
    """Return a shade behind a row, for figures whose marks fill it."""
    shade = {"fillcolor": HIGHLIGHT, "opacity": 0.22, "layer": "below", "line": {"width": 0}}
    return _row(low, high) | shade


def _row(low: float, high: float) -> dict[str, Any]:
    return {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high}


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
    return bars(
        [high - low or 1.0] * len(names),
        range(len(names)),
        "rgba(0,0,0,0)",
        layers=names,
        hover=texts,
        is_level=True,
        base=low,
        width=0.98,
        offset=-0.49,
    )


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
