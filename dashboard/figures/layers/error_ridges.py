"""The error histograms of all layers below each other, on one axis in LSB."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import plotly.graph_objects as go

from dashboard.facts.tensors import tensors_of
from dashboard.figures.kit.axes import FILL, floor_rows, row_band, rows_axis
from dashboard.figures.kit.binning import Bin, bins_of, join_bins
from dashboard.figures.kit.marks import Trace, bars, dots, key
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import (
    CLIPPED,
    ERROR,
    ERROR_EDGE,
    NEUTRAL,
    empty_figure,
    new_figure,
    vertical_line,
)
from dashboard.figures.tensor.distributions import IDEAL_EDGE, error_bin_rows, is_beyond
from dashboard.words.formatting import MISSING, format_db, format_percent, plural
from dashboard.words.recipes import measured_in_batches
from quant_engine.report import ErrorHistogram, ModelReport, TensorReport

PARTS = {"weight": "weights", "input": "inputs"}
_LEAST_CLIPPED = 0.16  # few clipped values do the damage, so they are never too small to see
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


def layer_errors_picture(
    report: ModelReport,
    part: str = "weight",
    *,
    selected: str | None = None,
    worst: int | None = None,
) -> Picture:
    """Return one error histogram for each layer; clicking a bar names its layer.

    Heights are densities as a multiple of ideal rounding, so all rows have one scale.

    Args:
        report: A finished or partial analysis.
        part: "weight" or "input".
        selected: Layer whose row is marked.
        worst: Show only this many layers, those with the lowest local SQNR, in the order they run;
            the selected layer is always among them.
    """
    return Picture(
        _figure(report, part, selected, worst),
        describe_errors(report, part),
        (
            f"One row per layer: how far its {PARTS[part]} moved when they were rounded, in "
            "steps of its own grid (LSB). All rows have one scale.",
            "Ideal rounding is flat between −0.5 and 0.5, as high as the dotted line. A spike "
            "at 0 means that many values lie on the grid already, such as zeros after a ReLU.",
            "Red beyond ±0.5 is clipping; it is drawn at least a sliver high. "
            "Click a bar to select its layer.",
        ),
        lambda: [
            {"layer": name, **row}
            for name, tensor in tensors_of(report, part).items()
            for row in error_bin_rows(tensor)
        ],
        f"{part}-errors",
    )


def _figure(report: ModelReport, part: str, selected: str | None, worst: int | None) -> go.Figure:
    title = f"Error of every layer's {PARTS[part]} (LSB)"
    tensors = tensors_of(report, part)
    if not tensors:
        return empty_figure(title, why_empty(report, part))
    if worst is not None and worst < len(tensors):
        title = f"Error of the {PARTS[part]}, {worst} of {len(tensors)} layers (LSB)"
        kept = _worst_layers(report, tensors, worst, selected)
        tensors = {name: tensor for name, tensor in tensors.items() if name in kept}
    rows = [
        Row(len(tensors) - 1 - index, name, tensor)
        for index, (name, tensor) in enumerate(tensors.items())
    ]
    marks = [mark for row in rows for mark in _marks(row)]
    reach = _reach_of(rows)
    traces = _bars([m for is_clipped, m in marks if not is_clipped], "rounding", ERROR, ERROR_EDGE)
    traces += _bars([m for is_clipped, m in marks if is_clipped], "clipping", CLIPPED, None)
    traces += [
        *_cuts([mark for _, mark in marks]),
        key("ideal rounding", "dot"),
        _right_axis_anchor(len(rows)),
    ]
    return new_figure(
        title,
        "(dequantized − float) / scale (LSB)",
        "",
        traces=traces,
        height=130 + ROW_HEIGHT * len(rows),
        x_axis={"range": [-reach, reach], "zeroline": False},
        y_axis=floor_rows(list(tensors), selected, len(rows) + HEADROOM),
        shapes=_guides(rows, selected, reach),
        layout={
            "barmode": "overlay",
            "yaxis2": _numbers_axis(rows),
            "margin": {"l": 16, "r": 16, "t": 76, "b": 52},
        },
    )


def _reach_of(rows: Sequence[Row]) -> float:
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


def _numbers_axis(rows: Sequence[Row]) -> dict[str, Any]:
    """A second axis at the right that holds each row's two numbers, under a heading."""
    texts = ["<b>RMS · clipped</b>"]
    for row in rows:
        error = row.tensor.error
        rms = MISSING if error.rmse_over_scale is None else f"{error.rmse_over_scale:.2f}"
        texts.append(f"{rms} · {format_percent(error.clipped_fraction)}")
    places = [len(rows) + 0.25, *(row.base + FILL / 2 for row in rows)]
    settings = rows_axis(texts) | {"tickvals": places, "range": [-0.15, len(rows) + HEADROOM]}
    settings |= {"overlaying": "y", "side": "right", "zeroline": False, "automargin": True}
    return settings | {"title": {"text": ""}}


