"""What a tensor's report says of its grid, its channels and its range estimators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from quant_engine.report import ModelReport, RangeChoice, TensorReport

WORST = 10


@dataclass(frozen=True, slots=True)
class Channel:
    """One output channel of a weight.

    Attributes:
        index: Number of the channel.
        lo: Smallest value.
        hi: Largest value.
        sqnr_db: Its SQNR in dB; inf where exact.
        grid_lo: Smallest value its grid can hold; None where its groups have several grids.
        grid_hi: Largest value its grid can hold, likewise.
    """

    index: int
    lo: float
    hi: float
    sqnr_db: float
    grid_lo: float | None
    grid_hi: float | None

    @property
    def reach(self) -> float:
        """Largest absolute value."""
        return max(abs(self.lo), abs(self.hi))


def channels_of(tensor: TensorReport) -> tuple[Channel, ...]:
    """Return the channels of a weight, in their own order; empty for an input."""
    ranges, scheme = tensor.channels, tensor.scheme
    if ranges is None:
        return ()
    ends = [
        (None, None)
        if grid is None
        else ((scheme.qmin - grid[1]) * grid[0], (scheme.qmax - grid[1]) * grid[0])
        for grid in channel_grids(tensor)
    ]
    columns = zip(ranges.lo, ranges.hi, ranges.sqnr_db, ends, strict=True)
    return tuple(Channel(i, lo, hi, sqnr, *end) for i, (lo, hi, sqnr, end) in enumerate(columns))


def channel_grids(tensor: TensorReport) -> tuple[tuple[float, int] | None, ...]:
    """Return scale and zero point of each channel of a weight; None where it has several."""
    count = 0 if tensor.channels is None else len(tensor.channels.lo)
    if tensor.group_count:
        return (None,) * count
    grids = tuple(zip(tensor.scale, tensor.zero_point, strict=True))
    return grids * count if len(grids) == 1 else grids


def grid_owner(tensor: TensorReport) -> str:
    """Return what has a grid of its own in a weight with several."""
    size = tensor.scheme.group_size
    return "channel" if size is None else f"group of {size} weights"


def worst_channels(tensor: TensorReport, count: int = WORST) -> tuple[Channel, ...]:
    """Return the channels with the lowest SQNR, worst first; exact ones are left out."""
    inexact = [channel for channel in channels_of(tensor) if channel.sqnr_db < math.inf]
    return tuple(sorted(inexact, key=lambda channel: channel.sqnr_db)[:count])


def median_sqnr(tensor: TensorReport) -> float | None:
    """Return the median SQNR over the channels in dB, or None without channels."""
    values = [channel.sqnr_db for channel in channels_of(tensor)]
    return median(values) if values else None


OBSERVER_NAMES = {
    "minmax": "min–max",
    "percentile": "percentile",
    "mse": "smallest error",
    "entropy": "entropy",
    "hqq": "HQQ",
}


def observer_name(observer: str) -> str:
    """Return the name of a range estimator as people write it."""
    return OBSERVER_NAMES.get(observer, observer)


def best_choice(choices: Sequence[RangeChoice]) -> RangeChoice | None:
    """Return the choice with the highest estimated SQNR; the first of equals, None of none."""
    return max(choices, key=lambda choice: choice.sqnr_db, default=None)


def used_choice(tensor: TensorReport) -> RangeChoice | None:
    """Return the choice of the range estimator in use; None where it is not among them."""
    rule = tensor.scheme.observer
    return next((choice for choice in tensor.range_choices if choice.observer == rule), None)


def why_no_choice(tensor: TensorReport) -> str:
    """Say why there is nothing to compare where a tensor has no range to choose."""
    if tensor.is_dynamic:
        return (
            "No range estimator chooses this range: it runs from the smallest to the largest "
            "value of each "
            "batch."
        )
    return (
        f"Every {grid_owner(tensor)} has a range of its own here; range estimators are compared "
        "for one range."
    )


def grid_range(tensor: TensorReport) -> tuple[float, float] | None:
    """Return the smallest and largest value the grid can hold; None where there are several.

    Channels may differ, and so may the batches of a dynamic input.
    """
    if len(tensor.scale) != 1:
        return None
    scheme, scale, zero = tensor.scheme, tensor.scale[0], tensor.zero_point[0]
    return (scheme.qmin - zero) * scale, (scheme.qmax - zero) * scale


def channel_sqnrs(tensor: TensorReport) -> tuple[float, float] | None:
    """Return the SQNR of a weight's one scale, and what one scale per channel would give, in dB.

    Both count the channels alike (the mean over channels of noise over signal), so that a large
    channel hides no other; they are compared with each other, not with the SQNR of all values.

    Returns:
        The two, or None where the weight has a scale per channel already, or it is an input.
    """
    promised, channels = tensor.per_channel_sqnr_db, tensor.channels
    if promised is None or channels is None or not channels.sqnr_db:
        return None
    share = sum(10 ** (-sqnr_db / 10) for sqnr_db in channels.sqnr_db) / len(channels.sqnr_db)
    return (math.inf if share == 0 else -10 * math.log10(share)), promised


def tensors_of(report: ModelReport, part: str) -> dict[str, TensorReport]:
    """Return the quantized weights or inputs by layer, in the order the layers run."""
    found = ((x.name, x.weight if part == "weight" else x.input) for x in report.layers)
    return {name: tensor for name, tensor in found if tensor is not None}
