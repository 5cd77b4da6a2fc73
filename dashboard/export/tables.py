"""Reports as tables: one row per layer, bin, channel or code. The only user of pandas.

Column names are plain identifiers that carry their unit (`_db _bytes _percent _lsb _ms _nats`), so
that a downloaded file explains itself. A missing value is an empty cell, no error is `inf` dB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd

from dashboard.data.sweeps import split_options, sweep_of
from dashboard.facts.culprit import OutputEffects
from dashboard.facts.executions import is_baseline, ratio_to_baseline
from dashboard.facts.layers import layer_row, percent, prefixed
from dashboard.facts.tensors import channel_sqnrs
from dashboard.figures.kit.binning import bin_edges
from dashboard.figures.layers.four_errors import error_rows
from dashboard.figures.layers.relative_errors import relative_of
from quant_engine.errors import is_whole_number
from quant_engine.report import (
    LayerReport,
    LayerSensitivity,
    ModelReport,
    SensitivityReport,
    SizeReport,
    TensorReport,
    TimingReport,
)
from quant_engine.variants import BOTH

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula."""

Table: TypeAlias = pd.DataFrame
"""What a figure's data comes as; other modules name the type without importing pandas."""


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Table:
    """Return rows as a table; `columns` gives the order, and the names of an empty table.

    Whole numbers stay whole where some are missing, which pandas by itself turns into fractions.
    """
    kept = list(rows)
    data = pd.DataFrame(kept, columns=None if columns is None else list(columns))
    for name in data.columns:
        values = [row.get(name) for row in kept]
        known = [value for value in values if value is not None]
        if len(known) < len(values) and known and all(map(is_whole_number, known)):
            data[name] = pd.array(values, dtype="Int64")
    return data


def to_csv(data: Table) -> bytes:
    """Return a table as CSV; it begins with a byte order mark, so that Excel reads UTF-8.

    Text that a spreadsheet would run as a formula gets a quote before it; numbers stay numbers.
    """
    kept = data.copy(deep=False)
    for name in data.columns:
        if not pd.api.types.is_numeric_dtype(data[name]):
            kept[name] = data[name].map(_without_formula)
    text: str = kept.to_csv(index=False)
    return text.encode("utf-8-sig")


