import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from quant_engine import DataError, Recipe, analyze, measure_times, quantize_model
from quant_engine.analysis.times import budget_after
from quant_engine.execution.clock import measure_timing, time_threads, using_threads
from quant_engine.execution.integer import KernelForm
from quant_engine.execution.timing import time_executions
from quant_engine.model.batches import Batch
from quant_engine.report import TIMES_FOLLOW, ThreadTrial, TimingEntry
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
    measure_timing(models, {2: Batch((X,), samples=2)}, images_last=("images",))
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
        if isinstance(getattr(self.last, "integer_form", None), KernelForm):
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
            WAYS,
            "",
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
    ids=["plain", "optional argument", "nested", "shared by samples", "fixed size", "failing"],
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
            if type(x) is torch.Tensor:  # no fake one
                seen.append((x.shape, others["masks"][0].shape))
            return super().forward(x, others)

    model = fill(Seeing())
    data = {"x": FOUR, "others": {"masks": [torch.ones(4, 5)]}}
    batch = Batch((), data, samples=4)
    quantized = quantize_model(model, [data])
    seen.clear()
    time_executions(model, quantized, batch)

    assert set(seen) == {((4, 6), (4, 5)), ((1, 6), (1, 5))}


class Counting(nn.Sequential):
    """Takes one unit of time for every sample, on a clock of its own."""

    def __init__(self, clock):
        super().__init__(nn.Linear(6, 2))
        self.clock = clock

    def forward(self, x):
        self.clock.spend(len(x))
        return super().forward(x)


class Clock:
    def __init__(self, of_thread=None):
        self.now = 0.0
        self.of_thread = of_thread or {}

    def spend(self, seconds):
        self.now += seconds * self.of_thread.get(torch.get_num_threads(), 1.0)

    def perf_counter(self):
        return self.now

    def __deepcopy__(self, memo):
        return self


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("quant_engine.execution.clock.time", made)
    return made


def test_timing_keeps_to_its_budget_and_says_what_that_left_out(clock):
    model = Counting(clock).eval()
    x = seeded((64, 6))
    quantized = quantize_model(model, x)
    clock.now = 0.0
    report = time_executions(model, quantized, Batch((x,), samples=64), ["0"], seconds=400)

    # Four executions; a pass of all of them may take 400 / 20 = 20 units, so five samples; four.
    assert {entry.batch_size for entry in report.models} == {1, 4}
    # The first run of each execution, on one sample, comes before.
    assert clock.now <= 400 + 2 * 4
    assert report.budget_s == 400
    assert report.limits == (
        "Of the batch of 64 samples, 4 were timed together: more would take too long for the "
        "400 s that timing may take.",
    )
    assert min(entry.runs for entry in (*report.models, *report.layers)) >= 3
    whole = time_executions(model, quantized, Batch((x,), samples=64), ["0"])
    assert {entry.batch_size for entry in whole.models} == {1, 64}
    assert {entry.runs for entry in whole.models} == {20}
    assert (whole.budget_s, whole.limits) == (None, ())


def test_what_there_is_no_time_for_at_all_is_named(clock):
    model = Counting(clock).eval()
    batches = {size: Batch((seeded((size, 6)),), samples=size) for size in (1, 8)}
    report = measure_timing({"float": model}, batches, layers={"float": ["0"]}, seconds=0.5)

    assert [(entry.batch_size, entry.runs) for entry in report.models] == [(1, 1)]
    assert report.warmup_runs == 1
    assert report.layers == ()
    assert report.limits == (
        "Batch size 8 was not timed: the time for it was spent.",
        "Single layers were not timed: the time for it was spent.",
    )


@pytest.mark.parametrize(("slower", "faster"), [(2, 1), (1, 2)])
def test_times_are_taken_with_as_many_threads_as_serve(clock, slower, faster):
    clock.of_thread = {slower: 50.0, faster: 1.0}
    model = Counting(clock).eval()
    x = seeded((4, 6))
    with using_threads(2):
        report = time_executions(model, quantize_model(model, x), Batch((x,), samples=4), ["0"])
        assert torch.get_num_threads() == 2

    assert report.thread_trials == (ThreadTrial(faster, 4e3), ThreadTrial(slower, 200e3))
    assert report.environment.threads == faster
    # The forward, which spends the time, is not run by the lowered graph.
    ways = [entry for entry in report.models if entry.execution != "integer_lowered"]
    assert {entry.median_ms for entry in ways} == {1e3, 4e3}


def test_one_thread_is_not_tried_twice(clock):
    with using_threads(1):
        (only,) = time_threads(Counting(clock).eval(), Batch((FOUR,), samples=4))
    assert only == ThreadTrial(1, 4e3)


@pytest.mark.parametrize(
    ("q1", "q3", "runs", "is_unreliable"),
    [(9, 11.9, 20, False), (9, 12.1, 20, True), (10, 10, 2, True), (10, 10, 3, False)],
)
def test_times_whose_runs_differ_are_unreliable(q1, q3, runs, is_unreliable):
    assert TimingEntry("float", 1, 10.0, q1, q3, runs).is_unreliable == is_unreliable


def test_timing_may_take_as_long_as_the_rest_between_two_and_ten_seconds():
    assert [budget_after(s) for s in (0.0, 5.0, 6.4, 10.0, 600.0)] == [5.0, 5.0, 6.4, 10.0, 10.0]


def test_errors_are_announced_before_times_are_measured(monkeypatch):
    announced = []
    model = fill(Masked())
    report = analyze(
        model, FOUR, on_update=lambda build: announced.append(build()), time_budget_s=0.5
    )

    assert [found.is_partial for found in announced] == [True] * (len(announced) - 1) + [False]
    last = announced[-1]
    assert last.timing is None
    assert last.notes[-1] == TIMES_FOLLOW
    assert last == replace(report, timing=None, notes=(*report.notes, TIMES_FOLLOW))
    assert report.timing.budget_s == 0.5
    assert TIMES_FOLLOW not in report.notes
    untimed = analyze(model, FOUR, measure_time=False)
    assert untimed == replace(report, timing=None)


def test_times_can_be_measured_later():
    model = fill(Masked())
    before = analyze(model, FOUR, measure_time=False)
    unchanged = snapshot(model)
    report = measure_times(
        replace(before, notes=(*before.notes, TIMES_FOLLOW)), model, iter([FOUR]), time_budget_s=5.0
    )

    assert replace(report, timing=None) == before
    assert {entry.execution for entry in report.timing.models} == WAYS
    assert {entry.layer for entry in report.timing.layers} == {"first", "last"}
    assert report.timing.budget_s == 5.0
    assert snapshot(model) == unchanged


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan])
def test_a_budget_is_positive(seconds):
    model = fill(Masked())
    with pytest.raises(DataError, match="time_budget_s"):
        analyze(model, FOUR, time_budget_s=seconds)
    with pytest.raises(DataError, match="time_budget_s"):
        measure_times(analyze(model, FOUR, measure_time=False), model, FOUR, time_budget_s=seconds)


def test_times_of_another_model_are_refused():
    report = analyze(fill(Masked()), FOUR, measure_time=False)
    with pytest.raises(DataError, match=r"another model.*first.*'0'"):
        measure_times(report, nn.Sequential(nn.Linear(6, 2)), FOUR)
