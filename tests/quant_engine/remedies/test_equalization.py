"""Equalization moves factors as the paper says, and leaves the float function as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import quant_engine.remedies.apply
from quant_engine import analyze, calibrate, quantize_model
from quant_engine.errors import SchemeError
from quant_engine.preparation import prepare_for
from quant_engine.remedies import treat_float_model
from quant_engine.report import ModelReport, Treatment
from quant_engine.scheme import CrossLayerEqualization, LayerScheme, Recipe, TensorScheme
from sample_models import get_model_info
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.remedies.cases import accuracy_and_divergence, chain, chains, images
from tests.quant_engine.unchanged import snapshot

PER_TENSOR = Recipe(TensorScheme())
REMEDY = CrossLayerEqualization()


def equalized(
    model: nn.Module, x: Tensor, remedy: CrossLayerEqualization = REMEDY
) -> tuple[nn.Module, tuple[Treatment, ...]]:
    prepared, data, _ = prepare_for(model, x)
    treated = treat_float_model(prepared, replace(PER_TENSOR, remedies=(remedy,)), data)
    return treated.model, treated.treatments


def applied(treatments: tuple[Treatment, ...]) -> dict[tuple[str, ...], Treatment]:
    return {found.layers: found for found in treatments if found.is_applied}


def reason(model: nn.Module, x: Tensor, name: str, **settings: Any) -> str:
    """Why a layer was not equalized with the one behind it."""
    _, treatments = equalized(model, x, CrossLayerEqualization(**settings))
    (found,) = [t for t in treatments if t.layers[0] == name and not t.is_applied]
    return found.reason


@settings(max_examples=25)
@given(chains)
def test_the_float_output_stays_as_it_is_on_random_chains(
    steps: list[tuple[str, bool, str]],
) -> None:
    model, x = chain(steps), images()
    with torch.no_grad():
        before = model(x)
        treated, treatments = equalized(model, x)
        change = (treated(x) - before).abs().max() / before.abs().max()

    assert change < 1e-5
    assert len(applied(treatments)) == len(steps) + 1


@settings(max_examples=15)
@given(chains)
def test_both_sides_of_a_channel_have_one_range_afterwards(
    steps: list[tuple[str, bool, str]],
) -> None:
    treated, treatments = equalized(chain(steps), images())

    for first, second in applied(treatments):
        makes, reads = (treated.get_submodule(name) for name in (first, second))
        made = ranges_of_outputs(makes)
        read = ranges_of_inputs(reads).reshape(len(made), -1).max(axis=1)
        alive = (made > 0) & (read > 0)
        np.testing.assert_allclose(made[alive], read[alive], rtol=3e-3)


def ranges_of_outputs(layer: nn.Module) -> np.ndarray[Any, Any]:
    """Largest weight of every output channel, by walking the channels one by one."""
    weight = layer.weight.detach().double().numpy()
    if not isinstance(layer, nn.ConvTranspose2d):
        return np.array([np.abs(row).max() for row in weight])
    per_group, inputs = weight.shape[1], len(weight) // layer.groups
    return np.array(
        [
            np.abs(weight[g * inputs : (g + 1) * inputs, o]).max()
            for g in range(layer.groups)
            for o in range(per_group)
        ]
    )


def ranges_of_inputs(layer: nn.Module) -> np.ndarray[Any, Any]:
    """Largest weight that reads every input channel, likewise."""
    weight = layer.weight.detach().double().numpy()
    if isinstance(layer, nn.ConvTranspose2d):
        return np.array([np.abs(row).max() for row in weight])
    groups = getattr(layer, "groups", 1)
    outputs = len(weight) // groups
    return np.array(
        [
            np.abs(weight[g * outputs : (g + 1) * outputs, i]).max()
            for g in range(groups)
            for i in range(weight.shape[1])
        ]
    )


def test_the_factors_of_one_pair_are_those_of_the_paper() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    first, second = (model[i].weight.detach().double().numpy() for i in (0, 2))
    r1, r2 = np.abs(first).max(axis=1), np.abs(second).max(axis=0)
    scales = np.sqrt(r1 * r2) / r2

    treated, treatments = equalized(
        model, seeded((4, 5)), CrossLayerEqualization(absorb_bias=False)
    )

    found = applied(treatments)["0", "2"]
    np.testing.assert_allclose(found.scales, scales, rtol=1e-12)
    weight, bias = model[0].weight.detach().numpy(), model[0].bias.detach().numpy()
    np.testing.assert_allclose(treated[0].weight.detach(), weight / scales[:, None], rtol=1e-6)
    np.testing.assert_allclose(treated[0].bias.detach(), bias / scales, rtol=1e-6)
    np.testing.assert_allclose(treated[2].weight.detach(), second * scales, rtol=1e-6)
    assert torch.equal(treated[2].bias, model[2].bias)
    assert found.shift == ()


def test_dead_channels_keep_their_weights() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    with torch.no_grad():
        model[0].weight[1].zero_()
        model[2].weight[:, 2].zero_()

    treated, treatments = equalized(model, seeded((4, 5)))

    assert [applied(treatments)["0", "2"].scales[i] for i in (1, 2)] == [1.0, 1.0]
    assert all(torch.isfinite(p).all() for p in treated.parameters())


def test_offsets_move_into_the_next_bias_where_nothing_changes_on_the_data() -> None:
    model = fill(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)))
    with torch.no_grad():
        model[0].weight.mul_(0.1)
        model[0].bias.copy_(torch.tensor([9.0, 5.0, 0.0, -9.0, 0.3, 2.0]))
    x = seeded((64, 4))
    before, y = model(x).detach(), model[0](x).detach()

    treated, treatments = equalized(model, x)

    (found,) = applied(treatments).values()
    shift = np.array(found.shift) * np.array(found.scales)  # in the units of the original
    values = y.numpy()
    expected = np.minimum(values.min(0), values.mean(0) - 3 * values.std(0)).clip(min=0)
    np.testing.assert_allclose(shift, expected, rtol=1e-4, atol=1e-6)
    assert (shift > 0).tolist() == [True, True, False, False, False, True]
    assert treated[2].bias is not None
    torch.testing.assert_close(treated(x), before, rtol=1e-5, atol=1e-5)
    assert treated[0](x).max() < y.max()


@pytest.mark.parametrize("padding", [0, 1])
def test_offsets_stay_where_the_next_layer_pads_with_zeros(padding: int) -> None:
    model = fill(nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=padding)))
    with torch.no_grad():
        model[0].bias.fill_(20.0)

    _, treatments = equalized(model, seeded((4, 1, 5, 5)))

    assert any(applied(treatments)["0", "2"].shift) == (padding == 0)


@pytest.mark.parametrize(
    ("between", "word"),
    [
        (nn.ReLU6(), "ReLU6"),
        (nn.Hardtanh(), "Hardtanh"),
        (nn.GELU(), "GELU"),
        (nn.SiLU(), "SiLU"),
        (nn.Hardswish(), "Hardswish"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.LayerNorm(8), "layer_norm"),
    ],
)
def test_what_passes_no_factor_is_named(between: nn.Module, word: str) -> None:
    model = fill(nn.Sequential(nn.Linear(5, 8), between, nn.Linear(8, 3)))

    assert reason(model, seeded((4, 5)), "0") == f"{word} reads it, which passes no factor on"
    assert reason(model, seeded((4, 5)), "2") == "the model returns its output"


class Odd(nn.Module):
    """Two linear layers joined in a way of the test's."""

    def __init__(self, join: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.join(self, x)
        return result


@pytest.mark.parametrize(
    ("join", "words"),
    [
        (lambda m, x: m.b(m.a(x)) + m.a(x), "'a' is called several times"),
        (lambda m, x: m.b(y := m.a(x)) + y, "an addition reads it"),
        (lambda m, x: m.b(torch.cat([m.a(x), x])), "a concatenation reads it"),
        (lambda m, x: m.b(m.a(x)) @ m.a.weight, "the weight of 'a' is computed or shared"),
        (lambda m, x: m.b(m.a(x).transpose(0, 1)), "linear reads it along another axis"),
        (lambda m, x: m.b(y := m.a(x).relu()) + m.b(y), "2 layers read its output"),
    ],
)
def test_branches_and_shared_weights_are_named(join: Any, words: str) -> None:
    assert words in reason(fill(Odd(join)), seeded((6, 6)), "a")


def test_a_pair_is_treated_only_if_both_are_named() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))

    words = reason(model, seeded((4, 5)), "0", layers=("0",))

    assert words == "'2' reads its output and is not to be treated"


