"""Replaying a prefix gives, bit for bit, what a full forward gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine import Calibration, Recipe, calibrate, measure_sensitivity, quantize_model
from quant_engine.judging.judged import Judged
from quant_engine.model.batches import Batch
from quant_engine.model.copying import share_tensors
from quant_engine.model.modules import replace_modules
from quant_engine.variants.replay import Replay
from quant_engine.variants.runner import VariantRunner
from sample_models import SampleModel, get_model_info, list_models, load_model


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
    replay = Replay(copy, Judged())
    plain = share_tensors(model)
    x_before = x.clone()

    def fresh() -> Batch:
        x.copy_(x_before)  # a model may change its input in place
        return batch

    (output,) = replay.record(fresh())
    torch.testing.assert_close(output, Judged().answer(plain, fresh())[0], rtol=0, atol=0)
    layers = [name for name, module in model.named_modules() if isinstance(module, Doubling)]
    starts = {name: replay.first_call([copy.get_submodule(name)]) for name in layers}
    for name in sorted(layers, key=lambda n: -starts[n]):
        for changed in (copy, plain):
            changed.get_submodule(name).factor = 2.0
        (replayed,) = replay.run(fresh(), starts[name])
        assert torch.equal(replayed, Judged().answer(plain, fresh())[0]), name
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
    replay = Replay(copy, Judged())
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

    # Verifying calls every layer once more; the record answers.
    recorded = verified = ("0", "2", "4", "6")
    # The last layer is the one that is changed: nothing before it is called again.
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
    pairs: list[tuple[Tensor, Tensor]] = []

    reason = runner.run_each(batch, [{}, {}], lambda _n, y, x: pairs.append((y[0], x[0])))

    assert "random" in reason
    assert len(pairs) == 2
    assert all(torch.equal(output, expected) for expected, output in pairs)


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
    replay = Replay(Alternating().eval(), Judged())
    replay.record(batch)
    replay.run(batch, 2)
    assert "repeat" in replay.reason


def test_verify_notices_an_answer_that_differs() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    batch = Batch((torch.ones(2, 4),), samples=2)
    replay = Replay(model, Judged())
    (output,) = replay.record(batch)
    replay.verify(batch, (output,))
    assert replay.reason == ""
    replay.verify(batch, (output + 1,))
    assert "recorded" in replay.reason


# Replay looks at modules and tensors: these differ from other models in numbers only.
VARIANTS = {"mobilenet_unequal_channels", "vit_outlier_channels"}


@pytest.fixture(scope="module", params=sorted(set(list_models()) - VARIANTS))
def calibrated(request: pytest.FixtureRequest) -> tuple[SampleModel, nn.Module, Calibration]:
    """A sample model, calibrated once for both directions."""
    info, model = get_model_info(request.param), load_model(request.param)
    return info, model, calibrate(model, info.load_inputs("calibration")[0][:32])


@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_sensitivity_equals_full_forwards(
    calibrated: tuple[SampleModel, nn.Module, Calibration],
    direction: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info, model, calibration = calibrated
    inputs, labels = info.load_inputs("test")
    data = [(inputs[:16], labels[:16]), (inputs[16:24], labels[16:24])]
    # The curve, of many layers at once, needs no more than one of the two directions.
    arguments: dict[str, Any] = {"evaluation_data": data, "direction": direction}
    arguments["with_cumulative"] = direction == "one_at_a_time"
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
    assert report.notes[-1] == "Every run was a full forward pass: the model draws random numbers."
    # The same noise in every run: what differs is quantization alone.
    assert all(layer.sqnr_db > 30 for layer in report.layers)


class Bag:
    """An object of the caller's that layers leave something in."""

    def __init__(self) -> None:
        self.items: list[Tensor] = []


