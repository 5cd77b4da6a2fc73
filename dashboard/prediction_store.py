"""Predictions on disk, and the newest in memory, so that they are there at the next visit."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from pathlib import Path

from dashboard.prediction import Prediction
from dashboard.prediction_files import pack_prediction, unpack_prediction
from dashboard.store import HOME_VARIABLE
from dashboard.stored_files import read_stored, remove_oldest, write_stored

MAX_FILES = 20
MAX_IN_MEMORY = 4
MAX_BYTES = 256 * 2**20
SUFFIX = ".prediction.npz"

_LOG = logging.getLogger(__name__)


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
            prediction = unpack_prediction(read_stored(path, MAX_BYTES))
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
            while len(self._memory) > MAX_IN_MEMORY:
                self._memory.popitem(last=False)
