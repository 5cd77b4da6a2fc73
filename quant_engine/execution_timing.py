"""How long a model takes as float, simulated and on integers, layer by layer and as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from quant_engine.batches import Batch, Data, first_samples, iterate_batches
from quant_engine.calibration import Calibration
from quant_engine.conversion import convert, plan_layers
from quant_engine.copying import share_tensors
from quant_engine.errors import (
    DataError,
    ModelForwardError,
    QuantizationError,
    UnsupportedLayerError,
)
from quant_engine.execution import (
    INTEGER,
    SIMULATED,
    convert_execution,
    execution_notes,
    list_executions,
)
from quant_engine.forward import run_model
from quant_engine.lowering import is_lowered
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.report import TIMES_FOLLOW, ModelReport, TimingReport
from quant_engine.selection import list_layers
from quant_engine.setup import set_up
from quant_engine.timing import (
    Stopwatch,
    measure_timing,
    runs_in_channels_last,
    time_pass,
    time_threads,
    using_threads,
)

FLOAT = "float"
FLOAT_CHANNELS_LAST = "float_channels_last"
INTEGER_LOWERED = "integer_lowered"

LEAST_BUDGET_S, MOST_BUDGET_S = 2.0, 10.0

_ROUNDS = 20
"""A pass of every execution on the largest batch may take this part of the budget at most: a few
of them warm up, a few are timed, a few are timed layer by layer."""


def measure_times(
    report: ModelReport,
    model: nn.Module,
    calibration_data: Data | Calibration,
    evaluation_data: Data | None = None,
    *,
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
        time_budget_s: Most seconds for timing. If None, as long as all before it took, but at
            least 2 and at most 10.
        progress: Called as progress(done, total, text); may raise to cancel.

    Returns:
        The report with times; without, where the model fails, and a note says why.

    Raises:
        DataError: If the budget is not positive, or the report is one of another model.
        QuantizationError: As for `analyze`.
    """
    watch = Stopwatch()
    check_budget(time_budget_s)
    setup = set_up(model, calibration_data, None, evaluation_data)
    prepared = setup.prepared
    _check_layers(report, prepared.model)
    meter = ProgressMeter(progress, len(report.layers) + 1)
    calibration = setup.calibrate(meter)
    plans = plan_layers(prepared, report.recipe, calibration)
    quantized = convert(share_tensors(prepared.model), plans, calibration, meter)
    first = next(iterate_batches(setup.evaluation_data, "evaluation_data"))
    seconds = time_budget_s or budget_after(watch.seconds)
    return add_times(report, prepared.model, quantized, first, seconds, meter)


def check_budget(seconds: float | None) -> None:
    """Raise DataError unless a time budget is None or above 0."""
    if seconds is not None and not seconds > 0:
        raise DataError(
            f"time_budget_s is {seconds}. Give seconds above 0, math.inf for no bound, or None."
        )


def _check_layers(report: ModelReport, model: nn.Module) -> None:
    expected = {layer.name for layer in report.layers}
    found = {layer.name for layer in list_layers(model)}
    if expected != found:
        raise DataError(
            f"The report is of another model: it has the layers {sorted(expected)}, the model "
            f"{sorted(found)}. Give the model that the report is about."
        )


def budget_after(seconds: float) -> float:
    """Return how long timing may take after work that took `seconds`: as long, within bounds.

    Example:
        >>> budget_after(0.5), budget_after(4.4), budget_after(60.0)
        (2.0, 4.4, 10.0)
    """
    return min(max(seconds, LEAST_BUDGET_S), MOST_BUDGET_S)


def add_times(
    report: ModelReport,
    float_model: nn.Module,
    quantized: nn.Module,
    batch: Batch,
    seconds: float,
    meter: ProgressMeter,
) -> ModelReport:
    """Time the models; where they fail, the rest of the report stands, and a note says so."""
    meter.say("time the model in float, simulated and on integers")
    names = [layer.name for layer in report.quantized_layers]
    notes = tuple(note for note in report.notes if note != TIMES_FOLLOW)
    timing = None
    try:
        timing = time_executions(
            float_model,
            quantized,
            batch,
            names,
            seconds=seconds,
            progress=lambda _done, _total, text: meter.say(text),
        )
    except ModelForwardError as error:
        notes += (f"The models were not timed. {error}",)
    meter.step("times are measured")
    return replace(report, timing=timing, notes=notes)


