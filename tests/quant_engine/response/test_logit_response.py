import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import bootstrap
from torch import nn

from quant_engine import (
    PRESETS,
    LogitResponse,
    Recipe,
    calibrate,
    quantize_model,
    verify_configurations,
)
from quant_engine.errors import DataError, SchemeError, UnsupportedLayerError
from quant_engine.metrics.functions import kl_divergence
from quant_engine.preparation.prepared_model import prepare
from quant_engine.progress import ProgressMeter
from quant_engine.quantization.calibration import calibrate_prepared
from quant_engine.response.gradients import NO_GRADIENT, NO_ROWS
from quant_engine.scheme import LayerScheme
from quant_engine.tensors.affine import choose_dynamic_qparams, fake_quantize
from quant_engine.tensors.observers import choose_input_qparams
from quant_engine.variants.layers import build_forms
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.response_cases import (
    CASES,
    OPTIONS,
    case,
    float_output,
    linear_model,
    measure,
    recipe_of,
)
from tests.quant_engine.unchanged import snapshot


@pytest.mark.parametrize("option", OPTIONS)
def test_one_linear_layer_is_predicted_to_float_precision(option):
    model, x = linear_model(), seeded((20, 6))
    response = measure(model, x)
    with torch.no_grad():
        measured = quantize_model(model, [x], recipe_of(OPTIONS[option]))(x)
    predicted = response.predict({"": option})
    np.testing.assert_allclose(predicted, measured.numpy(), rtol=1e-5, atol=1e-5)
    score = response.score({"": option})
    assert score.kl_divergence == pytest.approx(kl_divergence(model(x), measured), rel=1e-3)


def test_linear_layers_in_a_row_add_up_to_first_order():
    # z = w2·w1·x with δ1 and δ2 predicts w2·w1·x + w2·δ1·x + δ2·w1·x; only δ2·δ1·x is left out.
    model, x = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)), None
    with torch.no_grad():
        model[0].weight.fill_(3.0)
        model[1].weight.fill_(5.0)
    x = torch.tensor([[1.0], [2.0]])
    response = measure(model, x)
    arrays = response.arrays
    arrays.shifts[:] = 0.0
    arrays.shifts[0, 0, :, 0] = [0.5, 1.0]
    arrays.shifts[1, 1, :, 0] = [2.0, -3.0]
    predicted = response.predict({"0": "eight", "1": "four"})
    np.testing.assert_allclose(predicted[:, 0], [15.0 + 2.5, 30.0 - 2.0])


@pytest.mark.parametrize("name", CASES)
def test_shifts_are_those_of_the_full_jacobian(name):
    """Oracle: torch's own Jacobian of the output with respect to an addition to each layer."""
    model, x = case(name)
    response = measure(model, x)
    prepared = prepare(model)
    prepared.model.requires_grad_(False)
    meter = ProgressMeter(None, 0)
    calibration = calibrate_prepared(prepared, [x], meter)
    built = build_forms(
        model, prepared, Recipe.default(), OPTIONS, calibration, meter, seen_only=True
    )
    forms = built.quantized
    for place, layer in enumerate(response.report.layers):
        if layer.reason:
            continue
        found = _shifts_by_jacobian(prepared.model, layer.name, forms[layer.name], x)
        np.testing.assert_allclose(response.arrays.shifts[place], found, rtol=2e-3, atol=2e-5)


