"""What is timed: the float pass, calibration, error measurement and the full analysis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Measurement, measure_in_turn
from benchmarks.registry import Options, register_topic
from quant_engine import PRESETS, analyze, calibrate
from sample_models import get_model_info, load_model

FLOAT = "float pass"
CALIBRATION = "calibration"
ERRORS = "errors of all layers"
ANALYSIS = "full analysis"
RECIPE = PRESETS["int8_per_channel"]
AIMS = {CALIBRATION: 2.0, ANALYSIS: 6.0}
REAL_SAMPLES = 400


@register_topic("passes")
def measure(options: Options) -> list[dict[str, Any]]:
    """Calibration, errors and full analysis, as ratios to a float pass over the same data."""
    streams = [("test set", REAL_SAMPLES), ("long stream", options.samples)]
    print(f"\nRatios to a float pass over the same data, batches of {options.batch_size}.")
    print(f"Median and quartiles of {options.rounds} rounds; aims in brackets.\n")
    print(
        f"{'model':<28}{'data':<22}{'task':<22}{'seconds':>9}{'ratio':>8}{'':15}{'cpu ratio':>10}"
    )
    result: list[dict[str, Any]] = []
    for name in options.models:
        for stream, samples in streams:
            batches = make_batches(name, samples, options.batch_size)
            measured = measure_in_turn(make_tasks(name, batches), FLOAT, options.rounds)
            tasks = {task: asdict(found) for task, found in measured.items()}
            result.append({"model": name, "stream": stream, "samples": samples, "tasks": tasks})
            for task, found in measured.items():
                print(_row(name, f"{stream} ({samples})", task, found))
    return result


def _row(model: str, data: str, task: str, found: Measurement) -> str:
    aim = f"[< {AIMS[task]:g}]" if task in AIMS else ""
    quartiles = f" {found.ratio.q1:.2f}-{found.ratio.q3:.2f} {aim}"
    return (
        f"{model:<28}{data:<22}{task:<22}{found.seconds.median:>9.3f}{found.ratio.median:>8.2f}"
        f"{quartiles:<17}{found.cpu_ratio.median:>8.2f}"
    )


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
