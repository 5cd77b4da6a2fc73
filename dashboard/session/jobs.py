"""Work in the background for this session, and the runs it leaves behind."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.data.prediction import prediction_id
from dashboard.data.runs import Run, now
from dashboard.data.settings import Settings
from dashboard.data.store import RunStore, default_home
from dashboard.data.sweeps import Sweep, describe_sweep
from dashboard.session.link_widgets import rerun_outside_callback
from dashboard.session.notices import add_notice, add_toast, drop_notices
from dashboard.session.state import session
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import describe_recipe
from dashboard.work import service
from dashboard.work.jobs import (
    CANCELLED,
    DONE,
    FAILED,
    Finish,
    JobControl,
    JobManager,
    JobStatus,
    Keep,
    QueueFullError,
    keep_nothing,
)
from quant_engine.report import ModelReport

POLL_SECONDS = 0.5
SECONDS_PER_WATCHER = 0.1
SLOWEST_POLL_SECONDS = 5.0

_QUEUE = "queue"  # topic of what is said about work that was not taken on


@st.cache_resource(max_entries=1, show_spinner=False)
def jobs() -> JobManager:
    """Return the background work of all sessions; it ends when the server does."""
    manager = JobManager()
    atexit.register(manager.close)
    return manager


@st.cache_resource(max_entries=4, show_spinner=False)
def _store_in(home: str) -> RunStore:
    return RunStore(Path(home))


def store() -> RunStore:
    """Return the saved runs."""
    return _store_in(str(default_home()))


def analysis_key(settings: Settings) -> str:
    """Return the name of the job that analyses these settings."""
    return f"analysis:{settings.run_id}"


def timing_key(settings: Settings) -> str:
    """Return the name of the job that measures the times of these settings' run."""
    return f"timing:{settings.run_id}"


def sensitivity_key(settings: Settings, sweep: Sweep) -> str:
    """Return the name of the job that measures a sweep of these settings."""
    return f"sensitivity:{sweep.key}:{settings.run_id}"


def prediction_key(settings: Settings) -> str:
    """Return the name of the job that measures what predicts these settings' model."""
    return f"prediction:{prediction_id(settings)}"


def verification_key(settings: Settings) -> str:
    """Return the name of the job that runs configurations of these settings' model."""
    return f"verification:{prediction_id(settings)}"


def search_key(settings: Settings, by: str, budget: float) -> str:
    """Return the name of the job that runs the best few configurations within a budget."""
    return f"search:{by}={budget:g}:{prediction_id(settings)}"


def submit_job(
    key: str,
    title: str,
    work: Callable[[JobControl], Any],
    finish: Finish,
    keep: Keep = keep_nothing,
) -> None:
    """Queue work for this session and watch it; where too much waits already, say so."""
    try:
        jobs().submit(key, title, work, finish, visitor=session().visitor, keep=keep)
    except QueueFullError as error:
        add_notice(f"{title} was not begun. {error}", topic=_QUEUE)
    else:
        drop_notices(_QUEUE)
        watch(key)


def poll_seconds() -> float:
    """Return how long a live part of a page waits until it looks again.

    Every look takes a little of the time that the work itself needs, so the more sessions look, the
    longer each of them waits.
    """
    watchers = jobs().count_watchers(2 * SLOWEST_POLL_SECONDS)
    return min(SLOWEST_POLL_SECONDS, max(POLL_SECONDS, SECONDS_PER_WATCHER * watchers))


