"""Rows, axes and guides of the figure that stacks the error histograms of all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.figures.kit.axes import FILL, row_band
from dashboard.figures.kit.binning import Bin, bins_of, join_bins
from dashboard.figures.kit.theme import NEUTRAL, vertical_line
from dashboard.figures.tensor.distributions import IDEAL_EDGE, is_beyond
from dashboard.words.formatting import MISSING, format_percent
from quant_engine.report import ErrorHistogram, TensorReport

MOST_BINS = 48
ROW_HEIGHT = 30
HEADROOM = 0.55
"""Rows that the heading of the numbers takes above the first."""

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
        "range": [-0.15, len(rows) + HEADROOM],
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
        "title": {"text": ""},
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
            shapes.append(row_band(row.base - 0.06, row.base + 0.94))
    return shapes


def _level(y: float, x0: float, x1: float, line: dict[str, Any]) -> dict[str, Any]:
    return {"type": "line", "x0": x0, "x1": x1, "y0": y, "y1": y, "line": line, "layer": "above"}
