"""What is said of work on its way."""

from __future__ import annotations

from dataclasses import replace

from dashboard.widgets.job_panel import progress_text
from dashboard.work.jobs import QUEUED, RUNNING, JobStatus

WAITING = JobStatus(
    key="analysis:1",
    title="Analysing MLP",
    state=QUEUED,
    done=0,
    total=0,
    text="",
    jobs_ahead=2,
    elapsed_seconds=0.0,
    partial=None,
    result=None,
    failure=None,
)


def test_queued_work_says_how_many_jobs_it_waits_for() -> None:
    assert progress_text(WAITING) == "**Analysing MLP** · waiting for 2 other jobs to end"


def test_work_about_to_begin_waits_for_nothing() -> None:
    assert progress_text(replace(WAITING, jobs_ahead=0)) == "**Analysing MLP** · starting"


def test_running_work_says_what_it_does_and_how_long_it_takes() -> None:
    running = replace(
        WAITING,
        state=RUNNING,
        done=5,
        total=10,
        text="weights of fc",
        elapsed_seconds=6.0,
        step_seconds=1.2,
    )
    assert progress_text(running) == "**Analysing MLP** · weights of fc · about 6 s left"


def test_cancelled_work_promises_no_time() -> None:
    stopping = replace(
        WAITING, state=RUNNING, done=5, total=10, text="fc", elapsed_seconds=6.0, is_cancelling=True
    )
    assert progress_text(stopping) == "**Analysing MLP** · fc · stopping after this step"


def test_no_time_is_promised_where_the_last_step_takes_longer_than_any_before() -> None:
    last = replace(
        WAITING, state=RUNNING, done=49, total=50, text="time the models", elapsed_seconds=3.0
    )
    for idle in (0.0, 1.0, 9.0):
        status = replace(last, step_seconds=0.06, idle_seconds=idle)
        assert progress_text(status) == "**Analysing MLP** · time the models"
