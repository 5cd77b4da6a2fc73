"""How long a model takes as float, simulated and on integers, layer by layer and as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from quant_engine.batches import Batch, first_samples
from quant_engine.errors import ModelForwardError, QuantizationError, UnsupportedLayerError
from quant_engine.execution import (
    INTEGER,
    SIMULATED,
    convert_execution,
    execution_notes,
    list_executions,
)
from quant_engine.forward import run_model
from quant_engine.lowering import is_lowered
from quant_engine.progress import Progress
from quant_engine.report import TimingReport
from quant_engine.timing import measure_timing, runs_in_channels_last

FLOAT = "float"
FLOAT_CHANNELS_LAST = "float_channels_last"
INTEGER_LOWERED = "integer_lowered"


def time_executions(
    float_model: nn.Module,
    quantized: nn.Module,
    batch: Batch,
    layers: Sequence[str] = (),
    *,
    progress: Progress | None = None,
) -> TimingReport:
    """Time every way to run a model, in turn, on one sample and on a whole batch.

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
        progress: Called after every batch size; may raise to cancel.

    Returns:
        The times, how each quantized layer was computed on integers, and what was left out.

    Raises:
        ModelForwardError: If the float model raises on the batch.
    """
    batches, notes = _batches(batch, float_model)
    models: dict[str, nn.Module] = {FLOAT: float_model}
    has_layouts = _has_layouts(float_model, batch) and runs_in_channels_last(float_model, batch)
    if has_layouts:
        models[FLOAT_CHANNELS_LAST] = float_model
    models[SIMULATED] = quantized
    try:
        models[INTEGER] = convert_execution(quantized)
        lowered = convert_execution(quantized, lowered=True)
        notes += execution_notes(lowered)
        if is_lowered(lowered):
            models[INTEGER_LOWERED] = lowered
    except UnsupportedLayerError as error:
        notes.append(str(error))
    notes += _leave_out_failing(models, batches)
    watched = {
        execution: layers
        for execution in (FLOAT, FLOAT_CHANNELS_LAST, SIMULATED, INTEGER, INTEGER_LOWERED)
        if execution in models
    }
    report = measure_timing(
        models,
        batches,
        layers=watched,
        channels_last=(FLOAT_CHANNELS_LAST,),
        images_last=(INTEGER, INTEGER_LOWERED) if has_layouts else (),
        progress=progress,
    )
    last = models.get(INTEGER_LOWERED, models.get(INTEGER))
    executions = () if last is None else list_executions(last)
    return replace(report, executions=executions, notes=tuple(notes))


def _has_layouts(model: nn.Module, batch: Batch) -> bool:
    """Whether the model convolves images, whose channels may lie in memory first or last."""
    has_images = any(isinstance(value, Tensor) and value.dim() == 4 for value in _inputs(batch))
    return has_images and any(parameter.dim() == 4 for parameter in model.parameters())


def _inputs(batch: Batch) -> list[object]:
    return [*batch.args, *batch.kwargs.values()]


def _batches(batch: Batch, float_model: nn.Module) -> tuple[dict[int, Batch], list[str]]:
    """Return the batch itself and, where it can be cut and the model takes it, one sample of it.

    Raises:
        ModelForwardError: If the model fails on the whole batch.
    """
    run_model(float_model, batch)
    single = first_samples(batch, 1)
    if single is None:
        return {batch.samples: batch}, []
    try:
        run_model(float_model, single)
    except ModelForwardError as error:
        return {batch.samples: batch}, [f"One sample alone was not timed. {error}"]
    return {1: single, batch.samples: batch}, []


def _leave_out_failing(models: dict[str, nn.Module], batches: Mapping[int, Batch]) -> list[str]:
    """Take out quantized models that fail on one of the batches; return why."""
    notes = []
    for name in [name for name in (SIMULATED, INTEGER, INTEGER_LOWERED) if name in models]:
        model = models[name]
        try:
            for batch in batches.values():
                run_model(model, batch)
        except QuantizationError as error:
            del models[name]
            notes.append(f"The execution {name!r} was not timed. {error}")
    return notes
