"""What replay saves: a sweep over 20 layers, with replay and with full forward passes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import measure_in_turn, run_python
from benchmarks.registry import Options, register_topic
from quant_engine import Recipe
from quant_engine.layers import get_quantized_type
from quant_engine.model.batches import Batch
from quant_engine.scheme import LayerScheme
from quant_engine.sensitivity.measurement import DIRECTIONS, ONE_AT_A_TIME
from quant_engine.variants.outcomes import BatchOutcome
from quant_engine.variants.runner import Variant, VariantRunner

REPLAY, FULL = "replay", "full forwards"
AIM = 1.8
SAMPLES = 64

# Each way in a process of its own. Linux can forget a process's peak: what counts is the peak of
# the sweep over what the process held before, after a plain pass.
_MEMORY_SCRIPT = """
import sys
from pathlib import Path
from benchmarks.topics import sensitivity
def held(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
sweep, plain_pass = sensitivity.make_sweep(sys.argv[1], sys.argv[2] == "replay")
plain_pass()
before = held("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
sweep()
print(held("VmHWM") - before)
"""


class Block(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride = after // before
        self.first = nn.Conv2d(before, after, 3, stride=self.stride, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.padding = (0, 0, 0, 0, (after - before) // 2, (after - before) // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)
        return F.relu(x + y)


def make_network() -> nn.Module:
    """Return ResNet-20 (He et al., "Deep Residual Learning", 2015) for images of 32 x 32.

    19 convolutions, BatchNorms folded, and a linear layer; weights as they are drawn.
    """
    torch.manual_seed(0)
    widths = (16, 16, 16, 32, 32, 32, 64, 64, 64)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        *(Block(before, after) for before, after in pairwise((16, *widths))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()


def make_sweep(
    direction: str, has_replay: bool
) -> tuple[Callable[[], BatchOutcome], Callable[[], Tensor]]:
    """Return a sweep over one batch, and a plain pass over it."""
    model = make_network()
    scheme = LayerScheme(Recipe.default().weight)
    layers = {
        name: get_quantized_type(module).from_float(module, scheme)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    everything: Variant = dict.fromkeys(layers, "int8")
    variants: list[Variant] = [{name: "int8"} for name in layers]
    if direction != ONE_AT_A_TIME:
        variants = [{n: "int8" for n in layers if n != name} for name in layers]
    forms = {name: {"int8": layer} for name, layer in layers.items()}
    runner = VariantRunner(model, forms, has_replay=has_replay)
    inputs = torch.randn(SAMPLES, 3, 32, 32)

    def plain_pass() -> Tensor:
        with torch.no_grad():
            output: Tensor = model(inputs)
            return output

    batch = Batch((inputs,), samples=SAMPLES)
    return partial(runner.run, batch, [everything, *variants], [everything]), plain_pass


@register_topic("sensitivity")
def measure(options: Options) -> dict[str, Any]:
    """A sweep over the layers of a 20-layer net: replay against full forward passes."""
    print(f"\nSweep over 20 layers, {SAMPLES} samples: time of full forwards over that of replay,")
    print(f"median and quartiles of {options.rounds} rounds, and peak memory beyond what is held.")
    print(f"Aim: at least {AIM:g}.\n")
    print(
        f"{'direction':<18}{'replay s':>9}{'full s':>9}{'ratio':>8}{'':>12}{'cpu ratio':>10}"
        f"{'replay MB':>11}{'full MB':>9}"
    )
    result: dict[str, Any] = {}
    for direction in DIRECTIONS:
        tasks = {
            REPLAY: make_sweep(direction, has_replay=True)[0],
            FULL: make_sweep(direction, has_replay=False)[0],
        }
        found = measure_in_turn(tasks, REPLAY, options.rounds)
        replayed, in_full = (_peak_bytes(direction, way) for way in (REPLAY, FULL))
        result[direction] = {
            **{name: asdict(task) for name, task in found.items()},
            "memory": {"replay_bytes": replayed, "full_bytes": in_full},
        }
        full = found[FULL]
        quartiles = f"{full.ratio.q1:.2f}-{full.ratio.q3:.2f}"
        print(
            f"{direction:<18}{found[REPLAY].seconds.median:>9.3f}{full.seconds.median:>9.3f}"
            f"{full.ratio.median:>8.2f}{quartiles:>12}{full.cpu_ratio.median:>10.2f}"
            f"{_megabytes(replayed):>11}{_megabytes(in_full):>9}"
        )
    return result


def _peak_bytes(direction: str, way: str) -> int | None:
    """Return the peak memory beyond what is held between passes; None where it cannot be told."""
    if not sys.platform.startswith("linux"):
        return None
    return int(run_python(_MEMORY_SCRIPT, direction, way))


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}"
