"""How long a model takes as float, simulated and on integers, layer by layer and as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from quant_engine.batches import Batch
from quant_engine.errors import UnsupportedLayerError
from quant_engine.execution import (
    INTEGER,
    SIMULATED,
    convert_execution,
    execution_notes,
    list_executions,
)
from quant_engine.lowering import is_lowered
from quant_engine.progress import Progress
from quant_engine.report import LayerExecution, TimingReport
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
    channels_last too, as their kernels want them. A model that fails on it is timed without it.

    Args:
        float_model: The float model, best with BatchNorms folded as the quantized one has them.
        quantized: The quantized model, simulated.
        batch: What they run on.
        layers: Names of layers to time by themselves too.
        progress: Called after every batch size; may raise to cancel.

    Returns:
        The times, and how each quantized layer was computed on integers.

    Raises:
        ModelForwardError: If a model raises.
    """
    models: dict[str, nn.Module] = {FLOAT: float_model}
    has_layouts = _has_layouts(float_model, batch) and runs_in_channels_last(float_model, batch)
    if has_layouts:
        models[FLOAT_CHANNELS_LAST] = float_model
    models[SIMULATED] = quantized
    executions: tuple[LayerExecution, ...] = ()
    notes: tuple[str, ...] = ()
    try:
        models[INTEGER] = convert_execution(quantized)
        lowered = convert_execution(quantized, lowered=True)
        notes = execution_notes(lowered)
        if is_lowered(lowered):
            models[INTEGER_LOWERED] = lowered
    except UnsupportedLayerError as error:
        notes = (str(error),)
    watched = {
        execution: layers
        for execution in (FLOAT, FLOAT_CHANNELS_LAST, SIMULATED, INTEGER)
        if execution in models
    }
    report = measure_timing(
        models,
        _batches(batch),
        layers=watched,
        channels_last=(FLOAT_CHANNELS_LAST,),
        images_last=(INTEGER, INTEGER_LOWERED) if has_layouts else (),
        progress=progress,
    )
    if INTEGER in models:
        last = models.get(INTEGER_LOWERED, models[INTEGER])
        executions = list_executions(last)
    return replace(report, executions=executions, notes=notes)


def _has_layouts(model: nn.Module, batch: Batch) -> bool:
    """Whether the model convolves images, whose channels may lie in memory first or last."""
    has_images = any(isinstance(value, Tensor) and value.dim() == 4 for value in _inputs(batch))
    return has_images and any(parameter.dim() == 4 for parameter in model.parameters())


def _inputs(batch: Batch) -> list[object]:
    return [*batch.args, *batch.kwargs.values()]


def _batches(batch: Batch) -> dict[int, Batch]:
    """Return the batch itself and, where all tensors have the samples first, one sample of it."""
    tensors = [value for value in _inputs(batch) if isinstance(value, Tensor)]
    if any(t.dim() == 0 or len(t) != batch.samples for t in tensors):
        return {batch.samples: batch}

    def one(value: object) -> object:
        return value[:1] if isinstance(value, Tensor) else value

    single = Batch(
        tuple(one(v) for v in batch.args),
        {k: one(v) for k, v in batch.kwargs.items()},
        samples=1,
        where=f"one sample of {batch.where}",
    )
    return {1: single, batch.samples: batch}
