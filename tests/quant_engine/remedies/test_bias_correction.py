"""Bias correction takes the mean error out of every channel, layer behind layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import (
    QuantizedLayer,
    StorageError,
    analyze,
    load_quantized_model,
    quantize_model,
    save_quantized_model,
)
from quant_engine.report import ModelReport, Treatment
from quant_engine.scheme import BiasCorrection, Recipe, TensorScheme
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.remedies.cases import accuracy_and_divergence
from tests.quant_engine.remedies.test_gptq import KINDS

COARSE = Recipe(TensorScheme(bits=3), TensorScheme(bits=4, symmetric=False))
CORRECTED = replace(COARSE, remedies=(BiasCorrection(),))


def treatments_of(model: nn.Module, data: object, recipe: Recipe) -> dict[str, Treatment]:
    report = analyze(model, data, recipe, measure_time=False)  # type: ignore[arg-type]
    assert ModelReport.from_json(report.to_json()) == report
    return {found.layers[0]: found for found in report.treatments}


def test_the_shift_is_the_mean_error_of_the_channel() -> None:
    layer, x = fill(nn.Sequential(nn.Linear(6, 4, bias=False))), seeded((50, 6)) + 0.5
    plain, corrected = (quantize_model(layer, x, recipe)[0] for recipe in (COARSE, CORRECTED))
    error = (plain(x) - layer(x)).detach().numpy().astype(np.float64).mean(axis=0)

    found = treatments_of(layer, x, CORRECTED)["0"]

    np.testing.assert_allclose(found.shift, error, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(corrected.bias.detach(), -error, rtol=1e-4, atol=1e-6)
    rms = layer(x).square().mean().sqrt().item()
    assert found.error_before == pytest.approx(np.sqrt((error**2).mean()) / rms, rel=1e-4)
    assert found.error_after == pytest.approx(0.0, abs=1e-6)


class Deep(nn.Module):
    """Convolutions of several kinds, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.again = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(4, 6, 2, 2, groups=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.again(F.relu(self.again(F.relu(self.stem(x))))))
        result: Tensor = self.head(F.relu(self.up(x)).mean((2, 3)))
        return result


def mean_errors(model: nn.Module, quantized: nn.Module, x: Tensor) -> dict[str, float]:
    """Largest error of a channel's mean, over the layer's RMS, by hooks of our own."""
    outputs: dict[tuple[int, str], list[Tensor]] = {}
    for number, which in enumerate((model, quantized)):
        for name, module in which.named_children():
            seen = outputs.setdefault((number, name), [])
            module.register_forward_hook(lambda _m, _i, y, seen=seen: seen.append(y.detach()))
        which(x)
    errors = {}
    for name, _ in model.named_children():
        y, z = (torch.cat(outputs[number, name]).double() for number in (0, 1))
        axes = (0,) if y.dim() == 2 else (0, 2, 3)
        errors[name] = ((y - z).mean(axes).abs().max() / y.square().mean().sqrt()).item()
    return errors


def test_every_layer_has_the_float_means_behind_corrected_layers() -> None:
    model, x = fill(Deep()), seeded((12, 1, 8, 8))
    batches = [x[:5], x[5:]]

    before = mean_errors(fill(Deep()), quantize_model(model, batches, COARSE), x)
    after = mean_errors(fill(Deep()), quantize_model(model, batches, CORRECTED), x)

    assert min(before.values()) > 1e-2
    # A layer that is called twice has one bias for both calls, and its first call changes the
    # second one's input: its mean is right only to first order.
    assert after["again"] < before["again"]
    assert max(error for name, error in after.items() if name != "again") < 1e-5


def test_only_layers_that_are_named_are_corrected() -> None:
    model, x = fill(Deep()), seeded((12, 1, 8, 8))
    recipe = replace(COARSE, remedies=(BiasCorrection(layers=("st*",)),))

    assert list(treatments_of(model, [x], recipe)) == ["stem"]
    plain, corrected = quantize_model(model, x, COARSE), quantize_model(model, x, recipe)
    assert torch.equal(plain.head.bias, corrected.head.bias)
    assert not torch.equal(plain.stem.bias, corrected.stem.bias)


