"""The part of the Size & time page about time: what ran, for how long, and what that means."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.facts.cost.executions import (
    INTEGER,
    baseline_text,
    batch_sizes,
    conditions_text,
    describe_executions,
    execution_rows,
    unreliable_text,
)
from dashboard.facts.cost.timing_verdicts import gap_verdict, timing_verdicts, was_compared
from dashboard.figures.cost.layer_times import layer_times_picture
from dashboard.figures.cost.timing import model_timing_picture
from dashboard.session import run_state
from dashboard.session.jobs import analysis_status, start_timing, timing_status
from dashboard.widgets.chart import show_figure, show_layer_figure
from dashboard.widgets.choice import choose
from dashboard.widgets.guard import contained
from dashboard.widgets.verdict_list import show_verdicts
from dashboard.words.formatting import plural
from dashboard.words.markdown import escape_markdown
from dashboard.work.jobs import is_active
from quant_engine.report import TimingReport


def show_timing(run: Run, top: int | None) -> None:
    """Draw the measured times of a run, or say that there are none and offer to measure them.

    Args:
        run: The run.
        top: Layers that are drawn at most; all if None.
    """
    timing = run.report.timing
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.subheader("Time", anchor=False, width="content")
        batch_size = _choose_batch(() if timing is None else batch_sizes(timing))
    if timing is None or not (timing.models or timing.layers):
        _show_empty(run)
        return
    if batch_size is not None:
        _show_models(run, timing, batch_size)
    else:
        st.info("Whole models were not timed in this run.", icon=":material/timer_off:")
    _show_executions(timing)
    _show_layers(run, timing, top)


def is_on_its_way(run: Run) -> bool:
    """Whether the run is shown while it is still being computed."""
    is_whole = not run.report.is_partial and run.report.timing is not None
    return not is_whole and is_active(analysis_status(run.settings))


def _show_empty(run: Run) -> None:
    if is_on_its_way(run) or is_active(timing_status(run.settings)):
        st.info(
            "Times are measured last and appear here; all errors and the accuracy are known "
            "before that."
            if run.report.is_partial
            else "Times are being measured and appear here; all else is known.",
            icon=":material/hourglass_top:",
        )
        return
    with st.container(border=True, key="timing_empty"):
        st.markdown("**This run has no measured times.**")
        if run.report.is_partial:
            st.markdown("It was stopped before the models were timed.")
            st.button(
                "Analyse again with times",
                key="measure_timing",
                icon=":material/timer:",
                on_click=run_state.start_settings,
                args=(run.settings,),
                kwargs={"is_forced": True},
            )
        else:
            st.markdown(
                "It was stopped before the models were timed, or they could not be. Its errors "
                "are complete."
            )
            _show_again(run, "Measure times")


def _show_again(run: Run, label: str) -> None:
    """A button that times the models and leaves the rest of the run as it is."""
    st.button(
        label,
        key="measure_timing",
        icon=":material/timer:",
        disabled=is_active(timing_status(run.settings)),
        on_click=start_timing,
        args=(run,),
    )


def _choose_batch(sizes: tuple[int, ...]) -> int | None:
    if len(sizes) <= 1:
        return sizes[0] if sizes else None
    labels = [str(size) for size in sizes]
    about = "Samples in one forward pass."
    return int(choose("Batch size", labels, "batch", default=labels[-1], help=about))


@contained("The times of the model")
def _show_models(run: Run, timing: TimingReport, batch_size: int) -> None:
    with st.container(border=True, key="time_verdicts", gap="small"):
        st.markdown("**What the times say**")
        gap = gap_verdict(timing)
        show_verdicts((*timing_verdicts(timing, batch_size), *([] if gap is None else [gap])))
        if unreliable := unreliable_text(timing):
            st.markdown(f":material/warning: {escape_markdown(unreliable)}")
            _show_again(run, "Time again")
        elif not was_compared(timing):
            _show_again(run, "Time again, and compare the answers")
    show_figure(model_timing_picture(timing, batch_size), key="time_models", stem=run.model_name)
    st.caption(f"{baseline_text(timing, batch_size)} Measured on {conditions_text(timing)}")


@contained("The list of executions")
def _show_executions(timing: TimingReport) -> None:
    """How each layer ran on integers, one click away; none did where that was not possible."""
    if not timing.executions:
        return
    ran = sum(entry.execution == INTEGER for entry in timing.executions)
    layers = plural(len(timing.executions), "quantized layer")
    with st.expander(f"{ran} of {layers} computed on integers", icon=":material/memory:"):
        st.markdown(escape_markdown(describe_executions(timing)))
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


@contained("The times of the layers")
def _show_layers(run: Run, timing: TimingReport, top: int | None) -> None:
    if not timing.layers:
        st.info("Single layers were not timed in this run.", icon=":material/timer_off:")
        return
    picture = layer_times_picture(timing, top=top, selected=run_state.selected_layer(run.report))
    show_layer_figure(picture, "time_layers", run.model_name)
