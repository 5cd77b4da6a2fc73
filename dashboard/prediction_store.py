"""Predictions on disk, and the newest in memory, so that they are there at the next visit."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from dashboard.prediction import Prediction
from dashboard.prediction_files import pack_prediction, unpack_prediction
from quant_engine.errors import StorageError

MAX_FILES = 20
MAX_IN_MEMORY = 4
SUFFIX = ".prediction.npz"

_LOG = logging.getLogger(__name__)


class PredictionStore:
    """Predictions by their id, safe to use from several threads and several processes."""

    def __init__(self, home: Path, max_files: int = MAX_FILES) -> None:
        self.folder = home / "predictions"
        self.problem: str | None = None  # why the newest prediction is not on disk
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
            prediction = unpack_prediction(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, StorageError) as error:
            _LOG.warning("stored prediction %s cannot be read: %.300s", path, error)
            self._broken[path] = stamp
            return None
        self._remember(key, prediction)
        return prediction

    def put(self, key: str, prediction: Prediction) -> None:
        """Keep a prediction; `problem` says why it could only be kept in memory."""
        self._remember(key, prediction)
        path = self._path(key)
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        self.problem = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(pack_prediction(prediction))
            part.replace(path)
            aged = sorted(self.folder.glob(f"*{SUFFIX}"), key=lambda old: old.stat().st_mtime_ns)
            for old in aged[: max(0, len(aged) - self._max_files)]:
                old.unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("prediction %s cannot be saved: %s", key, error)
            with suppress(OSError):
                part.unlink()
            reason = error.strerror or type(error).__name__
            self.problem = (
                f"The prediction could not be saved to disk ({reason}); it stays until a restart."
            )

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _remember(self, key: str, prediction: Prediction) -> None:
        with self._lock:
            self._memory[key] = prediction
            self._memory.move_to_end(key)
            while len(self._memory) > MAX_IN_MEMORY:
                self._memory.popitem(last=False)
