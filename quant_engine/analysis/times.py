"""Measured times in a report: after the analysis, within a budget."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import nn

from quant_engine.analysis.gaps import measure_gaps
from quant_engine.errors import DataError, ModelForwardError
from quant_engine.execution.clock import Stopwatch
from quant_engine.execution.timing import time_executions
from quant_engine.judging.judged import Judged
from quant_engine.judging.output import OutputChoice
from quant_engine.model.batches import Batch, Data, iterate_batches
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.preparation.selection import list_layers
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.quantization.calibration import Calibration
from quant_engine.quantization.quantize import quantize_prepared
from quant_engine.quantization.setup import set_up
from quant_engine.remedies import treatment_steps
from quant_engine.report import NOT_COMPARED, TIMES_FOLLOW, ModelReport

LEAST_BUDGET_S, MOST_BUDGET_S = 5.0, 10.0


def measure_times(
    report: ModelReport,
    model: nn.Module,
    calibration_data: Data | Calibration,
    evaluation_data: Data | None = None,
    *,
    output: OutputChoice = None,
    time_budget_s: float | None = None,
    progress: Progress | None = None,
) -> ModelReport:
    """Add measured times to a report that has none, or measure them again.

    The model is calibrated and quantized as the report's recipe says, and timed on the first
    evaluation batch, or as much of it as the budget allows.

    Args:
        report: What `analyze` found for this model.
        model: The float model; it is not changed.
        calibration_data: As for `analyze`.
        evaluation_data: As for `analyze`; only its first batch is read.
        output: As for `analyze`; outputs whose values on integers are compared with simulated ones.
        time_budget_s: Most seconds for timing. If None, as long as all before it took, but at
            least 5 and at most 10.
        progress: Called as progress(done, total, text); may raise to cancel.

    Returns:
        The report with times; without, where the model fails, and a note says why.

    Raises:
        DataError: If the budget is not positive, or the report is one of another model.
        QuantizationError: As for `analyze`.
    """
    watch = Stopwatch()
    check_budget(time_budget_s)
    setup = set_up(model, calibration_data, report.recipe, evaluation_data, output=output)
    prepared = setup.prepared
    expected = {layer.name for layer in report.layers}
    found = {layer.name for layer in list_layers(prepared.model)}
    if expected != found:
        raise DataError(
            f"The report is of another model: it has the layers {sorted(expected)}, the model "
            f"{sorted(found)}. Give the model that the report is about."
        )
    quantized_names = (layer.name for layer in report.quantized_layers)
    steps = treatment_steps(report.recipe, quantized_names)
    meter = ProgressMeter(progress, steps + len(report.layers) + 1)
    calibration = setup.calibrate(meter)
    data = setup.calibration_data
    quantized = quantize_prepared(prepared, report.recipe, calibration, data, meter).model
    first = next(iterate_batches(setup.evaluation_data, "evaluation_data"))
    seconds = time_budget_s or budget_after(watch.seconds)
    return add_times(report, prepared, setup.judged, quantized, first, seconds, meter)


def check_budget(seconds: float | None) -> None:
    """Raise DataError unless a time budget is None or above 0."""
    if seconds is not None and not seconds > 0:
        raise DataError(
            f"time_budget_s is {seconds}. Give seconds above 0, math.inf for no bound, or None."
        )


def budget_after(seconds: float) -> float:
    """Return how long timing may take after work that took `seconds`: as long, within bounds.

    Example:
        >>> budget_after(0.5), budget_after(6.4), budget_after(60.0)
        (5.0, 6.4, 10.0)
    """
    return min(max(seconds, LEAST_BUDGET_S), MOST_BUDGET_S)


def add_times(
    report: ModelReport,
    prepared: PreparedModel,
    judged: Judged,
    quantized: nn.Module,
    batch: Batch,
    seconds: float,
    meter: ProgressMeter,
) -> ModelReport:
    """Time the models; where they fail, the rest of the report stands, and a note says so.

    Answers on integers are compared with simulated ones unless two passes answer differently.
    """
    meter.say("time the model in float, simulated and on integers")
    names = [layer.name for layer in report.quantized_layers]
    notes = tuple(note for note in report.notes if note != TIMES_FOLLOW)
    timing = None
    differs_because = prepared.state.full_passes_because
    try:
        timing = time_executions(
            prepared.model,
            quantized,
            batch,
            names,
            seconds=seconds,
            compare=None if differs_because else partial(measure_gaps, judged=judged),
            progress=lambda _done, _total, text: meter.say(text),
        )
    except ModelForwardError as error:
        notes += (f"The models were not timed. {error}",)
    if timing is not None and differs_because:
        note = f"{NOT_COMPARED}: {differs_because}."
        timing = replace(timing, notes=(*timing.notes, note))
    meter.step("times are measured")
    return replace(report, timing=timing, notes=notes)
