"""Channels of a weight: their ranges and errors, readable at 4 channels and at 2,048."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.tensors import Channel, channels_of, grid_range, median_sqnr, worst_channels
from dashboard.figures.kit.theme import (
    ERROR,
    ERROR_EDGE,
    FLOAT,
    INT8,
    NEUTRAL,
    axis,
    empty_figure,
    new_figure,
)
from dashboard.words.formatting import format_db, plural
from quant_engine.report import TensorReport

MOST_BARS = 64
"""Up to here every channel gets its own bar; above, the ranges are drawn as one band."""


def channel_ranges(tensor: TensorReport) -> go.Figure:
    """Return the range of every channel, widest first, with what the grid can hold and the SQNR."""
    channels = sorted(channels_of(tensor), key=lambda channel: -channel.reach)
    title = f"Range and SQNR of {plural(len(channels), 'output channel')}, widest first"
    if not channels:
        return empty_figure(title, "Only weights are looked at channel by channel.")
    positions = list(range(1, len(channels) + 1))
    traces = (
        _range_bars(channels, positions)
        if len(channels) <= MOST_BARS
        else _range_band(channels, positions)
    )
    traces += _grid_lines(tensor, channels, positions)
    traces.append(_sqnr_marks(channels, positions))
    middle = median_sqnr(tensor)
    shapes = []
    if middle is not None and math.isfinite(middle):
        line = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
        ends = {"xref": "paper", "x0": 0, "x1": 1, "yref": "y2", "y0": middle, "y1": middle}
        shapes.append({"type": "line", **ends, "line": line})
    edges = [0.5, len(channels) + 0.5]
    return new_figure(
        title,
        "Channel, by width of its range (rank)",
        traces=traces,
        height=460,
        x_axis={"range": edges, "anchor": "y2", "rangemode": "nonnegative"},
        shapes=shapes,
        layout={
            "yaxis": axis("Weight value", domain=[0.42, 1.0], zeroline=True, zerolinecolor=NEUTRAL),
            "yaxis2": axis("SQNR (dB)", domain=[0.0, 0.34]),
            "barmode": "overlay",
        },
    )


def _custom(channels: list[Channel]) -> list[list[float]]:
    """Number and range of each channel, in as few digits as a reader needs."""
    return [[c.index, float(f"{c.lo:.4g}"), float(f"{c.hi:.4g}")] for c in channels]


_HOVER = "channel %{customdata[0]}<br>range %{customdata[1]} to %{customdata[2]}<extra></extra>"
_SQNR_HOVER = "channel %{customdata[0]}<br>SQNR %{y:.1f} dB<extra></extra>"


def _range_bars(channels: list[Channel], positions: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "type": "bar",
            "name": "weights",
            "x": positions,
            "base": [channel.lo for channel in channels],
            "y": [channel.hi - channel.lo for channel in channels],
            "width": 0.75,
            "marker": {"color": FLOAT, "opacity": 0.75},
            "customdata": _custom(channels),
            "hovertemplate": _HOVER,
        }
    ]


def _range_band(channels: list[Channel], positions: list[int]) -> list[dict[str, Any]]:
    common = {"type": "scatter", "mode": "lines", "x": positions, "legendgroup": "range"}
    line = {"color": FLOAT, "width": 1, "shape": "hvh"}
    return [
        {
            **common,
            "y": [channel.lo for channel in channels],
            "line": line,
            "showlegend": False,
            "hoverinfo": "skip",
        },
        {
            **common,
            "name": "weights",
            "y": [channel.hi for channel in channels],
            "line": line,
            "fill": "tonexty",
            "fillcolor": "rgba(0, 114, 178, 0.45)",
            "customdata": _custom(channels),
            "hovertemplate": _HOVER,
        },
    ]


def _grid_lines(
    tensor: TensorReport, channels: list[Channel], positions: list[int]
) -> list[dict[str, Any]]:
    """Two lines: the ends of the grid, level with one scale, stepped with one for each channel."""
    name = "grid (one scale)" if grid_range(tensor) is not None else "grid"
    line = {"color": INT8, "width": 2, "dash": "dash", "shape": "hvh"}
    common = {"type": "scatter", "mode": "lines", "line": line, "hoverinfo": "skip"}
    x = [0.5, *positions, len(channels) + 0.5]
    lows, highs = [c.grid_lo for c in channels], [c.grid_hi for c in channels]
    return [
        {**common, "name": name, "x": x, "y": [highs[0], *highs, highs[-1]], "legendgroup": "grid"},
        {
            **common,
            "name": name,
            "x": x,
            "y": [lows[0], *lows, lows[-1]],
            "legendgroup": "grid",
            "showlegend": False,
        },
    ]


def _sqnr_marks(channels: list[Channel], positions: list[int]) -> dict[str, Any]:
    kept = [(x, c) for x, c in zip(positions, channels, strict=True) if math.isfinite(c.sqnr_db)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "SQNR, dotted: median",
        "x": [x for x, _ in kept],
        "y": [round(channel.sqnr_db, 2) for _, channel in kept],
        "yaxis": "y2",
        "marker": {
            "color": ERROR,
            "size": 8 if len(channels) <= MOST_BARS else 4,
            "line": {"width": 0.5, "color": ERROR_EDGE},
        },
        "customdata": [[channel.index] for _, channel in kept],
        "hovertemplate": _SQNR_HOVER,
    }


def worst_channel_bars(tensor: TensorReport) -> go.Figure:
    """Return the ten channels with the lowest SQNR: their range, and their SQNR beside it."""
    worst = [channel for channel in worst_channels(tensor) if math.isfinite(channel.sqnr_db)]
    if not worst:
        has_channels = bool(channels_of(tensor))
        reason = "Every channel is exact." if has_channels else "An input has no output channels."
        return empty_figure("Channels with the lowest SQNR (dB)", reason)
    names = [f"channel {channel.index}<br>{format_db(channel.sqnr_db)}" for channel in worst]
    common = {
        "type": "bar",
        "orientation": "h",
        "showlegend": False,
        "y": names,
        "width": 0.66,
        "customdata": _custom(worst),
        "hovertemplate": _HOVER,
    }
    ranges = {
        **common,
        "base": [channel.lo for channel in worst],
        "x": [channel.hi - channel.lo for channel in worst],
        "marker": {"color": FLOAT},
    }
    sqnrs = {
        **common,
        "xaxis": "x2",
        "x": [channel.sqnr_db for channel in worst],
        "hovertemplate": "SQNR %{x:.1f} dB<br>" + _HOVER,
        "marker": {"color": ERROR, "line": {"width": 1, "color": ERROR_EDGE}},
    }
    middle = median_sqnr(tensor)
    shapes = []
    if middle is not None and math.isfinite(middle):
        line = {"color": NEUTRAL, "width": 2, "dash": "dot"}
        ends = {"xref": "x2", "x0": middle, "x1": middle, "yref": "paper", "y0": 0, "y1": 1}
        shapes.append({"type": "line", **ends, "line": line})
    return new_figure(
        f"{plural(len(worst), 'channel')} with the lowest SQNR (dB)",
        traces=[ranges, sqnrs],
        height=120 + 36 * max(3, len(worst)),
        y_axis={"autorange": "reversed", "showgrid": False},
        shapes=shapes,
        layout={
            "xaxis": axis("Weight value", domain=[0.0, 0.46], zeroline=True, zerolinecolor=NEUTRAL),
            "xaxis2": axis("SQNR (dB), dotted: median", domain=[0.54, 1.0], anchor="y"),
            "margin": {"l": 16, "r": 16, "t": 44, "b": 52},
        },
    )
