"""Histograms of one tensor: its values before and after, and its errors in steps of the grid."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.diagnosis.causes import zeros_of
from dashboard.facts.tensors import grid_owner, grid_range
from dashboard.figures.kit.binning import Bin, bin_edges, bins_of
from dashboard.figures.kit.marks import bars, bin_bars, line
from dashboard.figures.kit.picture import Picture, Rows
from dashboard.figures.kit.spikes import count_axis
from dashboard.figures.kit.theme import (
    CLIPPED,
    CLIPPED_EDGE,
    ERROR,
    ERROR_EDGE,
    FLOAT,
    INT8,
    INT8_EDGE,
    label,
    new_figure,
    shade,
    vertical_line,
)
from dashboard.words.formatting import format_count, format_number, format_percent
from quant_engine.report import TensorReport

IDEAL_EDGE = 0.5
"""Ideal rounding misses by at most half a step, in LSB."""

_OPEN_GAP = 1.5  # bins between the last bin and the bar for everything beyond it
_OPEN_WIDTH = 2.0
_EDGE_TOLERANCE = 1e-6


def _value_histogram(tensor: TensorReport, subject: str, *, is_log: bool) -> go.Figure:
    histogram = tensor.values
    before = bins_of(histogram.lo, histogram.hi, histogram.float_counts)
    after = bins_of(histogram.lo, histogram.hi, histogram.quantized_counts)
    width = (histogram.hi - histogram.lo) / len(before)
    traces = [
        bin_bars("float", before, width, FLOAT, opacity=0.75),
        bin_bars("dequantized", after, 0.45 * width, INT8),
    ]
    below = (histogram.float_below, histogram.quantized_below)
    above = (histogram.float_above, histogram.quantized_above)
    for edge, step, counts in ((histogram.lo, -width, below), (histogram.hi, width, above)):
        traces += _open_bars(edge, step, counts, is_clipped=not tensor.is_dynamic)
    reach = (_OPEN_GAP + 2 * _OPEN_WIDTH + 0.5) * width
    x_range = [
        histogram.lo - (reach if any(below) else width),
        histogram.hi + (reach if any(above) else width),
    ]
    shapes, notes = _grid_marks(tensor, x_range, any(below), any(above))
    zone, lost = _lost_zone(tensor)
    shapes, notes = [*shapes, *zone], [*notes, *lost]
    bars = [(bin_.center, bin_.count) for bin_ in (*before, *after)]
    y_axis, cuts = count_axis(is_log, bars, spikes=2)
    return new_figure(
        f"{subject}: float and dequantized (values per bin)",
        "Value (units of the tensor)",
        "Values in bin (count)",
        traces=traces,
        x_axis={"range": x_range},
        y_axis=y_axis,
        shapes=shapes,
        annotations=[*notes, *cuts],
        layout={"barmode": "overlay"},
    )


def _open_bars(
    edge: float, step: float, counts: tuple[int, int], *, is_clipped: bool
) -> list[dict[str, Any]]:
    """Two labelled bars, float and dequantized, for what lies beyond the last bin.

    With one scale the bins end where the grid does, so such float values are the clipped ones. With
    a scale per batch they are not.
    """
    if not any(counts):
        return []
    where = f"{'above' if step > 0 else 'below'} {edge:.4g}"
    before = (CLIPPED, CLIPPED_EDGE) if is_clipped else (FLOAT, FLOAT)
    kinds = (("float", *before), ("dequantized", INT8, INT8_EDGE))
    order = (0, 1) if step > 0 else (1, 0)
    return [
        bars(
            [edge + step * (_OPEN_GAP + _OPEN_WIDTH * (nth + 0.5))],
            [counts[index]],
            kinds[index][1],
            name=f"{kinds[index][0]}, {where}",
            showlegend=False,
            hover=f"{kinds[index][0]}: %{{y:,}} values {where}",
            edge=kinds[index][2],
            width=abs(step) * _OPEN_WIDTH * 0.9,
            text=["clipped" if is_clipped and index == 0 else "beyond"],
            textposition="outside",
            textangle=-90,
            cliponaxis=False,
        )
        for nth, index in enumerate(order)
        if counts[index]
    ]


def _grid_marks(
    tensor: TensorReport, x_range: list[float], is_clipped_below: bool, is_clipped_above: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mark where the grid of a tensor with one scale ends and something lies beyond; shade that."""
    grid = grid_range(tensor)
    if grid is None:
        return [], []
    shapes, notes = [], []
    ends = ((grid[0], x_range[0], is_clipped_below), (grid[1], x_range[1], is_clipped_above))
    for edge, outer, is_clipped in ends:
        if not is_clipped:
            continue
        shapes.append(vertical_line(edge, dash="dash"))
        shapes.append(shade(edge, outer, 0.12, layer="below"))
        anchor = "left" if outer < edge else "right"  # towards the middle, where there is room
        notes.append(label(edge, f"grid ends at {edge:.3g}", anchor=anchor))
    return shapes, notes


