"""What passes leave behind is found by name, and every variant begins as the model came in."""

from __future__ import annotations

import copy
import itertools
import random
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_engine import (
    LogitResponse,
    Recipe,
    UnsupportedLayerError,
    analyze,
    calibrate,
    load_quantized_model,
    measure_sensitivity,
    quantize_model,
    save_quantized_model,
    verify_configurations,
)
from quant_engine.model.batches import Batch
from quant_engine.model.pass_state import find_pass_state
from quant_engine.preparation.folding_check import prepare_for
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.oracles import nmse


class Memory:
    """An object of the caller's, which fills up."""

    def __init__(self) -> None:
        self.items: deque[Tensor] = deque(maxlen=2)


class Keeping(nn.Module):
    """Two layers, and one of the ways in which a pass can reach the next one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))
        self.total = torch.zeros(6)
        self.passes = 0
        self.known: Any = None
        self.queue: list[Tensor] = []
        self.memory = Memory()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        result: Tensor = self.last(getattr(self, f"use_{self.kind}")(y))
        return result

    def use_nothing(self, y: Tensor) -> Tensor:
        return y

    def use_buffer(self, y: Tensor) -> Tensor:
        z = y + self.mean
        self.mean.copy_(y.mean(0))
        return z

    def use_attribute(self, y: Tensor) -> Tensor:
        z = y + self.total
        self.total = y.mean(0)
        return z

    def use_first_batch(self, y: Tensor) -> Tensor:
        if self.known is None:
            self.known = y.mean(0)
        return y - self.known

    def use_list(self, y: Tensor) -> Tensor:
        self.queue.append(y.mean(0))
        return y + sum(self.queue)

    def use_object(self, y: Tensor) -> Tensor:
        self.memory.items.append(y.mean(0))
        return y + sum(self.memory.items)

    def use_count(self, y: Tensor) -> Tensor:
        self.passes += 1
        return y * self.passes

    def use_generator(self, y: Tensor) -> Tensor:
        return y + torch.randn(y.shape, generator=self.generator)

    def use_numpy(self, y: Tensor) -> Tensor:
        return y + torch.from_numpy(np.random.randn(*y.shape)).float()  # noqa: NPY002

    def use_python(self, y: Tensor) -> Tensor:
        return y + random.gauss(0.0, 1.0)

    def use_torch(self, y: Tensor) -> Tensor:
        return y + torch.randn_like(y)

    def use_remembered(self, y: Tensor) -> Tensor:
        self.known = y
        self.passes += 1
        self.queue.append(y)
        return y + self.known


KEPT = {
    "buffer": "mean",
    "attribute": "total",
    "first_batch": "known",
    "list": "queue",
    "object": "memory",
    "count": "passes",
    "generator": "generator",
}
DRAWN = {"numpy": "numpy", "python": "Python's random", "torch": "torch"}
DATA = [seeded((8, 4), 1) * 2, seeded((8, 4), 2) - 1, seeded((5, 4), 3)]


def make(kind: str) -> Keeping:
    return fill(Keeping(kind)).eval()  # type: ignore[no-any-return]


def run_in_order(model: nn.Module) -> Tensor:
    """Oracle: what the model answers when somebody runs it over the data, one batch at a time."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return torch.cat([model(x) for x in DATA])


@pytest.mark.parametrize("kind", KEPT)
def test_what_reaches_the_next_pass_is_found_by_name(kind: str) -> None:
    model = make(kind)
    before = copy.deepcopy(vars(model)) | {"mean": model.mean.clone()}

    state = find_pass_state(model, Batch((DATA[0],), samples=8))

    assert state.reaches_next
    assert list(state.initial) == [("", KEPT[kind])]
    (note,) = state.notes
    assert KEPT[kind] in note
    assert torch.equal(model.mean, before["mean"])
    assert torch.equal(model.total, before["total"])
    assert model.passes == 0
    assert model.known is None
    assert model.queue == []
    assert not model.memory.items
    assert torch.equal(model.generator.get_state(), before["generator"].get_state())


@pytest.mark.parametrize("kind", ["nothing", "remembered"])
def test_what_no_answer_depends_on_is_left_alone(kind: str) -> None:
    state = find_pass_state(make(kind), Batch((DATA[0],), samples=8))

    assert (state.reaches_next, state.notes, state.full_passes_because) == (False, (), "")


