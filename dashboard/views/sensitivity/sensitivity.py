"""Sensitivity: which layers the output depends on, measured by switching them one by one."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import Sweep, split_options, sweep_of
from dashboard.export import tables
from dashboard.facts.metrics import LEAVE_ONE_OUT, SensitivityMetric, available_metrics
from dashboard.facts.ranking import describe_ties, rank_layers
from dashboard.figures.sensitivity.option_grid import describe_grid, grid_rows, option_grid
from dashboard.figures.sensitivity.ranking import (
    describe_ranking,
    find_layers,
    ranking_figure,
    ranking_rows,
)
from dashboard.session import run_state
from dashboard.views.sensitivity.controls import choose_option, choose_sweep, choose_view
from dashboard.views.sensitivity.sections import (
    show_agreement,
    show_curve,
    show_headline,
    show_tradeoff,
)
from dashboard.views.sensitivity.table import show_sensitivity_table
from dashboard.views.sensitivity.unmeasured import show_empty, show_partial_notice, show_running
from dashboard.widgets.chart import show_figure
from dashboard.widgets.guard import contained
from quant_engine.report import SensitivityReport


@contained("The ranking")
def _show_measured(run: Run, measured: SensitivityReport) -> None:
    if not measured.layers or not available_metrics(measured):
        st.info("Nothing was measured yet.", icon=":material/hourglass_top:")
        return
    options, sweep = split_options(measured), sweep_of(measured)
    option = choose_option(options)
    report = options[option]
    show_headline(run, report)
    metric, top, is_log, text = choose_view(report)
    ranked = rank_layers(report, metric)
    rows = find_layers(ranked, text, top)
    selected = run_state.selected_layer(run.report)
    stem = "-".join(word for word in (run.model_name, sweep.key, option) if word)

    if len(options) > 1:
        _show_grid(options, option, [row.name for row in rows], metric, selected, stem)
    st.subheader("Which layers matter most", anchor=False)
    show_figure(
        ranking_figure(report, rows, metric, is_log=is_log, selected=selected),
        key="sensitivity_ranking",
        alt=describe_ranking(report, ranked, metric),
        about=_about_ranking(report, metric),
        data=lambda: tables.table(ranking_rows(rows, metric)),
        on_select=run_state.select_layer,
        file_name=f"{stem}-ranking",
    )
    st.caption(describe_ties(report, metric))
    show_tradeoff(report, ranked, metric, is_log=is_log, selected=selected, stem=stem)
    show_curve(run, measured, option, is_log=is_log, selected=selected, stem=stem)
    show_agreement(run, report, metric, selected=selected)

    st.subheader("All layers, and what to do about some", anchor=False)
    show_sensitivity_table(run, ranked, metric, sweep, option)


@contained("The table of widths")
def _show_grid(
    options: dict[str, SensitivityReport],
    option: str,
    names: list[str],
    metric: SensitivityMetric,
    selected: str,
    stem: str,
) -> None:
    st.subheader("Every layer at every width", anchor=False)
    show_figure(
        option_grid(options, names, metric, selected=selected, shown=option),
        key="sensitivity_grid",
        alt=describe_grid(options, metric),
        about="One row per layer, in the order of the ranking below; one column a width of the "
        f"weights. Each cell is in {metric.unit} of {metric.label}. The first row is the model "
        "with **all** layers at that width.\n\n"
        + (
            "Every layer is switched but that one, and a cell holds what that gains: the more, the "
            "darker, compared within its column.\n\nDark cells are the layers worth more bits."
            if options[option].direction == LEAVE_ONE_OUT
            else "Only that layer is switched: the darker the cell, the worse.\n\nLook for rows "
            "that stay light to the right: those layers can do with few bits."
        )
        + " Click a cell to select its layer.",
        data=lambda: tables.table(grid_rows(options, names, metric)),
        on_select=run_state.select_layer,
        file_name=f"{stem}-grid",
    )


def _about_ranking(report: SensitivityReport, metric: SensitivityMetric) -> str:
    return "\n\n".join(
        (
            "One dot per layer, the most sensitive on top. "
            + (
                "Every layer is switched but this one. Drawn is what sparing it gains, from the "
                "model with all layers switched: the more, the more this layer was to blame."
                if report.direction == LEAVE_ONE_OUT
                else "Only this layer is switched: the more error, the more it matters."
            ),
            f"{metric.about} Whiskers: {metric.interval_name}.",
            f"{describe_ties(report, metric)} Click a row to select its layer.",
        )
    )


st.title("Sensitivity", anchor=False)
st.caption(
    "Which layers does the model's output depend on? Measured by really running the model on its "
    "test data, with one layer switched at a time. KL divergence says how far the answers' "
    "probabilities move from the float model's, in nats: 0 is not at all."
)
shown = run_state.require_run()
sweep: Sweep = choose_sweep(shown)
found = shown.sensitivity_for(sweep)
if not show_running(shown, sweep):
    if found is None:
        show_empty(shown, sweep)
    else:
        if found.is_partial:
            show_partial_notice(shown, sweep, found)
        _show_measured(shown, found)
