"""Predictions as files: one that the engine reads as well, and a small one that comes along.

Both are .npz files without pickle. The small one holds its two large arrays as codes of 16 bits,
with a scale for each layer, option and output. Predicted divergences from it differ by less than a
ten-thousandth of their value; a sample whose two largest logits nearly tie may be counted the
other way.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np

from dashboard.prediction import Prediction
from quant_engine import LogitResponse
from quant_engine.errors import StorageError
from quant_engine.report import FrontierReport

_POINTS = "points.json"
_CODED = ("shifts", "roundings")
_CODES, _SCALES = "_codes", "_scales"
_QMAX = 32_767


def pack_prediction(prediction: Prediction, *, is_small: bool = False) -> bytes:
    """Return a prediction as the bytes of a file."""
    data = prediction.response.to_bytes()
    buffer = io.BytesIO(_shrink(data) if is_small else data)
    measured = FrontierReport(prediction.measured, prediction.frontier.verdict)
    points = [prediction.frontier.to_json(), measured.to_json()]
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
        # A fixed date: the same prediction gives the same bytes.
        file.writestr(
            zipfile.ZipInfo(_POINTS), json.dumps(points), compress_type=zipfile.ZIP_DEFLATED
        )
    return buffer.getvalue()


def unpack_prediction(data: bytes) -> Prediction:
    """Return what `pack_prediction` packed.

    Raises:
        StorageError: If the bytes are something else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            frontier, measured = json.loads(file.read(_POINTS))
            is_small = any(name.startswith(f"{_CODED[0]}{_CODES}") for name in file.namelist())
        response = LogitResponse.from_bytes(_grow(data) if is_small else data)
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(f"This is no stored prediction: {error}") from error
    points = FrontierReport.from_json(measured).points
    return Prediction(response, FrontierReport.from_json(frontier), points)


def _load(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != _POINTS}


def _shrink(data: bytes) -> bytes:
    stored = _load(data)
    for name in _CODED:
        values = stored.pop(name)
        largest = np.abs(values).max(axis=2, keepdims=True, initial=0.0)
        scales = np.where(largest > 0, largest / _QMAX, 1.0).astype(np.float32)
        stored[name + _CODES] = np.rint(values / scales).astype(np.int16)
        stored[name + _SCALES] = scales
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **stored)
    return buffer.getvalue()


def _grow(data: bytes) -> bytes:
    stored = _load(data)
    for name in _CODED:
        codes, scales = stored.pop(name + _CODES), stored.pop(name + _SCALES)
        stored[name] = (codes * scales).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **stored)
    return buffer.getvalue()
