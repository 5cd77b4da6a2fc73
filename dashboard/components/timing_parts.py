"""The part of the Size & time page about time: what ran, for how long, and what that means."""

from __future__ import annotations

import streamlit as st

from dashboard import tables
from dashboard.components import run_state
from dashboard.components.chart import show_figure
from dashboard.components.link_check import check_link_word
from dashboard.figures.formatting import format_ms, plural
from dashboard.figures.timing import (
    layer_timing_figure,
    model_timing_figure,
    slowest_layers,
)
from dashboard.figures.timing_text import (
    FLOAT_EXECUTION,
    batch_sizes,
    conditions_text,
    describe_times,
    execution,
    ratio_to_float,
    verdict_text,
    what_was_timed,
)
from dashboard.runs import Run
from quant_engine.report import TimingReport

TOPS = {"10": 10, "20": 20, "50": 50, "all": None}
DEFAULT_TOP = "20"


def show_timing(run: Run) -> None:
    """Draw the measured times of a run, or say that there are none and offer to measure them."""
    st.subheader("Time", anchor=False)
    timing = run.report.timing
    if timing is None or not (timing.models or timing.layers):
        _show_empty(run)
        return
    sizes = batch_sizes(timing)
    if sizes:
        _show_models(run, timing, _choose_batch(sizes))
    else:
        st.info("Whole models were not timed in this run.", icon=":material/timer_off:")
    _show_layers(run, timing)


def is_on_its_way(run: Run) -> bool:
    """Whether the run is shown while it is still being computed."""
    status = run_state.analysis_status(run.settings)
    return run.report.is_partial and status is not None and status.is_active


def _show_empty(run: Run) -> None:
    if is_on_its_way(run):
        st.info(
            "Times are measured last; they appear when the analysis has finished.",
            icon=":material/hourglass_top:",
        )
        return
    with st.container(border=True, key="timing_empty"):
        st.markdown("**This run has no measured times.**")
        st.markdown(
            "It was stopped before the models were timed."
            if run.report.is_partial
            else "They were not asked for when it was computed."
        )
        st.button(
            "Analyse again with times",
            key="measure_timing",
            icon=":material/timer:",
            on_click=run_state.start_settings,
            args=(run.settings,),
            kwargs={"is_forced": True},
        )


def _choose_batch(sizes: tuple[int, ...]) -> int:
    if len(sizes) == 1:
        return sizes[0]
    labels = [str(size) for size in sizes]
    check_link_word("batch", labels)
    chosen = st.segmented_control(
        "Batch size",
        labels,
        default=labels[-1],
        required=True,
        key="batch",
        bind="query-params",
        help="Samples in one forward pass.",
    )
    return int(chosen or labels[-1])


def _show_models(run: Run, timing: TimingReport, batch_size: int) -> None:
    verdict = verdict_text(timing, batch_size)
    if verdict:
        st.info(verdict, icon=":material/info:")
    entries = [entry for entry in timing.models if entry.batch_size == batch_size]
    with st.container(horizontal=True, gap="medium", key="time_metrics"):
        for entry in entries:
            ratio = ratio_to_float(timing, entry)
            spread = f"quartiles {format_ms(entry.q1_ms)} – {format_ms(entry.q3_ms)}"
            if ratio is not None and entry.execution != FLOAT_EXECUTION:
                spread += f" · {ratio:.2g} × float"
            st.metric(
                execution(entry.execution).label.capitalize(),
                format_ms(entry.median_ms),
                spread,
                delta_color="off",
                delta_arrow="off",
                help=execution(entry.execution).about or None,
                width=260,
            )
    show_figure(
        model_timing_figure(timing, batch_size),
        key="time_models",
        alt=describe_times(timing, batch_size),
        about="\n\n".join(
            (
                f"One bar for each way to run the model, on batches of {batch_size}: the median "
                "over the runs. The whisker spans the middle half of them.",
                what_was_timed(timing),
                conditions_text(timing),
            )
        ),
        data=lambda: tables.timing_table(timing),
        file_name=f"{run.model_name}-timing",
    )
    st.caption(f"Measured on {conditions_text(timing)} {what_was_timed(timing)}")


def _show_layers(run: Run, timing: TimingReport) -> None:
    st.subheader("Time inside each layer", anchor=False)
    if not timing.layers:
        st.info("Single layers were not timed in this run.", icon=":material/timer_off:")
        return
    check_link_word("slowest", list(TOPS))
    top = st.selectbox(
        "Layers shown",
        list(TOPS),
        index=list(TOPS).index(DEFAULT_TOP),
        key="slowest",
        bind="query-params",
        width=120,
        help="The slowest ones.",
    )
    names = slowest_layers(timing, TOPS[top])
    show_figure(
        layer_timing_figure(timing, names, selected=run_state.selected_layer(run.report)),
        key="time_layers",
        alt=f"Slowest of {plural(len(slowest_layers(timing)), 'timed layer')}: "
        f"{', '.join(names[:3])}.",
        about="\n\n".join(
            (
                "The time spent inside each layer during a whole run, the slowest layer on top. "
                "Watching costs a little, so the sum is not the model's time.",
                "Simulated int8 adds the rounding of inputs to the same float computation: it is "
                "slower by design.",
                "Click a bar to select its layer.",
            )
        ),
        data=lambda: tables.timing_table(timing),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-timing-layers",
    )