def time_executions(
    float_model: nn.Module,
    quantized: nn.Module,
    batch: Batch,
    layers: Sequence[str] = (),
    *,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> TimingReport:
    """Time every way to run a model, in turn, on one sample and on a whole batch.

    All with one thread or with as many as torch is set to, whichever runs the float model faster.

    "float" and, for models with images, "float_channels_last" are the float model in torch's two
    memory layouts; "simulated" and "integer" are the quantized one; "integer_lowered" keeps int8
    between layers, where the model can be traced. The integer ones get their images in
    channels_last too, as their kernels want them. A model that fails on that layout, or on one
    sample alone, is timed without it. Whatever else cannot run on the batch is left out, and the
    notes say why: a lowered model that does not take an argument of the batch, for example.

    Args:
        float_model: The float model, best with BatchNorms folded as the quantized one has them.
        quantized: The quantized model, simulated.
        batch: What they run on.
        layers: Names of layers to time by themselves too.
        seconds: Most time for all of it. A batch that takes too long for that is cut to its first
            samples; the report's `limits` say what was left out.
        progress: Called after every batch size; may raise to cancel.

    Returns:
        The times, how each quantized layer was computed on integers, and what was left out.

    Raises:
        ModelForwardError: If the float model raises on the batch.
    """
    watch = Stopwatch()
    with using_threads(1):
        single, notes = _one_sample(batch, float_model)
        models, missing = _executions(float_model, quantized, single or batch)
        notes += missing
        largest = batch
        if single is not None:
            notes += _leave_out_failing(models, single)
            largest = _largest_that_fits(models, single, batch, 1e3 * seconds / _ROUNDS)
    trials = time_threads(float_model, largest)
    with using_threads(trials[0].threads):
        notes += _leave_out_failing(models, largest)
        has_layouts = FLOAT_CHANNELS_LAST in models
        by_layer = (FLOAT, FLOAT_CHANNELS_LAST, SIMULATED, INTEGER, INTEGER_LOWERED)
        batches = {largest.samples: largest}
        report = measure_timing(
            models,
            batches if single is None else {1: single, **batches},
            layers={execution: layers for execution in by_layer if execution in models},
            channels_last=(FLOAT_CHANNELS_LAST,),
            images_last=(INTEGER, INTEGER_LOWERED) if has_layouts else (),
            seconds=seconds - watch.seconds,
            progress=progress,
        )
    limits = report.limits
    if largest.samples < batch.samples:
        limits = (
            f"Of the batch of {batch.samples} samples, {largest.samples} were timed together: "
            f"more would take too long for the {seconds:.3g} s that timing may take.",
            *limits,
        )
    last = models.get(INTEGER_LOWERED, models.get(INTEGER))
    return replace(
        report,
        executions=() if last is None else list_executions(last),
        notes=tuple(notes),
        budget_s=seconds if math.isfinite(seconds) else None,
        limits=limits,
        thread_trials=trials,
    )


def _executions(
    float_model: nn.Module, quantized: nn.Module, batch: Batch
) -> tuple[dict[str, nn.Module], list[str]]:
    """Return every way to run the model by its name, and why others are missing."""
    models: dict[str, nn.Module] = {FLOAT: float_model}
    if _has_layouts(float_model, batch) and runs_in_channels_last(float_model, batch):
        models[FLOAT_CHANNELS_LAST] = float_model
    models[SIMULATED] = quantized
    try:
        models[INTEGER] = convert_execution(quantized)
        lowered = convert_execution(quantized, lowered=True)
    except UnsupportedLayerError as error:
        return models, [str(error)]
    if is_lowered(lowered):
        models[INTEGER_LOWERED] = lowered
    return models, list(execution_notes(lowered))


def _has_layouts(model: nn.Module, batch: Batch) -> bool:
    """Whether the model convolves images, whose channels may lie in memory first or last."""
    has_images = any(isinstance(value, Tensor) and value.dim() == 4 for value in _inputs(batch))
    return has_images and any(parameter.dim() == 4 for parameter in model.parameters())


def _inputs(batch: Batch) -> list[object]:
    return [*batch.args, *batch.kwargs.values()]


def _one_sample(batch: Batch, float_model: nn.Module) -> tuple[Batch | None, list[str]]:
    """Return one sample of a batch, if it can be cut and the model takes it; else say why not."""
    single = first_samples(batch, 1)
    if single is None:
        return None, []
    try:
        run_model(float_model, single)
    except ModelForwardError as error:
        run_model(float_model, batch)  # if that fails too, it is what to report
        return None, [f"One sample alone was not timed. {error}"]
    return single, []


def _largest_that_fits(
    models: Mapping[str, nn.Module], single: Batch, batch: Batch, most_ms: float
) -> Batch:
    """Return as much of a batch as all models together run in a time: one sample, two, four, ..."""
    if math.isinf(most_ms):
        return batch
    part = single
    try:
        while part.samples < batch.samples:
            if 2 * sum(time_pass(model, part) for model in models.values()) > most_ms:
                return part
            part = first_samples(batch, 2 * part.samples) or batch
    except QuantizationError:
        pass  # it takes one sample and the whole batch, and nothing between
    return batch


def _leave_out_failing(models: dict[str, nn.Module], batch: Batch) -> list[str]:
    """Take out quantized models that fail on a batch; return why."""
    notes = []
    for name in [name for name in (SIMULATED, INTEGER, INTEGER_LOWERED) if name in models]:
        try:
            run_model(models[name], batch)
        except QuantizationError as error:
            del models[name]
            notes.append(f"The execution {name!r} was not timed. {error}")
    return notes
