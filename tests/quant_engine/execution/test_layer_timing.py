"""Times of single layers: in which models and layouts they are taken, and of which layers."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
import torch
from torch import nn

from quant_engine import analyze
from quant_engine.execution.clock import measure_timing
from quant_engine.model.batches import Batch
from quant_engine.scheme import PRESETS, Recipe


class Spy(nn.Conv2d):
    """A convolution that notes the layout of its inputs, whatever copy of it runs."""

    seen: ClassVar[list[bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return super().forward(x)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_layers_are_timed_in_the_layout_of_their_execution(images):
    model = nn.Sequential(Spy(3, 4, 3), nn.ReLU()).eval()
    Spy.seen.clear()
    report = measure_timing(
        {"plain": model, "last": model},
        {2: Batch((images,), samples=2)},
        layers={"plain": ["0"], "last": ["0"]},
        channels_last=("last",),
    )
    assert {(entry.execution, entry.layer) for entry in report.layers} == {
        ("plain", "0"),
        ("last", "0"),
    }
    # each: 3 runs to warm up, 20 of the model, 20 of its layers
    assert Counter(Spy.seen) == {True: 43, False: 43}


def convolutional() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


def test_an_analysis_times_layers_in_every_execution(images):
    timing = analyze(convolutional(), [images]).timing
    found = {(entry.execution, entry.layer) for entry in timing.layers}
    kinds = ("float", "float_channels_last", "simulated", "integer", "integer_lowered")
    assert found == {(kind, layer) for kind in kinds for layer in ("0", "3")}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_report_says_how_each_input_is_quantized(preset, images):
    recipe: Recipe = PRESETS[preset].with_excluded("3")
    report = analyze(convolutional(), [images], recipe, measure_time=False)
    first, last = report.layers
    assert first.input_scheme == recipe.activation
    assert last.input_scheme is None
    is_dynamic = recipe.activation is not None and recipe.activation.is_dynamic
    assert first.has_dynamic_input == is_dynamic
    assert (first.input is None) == (recipe.activation is None)
    assert not last.has_dynamic_input
