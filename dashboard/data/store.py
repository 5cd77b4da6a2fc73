"""Runs and predictions: the newest in memory, all of them on disk, so that they survive a restart.

A file that was found to be unreadable is left alone. The number of files is bounded.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from dashboard.data.prediction import Prediction
from dashboard.data.prediction_files import pack_prediction, unpack_prediction
from dashboard.data.runs import Run, RunSummary, run_from_text, run_to_text, summary_from_line
from dashboard.data.stored_files import read_first_line, read_stored, remove_oldest, write_stored
from quant_engine.errors import StorageError

HOME_VARIABLE = "QUANT_DASHBOARD_HOME"
MAX_SUMMARY_BYTES = 2**20

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


def default_home() -> Path:
    """Return the folder for saved runs: QUANT_DASHBOARD_HOME, or one in the user's data folder."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".local" / "share") / "quant_dashboard"


class DiskStore(Generic[T]):
    """Values by key, one file per value, safe to use from several threads and several processes.

    Attributes:
        folder: Where the files are.
        problem: Why the newest value is not on disk; None if it is.
        unsaved: Values that could only be kept in memory so far.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str]
    remedy: ClassVar[str]
    max_bytes: ClassVar[int]
    max_in_memory: ClassVar[int]

    def __init__(
        self,
        folder: Path,
        max_files: int,
        pack: Callable[[T], bytes],
        unpack: Callable[[Path, bytes], T],
    ) -> None:
        self.folder = folder
        self.problem: str | None = None
        self.unsaved = 0
        self._max_files = max_files
        self._pack, self._unpack = pack, unpack
        self._memory: OrderedDict[str, T] = OrderedDict()
        self._broken: dict[Path, int] = {}  # date of the version that cannot be read
        self._lock = threading.RLock()

    def get(self, key: str) -> T | None:
        """Return a value, or None if there is none that can be read."""
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return self._memory[key]
        path, stamp = self._path(key), 0
        try:
            stamp = path.stat().st_mtime_ns
            if self._broken.get(path) == stamp:
                return None
            value = self._unpack(path, read_stored(path, self.max_bytes))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # nothing that a file holds may end a page
            _LOG.warning("saved %s %s cannot be read: %.300s", self.kind, path, error)
            with self._lock:
                self._broken[path] = stamp
            return None
        self._remember(key, value)
        return value

    def _keep(self, key: str, value: T) -> str | None:
        """Keep a value; return a plain sentence if it could only be kept in memory."""
        self._remember(key, value)
        path = self._path(key)
        try:
            write_stored(path, self._pack(value))
        except OSError as error:
            _LOG.warning("%s %s cannot be saved: %s", self.kind, key, error)
            reason = error.strerror or type(error).__name__
            self.problem = (
                f"The {self.kind} could not be saved in {self.folder} ({reason}): it is gone when "
                f"the server ends. Make room there, or name another folder in {HOME_VARIABLE}, and "
                f"{self.remedy}."
            )
            self.unsaved += 1
        else:
            self.problem = None
            remove_oldest(path, self._max_files, spared=self._unreadable())
        return self.problem

    def _unreadable(self) -> Collection[Path]:
        """Return the files found to be unreadable that have not been replaced since."""
        with self._lock:
            broken = dict(self._broken)
        unchanged = []
        for path, stamp in broken.items():
            with suppress(OSError):
                if path.stat().st_mtime_ns == stamp:
                    unchanged.append(path)
        return unchanged

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{self.suffix}"

    def _remember(self, key: str, value: T) -> None:
        with self._lock:
            self._memory[key] = value
            self._memory.move_to_end(key)
            while len(self._memory) > self.max_in_memory:
                self._memory.popitem(last=False)


class RunStore(DiskStore[Run]):
    """Finished runs by id."""

    kind, suffix = "run", ".jsonl"
    remedy = "run it again; or download its results now"
    max_bytes, max_in_memory = 64 * 2**20, 12

    def __init__(self, home: Path, max_files: int = 50) -> None:
        super().__init__(home / "runs", max_files, lambda run: run_to_text(run).encode(), _read_run)
        self._heads: dict[Path, tuple[int, RunSummary | None]] = {}

    def put(self, run: Run) -> str | None:
        """Keep a run; return a plain sentence if it could only be kept in memory."""
        return self._keep(run.id, run)

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
        return tuple(newest[: self._max_files]), tuple(sorted(broken))

    def _unreadable(self) -> Collection[Path]:
        return [path for path in self._files() if self._head(path) is None]

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


def _read_run(path: Path, data: bytes) -> Run:
    run = run_from_text(data.decode())
    _check_name(path, run.id)
    return run


def _check_name(path: Path, run_id: str) -> None:
    """A run is found by its name, so a copy under another name would never open."""
    if path.stem != run_id:
        raise StorageError(f"{path.name} holds the run {run_id}, which {run_id}.jsonl should hold.")


class PredictionStore(DiskStore[Prediction]):
    """Predictions by their id."""

    kind, suffix = "prediction", ".prediction.npz"
    remedy = "measure it again"
    max_bytes, max_in_memory = 256 * 2**20, 4

    def __init__(self, home: Path, max_files: int = 20) -> None:
        folder = home / "predictions"
        super().__init__(folder, max_files, pack_prediction, lambda _, b: unpack_prediction(b))

    def put(self, key: str, prediction: Prediction) -> str | None:
        """Keep a prediction; return a plain sentence if it could only be kept in memory."""
        return self._keep(key, prediction)
