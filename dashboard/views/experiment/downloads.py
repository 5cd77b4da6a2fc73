"""A run's results as files."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import describe_sweep, sweep_of
from dashboard.export.files import to_html, to_json, to_layer_csv
from dashboard.session import run_state
from dashboard.widgets.chart import file_stem
from dashboard.widgets.download import offer_file
from dashboard.work import service


def show_downloads(run: Run) -> None:
    """Draw the downloads; each file is built when it is asked for."""
    stem = file_stem(f"{run.model_name}-{run.recipe.name or 'custom'}-{run.id[:6]}")
    title = service.model_info(run.model_name).title
    with st.container(horizontal=True, gap="small", key="downloads"):
        offer_file(
            "Report (HTML)",
            f"{stem}.html",
            lambda: to_html(
                run.report,
                run.sensitivities,
                predicted=run_state.predicted_effects(run),
                title=title,
                created=run.created,
            ),
            "Figures and tables in one file that opens without a network.",
        )
        about = "The whole report; ModelReport.from_json reads it back."
        offer_file("Analysis (JSON)", f"{stem}.json", lambda: to_json(run.report), about)
        for sensitivity in run.sensitivities:
            sweep = sweep_of(sensitivity)
            offer_file(
                f"Sensitivity, {describe_sweep(sweep)} (JSON)",
                f"{stem}-{file_stem(sweep.key)}.json",
                partial(to_json, sensitivity),
                "SensitivityReport.from_json reads it back.",
            )
        offer_file(
            "Layers (CSV)",
            f"{stem}.csv",
            lambda: to_layer_csv(run.report, run.sensitivities),
            "One row per layer with every number measured on it.",
        )
