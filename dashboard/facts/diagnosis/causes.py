"""What breaks a layer, as plain numbers: weights that became 0, and outlier input channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from dashboard.facts.diagnosis.thresholds import LOST_SHARE, OUTLIER, OUTLIER_CHANNELS
from dashboard.words.formatting import format_number, plural
from quant_engine.report import LayerReport, TensorReport

WEIGHT_CHANNELS, INPUT_CHANNELS = "weight channels", "input channels"
WEIGHT_VALUES = "weight values"


@dataclass(frozen=True, slots=True)
class Zeros:
    """Weights that were not 0 and became 0.

    Attributes:
        count: How many.
        total: Weights of the layer.
        silent: Output channels of which nothing is left.
        channels: Output channels.
    """

    count: int
    total: int
    silent: int
    channels: int

    @property
    def is_cause(self) -> bool:
        """Whether so much is lost that it explains a broken layer."""
        return self.silent > 0 or self.count >= LOST_SHARE * self.total

    @property
    def sentence(self) -> str:
        """The count, and the channels of which nothing is left."""
        text = f"{self.count:,} of {self.total:,} weights became 0"
        if not self.silent:
            return text
        verb = "is" if self.silent == 1 else "are"
        return f"{text}; {self.silent} of {plural(self.channels, 'channel')} {verb} all 0"


@dataclass(frozen=True, slots=True)
class OutlierChannels:
    """Input channels that are far larger than the others.

    Attributes:
        indices: Their numbers, the largest first.
        ratio: How many times the median channel the largest is.
        channels: Input channels that are not 0 all along.
    """

    indices: tuple[int, ...]
    ratio: float
    channels: int

    @property
    def sentence(self) -> str:
        """Which channels, and how far above the others."""
        *names, last = (str(i) for i in sorted(self.indices[:4]))
        more = len(self.indices) - 4
        noun = "channels" if names else "channel"
        if more > 0:
            text = f"{', '.join([*names, last])} and {more} more"
        else:
            text = f"{', '.join(names)} and {last}" if names else last
        return f"input {noun} {text}: up to {format_number(self.ratio, 2)} × the median"


def zeros_of(tensor: TensorReport | None) -> Zeros | None:
    """Return what became 0 of a weight; None where there is none."""
    channels = None if tensor is None else tensor.channels
    if channels is None:
        return None
    count = len(channels.lo)
    total = count * channels.channel_size
    return Zeros(sum(channels.became_zero), total, len(channels.silent), count)


def input_reach(layer: LayerReport) -> tuple[float, ...]:
    """Return the largest magnitude of every input channel; empty where it has none."""
    seen = layer.input_channels
    if seen is None:
        return ()
    return tuple(max(abs(lo), abs(hi)) for lo, hi in zip(seen.lo, seen.hi, strict=True))


def outlier_channels(layer: LayerReport) -> OutlierChannels | None:
    """Return the input channels that stretch the range for all others, or None."""
    reach = input_reach(layer)
    alive = [value for value in reach if value > 0]
    if not alive:
        return None
    middle = median(alive)
    outliers = [i for i, value in enumerate(reach) if value >= OUTLIER * middle]
    if not outliers or len(outliers) > OUTLIER_CHANNELS * len(alive):
        return None
    outliers.sort(key=lambda i: -reach[i])
    return OutlierChannels(tuple(outliers), reach[outliers[0]] / middle, len(alive))


def weight_relative(layer: LayerReport) -> float | None:
    """Return the weight's error channel by channel: root of the mean of Σ(x-x̂)² / Σx²; or None.

    Over the whole tensor the outlier channels hide the others; here each counts alike.
    """
    tensor = layer.weight
    if tensor is None:
        return None
    if tensor.channels is None:
        return math.sqrt(tensor.error.nmse)
    shares = [10 ** (-sqnr_db / 10) for sqnr_db in tensor.channels.sqnr_db]
    return math.sqrt(sum(shares) / len(shares)) if shares else None


def input_relative(layer: LayerReport) -> float | None:
    """Return the input's error over all its values, √(Σ(x-x̂)² / Σx²); or None.

    An input has one scale, and no report holds its channels one by one.
    """
    return None if layer.input is None else math.sqrt(layer.input.error.nmse)


def local_relative(layer: LayerReport) -> float | None:
    """Return the error of the layer's output when it alone is quantized, channel by channel."""
    return None if layer.local_relative is None else layer.local_relative.rms


def accumulated_relative(layer: LayerReport) -> float | None:
    """Return the error of its output inside the quantized model, channel by channel."""
    return None if layer.accumulated_relative is None else layer.accumulated_relative.rms


def kind_of_cause(layer: LayerReport) -> str:
    """Return what explains the layer's error best."""
    zeros = zeros_of(layer.weight)
    if zeros is not None and zeros.silent:
        return WEIGHT_CHANNELS
    if layer.input is not None and outlier_channels(layer) is not None:
        return INPUT_CHANNELS
    return WEIGHT_VALUES


def cause_sentence(layer: LayerReport) -> str:
    """Return what breaks a layer in a few words, with its numbers."""
    kind, zeros, outliers = kind_of_cause(layer), zeros_of(layer.weight), outlier_channels(layer)
    if kind == INPUT_CHANNELS and outliers is not None and layer.input is not None:
        return f"{outliers.sentence} in {layer.name}"
    if zeros is not None and zeros.is_cause:
        return f"in {layer.name}, {zeros.sentence}"
    if layer.weight is not None:
        used = layer.weight.codes.codes_used
        return f"in {layer.name}, the weights have {plural(used, 'value')}"
    return f"{layer.name} stays float"
