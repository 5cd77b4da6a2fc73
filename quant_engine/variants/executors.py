"""Running a sweep on an executor: cut by batch and by variants, merged to what one process gives.

A task is one batch and some of the variants. It carries the model as bytes, which a worker unpacks
once and keeps for the next task, so any `concurrent.futures.Executor` will do, on this machine or
on many. Variants do not depend on each other, so how the work is cut changes nothing; a task runs
with as many threads as the sender has, because the last bits of a sum may depend on how it was
divided. The same bits everywhere also need the same kind of processor and the same torch.

Only so many tasks are under way at a time: memory holds a few batches, however long the data is.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from quant_engine.errors import QuantizationError, SchemeError, WorkerError
from quant_engine.model.batches import Batch, map_labels
from quant_engine.model.nesting import map_nested
from quant_engine.variants.outcomes import BatchOutcome
from quant_engine.variants.runner import Variant, VariantRunner

VARIANTS_PER_TASK = 8
TASKS_UNDER_WAY = 64
_POLL_SECONDS = 0.2

# The number of threads to compute with belongs to the process, not to one of its threads.
_ONE_TASK_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class SweepTask:
    """Some variants on one batch.

    Attributes:
        runner: The `VariantRunner`, packed.
        batch: The batch, packed.
        variants: What to run.
        bases: Variants that others are near to.
        threads: Threads to compute with.
    """

    runner: bytes
    batch: bytes
    variants: tuple[Variant, ...]
    bases: tuple[Variant, ...]
    threads: int


def run_task(task: SweepTask) -> BatchOutcome:
    """Do a task; this is what runs on a worker. A process does one at a time."""
    with _ONE_TASK_AT_A_TIME:
        threads = torch.get_num_threads()
        torch.set_num_threads(task.threads)
        try:
            runner: VariantRunner = _unpack_runner(task.runner)
            return runner.run(_unpack(task.batch), task.variants, task.bases)
        finally:
            torch.set_num_threads(threads)


def run_here(
    runner: VariantRunner,
    batches: Iterable[Batch],
    variants: Sequence[Variant],
    bases: Sequence[Variant],
    on_progress: Callable[[int, int], None],
) -> Generator[BatchOutcome, None, None]:
    """Run all variants on every batch in this process.

    Args:
        runner: What runs them.
        batches: Read once, one at a time.
        variants: What to run.
        bases: Variants that others are near to.
        on_progress: Called as on_progress(batch, variants finished since the last call), batches
            counted from 1; may raise to cancel.

    Yields:
        One outcome for each batch, in order.
    """
    for number, batch in enumerate(batches, start=1):

        def after(_finished: int, number: int = number) -> None:
            on_progress(number, 1)

        yield runner.run(batch, variants, bases, after)


def run_elsewhere(
    executor: Executor,
    runner: VariantRunner,
    batches: Iterable[Batch],
    variants: Sequence[Variant],
    bases: Sequence[Variant],
    on_progress: Callable[[int, int], None],
) -> Generator[BatchOutcome, None, None]:
    """Run all variants on every batch on an executor; as `run_here`, with the same results.

    `on_progress` is called several times a second even while nothing finishes. When it raises, or
    a task fails, tasks that have not begun are cancelled.

    Raises:
        SchemeError: If the executor's processes would be forked.
        WorkerError: If model or metric cannot be sent, or a task failed for a reason of its own.
    """
    _refuse_fork(executor)
    packed = _pack(runner)
    cuts = _cut(variants)
    source = enumerate(batches, start=1)
    under_way: deque[tuple[int, list[Future[BatchOutcome]]]] = deque()
    unread: dict[Future[BatchOutcome], tuple[int, int]] = {}
    try:
        while True:
            while not under_way or (len(under_way) + 1) * len(cuts) <= TASKS_UNDER_WAY:
                number, batch = next(source, (0, None))
                if batch is None:
                    break
                sent = _pack(_own_memory(batch))
                futures = []
                for cut in cuts:
                    task = SweepTask(packed, sent, cut, tuple(bases), torch.get_num_threads())
                    futures.append(executor.submit(run_task, task))
                    unread[futures[-1]] = (number, len(cut))
                under_way.append((number, futures))
            if not under_way:
                return
            number, futures = under_way[0]
            finished, _ = wait(unread, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in finished:
                on_progress(*unread.pop(future))
            if not finished:
                on_progress(number, 0)
            if all(future.done() for future in futures):
                yield BatchOutcome.merge([_result(future) for future in futures])
                under_way.popleft()
    finally:
        for _, futures in under_way:
            for future in futures:
                future.cancel()


def _cut(variants: Sequence[Variant]) -> list[tuple[Variant, ...]]:
    """Divide variants into runs of about the same length: neighbours replay the same prefix."""
    count = max(1, round(len(variants) / VARIANTS_PER_TASK))
    edges = [len(variants) * index // count for index in range(count + 1)]
    return [tuple(variants[start:stop]) for start, stop in pairwise(edges)]


def _result(future: Future[BatchOutcome]) -> BatchOutcome:
    try:
        return future.result()
    except QuantizationError:
        raise
    except Exception as error:
        raise WorkerError(
            f"A task failed on the executor: {type(error).__name__}: {error}. Workers need this "
            "package, the module that defines the model, and any function given as metric. If a "
            "worker process died, start a new executor and measure again."
        ) from error


def _refuse_fork(executor: Executor) -> None:
    if not isinstance(executor, ProcessPoolExecutor):
        return
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise SchemeError(
            "The executor forks its processes, in which torch's threads would wait forever. Give "
            "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))."
        )


def _own_memory(batch: Batch) -> Batch:
    """Copy the tensors: a slice would be sent with all that it is a slice of."""

    def copied(value: object) -> object:
        return value.detach().clone() if isinstance(value, Tensor) else value

    return replace(
        batch,
        args=map_nested(batch.args, copied),
        kwargs=map_nested(dict(batch.kwargs), copied),
        labels=map_labels(batch.labels, lambda tensor: tensor.clone()),
    )


def _pack(value: object) -> bytes:
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
    except Exception as error:
        raise WorkerError(
            f"The work cannot be sent to an executor: {type(error).__name__}: {error}. Define the "
            "model's classes, and a function given as metric, at the top level of a module."
        ) from error
    return buffer.getvalue()


def _unpack(packed: bytes) -> Any:
    # Made by `_pack` in the process that sent the task, which could send any code anyway.
    return torch.load(io.BytesIO(packed), weights_only=False)


_unpack_runner = lru_cache(maxsize=1)(_unpack)
