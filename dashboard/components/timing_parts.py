"""The part of the Size & time page about time: what ran, for how long, and what that means."""

from __future__ import annotations

import streamlit as st

from dashboard import tables
from dashboard.components import run_state
from dashboard.components.chart import show_figure
from dashboard.components.guard import contained
from dashboard.components.link_check import check_link_word
from dashboard.components.markdown import escape_markdown
from dashboard.components.verdict_list import show_verdicts
from dashboard.execution_rows import describe_executions, execution_rows
from dashboard.figures.formatting import format_ms, plural
from dashboard.figures.layer_gains import (
    LayerGain,
    describe_gains,
    gain_rows,
    largest_gains,
    layer_gains,
    layer_gains_figure,
)
from dashboard.figures.timing import (
    layer_timing_figure,
    model_timing_figure,
    slowest_layers,
)
from dashboard.figures.timing_text import (
    baseline_text,
    batch_sizes,
    comparison_text,
    conditions_text,
    describe_times,
    execution,
    what_was_timed,
)
from dashboard.runs import Run
from dashboard.timing_verdicts import timing_verdicts, was_integer_tried
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
    _show_executions(timing)
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
        _show_again(run, "Analyse again with times")


def _show_again(run: Run, label: str) -> None:
    st.button(
        label,
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


@contained("The times of the model")
def _show_models(run: Run, timing: TimingReport, batch_size: int) -> None:
    with st.container(border=True, key="time_verdicts", gap="small"):
        st.markdown("**What the times say**")
        show_verdicts(timing_verdicts(timing, batch_size))
        if not was_integer_tried(timing):
            _show_again(run, "Analyse again with integer times")
    entries = [entry for entry in timing.models if entry.batch_size == batch_size]
    with st.grid(5, min_column_width=160, gap="small", key="time_metrics"):
        for entry in entries:
            look = execution(entry.execution)
            st.metric(
                look.label.capitalize(),
                format_ms(entry.median_ms),
                comparison_text(timing, entry) or None,
                delta_color="off",
                delta_arrow="off",
                help=f"{look.about or look.label}. Quartiles {format_ms(entry.q1_ms)} to "
                f"{format_ms(entry.q3_ms)}.",
            )
    show_figure(
        model_timing_figure(timing, batch_size),
        key="time_models",
        alt=describe_times(timing, batch_size),
        about="\n\n".join(
            (
                f"One bar for each way to run the model, on batches of {batch_size}: the median "
                "over the runs. The whisker spans the middle half of them. "
                f"{baseline_text(timing, batch_size)}",
                what_was_timed(timing),
                conditions_text(timing),
            )
        ),
        data=lambda: tables.timing_table(timing),
        file_name=f"{run.model_name}-timing",
    )
    st.caption(f"{baseline_text(timing, batch_size)} Measured on {conditions_text(timing)}")


@contained("The list of executions")
def _show_executions(timing: TimingReport) -> None:
    """How each layer ran on integers, one click away; runs from before that was noted say none."""
    if not timing.executions:
        return
    st.markdown(escape_markdown(describe_executions(timing)))
    with st.expander("How each layer was computed on integers", icon=":material/memory:"):
        for note in timing.notes:
            st.markdown(escape_markdown(note))
        st.dataframe(
            execution_rows(timing),
            key="time_executions",
            width="stretch",
            hide_index=True,
            column_config={
                "Layer": st.column_config.TextColumn("Layer", width="medium", pinned=True)
            },
        )
        st.caption(
            "Input and output: as in the lowered model, where values stay int8 between layers. "
            "oneDNN multiplies, sums, scales and rounds in one call; the portable kernel takes "
            "several and runs anywhere."
        )


def _show_layers(run: Run, timing: TimingReport) -> None:
    st.subheader("Time inside each layer", anchor=False)
    if not timing.layers:
        st.info("Single layers were not timed in this run.", icon=":material/timer_off:")
        return
    top = _choose_top()
    if gains := layer_gains(timing):
        _show_gains(run, gains, top)
    _show_slowest(run, timing, top)


def _choose_top() -> int | None:
    check_link_word("slowest", list(TOPS))
    top = st.selectbox(
        "Layers shown",
        list(TOPS),
        index=list(TOPS).index(DEFAULT_TOP),
        key="slowest",
        bind="query-params",
        width=140,
        help="Those where the most time is gained or lost, and below the slowest ones.",
    )
    return TOPS[top]


@contained("The gains of the layers")
def _show_gains(run: Run, gains: tuple[LayerGain, ...], top: int | None) -> None:
    summary = describe_gains(gains)
    show_figure(
        layer_gains_figure(
            largest_gains(gains, top), selected=run_state.selected_layer(run.report)
        ),
        key="time_gains",
        alt=summary,
        about="\n\n".join(
            (
                "One bar a layer, the largest gain on top: how much less time it takes on "
                "integers. Right of 0 integers are faster, left of it (crossed blue) float is.",
                "Dotted grey: the middle halves of the runs overlap, so neither is clearly faster.",
                "Small layers lose where rounding the input and launching the kernel cost more "
                "than the multiplications save. Click a bar to select its layer.",
            )
        ),
        data=lambda: tables.table(gain_rows(gains)),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-timing-gains",
    )


@contained("The slowest layers")
def _show_slowest(run: Run, timing: TimingReport, top: int | None) -> None:
    names = slowest_layers(timing, top)
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
                "slower by design. Float is shown in its faster layout.",
                "Click a bar to select its layer.",
            )
        ),
        data=lambda: tables.timing_table(timing),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-timing-layers",
    )
