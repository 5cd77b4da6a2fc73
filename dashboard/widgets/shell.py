"""What every page has around it: the run shown, the layer picker, the link, messages, progress."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.data.runs import Run
from dashboard.data.settings import settings_to_text
from dashboard.session import comparison, repair, run_state
from dashboard.session.draft import current_draft
from dashboard.session.jobs import analysis_status, describe_settings
from dashboard.session.link_widgets import leave_if_asked
from dashboard.session.notices import show_notices
from dashboard.session.state import LAYER_KEY, PRESENT_KEY
from dashboard.session.unsaved import note_unsaved
from dashboard.widgets.copy_link import show_copy_link
from dashboard.widgets.headline import samples_covered
from dashboard.widgets.job_panel import show_job_panel
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import describe_age, describe_recipe
from dashboard.work import service
from dashboard.work.jobs import is_active

ASSETS = Path(__file__).resolve().parents[1] / "assets"


def show_bare_shell() -> None:
    """Draw what a page needs that stands alone: messages, and no sidebar, run or progress."""
    _begin()
    show_notices()


def _begin() -> None:
    leave_if_asked()
    st.html(ASSETS / "theme.css")
    st.html(ASSETS / "shell.css")
    run_state.read_link()


def show_shell() -> DeltaGenerator:
    """Draw the sidebar, the messages and the progress of what runs; before the page itself.

    Returns:
        A place in the sidebar for `show_draft`, which only the page decides.
    """
    comparison.open_when_ready()
    repair.show_when_repaired()
    _begin()
    run = run_state.shown_run()
    with st.sidebar:
        _show_run(run)
        place = st.container()
        if run is not None and run.report.layers:
            _show_culprit(run)
            _show_layer_picker(run)
        show_copy_link("" if run is None else settings_to_text(run.settings))
        _show_presenter_mode()
    note_unsaved()
    with st.container(key="shell_top"):
        # One container, with or without something in it: the browser keeps what is below in its
        # place, where it would otherwise draw the whole page anew once work begins or ends.
        show_notices()
        show_job_panel(is_empty=run is None, remark=_dim_older_result(run))
    return place


def _dim_older_result(run: Run | None) -> str:
    """Draw the result from before paler while another one is computed; return what it is."""
    wanted = run_state.wanted_settings()
    if run is None or run.id == wanted.run_id or not is_active(analysis_status(wanted)):
        return ""
    st.html(ASSETS / "older.css")
    return (
        f"Being computed: {describe_settings(wanted)}. Until then the page shows, paler, "
        f"the result before it: {describe_settings(run.settings)}."
    )


def show_draft(place: DeltaGenerator) -> None:
    """Say whether somebody has chosen settings other than those that were asked for."""
    draft = current_draft()
    if draft.run_id == run_state.wanted_settings().run_id:
        return
    with place:
        st.badge("Settings changed, not run yet", icon=":material/edit:", color="orange")
        st.button(
            "Re-run",
            key="shell_rerun",
            icon=":material/play_arrow:",
            width="stretch",
            disabled=is_active(analysis_status(draft)),
            on_click=run_state.start_settings,
            args=(draft,),
        )


def _show_run(run: Run | None) -> None:
    with st.container(key="run_shown", gap="xsmall"):
        st.markdown("**Run shown**")
        if run is None:
            st.caption("None yet.")
        else:
            st.markdown(service.model_info(run.model_name).title)
            st.caption(escape_markdown(describe_recipe(run.recipe)))
            _show_origin(run)
            before = comparison.settings_shown_before(run.settings)
            if before is not None and not run.report.is_partial:
                st.button(
                    "Compare with the run before",
                    key="shell_compare",
                    icon=":material/compare_arrows:",
                    help=f"A: {describe_recipe(before.recipe)}. B: {describe_recipe(run.recipe)}.",
                    width="stretch",
                    on_click=comparison.compare_with,
                    args=(before, run.settings),
                )


def _show_origin(run: Run) -> None:
    if run.is_example:
        st.badge("Stored example", icon=":material/inventory_2:", color="blue")
    if run.report.is_partial:
        if is_active(analysis_status(run.settings)):
            st.badge("Still running", icon=":material/hourglass_top:", color="blue")
        else:
            covered = f"Partial: {samples_covered(run)}"
            st.badge(covered, icon=":material/hourglass_bottom:", color="orange")
    if not run.is_example:
        st.caption(f"Computed {describe_age(run.created)}")


def _show_culprit(run: Run) -> None:
    culprit = run_state.culprit_of(run)
    if culprit is not None:
        st.caption(f"Culprit ({culprit.label}): {culprit.name}, {culprit.text}")


def _show_layer_picker(run: Run) -> None:
    names = [layer.name for layer in run.report.layers]
    default = run_state.settle_layer(run)
    st.selectbox(
        "Layer",
        names,
        index=names.index(default),
        key=LAYER_KEY,
        bind="query-params",
        help="The layer that the Layer page shows. Clicking a bar or point sets it too.",
    )


def _show_presenter_mode() -> None:
    word = st.query_params.get(PRESENT_KEY)
    is_first = PRESENT_KEY not in st.session_state
    if is_first and word == "1":
        st.session_state[PRESENT_KEY] = True
    elif st.session_state.get(PRESENT_KEY) and word is None:
        # Streamlit took the 1 out of the link, and writes its own word only when it is set again.
        st.session_state[PRESENT_KEY] = True
    st.toggle(
        "Presenter mode",
        key=PRESENT_KEY,
        bind="query-params",
        help="One figure per screen in large text, for a projector. The arrow keys go on and back, "
        "Esc leaves.",
    )
