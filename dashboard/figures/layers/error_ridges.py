"""The error histograms of all layers below each other, on one axis in LSB."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from dashboard.figures.kit.axes import FILL, floor_rows
from dashboard.figures.kit.binning import Bin
from dashboard.figures.kit.marks import bars, dots, key
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import (
    CLIPPED,
    ERROR,
    ERROR_EDGE,
    NEUTRAL,
    empty_figure,
    new_figure,
)
from dashboard.figures.layers.ridge_rows import (
    HEADROOM,
    ROW_HEIGHT,
    TALLEST,
    Row,
    guides,
    numbers_axis,
    reach_of,
    right_axis_anchor,
)
from dashboard.figures.tensor.distributions import error_bin_rows, is_beyond
from dashboard.words.formatting import format_db, plural
from dashboard.words.recipes import measured_in_batches
from quant_engine.report import LayerReport, ModelReport, TensorReport

PARTS = {"weight": "weights", "input": "inputs"}
_LEAST_CLIPPED = 0.16  # few clipped values do the damage, so they are never too small to see


def tensor_of(layer: LayerReport, part: str) -> TensorReport | None:
    """Return a layer's weight or input report."""
    return layer.weight if part == "weight" else layer.input


def tensors_of(report: ModelReport, part: str) -> dict[str, TensorReport]:
    """Return the quantized weights or inputs by layer, in the order the layers run."""
    found = ((layer.name, tensor_of(layer, part)) for layer in report.layers)
    return {name: tensor for name, tensor in found if tensor is not None}


def layer_errors_picture(
    report: ModelReport,
    part: str = "weight",
    *,
    selected: str | None = None,
    worst: int | None = None,
) -> Picture:
    """Return the error histograms of all layers; arguments as for the figure."""
    return Picture(
        layer_error_histograms(report, part, selected=selected, worst=worst),
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


def layer_error_histograms(
    report: ModelReport,
    part: str = "weight",
    *,
    selected: str | None = None,
    worst: int | None = None,
) -> go.Figure:
    """Return one error histogram for each layer; clicking a bar names its layer.

    Heights are densities as a multiple of ideal rounding, so all rows have one scale.

    Args:
        report: A finished or partial analysis.
        part: "weight" or "input".
        selected: Layer whose row is marked.
        worst: Show only this many layers, those with the lowest local SQNR, in the order they run;
            the selected layer is always among them.
    """
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
    inside, outside, cut = _Marks(), _Marks(), _Marks()
    for row in rows:
        _add_row(row, inside, outside, cut)
    reach = reach_of(rows)
    traces = inside.bars("rounding", ERROR, ERROR_EDGE) + outside.bars("clipping", CLIPPED, None)
    traces += [*cut.cuts(), key("ideal rounding", "dot"), right_axis_anchor(len(rows))]
    return new_figure(
        title,
        "(dequantized − float) / scale (LSB)",
        "",
        traces=traces,
        height=130 + ROW_HEIGHT * len(rows),
        x_axis={"range": [-reach, reach], "zeroline": False},
        y_axis=floor_rows(list(tensors), selected, len(rows) + HEADROOM),
        shapes=guides(rows, selected, reach),
        layout={
            "barmode": "overlay",
            "yaxis2": numbers_axis(rows),
            "margin": {"l": 16, "r": 16, "t": 76, "b": 52},
        },
    )


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


_HOVER = (
    "<b>%{customdata[0]}</b><br>%{customdata[1]}: %{customdata[2]:,} values"
    "<br>%{customdata[3]:.2f} × ideal density"
)


@dataclass(slots=True)
class _Marks:
    """Where marks stand, collected row by row."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    width: list[float] = field(default_factory=list)
    layers: list[list[Any]] = field(default_factory=list)

    def bars(self, name: str, color: str, edge: str | None) -> list[dict[str, Any]]:
        """One trace of all the bars; none without any."""
        trace = bars(
            self.x,
            self.y,
            color,
            name=name,
            layers=self.layers,
            hover=_HOVER,
            edge=edge,
            edge_width=0.4,
            base=self.base,
            width=self.width,
        )
        return [trace] if self.x else []

    def cuts(self) -> list[dict[str, Any]]:
        """One trace of triangles, where bars are cut."""
        trace = dots(
            self.x,
            self.y,
            NEUTRAL,
            name=f"cut at {TALLEST:g} × ideal",
            layers=self.layers,
            hover=f"{_HOVER}, drawn cut",
            size=7,
            symbol="triangle-up",
        )
        return [trace] if self.x else []


def _add_row(row: Row, inside: _Marks, outside: _Marks, cut: _Marks) -> None:
    histogram, bins = row.histogram, row.bins
    width = (histogram.hi - histogram.lo) / len(bins)
    marks = [(x, f"{x.lo:.3f} to {x.hi:.3f} LSB", is_beyond(x)) for x in bins]
    below = Bin(histogram.lo - 1.5 * width, histogram.lo - 0.5 * width, histogram.below)
    above = Bin(histogram.hi + 0.5 * width, histogram.hi + 1.5 * width, histogram.above)
    marks.append((below, f"below {histogram.lo:g} LSB", True))
    marks.append((above, f"above {histogram.hi:g} LSB", True))
    total = sum(mark[0].count for mark in marks)
    for bin_, where, is_clipped in marks:
        if not bin_.count:
            continue
        density = bin_.count / (total * width)
        custom = [row.name, where, bin_.count, density]
        height = min(density, TALLEST) / TALLEST
        chosen = outside if is_clipped else inside
        chosen.x.append(bin_.center)
        chosen.y.append(FILL * (max(height, _LEAST_CLIPPED) if is_clipped else height))
        chosen.base.append(row.base)
        chosen.width.append(width)
        chosen.layers.append(custom)
        if density > TALLEST:
            cut.x.append(bin_.center)
            cut.y.append(row.base + FILL)
            cut.layers.append(custom)


def describe_errors(report: ModelReport, part: str = "weight") -> str:
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
