"""Registering, finding and refusing models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import sample_models
from sample_models import (
    SampleModelError,
    UnknownNameError,
    WeightsError,
    get_model_info,
    list_models,
    load_model,
    register_model,
    registry,
    storage,
)
from sample_models.data import as_tokens
from sample_models.plan import TrainingPlan


@pytest.fixture
def spare_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give back the registry as it was."""
    list_models()
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def register_perceptron(**changes: object) -> None:
    """Register a model called `perceptron`."""
    settings = {
        "title": "Perceptron",
        "family": "Linear",
        "description": "One layer.",
        "teaches": "Little.",
        "plan": TrainingPlan(epochs=1),
    } | changes

    def perceptron() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    register_model(**settings)(perceptron)  # type: ignore[arg-type]


def test_public_names_are_sorted_and_exist() -> None:
    assert sample_models.__all__ == sorted(sample_models.__all__)
    assert all(hasattr(sample_models, name) for name in sample_models.__all__)


def test_list_models_is_sorted_and_takes_wildcards() -> None:
    assert list_models() == sorted(list_models())
    assert list_models("*resnet*") == ["resnet"]
    assert list_models("MLP") == []
    assert "mlp" in list_models("ml?")


@pytest.mark.parametrize(
    "call", [load_model, get_model_info, lambda name: registry.load_inputs(name, "test")]
)
def test_unknown_model_names_the_likely_one(call: object) -> None:
    with pytest.raises(UnknownNameError, match=r"'resnett': did you mean 'resnet'\?.*'cnn'"):
        call("resnett")  # type: ignore[operator]


def test_an_unknown_name_is_a_value_error_and_ours() -> None:
    assert issubclass(UnknownNameError, ValueError)
    assert issubclass(UnknownNameError, SampleModelError)


def test_unknown_split() -> None:
    with pytest.raises(UnknownNameError, match="unknown split 'validation'"):
        get_model_info("mlp").load_inputs("validation")  # type: ignore[arg-type]


@pytest.mark.usefixtures("spare_registry")
def test_a_decorated_function_is_all_a_model_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_perceptron()
    assert list_models("perc*") == ["perceptron"]
    with pytest.raises(WeightsError, match=r"never trained.*sample_models\.training perceptron"):
        get_model_info("perceptron")
    with pytest.raises(WeightsError, match="never trained"):
        load_model("perceptron")

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    storage.write_weights("perceptron", model, tmp_path)
    storage.write_record("perceptron", storage.describe(model, 300, 400), tmp_path)
    for function in (storage.read_weights, storage.read_record):
        monkeypatch.setattr(
            storage, function.__name__, lambda *a, f=function: f(*a, folder=tmp_path)
        )
    info = get_model_info("perceptron")
    assert (info.accuracy, info.parameters, info.float_bytes) == (0.75, 650, 2600)
    assert info.input_shape == (1, 8, 8)
    assert torch.equal(info.load()[1].weight, model[1].weight)


@pytest.mark.usefixtures("spare_registry")
def test_the_encoder_decides_the_input() -> None:
    register_perceptron(encode=as_tokens)
    inputs, _ = registry.load_inputs("perceptron", "calibration")
    assert inputs.shape == (200, 64)
    assert inputs.dtype == torch.int64


@pytest.mark.usefixtures("spare_registry")
@pytest.mark.parametrize("changes", [{"plan": None}, {"derived_from": "mlp"}], ids=str)
def test_a_model_is_either_trained_or_derived(changes: dict[str, object]) -> None:
    with pytest.raises(SampleModelError, match="give exactly one"):
        register_perceptron(**changes)


@pytest.mark.usefixtures("spare_registry")
def test_a_name_cannot_be_taken_twice() -> None:
    def mlp() -> nn.Module:
        return nn.Linear(1, 1)

    decorate = register_model(
        title="", family="", description="", teaches="", plan=TrainingPlan(epochs=1)
    )
    with pytest.raises(SampleModelError, match=r"'mlp' is already taken.*mlp\.py"):
        decorate(mlp)


@pytest.mark.usefixtures("spare_registry")
def test_importing_a_file_again_is_harmless() -> None:
    register_perceptron()
    register_perceptron(title="Perceptron again")
    assert registry.get_registration("perceptron").title == "Perceptron again"
