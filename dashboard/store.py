"""Finished runs: the newest in memory, all of them on disk, so that they survive a restart.

A file is written under another name and then moved into place, so a reader never sees half of
one. A file that cannot be read is skipped and named. The number of files is bounded.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dashboard.runs import Run, RunSummary, run_from_text, run_to_text, summary_from_line
from quant_engine.errors import QuantizationError

__all__ = ["HOME_VARIABLE", "Run", "RunStore", "RunSummary", "default_home"]

HOME_VARIABLE = "QUANT_DASHBOARD_HOME"
MAX_RUNS = 50
MAX_IN_MEMORY = 12

_LOG = logging.getLogger(__name__)


def default_home() -> Path:
    """Return the folder for saved runs: QUANT_DASHBOARD_HOME, or one in the user's data folder."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".local" / "share") / "quant_dashboard"


class RunStore:
    """Runs by id, safe to use from several threads and several processes."""

    def __init__(self, home: Path, max_runs: int = MAX_RUNS) -> None:
        self.folder = home / "runs"
        self.problem: str | None = None  # why the newest run is not on disk
        self._max_runs = max_runs
        self._memory: OrderedDict[str, Run] = OrderedDict()
        self._heads: dict[Path, tuple[int, RunSummary | None]] = {}
        self._broken: dict[Path, int] = {}
        self._lock = threading.RLock()

    def get(self, run_id: str) -> Run | None:
        """Return a run, or None if there is none that can be read."""
        with self._lock:
            if run_id in self._memory:
                self._memory.move_to_end(run_id)
                return self._memory[run_id]
        path, stamp = self._path(run_id), 0
        try:
            stamp = path.stat().st_mtime_ns
            if self._broken.get(path) == stamp:
                return None
            run = run_from_text(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, QuantizationError) as error:
            _LOG.warning("saved run %s cannot be read: %.300s", path, error)
            self._broken[path] = stamp
            return None
        self._remember(run)
        return run

    def put(self, run: Run) -> str | None:
        """Keep a run; return a plain sentence if it could only be kept in memory."""
        self._remember(run)
        path = self._path(run.id)
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(run_to_text(run), encoding="utf-8")
            part.replace(path)
            self._drop_oldest()
        except OSError as error:
            _LOG.warning("run %s cannot be saved: %s", run.id, error)
            with suppress(OSError):
                part.unlink()
            reason = error.strerror or type(error).__name__
            self.problem = (
                f"The run could not be saved to disk ({reason}); it stays until a restart."
            )
        else:
            self.problem = None
        return self.problem

    def remove(self, run_id: str) -> None:
        """Forget a run; nothing happens if there is none."""
        with self._lock:
            self._memory.pop(run_id, None)
        try:
            self._path(run_id).unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("saved run %s cannot be removed: %s", run_id, error)

    def recent(self) -> tuple[tuple[RunSummary, ...], tuple[str, ...]]:
        """Return the runs, newest first, and the names of files that cannot be read."""
        found: dict[str, RunSummary] = {}
        broken: list[str] = []
        for path in self._files():
            summary = self._head(path)
            if summary is None:
                broken.append(path.name)
            else:
                found[summary.id] = summary
        with self._lock:
            for run in self._memory.values():
                found.setdefault(run.id, run.summary())
        newest = sorted(found.values(), key=lambda s: s.created, reverse=True)
        return tuple(newest[: self._max_runs]), tuple(sorted(broken))

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.jsonl"

    def _files(self) -> Iterable[Path]:
        try:
            return sorted(self.folder.glob("*.jsonl"))
        except OSError:
            return ()

    def _head(self, path: Path) -> RunSummary | None:
        """Read a file's first line, once for each version of the file."""
        try:
            stamp = path.stat().st_mtime_ns
            with self._lock:
                known = self._heads.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            summary: RunSummary | None
            try:
                with path.open(encoding="utf-8") as file:
                    summary = summary_from_line(file.readline())
            except (UnicodeDecodeError, QuantizationError) as error:
                _LOG.warning("saved run %s cannot be read: %.300s", path, error)
                summary = None
            with self._lock:
                self._heads[path] = (stamp, summary)
            return summary
        except OSError:
            return None

    def _remember(self, run: Run) -> None:
        with self._lock:
            self._memory[run.id] = run
            self._memory.move_to_end(run.id)
            while len(self._memory) > MAX_IN_MEMORY:
                self._memory.popitem(last=False)

    def _drop_oldest(self) -> None:
        """Remove the oldest files, so that the folder stays bounded."""
        aged = sorted(self._files(), key=lambda path: path.stat().st_mtime_ns)
        for path in aged[: max(0, len(aged) - self._max_runs)]:
            path.unlink(missing_ok=True)
            with self._lock:
                self._heads.pop(path, None)