def _lost_zone(tensor: TensorReport) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Shade what a weight's one scale rounds to 0, and say how many weights that were."""
    zeros = zeros_of(tensor)
    if zeros is None or not zeros.count or len(tensor.scale) != 1:
        return [], []
    half = tensor.scale[0] / 2
    note = label(-half, f"{format_count(zeros.count)} became 0 ", anchor="right")
    return [shade(-half, half, 0.35)], [note]


def values_picture(tensor: TensorReport, subject: str, *, is_log: bool = False) -> Picture:
    """Return the values before and after quantization, counted on the same bins.

    Args:
        tensor: The weight or input.
        subject: What the values are; begins the title.
        is_log: Whether counts stand on a logarithmic axis.
    """
    zeros = zeros_of(tensor)
    lost = "" if zeros is None or not zeros.count else f" {zeros.sentence}."
    return Picture(
        _value_histogram(tensor, subject, is_log=is_log),
        f"{subject} from {format_number(tensor.lo)} to {format_number(tensor.hi)}; "
        f"{format_percent(tensor.error.clipped_fraction)} lie beyond the grid"
        f"{' of their batch' if tensor.is_dynamic else ''}.{lost}",
        (
            "Wide blue bars count the float values, narrow orange bars what they became, on the "
            "same bins. Red ground: what is rounded to 0.",
            _ends_of_values(tensor),
            "If blue is spread out and orange sits on a few spikes, the grid is too coarse.",
        ),
        lambda: value_rows(tensor),
        "values",
    )


def _ends_of_values(tensor: TensorReport) -> str:
    if tensor.is_dynamic:
        return (
            "Every batch has a grid of its own, so no line can show where it ends. The bins span "
            "what the calibration saw; bars apart at the side are values beyond that, which the "
            "range of their batch holds all the same. Steps differ from batch to batch, so a bin "
            "may catch one code more than its neighbour: small teeth in orange are no error."
        )
    if len(tensor.scale) == 1:
        return "Bars apart at the side are values beyond the grid: they are clipped to its end."
    return (
        f"Every {grid_owner(tensor)} has a grid of its own, so no line can show where it ends; "
        "bars apart at the side are values beyond the outermost bins."
    )


def value_rows(tensor: TensorReport) -> Rows:
    """Return the counts before and after; the first and the last bin are open."""
    histogram = tensor.values
    edges = bin_edges(histogram.lo, histogram.hi, len(histogram.float_counts))
    before = (histogram.float_below, *histogram.float_counts, histogram.float_above)
    after = (histogram.quantized_below, *histogram.quantized_counts, histogram.quantized_above)
    columns = zip([-math.inf, *edges], [*edges, math.inf], before, after, strict=True)
    names = ("from", "to", "float_values", "dequantized_values")
    return [dict(zip(names, row, strict=True)) for row in columns]


def lsb_picture(tensor: TensorReport, subject: str, *, is_log: bool = False) -> Picture:
    """Return the errors in LSB with the ideal, uniform on [-0.5, 0.5], drawn on top.

    Args:
        tensor: The weight or input.
        subject: What the values are; begins the title.
        is_log: Whether counts stand on a logarithmic axis.
    """
    own = " of its own batch" if tensor.is_dynamic else ""
    return Picture(
        _lsb_histogram(tensor, subject, is_log=is_log),
        f"Error of the {subject.lower()}: RMS {format_number(tensor.error.rmse_over_scale)} LSB, "
        f"{format_percent(tensor.error.clipped_fraction)} clipped.",
        (
            f"How far each value moved, in steps of the grid{own} (LSB), so every layer can be "
            "read on the same axis.",
            "The dashed box is ideal rounding: even between −0.5 and 0.5. A spike at 0 means "
            "values that were on the grid already.",
            "Red beyond ±0.5 is clipping: the value was outside the grid's range.",
        ),
        lambda: error_bin_rows(tensor),
        "lsb-error",
    )


