"""Repair of the whole model: its remedies run in turn, the curve of its steps, and their runs."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard.data.runs import Run
from dashboard.facts.diagnosis.repair import (
    STEPS,
    Proposal,
    Step,
    is_repaired,
    proposals,
    repaired_run,
    verdict_words,
)
from dashboard.facts.output_change import degradation_text
from dashboard.figures.layers.repair import repair_picture
from dashboard.session import run_state
from dashboard.session.comparison import compare_with
from dashboard.session.jobs import poll_seconds
from dashboard.session.repair import known_steps, repair_start, repair_status, start_repair
from dashboard.widgets.chart import show_figure
from dashboard.widgets.guard import contained
from dashboard.widgets.live import show_live
from dashboard.words.formatting import plural
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import describe_estimate
from dashboard.work import service
from dashboard.work.jobs import is_active


@contained("The repair")
def show_repair(run: Run) -> None:
    """Draw the button that repairs the model, and the curve of its steps, while they come too."""
    if run.report.is_partial:
        return
    start = repair_start(run)
    is_busy = is_active(repair_status(start.settings))
    planned = proposals(start.report, service.remedy_targets(run.model_name))
    if is_busy:
        show_live(lambda: _draw_curve(start), key="live_repair", run_every=poll_seconds())
        return
    steps = known_steps(start)
    if not steps and (is_repaired(run) or not planned):
        return
    with st.container(border=True, key="repair", gap="small"):
        if not is_repaired(repaired_run(start, steps)):
            names = ", ".join(_describe_planned(proposal, start) for proposal in planned)
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.button(
                    "Repair this model",
                    key="repair_model",
                    icon=":material/healing:",
                    type="primary",
                    on_click=start_repair,
                    args=(start,),
                )
                st.markdown(
                    f":small[Findings point to: {names}. Each is run in turn for all layers, and "
                    "kept if it is better by more than its interval; Cancel stops at any step.]",
                    width="stretch",
                )
        if steps:
            _draw_curve(start)
            for number, step in enumerate(steps, start=1):
                _show_step(number, step, start)


def _describe_planned(proposal: Proposal, start: Run) -> str:
    """Return a step's name, and for the one that takes long an estimate by the layers' sizes."""
    name = STEPS[proposal.remedy]
    seconds = service.adaround_seconds(replace(start.settings, recipe=proposal.recipe))
    return f"{name} ({describe_estimate(seconds)})" if seconds >= 1 else name


def _draw_curve(start: Run) -> None:
    picture = repair_picture(start, known_steps(start))
    show_figure(picture, key="repair_curve", stem=start.model_name)


def _show_step(number: int, step: Step, start: Run) -> None:
    """One step in words, with a button that opens its run and one that compares it."""
    if step.run is None:
        return
    degradation = degradation_text(step.run.report)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"{number}. **{step.label}**, for {plural(step.layers, 'layer')}: "
            f"{verdict_words(step)}; {escape_markdown(degradation)}",
            width="stretch",
        )
        st.button(
            "Open",
            key=f"repair_open_{number}",
            type="tertiary",
            icon=":material/visibility:",
            on_click=run_state.start_settings,
            args=(step.settings,),
        )
        st.button(
            "Compare",
            key=f"repair_compare_{number}",
            type="tertiary",
            icon=":material/compare_arrows:",
            on_click=compare_with,
            args=(start.settings, step.settings),
        )
