"""Configurations side by side: predicted and measured, in words and as data."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from dashboard.data.prediction import Configuration, MeasuredSearch, Prediction
from dashboard.data.runs import Run
from dashboard.facts.accuracy import share_text
from dashboard.words.formatting import (
    MISSING,
    format_accuracy,
    format_bytes,
    format_nats,
    format_number,
    format_within,
    plural,
)
from dashboard.words.recipes import CODE_BITS
from quant_engine.report import (
    GOOD,
    ROUGH,
    ConfigurationPoint,
    ConfigurationScore,
    ConfigurationSize,
    encode,
)
from quant_engine.response import as_pairs, describe_degradation, describe_region
from quant_engine.scheme import BiasCorrection
from quant_engine.variants import BOTH, FLOAT_OPTION

UNTRUSTED = "≈ "
"""Stands before a prediction that lies where predictions do not hold."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One configuration in the table.

    Attributes:
        name: What to call it.
        configuration: Layer name -> option name; layers left out are float.
        predicted: What is predicted for it.
        measured_degradation: Measured KL divergence or NMSE; None where it was not run.
        interval: Its 95 % interval; None where it is not known.
        measured_agreement: Measured share of answers that stay the float model's.
        measured_accuracy: Measured accuracy.
    """

    name: str
    configuration: Configuration
    predicted: ConfigurationScore
    measured_degradation: float | None = None
    interval: tuple[float, float] | None = None
    measured_agreement: float | None = None
    measured_accuracy: float | None = None


def is_trusted(prediction: Prediction) -> bool:
    """Whether predictions at least order configurations of this model roughly."""
    return prediction.response.agreement.level in (GOOD, ROUGH)


def trust_limit(prediction: Prediction) -> float:
    """Return up to which predicted degradation predictions hold; 0 where they hold nowhere."""
    return prediction.region.limit if is_trusted(prediction) else 0.0


def trust_text(prediction: Prediction) -> str:
    """Return in words up to where predictions hold on this model, and what they are beyond."""
    response = prediction.response
    if not is_trusted(prediction):
        return response.agreement.verdict
    return describe_region(prediction.region, response.report.outputs)


def beyond_text(prediction: Prediction, predicted: ConfigurationScore) -> str:
    """Return where predictions end, with the output that takes a configuration past that."""
    limit = describe_degradation(trust_limit(prediction), prediction.response.report.outputs)
    by = f" by `{predicted.decided_by}`" if predicted.decided_by else ""
    return f"beyond {limit}, up to which predictions hold{by}"


def predicted_text(degradation: float, prediction: Prediction) -> str:
    """Return a prediction without its unit: two digits where predictions hold, else one."""
    if degradation == 0 or degradation <= trust_limit(prediction):
        return format_number(degradation, 2)
    return UNTRUSTED + format_number(degradation, 1)


def make_row(name: str, configuration: Configuration, prediction: Prediction) -> ScoreRow:
    """Return a configuration with its prediction, and its measured figures if it was run."""
    measured = prediction.measured_score(configuration)
    if measured is None:
        return ScoreRow(name, configuration, prediction.score(configuration))
    return ScoreRow(
        name,
        configuration,
        prediction.score(configuration),
        measured.degradation,
        measured.harm_interval,
        measured.top1_agreement,
        measured.accuracy,
    )


def compare_rows(
    run: Run, prediction: Prediction, configuration: Configuration
) -> tuple[ScoreRow, ScoreRow, ScoreRow]:
    """Return the float model, the run shown, and a configuration.

    The response is about the prepared model, so its float model may be smaller than the one given.

    Args:
        run: The run shown.
        prediction: With the run's own analysis among its runs; see `with_run`.
        configuration: What to compare with the two.
    """
    own, stand_ins = prediction.configuration_of(run.recipe)
    size = run.report.size
    right = prediction.response.report.float_accuracy
    floats = prediction.score({})
    is_folded = size is not None and size.float_bytes != floats.size.model_bytes
    name = "Float, BatchNorm folded" if is_folded else "Float model"
    float_row = ScoreRow(name, {}, floats, 0.0, None, 1.0, right)
    own_row = make_row("Run shown", own, prediction)
    if stand_ins:  # what was measured is about the options that stand in, not about the run
        own_row = ScoreRow(own_row.name, own, own_row.predicted)
    name = "This configuration"
    if not configuration:
        return float_row, own_row, replace(float_row, name=name)
    return float_row, own_row, make_row(name, configuration, prediction)


def with_run(run: Run, prediction: Prediction) -> Prediction:
    """Return the prediction with what the run's own analysis measured among its runs.

    An analysis that was cut short, judges several outputs, corrects biases, or has schemes that are
    none of the options adds nothing.
    """
    own, stand_ins = prediction.configuration_of(run.recipe)
    output = run.report.output
    is_known = prediction.measured_score(own) is not None
    is_other = stand_ins or run.recipe.remedy(BiasCorrection)
    if output is None or run.report.is_partial or is_other or not own or is_known:
        return prediction
    predicted = prediction.score(own)
    if len(predicted.outputs) > 1:
        return prediction
    interval = _own_interval(run)
    (alone,) = predicted.outputs
    known = {"kl_divergence": output.kl_divergence, "nmse": output.error.nmse}
    if output.cosine is not None:
        known["cosine"] = 1.0 - output.cosine
    degradation = known.get(alone.metric)
    if degradation is None:
        return prediction
    measured = replace(
        predicted,
        kl_divergence=output.kl_divergence,
        nmse=output.error.nmse,
        sqnr_db=output.error.sqnr_db,
        top1_agreement=output.top1_agreement,
        accuracy=output.accuracy_quantized,
        harm_interval=interval,
        outputs=(replace(alone, degradation=degradation, interval=interval, value=output.value),),
    )
    return _with_point(prediction, ConfigurationPoint(as_pairs(own), predicted, measured))


@lru_cache(maxsize=8)
def _with_point(prediction: Prediction, point: ConfigurationPoint) -> Prediction:
    """The same prediction every time, which keeps what it has worked out already."""
    return prediction.with_measured((point,))


def _own_interval(run: Run) -> tuple[float, float] | None:
    """The interval of the run's degradation, where a sensitivity measured the whole run as well."""
    for report in run.sensitivities:
        is_own = report.parts == BOTH and not any(report.options) and not report.is_partial
        if report.reference is not None and is_own:
            return report.reference.interval
    return None