def _without_formula(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def layers_table(report: ModelReport, sensitivities: Iterable[SensitivityReport] = ()) -> Table:
    """Return one row for each layer with everything that was measured on it."""
    measured = tuple(sensitivities)
    return table(
        {**layer_row(layer, report.timing), **_sensitivity_columns(layer.name, measured)}
        for layer in report.layers
    )


def _sensitivity_columns(name: str, measured: Iterable[SensitivityReport]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for sensitivity in measured:
        sweep = sweep_of(sensitivity)
        for label, report in split_options(sensitivity).items():
            words = (sweep.direction, *(() if sweep.parts == BOTH else (sweep.parts,)), label)
            prefix = "_".join(word.replace(" ", "_") for word in words if word)
            # The bytes under the run's own scheme stand with the layer already.
            known = ("layer", "parameters", "float_bytes", *(() if label else ("quantized_bytes",)))
            for layer in report.layers:
                if layer.name == name:
                    row = _sensitivity_row(layer)
                    columns |= prefixed(prefix, {k: v for k, v in row.items() if k not in known})
    return columns


def sensitivity_table(report: SensitivityReport) -> Table:
    """Return one row for each layer of a sensitivity measurement, in the order they run."""
    return table(map(_sensitivity_row, report.layers))


def _sensitivity_row(layer: LayerSensitivity) -> dict[str, Any]:
    return {
        "layer": layer.name,
        "option": layer.option,
        "kl_divergence_nats": layer.kl_divergence,
        f"{_interval_of(layer)}_low": layer.interval[0],
        f"{_interval_of(layer)}_high": layer.interval[1],
        "output_sqnr_db": layer.sqnr_db,
        "output_nmse": layer.nmse,
        "top1_agreement_percent": percent(layer.top1_agreement),
        "accuracy_drop_points": percent(layer.accuracy_drop),
        "parameters": layer.parameters,
        "float_bytes": layer.float_bytes,
        "quantized_bytes": layer.quantized_bytes,
    }


def _interval_of(layer: LayerSensitivity) -> str:
    """Return the column that the interval belongs to, with its unit."""
    return "output_nmse" if layer.kl_divergence is None else "kl_divergence_nats"


def cumulative_table(report: SensitivityReport) -> Table:
    """Return the curve of quantizing the k least sensitive layers."""
    return table(
        {
            "quantized_layers": point.count,
            "layer_added": point.layer,
            "kl_divergence_nats": point.kl_divergence,
            "output_sqnr_db": point.sqnr_db,
            "accuracy_percent": percent(point.accuracy),
            "model_bytes": point.model_bytes,
        }
        for point in report.cumulative
    )


def size_table(size: SizeReport) -> Table:
    """Return the bytes of the whole model before and after, item by item."""
    float_file, quantized_file = size.float_file_bytes, size.quantized_file_bytes
    items = (
        ("quantized weights", None, size.weight_bytes),
        ("scales", None, size.scale_bytes),
        ("zero points", None, size.zero_point_bytes),
        ("biases of quantized layers", None, size.bias_bytes),
        ("what stays float", None, size.float_leftover_bytes),
        ("sum", size.float_bytes, size.quantized_bytes),
        ("measured file", float_file, quantized_file),
    )
    return table(
        {"item": item, "float_bytes": before, "quantized_bytes": after}
        for item, before, after in items
    )


def timing_table(timing: TimingReport) -> Table:
    """Return every measured time, whole models first."""
    return table(
        {
            "layer": entry.layer or "(whole model)",
            "execution": entry.execution,
            "batch_size": entry.batch_size,
            "median_ms": entry.median_ms,
            "q1_ms": entry.q1_ms,
            "q3_ms": entry.q3_ms,
            "runs": entry.runs,
            "is_unreliable": entry.is_unreliable,
            "warmup_runs": timing.warmup_runs,
            "ratio_to_baseline": None if entry.layer else ratio_to_baseline(timing, entry),
            "is_baseline": not entry.layer and is_baseline(timing, entry),
            "threads": timing.environment.threads,
            "cpu": timing.environment.cpu,
        }
        for entry in (*timing.models, *timing.layers)
    )


def value_table(tensor: TensorReport) -> Table:
    """Return the histogram of values before and after; under- and overflow are open bins."""
    histogram = tensor.values
    edges = bin_edges(histogram.lo, histogram.hi, len(histogram.float_counts))
    lows, highs = [float("-inf"), *edges], [*edges, float("inf")]
    floats = (histogram.float_below, *histogram.float_counts, histogram.float_above)
    after = (histogram.quantized_below, *histogram.quantized_counts, histogram.quantized_above)
    return pd.DataFrame(
        {"from": lows, "to": highs, "float_values": floats, "dequantized_values": after}
    )


def lsb_table(tensor: TensorReport) -> Table:
    """Return the histogram of errors in LSB; under- and overflow are open bins."""
    histogram = tensor.lsb_error
    edges = bin_edges(histogram.lo, histogram.hi, len(histogram.counts))
    return pd.DataFrame(
        {
            "from_lsb": [float("-inf"), *edges],
            "to_lsb": [*edges, float("inf")],
            "values": (histogram.below, *histogram.counts, histogram.above),
        }
    )


def all_lsb_table(report: ModelReport, part: str = "weight") -> Table:
    """Return the error histograms of all layers below each other; `part` is weight or input."""
    parts = []
    for layer in report.layers:
        tensor = layer.weight if part == "weight" else layer.input
        if tensor is not None:
            rows = lsb_table(tensor)
            rows.insert(0, "layer", layer.name)
            parts.append(rows)
    columns = ["layer", "from_lsb", "to_lsb", "values"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def channel_table(tensor: TensorReport) -> Table:
    """Return range, scale, zero point and SQNR of each output channel."""
    channels = tensor.channels
    if channels is None:
        return pd.DataFrame(columns=["channel", "lo", "hi", "sqnr_db", "scale", "zero_point"])
    count = len(channels.lo)
    one = len(tensor.scale) == 1
    return pd.DataFrame(
        {
            "channel": range(count),
            "lo": channels.lo,
            "hi": channels.hi,
            "sqnr_db": channels.sqnr_db,
            "scale": tensor.scale * count if one else tensor.scale,
            "zero_point": tensor.zero_point * count if one else tensor.zero_point,
        }
    )


def input_channel_table(layer: LayerReport) -> Table:
    """Return the range of each channel of a layer's float input."""
    seen = layer.input_channels
    if seen is None:
        return pd.DataFrame(columns=["channel", "lo", "hi"])
    return pd.DataFrame({"channel": range(len(seen.lo)), "lo": seen.lo, "hi": seen.hi})


def relative_error_table(report: ModelReport, kind: str = "local") -> Table:
    """Return the relative errors of each layer's output: figures and the counts of all bins."""
    return table(
        {
            "layer": layer.name,
            "rms_percent": percent(kept.rms),
            "channels": kept.channels,
            "lost_channels": kept.lost_channels,
            "flat_channels": kept.flat_channels,
            "exact": kept.exact,
            "below": kept.below,
            **{
                f"from_2^{kept.lowest_octave + index / 2:g}": count
                for index, count in enumerate(kept.counts)
            },
            "above": kept.above,
        }
        for layer in report.layers
        if (kept := relative_of(layer, kind)) is not None
    )


def code_table(tensor: TensorReport) -> Table:
    """Return how often each integer code occurs."""
    counts = tensor.codes.counts
    first = tensor.codes.qmin
    return pd.DataFrame({"code": range(first, first + len(counts)), "values": counts})


def range_table(tensor: TensorReport) -> Table:
    """Return what every observer would choose for this tensor, and what a scale per channel gives.

    The last two rows, of a weight with one scale, count the channels alike; the others all values.
    """
    rows: list[dict[str, Any]] = [
        {
            "observer": choice.observer,
            "is_used": choice.observer == tensor.scheme.observer,
            "lo": choice.lo,
            "hi": choice.hi,
            "scale": choice.scale,
            "zero_point": choice.zero_point,
            "estimated_sqnr_db": choice.sqnr_db,
            "clipped_percent": percent(choice.clipped_fraction),
        }
        for choice in tensor.range_choices
    ]
    if (by_channel := channel_sqnrs(tensor)) is not None:
        names = ("one scale, each channel alike", "per channel, each channel alike")
        rows += [
            {"observer": name, "is_used": name == names[0], "estimated_sqnr_db": sqnr_db}
            for name, sqnr_db in zip(names, by_channel, strict=True)
        ]
    return table(rows)


def four_errors_table(report: ModelReport, effects: OutputEffects | None = None) -> Table:
    """Return the four errors of each layer, ranked; relative ones channel by channel in percent."""
    effect = (
        "output_nmse" if effects is not None and not effects.is_divergence else "output_kl_nats"
    )
    return table(
        {
            "layer": row.name,
            "weight_percent": percent(row.weight),
            "local_percent": percent(row.local),
            "accumulated_percent": percent(row.accumulated),
            effect: row.output,
            "output_is": "" if effects is None else effects.basis,
        }
        for row in error_rows(report, effects)
    )
