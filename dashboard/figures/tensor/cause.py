"""Why a layer breaks, before and after: channels against half a step, or values against codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.diagnosis.causes import (
    WEIGHT_CHANNELS,
    WEIGHT_VALUES,
    input_reach,
    kind_of_cause,
    outlier_channels,
    zeros_of,
)
from dashboard.facts.tensors import channel_grids, grid_owner
from dashboard.figures.kit.binning import bins_of
from dashboard.figures.kit.marks import Trace, bars, dots, line
from dashboard.figures.kit.picture import Picture, Rows
from dashboard.figures.kit.theme import CLIPPED, FLOAT, INT8, INT8_EDGE, axis, new_figure, note
from dashboard.figures.tensor.distributions import value_rows
from dashboard.words.formatting import format_number, plural
from quant_engine.report import LayerReport, TensorReport

HEIGHT = 250


def cause_picture(
    broken: LayerReport, repaired: LayerReport, labels: tuple[str, str], kind: str | None = None
) -> Picture:
    """Return the picture that shows why one layer breaks, and that the other does not.

    Args:
        broken: The layer in the run that goes wrong.
        repaired: The same layer in the other run.
        labels: What to call the two runs.
        kind: "weight channels", "input channels" or "weight values"; if None, what explains
            `broken`.
    """
    kind = kind or kind_of_cause(broken)
    layers = (broken, repaired)
    if kind == WEIGHT_VALUES:
        return _values(layers, labels)
    noun, what, side_of = "input", "input channel", input_side
    if kind == WEIGHT_CHANNELS:
        noun, what, side_of = "weight", "output channel", weight_side
    sides = [side_of(layer) for layer in layers]
    title = f"{broken.name}: largest {noun} by {what}"
    text = (
        f"What lies below half a step becomes 0. {labels[0].capitalize()}: {sides[0].words}. "
        f"{labels[1].capitalize()}: {sides[1].words}."
    )
    figure = channel_panels(title, sides, labels, what, f"Largest |{noun}|")
    return Picture(figure, text, _ABOUT, lambda: channel_rows(sides, labels), "cause")


_ABOUT = (
    "Both runs of the layer that costs the broken model most, side by side.",
    "Each mark is one channel. The dashed line is half a step of the integer grid: what lies below "
    "it is rounded to 0.",
    "Where weights are drawn instead: blue is what they were, orange what they became.",
)


@dataclass(frozen=True, slots=True)
class ChannelSide:
    """Channels of one run: how far each reaches, and half a step of its grid.

    None where there is no such step: the tensor stays float, or groups of a channel have several.
    """

    reach: tuple[float, ...]
    half_step: tuple[float, ...] | None
    words: str

    @property
    def lost(self) -> set[int]:
        """Channels that lie below half a step."""
        if self.half_step is None:
            return set()
        pairs = enumerate(zip(self.reach, self.half_step, strict=True))
        return {i for i, (reach, half) in pairs if reach <= half}


def weight_side(layer: LayerReport) -> ChannelSide:
    """Return the output channels of a weight against its grid."""
    tensor = layer.weight
    if tensor is None or tensor.channels is None:
        return ChannelSide((), None, "the weight stays float")
    channels = tensor.channels
    reach = tuple(max(abs(a), abs(b)) for a, b in zip(channels.lo, channels.hi, strict=True))
    zeros = zeros_of(tensor)
    words = zeros.sentence if zeros is not None else f"{plural(len(reach), 'channel')}"
    if tensor.group_count:
        return ChannelSide(reach, None, f"{words}; every {grid_owner(tensor)} has its own step")
    steps = tuple(grid[0] / 2 for grid in channel_grids(tensor) if grid is not None)
    return ChannelSide(reach, steps, words)


def input_side(layer: LayerReport) -> ChannelSide:
    """Return the channels of a layer's input against its grid."""
    reach, tensor = input_reach(layer), layer.input
    if tensor is None:
        return ChannelSide(reach, None, "the inputs stay float, every channel keeps its values")
    step = max(tensor.scale)
    alive = sorted(value for value in reach if value > 0)
    middle = alive[len(alive) // 2] if alive else 0.0
    reaches = format_number(middle / step, 2) if step else "0"
    words = f"the median channel reaches {reaches} of {tensor.scheme.qmax} steps"
    return ChannelSide(reach, (step / 2,) * len(reach), words)


def input_channels_picture(layer: LayerReport) -> Picture:
    """Return how far every input channel reaches, against half a step of the one grid."""
    side, outliers = input_side(layer), outlier_channels(layer)
    name = "No input channel stands out" if outliers is None else outliers.sentence
    title = f"Largest input of each input channel of {layer.name}, and half a step of the grid"
    seen = layer.input_channels
    return Picture(
        channel_panels(title, [side], ("Inputs",), "input channel", "Largest |input|"),
        f"{name[:1].upper()}{name[1:]}; {side.words}.",
        (
            "One mark per input channel, the largest first, on a logarithmic axis.",
            "All input channels share one scale: one that differs between them could not be taken "
            "out of the integer sum. Dashed is half a step of it.",
            "A channel near or below the dashed line is hardly more than 0 after rounding.",
        ),
        lambda: [
            {"channel": index, "lo": lo, "hi": hi}
            for index, (lo, hi) in enumerate(
                () if seen is None else zip(seen.lo, seen.hi, strict=True)
            )
        ],
        "channels",
    )


def channel_rows(sides: Sequence[ChannelSide], labels: Sequence[str]) -> Rows:
    """Return the largest magnitude of each channel, and half a step of its grid."""
    return [
        {
            "run": label,
            "channel": index,
            "largest": reach,
            "half_step": None if side.half_step is None else side.half_step[index],
        }
        for side, label in zip(sides, labels, strict=True)
        for index, reach in enumerate(side.reach)
    ]


def channel_panels(
    title: str,
    sides: Sequence[ChannelSide],
    labels: Sequence[str],
    what: str,
    y_title: str,
    *,
    reached: Sequence[float] = (),
) -> go.Figure:
    """Return one panel per run: each channel a mark, widest first, and the line of half a step.

    The axes also cover the values `reached`, so that they stay where they are from one choice to
    the next.
    """
    order = sorted(range(len(sides[0].reach)), key=lambda i: -sides[0].reach[i])
    seen = [v for side in sides for v in (*side.reach, *(side.half_step or ())) if v > 0]
    seen += [value for value in reached if value > 0]
    low, high = min(seen, default=0.1) / 2, max(seen, default=1.0) * 2
    traces = [t for index, side in enumerate(sides) for t in _panel(side, order, index, low)]
    ends = [math.log10(low), math.log10(high)]
    y_axis = {"type": "log", "range": ends, "dtick": 1, "exponentformat": "e"}
    return _panels(title, labels, f"{what.capitalize()} (widest first)", y_title, traces, y_axis)


def _panels(
    title: str,
    labels: Sequence[str],
    x_title: str,
    y_title: str,
    traces: Sequence[Trace],
    y_axis: Mapping[str, Any],
) -> go.Figure:
    """Return one panel per run, side by side."""
    width = (1 - 0.06 * (len(labels) - 1)) / len(labels)
    layout: dict[str, Any] = {"margin": {"l": 64, "r": 16, "t": 84, "b": 44}}
    place = {"xref": "paper", "xanchor": "left", "yref": "paper", "yanchor": "bottom"}
    notes = []
    for index, label in enumerate(labels):
        left, number = index * (width + 0.06), _number(index)
        layout[f"xaxis{number}"] = axis(x_title, domain=[left, left + width])
        anchor = f"x{number}"
        layout[f"yaxis{number}"] = axis("" if index else y_title, anchor=anchor, **y_axis)
        notes.append(note(f"<b>{label.capitalize()}</b>", left, 1.0, size=14, **place))
    return new_figure(title, traces=traces, height=HEIGHT, annotations=notes, layout=layout)


def _number(index: int) -> str:
    """Return what Plotly adds to the names of a panel's axes."""
    return str(index + 1) if index else ""


def _panel(side: ChannelSide, order: list[int], index: int, low: float) -> list[Trace]:
    axes: dict[str, Any] = {"xaxis": f"x{_number(index)}", "yaxis": f"y{_number(index)}"}
    lost = side.lost
    groups = (
        ("kept", [i for i in order if i not in lost], FLOAT, "circle"),
        ("became 0", [i for i in order if i in lost], CLIPPED, "x"),
    )
    place = {channel: rank for rank, channel in enumerate(order, start=1)}
    traces = [
        dots(
            [place[i] for i in channels],
            [max(side.reach[i], low) for i in channels],
            color,
            name=text,
            layers=[[i] for i in channels],
            hover="channel %{customdata[0]}: %{y:.3g}",
            size=8,
            symbol=symbol,
            legendgroup=text,
            showlegend=not index and bool(channels) and side.half_step is not None,
            **axes,
        )
        for text, channels, color, symbol in groups
    ]
    if side.half_step is not None:
        traces.append(
            line(
                range(1, len(order) + 1),
                [side.half_step[i] for i in order],
                INT8,
                name="half a step",
                hover="half a step: %{y:.3g}",
                width=2.5,
                dash="dash",
                legendgroup="half a step",
                showlegend=not index,
                **axes,
            )
        )
    return traces


def _values(layers: Sequence[LayerReport], labels: Sequence[str]) -> Picture:
    title = f"Weights of {layers[0].name} and the values they became"
    traces: list[Trace] = []
    words = []
    for index, (layer, label) in enumerate(zip(layers, labels, strict=True)):
        if layer.weight is None:
            words.append(f"{label.capitalize()}: the weight stays float.")
            continue
        traces += _value_bars(layer.weight, index)
        levels = layer.weight.codes.codes_used
        zeros = zeros_of(layer.weight)
        lost = "" if zeros is None else f"; {zeros.sentence}"
        words.append(f"{label.capitalize()}: {plural(levels, 'value')} a scale{lost}.")
    figure = _panels(title, labels, "Weight", "Share of the weights", traces, {})
    return Picture(
        figure.update_layout(barmode="overlay"),
        " ".join(words),
        _ABOUT,
        lambda: [
            {"run": label, **row}
            for layer, label in zip(layers, labels, strict=True)
            if layer.weight is not None
            for row in value_rows(layer.weight)
        ],
        "cause",
    )


def _value_bars(tensor: TensorReport, index: int) -> list[Trace]:
    histogram = tensor.values
    bins = bins_of(histogram.lo, histogram.hi, histogram.float_counts)
    total = max(1, sum(histogram.float_counts))
    places = [one.center for one in bins]
    width = (histogram.hi - histogram.lo) / max(1, len(bins))
    kinds: tuple[tuple[str, Sequence[int], float, str, str | None], ...] = (
        ("float", histogram.float_counts, width, FLOAT, None),
        ("dequantized", histogram.quantized_counts, width * 0.6, INT8, INT8_EDGE),
    )
    return [
        bars(
            places,
            [count / total for count in counts],
            color,
            name=kind,
            hover=f"{kind} %{{x:.3g}}: %{{y:.1%}}",
            edge=edge,
            edge_width=0.5,
            width=wide,
            legendgroup=kind,
            showlegend=not index,
            xaxis=f"x{_number(index)}",
            yaxis=f"y{_number(index)}",
        )
        for kind, counts, wide, color, edge in kinds
    ]
