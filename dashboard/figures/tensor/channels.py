"""Channels of a weight: their ranges and errors, readable at 4 channels and at 2,048."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.tensors import (
    WORST,
    Channel,
    channel_grids,
    channels_of,
    grid_owner,
    grid_range,
    median_sqnr,
    worst_channels,
)
from dashboard.figures.kit.axes import ZERO_LINE
from dashboard.figures.kit.marks import bars, dots, line
from dashboard.figures.kit.picture import Picture, Rows
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


def channels_picture(tensor: TensorReport) -> Picture:
    """Return the ranges and errors of all output channels of a weight."""
    grid, hint = (
        "Dashed orange is what the grid can hold.",
        "Narrow channels far inside the dashed lines use few codes. One scale for each channel "
        "gives them their own grid.",
    )
    if tensor.group_count:
        grid = f"Every {grid_owner(tensor)} has a grid of its own, so no line shows where it ends."
        hint = "A large weight costs only its own group resolution, not its whole channel."
    return Picture(
        _ranges(tensor),
        describe_channels(tensor),
        (
            "Above: from the smallest to the largest weight of each output channel, the "
            f"widest channel first. {grid}",
            "Below: the SQNR of the same channels; the dotted line is their median.",
            hint,
        ),
        lambda: channel_rows(tensor),
        "channels",
    )


def worst_channels_picture(tensor: TensorReport) -> Picture:
    """Return the channels with the lowest SQNR."""
    return Picture(
        _worst(tensor),
        describe_channels(tensor),
        (
            "The ten channels with the lowest SQNR; left their range, right their SQNR.",
            "The dotted line is the median of all channels.",
            "If one channel is far below it, look at its range: it shares a scale with "
            "channels that are much wider.",
        ),
        lambda: sorted(channel_rows(tensor), key=lambda row: row["sqnr_db"])[:WORST],
        "worst-channels",
    )


def describe_channels(tensor: TensorReport) -> str:
    """Return the takeaway: the median SQNR, and the channel with the lowest."""
    channels, worst = channels_of(tensor), worst_channels(tensor, 1)
    if not worst:
        return f"All {plural(len(channels), 'channel')} are exact."
    return (
        f"{plural(len(channels), 'channel')}, median SQNR {format_db(median_sqnr(tensor))}; the "
        f"lowest is channel {worst[0].index} at {format_db(worst[0].sqnr_db)}."
    )


def channel_rows(tensor: TensorReport) -> Rows:
    """Return range, SQNR, scale and zero point of each output channel; no grid where in groups."""
    grids = [grid or (None, None) for grid in channel_grids(tensor)]
    return [
        {
            "channel": channel.index,
            "lo": channel.lo,
            "hi": channel.hi,
            "sqnr_db": channel.sqnr_db,
            "scale": scale,
            "zero_point": zero,
        }
        for channel, (scale, zero) in zip(channels_of(tensor), grids, strict=True)
    ]


def _ranges(tensor: TensorReport) -> go.Figure:
    """The range of every channel, widest first, with what the grid can hold and the SQNR."""
    channels = sorted(channels_of(tensor), key=lambda channel: -channel.reach)
    title = f"Range and SQNR of {plural(len(channels), 'output channel')}, widest first"
    if not channels:
        return empty_figure(title, "Only weights are looked at channel by channel.")
    positions = list(range(1, len(channels) + 1))
    draw = _range_bars if len(channels) <= MOST_BARS else _range_band
    traces = draw(channels, positions)
    traces += _grid_lines(tensor, channels, positions)
    traces.append(_sqnr_marks(channels, positions))
    edges = [0.5, len(channels) + 0.5]
    return new_figure(
        title,
        "Channel, by width of its range (rank)",
        traces=traces,
        height=460,
        x_axis={"range": edges, "anchor": "y2", "rangemode": "nonnegative"},
        shapes=_median_line(tensor, "y", 1.5),
        layout={
            "yaxis": axis("Weight value", domain=[0.42, 1.0], **ZERO_LINE),
            "yaxis2": axis("SQNR (dB)", domain=[0.0, 0.34]),
            "barmode": "overlay",
        },
    )


def _median_line(tensor: TensorReport, along: str, width: float) -> list[dict[str, Any]]:
    """Return a line across the plot of the SQNRs, which stand along its second x or y axis."""
    middle, across = median_sqnr(tensor), "x" if along == "y" else "y"
    if middle is None or not math.isfinite(middle):
        return []
    ends = {f"{along}ref": f"{along}2", f"{along}0": middle, f"{along}1": middle}
    ends |= {f"{across}ref": "paper", f"{across}0": 0, f"{across}1": 1}
    return [{"type": "line", **ends, "line": {"color": NEUTRAL, "width": width, "dash": "dot"}}]


def _custom(channels: Sequence[Channel]) -> list[list[float]]:
    """Index and range of each channel, in as few digits as a reader needs."""
    return [[c.index, float(f"{c.lo:.4g}"), float(f"{c.hi:.4g}")] for c in channels]


_HOVER = "channel %{customdata[0]}<br>range %{customdata[1]} to %{customdata[2]}"


def _range_bars(channels: list[Channel], positions: list[int]) -> list[dict[str, Any]]:
    return [
        bars(
            positions,
            [channel.hi - channel.lo for channel in channels],
            FLOAT,
            name="weights",
            layers=_custom(channels),
            hover=_HOVER,
            opacity=0.75,
            base=[channel.lo for channel in channels],
            width=0.75,
        )
    ]


def _range_band(channels: list[Channel], positions: list[int]) -> list[dict[str, Any]]:
    style: dict[str, Any] = {"width": 1, "shape": "hvh", "legendgroup": "range"}
    return [
        line(positions, [channel.lo for channel in channels], FLOAT, **style),
        line(
            positions,
            [channel.hi for channel in channels],
            FLOAT,
            name="weights",
            layers=_custom(channels),
            hover=_HOVER,
            fill="tonexty",
            fillcolor="rgba(0, 114, 178, 0.45)",
            **style,
        ),
    ]


def _grid_lines(
    tensor: TensorReport, channels: list[Channel], positions: list[int]
) -> list[dict[str, Any]]:
    """Two lines: the ends of the grid, level with one scale, stepped with one for each channel.

    None where the groups of a channel have several.
    """
    if tensor.group_count:
        return []
    name = "grid (one scale)" if grid_range(tensor) is not None else "grid"
    style: dict[str, Any] = {"width": 2, "dash": "dash", "shape": "hvh", "legendgroup": "grid"}
    x = [0.5, *positions, len(channels) + 0.5]
    lows, highs = [c.grid_lo for c in channels], [c.grid_hi for c in channels]
    return [
        line(x, [highs[0], *highs, highs[-1]], INT8, name=name, **style),
        line(x, [lows[0], *lows, lows[-1]], INT8, name=name, showlegend=False, **style),
    ]


def _sqnr_marks(channels: list[Channel], positions: list[int]) -> dict[str, Any]:
    kept = [(x, c) for x, c in zip(positions, channels, strict=True) if math.isfinite(c.sqnr_db)]
    return dots(
        [x for x, _ in kept],
        [round(channel.sqnr_db, 2) for _, channel in kept],
        ERROR,
        name="SQNR, dotted: median",
        layers=[[channel.index] for _, channel in kept],
        hover="channel %{customdata[0]}<br>SQNR %{y:.1f} dB",
        edge_width=0.5,
        size=8 if len(channels) <= MOST_BARS else 4,
        yaxis="y2",
    )


def _worst(tensor: TensorReport) -> go.Figure:
    """The ten channels with the lowest SQNR: their range, and their SQNR beside it."""
    worst = [channel for channel in worst_channels(tensor) if math.isfinite(channel.sqnr_db)]
    if not worst:
        has_channels = bool(channels_of(tensor))
        reason = "Every channel is exact." if has_channels else "An input has no output channels."
        return empty_figure("Channels with the lowest SQNR (dB)", reason)
    names = [f"channel {channel.index}<br>{format_db(channel.sqnr_db)}" for channel in worst]
    custom = _custom(worst)
    lengths, lows = [channel.hi - channel.lo for channel in worst], [c.lo for c in worst]
    looks: dict[str, Any] = {"is_level": True, "width": 0.66}
    ranges = bars(lengths, names, FLOAT, layers=custom, hover=_HOVER, base=lows, **looks)
    sqnrs = bars(
        [channel.sqnr_db for channel in worst],
        names,
        ERROR,
        layers=custom,
        hover="SQNR %{x:.1f} dB<br>" + _HOVER,
        edge=ERROR_EDGE,
        xaxis="x2",
        **looks,
    )
    return new_figure(
        f"{plural(len(worst), 'channel')} with the lowest SQNR (dB)",
        traces=[ranges, sqnrs],
        height=120 + 36 * max(3, len(worst)),
        y_axis={"autorange": "reversed", "showgrid": False},
        shapes=_median_line(tensor, "x", 2),
        layout={
            "xaxis": axis("Weight value", domain=[0.0, 0.46], **ZERO_LINE),
            "xaxis2": axis("SQNR (dB), dotted: median", domain=[0.54, 1.0], anchor="y"),
            "margin": {"l": 16, "r": 16, "t": 44, "b": 52},
        },
    )
