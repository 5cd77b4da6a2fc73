"""The What-if page while there is no prediction: offering to measure one, and waiting for it."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.session.pages import show_page_link
from dashboard.session.predictions import prediction_status, start_prediction
from dashboard.widgets.headline import show_headline
from dashboard.work.jobs import is_active


def show_no_prediction(run: Run) -> None:
    """Say that nothing can be predicted yet, and offer to measure what it takes."""
    show_headline(run, key="what_if_empty")
    with st.container(border=True, key="what_if_empty"):
        if not run.report.quantized_layers and not run.recipe.exclude_layers:
            st.markdown("**This run quantizes no layer, so there is nothing to choose.**")
            show_page_link("experiment", "Set up a run")
            return
        if is_active(prediction_status(run.settings)):
            st.markdown("**The table and the frontier appear here when the measurement is done.**")
            st.markdown(
                "You can leave this page meanwhile. If you cancel, what was measured is thrown "
                "away: a prediction needs every layer."
            )
            return
        st.markdown("**Nothing can be predicted for this run yet.**")
        st.markdown(
            "It takes one measurement: a backward pass for each output of the model, and runs of "
            "random configurations that show how far the predictions can be trusted. After that, "
            "any choice of bits for its layers is predicted in milliseconds, "
            "without running the model. It takes from a few seconds to a minute and is kept for "
            "the next visit; if you cancel, what was measured is thrown away."
        )
        st.button(
            "Learn to predict this model",
            key="measure_prediction",
            type="primary",
            icon=":material/play_arrow:",
            on_click=start_prediction,
            args=(run,),
        )
