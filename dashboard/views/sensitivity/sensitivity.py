"""Sensitivity: which layers the output depends on, measured by switching them one by one."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import Sweep, split_options, sweep_of
from dashboard.facts.outputs import judged_measure
from dashboard.facts.sensitivity.metrics import available_metrics
from dashboard.facts.sensitivity.ranking import describe_ties, find_layers, rank_layers
from dashboard.figures.sensitivity.option_grid import grid_picture
from dashboard.figures.sensitivity.ranking import ranking_picture
from dashboard.session import run_state
from dashboard.views.sensitivity.controls import choose_option, choose_sweep, choose_view
from dashboard.views.sensitivity.sections import (
    show_agreement,
    show_curve,
    show_headline,
    show_tradeoff,
)
from dashboard.views.sensitivity.table import show_sensitivity_table
from dashboard.views.sensitivity.unmeasured import (
    show_empty,
    show_partial_notice,
    show_running,
    show_stopped_notice,
)
from dashboard.widgets.chart import show_layer_figure
from dashboard.widgets.guard import contain, contained
from dashboard.widgets.judged import show_judged
from dashboard.words.degradation import moved_text
from dashboard.words.markdown import escape_markdown
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
    show_judged(report)
    metric, top, is_log, text = choose_view(report)
    ranked = rank_layers(report, metric)
    rows = find_layers(ranked, text, top)
    selected = run_state.selected_layer(run.report)
    stem = "-".join(word for word in (run.model_name, sweep.key, option) if word)

    if len(options) > 1:
        names = [row.name for row in rows]
        with contain("The table of widths"):
            st.subheader("Every layer at every width", anchor=False)
            picture = grid_picture(options, names, metric, selected=selected, shown=option)
            show_layer_figure(picture, "sensitivity_grid", stem)
    st.subheader("Which layers matter most", anchor=False)
    picture = ranking_picture(report, ranked, metric, rows=rows, is_log=is_log, selected=selected)
    show_layer_figure(picture, "sensitivity_ranking", stem)
    st.caption(describe_ties(report, metric))
    show_tradeoff(report, ranked, metric, is_log=is_log, selected=selected, stem=stem)
    show_curve(run, measured, option, is_log=is_log, selected=selected, stem=stem)
    show_agreement(run, report, metric, selected=selected)

    st.subheader("All layers, and what to do about some", anchor=False)
    show_sensitivity_table(run, ranked, metric, sweep, option)


st.title("Sensitivity", anchor=False)
lead = (
    "Which layers does the model's output depend on? Measured by really running the model on its "
    "test data, with one layer switched at a time."
)
caption = st.empty()
caption.caption(lead)
shown = run_state.require_run()
caption.caption(f"{lead} {escape_markdown(moved_text(judged_measure(shown.report)))}")
sweep: Sweep = choose_sweep(shown)
found = shown.sensitivity_for(sweep)
if not show_running(shown, sweep):
    if found is None:
        show_empty(shown, sweep)
    else:
        if found.is_partial:
            show_partial_notice(shown, sweep, found)
        else:
            show_stopped_notice(shown, sweep, found)
        _show_measured(shown, found)
