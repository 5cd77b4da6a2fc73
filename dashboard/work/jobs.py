"""Long work in the background: queued, watched, cancelled, and found again by its key.

A few daemon threads take jobs from one queue, so that sessions wait for each other instead of
fighting for the processor. A job is known by a key that its settings decide: a second tab, or the
same tab after a reload, finds it again. Everybody's first job comes before anybody's second, and a
job that nobody looks at any more makes way for one that somebody waits for. Nothing here knows
Streamlit.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from quant_engine.errors import QuantizationError

QUEUED = "queued"
RUNNING = "running"
DONE = "done"
CANCELLED = "cancelled"
FAILED = "failed"
ACTIVE = (QUEUED, RUNNING)

UPDATE_SECONDS = 0.5
MAX_FINISHED = 32
MAX_WAITING = 40
MAX_WAITING_PER_VISITOR = 4
LONG_STAGE_SECONDS = 2.0
LONG_STAGE_STEPS = 20
"""A stage that went on for so long, over so many steps, tells by itself how the rest goes on."""
WATCH_SECONDS = 120.0
"""Who has not looked for so long has gone: browsers let a hidden page look once a minute."""

_MADE_WAY = (
    "Nobody had looked at it for two minutes, and somebody else was waiting. Start it again."
)

_LOG = logging.getLogger(__name__)


class JobCancelled(Exception):  # noqa: N818 - nothing went wrong
    """Raised inside the work when somebody asked it to stop."""


class QueueFullError(QuantizationError):
    """So much work waits already that no more is taken on."""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a job failed, in words for the person who started it.

    Attributes:
        message: One line.
        where: What the job was doing, such as a layer and a step; may be empty.
        details: More about it, without a traceback.
    """

    message: str
    where: str = ""
    details: str = ""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job at one moment.

    Attributes:
        key: Name of the job.
        title: What it does, for people.
        state: "queued", "running", "done", "cancelled" or "failed".
        done: Steps finished.
        total: Steps altogether; 0 while unknown.
        text: What is being done now.
        jobs_ahead: Jobs that must end before a queued one begins.
        elapsed_seconds: Time since it began to run.
        partial: Newest result of an unfinished job, or None.
        result: What the job gave, also a cancelled one that was kept; None before its end.
        failure: Why it failed, or was stopped though nobody asked for that; or None.
        is_cancelling: Whether it was asked to stop and has not stopped yet.
        step_seconds: Mean time of a step in the slowest stage so far, or in the stage under way if
            that is a long one; None while no step is done.
        idle_seconds: Time since the last step was done.
    """

    key: str
    title: str
    state: str
    done: int
    total: int
    text: str
    jobs_ahead: int
    elapsed_seconds: float
    partial: Any
    result: Any
    failure: JobFailure | None
    is_cancelling: bool = False
    step_seconds: float | None = None
    idle_seconds: float = 0.0

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE

    @property
    def fraction(self) -> float:
        """Share of the steps that are finished, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time that is left if the rest goes on at the pace of `step_seconds`; None if not known.

        A step that takes longer than any before, as the last one does that times the models, leaves
        nothing to tell it by: then there is no estimate, rather than one of no time at all.
        """
        if self.state != RUNNING or self.step_seconds is None or self.elapsed_seconds < 1.0:
            return None
        left = (self.total - self.done) * self.step_seconds - self.idle_seconds
        return left if left >= 1.0 else None


def is_active(status: JobStatus | None) -> TypeGuard[JobStatus]:
    """Whether there is a job, and it waits or runs."""
    return status is not None and status.is_active


Snapshot = Callable[[], Any]
Finish = Callable[[Any, float], Any]
Keep = Callable[[Any, float], None]


def keep_nothing(_value: Any, _seconds: float) -> None:
    """What becomes of a job's partial results where nobody keeps them."""


@dataclass(eq=False)
class _Job:
    key: str
    title: str
    work: Callable[[JobControl], Any]
    finish: Finish
    visitor: str
    turn: int
    keep: Keep = keep_nothing
    state: str = QUEUED
    done: int = 0
    total: int = 0
    text: str = ""
    step_seconds: float | None = None
    stepped: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    partial: Any = None
    result: Any = None
    failure: JobFailure | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    looked: dict[str, float] = field(default_factory=dict)  # when each visitor did last

    def watchers(self, within: float = WATCH_SECONDS) -> set[str]:
        since = time.monotonic() - within
        return {visitor for visitor, looked in self.looked.items() if looked >= since}


