"""A sweep on an executor gives, bit for bit, what one process gives."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_engine import Output, Recipe, SensitivityReport, calibrate, measure_sensitivity
from quant_engine.errors import ModelForwardError, SchemeError, WorkerError
from quant_engine.variants.executors import TASKS_UNDER_WAY, VARIANTS_PER_TASK, SweepTask
from quant_engine.variants.options import bit_options
from tests.quant_engine.sweep_models import (
    Branches,
    Failing,
    Noisy,
    largest_change,
    make_batches,
    make_model,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "left out": {"direction": "leave_one_out"},
    "options": {"options": bit_options(Recipe.default(), (8, 4, 2))},
    "weights": {"parts": "weights"},
    "activations": {"parts": "activations"},
    "metric": {"metric": largest_change},
}


class Recorder(Executor):
    """Runs every task at once, and remembers it.

    In this process, but with a random state of its own, as another process has.
    """

    def __init__(self) -> None:
        self.tasks: list[SweepTask] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks.append(args[0])
        future: Future[Any] = Future()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(len(self.tasks))
                future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Waiting(Executor):
    """Never gets round to anything."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


def measure(model: nn.Module, executor: Executor | None, **settings: Any) -> SensitivityReport:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return measure_sensitivity(model, make_batches(), executor=executor, **settings)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_cutting_the_work_changes_nothing(settings: dict[str, Any]) -> None:
    recorder, model = Recorder(), make_model()

    assert measure(model, recorder, **settings) == measure(model, None, **settings)
    assert max(len(task.variants) for task in recorder.tasks) < 2 * VARIANTS_PER_TASK


def test_work_is_cut_by_batches_and_by_layers() -> None:
    recorder, model = Recorder(), make_model()

    measure(model, recorder, options=bit_options(Recipe.default()), with_cumulative=False)

    batches = {task.batch for task in recorder.tasks}
    assert len(batches) == 3
    for batch in batches:
        parts = [task.variants for task in recorder.tasks if task.batch == batch]
        assert len(parts) > 2
        # 10 layers and the whole model under 5 options, each of them once
        assert len({frozenset(v.items()) for part in parts for v in part}) == 11 * 5
        assert sum(len(part) for part in parts) == 11 * 5


def test_a_batch_is_sent_without_the_tensor_it_is_a_slice_of() -> None:
    recorder = Recorder()
    inputs = torch.randn(50_000, 6)

    measure_sensitivity(make_model(), inputs[:8], executor=recorder)

    assert len(recorder.tasks[0].batch) < 10_000


def test_threads_give_the_same() -> None:
    model = make_model()
    with ThreadPoolExecutor(3) as executor:
        assert measure(model, executor) == measure(model, None)


def test_threads_of_a_process_run_one_task_at_a_time() -> None:
    # They would share random state and number of threads.
    running: list[int] = []
    most: list[int] = []

    def metric(output: Tensor, changed: Tensor) -> Tensor:
        running.append(threading.get_ident())
        time.sleep(0.001)
        most.append(len(set(running)))
        running.remove(threading.get_ident())
        return output[:, 0]

    global local_metric
    local_metric = metric
    with ThreadPoolExecutor(3) as executor:
        measure(make_model(), executor, metric=forwarding_metric)

    assert set(most) == {1}


def test_a_model_that_draws_random_numbers_draws_the_same_ones_everywhere() -> None:
    model = make_model(Noisy)
    here = measure(model, None)

    assert measure(model, Recorder()) == here
    with ThreadPoolExecutor(3) as executor:
        assert measure(model, executor) == here
    assert here.notes[-1] == "Every run was a full forward pass: the model draws random numbers."


def test_the_workers_thread_count_is_the_senders_while_a_task_runs() -> None:
    seen: list[int] = []

    def metric(output: Tensor, changed: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return output[:, 0]

    class Elsewhere(Recorder):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            torch.set_num_threads(3)
            try:
                return super().submit(fn, *args, **kwargs)
            finally:
                assert torch.get_num_threads() == 3
                torch.set_num_threads(threads)

    threads = torch.get_num_threads()
    global local_metric
    local_metric = metric
    measure(make_model(), Elsewhere(), metric=forwarding_metric)

    assert seen
    assert set(seen) == {threads}


local_metric: Callable[..., Tensor] = largest_change


def forwarding_metric(output: Tensor, changed: Tensor) -> Tensor:
    return local_metric(output, changed)


def test_progress_counts_every_run_and_may_cancel() -> None:
    steps: list[tuple[int, int, str]] = []
    measure(make_model(), Recorder(), progress=lambda *step: steps.append(step))
    done, total, _ = steps[-1]
    assert done == total
    assert any("batch 3, run" in text for *_, text in steps)

    executor = Waiting()

    def cancel(done: int, total: int, text: str) -> None:
        if "one by one" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(make_model(), executor, progress=cancel)
    assert executor.futures
    assert all(future.cancelled() for future in executor.futures)


def test_only_so_many_tasks_are_under_way() -> None:
    executor = Waiting()
    read: list[int] = []

    def many() -> Iterator[Tensor]:
        for number in range(1000):
            read.append(number)
            yield torch.full((2, 6), float(number))

    class Loader:
        def __iter__(self) -> Iterator[Tensor]:
            return many()

    def cancel(done: int, total: int, text: str) -> None:
        if "one by one" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(
            make_model(),
            make_batches(),
            evaluation_data=Loader(),
            executor=executor,
            progress=cancel,
        )
    assert len(executor.futures) <= TASKS_UNDER_WAY
    assert len(read) <= TASKS_UNDER_WAY + 1


def test_partial_results_come_batch_by_batch() -> None:
    seen: list[SensitivityReport] = []
    final = measure(make_model(), Recorder(), on_update=lambda report: seen.append(report()))

    assert [report.samples for report in seen] == [8, 16, 24]
    assert all(report.is_partial for report in seen)
    assert seen[-1].layers == final.layers


def test_what_fails_on_a_worker_fails_here() -> None:
    batches = make_batches()
    calibration = calibrate(make_model(), batches)
    with pytest.raises(ModelForwardError, match=r"evaluation_data, batch 0.*no such luck"):
        measure_sensitivity(
            make_model(Failing), calibration, evaluation_data=batches, executor=Recorder()
        )


def test_a_metric_that_cannot_be_sent_is_refused() -> None:
    recorder = Recorder()
    with pytest.raises(SchemeError, match=r"metric cannot be sent .*top level of a module"):
        measure(make_model(), recorder, metric=lambda output, _: output[:, 0])
    with pytest.raises(SchemeError, match=r"select cannot be sent .*top level of a module"):
        measure(make_model(), recorder, output=Output(select=lambda answer: answer))
    # In this process it is no matter.
    measure(make_model(), None, output=Output(select=lambda answer: answer))


def test_a_lost_worker_is_explained() -> None:
    class Broken(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(OSError("gone"))
            return future

    with pytest.raises(WorkerError, match=r"OSError: gone.*measure again"):
        measure(make_model(), Broken())


def test_forked_processes_are_refused() -> None:
    context = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(1, mp_context=context) as executor,
        pytest.raises(SchemeError, match="spawn"),
    ):
        measure(make_model(), executor)


@pytest.mark.slow
def test_processes_give_the_same() -> None:
    # One, as each imports torch anew; that tasks may end in any order is what threads show.
    context = multiprocessing.get_context("spawn")
    model, noisy = make_model(Branches), make_model(Noisy)
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        for settings in SETTINGS.values():
            assert measure(model, executor, **settings) == measure(model, None, **settings)
        assert measure(noisy, executor) == measure(noisy, None)
