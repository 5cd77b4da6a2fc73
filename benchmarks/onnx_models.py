"""The same networks in ONNX Runtime, float and statically quantized to int8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

Run = Callable[[], np.ndarray]


def onnx_runs(model: nn.Module, x: Tensor) -> dict[str, Run]:
    """Export a model, quantize the export on `x` (QDQ, u8 inputs, s8 weights per channel), and
    return what runs each of the two on `x`, with as many threads as torch uses.
    """
    with TemporaryDirectory() as folder, _quiet():
        exported, prepared, quantized = (
            str(Path(folder) / f"{name}.onnx") for name in ("float", "prepared", "int8")
        )
        torch.onnx.export(model, (x,), exported, dynamo=True, input_names=["x"], verbose=False)
        quant_pre_process(exported, prepared)
        quantize_static(
            prepared,
            quantized,
            _OneBatch(x),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return {"float": _run(exported, x), "int8": _run(quantized, x)}


def _run(path: str, x: Tensor) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, values = session.get_inputs()[0].name, x.numpy()
    return lambda: session.run(None, {name: values})[0]


class _OneBatch(CalibrationDataReader):
    def __init__(self, x: Tensor) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter([{"x": x.numpy()}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


class _quiet(warnings.catch_warnings):  # noqa: N801  (a context manager, used like a function)
    """Silence what the exporter and the quantizer say about themselves."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)

    def __exit__(self, *exc: object) -> None:
        logging.disable(logging.NOTSET)
        super().__exit__(*exc)
