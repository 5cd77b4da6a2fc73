"""The layers of a run as a table; while the run is on its way, the table grows by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import streamlit as st

from dashboard.data.runs import with_named_layers
from dashboard.facts.columns import columns
from dashboard.session import run_state
from dashboard.session.jobs import analysis_status, poll_seconds
from dashboard.widgets.choice import select_row
from dashboard.widgets.lesson_links import show_column_lessons
from dashboard.widgets.live import show_live
from dashboard.words.formatting import MISSING, plural
from dashboard.work.jobs import is_active
from quant_engine.report import QUANTIZED, LayerReport, ModelReport

GROW_SECONDS = 1.0
SHOWN = columns(
    "layer",
    "accumulated_sqnr_db",
    "local_sqnr_db",
    "weight_sqnr_db",
    "quantized_kb",
    "float_kb",
    "kind_and_bits",
)


def show_live_table() -> bool:
    """Draw what is known of the analysis on its way; return whether there is one."""
    if not is_active(analysis_status(run_state.wanted_settings())):
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
    # What is not quantized needs no measuring.
    finished = [x for x in layers if x.status != QUANTIZED or x.weight or x.local_error]
    st.caption(f"{len(finished)} of {plural(len(layers), 'layer')} measured so far.")
    if finished:
        st.dataframe(rows_of(finished), **_table_settings())


def show_layers(report: ModelReport, *, key: str, on_select: Callable[[str], None]) -> None:
    """Draw every layer of a report; choosing a row calls `on_select` with the layer's name."""
    st.dataframe(
        rows_of(report.layers),
        key=key,
        on_select=select_row(key, [layer.name for layer in report.layers], on_select),
        selection_mode="single-row",
        **_table_settings(),
    )
    show_column_lessons(_table_settings()["column_config"], key=key)


def rows_of(layers: Iterable[LayerReport]) -> list[dict[str, Any]]:
    """Return the layers as rows for people: results first, what is missing left empty."""
    return [{c.title: c.finite(x) if c.is_number else c.cell(x) for c in SHOWN} for x in layers]


def _table_settings() -> dict[str, Any]:
    return {
        "width": "stretch",
        "hide_index": True,
        "column_config": {
            c.title: st.column_config.NumberColumn(
                width=round(7 * len(c.title) + 14), format="%.1f", help=c.about
            )
            if c.is_number
            else st.column_config.TextColumn(
                width=175 if c.key == "layer" else None, pinned=c.key == "layer", help=c.about
            )
            for c in SHOWN
        },
        "placeholder": MISSING,
    }
