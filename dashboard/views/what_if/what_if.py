"""What if: choose bits for every layer, and see at once what the model is predicted to do."""

from __future__ import annotations

import streamlit as st

from dashboard.data.prediction import Configuration, Prediction
from dashboard.data.runs import Run
from dashboard.facts.configurations import compare_rows, with_run
from dashboard.facts.outputs import judged_measure, measure_of
from dashboard.figures.what_if.frontier import frontier_picture
from dashboard.session import run_state
from dashboard.session.predictions import find_prediction, last_search, take_found
from dashboard.views.what_if.configuration import (
    current_configuration,
    hold_link,
    try_configuration,
    try_text,
)
from dashboard.views.what_if.controls import show_actions, show_budget, show_prediction
from dashboard.views.what_if.table import show_layer_table
from dashboard.views.what_if.trust import (
    show_comparison,
    show_measured,
    show_search,
    show_trust,
    show_verdict,
)
from dashboard.views.what_if.unmeasured import show_no_prediction
from dashboard.widgets.chart import show_figure
from dashboard.widgets.guard import contained
from dashboard.widgets.judged import show_judged
from dashboard.words.degradation import moved_text
from dashboard.words.formatting import format_percent
from dashboard.words.markdown import escape_markdown


@contained("The frontier")
def _show_frontier(run: Run, prediction: Prediction, configuration: Configuration) -> None:
    own, _ = prediction.configuration_of(run.recipe)
    show_budget(run, prediction, own)
    if (search := last_search(run.settings)) is not None:
        show_search(search, prediction)
    show_figure(
        frontier_picture(prediction, configuration, own),
        key="what_if_frontier",
        stem=run.model_name,
        on_select=lambda text: try_text(run, prediction, text),
    )


def _show_what_if(run: Run, prediction: Prediction, text: str) -> None:
    prediction = with_run(run, prediction)
    if (found := take_found(run.settings)) is not None:
        try_configuration(run, prediction, found)
    configuration = current_configuration(run, prediction, text)
    rows = compare_rows(run, prediction, configuration)
    show_prediction(prediction, rows)
    show_judged(prediction.response.report)
    show_verdict(prediction, rows[-1])
    show_actions(run, prediction, rows[-1], rows)
    with st.grid(2, min_column_width=460, gap="medium", key="what_if_body"):
        with st.container():
            show_layer_table(run, prediction, configuration)
        with st.container():
            _show_frontier(run, prediction, configuration)
    st.subheader("Predicted and measured", anchor=False)
    show_comparison(prediction, rows)
    show_measured(run, prediction)
    show_trust(run, prediction)
    with st.popover("Notes", type="tertiary", icon=":material/info:"):
        st.markdown(_notes(prediction))


def _notes(prediction: Prediction) -> str:
    report = prediction.response.report
    ways = ", ".join(map(prediction.way_words, prediction.ways))
    lines = [
        f"Predicted for {report.samples} test samples, which “Verify” runs as well.",
        f"Chosen for each layer: the bits of its weights, and what treats them ({ways}). Bits of "
        "inputs, and remedies that change several layers at once, are those of the recipe.",
    ]
    if report.projection_error:
        share = format_percent(report.projection_error)
        lines.append(f"Only the largest outputs are predicted one by one; this adds about {share}.")
    lines += [f"{name} stays float: {reason}" for name, reason in report.skipped]
    return "\n\n".join(escape_markdown(line) for line in (*lines, *report.notes))


st.title("What if", anchor=False)
lead = (
    "Choose bits for every layer, and what treats its weights. What that does to the model is "
    "predicted at once from one measurement, without running it; “Verify” runs it."
)
caption = st.empty()
caption.caption(lead)
shown = run_state.require_run()
linked = hold_link(shown)
known = find_prediction(shown.settings)
measure = judged_measure(shown.report) if known is None else measure_of(known)
caption.caption(f"{lead} {escape_markdown(moved_text(measure))}")
if known is None:
    show_no_prediction(shown)
else:
    _show_what_if(shown, known, linked)
