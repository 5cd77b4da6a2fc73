"""What must hold of the numbers of a stored report, so that they can be drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from quant_engine.errors import StorageError
from quant_engine.report.layers import LayerReport
from quant_engine.report.tensors import TensorReport


def check_layers(layers: Iterable[LayerReport]) -> None:
    """Raise StorageError where a histogram is empty or has no range, or a grid is none."""
    for layer in layers:
        for part, tensor in (("weight", layer.weight), ("input", layer.input)):
            if tensor is not None:
                _check_tensor(f"{layer.name}: the {part}", tensor)


def _check_tensor(where: str, tensor: TensorReport) -> None:
    values, errors, codes = tensor.values, tensor.lsb_error, tensor.codes
    _check_histogram(
        f"{where}'s values", values.lo, values.hi, values.float_counts, values.quantized_counts
    )
    _check_histogram(f"{where}'s errors", errors.lo, errors.hi, errors.counts)
    _check_histogram(f"{where}'s codes", codes.qmin, codes.qmin + 1, codes.counts)
    if not tensor.scale or len(tensor.scale) != len(tensor.zero_point):
        raise StorageError(
            f"{where} has {len(tensor.scale)} scales and {len(tensor.zero_point)} zero points."
        )
    if not all(0 < scale < math.inf for scale in tensor.scale):
        raise StorageError(f"{where} has scales that are not above 0 and finite.")
    scheme = tensor.scheme
    if not all(scheme.qmin <= point <= scheme.qmax for point in tensor.zero_point):
        raise StorageError(
            f"{where} has zero points outside its codes, [{scheme.qmin}, {scheme.qmax}]."
        )


def _check_histogram(where: str, lo: float, hi: float, *counts: Sequence[int]) -> None:
    if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
        raise StorageError(f"{where} are counted from {lo} to {hi}.")
    lengths = {len(found) for found in counts}
    if lengths == {0} or len(lengths) > 1:
        raise StorageError(f"{where} are counted in {sorted(lengths)} bins.")
    if min(min(found) for found in counts) < 0:
        raise StorageError(f"{where} have negative counts.")