@pytest.mark.parametrize("kind", DRAWN)
def test_random_sources_are_named_and_left_as_they_were(kind: str) -> None:
    model = make(kind)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()  # noqa: NPY002

    state = find_pass_state(model, Batch((DATA[0],), samples=8))

    assert f"(from {DRAWN[kind]})" in state.notes[0]
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_what_cannot_be_explained_is_said() -> None:
    count = itertools.count()

    class Drifting(Keeping):
        def use_nothing(self, y: Tensor) -> Tensor:
            return y * (1 + next(count))

    state = find_pass_state(fill(Drifting("nothing")), Batch((DATA[0],), samples=8))

    assert "answers differently each time" in state.notes[0]
    assert not state.reaches_next


def test_what_cannot_be_copied_is_left_alone() -> None:
    class Locked(Keeping):
        def use_nothing(self, y: Tensor) -> Tensor:
            if not hasattr(self, "lock"):
                self.lock = threading.Lock()
            return y

    model = fill(Locked("nothing"))
    state = find_pass_state(model, Batch((DATA[0],), samples=8))

    assert (state.reaches_next, state.notes, dict(state.initial)) == (False, (), {})


def test_a_state_of_one_batch_size_is_found_too() -> None:
    class Fixed(Keeping):
        def use_attribute(self, y: Tensor) -> Tensor:
            z = y if self.known is None else y + self.known
            self.known = y
            return z

    state = find_pass_state(fill(Fixed("attribute")), Batch((DATA[0],), samples=8))

    assert state.reaches_next
    assert list(state.initial) == [("", "known")]


@pytest.mark.parametrize("kind", KEPT)
def test_errors_are_those_of_models_that_run_over_the_data_in_order(kind: str) -> None:
    model = make(kind)
    expected = run_in_order(model)
    calibration = calibrate(model, DATA)
    everything = quantize_model(model, calibration)

    report = analyze(model, DATA, measure_time=False)
    sensitivity = measure_sensitivity(model, DATA)
    left_out = measure_sensitivity(model, DATA, direction="leave_one_out")

    assert report.output is not None
    wanted = nmse(expected, run_in_order(everything))
    assert report.output.error.nmse == pytest.approx(wanted, rel=1e-4)
    assert sensitivity.reference is not None
    assert sensitivity.reference.nmse == pytest.approx(wanted, rel=1e-4)
    for name, other in (("first", "last"), ("last", "first")):
        alone = quantize_model(model, calibration, Recipe.default().with_excluded(other))
        found = {layer.name: layer.nmse for layer in sensitivity.layers}[name]
        assert found == pytest.approx(nmse(expected, run_in_order(alone)), rel=1e-4)
        assert {layer.name: layer.nmse for layer in left_out.layers}[other] == found
    for notes in (report.notes, sensitivity.notes):
        assert any(KEPT[kind] in note for note in notes)


@pytest.mark.parametrize("kind", ["buffer", "list", "generator"])
def test_verified_configurations_are_those_of_models_that_run_in_order(kind: str) -> None:
    model = make(kind)
    response = LogitResponse.measure(model, DATA, agreement_configurations=4)
    option = response.options[2]
    quantized = quantize_model(model, DATA, response.recipe({"first": option}))
    wanted = nmse(run_in_order(model), run_in_order(quantized))

    scores = verify_configurations(model, DATA, response, [{"last": option}, {"first": option}])

    assert scores[1].nmse == pytest.approx(wanted, rel=1e-4)
    assert response.score({"last": option}).nmse == pytest.approx(scores[0].nmse, rel=1e-3)
    assert any(KEPT[kind] in note for note in response.report.notes)


@pytest.mark.parametrize("kind", DRAWN)
def test_random_numbers_are_the_same_in_every_pass(kind: str) -> None:
    model = make(kind)

    report = analyze(model, DATA, measure_time=False)
    sensitivity = measure_sensitivity(model, DATA)
    response = LogitResponse.measure(model, DATA, agreement_configurations=8)

    # With other numbers in each pass it would be below 3 dB.
    assert report.output is not None
    assert report.output.error.sqnr_db > 15
    assert all(layer.sqnr_db > 15 for layer in sensitivity.layers)
    assert response.agreement.single.median_ratio == pytest.approx(1.0, abs=0.1)
    for notes in (report.notes, sensitivity.notes, response.report.notes):
        assert any("random numbers" in note for note in notes)


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("is_calibrated", [False, True])
def test_a_quantized_model_begins_as_the_model_came_in(kind: str, is_calibrated: bool) -> None:
    model = make(kind)
    model.mean.fill_(0.5)
    model.total = torch.full((6,), 0.25)

    quantized = quantize_model(model, calibrate(model, DATA) if is_calibrated else DATA)

    assert torch.equal(quantized.mean, model.mean)
    assert torch.equal(quantized.total, model.total)
    assert (quantized.passes, quantized.known, quantized.queue) == (0, None, [])
    assert not quantized.memory.items
    assert torch.equal(quantized.generator.get_state(), model.generator.get_state())