def _shifts_by_jacobian(model, name, forms, x):
    module = model.get_submodule(name)
    outputs, deltas = [], []

    def record(layer, args, output):
        outputs.append(output)
        deltas.append([form(*args) - output for form in forms.values()])

    handle = module.register_forward_hook(record)
    with torch.no_grad():
        model(x)
    handle.remove()

    def with_added(*added):
        remaining = iter(added)
        handle = module.register_forward_hook(lambda _m, _a, output: output + next(remaining))
        result = model(x)
        handle.remove()
        return result.reshape(len(x), -1)

    zeros = tuple(torch.zeros_like(output) for output in outputs)
    jacobians = torch.autograd.functional.jacobian(with_added, zeros)
    total = 0
    for jacobian, options in zip(jacobians, deltas, strict=True):
        flat = jacobian.reshape(len(x), jacobian.shape[1], -1)
        total = total + torch.stack([flat @ delta.reshape(-1) for delta in options])
    return total.numpy()


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("cut", "hidden", NO_GRADIENT),
        ("steps", "hidden", NO_GRADIENT),
        ("sequence_first", "table", NO_ROWS),
    ],
)
def test_layers_without_a_usable_gradient_are_run_and_say_why(name, layer, reason):
    model, x = case(name)
    response = measure(model, x)
    entry = next(entry for entry in response.report.layers if entry.name == layer)
    assert (entry.method, entry.reason) == ("run", reason)
    others = [other for other in response.report.layers if other.name != layer]
    assert {other.method for other in others} == {"gradient"}
    with torch.no_grad():
        recipe = response.recipe({layer: "two"})
        measured = quantize_model(model, [x], recipe)(x)
    np.testing.assert_allclose(response.predict({layer: "two"}), measured, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_small_errors_are_predicted_as_measured_on_every_kind_of_model(name):
    model, x = case(name)
    response = measure(model, x)
    layers = response.layers
    names = [{layer: "eight"} for layer in layers]
    measured = verify_configurations(model, [x], response, names)
    for configuration, score in zip(names, measured, strict=True):
        assert response.score(configuration).degradation == pytest.approx(
            score.degradation, rel=0.4, abs=1e-9
        )


def test_a_model_that_autograd_cannot_take_is_run_instead():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            y = self.first(x)
            kept = torch.exp(y)
            kept_product = kept * y
            kept.zero_()  # autograd needs it for the gradient of exp
            return self.last(kept_product)

    response = measure(fill(Overwrites()), seeded((8, 6)))
    assert {layer.method for layer in response.report.layers} == {"run"}
    assert "RuntimeError" in response.report.layers[0].reason
    assert response.agreement.single.rank_correlation == pytest.approx(1.0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_the_caller_has_switched_them_off(mode):
    model, x = case("in_place")
    with mode():
        response = measure(model, x)
    assert {layer.method for layer in response.report.layers} == {"gradient"}
    np.testing.assert_array_equal(response.arrays.shifts, measure(model, x).arrays.shifts)


def test_the_float_configuration_is_the_float_model():
    model, x = case("in_place")
    response = measure(model, x)
    np.testing.assert_array_equal(response.predict({}), float_output(model, x).numpy())
    score = response.score(dict.fromkeys(response.layers, "float"))
    assert (score.degradation, score.top1_agreement, score.nmse) == (0.0, 1.0, 0.0)


def test_batches_give_what_one_batch_gives():
    model, x = case("in_place")
    one = measure(model, x)
    many = LogitResponse.measure(model, [x[:5], x[5:]], options=OPTIONS)
    np.testing.assert_allclose(many.arrays.shifts, one.arrays.shifts, rtol=1e-4, atol=1e-6)
    assert many.agreement.samples == len(x)


@pytest.mark.parametrize("sizes", [(1, 4, 4), (4, 1, 4), (4, 4, 1)])
@pytest.mark.parametrize("name", ["sequence_first", "steps", "twice"])
def test_batches_of_any_size_find_the_rows_of_a_layer(name, sizes):
    """Inside, the sequence is as long as a batch here, and one row alone can tell no axis."""
    x = case(name)[1].repeat(2, *[1] * (case(name)[1].dim() - 1))[: sum(sizes)]
    one = measure(case(name)[0], x)
    many = LogitResponse.measure(case(name)[0], list(x.split(sizes)), options=OPTIONS)
    np.testing.assert_allclose(many.arrays.shifts, one.arrays.shifts, rtol=1e-4, atol=1e-5)
    assert [(layer.method, layer.reason) for layer in many.report.layers] == [
        (layer.method, layer.reason) for layer in one.report.layers
    ]


def test_the_rows_of_layers_are_looked_for_on_one_batch_alone(monkeypatch):
    model, x = case("in_place")
    passes: list[object] = []
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(0) or real(*a, **k))
    LogitResponse.measure(model, [x[:4]], options=OPTIONS)
    on_one = len(passes)
    LogitResponse.measure(model, list(x.split(4)), options=OPTIONS)
    assert len(passes) - 2 * on_one == 2 * 3, "one more pass for each of 3 logits on 2 batches"


def test_accuracy_is_that_of_the_predicted_logits():
    model, x = linear_model(), seeded((20, 6))
    labels = torch.arange(20) % 4
    response = LogitResponse.measure(model, [x], options=OPTIONS, evaluation_data=[(x, labels)])
    expected = (response.predict({"": "two"}).argmax(axis=1) == labels.numpy()).mean()
    assert response.score({"": "two"}).accuracy == pytest.approx(expected)
    assert response.report.float_accuracy == pytest.approx(
        float((model(x).argmax(dim=1) == labels).double().mean())
    )


def test_outputs_that_are_no_logits_are_judged_by_their_noise():
    model, x = fill(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))), seeded((15, 6))
    response = measure(model, x)
    score = response.score({"2": "four"})
    assert (response.report.kind, score.kl_divergence) == ("values", None)
    (measured,) = verify_configurations(model, [x], response, [{"2": "four"}])
    assert score.nmse == pytest.approx(measured.nmse, rel=1e-4)
    assert score.sqnr_db == pytest.approx(measured.sqnr_db, abs=1e-2)


