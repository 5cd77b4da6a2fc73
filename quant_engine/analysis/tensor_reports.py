"""Reports on single tensors: a layer's weight and its input."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from quant_engine.analysis.layerwise import LayerStats
from quant_engine.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedLayer,
    QuantizedLinear,
)
from quant_engine.metrics.dynamic import DynamicGridStats
from quant_engine.metrics.energies import to_sqnr_db
from quant_engine.metrics.grid import GridStats
from quant_engine.report import (
    ChannelRanges,
    InputChannels,
    RangeChoice,
    TensorReport,
    WorkedExample,
)
from quant_engine.scheme import TensorScheme, observers_for
from quant_engine.tensors.affine import (
    QParams,
    choose_qparams,
    dequantize,
    fake_quantize,
    quantize,
    split_columns,
)
from quant_engine.tensors.histogram import BinnedValues, Histogram, bin_channels, piece_columns
from quant_engine.tensors.observers import (
    choose_range,
    choose_weight_qparams,
    expected_mse,
    weight_rows,
)

_RANGE_BINS = 4096
_WITH_INPUT_CHANNELS = (
    *(QuantizedLinear, QuantizedConv1d, QuantizedConv2d, QuantizedConv3d),
    *(QuantizedConvTranspose1d, QuantizedConvTranspose2d),
)


def weight_report(weight: Tensor, layer: QuantizedLayer) -> TensorReport:
    """Describe what quantization did to a layer's weight.

    Args:
        weight: The float weight.
        layer: The quantized layer that stands in for the float one.
    """
    qparams, scheme = layer.weight_qparams, layer.scheme.weight
    rows = weight_rows(weight, layer.channel_axis)
    by_row = qparams if qparams.axis is None else replace(qparams, axis=0)
    lo, hi = (edge.item() for edge in torch.aminmax(rows))
    stats = GridStats(by_row, window=(lo, hi))
    stats.update_whole(rows)
    choices: tuple[RangeChoice, ...] = ()
    examples = worked_examples(weight.detach(), qparams)
    if qparams.axis is None:
        choices = range_choices(
            bin_channels(rows.reshape(1, -1).cpu().numpy(), _RANGE_BINS), scheme, is_weight=True
        )
    return TensorReport(
        scheme=scheme,
        shape=tuple(weight.shape),
        lo=lo,
        hi=hi,
        scale=_floats(_of_channels(qparams, qparams.scale)),
        zero_point=tuple(_of_channels(qparams, qparams.zero_point).reshape(-1).tolist()),
        error=stats.metrics(),
        values=stats.value_histogram(),
        lsb_error=stats.error_histogram(),
        codes=stats.code_usage(),
        channels=_channel_ranges(rows, by_row, layer, weight),
        range_choices=choices,
        example=examples[0],
        per_channel_sqnr_db=_per_channel_sqnr(rows, scheme),
        examples=examples,
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
    examples = worked_examples(stats.example, grid, stats.input_shape)
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
        example=examples[0],
        per_channel_sqnr_db=None,
        examples=examples,
    )


def input_channels(stats: LayerStats) -> InputChannels | None:
    """Return the range of every channel of a layer's float input; None where it has none."""
    if stats.input_axis is None or stats.input_lo is None or stats.input_hi is None:
        return None
    return InputChannels(stats.input_axis, _floats(stats.input_lo), _floats(stats.input_hi))


def _of_channels(qparams: QParams, values: Tensor) -> Tensor:
    """Return scales or zero points as a report holds them: of groups the extremes alone."""
    return values if qparams.group_size is None else torch.stack(values.aminmax())


def _per_channel_sqnr(rows: Tensor, scheme: TensorScheme) -> float | None:
    """Return the SQNR with a scale for each channel, where the weight has one for all."""
    if not scheme.has_one_scale:
        return None
    own = replace(scheme, granularity="per_channel")
    sums = _Sums.of(rows, choose_weight_qparams(rows, own, 0))
    share = (sums.noise / sums.signal)[sums.signal > 0]
    return _short(to_sqnr_db(1.0, float(share.mean()))) if share.numel() else math.inf


def range_choices(
    binned: BinnedValues, scheme: TensorScheme, *, is_weight: bool = False
) -> tuple[RangeChoice, ...]:
    """Return what every observer would choose for one tensor, and what that would cost.

    Args:
        binned: All values of the tensor, one channel.
        scheme: Bits and symmetry; its own observer is one of the entries.
        is_weight: Whether it is a weight, which some observers are for alone.
    """
    signal = float((binned.nonzero_counts * np.square(binned.centers)).sum() / binned.counts.sum())
    result = []
    for observer in observers_for(symmetric=scheme.symmetric, is_weight=is_weight):
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


_RANKED = 1 << 16
EXAMPLES = 9
"""Elements that a report works through one by one."""


