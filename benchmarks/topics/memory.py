"""How much memory an analysis and a response add to a model, over the bytes of its weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.networks import Encoder, ResNet18, ResNet50, seeded
from benchmarks.registry import Options, register_topic
from quant_engine import PRESETS, LogitResponse, analyze

ROOT = Path(__file__).resolve().parents[2]
RECIPE = PRESETS["int8_per_channel"]
AIMS = {"analysis": 3.0, "response": 6.0}

# Each in a process of its own. Linux can forget a process's peak: what counts is the peak over what
# the process held before, with the model and after a plain pass.
_SCRIPT = """
import sys
from pathlib import Path
from benchmarks.topics import memory
def held(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
work = memory.prepare(sys.argv[1], sys.argv[2])
before = held("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
work()
print(held("VmHWM") - before)
"""


class Vgg11(nn.Sequential):
    """Simonyan and Zisserman, "Very Deep Convolutional Networks", 2014: the 11-layer shape.

    Its linear layers are 4,096 wide, which makes 531 MB; with a quarter of that it has 148 MB. One
    layer has 70 to 77 %.
    """

    def __init__(self, width_of_head: int = 4096) -> None:
        layers: list[nn.Module] = []
        before = 3
        for width, is_pooled in zip(
            (64, 128, 256, 256, 512, 512, 512, 512), (1, 1, 0, 1, 0, 1, 0, 1), strict=True
        ):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if is_pooled else []
            before = width
        wide = width_of_head
        head = [nn.Linear(25088, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU()]
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *head, nn.Linear(wide, 1000)
        )


IMAGES, TOKENS = (2, 3, 64, 64), (2, 64, 768)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "VGG-11": (Vgg11, IMAGES),
    "narrow VGG-11": (partial(Vgg11, width_of_head=1024), IMAGES),
    "ResNet-18": (ResNet18, IMAGES),
    "ResNet-50": (ResNet50, IMAGES),
    "encoder": (partial(Encoder, blocks=7, width=768, heads=12), TOKENS),
}
"""Name -> how it is made, and the shape of its inputs."""


def prepare(model_name: str, task: str) -> Any:
    """Build a model, run it once, and return what is measured.

    A small model goes first: what is imported at first use, 0.1 GB of it, is not counted.
    """
    torch.set_num_threads(1)
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    LogitResponse.measure(small, torch.randn(2, 3, 8, 8), RECIPE, agreement_configurations=2)
    analyze(small, torch.randn(2, 3, 8, 8), RECIPE, measure_time=False)
    build, shape = MODELS[model_name]
    model, inputs = seeded(build), torch.randn(shape)
    with torch.no_grad():
        model(inputs)
    if task == "analysis":
        return lambda: analyze(model, inputs, RECIPE, measure_time=False)
    return lambda: LogitResponse.measure(model, inputs, RECIPE, agreement_configurations=4)


@register_topic("memory")
def measure(options: Options) -> dict[str, Any]:
    """Peak resident memory of analysis and response, over the bytes of the float weights."""
    del options
    if not sys.platform.startswith("linux"):
        print("\nMemory is measured on Linux only.")
        return {}
    print("\nPeak of resident memory beyond what was held before, over the float weights.\n")
    print(f"{'model':<15}{'weights MB':>11}{'task':>12}{'MB':>9}{'ratio':>8}{'aim':>6}")
    result: dict[str, Any] = {}
    for name, (build, _) in MODELS.items():
        weights = sum(parameter.nbytes for parameter in build().parameters())
        for task, aim in AIMS.items():
            done = subprocess.run(
                [sys.executable, "-c", _SCRIPT, name, task],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            grown = int(done.stdout)
            result[f"{name} {task}"] = {"weight_bytes": weights, "peak_bytes": grown}
            print(
                f"{name:<15}{weights / 1e6:>11.1f}{task:>12}{grown / 1e6:>9.1f}"
                f"{grown / weights:>8.2f}{aim:>6g}"
            )
    return result
