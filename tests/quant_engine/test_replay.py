"""Replaying a prefix gives, bit for bit, what a full forward gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine import calibrate, measure_sensitivity
from quant_engine.batches import Batch
from quant_engine.copying import share_tensors
from quant_engine.forward import model_output
from quant_engine.replay import Replay
from quant_engine.sweep import VariantRunner
from sample_models import get_model_info, list_models, load_model


class Doubling(nn.Module):
    """Stands for a layer whose answer changes from one pass to the next."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x) * self.factor
        return result


class Block(nn.Module):
    """A layer and one of the ways in which models handle its output."""

    def __init__(self, kind: str, inner: nn.Module) -> None:
        super().__init__()
        self.kind = kind
        self.step = Doubling(nn.Linear(4, 4))
        self.inner = inner
        self.relu = nn.ReLU(inplace=True)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.step(x)
        if self.kind == "residual":
            return self.inner(y) + x
        if self.kind == "in_place_ignored":
            self.relu(y)
            return self.inner(y) + y
        if self.kind == "in_place_on_input":
            x.add_(1.0)
            return self.inner(y) + x
        if self.kind == "twice":
            return self.inner(self.step(F.relu(y)))
        if self.kind == "view":
            half = y.view(-1, 2)
            half.mul_(0.5)
            return self.inner(y)
        if self.kind == "remembers":
            self.seen = y
            return self.inner(y) * self.seen
        result: Tensor = self.inner(F.relu(y, inplace=True))
        return result


KINDS = (
    "plain", "residual", "in_place_ignored", "in_place_on_input", "twice", "view", "remembers"
)  # fmt: skip
blocks = st.recursive(
    st.just(nn.Identity),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(KINDS), inner).map(lambda p: lambda: Block(p[0], p[1]())),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda parts: lambda: nn.Sequential(*(part() for part in parts))
        ),
    ),
    max_leaves=6,
)


def check(model: nn.Module, x: Tensor) -> Replay:
    """Change each layer of the model in turn and compare replay with a full forward."""
    batch = Batch((x,), samples=len(x))
    copy = share_tensors(model)
    replay = Replay(copy)
    plain = share_tensors(model)
    x_before = x.clone()

    def fresh() -> Batch:
        x.copy_(x_before)  # a model may change its input in place
        return batch

    output = replay.record(fresh())
    torch.testing.assert_close(output, model_output(plain, fresh()), rtol=0, atol=0)
    layers = [name for name, module in model.named_modules() if isinstance(module, Doubling)]
    starts = {name: replay.first_call([copy.get_submodule(name)]) for name in layers}
    for name in sorted(layers, key=lambda n: -starts[n]):
        for changed in (copy, plain):
            changed.get_submodule(name).factor = 2.0
        replayed = replay.run(fresh(), starts[name])
        assert torch.equal(replayed, model_output(plain, fresh())), name
        for changed in (copy, plain):
            changed.get_submodule(name).factor = 1.0
    return replay


@settings(max_examples=80)
@given(blocks, st.integers(0, 2**31))
def test_any_nesting_equals_full_forwards(build: Callable[[], nn.Module], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4), build(), Doubling(nn.Linear(4, 3))).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    with torch.no_grad():
        check(model, torch.randn(5, 4, generator=generator))


@pytest.mark.parametrize("kind", KINDS)
def test_each_way_of_handling_an_output(kind: str, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(kind, nn.Linear(4, 4)) for _ in range(3)), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        assert check(model, torch.randn(5, 4, generator=generator)).reason == ""


def test_work_before_the_change_is_not_done_again(generator: torch.Generator) -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(4))).eval()
    batch = Batch((torch.randn(2, 4, generator=generator),), samples=2)
    copy = share_tensors(model)
    ran = []
    for name, module in copy.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    for module in copy.modules():
        if isinstance(module, nn.Sequential) and module is not copy:
            module.register_forward_pre_hook(lambda module, _: ran.append(module))
    replay = Replay(copy)
    replay.record(batch)
    ran.clear()
    replay.run(batch, replay.first_call([copy.get_submodule("2.0")]))
    assert [name for name in ran if isinstance(name, str)] == ["2.0", "3.0"]


