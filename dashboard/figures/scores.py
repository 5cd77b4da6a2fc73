"""Configurations side by side: predicted and measured, in words and as data."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dashboard.accuracy import share_text
from dashboard.figures.formatting import (
    MISSING,
    format_accuracy,
    format_bytes,
    format_nats,
    format_number,
)
from dashboard.figures.frontier import describe_choice
from dashboard.prediction import Configuration, Prediction
from dashboard.runs import Run
from quant_engine.options import FLOAT_OPTION
from quant_engine.report import ConfigurationScore
from quant_engine.report.response import GOOD, ROUGH
from quant_engine.serialization import encode

BOTH = "predicted → measured"
NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One configuration in the table.

    Attributes:
        name: What to call it.
        configuration: Layer name -> option name; layers left out are float.
        predicted: What is predicted for it.
        measured_harm: Measured KL divergence or NMSE; None where it was not run.
        harm_interval: Its 95 % interval; None where it is not known.
        measured_agreement: Measured share of answers that stay the float model's.
        measured_accuracy: Measured accuracy.
    """

    name: str
    configuration: Configuration
    predicted: ConfigurationScore
    measured_harm: float | None = None
    harm_interval: tuple[float, float] | None = None
    measured_agreement: float | None = None
    measured_accuracy: float | None = None


def is_trusted(prediction: Prediction) -> bool:
    """Whether predictions at least order configurations of this model roughly."""
    return prediction.response.agreement.level in (GOOD, ROUGH)


def make_row(name: str, configuration: Configuration, prediction: Prediction) -> ScoreRow:
    """Return a configuration with its prediction, and its measured figures if it was run."""
    measured = prediction.measured_score(configuration)
    if measured is None:
        return ScoreRow(name, configuration, prediction.score(configuration))
    return ScoreRow(
        name,
        configuration,
        prediction.score(configuration),
        measured.harm,
        measured.harm_interval,
        measured.top1_agreement,
        measured.accuracy,
    )


def compare_rows(
    run: Run, prediction: Prediction, configuration: Configuration
) -> tuple[ScoreRow, ScoreRow, ScoreRow]:
    """Return the float model, the run shown, and a configuration.

    The response is about the prepared model, so its float model may be smaller than the one given.

    What the run's own analysis measured counts for the run, unless it was cut short or has schemes
    that are none of the options.
    """
    own, stand_ins = prediction.configuration_of(run.recipe)
    output, size = run.report.output, run.report.size
    right = prediction.response.report.float_accuracy
    floats = prediction.score({})
    is_folded = size is not None and size.float_bytes != floats.size.model_bytes
    name = "Float, BatchNorm folded" if is_folded else "Float model"
    float_row = ScoreRow(name, {}, floats, 0.0, None, 1.0, right)
    own_row = make_row("Run shown", own, prediction)
    is_whole = output is not None and not run.report.is_partial and not stand_ins
    if is_whole and output is not None and own_row.measured_harm is None:
        harm = output.kl_divergence if prediction.has_logits else output.error.nmse
        own_row = replace(
            own_row,
            measured_harm=harm,
            measured_agreement=output.top1_agreement,
            measured_accuracy=output.accuracy_quantized,
        )
    name = "This configuration"
    if dict(configuration) == own and not stand_ins:
        return float_row, own_row, replace(own_row, name=name)
    if not configuration:
        return float_row, own_row, replace(float_row, name=name)
    return float_row, own_row, make_row(name, configuration, prediction)


def harm_text(value: float | None, prediction: Prediction) -> str:
    """Return a KL divergence, or an NMSE, as text."""
    return format_nats(value) if prediction.has_logits else format_number(value)


def measured_harm_text(row: ScoreRow, prediction: Prediction) -> str:
    """Return the measured harm with its interval, as text.

    Example: "0.0147 (0.0121–0.0175) nats".
    """
    if row.measured_harm is None or row.harm_interval is None:
        return harm_text(row.measured_harm, prediction)
    low, high = (format_number(edge) for edge in row.harm_interval)
    unit = " nats" if prediction.has_logits else ""
    return f"{format_number(row.measured_harm)} ({low}–{high}){unit}"