class JobControl:
    """What the work sees of its job: a place to report to, which may tell it to stop."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._last_update = time.monotonic()
        self.last_snapshot: Snapshot | None = None
        self._stages: dict[str, tuple[float, int]] = {}

    def progress(self, done: int, total: int, text: str) -> None:
        """Note how far the work is.

        Raises:
            JobCancelled: If somebody asked the job to stop.
        """
        job, now = self._job, time.monotonic()
        if done > job.done:
            stage = re.split(r"[\d:(]", text, maxsplit=1)[0]
            seconds, steps = self._stages.get(stage, (0.0, 0))
            seconds += now - (job.stepped or job.began)
            steps += done - job.done
            self._stages[stage] = seconds, steps
            is_long = seconds >= LONG_STAGE_SECONDS and steps >= LONG_STAGE_STEPS
            paces = [(seconds, steps)] if is_long else self._stages.values()
            job.step_seconds = max(taken / count for taken, count in paces)
            job.stepped = now
        job.done, job.total, job.text = done, total, text
        self.check()

    def on_update(self, snapshot: Snapshot) -> None:
        """Keep what is known so far; builds it twice a second at most, and before the last step."""
        job, now = self._job, time.monotonic()
        self.last_snapshot = snapshot
        if now - self._last_update >= UPDATE_SECONDS or 0 < job.total <= job.done + 1:
            job.partial = snapshot()
            job.keep(job.partial, now - job.began)
            self._last_update = time.monotonic()
        self.check()

    def check(self) -> None:
        """Raise JobCancelled if somebody asked the job to stop."""
        if self._job.cancel.is_set():
            raise JobCancelled


class JobManager:
    """Runs jobs in the background, a few at a time, visitors in turn."""

    def __init__(self, workers: int = 1) -> None:
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._running: list[_Job] = []
        self._changed = threading.Condition()
        self._workers = workers
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        self._turn = 0

    def submit(
        self,
        key: str,
        title: str,
        work: Callable[[JobControl], Any],
        finish: Finish = lambda value, seconds: value,
        *,
        visitor: str = "",
        keep: Keep = keep_nothing,
    ) -> None:
        """Queue `work`, unless a job of this key waits or runs already.

        Args:
            key: Name of the job.
            title: What it does, for people.
            work: Called in a background thread; reports to the control it is given.
            finish: Called there with the work's result, or with the last partial result of a
                cancelled job, and the seconds it took; what it returns is the job's result.
            visitor: Who asks for it.
            keep: Called there with each partial result that is built, and the seconds so far.

        Raises:
            QueueFullError: If too many jobs wait, of this visitor or altogether.
        """
        with self._changed:
            known = self._jobs.get(key)
            if known is not None and known.state in ACTIVE and not known.cancel.is_set():
                self._look(known, visitor)
                return
            self._make_room(visitor)
            job = _Job(key, title, work, finish, visitor, self._next_turn(visitor), keep)
            self._jobs[key] = job
            self._jobs.move_to_end(key)
            self._forget_oldest()
            self._look(job, visitor)
            self._changed.notify()
            if len(self._threads) < self._workers:
                name = f"dashboard-job-{len(self._threads)}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def status(self, key: str, visitor: str = "") -> JobStatus | None:
        """Return the job's present state, or None if there is no such job.

        Args:
            key: Name of the job.
            visitor: Who looks at it; a job that is looked at does not make way for others.
        """
        with self._changed:
            job = self._jobs.get(key)
            if job is None:
                return None
            self._look(job, visitor)
            waiting = self._waiting()
            ahead = len(self._running) + waiting.index(job) if job.state == QUEUED else 0
            end = job.ended or time.monotonic()
            return JobStatus(
                key=job.key,
                title=job.title,
                state=job.state,
                done=job.done,
                total=job.total,
                text=job.text,
                jobs_ahead=ahead,
                elapsed_seconds=end - job.began if job.began else 0.0,
                partial=job.partial,
                result=job.result,
                failure=job.failure,
                is_cancelling=job.cancel.is_set() and job.state in ACTIVE,
                step_seconds=job.step_seconds,
                idle_seconds=time.monotonic() - job.stepped if job.stepped else 0.0,
            )

    def count_watchers(self, within: float) -> int:
        """Return how many visitors looked at unfinished jobs in the last so many seconds."""
        with self._changed:
            active = (job for job in self._jobs.values() if job.state in ACTIVE)
            return len(set().union(*(job.watchers(within) for job in active)))

    def active_keys(self) -> tuple[str, ...]:
        """Return the names of the jobs that wait or run."""
        with self._changed:
            return tuple(key for key, job in self._jobs.items() if job.state in ACTIVE)

    def cancel(self, key: str) -> None:
        """Ask a job to stop; one that still waits stops at once."""
        with self._changed:
            if (job := self._jobs.get(key)) is not None:
                self._stop(job)

    def forget(self, key: str) -> None:
        """Drop a job that has ended, such as a failure that was read."""
        with self._changed:
            job = self._jobs.get(key)
            if job is not None and job.state not in ACTIVE:
                del self._jobs[key]

    def close(self, timeout: float = 3.0) -> None:
        """Cancel everything and let the threads end; a thread inside torch aborts the process."""
        with self._changed:
            for key in self._jobs:
                self.cancel(key)
            threads, self._threads = self._threads, []
            self._is_closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _forget_oldest(self) -> None:
        ended = [key for key, job in self._jobs.items() if job.state not in ACTIVE]
        for key in ended[: max(0, len(ended) - MAX_FINISHED)]:
            del self._jobs[key]

    def _waiting(self) -> list[_Job]:
        """Return the jobs that wait in the order they begin in.

        Those that somebody looks at come first, and among them those whose turn it is.
        """
        waiting = [job for job in self._jobs.values() if job.state == QUEUED]
        return sorted(waiting, key=lambda job: (not job.watchers(), job.turn))

    def _next_turn(self, visitor: str) -> int:
        """Return the first turn in which a visitor has no job yet: the one after now's, or later.

        Fair queueing with jobs of one length (Demers, Keshav and Shenker 1989): a second job waits
        for everybody's first, and who comes later does not push back who waits.
        """
        active = [*self._running, *self._waiting()]
        own = [job.turn for job in active if job.visitor == visitor]
        return max(self._turn, *own, 0) + 1

    def _look(self, job: _Job, visitor: str) -> None:
        """Note that a visitor looks at a job; if it waits, one that nobody looks at stops."""
        if not visitor:
            return
        job.looked[visitor] = time.monotonic()
        if job.state == QUEUED and len(self._running) >= self._workers:
            left = [running for running in self._running if not running.watchers()]
            if left and not any(running.cancel.is_set() for running in self._running):
                left[0].failure = JobFailure(_MADE_WAY)
                self._stop(left[0])

    def _make_room(self, visitor: str) -> None:
        waiting = self._waiting()
        own = sum(job.visitor == visitor for job in waiting)
        if own >= MAX_WAITING_PER_VISITOR:
            raise QueueFullError(
                f"{own} of your computations wait already. Allowed: {MAX_WAITING_PER_VISITOR}. "
                "Cancel one of them, or wait until one begins."
            )
        if len(waiting) < MAX_WAITING:
            return
        if waiting[-1].watchers():
            raise QueueFullError(
                f"{len(waiting)} computations of all visitors wait already. Allowed: "
                f"{MAX_WAITING}. Try again in a few minutes."
            )
        waiting[-1].failure = JobFailure(_MADE_WAY)
        self._stop(waiting[-1])

    def _stop(self, job: _Job) -> None:
        job.cancel.set()
        if job.state == QUEUED:
            job.state = CANCELLED

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and not self._waiting():
                    self._changed.wait()
                if self._is_closed:
                    return
                job = self._waiting()[0]
                job.state, job.began = RUNNING, time.monotonic()
                self._running.append(job)
                self._turn = max(self._turn, job.turn)
            try:
                self._run(job)
            except BaseException:  # also what would end this thread, and leave all others waiting
                _LOG.exception("job %s: its end could not be recorded", job.key)
                job.failure = JobFailure("The work ended, but its result could not be kept.")
                self._end(job, FAILED)

    def _run(self, job: _Job) -> None:
        control = JobControl(job)
        try:
            value = job.work(control)
        except JobCancelled:
            partial = _last_partial(job, control)
            if partial is not None:
                job.result = job.finish(partial, time.monotonic() - job.began)
            self._end(job, CANCELLED)
        except QuantizationError as error:
            _LOG.info("job %s failed: %s", job.key, error)
            job.failure = JobFailure(str(error), where=job.text)
            self._end(job, FAILED)
        except BaseException as error:  # sys.exit in a model, or somebody's Ctrl+C, ends only this
            _LOG.exception("job %s stopped by a fault", job.key)
            kind = type(error).__name__
            job.failure = JobFailure(
                message=f"A fault in the program stopped it ({kind}).",
                where=job.text,
                details="The server's log holds the particulars. Other settings may still work.",
            )
            self._end(job, FAILED)
        else:
            job.result = job.finish(value, time.monotonic() - job.began)
            job.failure = None
            self._end(job, DONE)

    def _end(self, job: _Job, state: str) -> None:
        """Set everything else first: a reader that sees the end may read the result."""
        with self._changed:
            job.ended = time.monotonic()
            job.state = state
            job.partial = None
            self._running.remove(job)


def _last_partial(job: _Job, control: JobControl) -> Any:
    if control.last_snapshot is None:
        return None
    try:
        return control.last_snapshot()
    except Exception:
        _LOG.exception("job %s: no last snapshot", job.key)
        return job.partial
