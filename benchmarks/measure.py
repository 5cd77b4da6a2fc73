"""Timing several tasks in turn, so that a slow moment of the machine hits all of them alike."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements.

    Attributes:
        median: Middle value.
        q1: First quartile.
        q3: Third quartile.
        runs: Number of measurements.
    """

    median: float
    q1: float
    q3: float
    runs: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarize measurements; at least one."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q1, q3, len(values))


@dataclass(frozen=True)
class Measurement:
    """One task, measured beside a reference.

    Attributes:
        seconds: Wall-clock time of a run.
        cpu_seconds: Processor time of all threads of a run.
        ratio: Time of a run over the time of the reference in the same round.
        cpu_ratio: The same with the processor time of all threads, which other work on the
            machine disturbs less.
    """

    seconds: Spread
    cpu_seconds: Spread
    ratio: Spread
    cpu_ratio: Spread


def measure_in_turn(
    tasks: Mapping[str, Callable[[], object]], reference: str, rounds: int
) -> dict[str, Measurement]:
    """Run all tasks once untimed, then in turn for some rounds.

    Args:
        tasks: Name -> what to time.
        reference: Name of the task that the others are compared with.
        rounds: How often each is timed, at least 1.
    """
    wall: dict[str, list[float]] = {name: [] for name in tasks}
    cpu: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(rounds):
        for name, task in tasks.items():
            gc.collect()
            start, cpu_start = time.perf_counter(), time.process_time()
            task()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    return {
        name: Measurement(
            Spread.of(wall[name]),
            Spread.of(cpu[name]),
            Spread.of(_ratios(wall[name], wall[reference])),
            Spread.of(_ratios(cpu[name], cpu[reference])),
        )
        for name in tasks
    }


def _ratios(values: list[float], references: list[float]) -> list[float]:
    return [value / base for value, base in zip(values, references, strict=True)]


def cpu_milliseconds(task: Callable[[], object]) -> float:
    """Return the processor time of one run."""
    start = time.process_time()
    task()
    return 1e3 * (time.process_time() - start)


def run_python(script: str, *arguments: str) -> str:
    """Return what a script prints in a process of its own."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
