"""A run's results as files."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import describe_sweep, sweep_of
from dashboard.export.files import sensitivity_to_json, to_html, to_json, to_layer_csv
from dashboard.session import run_state
from dashboard.widgets.chart import file_stem
from dashboard.work import service


def show_downloads(run: Run) -> None:
    """Draw the downloads; each file is built when it is asked for."""
    stem = file_stem(f"{run.model_name}-{run.recipe.name or 'custom'}-{run.id[:6]}")
    title = service.model_info(run.model_name).title
    with st.container(horizontal=True, gap="small", key="downloads"):
        st.download_button(
            "Report (HTML)",
            data=lambda: to_html(
                run.report,
                run.sensitivities,
                predicted=run_state.predicted_effects(run),
                title=title,
                created=run.created,
            ),
            file_name=f"{stem}.html",
            mime="text/html",
            on_click="ignore",
            icon=":material/description:",
            help="Figures and tables in one file that opens without a network.",
        )
        st.download_button(
            "Analysis (JSON)",
            data=lambda: to_json(run.report),
            file_name=f"{stem}.json",
            mime="application/json",
            on_click="ignore",
            icon=":material/data_object:",
            help="The whole report; ModelReport.from_json reads it back.",
        )
        for sensitivity in run.sensitivities:
            sweep = sweep_of(sensitivity)
            st.download_button(
                f"Sensitivity, {describe_sweep(sweep)} (JSON)",
                data=partial(sensitivity_to_json, sensitivity),
                file_name=f"{stem}-{file_stem(sweep.key)}.json",
                mime="application/json",
                on_click="ignore",
                icon=":material/data_object:",
                help="SensitivityReport.from_json reads it back.",
            )
        st.download_button(
            "Layers (CSV)",
            data=lambda: to_layer_csv(run.report, run.sensitivities),
            file_name=f"{stem}.csv",
            mime="text/csv",
            on_click="ignore",
            icon=":material/table:",
            help="One row per layer with every number measured on it.",
        )
