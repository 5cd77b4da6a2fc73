"""How fast a quantized model runs: float, simulated, on integers, and in ONNX Runtime."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Measurement, measure_in_turn
from benchmarks.networks import Encoder, ResNet18, seeded
from benchmarks.onnx_models import onnx_runs
from benchmarks.registry import Options, register_topic
from quant_engine import Recipe, convert_execution, quantize_model
from quant_engine.execution.convert import execution_notes, list_executions
from quant_engine.preparation.folding_check import prepare_for
from sample_models import get_model_info, load_model

FLOAT, CHANNELS_LAST = "float", "float, channels last"
SIMULATED, INTEGER = "simulated", "integer"
PORTABLE, LOWERED = "integer, portable kernel", "integer, lowered"
ONNX_FLOAT, ONNX_INT8 = "ONNX Runtime float", "ONNX Runtime int8"
WARMUP_ROUNDS = 3
PASSES = 5  # in a timed run, one after the other, as a model in use runs

AIMS = {INTEGER: 2.0, LOWERED: 3.5}
AIMED = "ResNet-18"


@register_topic("execution")
def measure(options: Options) -> list[dict[str, Any]]:
    """Float, simulated and true int8, beside ONNX Runtime, as speed-ups over torch's best float."""
    print("\nWhole models: milliseconds of a forward pass, and how many times faster than the")
    print("faster of torch's two float layouts (BatchNorm folded in all). Median and quartiles of")
    print(
        f"{3 * options.rounds} runs of {PASSES} passes, all in turn; aims at batch 8 in brackets."
    )
    print("'max logit error' is the largest difference from float, over the largest float logit.\n")
    print(
        f"{'model':<12}{'batch':>6}  {'execution':<26}{'ms':>9}{'speed-up':>10}{'':19}{'logits':>9}"
    )
    return [_measure_one(*workload, 3 * options.rounds) for workload in workloads()]


def workloads() -> list[tuple[str, int, nn.Module, Tensor]]:
    """Return the name, batch size, model and inputs of every measurement."""
    generator = torch.Generator().manual_seed(0)
    images, _ = get_model_info("resnet").load_inputs("test")
    found: list[tuple[str, int, nn.Module, Tensor]] = []
    for batch in (1, 8):
        found.append(("resnet", batch, load_model("resnet"), images[:batch]))
    for batch in (1, 8):
        x = torch.randn((batch, 3, 224, 224), generator=generator)
        found.append(("ResNet-18", batch, seeded(ResNet18), x))
    for batch in (1, 8):
        x = torch.randn((batch, 64, 384), generator=generator)
        found.append(("encoder", batch, seeded(Encoder), x))
    return found


@torch.no_grad()
def _measure_one(name: str, batch: int, model: nn.Module, x: Tensor, rounds: int) -> dict[str, Any]:
    prepared = prepare_for(model, x)[0].model
    quantized = quantize_model(model, x, Recipe.default())
    models: dict[str, tuple[nn.Module, Tensor]] = {FLOAT: (prepared, x)}
    images = x
    if x.dim() == 4:
        laid_out = copy.deepcopy(prepared).to(memory_format=torch.channels_last)
        images = x.contiguous(memory_format=torch.channels_last)
        models[CHANNELS_LAST] = laid_out, images
    models[SIMULATED] = quantized, x
    models[INTEGER] = convert_execution(quantized), x
    models[PORTABLE] = convert_execution(quantized, kernel="portable"), x
    models[LOWERED] = convert_execution(quantized, lowered=True), images
    tasks: dict[str, Callable[[], object]] = {
        key: lambda run=run, values=values: run(values) for key, (run, values) in models.items()
    }
    external = onnx_runs(model, x)
    tasks[ONNX_FLOAT], tasks[ONNX_INT8] = external["float"], external["int8"]
    outputs = {key: torch.as_tensor(task()) for key, task in tasks.items()}
    tasks = {key: partial(_repeat, task) for key, task in tasks.items()}
    floats = {key: tasks[key] for key in (FLOAT, CHANNELS_LAST) if key in tasks}
    trial = measure_in_turn(floats, FLOAT, WARMUP_ROUNDS)
    best = min(trial, key=lambda key: trial[key].seconds.median)
    measured = measure_in_turn(tasks, best, rounds)
    for key, found in measured.items():
        error = (outputs[key] - outputs[FLOAT]).abs().max() / outputs[FLOAT].abs().max()
        print(_row(name, batch, key, found, float(error), is_best=key == best))
    kernels = Counter(entry.kernel for entry in list_executions(models[LOWERED][0]))
    notes = execution_notes(models[LOWERED][0])
    print(f"{'':20}kernels: {dict(kernels)}{'; '.join(('', *notes))}")
    return {
        "model": name,
        "batch": batch,
        "baseline": best,
        "passes_in_a_run": PASSES,
        "tasks": {key: asdict(found) for key, found in measured.items()},
        "kernels": dict(kernels),
    }


def _repeat(task: Callable[[], object]) -> None:
    for _ in range(PASSES):
        task()


def _row(
    name: str, batch: int, key: str, found: Measurement, error: float, *, is_best: bool
) -> str:
    ratio = found.ratio
    aim = f"[> {AIMS[key]:g}]" if name == AIMED and batch == 8 and key in AIMS else ""
    speed = f"{1 / ratio.median:.2f}"
    spread = "  baseline" if is_best else f" {1 / ratio.q3:.2f}-{1 / ratio.q1:.2f} {aim}"
    return (
        f"{name:<12}{batch:>6}  {key:<26}{found.seconds.median * 1e3 / PASSES:>9.2f}{speed:>10}"
        f"{spread:<19}{error:>9.1e}"
    )
