import pytest
import torch
from torch import nn

from quant_engine import Recipe, analyze, quantize_model
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
    assert {entry.execution for entry in report.layers} == set(ways)


def test_a_model_that_fails_on_channels_last_is_timed_without():
    report = times(fill(Viewing()))
    ways = {entry.execution for entry in report.models}
    assert ways == {"float", "simulated", "integer", "integer_lowered"}


def test_each_execution_gets_images_in_its_layout():
    models = {name: Layouts().eval() for name in ("plain", "images")}
    measure_timing(models, {2: Batch((X,), samples=2)}, runs=1, images_last=("images",))
    assert models["plain"].seen == {False}
    assert models["images"].seen == {True}


FOUR = seeded((4, 6))
WAYS = {"float", "simulated", "integer", "integer_lowered"}


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x, mask=None):
        y = torch.relu(self.first(x))
        return self.last(y if mask is None else y * mask)


class Nested(Masked):
    def forward(self, x, others):
        return super().forward(x, others["masks"][0])


class Whole(Masked):
    """Insists on four samples."""

    def forward(self, x):
        return super().forward(x).view(4, 2)


class Failing(Masked):
    """Fails once its last layer is an integer one."""

    def forward(self, x):
        if getattr(self.last, "integer_form", None) is not None:
            raise RuntimeError("no integers here")
        return super().forward(x)


class Tiring(Masked):
    """Runs a few times and no more."""

    def __init__(self):
        super().__init__()
        self.left = 12

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("too tired")
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "data", "sizes", "ways", "note"),
    [
        (Masked(), {"x": FOUR}, {1, 4}, WAYS, ""),
        (
            Masked(),
            {"x": FOUR, "mask": torch.ones(4, 5)},
            {1, 4},
            WAYS - {"integer_lowered"},
            "mask=None",
        ),
        (Nested(), {"x": FOUR, "others": {"masks": [torch.ones(4, 5)]}}, {1, 4}, WAYS, ""),
        (Nested(), {"x": FOUR, "others": {"masks": (torch.ones(5),)}}, {4}, WAYS, ""),
        (Whole(), {"x": FOUR}, {4}, WAYS, "One sample alone was not timed"),
        (
            Failing(),
            {"x": FOUR},
            {1, 4},
            WAYS - {"integer"},
            "execution 'integer' was not timed",
        ),
    ],
    ids=["plain", "argument not traced", "nested", "shared by samples", "fixed size", "failing"],
)
def test_what_cannot_be_timed_is_left_out_and_said(model, data, sizes, ways, note):
    report = analyze(fill(model), [data])

    found = report.timing.models
    assert {(entry.execution, entry.batch_size) for entry in found} == {
        (way, size) for way in ways for size in sizes
    }
    assert [note in text for text in report.timing.notes] == [True] * bool(note)
    assert report.output.error.sqnr_db > 20


def test_a_report_stands_without_times():
    report = analyze(fill(Tiring()), FOUR)

    assert report.timing is None
    assert any("too tired" in note for note in report.notes)
    assert report.output.error.sqnr_db > 20


def test_one_sample_is_the_first_of_every_input():
    seen = []

    class Seeing(Nested):
        def forward(self, x, others):
            if type(x) is torch.Tensor:  # no symbol
                seen.append((x.shape, others["masks"][0].shape))
            return super().forward(x, others)

    model = fill(Seeing())
    data = {"x": FOUR, "others": {"masks": [torch.ones(4, 5)]}}
    batch = Batch((), data, samples=4)
    time_executions(model, quantize_model(model, [data]), batch)

    assert set(seen) == {((4, 6), (4, 5)), ((1, 6), (1, 5))}