def worked_examples(
    values: Tensor, qparams: QParams, shape: tuple[int, ...] | None = None
) -> tuple[WorkedExample, ...]:
    """Follow elements of different sizes through the arithmetic.

    The first is the largest that became 0 where at least a quarter of the values that are not 0 did
    so, else the one at 3/4 of all magnitudes. The others stand at even ranks of the magnitudes, up
    to the largest. Of a large tensor, evenly spaced elements and the largest one are ranked.

    Args:
        values: The tensor, or its first values in order.
        qparams: Its grid.
        shape: Shape of the whole tensor; that of `values` if None.
    """
    flat = values.reshape(-1)
    shape = tuple(values.shape) if shape is None else shape
    step = -(-flat.numel() // _RANKED)
    places = torch.arange(0, flat.numel(), step, device=flat.device)
    if step > 1:
        places = torch.cat([places, torch.stack([flat.argmax(), flat.argmin()])])
    ranked = flat[places].float()
    sizes, last = ranked.abs(), ranked.numel() - 1
    ranks = [(3 * ranked.numel()) // 4, *(last * k // (EXAMPLES - 1) for k in range(EXAMPLES))]
    by_size = sizes.argsort(stable=True)  # of equal values the first ranks lowest
    chosen = by_size[[min(rank, last) for rank in ranks]].tolist()
    grid = _grid_at(places, qparams, shape)
    codes = quantize(ranked, grid)
    stand_ins = dequantize(codes, grid)
    lost = ((ranked != 0) & (stand_ins == 0)).nonzero().squeeze(1)
    if 4 * lost.numel() >= max(1, int(torch.count_nonzero(ranked))):
        chosen.insert(0, int(lost[sizes[lost].argmax()]))
    indices = np.unravel_index(places.cpu().numpy(), shape) if shape else ()
    scales, zero_points = (x.expand(len(ranked)) for x in (grid.scale, grid.zero_point))
    return tuple(
        WorkedExample(
            index=tuple(int(axis[number]) for axis in indices),
            value=ranked[number].item(),
            scale=scales[number].item(),
            zero_point=int(zero_points[number]),
            code=int(codes[number]),
            dequantized=stand_ins[number].item(),
        )
        for number in list(dict.fromkeys(chosen))[:EXAMPLES]
    )


def _grid_at(places: Tensor, qparams: QParams, shape: tuple[int, ...]) -> QParams:
    """Return the grid of single elements, one entry each where channels have their own."""
    if qparams.axis is None:
        return qparams
    within = math.prod(shape[qparams.axis :][1:])
    channel = places // within % shape[qparams.axis]
    at: tuple[Tensor, ...] = (channel,)
    if qparams.group_size is not None:
        column = places // (within * shape[qparams.axis]) * within + places % within
        at = (channel, column // qparams.group_size)
    return QParams(qparams.scale[at], qparams.zero_point[at], qparams.qmin, qparams.qmax, axis=0)


def _channel_ranges(
    rows: Tensor, qparams: QParams, layer: QuantizedLayer, weight: Tensor
) -> ChannelRanges:
    sums = _Sums.of(rows, qparams)
    lost = None
    if isinstance(layer, _WITH_INPUT_CHANNELS) and getattr(layer, "groups", 1) == 1:
        inputs = weight.shape[1 - layer.channel_axis]
        signal, noise = (
            columns.reshape(inputs, -1).sum(dim=1)
            for columns in (sums.column_signal, sums.column_noise)
        )
        lost = int(((signal > 0) & (noise >= 0.5 * signal)).sum())
    pairs = zip(sums.signal.tolist(), sums.noise.tolist(), strict=True)
    return ChannelRanges(
        axis=layer.channel_axis,
        lo=_floats(rows.amin(dim=1)),
        hi=_floats(rows.amax(dim=1)),
        sqnr_db=tuple(_short(to_sqnr_db(s, n)) for s, n in pairs),
        became_zero=tuple(sums.became_zero.tolist()),
        channel_size=rows.shape[1],
        lost_inputs=lost,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Σw² and Σ(w-ŵ)² of every row and column, float64; and how many of a row became 0."""

    signal: Tensor
    noise: Tensor
    column_signal: Tensor
    column_noise: Tensor
    became_zero: Tensor

    @classmethod
    def of(cls, rows: Tensor, qparams: QParams) -> _Sums:
        by_row, by_column = (torch.zeros(2, n, dtype=torch.float64) for n in rows.shape)
        became_zero = torch.zeros(len(rows), dtype=torch.int64)
        start = 0
        for piece, grid in split_columns(rows, qparams, piece_columns(len(rows))):
            stand_in = fake_quantize(piece, grid)
            for index, values in enumerate((piece.double(), piece.double() - stand_in.double())):
                energy = values.square()
                by_row[index] += energy.sum(dim=1).cpu()
                by_column[index, start : start + piece.shape[1]] = energy.sum(dim=0).cpu()
            became_zero += ((piece != 0) & (stand_in == 0)).sum(dim=1).cpu()
            start += piece.shape[1]
        return cls(by_row[0], by_row[1], by_column[0], by_column[1], became_zero)


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(_short(value) for value in values.reshape(-1).tolist())


def _short(value: float) -> float:
    """Return the shortest float that is still the same float32, to keep reports small."""
    return float(f"{value:.9g}") if math.isfinite(value) else value
