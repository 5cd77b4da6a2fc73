"""Background work: one at a time, watched, cancelled, kept, and never lost to an exception."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dashboard.work import jobs
from dashboard.work.jobs import JobControl, JobManager, JobStatus
from quant_engine.errors import DataError

WAIT_SECONDS = 20.0


def wait_for(manager: JobManager, key: str, *states: str) -> JobStatus:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        status = manager.status(key)
        assert status is not None
        if status.state in states:
            return status
        time.sleep(0.005)
    pytest.fail(f"{key} is {status.state}, not {states}")


class Gate:
    """Work that begins, reports, and goes on only when the test says so."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, control: JobControl) -> str:
        control.progress(1, 4, "layer 1/4 conv1 - calibrate")
        self.begun.set()
        while not self.go_on.wait(0.005):
            control.check()
        control.progress(4, 4, "done")
        return "value"


@pytest.fixture
def manager() -> JobManager:
    return JobManager()


def test_a_job_reports_its_progress_and_its_result(manager: JobManager) -> None:
    gate = Gate()
    manager.submit("a", "Analysing", gate, lambda value, seconds: (value, seconds >= 0))
    gate.begun.wait(WAIT_SECONDS)

    status = manager.status("a")
    assert status is not None
    assert (status.state, status.done, status.total) == (jobs.RUNNING, 1, 4)
    assert status.text == "layer 1/4 conv1 - calibrate"
    assert status.fraction == 0.25
    assert status.is_active

    gate.go_on.set()
    status = wait_for(manager, "a", jobs.DONE)
    assert status.result == ("value", True)
    assert not status.is_active


def test_jobs_wait_for_each_other_in_order(manager: JobManager) -> None:
    first, second, third = Gate(), Gate(), Gate()
    for key, gate in (("a", first), ("b", second), ("c", third)):
        manager.submit(key, key, gate)
    first.begun.wait(WAIT_SECONDS)

    waiting = manager.status("c")
    assert waiting is not None
    assert (waiting.state, waiting.jobs_ahead) == (jobs.QUEUED, 2)
    assert not second.begun.is_set()

    first.go_on.set()
    assert second.begun.wait(WAIT_SECONDS)
    assert not third.begun.is_set()
    second.go_on.set()
    third.go_on.set()
    wait_for(manager, "c", jobs.DONE)


def test_several_workers_run_at_once() -> None:
    manager = JobManager(workers=2)
    first, second = Gate(), Gate()
    manager.submit("a", "a", first)
    manager.submit("b", "b", second)

    assert first.begun.wait(WAIT_SECONDS)
    assert second.begun.wait(WAIT_SECONDS)
    first.go_on.set()
    second.go_on.set()


def test_the_same_key_attaches_to_the_job_that_runs(manager: JobManager) -> None:
    gate, other = Gate(), Gate()
    manager.submit("a", "first", gate)
    gate.begun.wait(WAIT_SECONDS)
    manager.submit("a", "second", other)
    gate.go_on.set()

    assert wait_for(manager, "a", jobs.DONE).title == "first"
    assert not other.begun.is_set()


def test_the_same_key_runs_again_after_its_end(manager: JobManager) -> None:
    runs: list[int] = []
    for _ in range(2):
        manager.submit("a", "a", lambda control: runs.append(1))
        wait_for(manager, "a", jobs.DONE)

    assert len(runs) == 2


def test_cancelling_stops_the_work_and_keeps_what_is_known(manager: JobManager) -> None:
    known: list[int] = []
    begun = threading.Event()

    def work(control: JobControl) -> None:
        while True:
            known.append(len(known))
            control.on_update(lambda: tuple(known))
            begun.set()
            time.sleep(0.002)

    manager.submit("a", "a", work, lambda value, seconds: ("kept", value))
    begun.wait(WAIT_SECONDS)
    manager.cancel("a")

    status = wait_for(manager, "a", jobs.CANCELLED)
    assert status.result == ("kept", tuple(known))


