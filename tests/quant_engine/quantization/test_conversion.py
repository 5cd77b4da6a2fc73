from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from quant_engine.errors import (
    DataError,
    ModelForwardError,
    NotCalibratedError,
    SchemeError,
    UnsupportedLayerError,
)
from quant_engine.layers import QuantizedConv2d, QuantizedEmbedding, QuantizedLayer, QuantizedLinear
from quant_engine.preparation.prepared_model import prepare
from quant_engine.quantization.calibration import calibrate
from quant_engine.quantization.conversion import plan_layers
from quant_engine.quantization.quantize import quantize_model
from quant_engine.report import EXCLUDED, QUANTIZED, UNSUPPORTED
from quant_engine.scheme import OBSERVERS, PRESETS, LayerScheme, Recipe, TensorScheme
from quant_engine.tensors.observers import choose_input_qparams, choose_weight_qparams
from tests.quant_engine.unchanged import snapshot

each_preset = pytest.mark.parametrize("preset", PRESETS)
W8 = TensorScheme(granularity="per_channel")
A8 = TensorScheme(symmetric=False)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=4, stride=2),
        nn.Flatten(),
        nn.Linear(36, 5),
    ).eval()


def data(*shape, count=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, *shape, generator=generator) for _ in range(count)]


def numpy_rounded(x, scale, zero_point, qmin, qmax):
    # One division in float32, as documented; everything else in float64.
    steps = (x.astype(np.float32) / np.float32(scale)).astype(np.float64)
    codes = np.clip(np.rint(steps) + zero_point, qmin, qmax)
    return (codes - zero_point) * scale


# --- what the quantized model computes ------------------------------------------------------------


def test_a_perceptron_quantized_by_hand_in_numpy():
    model, batches = mlp(), data(4)
    quantized = quantize_model(model, batches)
    x = torch.cat(batches).double().numpy()

    def weight(layer):
        w = layer.weight.detach().double().numpy()
        scale = np.float32(np.abs(w).max(axis=1, keepdims=True) / 127).astype(np.float64)
        return numpy_rounded(w, scale, 0, -127, 127)

    def inputs(values, seen):
        lo, hi = min(seen.min(), 0.0), max(seen.max(), 0.0)
        zero_point = np.clip(np.rint(-128 - lo / ((hi - lo) / 255)), -128, 127)
        return numpy_rounded(values, np.float64(np.float32((hi - lo) / 255)), zero_point, -128, 127)

    def hidden(values):
        with torch.no_grad():
            return model[1](model[0](torch.from_numpy(values).float())).double().numpy()

    first = inputs(x, x) @ weight(model[0]).T + model[0].bias.detach().double().numpy()
    first = np.maximum(first, 0.0)
    second = inputs(first, hidden(x)) @ weight(model[2]).T
    expected = second + model[2].bias.detach().double().numpy()
    with torch.no_grad():
        found = quantized(torch.cat(batches)).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with torch.no_grad():
        plain = model(torch.cat(batches)).double().numpy()
    assert 1e-4 < np.abs(found - plain).max() < 0.1


@each_preset
@pytest.mark.parametrize("build", [mlp, cnn])
def test_the_output_stays_near_the_float_output(preset, build):
    model = build()
    batches = data(4) if build is mlp else data(1, 8, 8)
    recipe = PRESETS[preset]
    quantized = quantize_model(model, batches, recipe)
    with torch.no_grad():
        x = torch.cat(batches)
        error = (quantized(x) - model(x)).square().sum() / model(x).square().sum()
    limit = 0.05 if recipe.weight.bits < 8 or recipe.weight.observer == "entropy" else 1e-3
    assert 0.0 < error < limit


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("bits", [4, 8])
def test_grids_are_those_the_observer_chooses_from_the_calibration(observer, bits):
    weight = TensorScheme(bits=bits, granularity="per_channel", observer=observer)
    activation = TensorScheme(bits=bits, symmetric=False, observer=observer)
    model, batches = mlp(), data(4)
    calibration = calibrate(model, batches)
    quantized = quantize_model(model, calibration, Recipe(weight, activation))
    for name in ("0", "2"):
        layer = quantized.get_submodule(name)
        grid = choose_input_qparams(calibration.histograms[name], activation)
        assert layer.input_grid.scale == grid.scale
        assert layer.input_grid.zero_point == grid.zero_point
        expected = choose_weight_qparams(model.get_submodule(name).weight, weight, 0)
        assert torch.equal(layer.stored_weight.scale, expected.scale)


