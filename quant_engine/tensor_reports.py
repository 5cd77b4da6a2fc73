"""Reports on single tensors: a layer's weight and its input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from quant_engine.affine import QParams, choose_qparams, dequantize, fake_quantize, quantize
from quant_engine.dynamic_statistics import DynamicGridStats
from quant_engine.grid_statistics import GridStats
from quant_engine.histogram import BinnedValues, Histogram, bin_channels
from quant_engine.layers import QuantizedLayer
from quant_engine.layerwise import LayerStats
from quant_engine.observers import choose_range, expected_mse, list_observers, weight_rows
from quant_engine.report import ChannelRanges, RangeChoice, TensorReport, WorkedExample
from quant_engine.scheme import TensorScheme
from quant_engine.statistics import to_sqnr_db

_RANGE_BINS = 4096


def weight_report(weight: Tensor, layer: QuantizedLayer) -> TensorReport:
    """Describe what quantization did to a layer's weight.

    Args:
        weight: The float weight.
        layer: The quantized layer that stands in for the float one.
    """
    weight = weight.detach().float()
    qparams, scheme = layer.weight_qparams, layer.scheme.weight
    lo, hi = (edge.item() for edge in torch.aminmax(weight))
    # One sample that is the whole weight, so that the cosine is that of the whole tensor.
    shifted = qparams if qparams.axis is None else replace(qparams, axis=qparams.axis + 1)
    stats = GridStats(shifted, window=(lo, hi))
    stats.update(weight[None])
    choices: tuple[RangeChoice, ...] = ()
    if qparams.axis is None:
        rows = weight_rows(weight, None).double().cpu().numpy()
        choices = range_choices(bin_channels(rows, _RANGE_BINS), scheme)
    return TensorReport(
        scheme=scheme,
        shape=tuple(weight.shape),
        lo=lo,
        hi=hi,
        scale=_floats(qparams.scale),
        zero_point=tuple(int(z) for z in qparams.zero_point.reshape(-1).tolist()),
        error=stats.metrics(),
        values=stats.value_histogram(),
        lsb_error=stats.error_histogram(),
        codes=stats.code_usage(),
        channels=_channel_ranges(weight, fake_quantize(weight, qparams), layer.channel_axis),
        range_choices=choices,
        example=worked_example(weight, qparams),
    )


def input_report(
    layer: QuantizedLayer,
    histogram: Histogram | None,
    stats: LayerStats,
    choices: tuple[RangeChoice, ...],
) -> TensorReport | None:
    """Describe what quantization did to a layer's input, or None if it stays float or never came.

    Args:
        layer: The quantized layer.
        histogram: What calibration saw of the input; a dynamic range does without.
        stats: What evaluation saw of it.
        choices: `range_choices` of the histogram; none where the range is dynamic.
    """
    scheme, counted = layer.scheme.activation, stats.input
    if scheme is None or counted is None or stats.example is None or not stats.example.numel():
        return None
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    if isinstance(counted, DynamicGridStats):
        assert counted.first is not None
        grid, lo, hi = counted.first, counted.lo, counted.hi
        scale, zero_point = tuple(map(_short, counted.scale)), counted.zero_point
    else:
        assert histogram is not None
        grid, lo, hi = counted.qparams, histogram.lo, histogram.hi
        scale, zero_point = _floats(grid.scale), (int(grid.zero_point),)
    return TensorReport(
        scheme=scheme,
        shape=stats.input_shape,
        lo=lo,
        hi=hi,
        scale=scale,
        zero_point=zero_point,
        error=counted.metrics(),
        values=counted.value_histogram(),
        lsb_error=counted.error_histogram(),
        codes=counted.code_usage(),
        channels=None,
        range_choices=choices,
        example=worked_example(stats.example, grid, stats.input_shape),
    )


def range_choices(binned: BinnedValues, scheme: TensorScheme) -> tuple[RangeChoice, ...]:
    """Return what every observer would choose for one tensor, and what that would cost.

    Args:
        binned: All values of the tensor, one channel.
        scheme: Bits and symmetry; its own observer is one of the entries.
    """
    signal = float((binned.nonzero_counts * np.square(binned.centers)).sum() / binned.counts.sum())
    result = []
    for observer in list_observers():
        rule = replace(scheme, observer=observer, granularity="per_tensor")
        lo, hi = choose_range(binned, rule)
        grid = choose_qparams(torch.tensor(lo[0]), torch.tensor(hi[0]), rule)
        noise, clipped = expected_mse(binned, lo, hi, rule)
        result.append(
            RangeChoice(
                observer=observer,
                lo=float(lo[0]),
                hi=float(hi[0]),
                scale=grid.scale.item(),
                zero_point=int(grid.zero_point),
                sqnr_db=to_sqnr_db(signal, float(noise[0])),
                clipped_fraction=float(clipped[0]),
            )
        )
    return tuple(result)


def worked_example(
    values: Tensor, qparams: QParams, shape: tuple[int, ...] | None = None
) -> WorkedExample:
    """Follow one typical element through the arithmetic: the one at 3/4 of all magnitudes.

    Args:
        values: The tensor, or its first values in order.
        qparams: Its grid.
        shape: Shape of the whole tensor; that of `values` if None.
    """
    flat = values.reshape(-1)
    position = _position_of_rank(flat.abs(), (3 * flat.numel()) // 4)
    shape = tuple(values.shape) if shape is None else shape
    index = tuple(int(i) for i in np.unravel_index(position, shape)) if shape else ()
    scale, zero_point = qparams.scale, qparams.zero_point
    if qparams.axis is not None:
        scale, zero_point = scale[index[qparams.axis]], zero_point[index[qparams.axis]]
    grid = QParams(scale, zero_point, qparams.qmin, qparams.qmax)
    value = flat[position]
    code = quantize(value, grid)
    return WorkedExample(
        index=index,
        value=value.item(),
        scale=scale.item(),
        zero_point=int(zero_point),
        code=int(code),
        dequantized=dequantize(code, grid).item(),
    )


def _position_of_rank(values: Tensor, rank: int) -> int:
    """Return where the value of this rank stands; of equal values the first ranks lowest."""
    value = values.kthvalue(rank + 1).values
    smaller = int(torch.count_nonzero(values < value))
    return int((values == value).nonzero()[rank - smaller])


def _channel_ranges(weight: Tensor, stand_in: Tensor, axis: int) -> ChannelRanges:
    rows = weight_rows(weight, axis).double()
    noise = (rows - weight_rows(stand_in, axis).double()).square().sum(dim=1).tolist()
    signal = rows.square().sum(dim=1).tolist()
    return ChannelRanges(
        axis=axis,
        lo=_floats(rows.amin(dim=1)),
        hi=_floats(rows.amax(dim=1)),
        sqnr_db=tuple(_short(to_sqnr_db(s, n)) for s, n in zip(signal, noise, strict=True)),
    )


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(_short(value) for value in values.reshape(-1).tolist())


def _short(value: float) -> float:
    """Return the shortest float that is still the same float32, to keep reports small."""
    return float(f"{value:.9g}") if math.isfinite(value) else value
