"""Reports as tables: one row per layer, bin, channel or code. The only user of pandas.

Column names are plain identifiers that carry their unit (`_db _bytes _percent _lsb _ms _nats`), so
that a downloaded file explains itself. A missing value is an empty cell, no error is `inf` dB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import pandas as pd

from dashboard.data.sweeps import split_options, sweep_of
from dashboard.facts.diagnosis.remedies import treatment_columns
from dashboard.facts.layer_rows import layer_row, prefixed
from dashboard.words.degradation import KL, NMSE, RATIO
from dashboard.words.formatting import percent
from quant_engine.errors import is_whole_number
from quant_engine.report import LayerSensitivity, ModelReport, SensitivityReport
from quant_engine.variants import BOTH

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula."""

Table: TypeAlias = pd.DataFrame
"""What a figure's data comes as; other modules name the type without importing pandas."""


def table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return rows as a table.

    Whole numbers stay whole where some are missing, which pandas by itself turns into fractions.
    """
    kept = list(rows)
    data = pd.DataFrame(kept)
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
        {
            **layer_row(layer, report.timing),
            **treatment_columns(layer.name, report.treatments),
            **_sensitivity_columns(layer.name, measured),
        }
        for layer in report.layers
    )


def _sensitivity_columns(name: str, measured: Iterable[SensitivityReport]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for sensitivity in measured:
        sweep = sweep_of(sensitivity)
        for label, report in split_options(sensitivity).items():
            words = (sweep.direction, *(() if sweep.parts == BOTH else (sweep.parts,)), label)
            prefix = "_".join(word.replace(" ", "_") for word in words if word)
            for layer in report.layers:
                if layer.name == name:
                    row: dict[str, Any] = {"option": layer.option}
                    row |= _output_columns(layer) if layer.outputs else _only_output(layer, report)
                    if label:  # the bytes under the run's own scheme stand with the layer already
                        row["quantized_bytes"] = layer.quantized_bytes
                    columns |= prefixed(prefix, row)
    return columns


def _only_output(layer: LayerSensitivity, report: SensitivityReport) -> dict[str, Any]:
    """Return the columns of a single output; the interval is of what the report ranks by."""
    judged = _value_column(report.metric)
    own = {} if judged in (KL.column, NMSE.column) else {judged: layer.value}
    return {
        **own,
        "kl_divergence_nats": layer.kl_divergence,
        f"{judged}_low": layer.interval[0],
        f"{judged}_high": layer.interval[1],
        "output_sqnr_db": layer.sqnr_db,
        "output_nmse": layer.nmse,
        "top1_agreement_percent": percent(layer.top1_agreement),
        "accuracy_drop_points": percent(layer.accuracy_drop),
    }


def _with_interval(name: str, value: float, ends: tuple[float, float]) -> dict[str, float]:
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _value_column(metric: str) -> str:
    """Return the name of a column that holds a metric's values, not its degradations."""
    return {one.key: one.column for one in (KL, NMSE, RATIO)}.get(metric, metric)


def _output_columns(layer: LayerSensitivity) -> dict[str, Any]:
    """Return the ratio that several outputs are ranked by, and each output in its own unit."""
    columns: dict[str, Any] = {
        **_with_interval(RATIO.column, layer.value, layer.interval),
        "decided_by": layer.decided_by,
    }
    for effect in layer.outputs:
        metric = _value_column(effect.metric)
        columns |= {
            **_with_interval(f"{effect.name}_{metric}", effect.value, effect.interval),
            f"{effect.name}_{RATIO.column}": effect.ratio,
        }
    return columns
