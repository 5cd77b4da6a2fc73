"""What an analysis costs for each layer, however small the layer is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.measure import cpu_milliseconds
from benchmarks.networks import seeded
from benchmarks.registry import Options, register_topic
from quant_engine import PRESETS, analyze
from quant_engine.scheme import OBSERVERS
from quant_engine.tensors.histogram import Histogram
from quant_engine.tensors.observers import get_observer

RECIPE = PRESETS["int8_per_channel"]
AIM_MS = 10.0


@register_topic("tiny_layers")
def measure(options: Options) -> dict[str, float]:
    """Processor time of an analysis per layer of a tiny transformer, and of each range rule."""
    block = partial(nn.TransformerEncoderLayer, 16, 2, 32, batch_first=True)
    model = seeded(lambda: nn.TransformerEncoder(block(), 6, enable_nested_tensor=False))
    inputs = torch.randn(32, 8, 16, generator=torch.Generator().manual_seed(0))
    report = analyze(model, inputs, RECIPE, measure_time=False)
    layers = len(report.layers)
    whole = _milliseconds(
        lambda: analyze(model, inputs, RECIPE, measure_time=False), options.rounds
    )
    print(f"\nAnalysis of {layers} layers of width 16: {whole:.0f} ms of processor time, ")
    print(f"{whole / layers:.1f} ms a layer (aim: {AIM_MS:g}). Least of {options.rounds} runs.\n")
    result: dict[str, float] = {"layer": whole / layers}
    scheme = RECIPE.activation
    assert scheme is not None
    for kind, values in (("normal", inputs), ("after ReLU", inputs.relu())):
        histogram = Histogram()
        histogram.update(values)
        binned = histogram.binned()
        for rule in OBSERVERS:
            found = _milliseconds(partial(get_observer(rule), binned, scheme), 10 * options.rounds)
            result[f"{rule}, {kind}"] = found
            print(f"{rule:<12}{kind:<12}{found:>8.2f} ms")
    return result


def _milliseconds(task: Callable[[], Any], rounds: int) -> float:
    """Return the least processor time of some runs; the median would hold other work's noise."""
    return min(cpu_milliseconds(task) for _ in range(rounds))