def table_row(row: ScoreRow, prediction: Prediction) -> dict[str, str]:
    """Return a row for people, results first; what was measured carries its 95 % interval."""
    predicted, measured = row.predicted, measured_harm_text(row, prediction)
    samples = prediction.response.report.samples
    cells = {
        "Configuration": row.name,
        f"{'KL' if prediction.has_logits else 'NMSE'}, {BOTH}": (
            f"{format_number(predicted.harm)} → {measured}"
            if row.measured_harm is not None
            else f"{harm_text(predicted.harm, prediction)} → {NOT_RUN}"
        ),
    }
    if predicted.accuracy is not None:
        right = row.measured_accuracy
        known = NOT_RUN if right is None else share_text(right, samples)
        cells[f"Accuracy, {BOTH}"] = f"{format_accuracy(predicted.accuracy)} → {known}"
    if prediction.has_logits:
        same = row.measured_agreement
        known = NOT_RUN if same is None else format_accuracy(same)
        cells["Same answer"] = f"{format_accuracy(predicted.top1_agreement)} → {known}"
    return {
        **cells,
        "Bytes": format_bytes(predicted.size.model_bytes),
        "Bits a weight": format_number(predicted.size.effective_bits),
        "Bits": describe_choice(prediction, row.configuration),
    }


def ratio_text(row: ScoreRow) -> str:
    """Return predicted / measured harm.

    Example: "0.8 ×".
    """
    if not row.measured_harm or not math.isfinite(row.measured_harm):
        return MISSING
    return f"{format_number(row.predicted.harm / row.measured_harm, 2)} ×"


def data_rows(rows: Sequence[ScoreRow], prediction: Prediction) -> list[dict[str, Any]]:
    """Return configurations as numbers, one row each, for a CSV file."""
    harm = "kl_divergence_nats" if prediction.has_logits else "output_nmse"
    return [
        {
            "name": row.name,
            "configuration": prediction.to_text(row.configuration),
            "model_bytes": row.predicted.size.model_bytes,
            "effective_bits": row.predicted.size.effective_bits,
            f"predicted_{harm}": row.predicted.harm,
            f"measured_{harm}": row.measured_harm,
            f"measured_{harm}_low": row.harm_interval and row.harm_interval[0],
            f"measured_{harm}_high": row.harm_interval and row.harm_interval[1],
            "predicted_top1_agreement": row.predicted.top1_agreement,
            "measured_top1_agreement": row.measured_agreement,
            "predicted_accuracy": row.predicted.accuracy,
            "measured_accuracy": row.measured_accuracy,
        }
        for row in rows
    ]


def layer_data_rows(prediction: Prediction, configuration: Configuration) -> list[dict[str, Any]]:
    """Return each layer's choice and what it is predicted to do alone, one row a layer."""
    harm = "kl_divergence_nats" if prediction.has_logits else "output_nmse"
    rows = []
    for layer in prediction.response.layers:
        option = configuration.get(layer, FLOAT_OPTION)
        alone = prediction.alone.get((layer, option), 0.0)
        rows.append({"layer": layer, "choice": option, f"predicted_{harm}_alone": alone})
    return rows


def to_json(run: Run, row: ScoreRow, prediction: Prediction) -> bytes:
    """Return a configuration with its prediction and what was measured, as JSON."""
    agreement = prediction.response.agreement
    data = {
        "model": run.model_name,
        "configuration": {
            layer: row.configuration.get(layer, FLOAT_OPTION)
            for layer in prediction.response.layers
        },
        "recipe": prediction.recipe_of(row.configuration).to_dict(),
        "predicted": encode(row.predicted),
        "measured": {
            "kl_divergence" if prediction.has_logits else "nmse": row.measured_harm,
            "interval_95": row.harm_interval,
            "top1_agreement": row.measured_agreement,
            "accuracy": row.measured_accuracy,
        },
        "agreement_of_predictions": {
            "level": agreement.level,
            "verdict": agreement.verdict,
            "single_layers": encode(agreement.single),
            "random_configurations": encode(agreement.random),
        },
    }
    return json.dumps(data, indent=2, allow_nan=False).encode()
