"""One row per layer for files: everything that was measured on it, under names with units.

What pages list of a layer, with a heading and help, is in `facts/columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dashboard.facts.cost.executions import execution_columns
from dashboard.facts.diagnosis.verdicts import clipping_share
from dashboard.words.formatting import (
    MISSING,
    format_count,
    format_db,
    format_number,
    format_percent,
    format_shape,
    format_span,
    percent,
)
from dashboard.words.recipes import describe_scheme
from quant_engine.report import ErrorMetrics, LayerReport, TensorReport, TimingReport

ERROR_COLUMNS = (
    "values",
    "sqnr_db",
    "nmse",
    "cosine",
    "mse",
    "max_abs_error",
    "rmse_lsb",
    "rounding_mse",
    "clipping_mse",
    "clipped_percent",
)

TENSOR_COLUMNS = (
    "bits",
    "scheme",
    "lo",
    "hi",
    "scale_min",
    "scale_max",
    "zero_point_min",
    "zero_point_max",
    "codes_used",
    "codes",
)


def layer_row(layer: LayerReport, timing: TimingReport | None = None) -> dict[str, Any]:
    """Return everything that is known of one layer."""
    return {
        **identity_row(layer),
        **prefixed("weight", {**tensor_row(layer.weight), **error_row(layer.weight_error)}),
        **prefixed("input", {**input_row(layer), **error_row(input_error(layer))}),
        **prefixed("local", error_row(layer.local_error)),
        **prefixed("accumulated", error_row(layer.accumulated_error)),
        **time_row(layer.name, timing),
        **execution_columns(layer.name, timing),
    }


def error_row(error: ErrorMetrics | None) -> dict[str, Any]:
    """Return error metrics under their column names."""
    if error is None:
        return dict.fromkeys(ERROR_COLUMNS)
    return {
        "values": error.count,
        "sqnr_db": error.sqnr_db,
        "nmse": error.nmse,
        "cosine": error.cosine,
        "mse": error.mse,
        "max_abs_error": error.max_abs_error,
        "rmse_lsb": error.rmse_over_scale,
        "rounding_mse": error.rounding_mse,
        "clipping_mse": error.clipping_mse,
        "clipped_percent": percent(error.clipped_fraction),
    }


def input_error(layer: LayerReport) -> ErrorMetrics | None:
    return None if layer.input is None else layer.input.error


def prefixed(prefix: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in row.items()}


def identity_row(layer: LayerReport) -> dict[str, Any]:
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "status": layer.status,
        "reason": layer.reason,
        "parameters": layer.parameters,
        "weight_shape": "x".join(map(str, layer.weight_shape)),
        "input_shape": "x".join(map(str, layer.input_shape)),
        "output_shape": "x".join(map(str, layer.output_shape)),
        "calls": layer.calls,
        "float_bytes": layer.size.float_bytes,
        "quantized_bytes": layer.size.quantized_bytes,
        "weight_bytes": layer.size.weight_bytes,
        "scale_bytes": layer.size.scale_bytes,
        "zero_point_bytes": layer.size.zero_point_bytes,
        "bias_bytes": layer.size.bias_bytes,
    }


def tensor_row(tensor: TensorReport | None) -> dict[str, Any]:
    """Return scheme, range, grid and code usage of a weight or input."""
    if tensor is None:
        return dict.fromkeys(TENSOR_COLUMNS)
    values = {
        "bits": tensor.scheme.bits,
        "scheme": describe_scheme(tensor.scheme),
        "lo": tensor.lo,
        "hi": tensor.hi,
        "scale_min": min(tensor.scale),
        "scale_max": max(tensor.scale),
        "zero_point_min": min(tensor.zero_point),
        "zero_point_max": max(tensor.zero_point),
        "codes_used": tensor.codes.codes_used,
        "codes": len(tensor.codes.counts),
    }
    return {name: values[name] for name in TENSOR_COLUMNS}


def input_row(layer: LayerReport) -> dict[str, Any]:
    """Return the same of a layer's input; a dynamic one that was not measured has its scheme."""
    row = tensor_row(layer.input)
    if layer.input is None and layer.input_scheme is not None and layer.has_dynamic_input:
        row |= {"bits": layer.input_scheme.bits, "scheme": describe_scheme(layer.input_scheme)}
    return row


