"""Files of a store: read with care, written whole or not at all, and bounded in number.

What lies in a store's folder may come from anywhere: only plain files of a sensible size are read.
Several servers may share one folder, so a file may vanish at any moment.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from quant_engine.errors import StorageError

STALE_SECONDS = 3600.0
"""Age of a half-written file that no server writes to any more."""

_PART = ".part"
_LOG = logging.getLogger(__name__)


def read_stored(path: Path, most_bytes: int) -> bytes:
    """Return what a file holds.

    Raises:
        StorageError: If it is no plain file, or larger than `most_bytes`.
        OSError: If the system cannot read it.
    """
    found = _plain(path)
    if found.st_size > most_bytes:
        raise StorageError(f"{path.name} has {found.st_size} bytes. Allowed: {most_bytes}.")
    return path.read_bytes()


def read_first_line(path: Path, most_bytes: int) -> bytes:
    """Return a file's first line; raises as `read_stored` does."""
    _plain(path)
    with path.open("rb") as file:
        line = file.readline(most_bytes + 1)
    if len(line) > most_bytes:
        raise StorageError(f"{path.name}: its first line is over {most_bytes} bytes.")
    return line


def _plain(path: Path) -> os.stat_result:
    """Opening a pipe would wait for ever, and a device has no end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(f"{path.name} is no plain file.")
    return found


def write_stored(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and make it the newest of its folder by date.

    A clock that was set back would otherwise make it the oldest, which is removed first.

    Raises:
        OSError: If the system cannot write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{_PART}")
    try:
        part.write_bytes(data)
        newest = max((date for date, other in _dated(path) if other != path), default=0)
        written = part.stat()
        if written.st_mtime_ns <= newest:
            os.utime(part, ns=(written.st_atime_ns, newest + 1))
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


def remove_oldest(path: Path, most: int, spared: Collection[Path] = ()) -> None:
    """Keep the newest files of the kind that `path` is, and remove what writers left half done.

    Those in `spared` stay and do not count.

    Nothing is wrong where that fails: another server may have removed the same files.
    """
    aged = [old for _, old in sorted(_dated(path)) if old != path and old not in spared]
    for old in aged[: max(0, len(aged) + 1 - most)]:
        _remove(old)
    for part in path.parent.glob(f"*{_PART}"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                _remove(part)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _LOG.warning("%s cannot be removed: %s", path, error)


def _dated(path: Path) -> list[tuple[int, Path]]:
    """Return date and path of the plain files of the same kind, those that are still there."""
    found = []
    for other in path.parent.glob(f"*{''.join(path.suffixes)}"):
        with suppress(OSError):
            kept = other.stat()
            if stat.S_ISREG(kept.st_mode):
                found.append((kept.st_mtime_ns, other))
    return found
