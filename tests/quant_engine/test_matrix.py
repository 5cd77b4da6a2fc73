"""Every architecture under every preset, and every sample model under range rules, on real data.

A model, preset or observer that is registered later is tested here without a change.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import sample_models
from quant_engine import (
    PRESETS,
    Calibration,
    QuantizedLayer,
    Recipe,
    TensorScheme,
    calculate_model_size,
    calibrate,
    quantize_model,
)
from quant_engine.metrics.functions import kl_divergence, sqnr_db, top1_agreement
from quant_engine.scheme import OBSERVERS

MODELS = sample_models.list_models()
GRANULARITIES = ("per_tensor", "per_channel")
SAMPLES = 96
PER_CHANNEL = TensorScheme(granularity="per_channel")
INPUTS = TensorScheme(symmetric=False)

each_model = pytest.mark.parametrize("name", MODELS)
RULES = [(granularity, observer) for observer in OBSERVERS for granularity in GRANULARITIES]


@cache
def given(name: str) -> tuple[nn.Module, Calibration, Tensor, Tensor]:
    """Model, its calibration, some test inputs and their float logits."""
    info, model = sample_models.get_model_info(name), sample_models.load_model(name)
    calibration, _ = info.load_inputs("calibration")
    inputs = info.load_inputs("test")[0][:SAMPLES]
    with torch.no_grad():
        return model, calibrate(model, calibration[:SAMPLES].split(48)), inputs, model(inputs)


@cache
def answers(name: str, recipe: Recipe) -> tuple[nn.Module, Tensor]:
    """The quantized model and its logits."""
    model, calibration, inputs, _ = given(name)
    quantized = quantize_model(model, calibration, recipe)
    with torch.no_grad():
        return quantized, quantized(inputs)


def agreement(name: str, recipe: Recipe) -> float:
    return top1_agreement(given(name)[3], answers(name, recipe)[1])


def output_sqnr_db(name: str, recipe: Recipe) -> float:
    return sqnr_db(given(name)[3], answers(name, recipe)[1])


def is_loud(name: str) -> bool:
    """Whether the model was made to suffer where all its input channels share a scale."""
    return name.endswith("outlier_channels")


def shapes(name: str) -> tuple[tuple[str, torch.Size], ...]:
    state = sample_models.load_model(name).state_dict()
    return tuple((key, value.shape) for key, value in state.items())


# What a preset makes of the layers is no matter of the numbers in them.
ARCHITECTURES = {shapes(name): name for name in reversed(MODELS)}.values()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_quantizes_a_model(name, preset):
    recipe = PRESETS[preset]
    quantized, logits = answers(name, recipe)
    assert torch.isfinite(logits).all()
    assert math.isfinite(kl_divergence(given(name)[3], logits))
    layers = [module for module in quantized.modules() if isinstance(module, QuantizedLayer)]
    assert layers
    for layer in layers:
        codes = layer.quantized_weight
        assert codes.dtype == torch.int8
        assert recipe.weight.qmin <= codes.min()
        assert codes.max() <= recipe.weight.qmax
        activation = recipe.activation if layer.takes_float_input else None
        assert layer.scheme.activation == activation
        has_input_grid = activation is not None and not activation.is_dynamic
        assert (layer.input_qparams is not None) == has_input_grid


def logits_by(name: str, granularity: str, observer: str) -> Tensor:
    weight = TensorScheme(granularity=granularity, observer=observer)
    return answers(name, Recipe(weight, replace(INPUTS, observer=observer)))[1]


@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, RULES[(place + k) % len(RULES)]) for place, name in enumerate(MODELS) for k in (0, 3)],
)
def test_an_observer_quantizes_a_model(name, rule):
    """Of all pairs each model has two rules, and each rule two models: a rule sees tensors only."""
    assert torch.isfinite(logits_by(name, *rule)).all()


@each_model
@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_the_rules_for_whole_ranges_keep_the_answers(name, observer):
    logits = logits_by(name, "per_channel", observer)
    assert torch.isfinite(logits).all()
    if not is_loud(name):
        assert top1_agreement(given(name)[3], logits) >= 0.95


@each_model
def test_eight_bits_per_channel_change_hardly_an_answer(name):
    recipe = PRESETS["int8_weights_only"]
    assert agreement(name, recipe) >= 0.98
    assert output_sqnr_db(name, recipe) > (20.0 if is_loud(name) else 25.0)


@each_model
def test_every_bit_less_costs_accuracy_of_the_output(name):
    found = [
        output_sqnr_db(name, Recipe(replace(PER_CHANNEL, bits=bits), None)) for bits in (8, 6, 4, 2)
    ]
    assert found == sorted(found, reverse=True)
    # 6.02 dB a bit while rounding is all there is.
    assert 6.0 < found[0] - found[1] < 20.0


@each_model
def test_a_scale_for_each_channel_is_no_worse_than_one_for_all(name):
    whole = output_sqnr_db(name, Recipe(TensorScheme(), None))
    channels = output_sqnr_db(name, Recipe(PER_CHANNEL, None))
    assert channels > whole - 0.5


@each_model
def test_the_mse_rule_beats_the_whole_range_at_few_bits(name):
    """In the weights, whose error it is that the rule makes small."""
    model, *_ = given(name)
    noise = {}
    for observer in ("minmax", "mse"):
        recipe = Recipe(TensorScheme(bits=3, observer=observer), None)
        quantized, _ = answers(name, recipe)
        layers = dict(quantized.named_modules())
        noise[observer] = sum(
            float((layers[n].dequantized_weight() - module.weight.detach()).square().sum())
            for n, module in model.named_modules()
            if isinstance(module, nn.Linear) and isinstance(layers.get(n), QuantizedLayer)
        )
    assert noise["mse"] < noise["minmax"]


@each_model
def test_the_model_held_in_memory_shrinks_with_its_weights(name):
    model, *_ = given(name)
    quantized, _ = answers(name, Recipe.default())
    before, after = (calculate_model_size(m)["total_mb"] for m in (model, quantized))
    assert before / after > 2.3


def test_the_teaching_variants_show_what_they_teach():
    unequal, loud = "mobilenet_unequal_channels", "vit_outlier_channels"
    assert agreement(unequal, PRESETS["int8_per_tensor"]) < 0.8
    assert agreement(unequal, PRESETS["int8_per_channel"]) >= 0.98
    assert agreement(loud, PRESETS["int8_per_channel"]) < 0.95
    assert agreement(loud, PRESETS["int8_weights_only"]) >= 0.98


@each_model
def test_the_models_are_as_they_were_loaded(name):
    """Last: all the work above has left the one model it shares unchanged."""
    model, *_ = given(name)
    fresh = sample_models.load_model(name)
    assert model.state_dict().keys() == fresh.state_dict().keys()
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    assert [m.training for m in model.modules()] == [m.training for m in fresh.modules()]
