"""The layers of a run as a table; while the run is on its way, the table grows by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import streamlit as st

from dashboard.data.runs import with_named_layers
from dashboard.session import run_state
from dashboard.session.jobs import analysis_status, poll_seconds
from dashboard.widgets.live import show_live
from dashboard.words.formatting import MISSING, plural
from quant_engine.report import QUANTIZED, LayerReport, ModelReport

GROW_SECONDS = 1.0
STATUS_WORDS = {
    "quantized": "int8",
    "excluded": "float: excluded",
    "unsupported": "float: unsupported",
}


def show_live_table() -> bool:
    """Draw what is known of the analysis on its way; return whether there is one."""
    status = analysis_status(run_state.wanted_settings())
    if status is None or not status.is_active:
        return False
    st.subheader("Layers so far", anchor=False)
    seconds = max(GROW_SECONDS, poll_seconds())
    show_live(_draw, key="live_layers", run_every=seconds)
    return True


def _draw() -> None:
    status = analysis_status(run_state.wanted_settings())
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
    """Return the layers as rows for people: results first, what is missing left empty."""
    return [
        {
            "Layer": layer.name,
            "Accumulated SQNR (dB)": _decibels(layer.accumulated_error),
            "Local SQNR (dB)": _decibels(layer.local_error),
            "Weight SQNR (dB)": _decibels(layer.weight_error),
            "Quantized (kB)": layer.size.quantized_bytes / 1000,
            "Float (kB)": layer.size.float_bytes / 1000,
            "Kind and bits": f"{layer.kind}, {_now(layer)}",
        }
        for layer in layers
    ]


def _now(layer: LayerReport) -> str:
    """What the layer is now: its bits, or float and why."""
    if layer.status != QUANTIZED:
        return STATUS_WORDS.get(layer.status, layer.status)
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
    numbers = {
        name: st.column_config.NumberColumn(name, width=width, format="%.1f", help=about)
        for name, width, about in (
            (
                "Accumulated SQNR (dB)",
                165,
                "Its output when every layer before it is quantized too. Higher is better.",
            ),
            ("Local SQNR (dB)", 125, "This layer alone quantized, against its float output."),
            ("Weight SQNR (dB)", 135, "Error of the weight alone; – is exact or float."),
            ("Quantized (kB)", 115, "Bytes with scales, zero points and biases."),
            ("Float (kB)", 90, "Bytes in float; 1 kB is 1,000 bytes."),
        )
    }
    texts = {
        "Layer": st.column_config.TextColumn("Layer", width=185, pinned=True),
        "Kind and bits": st.column_config.TextColumn(
            "Kind and bits", help="Dynamic: the range is computed per batch."
        ),
    }
    return {
        "width": "stretch",
        "hide_index": True,
        "column_config": texts | numbers,
        "placeholder": MISSING,
    }
