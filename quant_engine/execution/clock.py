"""Honest wall-clock times: what ran, on what, how often; the only module that reads the clock."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from quant_engine.errors import DataError, ModelForwardError
from quant_engine.execution.lowering.lower import watchable
from quant_engine.model.batches import Batch, map_tensors
from quant_engine.model.copying import copy_module
from quant_engine.model.forward import eval_mode, run_in_place, run_model
from quant_engine.model.inputs import copy_inputs
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.report import Environment, ThreadTrial, TimingEntry, TimingReport

_CPU_INFO = Path("/proc/cpuinfo")

# Of the time that is left, so that the layers get a quarter of the whole.
_SHARE_OF_SMALLER, _SHARE_OF_LARGEST = 1 / 4, 2 / 3

# By execution: models, what they run on, and the names of their layers to time.
_Models: TypeAlias = Mapping[str, nn.Module]
_Inputs: TypeAlias = Mapping[str, Batch]
_Layers: TypeAlias = Mapping[str, Collection[str]]

_RUNS, _WARMUP_RUNS = 20, 3  # of each model on each batch, if the time is enough for them
_TRIALS = 3
_CLEARLY, _LONG_S = 2.0, 0.2


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self) -> None:
        """Start."""
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._start


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
        times = [time_pass(model, batch) for _ in range(num_runs)]
    return {
        "mean_ms": statistics.fmean(times),
        "std_ms": statistics.pstdev(times),
        "min_ms": min(times),
        "max_ms": max(times),
        "median_ms": statistics.median(times),
    }


def measure_timing(
    models: _Models,
    batches: Mapping[int, Batch],
    *,
    layers: _Layers | None = None,
    channels_last: Collection[str] = (),
    images_last: Collection[str] = (),
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> TimingReport:
    """Time several models on the same batches, in turn, so that a slow moment hits all alike.

    Args:
        models: Name of the execution -> model in eval mode.
        batches: Batch size -> batch.
        layers: Execution -> names of layers of that model, to be timed inside whole runs on the
            largest batch. Watching costs a little, so these runs do not count for the models.
        channels_last: Executions that get their images, and have their weights, in torch's
            channels_last layout; laying them out is not timed.
        images_last: Executions that get their images in that layout, and keep their weights.
        seconds: Most time for all of it. The smallest batch is run twice in any case, once to
            warm up; what there is no time left for is left out and named in the report's `limits`.
        progress: Called after every measured pair; may raise to cancel.

    Returns:
        Medians and quartiles.

    Raises:
        ModelForwardError: If a model raises.
    """
    watch = Stopwatch()
    models = {
        name: _with_channels_last(model) if name in channels_last else model
        for name, model in models.items()
    }
    is_last = {*channels_last, *images_last}
    meter = ProgressMeter(progress, len(batches) + bool(layers))
    entries: list[TimingEntry] = []
    layer_entries: list[TimingEntry] = []
    limits: list[str] = []
    warmed_up = _WARMUP_RUNS
    inputs: dict[str, Batch] = {}
    for size, batch in sorted(batches.items()):
        laid_out = _in_channels_last(batch)
        inputs = {name: laid_out if name in is_last else batch for name in models}
        if entries and watch.seconds > seconds:
            limits.append(f"Batch size {size} was not timed: the time for it was spent.")
            continue
        left = seconds - watch.seconds
        left *= _SHARE_OF_LARGEST if size == max(batches) else _SHARE_OF_SMALLER
        times, warmed = _time_models(models, inputs, left)
        warmed_up = min(warmed_up, warmed)
        entries += [_entry(name, size, values) for name, values in times.items()]
        meter.step(f"time the models at batch size {size}")
    if layers and watch.seconds > seconds:
        limits.append("Single layers were not timed: the time for it was spent.")
    elif layers:
        size = max(batches)
        measured = _time_layers(models, layers, inputs, seconds - watch.seconds)
        layer_entries = [_entry(way, size, v, n) for (way, n), v in measured.items()]
        meter.step(f"time the layers at batch size {size}")
    return TimingReport(
        describe_environment(),
        warmed_up,
        tuple(entries),
        tuple(layer_entries),
        limits=tuple(limits),
    )


def _time_models(
    models: _Models, inputs: _Inputs, seconds: float
) -> tuple[dict[str, list[float]], int]:
    """Return the times of every model, and how often each was warmed up."""
    watch = Stopwatch()
    warmed_up = 0
    for _ in _rounds(_WARMUP_RUNS, seconds / 4):
        for name, model in models.items():
            run_model(model, inputs[name])
        warmed_up += 1
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in _rounds(_RUNS, seconds - watch.seconds):
        for name, model in models.items():
            times[name].append(time_pass(model, inputs[name]))
    return times, warmed_up


def _rounds(most: int, seconds: float) -> Iterator[int]:
    """Count rounds up to `most`; a second one only if one as long as the last still fits."""
    watch = Stopwatch()
    last = 0.0
    for number in range(most):
        begun = watch.seconds
        if number and begun + last > seconds:
            return
        yield number
        last = watch.seconds - begun


def time_pass(model: nn.Module, batch: Batch) -> float:
    """Return how long one forward pass takes, in ms; copying the inputs is not timed.

    Raises:
        ModelForwardError: If the model raises.
    """
    inputs = copy_inputs(batch)
    start = time.perf_counter()
    run_in_place(model, inputs)
    return (time.perf_counter() - start) * 1e3


def time_threads(model: nn.Module, batch: Batch) -> tuple[ThreadTrial, ...]:
    """Time a model with one thread and with the number that is set, in turn; fastest first.

    More threads are not always faster: small layers cost more to share out than to compute, and
    on a busy machine threads wait for one another.

    Raises:
        ModelForwardError: If the model raises.
    """
    watch = Stopwatch()
    times: dict[int, list[float]] = {number: [] for number in (1, torch.get_num_threads())}
    for _ in range(1 + _TRIALS):
        for number, found in times.items():
            with using_threads(number):
                found.append(time_pass(model, batch))
        latest = [found[-1] for found in times.values()]
        if watch.seconds > _LONG_S and max(latest) > _CLEARLY * min(latest):
            break
    # The first pass of each warms up, and counts only where it was so slow that it settled it.
    trials = [ThreadTrial(n, statistics.median(found[1:] or found)) for n, found in times.items()]
    return tuple(sorted(trials, key=lambda trial: (trial.median_ms, trial.threads)))


@contextmanager
def using_threads(number: int) -> Iterator[None]:
    """Let torch compute with this many threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    """Copy a model with its convolutions' weights in another layout; its own stay as they are."""
    result = copy_module(model)
    for parameter in result.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return result


