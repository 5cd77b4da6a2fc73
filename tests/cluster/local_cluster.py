"""A Dask scheduler and workers, each a process of its own, on the loopback interface only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
_START_SECONDS = 60
# Without dashboard there still is an HTTP server, on all interfaces unless it is told.
_LOOPBACK_ONLY = ("--host", HOST, "--no-dashboard", "--dashboard-address", f"{HOST}:0")


@dataclass(frozen=True)
class LocalCluster:
    """Where the scheduler listens, and its workers by name."""

    address: str
    workers: dict[str, subprocess.Popen[bytes]]


@contextmanager
def local_cluster(folder: Path, workers: int = 2) -> Iterator[LocalCluster]:
    """Start a scheduler and workers, and end them afterwards; their logs are in `folder`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DASK_DISTRIBUTED__DASHBOARD__LINK": "",
        }
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments, *_LOOPBACK_ONLY],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    try:
        start("scheduler", "distributed.cli.dask_scheduler", "--port", "0")
        address = _wait_for_address(folder / "scheduler.log")
        found = {
            name: start(
                name, "distributed.cli.dask_worker", address, "--name", name, "--no-nanny",
                "--nthreads", "1", "--memory-limit", "0", "--local-directory", str(folder),
            )
            for name in (f"worker-{number}" for number in range(workers))
        }  # fmt: skip
        yield LocalCluster(address, found)
    finally:
        for process in reversed(started):
            process.kill()
        for process in started:
            process.wait()


def _wait_for_address(log: Path) -> str:
    for _ in range(_START_SECONDS * 10):
        match = re.search(r"Scheduler at:\s+(tcp://\S+)", log.read_text(errors="replace"))
        if match:
            return match[1]
        time.sleep(0.1)
    raise TimeoutError(f"The scheduler did not start:\n{log.read_text(errors='replace')}")