def test_data_and_its_calibration_give_the_same_model():
    model, batches = cnn(), data(1, 8, 8)
    from_data = quantize_model(model, batches).state_dict()
    from_iterator = quantize_model(model, iter(batches)).state_dict()
    from_calibration = quantize_model(model, calibrate(model, batches)).state_dict()
    for other in (from_iterator, from_calibration):
        assert from_data.keys() == other.keys()
        for key, value in from_data.items():
            assert torch.equal(value, other[key]), key


def test_weights_are_int8_and_the_float_ones_are_gone():
    quantized = quantize_model(cnn(), data(1, 8, 8))
    state = quantized.state_dict()
    assert state["0.stored_weight.codes"].dtype == torch.int8
    assert not any(key.endswith(".weight") for key in state)
    assert [type(layer) for layer in quantized.modules() if isinstance(layer, QuantizedLayer)] == [
        QuantizedConv2d,
        QuantizedConv2d,
        QuantizedLinear,
    ]
    assert not quantized.training


def test_a_single_layer_is_a_model_too():
    quantized = quantize_model(nn.Linear(4, 2), data(4))
    assert isinstance(quantized, QuantizedLinear)


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x).relu())

    quantized = quantize_model(Tied(), data(4))
    assert quantized.first.quantized_weight is quantized.second.quantized_weight
    assert quantized.first.input_grid.scale != quantized.second.input_grid.scale
    different = PRESETS["int8_weights_only"].with_layer_bits("second", 4)
    quantized = quantize_model(Tied(), None, different)
    assert quantized.first.quantized_weight is not quantized.second.quantized_weight


def test_a_layer_with_two_names_is_quantized_once():
    layer = nn.Linear(4, 4)
    quantized = quantize_model(nn.Sequential(layer, nn.ReLU(), layer), data(4))
    assert isinstance(quantized[0], QuantizedLinear)
    assert quantized[0] is quantized[2]


# --- what is left alone ---------------------------------------------------------------------------


@each_preset
def test_the_callers_model_is_unchanged(preset):
    model = cnn().train()
    model[0].weight.requires_grad_(False)
    model(torch.randn(3, 1, 8, 8)).sum().backward()
    before = snapshot(model)
    quantized = quantize_model(model, data(1, 8, 8), PRESETS[preset])
    assert snapshot(model) == before
    shared = {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in (*quantized.parameters(), *quantized.buffers()) if p.numel()
    }
    assert not shared


def test_excluded_and_overridden_layers():
    recipe = Recipe(W8, A8, exclude_layers=("3",)).with_override("5", LayerScheme(TensorScheme(4)))
    quantized = quantize_model(cnn(), data(1, 8, 8), recipe)
    assert type(quantized[3]) is nn.Conv2d
    assert quantized[5].scheme == LayerScheme(TensorScheme(4))
    assert quantized[5].input_qparams is None
    assert int(quantized[5].quantized_weight.abs().max()) <= 7
    assert quantized[0].input_qparams is not None


def test_everything_excluded_computes_the_float_output():
    model, batches = cnn(), data(1, 8, 8)
    quantized = quantize_model(model, batches, Recipe.default().with_excluded("*"))
    with torch.no_grad():
        torch.testing.assert_close(quantized(batches[0]), model(batches[0]))


