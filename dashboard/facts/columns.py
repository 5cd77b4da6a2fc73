"""What is listed of a layer, wherever layers are: name, unit, reading and help, each once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dashboard.words.formatting import MISSING, format_db, format_number, format_percent, percent
from dashboard.words.recipes import DYNAMIC_INPUT
from quant_engine.report import QUANTIZED, ErrorMetrics, LayerReport, TensorReport

STATUS_WORDS = {
    "quantized": "int8",
    "excluded": "float: excluded",
    "unsupported": "float: unsupported",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that is known of a layer.

    Attributes:
        key: What it is called in files.
        title: Its heading for people, with the unit.
        about: What it means, in a sentence.
        read: Returns a layer's value, or None where there is none.
        text: Returns a value as text, without the unit.
        is_number: Whether it is one.
    """

    key: str
    title: str
    about: str
    read: Callable[[LayerReport], Any]
    text: Callable[[Any], str] = str
    is_number: bool = True

    @property
    def name(self) -> str:
        """The heading without its unit."""
        return self.title.partition(" (")[0]

    def cell(self, layer: LayerReport) -> str:
        """Return a layer's value as text."""
        value = self.read(layer)
        return MISSING if value is None else self.text(value)

    def finite(self, layer: LayerReport) -> float | None:
        """Return a layer's number for a cell; None where there is none, or where it is exact."""
        value = self.read(layer)
        return value if value is not None and math.isfinite(value) else None


def _clipped(part: str, read: Callable[[LayerReport], TensorReport | None]) -> Column:
    def value(layer: LayerReport) -> float | None:
        tensor = read(layer)
        return None if tensor is None else percent(tensor.error.clipped_fraction)

    def text(value: float) -> str:
        return format_percent(value / 100).removesuffix(" %")

    title, about = f"{part.capitalize()}s clipped (%)", f"Share of the {part}s beyond the grid."
    return Column(f"{part}_clipped_percent", title, about, value, text)


def _status(layer: LayerReport) -> str:
    return layer.status if layer.is_quantized else f"{layer.status}: {layer.reason}"


def _sqnr(part: str, about: str, read: Callable[[LayerReport], ErrorMetrics | None]) -> Column:
    def value(layer: LayerReport) -> float | None:
        error = read(layer)
        return None if error is None or math.isnan(error.sqnr_db) else error.sqnr_db

    def text(value: float) -> str:
        return format_db(value).removesuffix(" dB")

    title, about = f"{part.capitalize()} SQNR (dB)", f"{about} Higher is better."
    return Column(f"{part}_sqnr_db", title, about, value, text)


_DYNAMIC = "Dynamic: the range is computed per batch."


def _weight_bits(layer: LayerReport) -> int | None:
    return None if layer.weight is None else layer.weight.scheme.bits


def _input_bits(layer: LayerReport) -> str | None:
    if layer.input_scheme is not None and layer.has_dynamic_input:
        return f"{layer.input_scheme.bits}, {DYNAMIC_INPUT}"
    return None if layer.input is None else str(layer.input.scheme.bits)


def _kind_and_bits(layer: LayerReport) -> str:
    """What the layer is now: its bits, or float and why."""
    if layer.status != QUANTIZED:
        return f"{layer.kind}, {STATUS_WORDS.get(layer.status, layer.status)}"
    if layer.weight is None:
        return f"{layer.kind}, quantized"
    text = f"{layer.kind}, int{layer.weight.scheme.bits} weights"
    if layer.input_scheme is not None and layer.has_dynamic_input:
        return f"{text}, dynamic int{layer.input_scheme.bits} input"
    return text if layer.input is None else f"{text}, int{layer.input.scheme.bits} input"


COLUMNS = {
    column.key: column
    for column in (
        Column("layer", "Layer", "Dotted name.", lambda x: x.name, is_number=False),
        Column("kind", "Kind", "Type of the module.", lambda x: x.kind, is_number=False),
        Column("status", "Status", "Quantized, or float and why.", _status, is_number=False),
        Column("kind_and_bits", "Kind and bits", _DYNAMIC, _kind_and_bits, is_number=False),
        Column("weight_bits", "Weight bits", "Bits of a weight's code.", _weight_bits),
        Column(
            "input_bits",
            "Input bits",
            "Bits of an input's code; dynamic: the range is computed per batch.",
            _input_bits,
            is_number=False,
        ),
        _sqnr("weight", "The weights alone, before and after rounding.", lambda x: x.weight_error),
        _sqnr(
            "input",
            "The layer's input alone, before and after rounding.",
            lambda x: None if x.input is None else x.input.error,
        ),
        _sqnr(
            "local",
            "The layer's output when it alone is quantized, against its float output.",
            lambda x: x.local_error,
        ),
        _sqnr(
            "accumulated",
            "Its output when every layer before it is quantized too.",
            lambda x: x.accumulated_error,
        ),
        _clipped("weight", lambda x: x.weight),
        _clipped("input", lambda x: x.input),
        Column(
            "quantized_kb",
            "Quantized (kB)",
            "Bytes with scales, zero points and biases; 1 kB is 1,000 bytes.",
            lambda x: x.size.quantized_bytes / 1000,
            format_number,
        ),
        Column(
            "float_kb",
            "Float (kB)",
            "Bytes in float; 1 kB is 1,000 bytes.",
            lambda x: x.size.float_bytes / 1000,
            format_number,
        ),
    )
}
"""Every column by its key."""

SQNRS = ("weight_sqnr_db", "input_sqnr_db", "local_sqnr_db", "accumulated_sqnr_db")


def columns(*keys: str) -> tuple[Column, ...]:
    """Return columns by their keys, in this order."""
    return tuple(COLUMNS[key] for key in keys)