def degradation_text(value: float | None, prediction: Prediction) -> str:
    """Return a KL divergence, or an NMSE, as text."""
    return format_nats(value) if prediction.has_logits else format_number(value)


def measured_text(row: ScoreRow) -> str:
    """Return the measured degradation with its interval and the digits that the interval supports.

    Example: "0.0147 (0.0121–0.0175)".
    """
    if row.measured_degradation is None:
        return MISSING
    return format_within(row.measured_degradation, row.interval)


def table_row(row: ScoreRow, prediction: Prediction) -> dict[str, str]:
    """Return a row for people, results first: what was measured, else what is predicted."""
    predicted, samples = row.predicted, prediction.response.report.samples

    def cell(measured: str | None, text: str) -> str:
        if measured is None:
            return f"predicted {text}"
        return measured if measured == text else f"{measured}, predicted {text}"

    right, same = row.measured_accuracy, row.measured_agreement
    cells = {"Configuration": row.name}
    if predicted.accuracy is not None:
        cells["Accuracy"] = cell(
            None if right is None else share_text(right, samples),
            format_accuracy(predicted.accuracy),
        )
    if prediction.has_logits:
        cells["Same answer"] = cell(
            None if same is None else format_accuracy(same),
            format_accuracy(predicted.top1_agreement),
        )
    cells[metric_column(prediction)] = cell(
        None if row.measured_degradation is None else measured_text(row),
        predicted_text(predicted.degradation, prediction),
    )
    return {
        **cells,
        "Bytes": format_bytes(predicted.size.model_bytes),
        CODE_BITS: f"{bits_text(predicted.size)} "
        f"({describe_choice(prediction, row.configuration)})",
    }


def bits_text(size: ConfigurationSize) -> str:
    """Return the mean bits of the codes, then with scales.

    Example: "4.5, with scales 4.62".
    """
    return f"{format_number(size.weight_bits)}, with scales {format_number(size.effective_bits)}"


