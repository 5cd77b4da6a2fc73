"""A response as one file: arrays in numpy's own format, the rest as JSON inside it; no pickle."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from quant_engine.errors import StorageError
from quant_engine.reading import read_arrays, storage_errors
from quant_engine.report import ResponseReport
from quant_engine.report.response import LOGITS
from quant_engine.response.arrays import IntArray, ResponseArrays

_REQUIRED = {
    "base": np.float32,
    "shifts": np.float32,
    "roundings": np.float32,
    "rounding_of": np.int64,
    "sources": np.bool_,
    "signal": np.float64,
}
_OPTIONAL = {"labels": np.int64, "output": np.float32, "classes": np.int64}
_REPORT, _SHAPE = "report", "shape"


def pack_response(report: ResponseReport, arrays: ResponseArrays) -> bytes:
    """Return a response as the bytes of an .npz file."""
    stored: dict[str, Any] = {
        _REPORT: np.frombuffer(report.to_json().encode(), dtype=np.uint8),
        _SHAPE: np.array(arrays.shape, dtype=np.int64),
    }
    for name, kind in (*_REQUIRED.items(), *_OPTIONAL.items()):
        values = getattr(arrays, name)
        if values is not None:
            stored[name] = np.asarray(values, dtype=kind)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **stored)
    return buffer.getvalue()


def unpack_response(data: bytes) -> tuple[ResponseReport, ResponseArrays]:
    """Return what `pack_response` packed.

    Raises:
        StorageError: If the bytes are something else, or arrays and report do not fit each other.
    """
    return response_from_arrays(read_arrays(data))


def response_from_arrays(stored: dict[str, Any]) -> tuple[ResponseReport, ResponseArrays]:
    """Return what the arrays of a file say; raises as `unpack_response`."""
    with storage_errors("The stored response"):
        return _response(stored)


def _response(stored: dict[str, Any]) -> tuple[ResponseReport, ResponseArrays]:
    missing = [name for name in (_REPORT, _SHAPE, *_REQUIRED) if name not in stored]
    if missing:
        raise StorageError(f"The stored response lacks {', '.join(missing)}. Measure it again.")
    for name, kind in (*_REQUIRED.items(), *_OPTIONAL.items()):
        if name in stored and stored[name].dtype != kind:
            raise StorageError(
                f"The stored response has {name} of type {stored[name].dtype}; it must be "
                f"{np.dtype(kind)}. Measure it again."
            )
    try:
        text = stored[_REPORT].tobytes().decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"The report in the stored response is not text: {error}") from error
    report = ResponseReport.from_json(text)
    arrays = ResponseArrays(
        **{name: stored[name] for name in _REQUIRED},
        shape=tuple(int(size) for size in stored[_SHAPE].reshape(-1)),
        has_logits=report.kind == LOGITS,
        is_complete=report.is_complete,
        labels=stored.get("labels"),
        output=stored.get("output"),
        classes=stored.get("classes"),
    )
    _check_shapes(report, arrays)
    return report, arrays


def _check_shapes(report: ResponseReport, arrays: ResponseArrays) -> None:
    leading = (len(report.layers), len(report.options), report.samples)
    kept = math.prod(arrays.shape)
    is_fitting = (
        min(arrays.shape, default=0) >= 0
        and arrays.base.shape == (report.samples, kept)
        and arrays.shifts.ndim == 4
        and arrays.shifts.shape[:3] == leading
        and arrays.shifts.shape[3] >= kept
        and arrays.roundings.shape[0::2] == (leading[0], report.samples)
        and arrays.roundings.shape[3:] == arrays.shifts.shape[3:]
        and arrays.rounding_of.shape == (leading[1],)
        and arrays.sources.shape == (leading[0], leading[0])
        and (arrays.rounding_of >= -1).all()
        and (arrays.rounding_of < arrays.roundings.shape[1]).all()
        and arrays.signal.shape == (report.samples,)
        and _is_column(arrays.labels, (report.samples, *arrays.shape[:-1]), -1, arrays.shape[-1:])
        and (arrays.output is None) == (arrays.classes is None)
        and (arrays.output is None or arrays.output.shape[0] == report.samples)
        and _is_column(
            arrays.classes,
            (report.samples, kept - 1),
            0,
            () if arrays.output is None else arrays.output.shape[1:],
        )
        and all(len(layer.stored) == leading[1] + 1 for layer in report.layers)
    )
    if not is_fitting:
        raise StorageError(
            f"The arrays of the stored response do not fit its {leading[0]} layers, {leading[1]} "
            f"options and {leading[2]} samples. Measure it again."
        )
    numbers = (arrays.base, arrays.shifts, arrays.roundings, arrays.signal)
    if not all(np.isfinite(values).all() for values in numbers) or (arrays.signal < 0).any():
        raise StorageError(
            "The stored response holds NaN, Inf or a negative signal. Measure it again."
        )


def _is_column(
    places: IntArray | None, shape: tuple[int, ...], least: int, ends: tuple[int, ...]
) -> bool:
    """Whether places along an axis have a shape and lie from `least` to before its end."""
    if places is None:
        return True
    return places.shape == shape and all(((places >= least) & (places < end)).all() for end in ends)
