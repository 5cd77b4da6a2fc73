import numpy as np
import pytest
import torch
from torch import nn

from quant_engine import Recipe, analyze
from quant_engine.preparation.prepared_model import prepare
from quant_engine.progress import ProgressMeter
from quant_engine.quantization.calibration import calibrate_prepared
from quant_engine.quantization.size import layer_size, total_bytes
from quant_engine.response.agreement import draw_random
from quant_engine.variants.layers import build_forms
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.response_cases import CASES, OPTIONS, case, measure


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_that_a_swapped_model_holds(name):
    model, x = case(name)
    response = measure(model, x)
    prepared = prepare(model)
    meter = ProgressMeter(None, 0)
    calibration = calibrate_prepared(prepared, [x], meter)
    built = build_forms(
        model, prepared, Recipe.default(), OPTIONS, calibration, meter, seen_only=True
    )
    forms = built.quantized
    generator = np.random.default_rng(0)
    for configuration in draw_random(response.layers, response.options, 10, generator):
        swapped = {n: forms[n][o] for n, o in configuration.items() if o != "float"}
        expected = total_bytes(prepared.model, swapped)
        assert response.size(configuration).model_bytes == expected


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("option", OPTIONS)
def test_items_are_those_of_the_report_on_the_quantized_model(name, option):
    model, x = case(name)
    response = measure(model, x)
    recipe = response.recipe(response.uniform(option))
    report = analyze(model, [x], recipe, measure_time=False).size
    assert report is not None
    size = response.size(response.uniform(option))
    for item in ("weight", "scale", "zero_point", "bias", "float_leftover"):
        assert getattr(size, f"{item}_bytes") == getattr(report, f"{item}_bytes"), item
    assert size.effective_bits == pytest.approx(report.effective_bits)
    assert size.model_bytes == report.quantized_bytes


class SharedBias(nn.Module):
    """Two layers with one bias."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.bias = self.first.bias

    def forward(self, x):
        return self.second(self.first(x))


def test_a_bias_that_layers_share_counts_once_under_every_configuration():
    model, x = fill(SharedBias()), seeded((5, 6))
    response = measure(model, x)
    for chosen in (response.layers, response.layers[:1]):
        configuration = dict.fromkeys(chosen, response.options[0])
        report = analyze(model, [x], response.recipe(configuration), measure_time=False).size
        size = response.size(configuration)
        assert size.model_bytes == report.quantized_bytes


def test_the_float_model_has_its_own_width():
    model, x = case("twice")
    size = measure(model.half().float(), x).size({})
    assert size.effective_bits == 32.0
    assert size.model_bytes == sum(p.numel() * 4 for p in set(model.parameters()))
    assert torch.get_default_dtype() == torch.float32


class Positioned(nn.Module):
    """Holds a parameter that is neither weight nor bias, as position embeddings are."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(5, 3))


@pytest.mark.parametrize("layer", [Positioned(), nn.LayerNorm(6), nn.Linear(3, 4)])
def test_what_stays_float_keeps_all_its_bytes(layer):
    size = layer_size(layer, layer)

    assert size.quantized_bytes == size.float_bytes == sum(p.nbytes for p in layer.parameters())
