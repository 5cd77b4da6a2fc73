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
from dashboard.facts.outputs import (
    accuracy_head,
    decided_by,
    degradation_of,
    has_classes,
    measure_of,
)
from dashboard.words.degradation import DEGRADATIONS, RATIO
from dashboard.words.formatting import (
    MISSING,
    format_accuracy,
    format_bytes,
    format_number,
    format_within,
    plural,
)
from dashboard.words.recipes import CODE_BITS
from quant_engine.remedies import remedies_left_out
from quant_engine.report import (
    GOOD,
    ROUGH,
    ConfigurationPoint,
    ConfigurationScore,
    ConfigurationSize,
    ModelReport,
    OutputScore,
    encode,
)
from quant_engine.response import as_pairs, describe_degradation, describe_region
from quant_engine.scheme import LOCAL_REMEDIES
from quant_engine.variants import FLOAT_OPTION

UNTRUSTED = "≈ "
"""Stands before a prediction that lies where predictions do not hold."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One configuration in the table.

    Attributes:
        name: What to call it.
        configuration: Layer name -> option name; layers left out are float.
        predicted: What is predicted for it.
        measured: What running it gave; None where it was not run.
    """

    name: str
    configuration: Configuration
    predicted: ConfigurationScore
    measured: ConfigurationScore | None = None


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
    predicted, measured = prediction.score(configuration), prediction.measured_score(configuration)
    return ScoreRow(name, configuration, predicted, measured)


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
    same = tuple(replace(output, degradation=0.0) for output in floats.outputs)
    exact = replace(floats, top1_agreement=1.0, accuracy=right, outputs=same, interval=None)
    float_row = ScoreRow(name, {}, floats, exact)
    own_row = make_row("Run shown", own, prediction)
    if stand_ins:  # what was measured is about the options that stand in, not about the run
        own_row = replace(own_row, measured=None)
    name = "This configuration"
    if not configuration:
        return float_row, own_row, replace(float_row, name=name)
    return float_row, own_row, make_row(name, configuration, prediction)


def with_run(run: Run, prediction: Prediction) -> Prediction:
    """Return the prediction with what the run's own analysis measured among its runs.

    An analysis that was cut short, judges other outputs, has schemes that are none of the options,
    or remedies that are not among them, such as corrected biases, adds nothing.
    """
    own, stand_ins = prediction.configuration_of(run.recipe)
    output = run.report.output
    is_known = prediction.measured_score(own) is not None
    is_other = stand_ins or remedies_left_out(run.recipe, LOCAL_REMEDIES)
    if output is None or run.report.is_partial or is_other or not own or is_known:
        return prediction
    predicted = prediction.score(own)
    outputs = _measured_outputs(run.report, prediction, predicted.outputs)
    if not outputs:
        return prediction
    accuracies = (found.accuracy_quantized for found in run.report.outputs)
    measured = replace(
        predicted,
        kl_divergence=output.kl_divergence,
        nmse=output.error.nmse,
        sqnr_db=output.error.sqnr_db,
        top1_agreement=output.top1_agreement,
        accuracy=next((accuracy for accuracy in accuracies if accuracy is not None), None),
        interval=outputs[0].interval if len(outputs) == 1 else None,
        outputs=outputs,
    )
    return _with_point(prediction, ConfigurationPoint(as_pairs(own), predicted, measured))


def _measured_outputs(
    report: ModelReport, prediction: Prediction, predicted: Sequence[OutputScore]
) -> tuple[OutputScore, ...]:
    """Return what an analysis measured of each output, or nothing where its outputs are others."""
    if [output.name for output in report.outputs] != [score.name for score in predicted]:
        return ()
    found, outputs = [], prediction.response.report.outputs
    for score, output, own in zip(predicted, report.outputs, outputs, strict=True):
        _, degradation, interval = degradation_of(output, DEGRADATIONS[score.metric])
        if degradation is None:
            return ()
        ratio = own.share(degradation) if len(predicted) > 1 else None
        known = replace(score, degradation=degradation, interval=interval, value=output.value)
        found.append(replace(known, ratio=ratio))
    return tuple(found)