class Odd(nn.Module):
    """A table, two layers with one bias, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.a, self.b, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.bias = self.a.bias

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.a(self.table(x)))
        return result


def test_what_cannot_be_corrected_is_named() -> None:
    x = torch.arange(10).view(5, 2)
    recipe = replace(CORRECTED, activation=None)

    found = treatments_of(fill(Odd()), [x], recipe)

    assert {name: t.reason for name, t in found.items() if not t.is_applied} == {
        "table": "it looks rows up and adds no bias",
        "a": "it shares its bias with another layer",
        "b": "it shares its bias with another layer",
        "idle": "nothing came out of it on the calibration data",
    }


@pytest.mark.parametrize("execution", ["simulated", "integer"])
def test_new_biases_are_stored_and_computed_with(tmp_path: Path, execution: str) -> None:
    model, x = fill(Deep()), seeded((6, 1, 8, 8))
    quantized = quantize_model(model, x, CORRECTED, execution=execution)
    assert isinstance(quantized.again, QuantizedLayer)
    assert quantized.again.bias is not None

    save_quantized_model(quantized, tmp_path)
    loaded = load_quantized_model(fill(Deep(), seed=1), tmp_path)
    save_quantized_model(loaded, tmp_path)
    loaded = load_quantized_model(fill(Deep(), seed=2), tmp_path)

    simulated = quantize_model(model, x, CORRECTED)
    assert torch.equal(loaded(x), simulated(x))
    torch.testing.assert_close(quantized(x), simulated(x), rtol=1e-4, atol=1e-4)


def test_a_bias_that_was_added_fits_only_a_layer_without_one(tmp_path: Path) -> None:
    model, x = fill(nn.Sequential(nn.Linear(6, 4, bias=False))), seeded((9, 6))
    save_quantized_model(quantize_model(model, x, CORRECTED), tmp_path)

    with pytest.raises(StorageError, match="adds a bias to '0', which does not fit"):
        load_quantized_model(fill(nn.Sequential(nn.Linear(6, 4))), tmp_path)
    structure = tmp_path / "model.json"
    structure.write_text(
        structure.read_text().replace('"added_biases": [', '"added_biases": ["1",')
    )
    with pytest.raises(StorageError, match="adds a bias to '1'"):
        load_quantized_model(model, tmp_path)


def test_the_unequal_mobilenet_gains_what_the_prototype_gained() -> None:
    recipe = Recipe(TensorScheme(), remedies=(BiasCorrection(),))
    accuracy, _ = accuracy_and_divergence("mobilenet_unequal_channels", recipe)

    assert accuracy == pytest.approx(0.34, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_by_itself_is_corrected_for_its_weights_on_float_inputs(kind: str) -> None:
    module, shape = KINDS[kind]
    module, x = fill(module), seeded(shape) + 0.4
    weights = Recipe(TensorScheme(bits=3))
    remedy = BiasCorrection(is_sequential=False)
    plain, corrected = (
        quantize_model(module, x, recipe) for recipe in (weights, weights.with_remedy(remedy))
    )
    axis = plain.output_axis
    with torch.no_grad():
        y = module(x)
        error, left = ((q(x) - y).double().movedim(axis, 0).flatten(1) for q in (plain, corrected))
        rows = y.double().movedim(axis, 0).flatten(1)
        bias = 0.0 if module.bias is None else module.bias.double()[:, None]
        signal = (rows - bias).square().sum()

    found = treatments_of(module, [x], weights.with_remedy(remedy))[""]

    np.testing.assert_allclose(found.shift, error.mean(dim=1), rtol=1e-3, atol=1e-5)
    assert left.mean(dim=1).abs().max() < 1e-5
    for energy, told in ((error, found.error_before), (left, found.error_after)):
        assert told == pytest.approx((energy.square().sum() / signal).sqrt().item(), rel=1e-3)


def test_layers_by_themselves_do_not_see_each_other() -> None:
    """Neither the layer before nor rounded inputs change what a layer gets."""
    model, x = fill(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))), seeded((30, 5))
    alone = BiasCorrection(("2",), is_sequential=False)
    weights = replace(COARSE, activation=None)

    both = treatments_of(model, x, COARSE.with_remedy(replace(alone, layers=("*",))))["2"]
    one = treatments_of(model, x, weights.with_remedy(alone))["2"]

    assert both.shift == one.shift
    assert treatments_of(model, x, CORRECTED)["2"].shift != one.shift


def test_a_shared_bias_is_left_alone_by_layers_by_themselves() -> None:
    model = fill(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    model[1].bias = model[0].bias
    remedy = BiasCorrection(is_sequential=False)
    found = treatments_of(model, seeded((9, 4)), COARSE.with_remedy(remedy))
    assert {t.reason for t in found.values()} == {"it shares its bias with another layer"}
