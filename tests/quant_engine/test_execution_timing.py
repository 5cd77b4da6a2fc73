import torch
from torch import nn

from quant_engine import Recipe, quantize_model
from quant_engine.batches import Batch
from quant_engine.execution_timing import time_executions
from quant_engine.timing import measure_timing
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.unchanged import snapshot

X = seeded((2, 3, 8, 8))


class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(144, 2)

    def forward(self, x):
        y = torch.relu(self.conv(x))
        return self.fc(y.view(y.size(0), -1))


class Layouts(nn.Module):
    """Writes down how its images lie in memory."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen = set()

    def forward(self, x):
        self.seen.add(x.is_contiguous(memory_format=torch.channels_last))
        return self.conv(x)


class Named(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.last = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)


def times(model):
    quantized = quantize_model(model, X, Recipe.default())
    before = snapshot(model), snapshot(quantized)
    report = time_executions(model, quantized, Batch((X,), samples=2), ["conv"])
    assert (snapshot(model), snapshot(quantized)) == before
    return report


def test_every_way_to_run_is_timed_on_one_sample_and_on_the_batch():
    report = times(fill(Named()))
    found = {(entry.execution, entry.batch_size) for entry in report.models}
    ways = ("float", "float_channels_last", "simulated", "integer", "integer_lowered")
    assert found == {(way, size) for way in ways for size in (1, 2)}
    assert {entry.execution for entry in report.layers} == set(ways[:4])


def test_a_model_that_fails_on_channels_last_is_timed_without():
    report = times(fill(Viewing()))
    ways = {entry.execution for entry in report.models}
    assert ways == {"float", "simulated", "integer", "integer_lowered"}


def test_each_execution_gets_images_in_its_layout():
    models = {name: Layouts().eval() for name in ("plain", "images")}
    measure_timing(models, {2: Batch((X,), samples=2)}, runs=1, images_last=("images",))
    assert models["plain"].seen == {False}
    assert models["images"].seen == {True}