@lru_cache(maxsize=8)
def _with_point(prediction: Prediction, point: ConfigurationPoint) -> Prediction:
    """The same prediction every time, which keeps what it has worked out already."""
    return prediction.with_measured((point,))


def measured_text(row: ScoreRow) -> str:
    """Return the measured degradation with its interval and the digits that the interval supports.

    Example: "0.0147 (0.0121–0.0175)".
    """
    if row.measured is None:
        return MISSING
    return format_within(row.measured.degradation, row.measured.interval)


def table_row(row: ScoreRow, prediction: Prediction) -> dict[str, str]:
    """Return a row for people, results first: what was measured, else what is predicted."""
    predicted, samples = row.predicted, prediction.response.report.answering_samples

    def cell(measured: str | None, text: str) -> str:
        if measured is None:
            return f"predicted {text}"
        return measured if measured == text else f"{measured}, predicted {text}"

    right = None if row.measured is None else row.measured.accuracy
    same = None if row.measured is None else row.measured.top1_agreement
    cells = {"Configuration": row.name}
    if predicted.accuracy is not None:
        cells[accuracy_head(prediction)] = cell(
            None if right is None else share_text(right, samples),
            format_accuracy(predicted.accuracy),
        )
    if has_classes(prediction):
        cells["Same answer"] = cell(
            None if same is None else format_accuracy(same),
            format_accuracy(predicted.top1_agreement),
        )
    cells[measure_of(prediction).head] = cell(
        None if row.measured is None else measured_text(row),
        predicted_text(predicted.degradation, prediction) + decided_by(predicted),
    )
    for index, name in enumerate(output_heads(prediction)):
        known = None if row.measured is None else row.measured.outputs[index]
        cells[name] = cell(
            None if known is None else format_within(known.degradation, known.interval),
            format_number(predicted.outputs[index].degradation, 2),
        )
    choice = describe_choice(prediction, row.configuration)
    cells["Bytes"] = format_bytes(predicted.size.model_bytes)
    return cells | {CODE_BITS: f"{bits_text(predicted.size)} ({choice})"}


def output_heads(prediction: Prediction) -> tuple[str, ...]:
    """Return the headings of each of several outputs, with its unit; none for a single one."""
    outputs = prediction.response.report.outputs
    heads = (f"{output.name}: {DEGRADATIONS[output.metric].head}" for output in outputs)
    return tuple(heads) if len(outputs) > 1 else ()


def bits_text(size: ConfigurationSize) -> str:
    """Return the mean bits of the codes, then with scales.

    Example: "4.5, with scales 4.62".
    """
    return f"{format_number(size.weight_bits)}, with scales {format_number(size.effective_bits)}"


def search_text(search: MeasuredSearch, prediction: Prediction) -> str:
    """Return what a search ran, which one was taken, and how sure that choice is."""
    best, *others = (make_row("", point.as_dict(), prediction) for point in search.points)
    measure = measure_of(prediction)
    text = (
        f"Within {search.budget} the {plural(len(search.points), 'configuration')} predicted best "
        f"were run, and the best measured was taken: {measure.label} {measured_text(best)}, "
        f"predicted {format_number(best.predicted.degradation, 2)} ({ratio_text(best)} what was "
        "measured)."
    )
    if not others:
        return f"{text} The search found no other."
    interval = best.measured and best.measured.interval
    high = interval[1] if interval else 0.0
    near = sum(row.measured is not None and row.measured.degradation <= high for row in others)
    if near:
        text += (
            f" {near} of the others {'lies' if near == 1 else 'lie'} within its 95 % interval: "
            "these samples hardly distinguish them."
        )
    return text


def ratio_text(row: ScoreRow) -> str:
    """Return predicted ÷ measured degradation.

    Example: "0.8 ×".
    """
    measured = None if row.measured is None else row.measured.degradation
    if not measured or not math.isfinite(measured):
        return MISSING
    return f"{format_number(row.predicted.degradation / measured, 2)} ×"