def test_cancelling_before_there_is_anything_keeps_nothing(manager: JobManager) -> None:
    gate = Gate()
    finished: list[Any] = []
    manager.submit("a", "a", gate, lambda value, seconds: finished.append(value))
    gate.begun.wait(WAIT_SECONDS)
    manager.cancel("a")

    assert wait_for(manager, "a", jobs.CANCELLED).result is None
    assert finished == []


def test_a_job_that_is_asked_to_stop_says_so_until_it_has(manager: JobManager) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(control: JobControl) -> None:
        begun.set()
        go_on.wait(WAIT_SECONDS)
        control.check()

    manager.submit("a", "a", work)
    begun.wait(WAIT_SECONDS)
    manager.cancel("a")
    status = manager.status("a")
    assert status is not None
    assert (status.is_active, status.is_cancelling) == (True, True)

    go_on.set()
    assert not wait_for(manager, "a", jobs.CANCELLED).is_cancelling


def test_a_waiting_job_is_cancelled_at_once_and_never_runs(manager: JobManager) -> None:
    gate, waiting = Gate(), Gate()
    manager.submit("a", "a", gate)
    manager.submit("b", "b", waiting)
    manager.cancel("b")

    status = manager.status("b")
    assert status is not None
    assert status.state == jobs.CANCELLED
    gate.go_on.set()
    wait_for(manager, "a", jobs.DONE)
    manager.submit("c", "c", lambda control: None)
    wait_for(manager, "c", jobs.DONE)
    assert not waiting.begun.is_set()


