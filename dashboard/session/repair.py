"""Repair of the run shown: a chain of runs in the background, stopped at will, shown at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dashboard.data.runs import Run, now
from dashboard.data.settings import Settings, settings_to_text
from dashboard.facts.diagnosis.repair import Step, repair_steps, repaired_run
from dashboard.session import run_state
from dashboard.session.jobs import describe_settings, jobs, store, submit_job
from dashboard.session.state import RUN_KEY, session
from dashboard.work import service
from dashboard.work.jobs import JobControl, JobStatus, is_active


def start_repair(run: Run) -> None:
    """Try what the diagnosis proposes, step by step, in the background; for callbacks.

    Each step is kept as a run of its own as soon as it has ended, so that whatever stops the chain
    loses nothing.
    """
    targets, runs = service.remedy_targets(run.model_name), store()

    def find(settings: Settings) -> Run | None:
        return runs.get(settings.run_id) or service.find_example(settings)

    def work(control: JobControl) -> tuple[Step, ...]:
        done = 0
        while True:
            steps = repair_steps(run, targets, find)
            control.on_update(lambda steps=steps: steps)  # type: ignore[misc]
            if not steps or steps[-1].run is not None:
                return steps
            step, part = steps[-1], _StepControl(control, done, f"step {len(steps)}")
            part.label += f", {steps[-1].label[:1].lower()}{steps[-1].label[1:]}"
            report = service.analyze_settings(step.settings, part, measure_time=False)
            runs.put(Run(step.settings, report, created=now()))
            done = part.last

    title = f"Repairing {describe_settings(run.settings)}"
    session().repairing = run.settings
    submit_job(repair_key(run.settings), title, work, lambda steps, seconds: steps)


@dataclass(slots=True)
class _StepControl:
    """Reports the progress of one step as a part of the chain's."""

    control: JobControl
    before: int
    label: str
    last: int = 0

    def progress(self, done: int, total: int, text: str) -> None:
        self.last = self.before + total
        self.control.progress(self.before + done, self.last, f"{self.label}: {text}")

    def on_update(self, snapshot: Callable[[], Any]) -> None:
        """A step that was cut short is no step: only the end of one is kept."""
        self.control.check()


def repair_key(settings: Settings) -> str:
    """Return the name of the job that repairs the run of these settings."""
    return f"repair:{settings.run_id}"


def repair_status(settings: Settings) -> JobStatus | None:
    """Return the job that repairs the run of these settings, or None if there is none."""
    return jobs().status(repair_key(settings))


def known_steps(start: Run) -> tuple[Step, ...]:
    """Return the steps of a run's repair that were run already."""
    targets = service.remedy_targets(start.model_name)
    steps = repair_steps(start, targets, run_state.find_run)
    return tuple(step for step in steps if step.run is not None)


def repair_start(run: Run) -> Run:
    """Return the run whose repair stands on the page of this one: itself, or that it came from."""
    before = run_state.run_before_remedy(run)
    if before is None or before.id == run.id:
        return run
    is_step = any(step.settings.run_id == run.id for step in known_steps(before))
    return before if is_step else run


def show_when_repaired() -> None:
    """Let the shell show the repaired run once the chain has ended, or was stopped."""
    here = session()
    start = here.repairing
    if start is None or is_active(repair_status(start)):
        return
    here.repairing = None
    run = run_state.find_run(start)
    if run is None:
        return
    best = repaired_run(run, known_steps(run))
    if best.id != run.id:
        here.remedied = here.rerun = (run.settings, best.settings)
        here.pending[RUN_KEY] = settings_to_text(best.settings)
