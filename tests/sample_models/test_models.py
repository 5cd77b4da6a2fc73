"""Every registered model, from the moment it registers, with nothing to be added here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import fx

from sample_models import get_model_info, list_models, load_model
from sample_models.storage import WEIGHTS_FOLDER, describe, read_record
from sample_models.training import count_correct

MODELS = list_models()

FLOOR = 0.97
"""Below this a model is not worth quantizing: something went wrong in its training."""


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_is_the_stated_one(name: str) -> None:
    info = get_model_info(name)
    inputs, labels = info.load_inputs("test")
    assert len(labels) == info.test_samples
    assert count_correct(info.load(), inputs, labels) / len(labels) == info.accuracy
    assert info.accuracy >= FLOOR


@pytest.mark.parametrize("name", MODELS)
def test_record_states_the_true_size(name: str) -> None:
    record = read_record(name)
    assert describe(load_model(name), record.correct, record.samples) == record


@pytest.mark.parametrize("name", MODELS)
def test_info_is_complete(name: str) -> None:
    info = get_model_info(name)
    assert info.name == name
    for text in (info.title, info.family, info.task, info.description, info.teaches):
        assert text == text.strip()
        assert text
    assert info.description.endswith(".")
    assert info.teaches.endswith(".")
    assert info.float_bytes >= 4 * info.parameters
    assert hash(info) == hash(get_model_info(name))


@pytest.mark.parametrize("name", MODELS)
def test_inputs_and_outputs_have_the_stated_shape(name: str) -> None:
    info = get_model_info(name)
    inputs, labels = info.load_inputs("calibration")
    assert inputs.shape == (200, *info.input_shape)
    assert str(inputs.dtype) == f"torch.{info.input_kind}"
    with torch.no_grad():
        assert info.load()(inputs).shape == (200, info.num_classes)
    assert 0 <= labels.min() <= labels.max() < info.num_classes


@pytest.mark.parametrize("name", MODELS)
def test_loads_in_eval_mode_with_finite_numbers(name: str) -> None:
    model = load_model(name)
    assert not any(module.training for module in model.modules())
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_loading_twice_gives_two_equal_models(name: str) -> None:
    first, second = load_model(name), load_model(name)
    inputs, _ = get_model_info(name).load_inputs("calibration")
    with torch.no_grad():
        assert torch.equal(first(inputs), second(inputs))
        next(first.parameters()).zero_()
        assert not torch.equal(first(inputs), second(inputs))


@pytest.mark.parametrize("name", MODELS)
def test_loading_leaves_the_global_random_state(name: str) -> None:
    before = torch.get_rng_state()
    load_model(name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", MODELS)
def test_samples_do_not_influence_each_other(name: str) -> None:
    info = get_model_info(name)
    inputs, _ = info.load_inputs("calibration")
    model = info.load()
    with torch.no_grad():
        together, alone = model(inputs[:8]), model(inputs[3:4])
    assert torch.allclose(together[3:4], alone, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_can_be_traced(name: str) -> None:
    info = get_model_info(name)
    inputs, _ = info.load_inputs("calibration")
    model = info.load()
    traced = fx.symbolic_trace(model)
    with torch.no_grad():
        assert torch.equal(traced(inputs), model(inputs))


@pytest.mark.parametrize("name", MODELS)
def test_no_module_is_called_twice(name: str) -> None:
    # One name in a report then stands for one place in the network.
    info = get_model_info(name)
    model = info.load()
    calls: list[str] = []
    for module_name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda *_, n=module_name: calls.append(n))
    model(info.load_inputs("calibration")[0][:2])
    assert len(calls) == len(set(calls))


def test_weights_stay_small() -> None:
    total = sum(path.stat().st_size for path in WEIGHTS_FOLDER.iterdir())
    assert total < 12 * 1000**2


def test_no_weights_without_a_model() -> None:
    assert {path.stem for path in WEIGHTS_FOLDER.iterdir()} == set(MODELS)


def test_the_families_of_the_design_exist() -> None:
    expected = {"mlp", "cnn", "resnet", "transformer", "mobilenet", "vit"}
    assert expected <= set(MODELS)


def test_accuracies_are_shares() -> None:
    for name in MODELS:
        record = read_record(name)
        assert math.isclose(record.accuracy, record.correct / 400)
