"""Long work in the background: queued, watched, cancelled, and found again by its key.

A few daemon threads take jobs from one queue, so that sessions wait for each other instead of
fighting for the processor. A job is known by a key that its settings decide: a second tab, or the
same tab after a reload, finds it again. Nothing here knows Streamlit.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from quant_engine.errors import QuantizationError

QUEUED = "queued"
RUNNING = "running"
DONE = "done"
CANCELLED = "cancelled"
FAILED = "failed"
ACTIVE = (QUEUED, RUNNING)

UPDATE_SECONDS = 0.5
MAX_FINISHED = 32

_LOG = logging.getLogger(__name__)


class JobCancelled(Exception):  # noqa: N818 - nothing went wrong
    """Raised inside the work when somebody asked it to stop."""


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
        failure: Why it failed, or None.
        is_cancelling: Whether it was asked to stop and has not stopped yet.
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
        """Time that is left if the rest goes on as before; None while it cannot be told."""
        if self.state != RUNNING or self.fraction < 0.04 or self.elapsed_seconds < 1.0:
            return None
        return self.elapsed_seconds * (1.0 - self.fraction) / self.fraction


Progress = Callable[[int, int, str], None]
Snapshot = Callable[[], Any]
Finish = Callable[[Any, float], Any]


@dataclass(eq=False)
class _Job:
    key: str
    title: str
    work: Callable[[JobControl], Any]
    finish: Finish
    state: str = QUEUED
    done: int = 0
    total: int = 0
    text: str = ""
    began: float = 0.0
    ended: float = 0.0
    partial: Any = None
    result: Any = None
    failure: JobFailure | None = None
    cancel: threading.Event = field(default_factory=threading.Event)


class JobControl:
    """What the work sees of its job: a place to report to, which may tell it to stop."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._last_update = time.monotonic()
        self.last_snapshot: Snapshot | None = None

    def progress(self, done: int, total: int, text: str) -> None:
        """Note how far the work is.

        Raises:
            JobCancelled: If somebody asked the job to stop.
        """
        self._job.done, self._job.total, self._job.text = done, total, text
        self.check()

    def on_update(self, snapshot: Snapshot) -> None:
        """Keep what is known so far; builds it twice a second at most."""
        self.last_snapshot = snapshot
        if time.monotonic() - self._last_update >= UPDATE_SECONDS:
            self._job.partial = snapshot()
            self._last_update = time.monotonic()
        self.check()

    def check(self) -> None:
        """Raise JobCancelled if somebody asked the job to stop."""
        if self._job.cancel.is_set():
            raise JobCancelled


class JobManager:
    """Runs jobs in the background, a few at a time, first come first served."""

    def __init__(self, workers: int = 1) -> None:
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._workers = workers
        self._threads: list[threading.Thread] = []

    def submit(
        self,
        key: str,
        title: str,
        work: Callable[[JobControl], Any],
        finish: Finish = lambda value, seconds: value,
    ) -> None:
        """Queue `work`, unless a job of this key waits or runs already.

        Args:
            key: Name of the job.
            title: What it does, for people.
            work: Called in a background thread; reports to the control it is given.
            finish: Called there with the work's result, or with the last partial result of a
                cancelled job, and the seconds it took; what it returns is the job's result.
        """
        with self._lock:
            known = self._jobs.get(key)
            if known is not None and known.state in ACTIVE and not known.cancel.is_set():
                return
            job = _Job(key, title, work, finish)
            self._jobs[key] = job
            self._jobs.move_to_end(key)
            self._forget_oldest()
            self._queue.put(job)
            if len(self._threads) < self._workers:
                name = f"dashboard-job-{len(self._threads)}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def status(self, key: str) -> JobStatus | None:
        """Return the job's present state, or None if there is no such job."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                return None
            ahead = 0
            for other in self._jobs.values():
                if other is job:
                    break
                ahead += other.state in ACTIVE
            end = job.ended or time.monotonic()
            return JobStatus(
                key=job.key,
                title=job.title,
                state=job.state,
                done=job.done,
                total=job.total,
                text=job.text,
                jobs_ahead=ahead if job.state == QUEUED else 0,
                elapsed_seconds=end - job.began if job.began else 0.0,
                partial=job.partial,
                result=job.result,
                failure=job.failure,
                is_cancelling=job.cancel.is_set() and job.state in ACTIVE,
            )

    def active_keys(self) -> tuple[str, ...]:
        """Return the names of the jobs that wait or run."""
        with self._lock:
            return tuple(key for key, job in self._jobs.items() if job.state in ACTIVE)

    def cancel(self, key: str) -> None:
        """Ask a job to stop; one that still waits stops at once."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                return
            job.cancel.set()
            if job.state == QUEUED:
                job.state = CANCELLED

    def forget(self, key: str) -> None:
        """Drop a job that has ended, such as a failure that was read."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None and job.state not in ACTIVE:
                del self._jobs[key]

    def close(self, timeout: float = 3.0) -> None:
        """Cancel everything and let the threads end; a thread inside torch aborts the process."""
        with self._lock:
            for key in self._jobs:
                self.cancel(key)
            threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _forget_oldest(self) -> None:
        ended = [key for key, job in self._jobs.items() if job.state not in ACTIVE]
        for key in ended[: max(0, len(ended) - MAX_FINISHED)]:
            del self._jobs[key]

    def _serve(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                return
            with self._lock:
                if job.state != QUEUED:
                    continue
                job.state, job.began = RUNNING, time.monotonic()
            try:
                self._run(job)
            except Exception:
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
        except Exception as error:
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
            self._end(job, DONE)

    def _end(self, job: _Job, state: str) -> None:
        """Set everything else first: a reader that sees the end may read the result."""
        with self._lock:
            job.ended = time.monotonic()
            job.state = state
            job.partial = None


def _last_partial(job: _Job, control: JobControl) -> Any:
    if control.last_snapshot is None:
        return None
    try:
        return control.last_snapshot()
    except Exception:
        _LOG.exception("job %s: no last snapshot", job.key)
        return job.partial