def error_bin_rows(tensor: TensorReport) -> Rows:
    """Return the histogram of errors in LSB as rows; the first and the last bin are open."""
    histogram = tensor.lsb_error
    edges = bin_edges(histogram.lo, histogram.hi, len(histogram.counts))
    counts = (histogram.below, *histogram.counts, histogram.above)
    return [
        {"from_lsb": low, "to_lsb": high, "values": count}
        for low, high, count in zip([-math.inf, *edges], [*edges, math.inf], counts, strict=True)
    ]


def _lsb_histogram(tensor: TensorReport, subject: str, *, is_log: bool) -> go.Figure:
    histogram = tensor.lsb_error
    bins = bins_of(histogram.lo, histogram.hi, histogram.counts)
    width = (histogram.hi - histogram.lo) / len(bins)
    inside = [bin_ for bin_ in bins if not is_beyond(bin_)]
    outside = [bin_ for bin_ in bins if is_beyond(bin_)]
    style: dict[str, Any] = {"unit": " LSB", "digits": ".3f", "edge_width": 0.5}
    traces = [bin_bars("rounding", inside, width, ERROR, edge=ERROR_EDGE, **style)]
    if any(bin_.count for bin_ in outside):
        name = "clipped: beyond ±0.5 LSB"
        traces.append(bin_bars(name, outside, width, CLIPPED, edge=CLIPPED_EDGE, **style))
    open_counts = ((histogram.below, histogram.lo, -width), (histogram.above, histogram.hi, width))
    traces += [_open_error_bar(*one) for one in open_counts if one[0]]
    total = sum(histogram.counts) + histogram.below + histogram.above
    traces.append(_ideal_line(total * width))
    has_outside = any(bin_.count for bin_ in outside) or histogram.below or histogram.above
    wide = [min(histogram.lo - 4 * width, -0.75), max(histogram.hi + 4 * width, 0.75)]
    y_axis, cuts = count_axis(
        is_log, [(bin_.center, bin_.count) for bin_ in bins], least=total * width
    )
    return new_figure(
        f"{subject}: error in LSB (values per bin)",
        "(dequantized − float) / scale (LSB)",
        "Values in bin (count)",
        traces=traces,
        x_axis={"range": wide if has_outside else [-0.75, 0.75]},
        y_axis=y_axis,
        shapes=[vertical_line(-IDEAL_EDGE), vertical_line(IDEAL_EDGE)],
        annotations=cuts,
        layout={"barmode": "overlay"},
    )


def is_beyond(bin_: Bin) -> bool:
    """Whether an error bin, in LSB, lies beyond what rounding alone can do.

    Example:
        >>> is_beyond(Bin(0.4, 0.5, 1)), is_beyond(Bin(0.5, 0.6, 1))
        (False, True)
    """
    return abs(bin_.center) > IDEAL_EDGE + _EDGE_TOLERANCE


def _open_error_bar(count: int, edge: float, step: float) -> dict[str, Any]:
    where = f"{'above' if step > 0 else 'below'} {edge:g} LSB"
    return bars(
        [edge + 2.5 * step],
        [count],
        CLIPPED,
        name=where,
        showlegend=False,
        hover=f"{format_count(count)} values {where}",
        edge=CLIPPED_EDGE,
        width=2 * abs(step),
    )


def _ideal_line(height: float) -> dict[str, Any]:
    """The counts of ideal rounding: the same in every bin within half a step, none beyond."""
    return line(
        [-IDEAL_EDGE, -IDEAL_EDGE, IDEAL_EDGE, IDEAL_EDGE],
        [0, height, height, 0],
        name="ideal rounding",
        hover=f"ideal: {height:,.0f} values in each bin",
        width=2.5,
        dash="dash",
    )
