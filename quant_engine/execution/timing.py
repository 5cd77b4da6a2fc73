"""How long a model takes as float, simulated and on integers, layer by layer and as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from torch import nn

from quant_engine.errors import ModelForwardError, QuantizationError, UnsupportedLayerError
from quant_engine.execution.clock import (
    Stopwatch,
    measure_timing,
    runs_in_channels_last,
    time_pass,
    time_threads,
    using_threads,
)
from quant_engine.execution.convert import (
    INTEGER,
    SIMULATED,
    convert_execution,
    execution_notes,
    list_executions,
)
from quant_engine.execution.lowering.lower import is_lowered
from quant_engine.model.batches import Batch, first_samples
from quant_engine.model.forward import run_model
from quant_engine.progress import Progress
from quant_engine.report import ExecutionGap, TimingReport

FLOAT = "float"
FLOAT_CHANNELS_LAST = "float_channels_last"
INTEGER_LOWERED = "integer_lowered"

Compare: TypeAlias = Callable[
    [Mapping[str, Any], Batch], tuple[tuple[ExecutionGap, ...], list[str]]
]
"""(execution -> answer, the batch) -> how far integers lie from the simulation, and notes."""

_ROUNDS = 20
"""A pass of every execution on the largest batch may take this part of the budget at most: a few
of them warm up, a few are timed, a few are timed layer by layer."""


def time_executions(
    float_model: nn.Module,
    quantized: nn.Module,
    batch: Batch,
    layers: Sequence[str] = (),
    *,
    seconds: float = math.inf,
    compare: Compare | None = None,
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
        seconds: Most time, from when each model has run once: their conversion, and capturing a
            lowered one, come on top. A batch that takes too long for that is cut to its first
            samples; the report's `limits` say what was left out.
        compare: Called with what each execution answered on the largest batch that is timed, and
            that batch; returns the report's gaps, and notes.
        progress: Called after every batch size; may raise to cancel.

    Returns:
        The times, how each quantized layer was computed on integers, and what was left out.

    Raises:
        ModelForwardError: If the float model raises on the batch.
    """
    with using_threads(1):
        single, notes = _one_sample(batch, float_model)
        models, missing = _executions(float_model, quantized, single or batch)
        notes += missing
        largest = batch
        notes += _run_each(models, single or batch)[1]
        watch = Stopwatch()
        if single is not None:
            largest = _largest_that_fits(models, single, batch, 1e3 * seconds / _ROUNDS)
    trials = time_threads(float_model, largest)
    with using_threads(trials[0].threads):
        answers, failed = _run_each(models, largest)
        gaps, uncompared = ((), []) if compare is None else compare(answers, largest)
        del answers
        notes += [*failed, *uncompared]
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
        gaps=gaps,
    )


def _executions(
    float_model: nn.Module, quantized: nn.Module, batch: Batch
) -> tuple[dict[str, nn.Module], list[str]]:
    """Return every way to run the model by its name, and why others are missing."""
    models: dict[str, nn.Module] = {FLOAT: float_model}
    has_images = any(tensor.dim() == 4 for tensor in batch.tensors)
    has_kernels = any(parameter.dim() == 4 for parameter in float_model.parameters())
    if has_images and has_kernels and runs_in_channels_last(float_model, batch):
        models[FLOAT_CHANNELS_LAST] = float_model
    models[SIMULATED] = quantized
    try:
        models[INTEGER] = convert_execution(quantized, example=batch)
        lowered = convert_execution(quantized, lowered=True, example=batch)
    except UnsupportedLayerError as error:
        return models, [str(error)]
    if is_lowered(lowered):
        models[INTEGER_LOWERED] = lowered
    return models, list(execution_notes(lowered))


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
            for model in models.values():
                run_model(model, part)  # a lowered model prepares itself for another size
            if 2 * sum(time_pass(model, part) for model in models.values()) > most_ms:
                return part
            part = first_samples(batch, 2 * part.samples) or batch
    except QuantizationError:
        pass  # it takes one sample and the whole batch, and nothing between
    return batch


def _run_each(models: dict[str, nn.Module], batch: Batch) -> tuple[dict[str, Any], list[str]]:
    """Run float and quantized models once; take out quantized ones that fail, and say why."""
    answers, notes = {FLOAT: run_model(models[FLOAT], batch)}, []
    for name in [name for name in (SIMULATED, INTEGER, INTEGER_LOWERED) if name in models]:
        try:
            answers[name] = run_model(models[name], batch)
        except QuantizationError as error:
            del models[name]
            notes.append(f"The execution {name!r} was not timed. {error}")
    return answers, notes
