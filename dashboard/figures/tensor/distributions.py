"""Histograms of one tensor: its values before and after, and its errors in steps of the grid."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from dashboard.facts.tensors import grid_range
from dashboard.figures.kit.binning import Bin, bins_of
from dashboard.figures.kit.spikes import count_axis
from dashboard.figures.kit.theme import (
    CLIPPED,
    CLIPPED_EDGE,
    ERROR,
    ERROR_EDGE,
    FLOAT,
    INT8,
    INT8_EDGE,
    NEUTRAL,
    label,
    new_figure,
    vertical_line,
)
from dashboard.words.formatting import format_count
from quant_engine.report import TensorReport

IDEAL_EDGE = 0.5
"""Ideal rounding misses by at most half a step, in LSB."""

_OPEN_GAP = 1.5  # bins between the last bin and the bar for everything beyond it
_OPEN_WIDTH = 2.0
_EDGE_TOLERANCE = 1e-6


def value_histogram(
    tensor: TensorReport, subject: str = "Weights", *, is_log: bool = False
) -> go.Figure:
    """Return the values before and after quantization, counted on the same bins.

    Args:
        tensor: The weight or input.
        subject: What the values are; begins the title.
        is_log: Whether counts stand on a logarithmic axis.
    """
    histogram = tensor.values
    before = bins_of(histogram.lo, histogram.hi, histogram.float_counts)
    after = bins_of(histogram.lo, histogram.hi, histogram.quantized_counts)
    width = (histogram.hi - histogram.lo) / len(before)
    traces = [
        _value_bars("float", FLOAT, before, width, opacity=0.75),
        _value_bars("dequantized", INT8, after, 0.45 * width, opacity=1.0),
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


def _value_bars(
    name: str, color: str, bins: list[Bin], width: float, *, opacity: float
) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": [bin_.center for bin_ in bins],
        "y": [bin_.count for bin_ in bins],
        "width": width,
        "marker": {"color": color, "opacity": opacity, "line": {"width": 0}},
        "customdata": [[bin_.lo, bin_.hi] for bin_ in bins],
        "hovertemplate": f"{name}: %{{y:,}} values<br>"
        "from %{customdata[0]:.4g} to %{customdata[1]:.4g}<extra></extra>",
    }


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
        {
            "type": "bar",
            "name": f"{kinds[index][0]}, {where}",
            "showlegend": False,
            "x": [edge + step * (_OPEN_GAP + _OPEN_WIDTH * (place + 0.5))],
            "y": [counts[index]],
            "width": abs(step) * _OPEN_WIDTH * 0.9,
            "text": ["clipped" if is_clipped and index == 0 else "beyond"],
            "textposition": "outside",
            "textangle": -90,
            "cliponaxis": False,
            "marker": {
                "color": kinds[index][1],
                "line": {"width": 1, "color": kinds[index][2]},
            },
            "hovertemplate": f"{kinds[index][0]}: %{{y:,}} values {where}<extra></extra>",
        }
        for place, index in enumerate(order)
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
        shade = {"type": "rect", "x0": edge, "x1": outer, "yref": "paper", "y0": 0, "y1": 1}
        shapes.append(
            {**shade, "layer": "below", "fillcolor": CLIPPED, "opacity": 0.12, "line": {"width": 0}}
        )
        anchor = "left" if outer < edge else "right"  # towards the middle, where there is room
        notes.append(label(edge, f"grid ends at {edge:.3g}", anchor=anchor))
    return shapes, notes


def lsb_histogram(
    tensor: TensorReport, subject: str = "Weights", *, is_log: bool = False
) -> go.Figure:
    """Return the errors in LSB with the ideal, uniform on [-0.5, 0.5], drawn on top.

    Args:
        tensor: The weight or input.
        subject: What the values are; begins the title.
        is_log: Whether counts stand on a logarithmic axis.
    """
    histogram = tensor.lsb_error
    bins = bins_of(histogram.lo, histogram.hi, histogram.counts)
    width = (histogram.hi - histogram.lo) / len(bins)
    inside = [bin_ for bin_ in bins if not is_beyond(bin_)]
    outside = [bin_ for bin_ in bins if is_beyond(bin_)]
    traces = [_error_bars("rounding", inside, width, is_clipped=False)]
    if any(bin_.count for bin_ in outside):
        traces.append(_error_bars("clipped: beyond ±0.5 LSB", outside, width, is_clipped=True))
    open_counts = ((histogram.below, histogram.lo, -width), (histogram.above, histogram.hi, width))
    for count, edge, step in open_counts:
        if count:
            traces.append(_open_error_bar(count, edge, step))
    total = sum(histogram.counts) + histogram.below + histogram.above
    traces.append(_ideal_line(total * width))
    has_outside = any(bin_.count for bin_ in outside) or histogram.below or histogram.above
    reach = 4 * width
    wide = [min(histogram.lo - reach, -0.75), max(histogram.hi + reach, 0.75)]
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


def _error_bars(name: str, bins: list[Bin], width: float, *, is_clipped: bool) -> dict[str, Any]:
    edge = CLIPPED_EDGE if is_clipped else ERROR_EDGE
    marker: dict[str, Any] = {
        "color": CLIPPED if is_clipped else ERROR,
        "line": {"width": 0.5, "color": edge},
    }
    return {
        "type": "bar",
        "name": name,
        "x": [bin_.center for bin_ in bins],
        "y": [bin_.count for bin_ in bins],
        "width": width,
        "marker": marker,
        "customdata": [[bin_.lo, bin_.hi] for bin_ in bins],
        "hovertemplate": f"{name}: %{{y:,}} values<br>"
        "from %{customdata[0]:.3f} to %{customdata[1]:.3f} LSB<extra></extra>",
    }


def _open_error_bar(count: int, edge: float, step: float) -> dict[str, Any]:
    where = f"{'above' if step > 0 else 'below'} {edge:g} LSB"
    return {
        "type": "bar",
        "name": where,
        "showlegend": False,
        "x": [edge + 2.5 * step],
        "y": [count],
        "width": 2 * abs(step),
        "marker": {
            "color": CLIPPED,
            "line": {"width": 1, "color": CLIPPED_EDGE},
        },
        "hovertemplate": f"{format_count(count)} values {where}<extra></extra>",
    }


def _ideal_line(height: float) -> dict[str, Any]:
    """The counts of ideal rounding: the same in every bin within half a step, none beyond."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "ideal rounding",
        "x": [-IDEAL_EDGE, -IDEAL_EDGE, IDEAL_EDGE, IDEAL_EDGE],
        "y": [0, height, height, 0],
        "line": {"color": NEUTRAL, "width": 2.5, "dash": "dash"},
        "hovertemplate": f"ideal: {height:,.0f} values in each bin<extra></extra>",
    }