def test_rounding_behind_a_quantized_layer_counts_as_noise():
    model, x = case("in_place")
    response = measure(model, x)
    arrays = response.arrays
    pairs = response.chosen({"first": "eight", "second": "eight"})
    shift, noise = arrays.effect(pairs)
    assert arrays.sources.tolist() == [[False, False], [True, False]]
    np.testing.assert_allclose(shift, arrays.shift(pairs) - arrays.roundings[1, 0], atol=1e-7)
    assert noise.mean() == pytest.approx(float(arrays.rounding_degradation[1, 0].mean()))
    alone, no_noise = arrays.effect(pairs[1:])
    np.testing.assert_array_equal(alone, arrays.shift(pairs[1:]))
    assert not no_noise.any()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_preset_that_rounds_inputs_has_rounding_noise(preset):
    """Oracle: the float layer on its input rounded by the definition of the preset's grid."""
    model, x = fill(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))), seeded((20, 6))
    response = measure(model, x, options={"preset": LayerScheme(preset.weight, preset.activation)})
    _, noise = response.arrays.effect(response.chosen({"0": "preset", "1": "preset"}))
    if preset.activation is None:
        assert not noise.any()
        return
    with torch.no_grad():
        y = model[0](x)
        scheme = preset.activation
        if scheme.is_dynamic:
            params = choose_dynamic_qparams(y, scheme)
        else:
            params = choose_input_qparams(calibrate(model, [x]).histograms["1"], scheme)
        shift = model[1](fake_quantize(y, params)) - model[1](y)
    np.testing.assert_allclose(response.arrays.roundings[1, 0], shift, rtol=1e-4, atol=1e-6)
    assert noise.mean() > 0.0


def test_the_callers_model_stays_as_it_is_even_when_cancelled():
    model, x = case("twice")
    model.train()
    before = snapshot(model)
    measure(model, x)
    assert snapshot(model) == before

    def stop(done, total, text):
        if "back through" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, x, progress=stop)
    assert snapshot(model) == before