def test_batches_that_depend_on_each_other_are_not_sent_away() -> None:
    model = make("buffer")
    here = measure_sensitivity(model, DATA)
    with ThreadPoolExecutor(2) as executor:
        there = measure_sensitivity(model, DATA, executor=executor)

    assert there.layers == here.layers
    assert any("not on the executor" in note for note in there.notes)


def test_models_that_draw_from_numpy_can_be_sent_away() -> None:
    model = make("numpy")
    with ThreadPoolExecutor(2) as executor:
        there = measure_sensitivity(model, DATA, executor=executor)

    assert all(layer.sqnr_db > 15 for layer in there.layers)


def test_data_that_can_be_read_once_still_holds_its_first_batch() -> None:
    _, data, _ = prepare_for(make("nothing"), iter(DATA))

    assert len(list(data)) == len(DATA)


class Making(nn.Module):
    """Makes something in its first pass."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.first, self.last, self.what = nn.Linear(6, 6), nn.Linear(6, 4), what

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if not hasattr(self, "made"):
            scale = y.abs().mean(0) if "data" in self.what else torch.arange(1.0, 7.0)
            if "buffer" in self.what:
                self.register_buffer("made", scale, persistent="lasting" in self.what)
            elif self.what == "parameter":
                self.made = nn.Parameter(scale)
            elif self.what == "module":
                self.made = nn.Linear(6, 6)
            else:
                self.made = scale
        z: Tensor = self.last(self.made(y) if self.what == "module" else y / self.made)
        return z


@pytest.mark.parametrize(
    "what", ["buffer", "lasting buffer", "attribute", "buffer of the data", "attribute of the data"]
)
@torch.no_grad()
def test_what_the_first_pass_makes_is_made_in_every_variant(what: str, tmp_path: Path) -> None:
    model, data = fill(Making(what)).eval(), [seeded((8, 6)), 3 * seeded((8, 6), 1)]
    quantized = quantize_model(model, data)
    assert not hasattr(quantized, "made")
    save_quantized_model(quantized, tmp_path)
    loaded = load_quantized_model(model, tmp_path)
    float_copy = copy.deepcopy(model)
    answers = [[m(x) for x in data] for m in (float_copy, quantized, loaded)]
    expected, found, again = (torch.cat(parts).double() for parts in answers)
    assert torch.equal(found, again)
    nmse = float((found - expected).square().sum() / expected.square().sum())

    report = analyze(model, data, measure_time=False)
    response = LogitResponse.measure(model, data, agreement_configurations=2)
    (score,) = verify_configurations(
        model, data, response, [response.uniform("int8 weights + int8 inputs")]
    )

    assert report.layer("last").accumulated_error.nmse == pytest.approx(nmse, rel=1e-3)
    assert score.nmse == pytest.approx(nmse, rel=1e-3)
    assert not hasattr(model, "made")
    assert "made" in " ".join(report.notes) or "data" not in what


@pytest.mark.parametrize("what", ["parameter", "module"])
def test_weights_that_the_first_pass_makes_must_be_there_before(what: str) -> None:
    model, x = fill(Making(what)).eval(), seeded((8, 6))
    with pytest.raises(UnsupportedLayerError, match=r"makes 'made'.*Run the model once"):
        quantize_model(model, x)

    model(x)
    quantize_model(model, x)


def test_hooks_that_the_first_pass_registers_are_registered_once() -> None:
    class Collecting(nn.Module):
        """Registers a hook when it first runs, and remembers that it did, as transformers does."""

        has_hooks = False

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            if not self.has_hooks:
                self.has_hooks = True
                self.first.register_forward_hook(lambda *given: _SEEN.append(given[-1]))
            _SEEN.clear()
            y = self.first(x)
            self.seen.append(y)
            z: Tensor = self.last(y) * len(_SEEN)
            return z

    model = Collecting().eval()
    x = torch.ones(3, 4)
    prepared, _, _ = prepare_for(model, x)

    assert not model.first._forward_hooks
    assert not prepared.model.seen
    for _ in range(3):
        prepared.state.write(prepared.model)
        prepared.model(x)
        assert len(_SEEN) == 1


_SEEN: list[object] = []
