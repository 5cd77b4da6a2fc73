"""How far what a model answers on integers lies from what its simulation answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.execution.convert import SIMULATED
from quant_engine.execution.timing import FLOAT
from quant_engine.judging.judged import Judged, JudgedOutput
from quant_engine.metrics.energies import ErrorStats
from quant_engine.model.batches import Batch
from quant_engine.report import NOT_COMPARED, ExecutionGap


def measure_gaps(
    answers: Mapping[str, Any], batch: Batch, judged: Judged
) -> tuple[tuple[ExecutionGap, ...], list[str]]:
    """Compare what executions on integers answered on one batch with the simulation's answer.

    Args:
        answers: Execution -> what the model answered in it; float among them.
        batch: What all of them answered.
        judged: Which of its outputs are compared, and where they count.

    Returns:
        One entry for each execution on integers and output; and why none can be compared.
    """
    ways = [name for name in answers if name not in (FLOAT, SIMULATED)]
    if SIMULATED not in answers:
        return (), [f"{NOT_COMPARED}: the simulation was not timed."] if ways else []
    try:
        found = {name: judged.find(answer, batch.where) for name, answer in answers.items()}
        gaps = tuple(
            _gap(way, output, [found[name][number] for name in (FLOAT, SIMULATED, way)], batch)
            for way in ways
            for number, output in enumerate(judged.outputs)
        )
    except DataError as error:
        return (), [f"{NOT_COMPARED}: {error}"]
    return gaps, []


def _gap(
    execution: str, output: JudgedOutput, tensors: Sequence[Tensor], batch: Batch
) -> ExecutionGap:
    counted = output.counted(tensors[0], batch)
    expected, simulated, integer = (_where_counted(tensor, counted) for tensor in tensors)
    error, difference = ErrorStats(), ErrorStats()
    error.update(expected, simulated)
    difference.update(simulated, integer)
    count = max(1, error.count)
    rms = (math.sqrt(x / count) for x in (difference.noise, error.noise, error.signal))
    return ExecutionGap(execution, output.name, batch.samples, *rms)


def _where_counted(tensor: Tensor, counted: Tensor | None) -> Tensor:
    """Return the values at positions that count."""
    if counted is None or counted.shape != tensor.shape[: counted.dim()]:
        return tensor
    return tensor[counted]