def _right_axis_anchor(rows: int) -> dict[str, Any]:
    """An invisible point: without a trace of its own, Plotly leaves the right axis out."""
    unseen = {"marker": {"opacity": 0}, "showlegend": False, "hoverinfo": "skip"}
    return {"type": "scatter", "mode": "markers", "x": [0], "y": [rows - 1], "yaxis": "y2"} | unseen


def _guides(rows: Sequence[Row], selected: str | None, reach: float) -> list[dict[str, Any]]:
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


def _worst_layers(
    report: ModelReport, names: Collection[str], count: int, selected: str | None
) -> set[str]:
    """Return the layers whose outputs quantization degrades most, and the selected one."""
    sqnr_db = {
        layer.name: math.inf if layer.local_error is None else layer.local_error.sqnr_db
        for layer in report.layers
        if layer.name in names
    }
    order = sorted(sqnr_db, key=lambda name: (name != selected, sqnr_db[name]))
    return set(order[:count])


def why_empty(report: ModelReport, part: str) -> str:
    """Say why there is no error histogram at all."""
    if part == "input" and report.recipe.activation is None:
        return "The inputs stay in float: this recipe quantizes weights only."
    if report.is_partial:
        return f"The analysis stopped before it measured {PARTS[part]}."
    return "No layer is quantized, so there is no error to show."


_Mark: TypeAlias = tuple[float, float, float, float, list[Any]]
"""Place, height, floor and width of a bar, and its row's name with what hovering it says."""
_HOVER = (
    "<b>%{customdata[0]}</b><br>%{customdata[1]}: %{customdata[2]:,} values"
    "<br>%{customdata[3]:.2f} × ideal density"
)


def _bars(marks: Sequence[_Mark], name: str, color: str, edge: str | None) -> list[Trace]:
    """Return one trace of all the bars; none without any."""
    if not marks:
        return []
    x, heights, bases, widths, layers = zip(*marks, strict=True)
    looks: dict[str, Any] = {"edge": edge, "edge_width": 0.4, "base": bases, "width": widths}
    return [bars(x, heights, color, name=name, layers=layers, hover=_HOVER, **looks)]


def _cuts(marks: Sequence[_Mark]) -> list[Trace]:
    """Return one trace of triangles, where bars are cut; none without any."""
    cut = [(x, base, layer) for x, _, base, _, layer in marks if layer[-1] > TALLEST]
    if not cut:
        return []
    trace = dots(
        [x for x, *_ in cut],
        [base + FILL for _, base, _ in cut],
        NEUTRAL,
        name=f"cut at {TALLEST:g} × ideal",
        layers=[layer for *_, layer in cut],
        hover=f"{_HOVER}, drawn cut",
        size=7,
        symbol="triangle-up",
    )
    return [trace]


def _marks(row: Row) -> list[tuple[bool, _Mark]]:
    """Return the bars of a row, each with whether it is clipping."""
    histogram, bins = row.histogram, row.bins
    width = (histogram.hi - histogram.lo) / len(bins)
    below = Bin(histogram.lo - 1.5 * width, histogram.lo - 0.5 * width, histogram.below)
    above = Bin(histogram.hi + 0.5 * width, histogram.hi + 1.5 * width, histogram.above)
    found = [(x, f"{x.lo:.3f} to {x.hi:.3f} LSB", is_beyond(x)) for x in bins]
    found.append((below, f"below {histogram.lo:g} LSB", True))
    found.append((above, f"above {histogram.hi:g} LSB", True))
    total = sum(one.count for one, *_ in found)
    marks: list[tuple[bool, _Mark]] = []
    for one, where, is_clipped in found:
        if one.count:
            density = one.count / (total * width)
            height = min(density, TALLEST) / TALLEST
            height = FILL * (max(height, _LEAST_CLIPPED) if is_clipped else height)
            layer = [row.name, where, one.count, density]
            marks.append((is_clipped, (one.center, height, row.base, width, layer)))
    return marks


def describe_errors(report: ModelReport, part: str) -> str:
    """Return the takeaway of `layer_error_histograms` in one sentence."""
    tensors = tensors_of(report, part)
    if not tensors:
        return why_empty(report, part)
    clipping = sum(1 for tensor in tensors.values() if tensor.error.clipped_fraction)
    worst, tensor = min(tensors.items(), key=lambda item: item[1].error.sqnr_db)
    what = (
        f"{clipping} of {plural(len(tensors), 'layer')} clip some values"
        if clipping
        else f"in all {plural(len(tensors), 'layer')} the error is rounding alone"
    )
    sqnr = format_db(tensor.error.sqnr_db)
    text = f"Error histograms of the {PARTS[part]}: {what}; lowest SQNR: {worst}, {sqnr}."
    batches = measured_in_batches(report) if part == "input" else ""
    return f"{text} {batches}".rstrip()
