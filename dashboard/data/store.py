"""Finished runs: the newest in memory, all of them on disk, so that they survive a restart.

A file that cannot be read is named and left alone, whatever it is. The number of files is bounded.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from dashboard.data.prediction import Prediction
from dashboard.data.prediction_files import pack_prediction, unpack_prediction
from dashboard.data.runs import Run, RunSummary, run_from_text, run_to_text, summary_from_line
from dashboard.data.stored_files import read_first_line, read_stored, remove_oldest, write_stored
from quant_engine.errors import StorageError

__all__ = ["HOME_VARIABLE", "Run", "RunStore", "RunSummary", "default_home"]

HOME_VARIABLE = "QUANT_DASHBOARD_HOME"
MAX_RUNS = 50
MAX_IN_MEMORY = 12
MAX_BYTES = 64 * 2**20
MAX_SUMMARY_BYTES = 2**20

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
        self.unsaved = 0  # runs that could only be kept in memory so far
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
            run = run_from_text(read_stored(path, MAX_BYTES).decode())
            _check_name(path, run.id)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # nothing that a file holds may end a page
            _LOG.warning("saved run %s cannot be read: %.300s", path, error)
            self._broken[path] = stamp
            return None
        self._remember(run)
        return run

    def put(self, run: Run) -> str | None:
        """Keep a run; return a plain sentence if it could only be kept in memory."""
        self._remember(run)
        path = self._path(run.id)
        try:
            write_stored(path, run_to_text(run).encode())
        except OSError as error:
            _LOG.warning("run %s cannot be saved: %s", run.id, error)
            reason = error.strerror or type(error).__name__
            self.problem = (
                f"The run could not be saved in {self.folder} ({reason}): it is gone when the "
                f"server ends. Make room there, or name another folder in {HOME_VARIABLE}, and run "
                "it again; or download its results now."
            )
            self.unsaved += 1
        else:
            self.problem = None
            broken = [other for other in self._files() if self._head(other) is None]
            remove_oldest(path, self._max_runs, spared=broken)
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
        files = self._files()
        with self._lock:
            self._heads = {path: head for path, head in self._heads.items() if path in files}
        for path in files:
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

    def _files(self) -> Sequence[Path]:
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
                is_broken = self._broken.get(path) == stamp
            if is_broken:
                return None
            if known is not None and known[0] == stamp:
                return known[1]
            summary: RunSummary | None
            try:
                summary = summary_from_line(read_first_line(path, MAX_SUMMARY_BYTES).decode())
                _check_name(path, summary.id)
            except Exception as error:  # nothing that a file holds may end a page
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


def _check_name(path: Path, run_id: str) -> None:
    """A run is found by its name, so a copy under another name would never open."""
    if path.stem != run_id:
        raise StorageError(f"{path.name} holds the run {run_id}, which {run_id}.jsonl should hold.")


MAX_FILES = 20


MAX_PREDICTIONS_IN_MEMORY = 4


MAX_PREDICTION_BYTES = 256 * 2**20


SUFFIX = ".prediction.npz"


class PredictionStore:
    """Predictions by their id, safe to use from several threads and several processes."""

    def __init__(self, home: Path, max_files: int = MAX_FILES) -> None:
        self.folder = home / "predictions"
        self.problem: str | None = None  # why the newest prediction is not on disk
        self.unsaved = 0  # predictions that could only be kept in memory so far
        self._max_files = max_files
        self._memory: OrderedDict[str, Prediction] = OrderedDict()
        self._broken: dict[Path, int] = {}
        self._lock = threading.RLock()

    def get(self, key: str) -> Prediction | None:
        """Return a prediction, or None if there is none that can be read."""
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return self._memory[key]
        path, stamp = self._path(key), 0
        try:
            stamp = path.stat().st_mtime_ns
            if self._broken.get(path) == stamp:
                return None
            prediction = unpack_prediction(read_stored(path, MAX_PREDICTION_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # nothing that a file holds may end a page
            _LOG.warning("stored prediction %s cannot be read: %.300s", path, error)
            self._broken[path] = stamp
            return None
        self._remember(key, prediction)
        return prediction

    def put(self, key: str, prediction: Prediction) -> None:
        """Keep a prediction; `problem` says why it could only be kept in memory."""
        self._remember(key, prediction)
        path = self._path(key)
        try:
            write_stored(path, pack_prediction(prediction))
        except OSError as error:
            _LOG.warning("prediction %s cannot be saved: %s", key, error)
            reason = error.strerror or type(error).__name__
            self.problem = (
                f"The prediction could not be saved in {self.folder} ({reason}): it is gone when "
                f"the server ends. Make room there, or name another folder in {HOME_VARIABLE}, and "
                "measure it again."
            )
            self.unsaved += 1
        else:
            self.problem = None
            remove_oldest(path, self._max_files, spared=tuple(self._broken))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _remember(self, key: str, prediction: Prediction) -> None:
        with self._lock:
            self._memory[key] = prediction
            self._memory.move_to_end(key)
            while len(self._memory) > MAX_PREDICTIONS_IN_MEMORY:
                self._memory.popitem(last=False)
