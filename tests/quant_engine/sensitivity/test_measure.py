"""Sweeps over options, parts and metrics, against models quantized one at a time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import (
    LayerScheme,
    Recipe,
    SensitivityReport,
    TensorScheme,
    calibrate,
    measure_sensitivity,
    quantize_model,
)
from quant_engine.errors import (
    DataError,
    ModelForwardError,
    SchemeError,
    StorageError,
    UnsupportedLayerError,
)
from quant_engine.metrics.functions import kl_divergence, sqnr_db, top1_agreement
from quant_engine.report import LayerSensitivity
from quant_engine.tensors.affine import choose_dynamic_qparams, fake_quantize
from quant_engine.tensors.observers import choose_input_qparams
from quant_engine.variants.options import bit_options
from tests.quant_engine.layer_cases import fill
from tests.quant_engine.oracles import nmse
from tests.quant_engine.sweep_models import (
    Branches,
    ChangesItsInput,
    largest_change,
    make_batches,
    make_model,
)
from tests.quant_engine.test_bad_input import Tied

DEFAULT = Recipe.default()
OPTIONS = {
    "int8": LayerScheme(TensorScheme(), TensorScheme(symmetric=False)),
    "int3 per channel": LayerScheme(
        TensorScheme(bits=3, granularity="per_channel"), TensorScheme(bits=4)
    ),
    "int3 mse": LayerScheme(TensorScheme(bits=3, observer="mse")),
}
THREE_BITS = Recipe(TensorScheme(bits=3), TensorScheme(bits=4))
BATCHES = make_batches()
INPUTS = torch.cat([inputs for inputs, _ in BATCHES])
LABELS = torch.cat([labels for _, labels in BATCHES])


def recipe_for(option: str, model: nn.Module, layers: list[str]) -> Recipe:
    scheme = OPTIONS[option]
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    excluded = tuple(name for name in names if name not in layers)
    return Recipe(scheme.weight, scheme.activation, exclude_layers=excluded)


def run(model: nn.Module) -> Tensor:
    """Run batch by batch, as the engine does."""
    with torch.no_grad():
        return torch.cat([model(inputs.clone()) for inputs, _ in BATCHES])


def check(entry: LayerSensitivity, logits: Tensor, changed: Tensor) -> None:
    assert entry.kl_divergence == pytest.approx(kl_divergence(logits, changed), rel=1e-9)
    assert entry.nmse == pytest.approx(nmse(logits, changed), rel=1e-9)
    assert entry.sqnr_db == pytest.approx(sqnr_db(logits, changed), rel=1e-9)
    assert entry.top1_agreement == pytest.approx(top1_agreement(logits, changed))
    right, still_right = ((x.argmax(dim=-1) == LABELS).double().mean() for x in (logits, changed))
    assert entry.accuracy_drop == pytest.approx(float(right - still_right))
    assert entry.value == pytest.approx(entry.kl_divergence)
    assert entry.interval[0] <= entry.value <= entry.interval[1]


@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_every_option_equals_a_model_quantized_that_way(direction: str) -> None:
    model = make_model()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    calibration = calibrate(model, BATCHES)
    report = measure_sensitivity(
        model, calibration, evaluation_data=BATCHES, options=OPTIONS, direction=direction
    )
    logits = run(model)

    assert [(e.name, e.option) for e in report.layers] == [(n, o) for n in names for o in OPTIONS]
    for entry in report.layers:
        others = [name for name in names if name != entry.name]
        layers = [entry.name] if direction == "one_at_a_time" else others
        recipe = recipe_for(entry.option, model, layers)
        check(entry, logits, run(quantize_model(model, calibration, recipe)))
    for reference, option in zip(report.references, OPTIONS, strict=True):
        assert reference.option == option
        recipe = recipe_for(option, model, names)
        check(reference, logits, run(quantize_model(model, calibration, recipe)))
    assert report.reference == report.references[0]


def test_one_option_of_many_equals_a_sweep_of_that_option() -> None:
    model = make_model()
    together = measure_sensitivity(model, BATCHES, options=OPTIONS)

    for place, (option, scheme) in enumerate(OPTIONS.items()):
        alone = measure_sensitivity(model, BATCHES, options={option: scheme})
        part = together.only(option)
        # The resamples of other options stand in the same product, which may round differently.
        assert [replace(e, interval=(0, 0)) for e in part.layers] == [
            replace(e, interval=(0, 0)) for e in alone.layers
        ]
        assert part.options == (option,)
        assert part.rankings[0].layers == alone.rankings[0].layers
        assert [c.is_tied for c in part.rankings[0].comparisons] == [
            c.is_tied for c in alone.rankings[0].comparisons
        ]
        assert part.cumulative == (alone.cumulative if place == 0 else ())
        assert part.schemes == (scheme,)
    with pytest.raises(KeyError, match="int8"):
        together.only("int9")
    assert together.schemes == tuple(OPTIONS.values())
    assert SensitivityReport.from_json(together.to_json()) == together
    missing = {**together.to_dict(), "schemes": together.to_dict()["schemes"][1:]}
    with pytest.raises(StorageError, match="schemes, but"):
        SensitivityReport.from_dict(missing)


def test_without_options_each_layer_has_the_recipes_scheme() -> None:
    recipe = DEFAULT.with_layer_bits("head", 4).with_excluded("stem")
    report = measure_sensitivity(make_model(), BATCHES, recipe)

    texts = {entry.name: entry.option for entry in report.layers}
    assert "stem" not in texts
    assert texts["head"] == "int4 weights + int8 inputs"
    assert texts["blocks.0.0"] == "int8 weights + int8 inputs"
    assert report.options == ("",)
    assert report.only("") == report


def test_calibration_data_is_read_once_for_all_options() -> None:
    reads: list[int] = []

    def loader() -> Iterator[Tensor]:
        for inputs, _ in BATCHES:
            reads.append(1)
            yield inputs

    measure_sensitivity(
        make_model(), loader(), evaluation_data=BATCHES, options=bit_options(DEFAULT)
    )
    assert len(reads) == len(BATCHES)


def test_options_that_do_the_same_to_a_layer_run_once() -> None:
    ids = torch.arange(24).remainder(11).view(8, 3)
    scheme = LayerScheme(TensorScheme(), TensorScheme())
    options = {"a": scheme, "b": scheme.with_bits(8, 4)}
    steps: list[int] = []
    report = measure_sensitivity(
        fill(Tied()),
        ids,
        options=options,
        with_cumulative=False,
        progress=lambda _done, total, _text: steps.append(total),
    )

    # An embedding has no float input: both options round only its weight.
    table = [entry for entry in report.layers if entry.name == "table"]
    assert [entry.option for entry in table] == ["a", "b"]
    assert replace(table[1], option="a") == table[0]
    head = [entry for entry in report.layers if entry.name == "head"]
    assert head[0].kl_divergence != head[1].kl_divergence
    # 1 calibration batch, 2 layers quantized; 2 references, 2 heads, 1 table
    assert steps[-1] == 1 + 2 + 5


def test_parts_add_up_to_both() -> None:
    model = make_model()
    calibration = calibrate(model, BATCHES)
    scheme = OPTIONS["int3 per channel"]

    def measure(parts: str) -> dict[str, LayerSensitivity]:
        report = measure_sensitivity(
            model, calibration, evaluation_data=BATCHES, options={"o": scheme}, parts=parts
        )
        assert report.parts == parts
        return {entry.name: entry for entry in report.layers}

    weights, activations = measure("weights"), measure("activations")
    logits = run(model)
    for name, entry in weights.items():
        excluded = [n for n in weights if n != name]
        recipe = Recipe(scheme.weight, None, exclude_layers=tuple(excluded))
        check(entry, logits, run(quantize_model(model, None, recipe)))
        check(activations[name], logits, run(with_rounded_input(model, name, calibration, scheme)))
        assert activations[name].quantized_bytes == activations[name].float_bytes
        assert entry.quantized_bytes < entry.float_bytes
    both = measure("both")
    assert both["stem"].kl_divergence not in (weights["stem"], activations["stem"])


def with_rounded_input(
    model: nn.Module, name: str, calibration: Any, scheme: LayerScheme
) -> nn.Module:
    changed = make_model()
    assert scheme.activation is not None
    qparams = choose_input_qparams(calibration.histograms[name], scheme.activation)
    changed.get_submodule(name).register_forward_pre_hook(
        lambda _, args: (fake_quantize(args[0], qparams),)
    )
    return changed


def test_parts_of_layers_without_float_inputs() -> None:
    ids = torch.arange(24).remainder(11).view(8, 3)
    report = measure_sensitivity(fill(Tied()), ids, parts="activations")

    assert [entry.name for entry in report.layers] == ["head"]
    assert report.layers[0].option == "float weights + int8 inputs"
    assert {point.model_bytes for point in report.cumulative} == {11 * 6 * 4}


def test_dynamic_ranges_of_inputs_are_those_of_each_batch() -> None:
    fixed = LayerScheme(TensorScheme(), TensorScheme(bits=4, symmetric=False))
    dynamic = LayerScheme(TensorScheme(), TensorScheme(bits=4, symmetric=False, is_dynamic=True))
    model = make_model()
    report = measure_sensitivity(model, BATCHES, options=[fixed, dynamic], parts="activations")

    assert len(report.options) == 2
    assert "dynamic" in report.options[1]
    logits = run(model)
    head = next(e for e in report.only(report.options[1]).layers if e.name == "head")
    changed = make_model()
    scheme = dynamic.activation
    assert scheme is not None
    changed.get_submodule("head").register_forward_pre_hook(
        lambda _, args: (fake_quantize(args[0], choose_dynamic_qparams(args[0], scheme)),)
    )
    check(head, logits, run(changed))


def test_activations_alone_need_an_activation_scheme() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"'x' rounds the input of no layer"):
        measure_sensitivity(
            make_model(), BATCHES, parts="activations", options={"x": OPTIONS["int3 mse"]}
        )


@pytest.mark.parametrize(
    ("metric", "field"),
    [
        ("kl_divergence", "kl_divergence"),
        ("nmse", "nmse"),
        ("sqnr_db", "sqnr_db"),
        ("top1_agreement", "top1_agreement"),
        ("accuracy_drop", "accuracy_drop"),
    ],
)
def test_value_and_interval_are_those_of_the_metric(metric: str, field: str) -> None:
    plain = measure_sensitivity(make_model(), BATCHES, options=bit_options(DEFAULT, (3,)))
    report = measure_sensitivity(
        make_model(), BATCHES, options=bit_options(DEFAULT, (3,)), metric=metric
    )

    assert report.metric == metric
    for entry, other in zip(report.layers, plain.layers, strict=True):
        assert entry.value == pytest.approx(getattr(entry, field), abs=1e-12)
        assert entry.interval[0] <= getattr(entry, field) <= entry.interval[1]
        assert getattr(entry, field) == getattr(other, field)


def test_a_metric_of_the_callers() -> None:
    model = make_model()
    report = measure_sensitivity(model, BATCHES, metric=largest_change)
    logits = run(model)

    assert report.metric == "largest_change"
    calibration = calibrate(model, BATCHES)
    for entry in report.layers:
        others = tuple(e.name for e in report.layers if e.name != entry.name)
        changed = run(quantize_model(model, calibration, DEFAULT.with_excluded(*others)))
        wanted = largest_change(logits, changed).double().mean()
        assert entry.value == pytest.approx(float(wanted), rel=1e-6)
    ranked = sorted(report.layers, key=lambda entry: -(entry.value or 0.0))
    assert report.rankings[0].layers == tuple(entry.name for entry in ranked)
    assert report.cumulative[1].layer == ranked[-1].name


def test_what_sparing_a_layer_gains_is_compared_on_the_same_samples() -> None:
    report = measure_sensitivity(make_model(), BATCHES, THREE_BITS, direction="leave_one_out")
    alone = measure_sensitivity(make_model(), BATCHES, THREE_BITS)
    whole = report.reference
    assert whole is not None
    assert whole.kl_divergence is not None

    for layer in report.layers:
        assert layer.gain_interval is not None
        assert layer.kl_divergence is not None
        low, high = layer.gain_interval
        assert low <= whole.kl_divergence - layer.kl_divergence <= high
        apart = (whole.interval[1] - layer.interval[0]) - (whole.interval[0] - layer.interval[1])
        assert high - low < apart  # samples that are hard for both do not widen it
    assert all(layer.gain_interval is None for layer in alone.layers)


def test_the_curve_says_how_many_answers_stay_those_of_float() -> None:
    model = make_model()
    report = measure_sensitivity(model, BATCHES, THREE_BITS)
    answers = run(model).argmax(dim=-1)
    calibration = calibrate(model, BATCHES, THREE_BITS)

    for index, point in enumerate(report.cumulative):
        kept = tuple(name for later in report.cumulative[index + 1 :] for name in later.added)
        changed = run(quantize_model(model, calibration, THREE_BITS.with_excluded(*kept)))
        same = (changed.argmax(dim=-1) == answers).double().mean()
        assert point.top1_agreement == pytest.approx(float(same))


@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_the_curve_at_some_counts_is_part_of_the_curve_at_all(direction: str) -> None:
    def measure(points: int | None) -> tuple[SensitivityReport, list[str]]:
        texts: list[str] = []
        report = measure_sensitivity(
            make_model(),
            BATCHES,
            THREE_BITS,
            direction=direction,
            curve_points=points,
            progress=lambda _done, _total, text: texts.append(text),
        )
        return report, [text for text in texts if "more and more" in text]

    full, all_runs = measure(None)
    some, runs = measure(4)
    layers = len(full.layers)

    assert [point.count for point in full.cumulative] == list(range(layers + 1))
    assert len(some.cumulative) == 4
    for point in some.cumulative:
        same = full.cumulative[point.count]
        assert point == replace(same, added=point.added)
    order = [point.layer for point in full.cumulative[1:]]
    assert [name for point in some.cumulative for name in point.added] == order
    # The ends, and one layer switched, are known from the sweep.
    assert len(runs) == (4 - 3) * len(BATCHES)
    assert len(all_runs) == (layers + 1 - 3) * len(BATCHES)


def test_a_metric_may_do_what_it_likes_with_its_tensors() -> None:
    def greedy(output: Tensor, changed: Tensor) -> Tensor:
        result = (output - changed).abs().amax(dim=1)
        output.zero_(), changed.zero_()
        return result

    kept = measure_sensitivity(make_model(), BATCHES, metric=largest_change)
    assert measure_sensitivity(make_model(), BATCHES, metric=greedy).layers == kept.layers


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *_: 1.0, r"shape \(\) for an output of shape \(8, 5\)"),
        (lambda output, *_: output, r"Return one number for each of the 8 samples"),
        (lambda output, *_: output[:, 0] / 0, "NaN or Inf"),
        (lambda *_: [1, 2] + None, "The metric failed: TypeError"),
    ],
)
def test_a_metric_that_answers_badly(answer: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure_sensitivity(make_model(), BATCHES, metric=answer)


def test_a_metric_that_cannot_be_had_is_noticed_on_the_first_batch() -> None:
    steps: list[str] = []
    inputs = [inputs for inputs, _ in BATCHES]
    with pytest.raises(DataError, match="'accuracy_drop' needs"):
        measure_sensitivity(
            make_model(),
            inputs,
            metric="accuracy_drop",
            progress=lambda _done, _total, text: steps.append(text),
        )
    assert not any("batch 2" in text for text in steps if "one by one" in text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": "weight"}, "Did you mean 'weights'"),
        ({"direction": "one"}, "Valid: leave_one_out, one_at_a_time"),
        ({"options": []}, "options is empty"),
        ({"options": {"float": OPTIONS["int8"]}}, "'float' is taken"),
        ({"metric": "kl"}, "Valid: accuracy_drop"),
        ({"curve_points": 2}, "from 3 up, or None"),
        ({"precision": 1.0}, "between 0 and 1, or be None"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        measure_sensitivity(make_model(), BATCHES, **settings)


def test_the_seed_decides_about_intervals_alone() -> None:
    def measure(seed: int) -> SensitivityReport:
        return measure_sensitivity(make_model(), BATCHES, seed=seed)

    assert measure(1) == measure(1)
    one, other = measure(1), measure(2)
    assert [e.interval for e in one.layers] != [e.interval for e in other.layers]
    assert [e.value for e in one.layers] == [e.value for e in other.layers]


def test_data_that_the_model_changes_in_place_stays_as_it_was() -> None:
    model = make_model(ChangesItsInput)
    before = [inputs.clone() for inputs, _ in BATCHES]
    evaluation = [(inputs.clone(), labels) for inputs, labels in BATCHES]
    calibration = calibrate(model, [inputs.clone() for inputs in before])

    report = measure_sensitivity(model, calibration, evaluation_data=evaluation)

    for inputs, (kept, _) in zip(before, evaluation, strict=True):
        assert torch.equal(inputs, kept)
    logits = run(model)
    for entry in report.layers:
        others = tuple(e.name for e in report.layers if e.name != entry.name)
        quantized = quantize_model(model, calibration, DEFAULT.with_excluded(*others))
        check(entry, logits, run(quantized))


def test_partial_results_are_kept_when_the_work_is_cancelled() -> None:
    snapshots: list[SensitivityReport] = []

    def cancel(done: int, total: int, text: str) -> None:
        if "one by one: batch 3" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(
            make_model(),
            BATCHES,
            options=OPTIONS,
            progress=cancel,
            on_update=lambda report: snapshots.append(report()),
        )
    assert [report.samples for report in snapshots] == [8, 16]
    full = measure_sensitivity(
        make_model(),
        calibrate(make_model(), BATCHES),
        evaluation_data=BATCHES[:2],
        options=OPTIONS,
        with_cumulative=False,
    )
    assert replace(snapshots[-1], is_partial=False) == full


def test_memory_holds_the_activations_of_one_batch() -> None:
    alive: list[weakref.ref[Tensor]] = []
    peaks: list[int] = []

    class Watching(Branches):
        """Counts answers of layers that somebody still holds when a pass begins."""

        def forward(self, x: Tensor) -> Tensor:
            alive[:] = [ref for ref in alive if ref() is not None]
            peaks.append(len(alive))
            return super().forward(x)

    def peak(batches: int) -> int:
        model = make_model(Watching)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda *step: alive.append(weakref.ref(step[-1])))
        data = make_batches(batches)
        alive.clear()
        peaks.clear()
        # Without the collector of cycles: nothing may have to wait for it.
        gc.disable()
        try:
            measure_sensitivity(model, data[:1], evaluation_data=data)
        finally:
            gc.enable()
        return max(peaks)

    assert peak(6) == peak(1) > 0


def test_progress_ends_at_its_total() -> None:
    steps: list[tuple[int, int]] = []
    measure_sensitivity(
        make_model(),
        BATCHES,
        options=OPTIONS,
        progress=lambda done, total, _: steps.append((done, total)),
    )
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


class TiedDecoder(nn.Module):
    """Calls one layer, reads the weights of two, and shares a weight between another two."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.middle = nn.Linear(6, 8, bias=False), nn.Linear(8, 8)
        self.read = nn.Linear(8, 8)
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.middle(self.encode(x)))
        y = torch.tanh(F.linear(y, self.read.weight, self.read.bias))
        y = self.other(torch.tanh(self.one(y)))
        return F.linear(y, self.encode.weight.t())