def test_a_change_of_the_float_output_takes_the_remedy_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quant_engine.remedies.apply, "LARGEST_CHANGE", -1.0)
    model = fill(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))

    treated, treatments = equalized(model, seeded((4, 5)))

    assert not applied(treatments)
    assert "the float output would change by" in treatments[0].reason
    assert torch.equal(treated[0].weight, model[0].weight)


def test_a_forward_that_cannot_be_captured_is_said() -> None:
    class Deciding(Odd):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.b(self.a(x)) if float(x.sum()) > 0 else self.b(x)
            return result

    _, treatments = equalized(fill(Deciding(None)), seeded((4, 6)))

    assert [found.is_applied for found in treatments] == [False]
    assert "could not be captured" in treatments[0].reason


def test_a_calibration_holds_no_data_for_remedies() -> None:
    model, x = chain([]), images()
    recipe = replace(Recipe.default(), remedies=(REMEDY,))

    with pytest.raises(SchemeError, match=r"is a Calibration, but .*CrossLayerEqualization"):
        quantize_model(model, calibrate(model, x), recipe)
    with pytest.raises(SchemeError, match="is None"):
        quantize_model(model, None, replace(recipe, activation=None))
    unknown = replace(recipe, remedies=(CrossLayerEqualization(layers=("hea",)),))
    with pytest.raises(SchemeError, match="layers of CrossLayerEqualization names 'hea'"):
        quantize_model(model, x, unknown)