@pytest.mark.parametrize("is_in_place", [False, True])
def test_answers_changed_in_place_later_are_replayed_too(is_in_place: bool) -> None:
    torch.manual_seed(0)
    steps = [(nn.Linear(4, 4), nn.ReLU(inplace=is_in_place)) for _ in range(4)]
    model = nn.Sequential(*(module for step in steps for module in step)).eval()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    runner = VariantRunner(model, {name: {"other": nn.Linear(4, 4)} for name in names})
    ran: list[str] = []
    for name in names:
        switch = runner._model.get_submodule(name)
        switch.get_submodule("float_layer").register_forward_pre_hook(
            lambda *_, name=name: ran.append(name)
        )
    batch = Batch((torch.randn(2, 4),), samples=2)
    passes = []
    for _ in range(2):
        ran.clear()
        assert runner.run(batch, [{"6": "other"}]).full_forwards_because == ""
        passes.append(tuple(ran))

    recorded, verified = ("0", "2", "4", "6"), ("6",)
    # The last layer is the one that is changed: nothing before it runs again.
    once = (*recorded, *verified)
    # Only on the first batch is it news that answers are changed later.
    assert passes == [(*recorded, *once) if is_in_place else once, once]


def test_tuple_and_dict_outputs(generator: torch.Generator) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Doubling(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
            y = self.layer(x)
            return y, {"more": [y + 1, y * 2]}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Pair()
            self.second = Doubling(nn.Linear(4, 3))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y, more = self.first(x)
            more["more"].append(y)
            return {"logits": self.second(sum(more["more"]))}

    assert check(Model().eval(), torch.randn(5, 4, generator=generator)).reason == ""


def test_random_models_run_in_full_and_say_so() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Doubling(nn.Linear(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer(x + torch.rand_like(x))
            return result

    batch = Batch((torch.zeros(2, 4),), samples=2)
    runner = VariantRunner(Noisy().eval(), {})
    outputs: list[Tensor] = []

    logits, reason = runner.run_each(batch, [{}, {}], lambda _n, _y, output: outputs.append(output))

    assert "random" in reason
    assert all(torch.equal(output, logits) for output in outputs)


def test_a_model_that_does_not_repeat_itself_runs_in_full_and_says_so() -> None:
    class Alternating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            result: Tensor = self.layers[2](self.layers[self.passes % 2](x))
            return result

    batch = Batch((torch.ones(2, 4),), samples=2)
    replay = Replay(Alternating().eval())
    replay.record(batch)
    replay.run(batch, 2)
    assert "repeat" in replay.reason


def test_verify_notices_an_answer_that_differs() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    batch = Batch((torch.ones(2, 4),), samples=2)
    replay = Replay(model)
    output = replay.record(batch)
    replay.verify(batch, output)
    assert replay.reason == ""
    replay.verify(batch, output + 1)
    assert "recorded" in replay.reason


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_sensitivity_equals_full_forwards(
    name: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, info = load_model(name), get_model_info(name)
    inputs, labels = info.load_inputs("test")
    data = [(inputs[:16], labels[:16]), (inputs[16:24], labels[16:24])]
    calibration = calibrate(model, info.load_inputs("calibration")[0][:32])
    arguments: dict[str, Any] = {"evaluation_data": data, "direction": direction}
    replayed = measure_sensitivity(model, calibration, **arguments)
    record = Replay.record

    def without_replay(self: Replay, batch: Batch) -> Tensor:
        self.reason = "switched off"
        return record(self, batch)

    monkeypatch.setattr(Replay, "record", without_replay)
    full = measure_sensitivity(model, calibration, **arguments)
    assert replayed.notes == ()
    assert full.notes == ("Every run was a full forward pass: switched off.",)
    assert replace(full, notes=()) == replayed


def test_the_report_says_why_nothing_was_replayed() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(self.first(x) + torch.rand_like(x))
            return result

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        report = measure_sensitivity(Noisy(), torch.ones(8, 4))
    assert report.notes == ("Every run was a full forward pass: the model draws random numbers.",)
    # The same noise in every run: what differs is quantization alone.
    assert all(layer.sqnr_db > 30 for layer in report.layers)
