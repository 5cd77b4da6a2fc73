"""One row per layer for files: everything that was measured on it, under names with units.

What pages list of a layer, with a heading and help, is in `facts/columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

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

Readings: TypeAlias = Mapping[str, Callable[[Any], Any]]
"""Name of a column -> what it reads."""

_ERROR: Readings = {
    "values": lambda e: e.count,
    "sqnr_db": lambda e: e.sqnr_db,
    "nmse": lambda e: e.nmse,
    "cosine": lambda e: e.cosine,
    "mse": lambda e: e.mse,
    "max_abs_error": lambda e: e.max_abs_error,
    "rmse_lsb": lambda e: e.rmse_over_scale,
    "rounding_mse": lambda e: e.rounding_mse,
    "clipping_mse": lambda e: e.clipping_mse,
    "clipped_percent": lambda e: percent(e.clipped_fraction),
}
_TENSOR: Readings = {
    "bits": lambda t: t.scheme.bits,
    "scheme": lambda t: describe_scheme(t.scheme),
    "lo": lambda t: t.lo,
    "hi": lambda t: t.hi,
    "scale_min": lambda t: min(t.scale),
    "scale_max": lambda t: max(t.scale),
    "zero_point_min": lambda t: min(t.zero_point),
    "zero_point_max": lambda t: max(t.zero_point),
    "codes_used": lambda t: t.codes.codes_used,
    "codes": lambda t: len(t.codes.counts),
}


def layer_row(layer: LayerReport, timing: TimingReport | None = None) -> dict[str, Any]:
    """Return everything that is known of one layer."""
    inputs, scheme = _read(_TENSOR, layer.input), layer.input_scheme
    if layer.input is None and scheme is not None and layer.has_dynamic_input:
        inputs |= {"bits": scheme.bits, "scheme": describe_scheme(scheme)}  # it was not measured
    entry = None if layer.input is None else layer.input.error
    size = layer.size
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
        "float_bytes": size.float_bytes,
        "quantized_bytes": size.quantized_bytes,
        "weight_bytes": size.weight_bytes,
        "scale_bytes": size.scale_bytes,
        "zero_point_bytes": size.zero_point_bytes,
        "bias_bytes": size.bias_bytes,
        **prefixed("weight", {**_read(_TENSOR, layer.weight), **_read(_ERROR, layer.weight_error)}),
        **prefixed("input", {**inputs, **_read(_ERROR, entry)}),
        **prefixed("local", _read(_ERROR, layer.local_error)),
        **prefixed("accumulated", _read(_ERROR, layer.accumulated_error)),
        **{
            f"{entry.execution}_median_ms_at_batch_{entry.batch_size}": entry.median_ms
            for entry in (() if timing is None else timing.layers)
            if entry.layer == layer.name
        },
        **execution_columns(layer.name, timing),
    }


def _read(readings: Readings, source: object, missing: str | None = None) -> dict[str, Any]:
    """Return each column's value; `missing` in all of them without a source."""
    return {name: missing if source is None else read(source) for name, read in readings.items()}


def prefixed(prefix: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in row.items()}


Rows = list[dict[str, str]]

_ERROR_ROWS: Readings = {
    "SQNR (higher is better)": lambda e: format_db(e.sqnr_db),
    "NMSE (error / signal energy)": lambda e: format_number(e.nmse),
    "Cosine (1 is equal)": lambda e: format_number(e.cosine, 6),
    "Largest error": lambda e: format_number(e.max_abs_error),
    "Mean squared error": lambda e: format_number(e.mse),
    "RMS error (LSB, ideal 0.289)": lambda e: format_number(e.rmse_over_scale),
    "Error energy from rounding": lambda e: format_percent(_rounding_share(e)),
    "Error energy from clipping": lambda e: format_percent(clipping_share(e)),
    "Values clipped": lambda e: format_percent(e.clipped_fraction),
    "Values compared": lambda e: format_count(e.count),
}
_GRID_ROWS: Readings = {
    "Scheme": lambda t: describe_scheme(t.scheme),
    "Shape": lambda t: format_shape(t.shape),
    "Smallest value": lambda t: format_number(t.lo),
    "Largest value": lambda t: format_number(t.hi),
    "Scale (one step)": lambda t: _grid_number(t, t.scale),
    "Zero point (code of 0.0)": lambda t: _grid_number(t, t.zero_point),
    "Codes used": lambda t: f"{t.codes.codes_used} of {len(t.codes.counts)}",
}


def error_rows(layer: LayerReport) -> Rows:
    """Return weight, input, local and accumulated error side by side."""
    columns = {
        "Weights": layer.weight_error,
        "Inputs": None if layer.input is None else layer.input.error,
        "Local": layer.local_error,
        "Accumulated": layer.accumulated_error,
    }
    return _side_by_side(_ERROR_ROWS, columns, MISSING)


def grid_rows(layer: LayerReport) -> Rows:
    """Return how weights and inputs were quantized, side by side."""
    columns = {"Weights": layer.weight, "Inputs": layer.input}
    rows = _side_by_side(_GRID_ROWS, columns, "stays float")
    if layer.input is None and layer.input_scheme is not None and layer.has_dynamic_input:
        for row in rows:
            row["Inputs"] = "not measured"
        rows[0]["Inputs"] = describe_scheme(layer.input_scheme)
        rows[1]["Inputs"] = format_shape(layer.input_shape)
    return rows


def _side_by_side(readings: Readings, columns: Mapping[str, Any], missing: str) -> Rows:
    """Return a row per reading, with what it says of the source of each column."""
    read = {column: _read(readings, source, missing) for column, source in columns.items()}
    return [{"Number": name, **{c: read[c][name] for c in columns}} for name in readings]


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
