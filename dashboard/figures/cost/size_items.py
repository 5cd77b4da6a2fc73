"""Where the bytes of a model are: the items that figures and tables of size share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.figures.kit.theme import FLOAT, HIGHLIGHT, INT8, NEUTRAL
from dashboard.words.formatting import format_bytes, plural
from quant_engine.report import LayerReport, ModelReport


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

FOLDED = "BatchNorm folded away"
"""The step of `size_steps` that is there whether a model is quantized or not."""


def layer_items(layer: LayerReport) -> dict[str, int]:
    """Return the bytes of one layer after quantization, by item."""
    size = layer.size
    if not layer.is_quantized:
        return dict.fromkeys((item.key for item in ITEMS), 0) | {
            LEFTOVERS.key: size.quantized_bytes
        }
    return {
        WEIGHTS.key: size.weight_bytes,
        SCALES.key: size.scale_bytes,
        ZERO_POINTS.key: size.zero_point_bytes,
        BIASES.key: size.bias_bytes,
        LEFTOVERS.key: 0,
    }


@dataclass(frozen=True, slots=True)
class SizeStep:
    """One step from the float model's bytes to the quantized model's.

    Attributes:
        label: What happens in it.
        bytes: Change in bytes; for the first and the last step the size itself.
        is_total: Whether `bytes` is a size and not a change.
    """

    label: str
    bytes: int
    is_total: bool = False


def size_steps(report: ModelReport) -> tuple[SizeStep, ...]:
    """Return the steps from float to quantized; they always add up.

    What the weights, scales and zero points do not explain, such as BatchNorms that were folded
    into the convolution before them, is one step of its own.
    """
    size = report.size
    if size is None:
        return ()
    before = sum(float_weight_bytes(layer) for layer in report.quantized_layers)
    weights = size.weight_bytes - before
    other = (
        size.quantized_bytes - size.float_bytes - weights - size.scale_bytes - size.zero_point_bytes
    )
    steps = [
        SizeStep("float model", size.float_bytes, is_total=True),
        SizeStep(f"weights as {bits_text(report)}", weights),
        SizeStep("scales", size.scale_bytes),
        SizeStep("zero points", size.zero_point_bytes),
    ]
    if other:
        folded = other < 0 and any("BatchNorm" in note for note in report.notes)
        steps.append(SizeStep(FOLDED if folded else "other changes", other))
    return (*steps, SizeStep("quantized model", size.quantized_bytes, is_total=True))


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


def float_weight_bytes(layer: LayerReport) -> int:
    """Return the bytes of a layer's float weight, without its bias."""
    if not layer.parameters:
        return 0
    return round(layer.size.float_bytes * math.prod(layer.weight_shape) / layer.parameters)


def bits_text(report: ModelReport) -> str:
    """Return the widths that quantized weights have, such as "int8" or "int4 to int8"."""
    bits = sorted({layer.weight.scheme.bits for layer in report.quantized_layers if layer.weight})
    if not bits:
        return "integers"
    return f"int{bits[0]}" if len(bits) == 1 else f"int{bits[0]} to int{bits[-1]}"


def has_narrow_weights(report: ModelReport) -> bool:
    """Whether some weights have fewer than 8 bits, and so do not fill their bytes in memory."""
    return any(layer.weight and layer.weight.scheme.bits < 8 for layer in report.quantized_layers)


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """One row of the per-layer figure: a layer, or all the smaller ones together.

    Attributes:
        label: Name of the layer, or "33 smaller layers".
        name: Name of the layer; empty for several together.
        float_bytes: Bytes in float.
        items: Bytes after quantization, by item.
        note: What was done with it.
    """

    label: str
    name: str
    float_bytes: int
    items: dict[str, int]
    note: str

    @property
    def quantized_bytes(self) -> int:
        """Bytes after quantization."""
        return sum(self.items.values())


def layer_bytes(
    layers: Sequence[LayerReport], *, top: int | None = None, is_sorted: bool = True
) -> tuple[LayerBytes, ...]:
    """Return the largest `top` layers, and what is left as one row.

    Args:
        layers: In the order they run.
        top: Layers with a row of their own; all if None.
        is_sorted: Largest first; otherwise they stay in the order they run.
    """
    by_size = sorted(layers, key=lambda layer: layer.size.float_bytes, reverse=True)
    kept = by_size if top is None else by_size[:top]
    rest = [] if top is None else by_size[top:]
    if not is_sorted:
        chosen = {layer.name for layer in kept}
        kept = [layer for layer in layers if layer.name in chosen]
    rows = [
        LayerBytes(layer.name, layer.name, layer.size.float_bytes, layer_items(layer), _note(layer))
        for layer in kept
    ]
    if rest:
        parts = [layer_items(layer) for layer in rest]
        rows.append(
            LayerBytes(
                label=f"{len(rest)} smaller layer{'s' if len(rest) > 1 else ''}",
                name="",
                float_bytes=sum(layer.size.float_bytes for layer in rest),
                items={item.key: sum(part[item.key] for part in parts) for item in ITEMS},
                note="together",
            )
        )
    return tuple(rows)


def _note(layer: LayerReport) -> str:
    return layer.kind if layer.is_quantized else f"{layer.kind}, {layer.status}: {layer.reason}"