def time_row(name: str, timing: TimingReport | None) -> dict[str, Any]:
    entries = () if timing is None else timing.layers
    return {
        f"{entry.execution}_median_ms_at_batch_{entry.batch_size}": entry.median_ms
        for entry in entries
        if entry.layer == name
    }


Rows = list[dict[str, str]]


_ERROR_ROWS: tuple[tuple[str, Callable[[ErrorMetrics], str]], ...] = (
    ("SQNR (higher is better)", lambda e: format_db(e.sqnr_db)),
    ("NMSE (error / signal energy)", lambda e: format_number(e.nmse)),
    ("Cosine (1 is equal)", lambda e: format_number(e.cosine, 6)),
    ("Largest error", lambda e: format_number(e.max_abs_error)),
    ("Mean squared error", lambda e: format_number(e.mse)),
    ("RMS error (LSB, ideal 0.289)", lambda e: format_number(e.rmse_over_scale)),
    ("Error energy from rounding", lambda e: format_percent(_rounding_share(e))),
    ("Error energy from clipping", lambda e: format_percent(clipping_share(e))),
    ("Values clipped", lambda e: format_percent(e.clipped_fraction)),
    ("Values compared", lambda e: format_count(e.count)),
)


_GRID_ROWS: tuple[tuple[str, Callable[[TensorReport], str]], ...] = (
    ("Scheme", lambda t: describe_scheme(t.scheme)),
    ("Shape", lambda t: format_shape(t.shape)),
    ("Smallest value", lambda t: format_number(t.lo)),
    ("Largest value", lambda t: format_number(t.hi)),
    ("Scale (one step)", lambda t: _grid_number(t, t.scale)),
    ("Zero point (code of 0.0)", lambda t: _grid_number(t, t.zero_point)),
    ("Codes used", lambda t: f"{t.codes.codes_used} of {len(t.codes.counts)}"),
)


def error_rows(layer: LayerReport) -> Rows:
    """Return weight, input, local and accumulated error side by side."""
    columns = {
        "Weights": layer.weight_error,
        "Inputs": None if layer.input is None else layer.input.error,
        "Local": layer.local_error,
        "Accumulated": layer.accumulated_error,
    }
    return [
        {
            "Number": name,
            **{
                column: MISSING if error is None else text(error)
                for column, error in columns.items()
            },
        }
        for name, text in _ERROR_ROWS
    ]


def grid_rows(layer: LayerReport) -> Rows:
    """Return how weights and inputs were quantized, side by side."""
    columns = {"Weights": layer.weight, "Inputs": layer.input}
    rows = [
        {
            "Number": name,
            **{
                column: "stays float" if tensor is None else text(tensor)
                for column, tensor in columns.items()
            },
        }
        for name, text in _GRID_ROWS
    ]
    if layer.input is None and layer.input_scheme is not None and layer.has_dynamic_input:
        for row in rows:
            row["Inputs"] = "not measured"
        rows[0]["Inputs"] = describe_scheme(layer.input_scheme)
        rows[1]["Inputs"] = format_shape(layer.input_shape)
    return rows


def _rounding_share(error: ErrorMetrics) -> float | None:
    share = clipping_share(error)
    return None if share is None else 1.0 - share


def _grid_number(tensor: TensorReport, values: tuple[float, ...]) -> str:
    """One number, or what it ranges over from channel to channel or from batch to batch."""
    span = format_span(values)
    if tensor.is_dynamic:
        return f"{span}, per batch" if " to " in span else f"{span} in every batch"
    owners = f"{tensor.group_count:,} groups" if tensor.group_count else f"{len(values):,} channels"
    return f"{span} ({owners})" if " to " in span else span