def test_partial_results_are_built_twice_a_second_at_most(
    manager: JobManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    built: list[float] = []
    seen: list[Any] = []

    def work(control: JobControl) -> None:
        for _ in range(20):
            clock[0] += 0.125
            control.on_update(lambda: built.append(clock[0]) or len(built))
            status = manager.status("a")
            assert status is not None
            seen.append(status.partial)

    manager.submit("a", "a", work)
    while len(seen) < 20:
        time.sleep(0.005)

    assert len(built) == 5
    assert seen[-1] == 5


def test_a_known_error_is_told_in_its_own_words(manager: JobManager) -> None:
    def work(control: JobControl) -> None:
        control.progress(1, 2, "layer 1/2 conv1 - calibrate")
        raise DataError("calibration_data holds NaN in batch 2.")

    manager.submit("a", "a", work)

    failure = wait_for(manager, "a", jobs.FAILED).failure
    assert failure is not None
    assert failure.message == "calibration_data holds NaN in batch 2."
    assert failure.where == "layer 1/2 conv1 - calibrate"


def test_an_unknown_exception_is_logged_and_told_without_a_traceback(
    manager: JobManager, caplog: pytest.LogCaptureFixture
) -> None:
    def work(control: JobControl) -> None:
        raise ZeroDivisionError("secret inner words")

    with caplog.at_level(logging.ERROR, logger="dashboard.work.jobs"):
        manager.submit("a", "a", work)
        failure = wait_for(manager, "a", jobs.FAILED).failure

    assert failure is not None
    assert "ZeroDivisionError" in failure.message
    assert "secret" not in failure.message + failure.details
    assert "Traceback" in caplog.text
    assert "secret inner words" in caplog.text


@pytest.mark.parametrize("where", ["work", "finish", "snapshot"])
def test_the_worker_survives_every_exception(manager: JobManager, where: str) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError(where)

    def snapshot_fails(control: JobControl) -> None:
        control.on_update(fail)
        manager.cancel("a")
        control.check()

    works: dict[str, Callable[[JobControl], Any]] = {
        "work": fail,
        "finish": lambda control: 1,
        "snapshot": snapshot_fails,
    }
    manager.submit("a", "a", works[where], fail if where == "finish" else lambda v, s: v)
    wait_for(manager, "a", jobs.FAILED, jobs.CANCELLED)

    manager.submit("b", "b", lambda control: "alive")
    assert wait_for(manager, "b", jobs.DONE).result == "alive"


def test_ended_jobs_are_forgotten_and_bounded(manager: JobManager) -> None:
    for number in range(jobs.MAX_FINISHED + 10):
        manager.submit(str(number), "x", lambda control: None)
        wait_for(manager, str(number), jobs.DONE)

    known = [n for n in range(jobs.MAX_FINISHED + 10) if manager.status(str(n)) is not None]
    assert len(known) <= jobs.MAX_FINISHED + 1
    assert known[-1] == jobs.MAX_FINISHED + 9

    manager.forget(str(known[-1]))
    assert manager.status(str(known[-1])) is None


def test_time_left_is_told_from_what_is_done() -> None:
    def status(state: str, done: int, elapsed: float, step: float | None = 0.2) -> JobStatus:
        return JobStatus(
            "a", "a", state, done, 100, "", 0, elapsed, None, None, None, step_seconds=step
        )

    assert status(jobs.RUNNING, 25, 5.0).seconds_left == pytest.approx(15.0)
    assert status(jobs.RUNNING, 0, 5.0, None).seconds_left is None
    assert status(jobs.RUNNING, 50, 0.2).seconds_left is None
    assert status(jobs.RUNNING, 97, 20.0).seconds_left is None, "never under 1 s"
    assert status(jobs.DONE, 100, 9.0).seconds_left is None


def test_threads_do_not_keep_the_process_alive(manager: JobManager) -> None:
    gate = Gate()
    manager.submit("a", "a", gate)
    gate.begun.wait(WAIT_SECONDS)

    workers = [t for t in threading.enumerate() if t.name.startswith("dashboard-job")]
    assert workers
    assert all(thread.daemon for thread in workers)
    gate.go_on.set()


def test_closing_stops_what_runs_and_what_waits(manager: JobManager) -> None:
    running, waiting = Gate(), Gate()
    manager.submit("a", "a", running)
    manager.submit("b", "b", waiting)
    running.begun.wait(WAIT_SECONDS)

    manager.close()

    states = [manager.status(key) for key in ("a", "b")]
    assert [status.state for status in states if status is not None] == [jobs.CANCELLED] * 2
    assert not waiting.begun.is_set()


def test_active_keys_name_what_waits_and_runs(manager: JobManager) -> None:
    running, waiting = Gate(), Gate()
    manager.submit("a", "a", running)
    manager.submit("b", "b", waiting)
    assert running.begun.wait(WAIT_SECONDS)
    assert manager.active_keys() == ("a", "b")

    manager.cancel("b")
    assert manager.active_keys() == ("a",)
    running.go_on.set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
@pytest.mark.parametrize("where", ["work", "finish"])
def test_what_would_end_a_thread_ends_only_its_job(
    manager: JobManager, error: type[BaseException], where: str
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    manager.submit("a", "a", fail if where == "work" else lambda control: 1, fail)
    assert wait_for(manager, "a", jobs.FAILED).failure is not None

    manager.submit("b", "b", lambda control: "alive")
    assert wait_for(manager, "b", jobs.DONE).result == "alive"


def order_of(manager: JobManager, *keys: str) -> list[str]:
    statuses = {key: manager.status(key) for key in keys}
    return sorted(keys, key=lambda key: statuses[key].jobs_ahead)  # type: ignore[union-attr]


def test_everybodys_first_job_comes_before_anybodys_second(manager: JobManager) -> None:
    running = Gate()
    manager.submit("running", "x", running, visitor="ann")
    assert running.begun.wait(WAIT_SECONDS)
    ended: list[str] = []
    for key, visitor in (("a1", "ann"), ("b1", "bob"), ("b2", "bob"), ("c1", "cleo")):
        manager.submit(key, key, lambda control, key=key: ended.append(key), visitor=visitor)

    assert order_of(manager, "b2", "c1", "b1", "a1") == ["a1", "b1", "c1", "b2"]
    running.go_on.set()
    wait_for(manager, "b2", jobs.DONE)
    assert ended == ["a1", "b1", "c1", "b2"]


def test_who_comes_later_does_not_push_back_who_waits(manager: JobManager) -> None:
    running, second = Gate(), Gate()
    manager.submit("running", "x", running, visitor="ann")
    assert running.begun.wait(WAIT_SECONDS)
    manager.submit("a1", "x", second, visitor="ann")
    manager.submit("a2", "x", Gate(), visitor="ann")
    running.go_on.set()
    assert second.begun.wait(WAIT_SECONDS)
    for visitor in ("bob", "cleo", "dan"):
        manager.submit(visitor, "x", Gate(), visitor=visitor)

    assert order_of(manager, "dan", "cleo", "bob", "a2") == ["a2", "bob", "cleo", "dan"]
    manager.close()


def test_one_visitor_may_queue_only_so_much(manager: JobManager) -> None:
    gate = Gate()
    manager.submit("running", "x", gate, visitor="ann")
    assert gate.begun.wait(WAIT_SECONDS)
    for number in range(jobs.MAX_WAITING_PER_VISITOR):
        manager.submit(str(number), "x", gate, visitor="ann")

    with pytest.raises(jobs.QueueFullError, match=rf"Allowed: {jobs.MAX_WAITING_PER_VISITOR}\."):
        manager.submit("more", "x", gate, visitor="ann")
    assert manager.status("more") is None
    manager.submit("0", "x", gate, visitor="ann")  # waits already
    manager.submit("bob", "x", gate, visitor="bob")
    manager.close()


def fill(manager: JobManager, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.setattr(jobs, "MAX_WAITING", 3)
    gate = Gate()
    manager.submit("running", "x", gate, visitor="ann")
    assert gate.begun.wait(WAIT_SECONDS)
    for number in range(3):
        manager.submit(str(number), "x", Gate(), visitor=f"visitor {number}")
    return gate


def test_the_queue_is_bounded(manager: JobManager, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(manager, monkeypatch)

    with pytest.raises(jobs.QueueFullError, match=r"3 computations of all visitors wait"):
        manager.submit("more", "x", Gate(), visitor="zoe")
    manager.close()


def test_a_full_queue_drops_what_nobody_waits_for(
    manager: JobManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    fill(manager, monkeypatch)
    clock[0] += jobs.WATCH_SECONDS + 1
    for key in ("running", "0", "2"):
        manager.status(key, "somebody")

    assert order_of(manager, "0", "1", "2") == ["0", "2", "1"]
    manager.submit("more", "x", Gate(), visitor="zoe")

    dropped = manager.status("1")
    assert dropped is not None
    assert dropped.state == jobs.CANCELLED
    assert dropped.failure is not None
    monkeypatch.undo()
    manager.close()


def test_a_running_job_makes_way_only_when_it_is_left_and_somebody_waits(
    manager: JobManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    left, wanted = Gate(), Gate()
    manager.submit("left", "x", left, visitor="ann")
    assert left.begun.wait(WAIT_SECONDS)

    def state(key: str) -> tuple[str, bool]:
        status = manager.status(key)
        assert status is not None
        return status.state, status.is_cancelling

    clock[0] += jobs.WATCH_SECONDS + 1
    assert state("left") == (jobs.RUNNING, False)  # nobody needs its place
    manager.status("left", "bob")
    manager.submit("wanted", "x", wanted, visitor="cleo")
    assert state("left") == (jobs.RUNNING, False)  # Bob looks at it

    clock[0] += jobs.WATCH_SECONDS + 1
    manager.status("wanted", "cleo")
    assert wanted.begun.wait(WAIT_SECONDS)
    status = manager.status("left")
    assert status is not None
    assert (status.state, status.result) == (jobs.CANCELLED, None)
    assert status.failure is not None
    assert "somebody else was waiting" in status.failure.message
    wanted.go_on.set()


def test_watchers_are_counted_once_each_while_work_goes_on(manager: JobManager) -> None:
    gate = Gate()
    manager.submit("a", "a", gate, visitor="ann")
    manager.submit("b", "b", gate, visitor="ann")
    manager.status("a", "bob")
    manager.status("a", "bob")
    assert manager.count_watchers(10.0) == 2

    gate.go_on.set()
    wait_for(manager, "b", jobs.DONE)
    assert manager.count_watchers(10.0) == 0


def test_the_time_left_comes_from_the_slowest_stage(manager: JobManager) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(control: JobControl) -> None:
        for step in range(1, 11):
            control.progress(step, 20, f"calibrate: batch {step}")
        time.sleep(0.2)
        control.progress(11, 20, "measure every layer's error: batch 1")
        begun.set()
        go_on.wait(WAIT_SECONDS)

    manager.submit("a", "a", work)
    assert begun.wait(WAIT_SECONDS)
    status = manager.status("a")
    assert status is not None
    assert status.step_seconds is not None
    assert 0.2 <= status.step_seconds < 0.4
    later = replace(status, elapsed_seconds=2.0, idle_seconds=0.0)
    assert later.seconds_left == pytest.approx(9 * status.step_seconds)
    go_on.set()


def test_a_long_stage_of_short_steps_tells_the_time_left_by_itself(
    manager: JobManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, left, ended = [100.0], list[float | None](), threading.Event()
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])

    def work(control: JobControl) -> None:
        clock[0] += 4.0
        control.progress(1, 401, "measure value ranges: batch 1")
        for step in range(2, 202):
            clock[0] += 0.125
            control.progress(step, 401, "round by AdaRound: fc (layer 1 of 2)")
            status = manager.status("a")
            assert status is not None
            left.append(status.seconds_left)
        ended.set()

    manager.submit("a", "a", work)
    assert ended.wait(WAIT_SECONDS)

    assert left[0] == pytest.approx(399 * 4.0)
    assert left[17] == pytest.approx((399 - 17) * 4.0)  # not yet long enough
    assert left[19] == pytest.approx((399 - 19) * 0.125)
    assert left[-1] == pytest.approx(200 * 0.125)


def test_what_is_known_before_the_last_step_is_kept_at_once(manager: JobManager) -> None:
    kept: list[tuple[object, bool]] = []
    go_on = threading.Event()

    def work(control: JobControl) -> str:
        control.progress(1, 3, "first")
        control.on_update(lambda: "one of two")
        control.progress(2, 3, "second")
        control.on_update(lambda: "all but the last")
        go_on.wait(WAIT_SECONDS)
        return "all"

    manager.submit("a", "a", work, keep=lambda value, seconds: kept.append((value, seconds >= 0)))
    deadline = time.monotonic() + WAIT_SECONDS
    while not kept and time.monotonic() < deadline:
        time.sleep(0.005)
    assert kept == [("all but the last", True)]
    status = manager.status("a")
    assert status is not None
    assert status.partial == "all but the last"
    go_on.set()
    assert wait_for(manager, "a", jobs.DONE).result == "all"


def test_so_many_finished_jobs_are_kept_and_no_more(manager: JobManager) -> None:
    def run(name: str) -> None:
        manager.submit(name, name, lambda control: name, lambda value, seconds: value)
        wait_for(manager, name, jobs.DONE)

    names = [f"job {number}" for number in range(jobs.MAX_FINISHED + 2)]
    for name in names[: jobs.MAX_FINISHED + 1]:
        run(name)  # the last one was submitted when exactly so many had ended
    assert all(manager.status(name) for name in names[: jobs.MAX_FINISHED + 1])

    run(names[-1])
    assert manager.status(names[0]) is None
    assert all(manager.status(name) for name in names[1:])
