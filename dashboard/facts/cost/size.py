"""Where a model's bytes are, before and after: by layer, and step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.words.formatting import format_bytes, format_percent, plural
from quant_engine.report import LayerReport, ModelReport, SizeReport

STORED = ("weight_bytes", "scale_bytes", "zero_point_bytes", "bias_bytes")
"""Kinds of bytes of a quantized layer, as its sizes name them."""
LEFTOVERS = "float_leftover_bytes"
"""The bytes of a layer that stays float."""
FOLDED = "BatchNorm folded away"
"""The step of `size_steps` that is there whether a model is quantized or not."""


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


def layer_items(layer: LayerReport) -> dict[str, int]:
    """Return the bytes of one layer after quantization, by item."""
    if not layer.is_quantized:
        return {**dict.fromkeys(STORED, 0), LEFTOVERS: layer.size.quantized_bytes}
    return {**{key: getattr(layer.size, key) for key in STORED}, LEFTOVERS: 0}


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
    rows = []
    for layer in kept:
        why = "" if layer.is_quantized else f", {layer.status}: {layer.reason}"
        size, items = layer.size.float_bytes, layer_items(layer)
        rows.append(LayerBytes(layer.name, layer.name, size, items, layer.kind + why))
    if rest:
        parts = [layer_items(layer) for layer in rest]
        rows.append(
            LayerBytes(
                label=plural(len(rest), "smaller layer"),
                name="",
                float_bytes=sum(layer.size.float_bytes for layer in rest),
                items={key: sum(part[key] for part in parts) for key in (*STORED, LEFTOVERS)},
                note="together",
            )
        )
    return tuple(rows)


def reduction_text(size: SizeReport) -> str:
    """Return how much smaller the model became, as a factor and a share.

    Example:
        >>> reduction_text(SizeReport(400, 100, 0, 0, 0, 0, 500, 200, 8.0, 8.0))
        '4 × smaller (−75 %)'
    """
    before, after = size.float_bytes, size.quantized_bytes
    if not before or not after:
        return format_bytes(after)
    if before == after:
        return "same size"
    share = format_percent(abs(1 - after / before))
    return f"+{share}" if after > before else f"{before / after:.3g} × smaller (−{share})"
