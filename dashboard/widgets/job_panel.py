"""Long work on any page: progress, time left, Cancel, why it failed, what to compare it with."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.data.runs import Run
from dashboard.facts.compare.differences import outcomes
from dashboard.session import run_state
from dashboard.session.comparison import compare_with, drop_offer, is_ready_to_compare, offered_pair
from dashboard.session.jobs import jobs, poll_seconds, watched_jobs
from dashboard.widgets.live import show_live
from dashboard.widgets.slides import is_presenting
from dashboard.words.formatting import plural
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import describe_estimate, describe_recipe
from dashboard.work.jobs import CANCELLED, QUEUED, JobStatus


def show_job_panel(*, is_empty: bool, remark: str = "") -> None:
    """Draw what is on its way for this session; it keeps itself up to date.

    Args:
        is_empty: Whether the shell found no run to show.
        remark: What the page shows until the first of the jobs ends.
    """
    statuses = watched_jobs()
    if is_empty and run_state.shown_run() is not None:
        st.rerun()  # the work ended while the shell was drawn
    if not statuses and (is_presenting() or offered_pair() is None):
        return
    active = frozenset(status.key for status in statuses if status.is_active)
    seconds, shown = poll_seconds(), _shown_version()
    draw = partial(_draw, active, shown, seconds, remark)
    show_live(draw, key="live_jobs", run_every=seconds if active else None)


def _shown_version() -> object:
    """What tells the run shown from another one, and from the same one with more in it.

    What is known of a run on its way counts once: the page does not follow every layer.
    """
    run = run_state.shown_run()
    if run is None or run.report.is_partial:
        return run is None
    return run.id, run.created, run.seconds


def _draw(active_before: frozenset[str], shown: object, seconds: float, remark: str) -> None:
    statuses = watched_jobs()
    active = {status.key for status in statuses if status.is_active}
    # The clock of this part is set where the whole page is drawn.
    is_crowded = bool(active) and poll_seconds() >= 2 * seconds
    is_changed = active != active_before or _shown_version() != shown
    if is_changed or is_crowded or is_ready_to_compare():
        st.rerun()  # the whole page: something ended, or there is something to show at last
    for index, status in enumerate(statuses):
        with st.container(border=True, key=f"job_{index}"):
            if status.is_active:
                _show_active(status, index)
                if remark and index == 0:
                    st.caption(remark)
            else:
                _show_ended(status, index)
    pair = None if is_presenting() else offered_pair()
    if pair is not None:
        with st.container(border=True, key="job_offer"):
            _show_offer(*pair)


def _show_offer(before: Run, after: Run) -> None:
    """A re-run is there: say how it came out against the run before, and offer to compare them."""
    first = next(iter(outcomes(before, after)), None)
    came_out = "" if first is None else f" {first.name}: {first.a} → {first.b}; {first.change}."
    st.markdown(
        f"**{escape_markdown(describe_recipe(after.recipe))}** is there, after "
        f"{escape_markdown(describe_recipe(before.recipe))}.{escape_markdown(came_out)}"
    )
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Compare with the run before",
            key="offer_compare",
            icon=":material/compare_arrows:",
            on_click=compare_with,
            args=(before.settings, after.settings),
        )
        st.button(
            "Dismiss",
            key="offer_dismiss",
            icon=":material/close:",
            type="tertiary",
            on_click=drop_offer,
        )


def _show_active(status: JobStatus, index: int) -> None:
    with st.container(horizontal=True, wrap=False, vertical_alignment="center"):
        with st.container():
            st.progress(status.fraction, text=progress_text(status))
        st.button(
            "Cancelling…" if status.is_cancelling else "Cancel",
            key=f"cancel_{index}",
            icon=":material/stop_circle:",
            disabled=status.is_cancelling,
            on_click=jobs().cancel,
            args=(status.key,),
        )


def progress_text(status: JobStatus) -> str:
    """Return in one line what a job does, or waits for, and how long it takes."""
    if status.state == QUEUED and status.jobs_ahead:
        waiting = plural(status.jobs_ahead, "other job")
        return f"**{status.title}** · waiting for {waiting} to end"
    parts = [f"**{status.title}**", escape_markdown(status.text) or "starting"]
    if status.is_cancelling:
        parts.append("stopping after this step")
    elif status.seconds_left is not None:
        parts.append(f"{describe_estimate(status.seconds_left)} left")
    return " · ".join(parts)


def _show_ended(status: JobStatus, index: int) -> None:
    if status.state == CANCELLED:
        why = "cancelled" if status.failure is None else "stopped"
        more = "" if status.failure is None else f" {status.failure.message}"
        st.info(f"{status.title} was {why} before it had a result.{more}", icon=":material/cancel:")
    elif status.failure is not None:
        failure = status.failure
        where = f" It was at: {escape_markdown(failure.where)}." if failure.where else ""
        text = f"**{status.title} failed.** {escape_markdown(failure.message)}{where}"
        st.error(text, icon=":material/error:")
        if failure.details:
            st.caption(failure.details)
    st.button(
        "Dismiss",
        key=f"dismiss_job_{index}",
        icon=":material/close:",
        on_click=run_state.dismiss_job,
        args=(status.key,),
    )