class Filling(nn.Module):
    """A layer that leaves its answer in an argument."""

    def __init__(self, is_filling: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.is_filling = is_filling

    def forward(self, x: Tensor, seen: Any) -> Tensor:
        x = torch.tanh(self.layer(x))
        if self.is_filling and isinstance(seen, dict):
            seen["sum"] = seen.get("sum", 0) + x
        elif self.is_filling:
            (seen.items if isinstance(seen, Bag) else seen).append(x)
        return x * 0.9


class Pyramid(nn.Module):
    """Layers in two stages that fill one argument, which the head reads."""

    def __init__(self, kind: Callable[[], Any], filling: tuple[int, ...]) -> None:
        super().__init__()
        self.kind = kind
        self.steps = nn.ModuleList(Filling(number in filling) for number in range(6))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.kind()
        for step in self.steps:
            x = step(x, seen)
        found = seen.items if isinstance(seen, Bag) else list(seen)
        found = list(seen.values()) if isinstance(seen, dict) else found
        result: Tensor = self.head(x) + 3 * sum(found)[:, :3]
        return result


@pytest.mark.parametrize("filling", [(5,), (4,), (1, 3, 5)], ids=str)
@pytest.mark.parametrize("kind", [list, dict, Bag])
@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_what_calls_leave_in_their_arguments_is_there(
    kind: Callable[[], Any], filling: tuple[int, ...], direction: str
) -> None:
    """Oracle: quantized copies, each run by itself."""
    torch.manual_seed(0)
    model, x = Pyramid(kind, filling).eval(), torch.randn(6, 4)
    calibration = calibrate(model, [x])
    with torch.no_grad():
        expected = model(x)
    report = measure_sensitivity(model, [x], direction=direction, with_cumulative=False)
    names = [layer.name for layer in report.layers]
    for layer in report.layers:
        others = [name for name in names if name != layer.name]
        excluded = others if direction == "one_at_a_time" else [layer.name]
        recipe = Recipe.default().with_excluded(*excluded)
        with torch.no_grad():
            found = quantize_model(model, calibration, recipe)(x)
        error = float((found - expected).square().sum() / expected.square().sum())
        assert layer.nmse == pytest.approx(error, rel=1e-3), layer.name
    is_seen_in_inputs = kind is not Bag
    assert (report.notes == ()) == is_seen_in_inputs


def test_a_model_that_fails_on_what_replay_leaves_out_runs_in_full() -> None:
    class Indexed(Pyramid):
        def forward(self, x: Tensor) -> Tensor:
            seen = Bag()
            for number, step in enumerate(self.steps):
                x = step(x, seen) + seen.items[number]
            result: Tensor = self.head(x)
            return result

    torch.manual_seed(0)
    model, x = Indexed(Bag, tuple(range(6))).eval(), torch.randn(6, 4)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    forms = {
        name: {"other": nn.Linear(*model.get_submodule(name).weight.T.shape)} for name in names
    }
    runner = VariantRunner(model, forms)
    variants = [{name: "other"} for name in names]
    batch, found = Batch((x,), samples=6), {}

    reason = runner.run_each(batch, variants, lambda n, _y, output: found.update({n: output[0]}))

    assert "cannot run" in reason
    for number, name in enumerate(names):
        changed = replace_modules(copy.deepcopy(model), {name: forms[name]["other"]})
        with torch.no_grad():
            assert torch.equal(found[number], changed(x))


def test_checking_the_record_computes_no_layer_again() -> None:
    ran: list[str] = []

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            ran.append("layer")
            return super().forward(x)

    model = nn.Sequential(
        Counted(4, 4), nn.Sequential(Counted(4, 4), nn.Sequential(Counted(4, 4))), Counted(4, 4)
    )
    replay = Replay(share_tensors(model), Judged())
    batch = Batch((torch.randn(2, 4),), samples=2)
    output = replay.record(batch)
    assert len(ran) == 4

    replay.verify(batch, output)

    assert len(ran) == 4
    assert not replay.reason
