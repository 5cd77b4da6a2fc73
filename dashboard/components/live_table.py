"""The layers of a run as a table; while the run is on its way, the table grows by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import streamlit as st

from dashboard.components import run_state
from dashboard.components.live import show_live
from dashboard.figures.formatting import MISSING, plural
from dashboard.runs import with_named_layers
from dashboard.wording import DYNAMIC_INPUT
from quant_engine.report import QUANTIZED, LayerReport, ModelReport

GROW_SECONDS = 1.0
STATUS_WORDS = {
    "quantized": "int8",
    "excluded": "float: excluded",
    "unsupported": "float: unsupported",
}


def show_live_table() -> bool:
    """Draw what is known of the analysis on its way; return whether there is one."""
    status = run_state.analysis_status(run_state.wanted_settings())
    if status is None or not status.is_active:
        return False
    st.subheader("Layers so far", anchor=False)
    show_live(_draw, key="live_layers", run_every=GROW_SECONDS)
    return True


def _draw() -> None:
    status = run_state.analysis_status(run_state.wanted_settings())
    report = status.partial if status is not None else None
    if not isinstance(report, ModelReport):
        st.caption("The first layers appear within a second or two.")
        return
    layers = with_named_layers(report).layers
    finished = [layer for layer in layers if is_finished(layer)]
    st.caption(f"{len(finished)} of {plural(len(layers), 'layer')} measured so far.")
    if finished:
        st.dataframe(rows_of(finished), **_table_settings())


def is_finished(layer: LayerReport) -> bool:
    """Whether a layer of a partial report has been measured, or needs no measuring."""
    return layer.status != QUANTIZED or layer.weight is not None or layer.local_error is not None


def show_layers(report: ModelReport, *, key: str, on_select: Callable[[str], None]) -> None:
    """Draw every layer of a report; choosing a row calls `on_select` with the layer's name."""
    names = [layer.name for layer in report.layers]

    def forward() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        if rows and rows[0] < len(names):
            on_select(names[rows[0]])

    st.dataframe(
        rows_of(report.layers),
        key=key,
        on_select=forward,
        selection_mode="single-row",
        **_table_settings(),
    )


def rows_of(layers: Any) -> list[dict[str, Any]]:
    """Return the layers as rows for people: quantities with units, what is missing left empty."""
    return [
        {
            "Layer": layer.name,
            "Kind": layer.kind,
            "Now": STATUS_WORDS.get(layer.status, layer.status)
            if layer.status != QUANTIZED
            else _precision(layer),
            "Parameters": layer.parameters,
            "Float (kB)": layer.size.float_bytes / 1000,
            "Quantized (kB)": layer.size.quantized_bytes / 1000,
            "Weight SQNR (dB)": _decibels(layer.weight_error),
            "Local SQNR (dB)": _decibels(layer.local_error),
            "Accumulated SQNR (dB)": _decibels(layer.accumulated_error),
        }
        for layer in layers
    ]


def _precision(layer: LayerReport) -> str:
    if layer.weight is None:
        return "quantized"
    text = f"int{layer.weight.scheme.bits} weights"
    if layer.input_scheme is not None and layer.has_dynamic_input:
        text += f", dynamic int{layer.input_scheme.bits} input"
    elif layer.input is not None:
        text += f", int{layer.input.scheme.bits} input"
    return text


def _decibels(error: Any) -> float | None:
    """No error at all has no finite SQNR; the cell shows a dash."""
    return error.sqnr_db if error is not None and math.isfinite(error.sqnr_db) else None


def _table_settings() -> dict[str, Any]:
    one_decimal = {
        name: st.column_config.NumberColumn(name, format="%.1f", help=about)
        for name, about in (
            (
                "Weight SQNR (dB)",
                "Error of the weight alone. Higher is better; – is exact or float.",
            ),
            ("Local SQNR (dB)", "This layer alone quantized, against its float output."),
            ("Accumulated SQNR (dB)", "Its output when every layer before it is quantized too."),
            ("Float (kB)", "Bytes in float; 1 kB is 1,000 bytes."),
            ("Quantized (kB)", "Bytes with scales, zero points and biases."),
        )
    }
    parameters = {"Parameters": st.column_config.NumberColumn("Parameters", format="localized")}
    now = {"Now": st.column_config.TextColumn("Now", help=f"Dynamic: {DYNAMIC_INPUT}.")}
    layer = {"Layer": st.column_config.TextColumn("Layer", width="medium", pinned=True)}
    columns = {**layer, **now, **one_decimal, **parameters}
    return {
        "width": "stretch",
        "hide_index": True,
        "column_config": columns,
        "placeholder": MISSING,
    }
