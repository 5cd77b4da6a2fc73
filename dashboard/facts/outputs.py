"""What degradation is, for one judged output or for several."""

from __future__ import annotations

import quant_engine
from dashboard.data.prediction import Prediction
from dashboard.facts.accuracy import Interval
from dashboard.words.degradation import (
    COSINE,
    DEGRADATIONS,
    KL,
    MEAN_IOU,
    NMSE,
    PEAK_ERROR,
    RATIO,
    Degradation,
    degradation_by,
    degradation_interval,
)
from dashboard.words.formatting import MISSING, format_within
from quant_engine.report import (
    ConfigurationScore,
    LayerSensitivity,
    ModelReport,
    OutputReport,
    SensitivityReport,
)


def measure_of(prediction: Prediction) -> Degradation:
    """Return what a prediction's degradations are: of several outputs ratios."""
    outputs = prediction.response.report.outputs
    return RATIO if len(outputs) > 1 else DEGRADATIONS[outputs[0].metric]


def judged_measure(report: ModelReport) -> Degradation | None:
    """Return what a run's degradations are, of several outputs ratios; None while not evaluated."""
    outputs = outputs_of(report)
    if len(outputs) > 1:
        return RATIO
    return degradation_by(outputs[0].metric) if outputs else None


def has_classes(prediction: Prediction) -> bool:
    """Whether a prediction is about a single output with answers that may change."""
    return measure_of(prediction) is KL


def degradation_about(prediction: Prediction) -> str:
    """Return in a sentence or two what a prediction's degradations are."""
    about = measure_of(prediction).about
    return f"{about[0].upper()}{about[1:]}."


def accuracy_head(prediction: Prediction) -> str:
    """Return the heading of an accuracy, with the output it is about where there are several."""
    pairs = zip(prediction.response.report.outputs, prediction.response.output_arrays, strict=True)
    names = [output.name for output, arrays in pairs if arrays.labels is not None]
    return f"Accuracy of {names[0]}" if names and measure_of(prediction) is RATIO else "Accuracy"


def outputs_of(report: ModelReport) -> tuple[OutputReport, ...]:
    """Return every judged output of an analysis; empty while nothing was evaluated."""
    if len(report.outputs) > 1:
        return report.outputs
    return () if report.output is None else (report.output,)


def answering_output(report: ModelReport) -> OutputReport | None:
    """Return the output whose answers are shown sample by sample: the first that has answers."""
    found = outputs_of(report)
    return next((output for output in found if output.answers is not None), report.output)


def prefix_of(output: OutputReport | None, report: ModelReport) -> str:
    """Return an output's name to stand before its numbers; empty for a single output."""
    return f"{output.name}: " if output is not None and len(outputs_of(report)) > 1 else ""


def judged_number(output: OutputReport) -> tuple[str, str]:
    """Return the name of the metric an output is judged by, and its value with its interval.

    Example: ("KL divergence", "0.0123 nats (0.01–0.015)").
    """
    metric = quant_engine.METRICS.get(output.metric)
    label, unit = (output.metric, "") if metric is None else (metric.label, metric.unit)
    if output.value is None:
        return label, MISSING
    text = format_within(output.value, output.interval)
    value, _, interval = text.partition(" (")
    value = f"{value} {unit}" if unit and unit != "share" else value
    return label, f"{value} ({interval}" if interval else value


def degradation_of(
    output: OutputReport, measure: Degradation | None = None
) -> tuple[Degradation, float | None, Interval | None]:
    """Return what an analysed output's degradation is, its value and its 95 % interval.

    Args:
        output: The quantized model's output against float's.
        measure: What to read; by default what the output is judged by.
    """
    measure = measure or degradation_by(output.metric)
    if measure is KL:
        return measure, output.kl_divergence, output.kl_interval
    interval = output.interval if output.metric == measure.key else None
    if measure is NMSE:
        return measure, output.error.nmse, interval
    known = {COSINE: output.cosine, MEAN_IOU: output.mean_iou, PEAK_ERROR: output.psnr_db}
    value = output.value if output.metric == measure.key else known.get(measure)
    degradation = None if value is None else measure.of_value(value)
    return measure, degradation, interval and degradation_interval(measure, interval)


def measured_degradation(layer: LayerSensitivity, measure: Degradation) -> float | None:
    """Return what a layer costs a single output by a measure that its report holds, else None."""
    known = {KL: layer.kl_divergence, NMSE: layer.nmse}
    return known[measure] if measure in known else measure.of_value(layer.value)


def measured_alone(
    layer: LayerSensitivity, report: SensitivityReport, prediction: Prediction
) -> tuple[float, str] | None:
    """Return what a layer was measured to cost, as a prediction counts it; None if it does not fit.

    With it comes the output that decides, of several outputs. Ratios are of what the prediction's
    own reference does, which may be another than the report's.
    """
    outputs = prediction.response.report.outputs
    if len(outputs) == 1:
        measure = measure_of(prediction)
        is_known = measure in (KL, NMSE) or report.metric == measure.key
        degradation = measured_degradation(layer, measure) if is_known else None
        return None if degradation is None else (degradation, "")
    if [(x.name, x.metric) for x in layer.outputs] != [(x.name, x.metric) for x in outputs]:
        return None
    pairs = zip(layer.outputs, outputs, strict=True)
    ratios = [(effect.degradation / o.reference, effect.name) for effect, o in pairs if o.reference]
    return max(ratios, key=lambda ratio: ratio[0], default=(0.0, ""))


def decided_by(score: ConfigurationScore) -> str:
    """Return which of several outputs a degradation ratio is of, to follow it; empty for one."""
    return f" ({score.decided_by})" if score.decided_by else ""
