"""What a sweep computes: multiplications, which no other work on the machine changes."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.registry import Options, register_topic
from quant_engine import PRESETS, SensitivityReport, calibrate, measure_sensitivity
from sample_models import get_model_info, load_model
from sample_models.data import Split

RECIPE = PRESETS["int8_per_channel"]
SPLITS: tuple[Split, ...] = ("calibration", "test", "train")
BATCH_SIZE = 64
TASKS: dict[str, dict[str, Any]] = {
    "sweep alone": {"with_cumulative": False},
    **{
        f"precision={share:g}": {"with_cumulative": False, "precision": share}
        for share in (0.3, 0.5, 0.7, 0.9)
    },
    "sweep and curve at 8 counts": {"with_cumulative": True},
}


@register_topic("sweep_passes")
def measure(options: Options) -> dict[str, dict[str, dict[str, Any]]]:
    """Multiplications of a sweep in float passes, and whether stopping early changes its top."""
    result = {}
    for name in options.models:
        info, model = get_model_info(name), load_model(name)
        inputs = torch.cat([info.load_inputs(part)[0] for part in SPLITS])
        batches = list(inputs.split(BATCH_SIZE))
        print(f"\nSweep over {name}, {len(inputs)} samples in batches of {BATCH_SIZE}.\n")
        print(f"{'task':<30}{'float passes':>13}{'stopped':>9}  first layer and its ties")
        result[name] = measure_tasks(model, batches)
    return result


def measure_tasks(model: nn.Module, batches: list[Tensor]) -> dict[str, dict[str, Any]]:
    """Return float passes, layers stopped early, and the layers at the top, of every task."""
    calibration = calibrate(model, batches)
    float_pass = _count(lambda: [model(batch) for batch in batches])[0]
    result: dict[str, dict[str, Any]] = {}
    for task, settings in TASKS.items():
        done, report = _count(
            lambda settings=settings: measure_sensitivity(
                model, calibration, RECIPE, evaluation_data=batches, **settings
            )
        )
        stopped = sum(layer.samples is not None for layer in report.layers)
        top = top_of(report)
        result[task] = {"passes": done / float_pass, "stopped": stopped, "top": top}
        print(f"{task:<30}{done / float_pass:>13.1f}{stopped:>9}  {', '.join(top)}")
    return result


def top_of(report: SensitivityReport) -> list[str]:
    """Return the most sensitive layer, and those after it down to the first that is told apart."""
    ranking = report.rankings[0]
    tied = list(takewhile(lambda comparison: comparison.is_tied, ranking.comparisons))
    return list(ranking.layers[: len(tied) + 1])


def _count(task: Any) -> tuple[int, Any]:
    """Count with attention as plain products: torch's counter knows few of its fused forms."""
    counter = FlopCounterMode(display=False)
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            found = task()
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)
    return counter.get_total_flops(), found