def _in_channels_last(batch: Batch) -> Batch:
    def lay_out(value: Tensor) -> Tensor:
        return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value

    return map_tensors(batch, lay_out)


def _time_layers(
    models: _Models, layers: _Layers, inputs: _Inputs, seconds: float
) -> dict[tuple[str, str], list[float]]:
    """Return the times of each (execution, layer) that runs, the executions in turn."""
    times: dict[tuple[str, str], list[float]] = {}
    for _ in _rounds(_RUNS, seconds):
        for execution, names in layers.items():
            model = models[execution]
            with watchable(model) as layers_of:
                watched = {name: layers_of(name) for name in names}
                found = _time_layers_once(model, watched, inputs[execution])
            for name, spent in found.items():
                times.setdefault((execution, name), []).append(spent)
    return times


def _time_layers_once(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch
) -> dict[str, float]:
    """Return the time of each layer in one run; a layer that runs twice counts its sum."""
    started: dict[str, float] = {}
    spent: dict[str, float] = {}

    with ExitStack() as hooks:
        for name, layer in layers.items():

            def start(_module: nn.Module, _args: Any, name: str = name) -> None:
                started[name] = time.perf_counter()

            def stop(_module: nn.Module, _args: Any, _output: Any, name: str = name) -> None:
                elapsed = time.perf_counter() - started[name]
                spent[name] = spent.get(name, 0.0) + elapsed * 1e3

            hooks.enter_context(layer.register_forward_pre_hook(start))
            hooks.enter_context(layer.register_forward_hook(stop, prepend=True))
        run_model(model, batch)
    return {name: spent[name] for name in layers if name in spent}


def _entry(execution: str, size: int, times: list[float], layer: str = "") -> TimingEntry:
    q1, median, q3 = (
        statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    )
    return TimingEntry(execution, size, median, q1, q3, len(times), layer)
