"""Where the bytes of a model are, before and after: by layer, and step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.cost.size import LayerBytes, SizeStep, bits_text, layer_bytes, size_steps
from dashboard.figures.kit.axes import (
    BYTES_AXIS,
    beside,
    layer_rows,
    row_frame,
    row_targets,
    rows_axis,
    two_lines,
)
from dashboard.figures.kit.marks import bars, row_bars
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import (
    FLOAT,
    GOOD,
    HIGHLIGHT,
    INT8,
    MARGIN,
    NEUTRAL,
    empty_figure,
    new_figure,
)
from dashboard.words.formatting import format_bytes, plural
from quant_engine.report import LayerReport, ModelReport

ROW_HEIGHT = 26
_WIDTH = 0.36

LAYERS_TITLE = two_lines("Bytes of each layer", "upper bar: float, lower bar: quantized")
STEPS_TITLE = "Bytes of the model, step by step"


@dataclass(frozen=True, slots=True)
class SizeItem:
    """One kind of bytes and how it is drawn: stacked in the order of `ITEMS`, as in the legend.

    Attributes:
        key: Short name.
        label: Name shown to people.
        color: Colour of its bars.
    """

    key: str
    label: str
    color: str


WEIGHTS = SizeItem("weight_bytes", "quantized weights", INT8)
SCALES = SizeItem("scale_bytes", "scales", NEUTRAL)
ZERO_POINTS = SizeItem("zero_point_bytes", "zero points", "#B4BDC9")
BIASES = SizeItem("bias_bytes", "biases (float)", HIGHLIGHT)
LEFTOVERS = SizeItem("float_leftover_bytes", "stays float", FLOAT)
ITEMS = (WEIGHTS, SCALES, ZERO_POINTS, BIASES, LEFTOVERS)


def step_rows(steps: Sequence[SizeStep]) -> list[dict[str, Any]]:
    """Return the steps as rows: a change, or a size where `is_total`."""
    return [{"step": s.label, "bytes": s.bytes, "is_total": s.is_total} for s in steps]


def describe_steps(steps: Sequence[SizeStep]) -> str:
    """Return the takeaway of the steps in a sentence."""
    if not steps:
        return "The model's size was not measured."
    changes = ", ".join(
        f"{step.label} {'' if step.bytes < 0 else '+'}{format_bytes(step.bytes)}"
        for step in steps
        if not step.is_total
    )
    first, last = format_bytes(steps[0].bytes), format_bytes(steps[-1].bytes)
    return f"From {first} in float to {last} quantized: {changes}."


def describe_layers(rows: Sequence[LayerBytes]) -> str:
    """Return the takeaway of the layers' bytes in a sentence."""
    named = [row for row in rows if row.name]
    if not named:
        return "The report holds no layers."
    largest = max(named, key=lambda row: row.float_bytes)
    floats = sum(1 for row in named if row.items[LEFTOVERS.key])
    text = (
        f"The largest layer, {largest.label}, goes from {format_bytes(largest.float_bytes)} to "
        f"{format_bytes(largest.quantized_bytes)}."
    )
    return f"{text} {plural(floats, 'layer')} of those shown stay float." if floats else text


def model_size_picture(report: ModelReport) -> Picture:
    """Return the steps from the float model's bytes to the quantized model's."""
    steps = size_steps(report)
    is_narrow = any(x.weight and x.weight.scheme.bits < 8 for x in report.quantized_layers)
    narrow = "Weights of fewer than 8 bits are packed without gaps, in the count and in the file; "
    narrow += "in memory each still takes a whole byte."
    return Picture(
        waterfall_figure(steps),
        describe_steps(steps),
        (
            "Left all bytes of the float model, right all bytes of the quantized one; the bars "
            "in between are what is taken away and what is added.",
            f"Storing weights as {bits_text(report)} saves the most. Scales and zero "
            "points are the price: a few numbers for each tensor, channel or group.",
            "Biases stay float, and so does every layer that is not quantized.",
            *([narrow] if is_narrow else ()),
        ),
        lambda: step_rows(steps),
        "size-steps",
    )


def layer_size_picture(
    layers: Sequence[LayerReport],
    *,
    top: int | None = None,
    is_sorted: bool = True,
    selected: str = "",
) -> Picture:
    """Return the bytes of each layer before and after; arguments as for `layer_bytes`."""
    rows = layer_bytes(layers, top=top, is_sorted=is_sorted)
    return Picture(
        layer_size_figure(rows, selected=selected),
        describe_layers(rows),
        (
            "Two bars per layer: above in float, below quantized and split by what the bytes hold.",
            "Small layers with many channels pay most for their scales. A blue bar below is a "
            "layer that stays float; hover it for the reason.",
            "Click a bar to select its layer.",
        ),
        lambda: layer_size_rows(layer_bytes(layers, is_sorted=False)),
        "size-layers",
    )


