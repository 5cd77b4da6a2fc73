"""Experiment: choose a model and a scheme, run, and see the result."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.session import run_state
from dashboard.session.draft import current_draft, follow_draft_link, write_draft_link
from dashboard.session.jobs import analysis_status, store
from dashboard.session.pages import show_page_link
from dashboard.views.experiment.downloads import show_downloads
from dashboard.views.experiment.live_table import show_layers, show_live_table
from dashboard.views.experiment.recipe_form import show_recipe_form
from dashboard.widgets.headline import samples_covered, show_headline
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import EXECUTION_NOTE, describe_age, describe_estimate, describe_recipe
from dashboard.work import service
from dashboard.work.jobs import is_active


def _show_run_bar(settings: Settings) -> None:
    """A kept result is shown at once; a stored example, with another machine's times, is not."""
    known = run_state.find_run(settings)
    is_known = known is not None and not known.is_example and not known.report.is_partial
    is_shown = is_known and settings.run_id == run_state.wanted_settings().run_id
    is_busy = is_active(analysis_status(settings))
    with st.container(horizontal=True, vertical_alignment="center", gap="medium", key="run_bar"):
        st.button(
            "Run",
            key="run_button",
            type="primary",
            icon=":material/play_arrow:",
            shortcut="Ctrl+Enter",
            disabled=is_busy,
            on_click=run_state.start_settings,
            args=(settings,),
            kwargs={"is_forced": is_shown or (known is not None and known.is_example)},
        )
        if is_known and not is_shown and not is_busy:
            st.button(
                "Run again",
                key="run_again_button",
                icon=":material/refresh:",
                on_click=run_state.start_settings,
                args=(settings,),
                kwargs={"is_forced": True},
            )
        kept = known if is_known and not is_shown else None
        st.caption(_estimate(settings, kept, is_busy))


def _estimate(settings: Settings, known: Run | None, is_busy: bool) -> str:
    if is_busy:
        return "Running. You can leave this page; progress shows on every page."
    if known is not None:
        return f"Computed {describe_age(known.created)}: Run shows the kept result at once."
    estimate = service.estimate_seconds(settings, store().recent()[0])
    if estimate is None:
        return "Usually takes a few seconds."
    seconds, source = estimate
    return f"Takes {describe_estimate(seconds)} ({source})."


def _show_result(run: Run, settings: Settings) -> None:
    title = service.model_info(run.model_name).title
    st.subheader(f"Result: {title}, {escape_markdown(describe_recipe(run.recipe))}", anchor=False)
    if run.is_example:
        st.caption(f"A stored example, computed on {run.report.environment.cpu}.")
    if run.id != settings.run_id:
        st.caption("The settings above differ from this result. Press Run to compute them.")
    if run.report.is_partial:
        text = f"Stopped early: the figures cover {samples_covered(run)}."
        st.warning(text, icon=":material/hourglass_bottom:")
    show_headline(run, key="experiment")
    with st.container(horizontal=True, gap="medium"):
        show_page_link("layer", "Open the layer")
        show_page_link("sensitivity", "Which layers matter")
        show_page_link("compare", "Compare with another run")
        show_page_link("size_time", "Bytes and time")
    show_layers(run.report, key="result_layers", on_select=run_state.select_layer)
    show_downloads(run)
    st.caption(EXECUTION_NOTE)


st.title("Experiment", anchor=False)
st.caption("Choose a model and how to quantize it. Then press Run, or Ctrl+Enter.")
follow_draft_link()
current_draft()
settings = show_recipe_form()
write_draft_link(settings)
_show_run_bar(settings)
with st.container(key="result_place"):
    if not show_live_table():
        shown = run_state.shown_run()
        if shown is not None:
            _show_result(shown, settings)