def submit_analysis(settings: Settings) -> None:
    """Analyse these settings in the background and keep the run.

    It is kept, and so shown, as soon as its errors are known, while its times are measured. One
    that was cut short is kept too, unless there is a whole one already.
    """
    key, runs = analysis_key(settings), store()

    def finish(report: Any, seconds: float) -> Run:
        older = runs.get(settings.run_id) or service.find_example(settings)
        if report.is_partial and older is not None and not older.report.is_partial:
            return older
        kept = older.sensitivities if older is not None else ()
        run = Run(settings, report, kept, created=now(), seconds=seconds)
        runs.put(run)
        return run

    def keep(report: Any, seconds: float) -> None:
        if not report.is_partial:
            finish(report, seconds)

    def work(control: JobControl) -> ModelReport:
        return service.analyze_settings(settings, control)

    submit_job(key, f"Analysing {describe_settings(settings)}", work, finish, keep)


def describe_settings(settings: Settings) -> str:
    """Return the model and the recipe in words, as Markdown."""
    recipe = escape_markdown(describe_recipe(settings.recipe))
    return f"{service.model_info(settings.model_name).title}, {recipe}"


def start_timing(run: Run) -> None:
    """Measure a run's times in the background, or measure them again; its errors stay."""
    settings, runs = run.settings, store()

    def finish(report: Any, seconds: float) -> Run:
        kept = runs.get(settings.run_id) or run
        times = replace(kept.report, timing=report.timing, notes=report.notes)
        finished = replace(kept, report=times, is_example=False, created=kept.created or now())
        runs.put(finished)
        return finished

    def work(control: JobControl) -> ModelReport:
        return service.time_report(run.report, settings, control)

    submit_job(timing_key(settings), f"Timing {describe_settings(settings)}", work, finish)
    rerun_outside_callback()


def start_sensitivity(run: Run, sweep: Sweep) -> None:
    """Measure a run's sensitivity in the background and keep it with the run."""
    settings, runs = run.settings, store()
    key = sensitivity_key(settings, sweep)

    def finish(report: Any, seconds: float) -> Run:
        finished = (runs.get(settings.run_id) or run).with_sensitivity(report)
        runs.put(finished)
        return finished

    title = f"Measuring the sensitivity of {service.model_info(settings.model_name).title}"
    title += f" ({describe_sweep(sweep)})" if sweep.has_settings else ""
    submit_job(
        key, title, lambda control: service.measure_settings(settings, sweep, control), finish
    )
    rerun_outside_callback()


def attach_jobs(settings: Settings) -> None:
    """Watch what runs already for these settings: another tab, or this one before a reload."""
    ids = (settings.run_id, prediction_id(settings))
    for key in jobs().active_keys():
        if key.endswith(tuple(f":{name}" for name in ids)):
            watch(key)


def watched_jobs() -> tuple[JobStatus, ...]:
    """Return the jobs of this session that are on their way or ended without a result."""
    here, kept = session(), []
    for key in here.watched_jobs:
        status = jobs().status(key, here.visitor)
        if status is None:
            continue
        if status.state == DONE:
            add_toast(f"Done: {status.title[0].lower()}{status.title[1:]}.")
            continue
        if status.state == CANCELLED and status.result is not None:
            continue
        kept.append(status)
    here.watched_jobs = [status.key for status in kept]
    return tuple(kept)


def job_status() -> JobStatus | None:
    """Return what runs for this session, or else what failed last; None if there is neither."""
    statuses = watched_jobs()
    for status in statuses:
        if status.is_active:
            return status
    return next((s for s in reversed(statuses) if s.state in (FAILED, CANCELLED)), None)


def analysis_status(settings: Settings) -> JobStatus | None:
    """Return the job that analyses these settings, or None if there is none."""
    return jobs().status(analysis_key(settings))


def timing_status(settings: Settings) -> JobStatus | None:
    """Return the job that measures the times of these settings' run, or None."""
    return jobs().status(timing_key(settings))


def watch(key: str) -> None:
    """Show this job to the session until it has ended."""
    if key not in session().watched_jobs:
        session().watched_jobs.append(key)


def forget(key: str) -> None:
    """Stop watching a job, and drop it if it has ended."""
    here = session()
    here.watched_jobs = [other for other in here.watched_jobs if other != key]
    jobs().forget(key)
