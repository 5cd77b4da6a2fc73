"""A response as one file: arrays in numpy's own format, the rest as JSON inside it; no pickle."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quant_engine.errors import StorageError
from quant_engine.metrics.catalogue import COSINE, KL_DIVERGENCE
from quant_engine.metrics.counts import IGNORED
from quant_engine.reading import read_arrays, storage_errors
from quant_engine.report import ResponseReport
from quant_engine.response.arrays import IntArray, ResponseArrays

_REQUIRED = {
    "base": np.float32,
    "shifts": np.float32,
    "roundings": np.float32,
    "rounding_of": np.int64,
    "sources": np.bool_,
    "signal": np.float64,
}
_OPTIONAL = {
    "labels": np.int64,
    "output": np.float32,
    "classes": np.int64,
    "positions": np.float64,
    "counted": np.bool_,
}
_REPORT, _SHAPE = "report", "shape"


def pack_response(report: ResponseReport, outputs: Sequence[ResponseArrays]) -> bytes:
    """Return a response as the bytes of an .npz file."""
    stored: dict[str, Any] = {_REPORT: np.frombuffer(report.to_json().encode(), dtype=np.uint8)}
    for index, arrays in enumerate(outputs):
        stored[_name(_SHAPE, index)] = np.array(arrays.shape, dtype=np.int64)
        for name, kind in (*_REQUIRED.items(), *_OPTIONAL.items()):
            values = getattr(arrays, name)
            if values is not None:
                stored[_name(name, index)] = np.asarray(values, dtype=kind)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **stored)
    return buffer.getvalue()


def _name(name: str, index: int) -> str:
    """Return what an array of an output is called in the file."""
    return f"{name}.{index}" if index else name


def unpack_response(data: bytes) -> tuple[ResponseReport, tuple[ResponseArrays, ...]]:
    """Return what `pack_response` packed.

    Raises:
        StorageError: If the bytes are something else, or arrays and report do not fit each other.
    """
    return response_from_arrays(read_arrays(data))


def response_from_arrays(
    stored: dict[str, Any],
) -> tuple[ResponseReport, tuple[ResponseArrays, ...]]:
    """Return what the arrays of a file say; raises as `unpack_response`."""
    with storage_errors("The stored response"):
        if _REPORT not in stored:
            raise StorageError("The stored response lacks its report. Measure it again.")
        try:
            text = stored[_REPORT].tobytes().decode()
        except UnicodeDecodeError as error:
            raise StorageError(f"The report in the stored response is not text: {error}") from error
        report = ResponseReport.from_json(text)
        if not report.outputs:
            raise StorageError("The report in the stored response names no outputs.")
        indices = range(len(report.outputs))
        return report, tuple(_arrays(stored, report, index) for index in indices)


def _arrays(stored: dict[str, Any], report: ResponseReport, index: int) -> ResponseArrays:
    """Return the arrays of one output."""
    own: dict[str, Any] = {
        name: stored.get(_name(name, index)) for name in (_SHAPE, *_REQUIRED, *_OPTIONAL)
    }
    missing = [name for name in (_SHAPE, *_REQUIRED) if own[name] is None]
    if missing:
        raise StorageError(f"The stored response lacks {', '.join(missing)}. Measure it again.")
    for name, kind in (*_REQUIRED.items(), *_OPTIONAL.items()):
        values = own[name]
        if values is not None and values.dtype != kind:
            raise StorageError(
                f"The stored response has {name} of type {values.dtype}; it must be "
                f"{np.dtype(kind)}. Measure it again."
            )
    output = report.outputs[index]
    shape = own.pop(_SHAPE)
    arrays = ResponseArrays(
        **own,
        shape=tuple(int(size) for size in shape.reshape(-1)),
        has_logits=output.metric == KL_DIVERGENCE,
        is_complete=output.is_complete,
        factor=0.5 if output.metric == COSINE else 1.0,
    )
    _check_shapes(report, arrays)
    return arrays


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
        and _is_column(
            None
            if arrays.labels is None
            else np.where(arrays.labels == IGNORED, -1, arrays.labels),
            (report.samples, *arrays.shape[:-1]),
            -1,
            arrays.shape[-1:],
        )
        and (arrays.positions is not None) == arrays.has_logits
        and (arrays.positions is None or arrays.positions.shape == (report.samples,))
        and (arrays.counted is None or arrays.counted.shape == (report.samples, *arrays.shape[:-1]))
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
    numbers: list[npt.NDArray[Any]] = [arrays.base, arrays.shifts, arrays.roundings]
    weights = [arrays.signal, *([] if arrays.positions is None else [arrays.positions])]
    is_finite = all(np.isfinite(values).all() for values in [*numbers, *weights])
    if not is_finite or any((values < 0).any() for values in weights):
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