def test_weights_only_needs_no_data():
    quantized = quantize_model(mlp(), None, PRESETS["int8_weights_only"])
    assert quantized[0].input_qparams is None
    assert quantized[0].is_quantized


def test_embeddings_need_no_input_range():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    quantized = quantize_model(model, torch.tensor([[1, 2], [3, 4]]))
    assert isinstance(quantized[0], QuantizedEmbedding)
    assert quantized(torch.tensor([[1]])).shape == (1, 1, 2)


def plans_of(model, batches, recipe=None):
    recipe = recipe or Recipe.default()
    prepared = prepare(model)
    return {p.layer.name: p for p in plan_layers(prepared, recipe, calibrate(model, batches))}


def test_plans_give_a_reason_for_what_stays_float():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.out, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)

        def forward(self, x):
            return self.norm(self.out(self.used(x)))

    plans = plans_of(Partly(), data(4), Recipe.default().with_excluded("o*"))
    assert {name: plan.status for name, plan in plans.items()} == {
        "used": QUANTIZED,
        "out": EXCLUDED,
        "idle": UNSUPPORTED,
        "norm": UNSUPPORTED,
    }
    assert plans["used"].reason == ""
    assert "'o*'" in plans["out"].reason
    assert "never ran" in plans["idle"].reason
    assert "LayerNorm" in plans["norm"].reason
    assert plans["idle"].scheme is None


# --- progress -------------------------------------------------------------------------------------


def test_progress_names_batches_and_layers_and_ends_full():
    calls = []
    quantize_model(mlp(), data(4), progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == list(range(1, len(calls) + 1))
    assert calls[-1][0] == calls[-1][1]
    assert calls[-1][2] == "quantize 2 (layer 2 of 2)"


@pytest.mark.parametrize("at", [1, 3, 4, 5])
def test_cancelling_anywhere_leaves_the_model_whole(at):
    model = mlp()
    before = snapshot(model)

    def cancel(done, total, text):
        if done == at:
            raise InterruptedError(text)

    with pytest.raises(InterruptedError):
        quantize_model(model, data(4), progress=cancel)
    assert snapshot(model) == before


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe.default().with_excluded("3"), "exclude_layers names '3', which is not a layer"),
        (Recipe.default().with_excluded("x.*"), r"exclude_layers names 'x\.\*'"),
        (Recipe.default().with_layer_bits("00", 4), "overrides names '00'.*Did you mean '0'"),
    ],
)
def test_names_of_no_layer_are_refused(recipe, message):
    with pytest.raises(SchemeError, match=message):
        quantize_model(mlp(), data(4), recipe)


def test_an_unknown_execution_is_refused():
    with pytest.raises(SchemeError, match="Did you mean 'simulated'"):
        quantize_model(mlp(), data(4), execution="simulate")


def test_inputs_cannot_be_quantized_without_data():
    with pytest.raises(NotCalibratedError, match="'0' has its input quantized"):
        quantize_model(mlp(), None)


def test_a_calibration_of_another_model_is_refused():
    calibration = calibrate(cnn(), data(1, 8, 8))
    with pytest.raises(DataError, match="another model: it knows a layer '3'"):
        quantize_model(mlp(), calibration)


def test_a_broken_weight_names_its_layer():
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = math.inf
    before = snapshot(model)
    with pytest.raises(DataError, match="Layer '2': The weight holds NaN or Inf"):
        quantize_model(model, data(4))
    assert snapshot(model) == before


def test_a_model_that_fails_is_left_whole():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 3))
    before = snapshot(model)
    with pytest.raises(ModelForwardError):
        quantize_model(model, data(4))
    assert snapshot(model) == before


@pytest.mark.parametrize("calibration_data", [None, torch.zeros(2, 4)])
def test_a_model_with_nothing_to_quantize_is_refused(calibration_data):
    with pytest.raises(UnsupportedLayerError, match="No layer of this model"):
        quantize_model(nn.LayerNorm(4), calibration_data, PRESETS["int8_weights_only"])