def test_progress_counts_up_to_its_total():
    seen = []
    model, x = case("cut")
    measure(model, x, progress=lambda done, total, text: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert all(done <= total for done, total in seen)


def test_excluded_layers_stay_float_and_say_so():
    model, x = case("in_place")
    response = measure(model, x, recipe=Recipe.default().with_excluded("second"))
    assert response.layers == ("first",)
    with pytest.raises(SchemeError, match="stays float: excluded by the recipe"):
        response.predict({"second": "eight"})
    with pytest.raises(UnsupportedLayerError):
        measure(model, x, recipe=Recipe.default().with_excluded("*"))


@pytest.mark.parametrize(
    ("configuration", "message"),
    [({"frist": "eight"}, "Did you mean 'first'"), ({"first": "egiht"}, "Did you mean 'eight'")],
)
def test_unknown_names_are_refused_with_the_likely_one(configuration, message):
    model, x = case("in_place")
    with pytest.raises(SchemeError, match=message):
        measure(model, x).score(configuration)


@pytest.mark.parametrize(
    "settings",
    [{"classes": 0}, {"top_k": 32}, {"projections": 1}, {"seed": -1}, {"agreement_samples": True}],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(SchemeError):
        measure(linear_model(), seeded((4, 6)), **settings)


def test_a_calibration_needs_evaluation_data():
    model, x = case("in_place")
    calibration = calibrate(model, [x])
    with pytest.raises(SchemeError, match="evaluation_data"):
        LogitResponse.measure(model, calibration)
    response = LogitResponse.measure(model, calibration, evaluation_data=[x], options=OPTIONS)
    np.testing.assert_allclose(response.arrays.shifts, measure(model, x).arrays.shifts, atol=1e-7)


def test_the_recipe_of_a_configuration_quantizes_as_predicted():
    model, x = case("in_place")
    response = measure(model, x)
    configuration = {"first": "two", "second": "float"}
    quantized = quantize_model(model, [x], response.recipe(configuration))
    (measured,) = verify_configurations(model, [x], response, [configuration])
    with torch.no_grad():
        divergence = kl_divergence(float_output(model, x), quantized(x))
    assert divergence == pytest.approx(measured.kl_divergence, rel=1e-9)


@pytest.mark.parametrize("name", ["in_place", "values"])
def test_measured_degradation_carries_the_interval_of_a_bootstrap_over_samples(name):
    if name == "values":
        model, x = fill(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))), seeded((60, 6))
        configuration = {"0": "two"}
    else:
        (model, _), configuration = case(name), {"first": "two"}
        x = seeded((60, *case(name)[1].shape[1:]))
    response = measure(model, x)
    data = list(x.split(25))
    (measured,) = verify_configurations(model, data, response, [configuration])
    with torch.no_grad():
        expected = float_output(model, x).double().numpy()
        output = quantize_model(model, [x], response.recipe(configuration))(x).double().numpy()
    if name == "values":
        degradations, weights = ((output - expected) ** 2).sum(axis=1), (expected**2).sum(axis=1)
    else:
        p = softmax(expected, axis=1)
        degradations = (p * (log_softmax(expected, axis=1) - log_softmax(output, axis=1))).sum(
            axis=1
        )
        weights = np.ones(len(degradations))
    assert measured.degradation == pytest.approx(degradations.sum() / weights.sum(), rel=1e-4)
    found = bootstrap(
        (degradations, weights),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    width = found.high - found.low
    assert measured.interval == pytest.approx(tuple(found), abs=0.15 * width)
    assert response.score(configuration).interval is None


def test_progress_goes_forward_only_and_ends_at_the_end():
    model, x = case("in_place")
    heard = []
    LogitResponse.measure(
        model,
        list(x.split(4)),
        options=OPTIONS,
        progress=lambda done, total, text: heard.append(done / total),
    )
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert len(set(heard)) > 20


def test_verification_refuses_the_response_of_another_model():
    response = measure(*case("in_place"))
    with pytest.raises(DataError, match="another model"):
        verify_configurations(case("cut")[0], [seeded((4, 6))], response, [{}])