@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_a_weight_that_is_read_is_the_quantized_one(direction: str) -> None:
    model, x = fill(TiedDecoder()), torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    recipe = Recipe(TensorScheme(bits=4))

    report = measure_sensitivity(model, x, recipe, direction=direction)

    names = [layer.name for layer in report.layers]
    assert sorted(names) == ["encode", "middle", "one", "other", "read"]
    assert report.notes == ()
    for layer in (*report.layers, *report.references):
        others = [name for name in names if name != layer.name]
        excluded = others if direction == "one_at_a_time" else [layer.name]
        if not layer.name:
            excluded = []
        quantized = quantize_model(model, x, recipe.with_excluded(*excluded))
        with torch.no_grad():
            assert layer.kl_divergence == pytest.approx(kl_divergence(model(x), quantized(x)))


def test_references_count_what_layers_share_once() -> None:
    model, x = fill(TiedDecoder()), torch.randn(8, 6, generator=torch.Generator().manual_seed(1))

    reference = measure_sensitivity(model, x, Recipe(TensorScheme(bits=4))).references[0]

    weights, biases = 6 * 8 + 3 * 8 * 8, 4 * 8
    assert reference.parameters == weights + biases
    assert reference.float_bytes == 4 * (weights + biases)
    # Half a byte a weight, and one scale for each of the four.
    assert reference.quantized_bytes == weights // 2 + 4 * 4 + 4 * biases


@pytest.mark.parametrize("parts", ["both", "activations"])
def test_a_failing_layer_bears_its_own_name(parts: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 3)))

    with pytest.raises(ModelForwardError, match=r"in layer '0' \("):
        measure_sensitivity(
            model, torch.randn(4, 6), evaluation_data=torch.randn(4, 5), parts=parts
        )


class ByName(nn.Module):
    """Calls a layer with its argument by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(input=torch.relu(self.first(x)))
        return y


@pytest.mark.parametrize("parts", ["both", "weights", "activations"])
def test_layers_may_be_called_with_their_input_by_name(parts: str) -> None:
    model, x = fill(ByName()), torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    plain = fill(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))

    found = measure_sensitivity(model, x, parts=parts).layers
    expected = measure_sensitivity(plain, x, parts=parts).layers

    assert [e.value for e in found] == [e.value for e in expected]
