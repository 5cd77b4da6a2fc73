"""The Sensitivity page while there is nothing measured yet: offering it, and watching it grow."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard.components import run_state
from dashboard.components.chart import show_figure
from dashboard.components.headline import show_headline
from dashboard.components.live import show_live
from dashboard.figures.formatting import plural
from dashboard.figures.ranking import rank_layers
from dashboard.figures.sensitivity import ranking_figure
from dashboard.figures.sensitivity_metrics import (
    LEAVE_ONE_OUT,
    ONE_AT_A_TIME,
    available_metrics,
)
from dashboard.runs import Run
from quant_engine.report import SensitivityReport

DIRECTION_LABELS = {ONE_AT_A_TIME: "One at a time", LEAVE_ONE_OUT: "Leave one out"}
LIVE_SECONDS = 1.0


def show_empty(run: Run, direction: str) -> None:
    """Say that nothing was measured in this direction, and offer to do it."""
    show_headline(run, key="sensitivity")
    count = len(run.report.quantized_layers)
    with st.container(border=True, key="sensitivity_empty"):
        if not count:
            st.markdown("**This run quantizes no layer, so there is nothing to measure.**")
            st.page_link("views/experiment.py", label="Set up a run", icon=":material/science:")
            return
        st.markdown(f"**Not measured yet for this run: {DIRECTION_LABELS[direction].lower()}.**")
        what = (
            "with all layers quantized but that one"
            if direction == LEAVE_ONE_OUT
            else "with only that layer quantized"
        )
        st.markdown(
            f"The model runs on its test data once for each of its {plural(count, 'layer')}, "
            f"{what}, and its output is compared with the float model's. "
            "You can leave this page meanwhile, and stop at any time: what was measured until "
            "then is kept."
        )
        st.button(
            "Measure sensitivity",
            key="measure_sensitivity",
            type="primary",
            icon=":material/play_arrow:",
            on_click=run_state.start_sensitivity,
            args=(run, direction),
        )


def show_running(run: Run, direction: str) -> bool:
    """Draw what is known of a measurement on its way; return whether there is one."""
    key = run_state.sensitivity_key(run.settings, direction)
    status = run_state.jobs().status(key)
    if status is None or not status.is_active:
        return False

    def draw() -> None:
        now = run_state.jobs().status(key)
        partial = now.partial if now is not None else None
        metrics = available_metrics(partial) if isinstance(partial, SensitivityReport) else ()
        if not metrics or not isinstance(partial, SensitivityReport):
            st.info("The first values appear here in a moment.", icon=":material/hourglass_top:")
            return
        report = replace(partial, is_partial=True)
        st.caption(f"Not finished: values from {plural(report.samples, 'sample')} so far.")
        metric = metrics[0]
        show_figure(
            ranking_figure(report, rank_layers(report, metric)[:20], metric, is_log=True),
            key="sensitivity_partial",
            alt=f"Ranking so far, from {report.samples} samples.",
            about="The ranking as far as it is measured. It changes until the measurement ends.",
        )

    show_live(draw, key="live_ranking", run_every=LIVE_SECONDS)
    return True
