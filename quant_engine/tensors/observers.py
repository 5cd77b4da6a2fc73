"""Range rules: from the values seen to the range that is worth representing.

Every rule reads the same counts, so one pass over the data compares them all. A rule takes
`BinnedValues` of one or many channels and a `TensorScheme` and returns a range for each channel.
Adding a rule is one function with `@register_observer`, and its name in `scheme.OBSERVERS`, or in
`WEIGHT_OBSERVERS` if it is for asymmetric weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quant_engine.errors import DataError, SchemeError, suggest
from quant_engine.scheme import HQQ, TensorScheme
from quant_engine.tensors.affine import QParams, choose_qparams, scale_and_zero_point
from quant_engine.tensors.half_quadratic import fit_half_quadratic
from quant_engine.tensors.histogram import BinnedValues, FloatArray, Histogram, bin_channels
from quant_engine.tensors.information_loss import InformationLoss
from quant_engine.tensors.range_search import Range, search_range

Observer: TypeAlias = Callable[[BinnedValues, TensorScheme], Range]

_OBSERVERS: dict[str, Observer] = {}
_WEIGHT_BINS = 1024
_CHANNELS_AT_ONCE = 1024
_SEARCH_BINS = 2048


def register_observer(name: str) -> Callable[[Observer], Observer]:
    """Make a range rule known under `name`."""

    def register(rule: Observer) -> Observer:
        _OBSERVERS[name] = rule
        return rule

    return register


def get_observer(name: str) -> Observer:
    """Return the range rule called `name`.

    Raises:
        SchemeError: If there is none; the message lists the names.
    """
    if name not in _OBSERVERS:
        raise SchemeError(f"No observer is called {name!r}. {suggest(name, _OBSERVERS)}")
    return _OBSERVERS[name]


@register_observer("minmax")
def minmax_range(binned: BinnedValues, scheme: TensorScheme) -> Range:
    """Return the smallest and largest value: nothing is clipped, outliers cost resolution."""
    if not scheme.symmetric:
        return binned.lo, binned.hi
    edge = np.maximum(np.abs(binned.lo), np.abs(binned.hi))
    return -edge, edge


@register_observer("percentile")
def percentile_range(binned: BinnedValues, scheme: TensorScheme) -> Range:
    """Keep the share `scheme.percentile` of all values inside the range.

    Symmetric: the percentile of |x|. Asymmetric: two-sided, (100 - percentile) / 2 percent are cut
    from each end. Values are taken as spread evenly within a bin.
    """
    share = scheme.percentile / 100.0
    if scheme.symmetric:
        magnitude = np.abs(binned.centers)
        order = np.argsort(magnitude, axis=1)
        upper = np.take_along_axis(magnitude, order, axis=1) + binned.width[:, None] / 2
        edge = _quantile(upper, np.take_along_axis(binned.counts, order, axis=1), share)
        edge = np.minimum(edge, np.maximum(np.abs(binned.lo), np.abs(binned.hi)))
        return -edge, edge
    steps = np.arange(1, binned.counts.shape[1] + 1)
    upper = binned.start[:, None] + steps * binned.width[:, None]
    tail = (1.0 - share) / 2
    lo = _quantile(upper, binned.counts, tail)
    hi = _quantile(upper, binned.counts, 1.0 - tail)
    return np.clip(lo, binned.lo, binned.hi), np.clip(hi, binned.lo, binned.hi)


@register_observer("mse")
def mse_range(binned: BinnedValues, scheme: TensorScheme) -> Range:
    """Return the range with the smallest mean squared rounding + clipping error.

    A coarse and a fine search over the clipping range, both ends for asymmetric schemes, as in
    Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 3.1.
    """
    coarse = binned.coarsened(_SEARCH_BINS)
    return search_range(coarse, scheme, lambda lo, hi: _squared_errors(coarse, lo, hi, scheme)[0])


@register_observer("entropy")
def entropy_range(binned: BinnedValues, scheme: TensorScheme) -> Range:
    """Return the range that loses least information: smallest KL(original || quantized).

    Bins with the same code are merged and spread again over those that hold values; what lies
    outside the range is folded into its outermost bins (Migacz, "8-bit Inference with TensorRT",
    GTC 2017). A share of 1e-4 is mixed in evenly so that folded values in empty bins stay finite.
    0.0 is on every grid, so the spike of zeros that ReLU leaves says nothing about the range: exact
    zeros are left out.

    It suits values that lie close together. It weighs how often values occur, not what they carry:
    where few large ones hold much of the energy, it clips them, and its squared error is several
    times that of "mse", as on inputs of transformers (`docs/math.md` has figures, of a MiniLM too;
    TensorRT's and ONNX Runtime's searches clip as much). It also needs many values: for the few
    hundred in a channel of weights prefer "mse".
    """
    coarse = binned.coarsened(_SEARCH_BINS)
    loss = InformationLoss(coarse)
    return search_range(coarse, scheme, lambda lo, hi: loss(*_grid(lo, hi, scheme), scheme))


@register_observer(HQQ)
def half_quadratic_range(binned: BinnedValues, scheme: TensorScheme) -> Range:
    """Return the range of HQQ, whose grid has the smallest Σ|w - ŵ|^0.7; for asymmetric weights.

    It reads no data, and leaves a few weights with large errors where that makes many small.
    """
    return fit_half_quadratic(binned, scheme)


def choose_range(binned: BinnedValues, scheme: TensorScheme) -> Range:
    """Apply the scheme's range rule; returns lo and hi, float64, shape (channels,)."""
    return get_observer(scheme.observer)(binned, scheme)