def layer_size_figure(rows: Sequence[LayerBytes], *, selected: str = "") -> go.Figure:
    """Return two bars per layer: float, and quantized stacked by item.

    `customdata` of a bar is the layer's name, empty where a bar stands for several layers.

    Args:
        rows: The layers to draw, in their order.
        selected: Name of the layer to point out.
    """
    if not rows:
        return empty_figure(LAYERS_TITLE, "The report holds no layers.")
    traces = [_stack(rows, None)]
    traces += [_stack(rows, item) for item in ITEMS if any(row.items[item.key] for row in rows)]
    longest = max(max(row.float_bytes, row.quantized_bytes) for row in rows)
    texts = [f"<b>{row.label}</b><br>{row.note}<br>{_change_text(row)}" for row in rows]
    targets = row_targets([row.name for row in rows], texts, 0, longest)
    figure = new_figure(
        LAYERS_TITLE,
        "Bytes (1 kB = 1,000 bytes)",
        traces=[*traces, targets],
        height=170 + 6 * len(traces) + ROW_HEIGHT * max(len(rows), 4),
        x_axis={**BYTES_AXIS, "rangemode": "tozero"},
        y_axis=layer_rows([row.label for row in rows], selected),
        shapes=[row_frame(i) for i, row in enumerate(rows) if row.name and row.name == selected],
        annotations=[beside(index, _change_text(row)) for index, row in enumerate(rows)],
        layout={"barmode": "stack", "margin": {**MARGIN, "r": 140}},
    )
    return figure.update_layout(legend_traceorder="normal")


def layer_size_rows(rows: Sequence[LayerBytes]) -> list[dict[str, Any]]:
    """Return the numbers of the figure, one row per layer."""
    return [
        {
            "layer": row.label,
            "what": row.note,
            "float_bytes": row.float_bytes,
            **row.items,
            "quantized_bytes": row.quantized_bytes,
        }
        for row in rows
    ]


def waterfall_figure(steps: Sequence[SizeStep]) -> go.Figure:
    """Return the steps from the float model's bytes to the quantized model's."""
    if not steps:
        return empty_figure(STEPS_TITLE, "The model's size was not measured.")
    bases, lengths, ends = [], [], []
    level = 0
    for step in steps:
        base = 0 if step.is_total else level
        level = step.bytes if step.is_total else level + step.bytes
        bases.append(min(base, level))
        lengths.append(abs(level - base))
        ends.append(level)
    colors = [_step_color(step, index) for index, step in enumerate(steps)]
    hover = [f"<b>{step.label}</b><br>{_step_text(step)}" for step in steps]
    trace = row_bars(lengths, colors, hover=hover, base=bases, width=0.62)
    return new_figure(
        STEPS_TITLE,
        "Bytes (1 kB = 1,000 bytes)",
        traces=[trace],
        height=120 + 30 * len(steps),
        x_axis={**BYTES_AXIS, "rangemode": "tozero"},
        y_axis=rows_axis([step.label for step in steps]),
        shapes=[_connector(index, end) for index, end in enumerate(ends[:-1])],
        annotations=[beside(index, _step_text(step)) for index, step in enumerate(steps)],
        layout={"margin": {"l": 64, "r": 90, "t": 56, "b": 56}},
    )


def _stack(rows: Sequence[LayerBytes], item: Any) -> dict[str, Any]:
    """One trace: the float bars (no item), or one item of the quantized bars."""
    values = [row.float_bytes if item is None else row.items[item.key] for row in rows]
    label = "float" if item is None else item.label
    offset = -0.2 if item is None else 0.2
    return bars(
        values,
        [index + offset for index in range(len(rows))],
        FLOAT if item is None else item.color,
        name=label,
        layers=[row.name for row in rows],
        hover=[
            f"<b>{row.label}</b><br>{row.note}<br>{label}: {value:,} bytes<br>{_change_text(row)}"
            for row, value in zip(rows, values, strict=True)
        ],
        is_level=True,
        width=_WIDTH,
        offset=-_WIDTH / 2,
    )


def _change_text(row: LayerBytes) -> str:
    return f"{format_bytes(row.float_bytes)} → {format_bytes(row.quantized_bytes)}"


def _step_color(step: SizeStep, index: int) -> str:
    if step.is_total:
        return FLOAT if index == 0 else INT8
    return GOOD if step.bytes < 0 else NEUTRAL


def _step_text(step: SizeStep) -> str:
    text = format_bytes(step.bytes)
    return text if step.is_total or step.bytes < 0 else f"+{text}"


def _connector(index: int, level: int) -> dict[str, Any]:
    ends = {"x0": level, "x1": level, "y0": index + 0.31, "y1": index + 0.69}
    return {"type": "line", **ends, "line": {"color": NEUTRAL, "width": 1, "dash": "dot"}}
