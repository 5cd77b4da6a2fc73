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

from dashboard.data.prediction import Prediction
from quant_engine import LogitResponse
from quant_engine.errors import StorageError
from quant_engine.reading import open_archive, parse_json, read_arrays, storage_errors
from quant_engine.report import FrontierReport
from quant_engine.response import response_from_arrays

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
    with storage_errors("The stored prediction"):
        with open_archive(data) as file:
            frontier, measured = parse_json(file.read(_POINTS))
        stored = _grow(read_arrays(data, leave_out=_POINTS))
        response = LogitResponse(*response_from_arrays(stored))
        points = FrontierReport.from_json(measured).points
        return Prediction(response, FrontierReport.from_json(frontier), points)


def _shrink(data: bytes) -> bytes:
    stored = read_arrays(data)
    for name in _CODED:
        values = stored.pop(name)
        largest = np.abs(values).max(axis=2, keepdims=True, initial=0.0)
        scales = np.where(largest > 0, largest / _QMAX, 1.0).astype(np.float32)
        stored[name + _CODES] = np.rint(values / scales).astype(np.int16)
        stored[name + _SCALES] = scales
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **stored)
    return buffer.getvalue()


def _grow(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays of a response; those held as codes are multiplied out."""
    for name in _CODED:
        if name + _CODES in stored:
            codes, scales = stored.pop(name + _CODES), stored.pop(name + _SCALES)
            if codes.shape != np.broadcast_shapes(codes.shape, scales.shape):
                raise StorageError(f"The scales of {name} do not fit its codes.")
            stored[name] = (codes * scales).astype(np.float32)
    return stored
