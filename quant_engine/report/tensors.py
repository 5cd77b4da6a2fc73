"""What quantization did to one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quant_engine.errors import StorageError
from quant_engine.scheme import TensorScheme


@dataclass(frozen=True, slots=True)
class ErrorMetrics:
    """Difference between a float tensor x and its stand-in x̂, pooled over all the data.

    Attributes:
        count: Number of values compared.
        sqnr_db: 10·log10(Σx² / Σ(x-x̂)²), in dB; inf where the two are equal.
        nmse: Σ(x-x̂)² / Σx²; 0 where the two are equal.
        cosine: Cosine of the angle between x and x̂, mean over samples (over the whole tensor for
            a weight).
        mse: Mean of (x-x̂)².
        max_abs_error: Largest |x-x̂|.
        rmse_over_scale: Root of the mean of ((x-x̂)/scale)², in LSB; ideal rounding gives
            1/√12 ≈ 0.289. None where x was not rounded to a grid.
        rounding_mse: Share of `mse` from values inside the grid's range, or None.
        clipping_mse: Share of `mse` from values outside the grid's range, or None.
            `rounding_mse + clipping_mse == mse`.
        clipped_fraction: Share of values outside the grid's range, 0 to 1, or None.
    """

    count: int
    sqnr_db: float
    nmse: float
    cosine: float
    mse: float
    max_abs_error: float
    rmse_over_scale: float | None = None
    rounding_mse: float | None = None
    clipping_mse: float | None = None
    clipped_fraction: float | None = None


@dataclass(frozen=True, slots=True)
class ValueHistogram:
    """Float values and their dequantized stand-ins, counted on the same equal-width bins.

    Attributes:
        lo: Left edge of the first bin.
        hi: Right edge of the last bin.
        float_counts: Float values in each bin.
        quantized_counts: Dequantized values in each bin.
        float_below: Float values left of `lo`.
        float_above: Float values right of `hi`.
        quantized_below: Dequantized values left of `lo`.
        quantized_above: Dequantized values right of `hi`.
    """

    lo: float
    hi: float
    float_counts: tuple[int, ...]
    quantized_counts: tuple[int, ...]
    float_below: int
    float_above: int
    quantized_below: int
    quantized_above: int


@dataclass(frozen=True, slots=True)
class ErrorHistogram:
    """Rounding and clipping errors (x̂ - x) / scale, in LSB, on equal-width bins.

    Attributes:
        lo: Left edge of the first bin, in LSB.
        hi: Right edge of the last bin, in LSB.
        counts: Values in each bin. Ideal rounding is uniform on [-0.5, 0.5].
        below: Errors left of `lo` (values clipped from above).
        above: Errors right of `hi` (values clipped from below).
    """

    lo: float
    hi: float
    counts: tuple[int, ...]
    below: int
    above: int


@dataclass(frozen=True, slots=True)
class ChannelRanges:
    """Value range and error of every channel along one axis.

    Attributes:
        axis: Axis of the tensor that is counted as channels.
        lo: Smallest value of each channel.
        hi: Largest value of each channel.
        sqnr_db: Signal to quantization noise of each channel, in dB; inf where exact.
        became_zero: Values of each channel that were not 0 and became 0.
        channel_size: Values in each channel.
        lost_inputs: Input channels of the layer whose weights' error has at least half of their
            energy; None where they are not known (groups, embeddings).
    """

    axis: int
    lo: tuple[float, ...]
    hi: tuple[float, ...]
    sqnr_db: tuple[float, ...]
    became_zero: tuple[int, ...]
    channel_size: int
    lost_inputs: int | None = None

    @property
    def silent(self) -> tuple[int, ...]:
        """Channels of which nothing is left: their error is as large as they are, in zeros."""
        pairs = zip(self.became_zero, self.sqnr_db, strict=True)
        return tuple(i for i, (zeros, sqnr_db) in enumerate(pairs) if zeros and sqnr_db == 0.0)


@dataclass(frozen=True, slots=True)
class InputChannels:
    """Range of every channel of a layer's float input over the evaluation data.

    Attributes:
        axis: Axis of the input that is counted as channels, from the end.
        lo: Smallest value of each channel.
        hi: Largest value of each channel.
    """

    axis: int
    lo: tuple[float, ...]
    hi: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RelativeErrors:
    """Errors |x̂ - x| of a layer's output over the RMS of x's channel, on bins of half an octave.

    Attributes:
        lowest_octave: log2 of the left edge of the first bin; 0 is an error as large as the RMS.
        counts: Values in each bin, half an octave wide.
        below: Values with a smaller error, but not 0.
        above: Values with a larger one.
        exact: Values without error.
        channels: Channels of the output.
        flat_channels: Channels that are 0 all along, which have no RMS; they are not counted.
        rms: Root of the mean over channels of Σ(x̂-x)² / Σx².
        lost_channels: Channels whose error has at least half of their energy.
        shift: Mean over channels of mean(x̂-x)² / mean((x̂-x)²): the share of an error that is a
            constant, 0 to 1; channels without error are not counted.
    """

    lowest_octave: int
    counts: tuple[int, ...]
    below: int
    above: int
    exact: int
    channels: int
    flat_channels: int
    rms: float
    lost_channels: int
    shift: float


@dataclass(frozen=True, slots=True)
class CodeUsage:
    """How often each integer code occurs.

    Attributes:
        qmin: The code that `counts[0]` belongs to.
        counts: Values with each code, one entry for every code of the scheme.
    """

    qmin: int
    counts: tuple[int, ...]

    @property
    def codes_used(self) -> int:
        """Number of codes that occur at all."""
        return sum(1 for count in self.counts if count)


@dataclass(frozen=True, slots=True)
class RangeChoice:
    """The range one observer would choose for a tensor, and what it would cost.

    Attributes:
        observer: Name of the range rule.
        lo: Lower end of the range the rule picked (before it is widened to the grid).
        hi: Upper end.
        scale: Step between two codes.
        zero_point: Code of 0.0.
        sqnr_db: Signal to quantization noise on the calibration data, in dB, estimated from the
            histogram.
        clipped_fraction: Share of calibration values outside the grid, 0 to 1.
    """

    observer: str
    lo: float
    hi: float
    scale: float
    zero_point: int
    sqnr_db: float
    clipped_fraction: float


@dataclass(frozen=True, slots=True)
class WorkedExample:
    """One element followed through the arithmetic.

    Attributes:
        index: Where the element stands in the tensor.
        value: x.
        scale: s of its channel or group.
        zero_point: z of its channel or group.
        code: clamp(round(x / s) + z, qmin, qmax).
        dequantized: (code - z)·s.
    """

    index: tuple[int, ...]
    value: float
    scale: float
    zero_point: int
    code: int
    dequantized: float


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What quantization did to one tensor: a layer's weight or its input.

    Attributes:
        scheme: How it was quantized.
        shape: Shape of the weight, or of one input batch.
        lo: Smallest value: of the weight, of the input over the calibration data, or of a dynamic
            input over the evaluation data.
        hi: Largest value, likewise.
        scale: Steps between codes: one entry, or one for each channel. Of a weight in groups, the
            smallest and the largest step of a group, and of a dynamic input those that a batch had:
            two entries even where they are equal.
        zero_point: Codes of 0.0: one entry, or one for each channel; of groups and of a dynamic
            input the smallest and the largest, likewise.
        error: Quantization error: of the weight, or of the input over the evaluation data when
            it comes from the float model. With a dynamic scheme each batch has its own grid.
        values: Values before and after. With a single scale the bins end where the grid does; for
            a dynamic input they end where calibration's range did, and what lies beyond is not
            clipped.
        lsb_error: Errors in LSB; of a dynamic input in steps of the grid of their own batch.
        codes: Codes and how often each occurs, over all batches.
        channels: Range and error of each output channel, for a weight; None for an input.
        range_choices: What every observer would choose, from the same statistics; for a weight
            only where it has a single scale, for an input only where its range is fixed.
        example: One element worked through; of a dynamic input one of the first batch, on the
            grid of that batch.
        per_channel_sqnr_db: Of a weight with one scale, what a scale for each output channel would
            give by the same rule: the mean over channels of Σ(x-x̂)² / Σx², in dB. None elsewhere.
        examples: More elements worked through, of different sizes; those that became 0 first.
            `example` is the one to begin with.
    """

    scheme: TensorScheme
    shape: tuple[int, ...]
    lo: float
    hi: float
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    error: ErrorMetrics
    values: ValueHistogram
    lsb_error: ErrorHistogram
    codes: CodeUsage
    channels: ChannelRanges | None
    range_choices: tuple[RangeChoice, ...]
    example: WorkedExample
    per_channel_sqnr_db: float | None
    examples: tuple[WorkedExample, ...]

    @property
    def group_count(self) -> int:
        """Groups of a weight that have a scale each; 0 where weights are not in groups."""
        if self.scheme.group_size is None or self.channels is None:
            return 0
        return len(self.channels.lo) * -(-self.channels.channel_size // self.scheme.group_size)

    @property
    def is_dynamic(self) -> bool:
        """Whether each batch had a grid of its own, so that there is no single one to draw."""
        return self.scheme.is_dynamic

    def check(self, where: str) -> None:
        """Raise StorageError where a histogram is empty or has no range, or a grid is none."""
        values, errors, codes = self.values, self.lsb_error, self.codes
        counts = (values.float_counts, values.quantized_counts)
        _check_histogram(f"{where}'s values", values.lo, values.hi, *counts)
        _check_histogram(f"{where}'s errors", errors.lo, errors.hi, errors.counts)
        _check_histogram(f"{where}'s codes", codes.qmin, codes.qmin + 1, codes.counts)
        if not self.scale or len(self.scale) != len(self.zero_point):
            raise StorageError(
                f"{where} has {len(self.scale)} scales and {len(self.zero_point)} zero points."
            )
        if not all(0 < scale < math.inf for scale in self.scale):
            raise StorageError(f"{where} has scales that are not above 0 and finite.")
        scheme = self.scheme
        if not all(scheme.qmin <= point <= scheme.qmax for point in self.zero_point):
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