def data_rows(rows: Sequence[ScoreRow], prediction: Prediction) -> list[dict[str, Any]]:
    """Return configurations as numbers, one row each, for a CSV file."""
    column = measure_of(prediction).column
    found = []
    for row in rows:
        predicted, measured = row.predicted, row.measured
        low, high = (measured and measured.interval) or (None, None)
        found.append(
            {
                "name": row.name,
                "configuration": prediction.to_text(row.configuration),
                "model_bytes": predicted.size.model_bytes,
                "weight_bits": predicted.size.weight_bits,
                "effective_bits": predicted.size.effective_bits,
                f"predicted_{column}": predicted.degradation,
                f"measured_{column}": measured and measured.degradation,
                f"measured_{column}_low": low,
                f"measured_{column}_high": high,
                "predicted_top1_agreement": predicted.top1_agreement,
                "measured_top1_agreement": measured and measured.top1_agreement,
                "predicted_accuracy": predicted.accuracy,
                "measured_accuracy": measured and measured.accuracy,
                **_output_data(predicted.outputs, () if measured is None else measured.outputs),
            }
        )
    return found


def _output_data(
    predicted: Sequence[OutputScore], measured: Sequence[OutputScore]
) -> dict[str, float | None]:
    """Return the columns of each of several outputs, in its own unit; none for a single one."""
    columns: dict[str, float | None] = {}
    for index, score in enumerate(predicted if len(predicted) > 1 else ()):
        column = f"{score.name}_{DEGRADATIONS[score.metric].column}"
        columns[f"predicted_{column}"] = score.degradation
        columns[f"measured_{column}"] = measured[index].degradation if measured else None
    return columns


def layer_data_rows(prediction: Prediction, configuration: Configuration) -> list[dict[str, Any]]:
    """Return each layer's choice and what it does alone, predicted and measured."""
    column = measure_of(prediction).column
    rows = []
    for layer in prediction.response.layers:
        choice = (layer, configuration.get(layer, FLOAT_OPTION))
        is_float = choice[1] == FLOAT_OPTION
        measured = 0.0 if is_float else prediction.measured_alone.get(choice)
        rows.append(
            {
                "layer": layer,
                "choice": choice[1],
                f"predicted_{column}_alone": prediction.alone.get(choice, 0.0),
                f"measured_{column}_alone": measured,
                **_alone_data(prediction, {} if is_float else dict([choice])),
            }
        )
    return rows


def _alone_data(prediction: Prediction, alone: Configuration) -> dict[str, float]:
    """Return what a layer alone is predicted to do to each of several outputs."""
    if measure_of(prediction) is not RATIO:
        return {}
    return {
        f"predicted_{score.name}_{DEGRADATIONS[score.metric].column}_alone": score.degradation
        for score in prediction.score(alone).outputs
    }


def to_json(run: Run, row: ScoreRow, prediction: Prediction) -> bytes:
    """Return a configuration with its prediction and what was measured, as JSON."""
    agreement, measured = prediction.response.agreement, row.measured
    data = {
        "model": run.model_name,
        "configuration": {
            layer: row.configuration.get(layer, FLOAT_OPTION)
            for layer in prediction.response.layers
        },
        "recipe": prediction.recipe_of(row.configuration).to_dict(),
        "predicted": encode(row.predicted),
        "measured": {
            measure_of(prediction).key: measured and measured.degradation,
            "interval_95": measured and measured.interval,
            "top1_agreement": measured and measured.top1_agreement,
            "accuracy": measured and measured.accuracy,
            "outputs": encode(() if measured is None else measured.outputs),
        },
        "agreement_of_predictions": {
            "level": agreement.level,
            "verdict": agreement.verdict,
            "single_layers": encode(agreement.single),
            "random_configurations": encode(agreement.random),
        },
    }
    return json.dumps(data, indent=2, allow_nan=False).encode()


def describe_choice(prediction: Prediction, configuration: Configuration) -> str:
    """Return how many layers have how many bits.

    Example: "3 × float, 17 × 8 bits, 2 × 4 bits GPTQ".
    """
    chosen = [configuration.get(layer, FLOAT_OPTION) for layer in prediction.response.layers]
    counts = {option: chosen.count(option) for option in prediction.letters}
    return ", ".join(f"{n} × {prediction.words(option)}" for option, n in counts.items() if n)
