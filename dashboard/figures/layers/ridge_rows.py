"""Rows, axes and guides of the figure that stacks the error histograms of all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.figures.kit.axes import marked_names
from dashboard.figures.kit.binning import Bin, bins_of, join_bins
from dashboard.figures.kit.theme import HIGHLIGHT, NEUTRAL, vertical_line
from dashboard.figures.tensor.distributions import IDEAL_EDGE, is_beyond
from dashboard.words.formatting import MISSING, format_percent
from quant_engine.report import ErrorHistogram, TensorReport

MOST_BINS = 48
ROW_HEIGHT = 30
FILL = 0.86
"""Share of a row that the tallest bar takes."""

TALLEST = 2.0
"""Bars are cut at this multiple of the ideal density, or one spike would flatten the rest."""


@dataclass(frozen=True, slots=True)
class Row:
    """One layer's place in the figure: `base` is the height of its floor."""

    base: int
    name: str
    tensor: TensorReport

    @property
    def histogram(self) -> ErrorHistogram:
        """Its errors."""
        return self.tensor.lsb_error

    @property
    def bins(self) -> list[Bin]:
        """Its bins, joined until few enough to draw."""
        counts = join_bins(self.histogram.counts, MOST_BINS)
        return bins_of(self.histogram.lo, self.histogram.hi, counts)


def reach_of(rows: Sequence[Row]) -> float:
    """Half the width of the x axis: beyond half a step only where some value lies there."""
    reach = 0.62
    for row in rows:
        histogram, bins = row.histogram, row.bins
        far = [max(abs(x.lo), abs(x.hi)) for x in bins if x.count and is_beyond(x)]
        if histogram.below or histogram.above:
            width = (histogram.hi - histogram.lo) / len(bins)
            far.append(max(abs(histogram.lo), abs(histogram.hi)) + 1.6 * width)
        reach = max([reach, *(1.03 * x for x in far)])
    return reach


def _floor_and_top(rows: Sequence[Row]) -> list[float]:
    return [-0.15, len(rows) + 0.55]


def names_axis(rows: Sequence[Row], selected: str | None) -> dict[str, Any]:
    """The left axis: the layers' names, the selected one marked."""
    return {
        "tickmode": "array",
        "tickvals": [row.base + FILL / 2 for row in rows],
        "ticktext": marked_names([row.name for row in rows], selected),
        "range": _floor_and_top(rows),
        "showgrid": False,
        "fixedrange": True,
    }


def numbers_axis(rows: Sequence[Row]) -> dict[str, Any]:
    """A second axis at the right that holds each row's two numbers, under a heading."""
    texts = ["<b>RMS · clipped</b>"]
    for row in rows:
        error = row.tensor.error
        rms = MISSING if error.rmse_over_scale is None else f"{error.rmse_over_scale:.2f}"
        texts.append(f"{rms} · {format_percent(error.clipped_fraction)}")
    return {
        "overlaying": "y",
        "side": "right",
        "tickmode": "array",
        "tickvals": [len(rows) + 0.25, *(row.base + FILL / 2 for row in rows)],
        "ticktext": texts,
        "range": _floor_and_top(rows),
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
        "title": {"text": ""},
    }


def ideal_in_legend() -> dict[str, Any]:
    """The ideal is drawn as shapes, one a row; this names them in the legend."""
    return {
        "type": "scatter",
        "x": [None],
        "y": [None],
        "mode": "lines",
        "name": "ideal rounding",
        "line": {"color": NEUTRAL, "width": 2, "dash": "dot"},
    }


def right_axis_anchor(rows: int) -> dict[str, Any]:
    """An invisible point: without a trace of its own, Plotly leaves the right axis out."""
    return {
        "type": "scatter",
        "x": [0],
        "y": [rows - 1],
        "yaxis": "y2",
        "mode": "markers",
        "marker": {"opacity": 0},
        "showlegend": False,
        "hoverinfo": "skip",
    }


def guides(rows: Sequence[Row], selected: str | None, reach: float) -> list[dict[str, Any]]:
    """Half a step to both sides, the ideal height and the floor of each row."""
    shapes = [vertical_line(-IDEAL_EDGE), vertical_line(IDEAL_EDGE)]
    for row in rows:
        height = row.base + FILL / TALLEST
        ideal = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
        floor = {"color": NEUTRAL, "width": 0.5}
        shapes.append(_level(height, -IDEAL_EDGE, IDEAL_EDGE, ideal))
        shapes.append(_level(row.base, -reach, reach, floor))
        if row.name == selected:
            shapes.append(
                {
                    "type": "rect",
                    "xref": "paper",
                    "x0": 0,
                    "x1": 1,
                    "y0": row.base - 0.06,
                    "y1": row.base + 0.94,
                    "fillcolor": HIGHLIGHT,
                    "opacity": 0.22,
                    "layer": "below",
                    "line": {"width": 0},
                }
            )
    return shapes


def _level(y: float, x0: float, x1: float, line: dict[str, Any]) -> dict[str, Any]:
    return {"type": "line", "x0": x0, "x1": x1, "y0": y, "y1": y, "line": line, "layer": "above"}
