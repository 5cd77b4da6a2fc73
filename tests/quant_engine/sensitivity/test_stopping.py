"""Sweeps that stop layers early: what they keep of the full sweep, and what they say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

from quant_engine import Recipe, SensitivityReport, TensorScheme, measure_sensitivity
from quant_engine.sensitivity.measurement import MIN_SAMPLES
from sample_models import get_model_info, load_model

LOW_BITS = Recipe(TensorScheme(bits=3, granularity="per_channel"), TensorScheme(symmetric=False))


class Uneven(nn.Module):
    """Layers of very different weight in what comes out."""

    def __init__(self, times: float = 10.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.times = times
        self.layers = nn.ModuleList(nn.Linear(6, 5) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = sum(layer(x) * self.times**-n for n, layer in enumerate(self.layers))
        return total


UNEVEN = torch.randn(320, 6, generator=torch.Generator().manual_seed(1)).split(32)


def measure_uneven(**settings: Any) -> SensitivityReport:
    return measure_sensitivity(Uneven(), UNEVEN, LOW_BITS, metric="nmse", **settings)


@lru_cache
def measure(name: str, precision: float | None) -> SensitivityReport:
    parts = [get_model_info(name).load_inputs(split) for split in ("test", "calibration")]
    inputs, labels = (torch.cat(both) for both in zip(*parts, strict=True))
    data = list(zip(inputs.split(64), labels.split(64), strict=True))
    return measure_sensitivity(
        load_model(name), data, LOW_BITS, with_cumulative=False, precision=precision
    )


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_layers_that_matter_are_those_of_the_full_sweep(name: str) -> None:
    full, some = measure(name, None), measure(name, 0.3)
    stopped = {layer.name for layer in some.layers if layer.samples is not None}
    kept = {layer.name: layer for layer in full.layers if layer.name not in stopped}
    top = max(full.layers, key=lambda layer: layer.value)

    assert {n: layer for layer in some.layers if (n := layer.name) in kept} == kept
    for layer in full.layers:
        if layer.name in stopped:
            assert layer.value < 0.3 * top.value
    ranked, wanted = ([n for n in r.rankings[0].layers if n in kept] for r in (some, full))
    assert ranked == wanted
    pairs = [
        {(c.above, c.below): c for c in r.rankings[0].comparisons if {c.above, c.below} <= {*kept}}
        for r in (some, full)
    ]
    # What was stopped may stand between others, by the samples that it saw, but for the first two.
    common = pairs[0].keys() & pairs[1].keys()
    assert tuple(wanted[:2]) in common
    for pair in common:
        assert pairs[0][pair] == pairs[1][pair]


@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_what_lies_far_below_is_stopped_and_said(direction: str) -> None:
    full = measure_uneven(direction=direction)
    runs: list[str] = []
    some = measure_uneven(
        direction=direction, precision=0.2, progress=lambda done, total, text: runs.append(text)
    )

    assert [layer.samples for layer in some.layers] == [None, *[MIN_SAMPLES] * 3]
    assert some.layers[0] == full.layers[0]
    assert some.references == full.references
    assert some.rankings[0].layers[:2] == full.rankings[0].layers[:2]
    assert not any(comparison.is_tied for comparison in some.rankings[0].comparisons[:1])
    assert some.samples == 320
    (note,) = (n for n in some.notes if n not in full.notes)
    assert note.startswith("Judged on 128 samples only")
    assert "below 0.2 times the largest, by the 99 % interval" in note
    assert note.endswith(": layers.1, layers.2, layers.3.")
    first = measure_sensitivity(
        Uneven(), UNEVEN, LOW_BITS, metric="nmse", direction=direction, evaluation_data=UNEVEN[:4]
    )
    for early, layer in zip(first.layers[1:], some.layers[1:], strict=True):
        assert (layer.value, layer.interval) == (early.value, early.interval)
    # Batches 5 to 10 run what is left: all layers, one layer, and float for the curve.
    assert sum("one by one: batch 10, run" in text for text in runs) == 3


def test_the_curve_after_early_stops_is_on_all_samples() -> None:
    full, some = measure_uneven(), measure_uneven(precision=0.2)
    assert some.cumulative == full.cumulative


def test_an_executor_stops_the_same_layers() -> None:
    with ThreadPoolExecutor(1) as executor:
        there = measure_uneven(precision=0.2, executor=executor)
    assert there == measure_uneven(precision=0.2)


def test_an_option_for_each_layer_is_stopped_by_itself() -> None:
    options = {
        "3 bits": LOW_BITS.layer_scheme("any"),
        "8 bits": Recipe.default().layer_scheme("any"),
    }
    report = measure_uneven(options=options, precision=0.2)
    stopped = [(x.name, x.option) for x in report.layers if x.samples is not None]
    assert ("layers.0", "8 bits") not in stopped
    assert ("layers.3", "8 bits") in stopped
    assert any("layers.3 (8 bits)" in note for note in report.notes)


@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_what_was_stopped_on_hard_samples_stays_below_the_first(direction: str) -> None:
    """The first samples move the answers 100 times as far as the others do."""
    data = torch.randn(2048, 6, generator=torch.Generator().manual_seed(1))
    data[128:] *= 0.1
    report = measure_sensitivity(
        *(Uneven(3.0), data.split(128), LOW_BITS),
        direction=direction,
        precision=0.5,
        with_cumulative=False,
    )

    assert [layer.samples for layer in report.layers] == [None, 128, 128, 128]
    if direction == "one_at_a_time":
        assert report.layers[1].value > report.layers[0].value  # on other samples
    assert report.rankings[0].layers[:2] == ("layers.0", "layers.1")
