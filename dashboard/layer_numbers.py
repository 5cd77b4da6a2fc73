"""The numbers of one layer as rows of text, for people: a name, and a value for each column."""

from __future__ import annotations

from collections.abc import Callable

from dashboard.figures.formatting import (
    MISSING,
    format_count,
    format_db,
    format_number,
    format_percent,
    format_shape,
    format_span,
)
from dashboard.verdicts import clipping_share
from dashboard.wording import describe_scheme
from quant_engine.report import ErrorMetrics, LayerReport, TensorReport

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
        return f"{span}, anew for each batch" if " to " in span else f"{span} in every batch"
    return f"{span} ({len(values):,} channels)" if " to " in span else span