def choose_input_qparams(histogram: Histogram, scheme: TensorScheme) -> QParams:
    """Choose the grid of an activation from what was seen of it.

    Raises:
        NotCalibratedError: If nothing was seen.
    """
    lo, hi = choose_range(histogram.binned(), scheme)
    return choose_qparams(torch.tensor(lo[0]), torch.tensor(hi[0]), scheme)


def choose_weight_qparams(weight: Tensor, scheme: TensorScheme, channel_axis: int) -> QParams:
    """Choose the grid of a weight: one scale, one for each channel, or one for each group.

    Args:
        weight: Float tensor of any shape.
        scheme: Bits, symmetry, granularity and range rule.
        channel_axis: Axis that channels lie on; not read for "per_tensor".

    Raises:
        DataError: If the weight is empty or holds NaN or Inf.
    """
    if weight.numel() == 0:
        raise DataError(f"The weight has shape {tuple(weight.shape)} and no values. Exclude it.")
    if not all(math.isfinite(edge.item()) for edge in torch.aminmax(weight.detach())):
        raise DataError("The weight holds NaN or Inf. Fix the model or exclude the layer.")
    axis = None if scheme.has_one_scale else channel_axis
    rows = weight_rows(weight, axis)
    if scheme.group_size is None:
        lo, hi = _row_ranges(rows, scheme)
    else:
        groups = [_row_ranges(part, scheme) for part in torch.split(rows, scheme.group_size, dim=1)]
        lo, hi = (torch.stack(edges, dim=1) for edges in zip(*groups, strict=True))
    if axis is None:
        lo, hi = lo.squeeze(0), hi.squeeze(0)
    return choose_qparams(lo, hi, scheme, axis).to(weight.device)


def _row_ranges(rows: Tensor, scheme: TensorScheme) -> tuple[Tensor, Tensor]:
    """Return the range of every row by the scheme's rule, two tensors (rows,)."""
    if scheme.observer == "minmax":
        return rows.amin(dim=1), rows.amax(dim=1)
    blocks = torch.split(rows.cpu(), _CHANNELS_AT_ONCE)
    ranges = [choose_range(bin_channels(b.numpy(), _WEIGHT_BINS), scheme) for b in blocks]
    lo, hi = (torch.from_numpy(np.concatenate(edges)) for edges in zip(*ranges, strict=True))
    return lo, hi


def weight_rows(weight: Tensor, axis: int | None) -> Tensor:
    """Return a weight as float32 (channels, values of a channel); one row if axis is None."""
    weight = weight.detach().float()
    if axis is None:
        return weight.reshape(1, -1)
    return weight.movedim(axis, 0).reshape(weight.shape[axis], -1)


def expected_mse(
    binned: BinnedValues, lo: FloatArray, hi: FloatArray, scheme: TensorScheme
) -> tuple[FloatArray, FloatArray]:
    """Estimate the mean squared error of a range, and the share of values it clips.

    Bins wider than a step count scale²/12 for rounding; in narrower ones the error at the centre
    plus the variance width²/12 inside the bin is exact for values spread evenly. Exact zeros cost
    nothing.

    Args:
        binned: The values, (channels, bins); a single channel is measured against every range.
        lo: Lower edges, shape (channels,).
        hi: Upper edges, shape (channels,).
        scheme: Bits and symmetry.

    Returns:
        Mean squared error and clipped share, each of shape (channels,).
    """
    mse, is_inside = _squared_errors(binned, lo, hi, scheme)
    clipped = (binned.counts * ~is_inside).sum(axis=1)
    return mse, clipped / binned.counts.sum(axis=1)


def _squared_errors(
    binned: BinnedValues, lo: FloatArray, hi: FloatArray, scheme: TensorScheme
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return the mean squared error of each range, and which bins are not clipped, (rows, bins)."""
    scale, zero_point = _grid(lo, hi, scheme)
    raw = binned.centers / scale
    np.rint(raw, out=raw)
    raw += zero_point
    error = raw.clip(scheme.qmin, scheme.qmax)
    is_inside = raw == error
    # In place from here: codes, what they stand for, errors, squared errors, their shares.
    error -= zero_point
    error *= scale
    np.subtract(binned.centers, error, out=error)
    np.square(error, out=error)
    width = binned.width[:, None]
    error += np.square(width) / 12
    is_coarse = width >= scale
    if is_coarse.any():
        np.copyto(error, np.square(scale) / 12, where=is_inside & is_coarse)
    error *= binned.nonzero_counts
    return error.sum(axis=1) / binned.counts.sum(axis=1), is_inside


def _grid(lo: FloatArray, hi: FloatArray, scheme: TensorScheme) -> tuple[FloatArray, FloatArray]:
    """Return scale and zero point as columns, (channels, 1)."""
    scale, zero_point = scale_and_zero_point(lo, hi, scheme, np)
    return scale.astype(np.float32).astype(np.float64)[:, None], zero_point[:, None]


def _quantile(upper: FloatArray, counts: FloatArray, share: float) -> FloatArray:
    """Return the value below which `share` of the counts lie; bins end at `upper`, ascending."""
    total = np.cumsum(counts, axis=1)
    target = share * total[:, -1:]
    index = np.minimum((total < target).sum(axis=1, keepdims=True), counts.shape[1] - 1)
    inside = np.take_along_axis(counts, index, axis=1)
    before = np.take_along_axis(total, index, axis=1) - inside
    width = np.diff(upper[:, :2], axis=1) if upper.shape[1] > 1 else np.zeros_like(target)
    fraction = np.divide(target - before, inside, out=np.ones_like(target), where=inside > 0)
    end = np.take_along_axis(upper, index, axis=1)
    result: FloatArray = (end - (1.0 - np.clip(fraction, 0.0, 1.0)) * width)[:, 0]
    return result
