"""Reading files that may be damaged or hostile: bounded memory, and no error but StorageError.

Whatever a file says about its own sizes is added up before anything is unpacked or allocated.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quant_engine.errors import StorageError

MAX_FILE_BYTES = 4 * 2**30
MAX_JSON_BYTES = 128 * 2**20
MAX_JSON_VALUES = 8_000_000
"""Parsed values take up to a hundred bytes each, however short they are in the text."""

# What is packed may grow to this many times its size; real reports and responses grow by 10.
_MOST_GROWTH, _SMALL_BYTES = 50, 32 * 2**20

_NPY_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn everything that reading `what` raises into a StorageError that names it."""
    try:
        yield
    except StorageError as error:
        if what in str(error):
            raise
        raise StorageError(f"{what}: {error}") from error
    except Exception as error:
        # Libraries raise a dozen types on damaged bytes: zlib's, tokenize's, KeyError, MemoryError.
        reason = f"{type(error).__name__}: {error}"
        raise StorageError(f"{what} cannot be read: {reason:.300}") from error


def read_file(path: str | Path, most_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        StorageError: If there is none, it cannot be read, or it is longer than `most_bytes`.
    """
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{path} is not a regular file. Give one.")
        if found.st_size > most_bytes:
            raise StorageError(f"{path} has {found.st_size} bytes; at most {most_bytes} are read.")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"Cannot read {path}: {reason}. Is the path right?") from error


def parse_json(text: str | bytes) -> Any:
    """Return what JSON text holds.

    Raises:
        StorageError: If it is none, holds NaN, Infinity or too many values, or is nested too deep.
    """
    if not isinstance(text, str | bytes):
        raise StorageError(f"Not JSON: a {type(text).__name__}. Give text.")
    if len(text) > MAX_JSON_BYTES:
        raise StorageError(f"The text has {len(text)} bytes; at most {MAX_JSON_BYTES} are read.")
    marks = (",", "[", "{") if isinstance(text, str) else (b",", b"[", b"{")
    values = sum(map(text.count, marks))  # type: ignore[arg-type]
    if values > MAX_JSON_VALUES:
        raise StorageError(f"The text holds {values} values; at most {MAX_JSON_VALUES} are read.")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        raise StorageError(f"The text is not JSON: {error}.") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def unpack_gzip(data: bytes, *, first_line: bool = False) -> str:
    """Return the text of a gzip file, or its first line.

    Raises:
        StorageError: If it is damaged, no text, or unpacks to far more than its own size.
    """
    most = min(MAX_JSON_BYTES, _most_unpacked(len(data)))
    with storage_errors("The packed text"), gzip.open(io.BytesIO(data)) as file:
        content = file.readline(most + 1) if first_line else file.read(most + 1)
        if len(content) > most:
            raise StorageError(f"It unpacks to more than {most} bytes.")
        return content.decode("utf-8")


def read_arrays(data: bytes, *, leave_out: str = "") -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an .npz file by name; no pickle.

    Args:
        data: The file.
        leave_out: Name of an entry that is not an array.

    Raises:
        StorageError: If it is damaged, or its arrays are larger than their entries or, together,
            far larger than the file.
    """
    with storage_errors("The archive"), open_archive(data) as archive:
        return {
            entry.filename.removesuffix(".npy"): _read_array(archive, entry)
            for entry in archive.infolist()
            if entry.filename != leave_out
        }


@contextmanager
def open_archive(data: bytes) -> Iterator[zipfile.ZipFile]:
    """Open a zip file, if all it holds is not far larger than it.

    Raises:
        StorageError: If it is, or what is done with it inside the context fails.
    """
    with storage_errors("The archive"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
        most = _most_unpacked(len(data))
        if total > most:
            raise StorageError(
                f"It has {len(data)} bytes and unpacks to {total}; at most {most} are read."
            )
        yield archive


def _most_unpacked(packed: int) -> int:
    return min(MAX_FILE_BYTES, _SMALL_BYTES + _MOST_GROWTH * packed)


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in _NPY_READERS:
            raise StorageError(f"{entry.filename} has the array format {version}.")
        shape, is_fortran, dtype = _NPY_READERS[version](file)
        left = entry.file_size - file.tell()
        if dtype.hasobject or min(shape, default=0) < 0:
            raise StorageError(f"{entry.filename} holds {dtype} of shape {shape}.")
        if math.prod(shape) * dtype.itemsize != left:
            raise StorageError(
                f"{entry.filename} says that it holds {shape} of {dtype}, and holds {left} bytes."
            )
        values = np.frombuffer(bytearray(file.read(left)), dtype=dtype)
        return values.reshape(shape, order="F" if is_fortran else "C")
