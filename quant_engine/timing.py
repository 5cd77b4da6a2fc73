"""Honest wall-clock times: what ran, on what, how often; the only module that reads the clock."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.batches import Batch
from quant_engine.copying import copy_module
from quant_engine.errors import DataError, ModelForwardError
from quant_engine.forward import eval_mode, run_in_place, run_model
from quant_engine.inputs import copy_inputs
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.report import Environment, TimingEntry, TimingReport

_CPU_INFO = Path("/proc/cpuinfo")


def benchmark_inference(
    model: nn.Module, input_tensor: Tensor, num_runs: int = 100, warmup_runs: int = 10
) -> dict[str, float]:
    """Time repeated forward passes of a model in eval mode.

    The model's mode is put back afterwards.

    Args:
        model: Any module.
        input_tensor: Its input.
        num_runs: Timed runs, at least 1.
        warmup_runs: Runs before that, not counted.

    Returns:
        "mean_ms", "std_ms" (population), "min_ms", "max_ms" and "median_ms" over the timed runs.

    Raises:
        DataError: If num_runs is below 1 or warmup_runs below 0.
        ModelForwardError: If the model raises.
    """
    if num_runs < 1 or warmup_runs < 0:
        raise DataError(
            f"num_runs is {num_runs} and warmup_runs {warmup_runs}. Use at least 1 and 0."
        )
    batch = Batch((input_tensor,), where="input_tensor")
    with eval_mode(model):
        for _ in range(warmup_runs):
            run_model(model, batch)
        times = [_time_ms(model, batch) for _ in range(num_runs)]
    return {
        "mean_ms": statistics.fmean(times),
        "std_ms": statistics.pstdev(times),
        "min_ms": min(times),
        "max_ms": max(times),
        "median_ms": statistics.median(times),
    }


def measure_timing(
    models: Mapping[str, nn.Module],
    batches: Mapping[int, Batch],
    *,
    runs: int = 20,
    warmup_runs: int = 3,
    layers: Mapping[str, Collection[str]] | None = None,
    channels_last: Collection[str] = (),
    images_last: Collection[str] = (),
    progress: Progress | None = None,
) -> TimingReport:
    """Time several models on the same batches, in turn, so that a slow moment hits all alike.

    Args:
        models: Name of the execution -> model in eval mode.
        batches: Batch size -> batch.
        runs: Timed runs of each model on each batch.
        warmup_runs: Untimed runs of each model on each batch first.
        layers: Execution -> names of layers of that model, to be timed inside whole runs on the
            largest batch. Watching costs a little, so these runs do not count for the models.
        channels_last: Executions that get their images, and have their weights, in torch's
            channels_last layout; laying them out is not timed.
        images_last: Executions that get their images in that layout, and keep their weights.
        progress: Called after every measured pair; may raise to cancel.

    Returns:
        Medians and quartiles.

    Raises:
        ModelForwardError: If a model raises.
    """
    layers = layers or {}
    models = {
        name: _with_channels_last(model) if name in channels_last else model
        for name, model in models.items()
    }
    is_last = {*channels_last, *images_last}
    meter = ProgressMeter(progress, len(batches) + bool(layers))
    entries: list[TimingEntry] = []
    for size, batch in sorted(batches.items()):
        laid_out = _in_channels_last(batch)
        inputs = {name: laid_out if name in is_last else batch for name in models}
        for name, model in models.items():
            for _ in range(warmup_runs):
                run_model(model, inputs[name])
        times: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(runs):
            for name, model in models.items():
                times[name].append(_time_ms(model, inputs[name]))
        entries += [_entry(name, size, values) for name, values in times.items()]
        meter.step(f"time the models, batch size {size}")
    layer_entries: list[TimingEntry] = []
    if layers:
        size, batch = max(batches.items())
        laid_out = _in_channels_last(batch)
        for execution, names in layers.items():
            watched = {name: models[execution].get_submodule(name) for name in names}
            seen = laid_out if execution in is_last else batch
            measured = _time_layers(models[execution], watched, seen, runs)
            layer_entries += [_entry(execution, size, v, n) for n, v in measured.items() if v]
        meter.step(f"time the layers, batch size {size}")
    return TimingReport(describe_environment(), warmup_runs, tuple(entries), tuple(layer_entries))


def runs_in_channels_last(model: nn.Module, batch: Batch) -> bool:
    """Whether a model takes images in torch's channels_last layout; `view` may not like it."""
    try:
        run_model(_with_channels_last(model), _in_channels_last(batch))
    except ModelForwardError:
        return False
    return True


def describe_environment() -> Environment:
    """Return the machine and library that this process computes with."""
    return Environment(
        cpu=_cpu_name(),
        threads=torch.get_num_threads(),
        torch_version=str(torch.__version__),
        platform=f"{platform.system()} {platform.machine()}",
    )


def _cpu_name() -> str:
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown CPU"


def _with_channels_last(model: nn.Module) -> nn.Module:
    """Copy a model with its convolutions' weights laid out anew; its own stay as they are."""
    result = copy_module(model)
    for parameter in result.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return result


def _in_channels_last(batch: Batch) -> Batch:
    def lay_out(value: object) -> object:
        if isinstance(value, Tensor) and value.dim() == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value

    return replace(
        batch,
        args=tuple(map(lay_out, batch.args)),
        kwargs={key: lay_out(value) for key, value in batch.kwargs.items()},
    )


def _time_ms(model: nn.Module, batch: Batch) -> float:
    inputs = copy_inputs(batch)
    start = time.perf_counter()
    run_in_place(model, inputs)
    return (time.perf_counter() - start) * 1e3


def _time_layers(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, runs: int
) -> dict[str, list[float]]:
    """Return the time of each layer in each run; a layer that runs twice counts its sum."""
    times: dict[str, list[float]] = {name: [] for name in layers}
    started: dict[str, float] = {}
    spent: dict[str, float] = {}

    def start(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any) -> None:
            started[name] = time.perf_counter()

        return hook

    def stop(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, _output: Any) -> None:
            elapsed = time.perf_counter() - started[name]
            spent[name] = spent.get(name, 0.0) + elapsed * 1e3

        return hook

    handles = []
    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_pre_hook(start(name)))
            handles.append(layer.register_forward_hook(stop(name), prepend=True))
        for _ in range(runs):
            spent.clear()
            run_model(model, batch)
            for name, value in spent.items():
                times[name].append(value)
    finally:
        for handle in handles:
            handle.remove()
    return times


def _entry(execution: str, size: int, times: list[float], layer: str = "") -> TimingEntry:
    q1, median, q3 = (
        statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    )
    return TimingEntry(execution, size, median, q1, q3, len(times), layer)
