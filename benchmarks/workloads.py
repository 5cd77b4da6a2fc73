"""What is timed: the float pass, calibration, error measurement and the full analysis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quant_engine import PRESETS, analyze, calibrate
from sample_models import get_model_info, load_model

FLOAT = "float pass"
CALIBRATION = "calibration"
ERRORS = "errors of all layers"
ANALYSIS = "full analysis"
RECIPE = PRESETS["int8_per_channel"]


def make_batches(model: str, samples: int, batch_size: int) -> list[Tensor]:
    """Return the model's test data, repeated or cut to a number of samples, in batches."""
    inputs, _ = get_model_info(model).load_inputs("test")
    times = -(-samples // len(inputs))
    repeated = inputs.repeat(times, *(1 for _ in inputs.shape[1:]))[:samples]
    return list(repeated.split(batch_size))


def make_tasks(name: str, batches: list[Tensor]) -> dict[str, Callable[[], object]]:
    """Return what is timed on one model, each over the same batches.

    The errors are those that `analyze` adds when the calibration is at hand: weights described,
    both models run, every layer compared. Timing the models is left out of the analysis here: it
    takes as long as it is told to.
    """
    model = load_model(name)
    calibration = calibrate(model, batches)
    return {
        FLOAT: lambda: _float_pass(model, batches),
        CALIBRATION: lambda: calibrate(model, batches),
        ERRORS: lambda: analyze(
            model, calibration, RECIPE, evaluation_data=batches, measure_time=False
        ),
        ANALYSIS: lambda: analyze(
            model, batches, RECIPE, evaluation_data=batches, measure_time=False
        ),
    }


def _float_pass(model: nn.Module, batches: list[Tensor]) -> None:
    with torch.no_grad():
        for batch in batches:
            model(batch)