def search_text(search: MeasuredSearch, prediction: Prediction) -> str:
    """Return what a search ran, which one was taken, and how sure that choice is."""
    best, *others = (make_row("", point.as_dict(), prediction) for point in search.points)
    metric = without_unit(metric_name(prediction))
    text = (
        f"Within {search.budget} the {plural(len(search.points), 'configuration')} predicted best "
        f"were run, and the best measured was taken: {metric} {measured_text(best)}, predicted "
        f"{format_number(best.predicted.degradation, 2)} ({ratio_text(best)} what was measured)."
    )
    if not others:
        return f"{text} The search found no other."
    high = best.interval[1] if best.interval else 0.0
    near = sum(
        row.measured_degradation is not None and row.measured_degradation <= high for row in others
    )
    if near:
        text += (
            f" {near} of the others {'lies' if near == 1 else 'lie'} within its 95 % interval: "
            "these samples hardly tell them apart."
        )
    return text


def metric_column(prediction: Prediction) -> str:
    """Return the heading of degradation in tables, with its unit."""
    return "KL (nats)" if prediction.has_logits else "NMSE"


def ratio_text(row: ScoreRow) -> str:
    """Return predicted ÷ measured degradation.

    Example: "0.8 ×".
    """
    if not row.measured_degradation or not math.isfinite(row.measured_degradation):
        return MISSING
    return f"{format_number(row.predicted.degradation / row.measured_degradation, 2)} ×"


def data_rows(rows: Sequence[ScoreRow], prediction: Prediction) -> list[dict[str, Any]]:
    """Return configurations as numbers, one row each, for a CSV file."""
    column = "kl_divergence_nats" if prediction.has_logits else "output_nmse"
    return [
        {
            "name": row.name,
            "configuration": prediction.to_text(row.configuration),
            "model_bytes": row.predicted.size.model_bytes,
            "weight_bits": row.predicted.size.weight_bits,
            "effective_bits": row.predicted.size.effective_bits,
            f"predicted_{column}": row.predicted.degradation,
            f"measured_{column}": row.measured_degradation,
            f"measured_{column}_low": row.interval and row.interval[0],
            f"measured_{column}_high": row.interval and row.interval[1],
            "predicted_top1_agreement": row.predicted.top1_agreement,
            "measured_top1_agreement": row.measured_agreement,
            "predicted_accuracy": row.predicted.accuracy,
            "measured_accuracy": row.measured_accuracy,
        }
        for row in rows
    ]


def layer_data_rows(prediction: Prediction, configuration: Configuration) -> list[dict[str, Any]]:
    """Return each layer's choice and what it does alone, predicted and measured."""
    column = "kl_divergence_nats" if prediction.has_logits else "output_nmse"
    rows = []
    for layer in prediction.response.layers:
        option = configuration.get(layer, FLOAT_OPTION)
        choice = (layer, option)
        is_float = option == FLOAT_OPTION
        rows.append(
            {
                "layer": layer,
                "choice": option,
                f"predicted_{column}_alone": prediction.alone.get(choice, 0.0),
                f"measured_{column}_alone": 0.0
                if is_float
                else prediction.measured_alone.get(choice),
            }
        )
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
            "kl_divergence" if prediction.has_logits else "nmse": row.measured_degradation,
            "interval_95": row.interval,
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


NATS = "nats"


def metric_name(prediction: Prediction) -> str:
    """Return what predictions are about, with its unit."""
    return f"KL divergence ({NATS})" if prediction.has_logits else "output NMSE"


def format_degradation(value: float, metric: str, digits: int = 3) -> str:
    """Return an amount of what `metric_name` names: nats have a unit, an NMSE has none.

    Example:
        >>> (
        ...     format_degradation(0.0123, "KL divergence (nats)"),
        ...     format_degradation(0.0123, "output NMSE"),
        ... )
        ('0.0123 nats', '0.0123')
    """
    if metric.endswith(f"({NATS})"):
        return format_nats(value, digits)
    return format_number(value, digits)


def describe_choice(prediction: Prediction, configuration: Configuration) -> str:
    """Return how many layers have how many bits.

    Example: "3 × float, 17 × 8 bits, 2 × 4 bits GPTQ".
    """
    parts = []
    for option in prediction.letters:
        count = sum(
            configuration.get(layer, FLOAT_OPTION) == option for layer in prediction.response.layers
        )
        if count:
            parts.append(f"{count} × {prediction.words(option)}")
    return ", ".join(parts)


def without_unit(metric: str) -> str:
    """Return what `metric_name` names, without its unit."""
    return metric.removesuffix(f" ({NATS})")
