import copy

import pytest
import torch
from torch import nn

from quant_engine import PRESETS, LayerScheme, Recipe, TensorScheme, quantize_model
from quant_engine.errors import SchemeError, UnsupportedLayerError
from quant_engine.execution.convert import convert_execution, list_executions
from quant_engine.quantization.storage import load_quantized_model, save_quantized_model
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.unchanged import snapshot


def small_model():
    return fill(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.ReLU())
    )


X = seeded((6, 1, 8, 8))


@pytest.fixture(scope="module")
def quantized():
    return quantize_model(small_model(), X)


@torch.no_grad()
def test_quantize_model_gives_an_integer_model(quantized):
    model = small_model()
    before = snapshot(model)
    integer = quantize_model(model, X, execution="integer")
    assert snapshot(model) == before
    assert {e.execution for e in list_executions(integer)} == {"integer"}
    assert torch.allclose(integer(X), quantized(X), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_conversion_goes_both_ways_and_leaves_its_model_alone(quantized):
    before = snapshot(quantized)
    integer = convert_execution(quantized)
    integer(X)
    assert snapshot(quantized) == before
    assert {e.execution for e in list_executions(quantized)} == {"simulated"}
    assert [e.kernel != "" for e in list_executions(integer)] == [True, True]
    back = convert_execution(integer, "simulated")
    assert torch.equal(back(X), quantized(X))


class TwoConvolutions(nn.Module):
    """Notes whether its images have their channels last; may insist, by `view`, that not."""

    def __init__(self, has_view):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.has_view, self.seen = has_view, []

    def forward(self, x):
        y = self.first(x)
        self.seen.append((is_last(x), is_last(y)))
        y = self.second(torch.relu(y))
        return y.view(len(y), -1) if self.has_view else y.flatten(1)


def is_last(x):
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


@pytest.mark.parametrize("has_view", [False, True])
@torch.no_grad()
def test_images_are_turned_round_once_where_the_model_takes_it(has_view):
    x = seeded((4, 3, 6, 6))
    quantized = quantize_model(fill(TwoConvolutions(has_view)), x)
    before = snapshot(quantized)
    integer, blind = convert_execution(quantized), copy.deepcopy(quantized)
    assert snapshot(quantized) == before
    for model, is_turned in ((integer, not has_view), (copy.deepcopy(integer), not has_view)):
        model.seen = []
        y = model(x)
        assert model.seen == [(False, is_turned)]
    # Without an example nobody knows whether the model takes it.
    vars(blind).pop("lowering_example")
    for example, is_turned in ((None, False), (x, not has_view)):
        model = convert_execution(blind, example=example)
        model.seen = []
        assert torch.equal(model(x), y)
        assert model.seen == [(False, is_turned)]


@torch.no_grad()
def test_the_kernel_is_empty_until_it_ran(quantized):
    integer = convert_execution(quantized, kernel="portable")
    assert {e.kernel for e in list_executions(integer)} <= {"", "portable"}
    integer(X)
    assert {e.kernel for e in list_executions(integer)} == {"portable"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"execution": "fast"}, "execution is 'fast'"),
        ({"kernel": "cuda"}, "kernel is 'cuda'"),
    ],
)
def test_unknown_names_are_refused(quantized, arguments, message):
    with pytest.raises(SchemeError, match=message):
        convert_execution(quantized, **arguments)


def test_a_float_model_is_refused():
    with pytest.raises(UnsupportedLayerError, match="quantize_model"):
        convert_execution(small_model())


def test_an_unknown_execution_of_quantize_model_is_refused():
    with pytest.raises(SchemeError, match="Did you mean 'integer'"):
        quantize_model(small_model(), X, execution="integers")


def test_layers_say_how_they_are_computed():
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4), nn.Linear(4, 4))
    weights_only = LayerScheme(TensorScheme())
    recipe = Recipe(TensorScheme(), TensorScheme(is_dynamic=True), overrides={"2": weights_only})
    integer = quantize_model(fill(model), None, recipe, execution="integer")
    integer(torch.tensor([[1, 2]]))
    found = {e.name: e for e in list_executions(integer)}
    assert [found[n].execution for n in "012"] == ["lookup", "integer", "weights_only"]
    assert "looked up" in found["0"].reason
    assert "stays float" in found["2"].reason


@torch.no_grad()
def test_a_stored_model_runs_on_integers_after_loading(quantized, tmp_path):
    save_quantized_model(convert_execution(quantized), tmp_path)
    loaded = load_quantized_model(small_model(), tmp_path)
    assert torch.equal(loaded(X), quantized(X))
    assert torch.equal(convert_execution(loaded)(X), convert_execution(quantized)(X))


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_every_preset_runs_on_integers(preset):
    quantized = quantize_model(small_model(), X, PRESETS[preset])
    integer, lowered = (convert_execution(quantized, lowered=is_low) for is_low in (False, True))
    assert torch.allclose(integer(X), quantized(X), rtol=1e-4, atol=1e-4)
    assert torch.allclose(lowered(X), quantized(X), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_deep_copy_of_a_lowered_model_still_runs(quantized):
    lowered = convert_execution(quantized, lowered=True)
    assert torch.equal(copy.deepcopy(lowered)(X), lowered(X))


@pytest.mark.parametrize("is_strict", [True, False])
@torch.no_grad()
def test_a_simulated_model_can_be_exported(quantized, is_strict):
    program = torch.export.export(quantized, (X,), strict=is_strict)
    assert torch.equal(program.module()(X), quantized(X))
