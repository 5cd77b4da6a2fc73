"""Hooks of the caller's, against models that do the same without hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import (
    PRESETS,
    LogitResponse,
    Recipe,
    analyze,
    calibrate,
    measure_sensitivity,
    quantize_model,
)
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((16, 8))
LABELS = torch.arange(16) % 4
RECIPES = [PRESETS[name] for name in ("int8_per_channel", "int8_weights_only", "int8_dynamic")]


def same(x: Tensor) -> Tensor:
    return x


def widen(x: Tensor) -> Tensor:
    return 5.0 * x + 1.0


class Steps(nn.Module):
    """Two layers, and what stands before and after the first one."""

    def __init__(self, before=same, after=same) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.after(self.first(self.before(x)))))


def change_input(module, args):
    return (widen(args[0]),)


def change_input_of_keywords(module, args, kwargs):
    return (widen(args[0]),), kwargs


def change_output(module, args, output):
    return widen(output)


def change_output_of_keywords(module, args, kwargs, output):
    return widen(output)


def change_output_in_place(module, args, output):
    output.mul_(5.0).add_(1.0)


def hook_before(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(change_input)


def hook_before_with_keywords(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(change_input_of_keywords, with_kwargs=True)


def hook_after(layer: nn.Module) -> None:
    layer.register_forward_hook(change_output)


def hook_after_with_keywords(layer: nn.Module) -> None:
    layer.register_forward_hook(change_output_of_keywords, with_kwargs=True)


def hook_after_in_place(layer: nn.Module) -> None:
    layer.register_forward_hook(change_output_in_place)


def hook_both(layer: nn.Module) -> None:
    hook_before(layer)
    hook_after(layer)


CASES = {
    "pre": (hook_before, Steps(before=widen)),
    "pre_with_kwargs": (hook_before_with_keywords, Steps(before=widen)),
    "post": (hook_after, Steps(after=widen)),
    "post_with_kwargs": (hook_after_with_keywords, Steps(after=widen)),
    "post_in_place": (hook_after_in_place, Steps(after=widen)),
    "both": (hook_both, Steps(before=widen, after=widen)),
}


@pytest.fixture(params=CASES)
def pair(request) -> tuple[nn.Module, nn.Module]:
    """A model with hooks, and one that does the same without."""
    register, written_out = CASES[request.param]
    hooked = fill(Steps())
    register(hooked.first)
    return hooked, fill(written_out)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_hooked_layer_has_the_figures_of_the_layer_alone(
    pair: tuple[nn.Module, nn.Module], recipe: Recipe
) -> None:
    hooked, written_out = pair

    found, expected = (
        analyze(model, X, recipe, evaluation_data=[(X, LABELS)], measure_time=False)
        for model in (hooked, written_out)
    )

    assert found.layers == expected.layers
    assert found.output == expected.output


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_hook_acts_once_in_predictions_and_runs(
    pair: tuple[nn.Module, nn.Module], recipe: Recipe
) -> None:
    hooked, written_out = pair

    found, expected = (LogitResponse.measure(model, X, recipe) for model in (hooked, written_out))

    for option in found.options:
        chosen = found.uniform(option)
        assert np.array_equal(found.predict(chosen), expected.predict(chosen))
    assert found.report.agreement == expected.report.agreement
    assert measure_sensitivity(hooked, X, recipe) == measure_sensitivity(written_out, X, recipe)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_local_error_is_that_of_forward_on_what_the_layer_reads(recipe: Recipe) -> None:
    hooked = fill(Steps())
    hook_both(hooked.first)
    layer = quantize_model(hooked, X, recipe).first

    report = analyze(hooked, X, recipe, measure_time=False)

    with torch.no_grad():
        y = F.linear(widen(X), hooked.first.weight, hooked.first.bias)
        error = (y - layer.forward(widen(X))).double()
    expected = 10.0 * torch.log10(y.double().square().sum() / error.square().sum())
    (first,) = (entry for entry in report.layers if entry.name == "first")
    assert first.local_error.sqnr_db == pytest.approx(float(expected), rel=1e-6)
    assert first.accumulated_error.sqnr_db == pytest.approx(float(expected), rel=1e-6)


def test_ranges_are_those_of_what_the_layer_reads(pair: tuple[nn.Module, nn.Module]) -> None:
    hooked, written_out = pair
    found, expected = (calibrate(model, X).histograms for model in (hooked, written_out))
    for name in ("first", "last"):
        assert (found[name].lo, found[name].hi) == (expected[name].lo, expected[name].hi)


class Upsampling(nn.Module):
    """A layer that is given its output's size by keyword, by the model or by a hook."""

    def __init__(self, **kwargs) -> None:
        super().__init__()
        self.kwargs = kwargs
        self.layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, **self.kwargs).mean(dim=(2, 3))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_keywords_that_a_hook_adds_reach_the_layer_once(recipe: Recipe) -> None:
    x, size = seeded((4, 2, 5, 5)), {"output_size": (10, 10)}
    hooked = fill(Upsampling())
    hooked.layer.register_forward_pre_hook(lambda m, args, kwargs: (args, size), with_kwargs=True)

    found, expected = (
        analyze(model, x, recipe, measure_time=False)
        for model in (hooked, fill(Upsampling(**size)))
    )

    assert found.layers == expected.layers
    assert found.layers[0].output_shape[2:] == (10, 10)


def test_hooks_run_once_a_pass_and_model() -> None:
    calls = []
    model = fill(Steps())
    model.first.register_forward_hook(lambda *_: calls.append("after"))
    model.first.register_forward_pre_hook(lambda *_: calls.append("before"))

    analyze(model, X, measure_time=False)

    # Five passes on a few samples find out what passes leave behind, which output is judged and
    # what made it; then come calibration, the float model and the quantized one.
    assert calls == ["before", "after"] * (5 + 3)