def test_quantize_and_analyze_apply_it_and_leave_the_model_alone() -> None:
    model, x = chain([("depthwise", True, "relu"), ("pointwise", True, "relu")]), images(8)
    recipe = replace(PER_TENSOR, weight=TensorScheme(bits=4), remedies=(REMEDY,))
    before = snapshot(model)

    report = analyze(model, iter([x]), recipe, measure_time=False)
    quantized = quantize_model(model, iter([x]), recipe)

    assert snapshot(model) == before
    plain = analyze(model, [x], replace(recipe, remedies=()), measure_time=False)
    assert report.output.error.nmse < plain.output.error.nmse / 2
    assert len(report.treatments) == len(plain.layers)
    assert plain.treatments == ()
    found = applied(report.treatments)["2", "4"]
    assert found.error_after < found.error_before
    nmse = ((quantized(x) - model(x)).square().sum() / model(x).square().sum()).item()
    assert nmse == pytest.approx(report.output.error.nmse, rel=1e-3)
    assert ModelReport.from_json(report.to_json()) == report


def test_a_pair_whose_layers_stay_float_has_no_error_to_tell() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Linear(3, 3)))
    recipe = replace(PER_TENSOR, remedies=(REMEDY,)).with_excluded("0", "2")
    recipe = recipe.with_override("3", LayerScheme(TensorScheme(bits=2)))

    treatments = analyze(model, [seeded((4, 5))], recipe, measure_time=False).treatments

    assert applied(treatments)["0", "2"].error_before is None
    assert applied(treatments)["2", "3"].error_before is not None


def test_the_unequal_mobilenet_is_repaired() -> None:
    name = "mobilenet_unequal_channels"
    before, _ = accuracy_and_divergence(name, PER_TENSOR)
    after, _ = accuracy_and_divergence(name, PER_TENSOR.with_remedy(REMEDY))

    assert before == pytest.approx(0.19, abs=0.02)
    assert after >= get_model_info(name).accuracy - 0.005


class Drawing(nn.Module):
    """Two layers, and a random number that changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.0 * torch.rand(())
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


def test_looking_for_offsets_leaves_random_numbers_alone() -> None:
    prepared, data, _ = prepare_for(fill(Drawing(), 0), seeded((8, 4), 1))
    before = torch.random.get_rng_state()

    treated = treat_float_model(prepared, replace(PER_TENSOR, remedies=(REMEDY,)), data)

    assert treated.treatments[0].is_applied
    assert torch.equal(before, torch.random.get_rng_state())
